"""HTML from a template: names escaped, and a policy under which only our own style and script work."""

import base64
import hashlib
import io
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from daybreak.core.errors import one_line
from daybreak.report.chart import svg


def render(template: str, script: str | None = "page.js", **values: Any) -> str:
    """The page as text. Style and script are parts of it; the browser runs them by their SHA-256 and nothing else.

    Args:
        script: what the page has besides what every page shares.
    """
    environment = Environment(
        loader=PackageLoader("daybreak", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    # Names from files may hold line breaks and bytes that are no text: `plain` makes one line of them.
    environment.filters |= {"plain": one_line, "svg": svg}
    style = Markup(environment.get_template("page.css").render())
    code = Markup("".join(_source(environment, name) for name in ("common.js", script) if name))
    policy = {"style_hash": _hash(style), "script_hash": _hash(code)}
    return environment.get_template(template).render(**values, style=style, script=code, **policy)


def data_uri(picture: Image.Image) -> str:
    """The picture as PNG in a data URI; lossless."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _source(environment: Environment, name: str) -> str:
    """A file of the templates as it is: a script has braces of its own."""
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
