"""HTML from a template: names escaped, and a policy under which only our own style and script work."""

import base64
import hashlib
import io
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from daybreak.core.errors import one_line
from daybreak.report.chart import svg

SHORT = 24  # characters of a name that is shown


def render(template: str, styles: Sequence[str] = (), scripts: Sequence[str] = (), **values: Any) -> str:
    """The page as text. Style and script are parts of it; the browser runs them by their SHA-256 and nothing else.

    Args:
        styles, scripts: files below `templates/style` and `templates/script`, after those that every page has.
    """
    environment = Environment(
        loader=PackageLoader("daybreak", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Names from files may hold line breaks and bytes that are no text: `plain` makes one line of them.
    environment.filters |= {"plain": one_line, "svg": svg, "short": short_name}
    sheets = ("tokens.css", "page.css", *styles)
    style = Markup("".join(environment.get_template(f"style/{name}").render() for name in sheets))
    code = Markup("".join(_source(environment, f"script/{name}") for name in ("common.js", "scroll.js", *scripts)))
    policy = {"style_hash": _hash(style), "script_hash": _hash(code)}
    return environment.get_template(template).render(**values, style=style, script=code, **policy)


def short_name(name: object, longest: int = SHORT) -> str:
    """A name on one line, without its middle where it is too long: what tells names apart is mostly at their ends."""
    text = one_line(name)
    tail = longest * 2 // 5
    return text if len(text) <= longest else f"{text[: longest - tail - 1]}…{text[-tail:]}"


def data_uri(picture: Image.Image) -> str:
    """The picture as PNG in a data URI; lossless."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _source(environment: Environment, name: str) -> str:
    """A file of the templates as it is: a script has braces of its own."""
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
