"""Packages that only some commands need, and how to install them where daybreak was installed from."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import Distribution, PackageNotFoundError
from typing import Any
from urllib.parse import unquote, urlsplit

from daybreak.core.errors import UsageError


@contextmanager
def needing(extra: str, what: object) -> Iterator[None]:
    """Import packages of an extra in here.

    Args:
        what: the command or file that needs them.

    Raises:
        UsageError: one is not installed; the remedy installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(what, f"{error.name} is not installed", install_command(extra)) from None


def install_command(extra: str) -> str:
    """What installs an extra: from the index, the folder or the repository that daybreak came from (PEP 610)."""
    origin = _origin()
    url, name = origin.get("url", ""), f"daybreak[{extra}]"
    if url.startswith("file:") and "dir_info" in origin:
        editable = "-e " if origin["dir_info"].get("editable") else ""
        return f"pip install {editable}'{unquote(urlsplit(url).path)}[{extra}]'"
    if "vcs_info" in origin:
        return f"pip install '{name} @ {origin['vcs_info']['vcs']}+{url}'"
    return f"pip install '{name} @ {url}'" if url else f"pip install '{name}'"


def _origin() -> dict[str, Any]:
    try:
        text = Distribution.from_name("daybreak").read_text("direct_url.json")
    except PackageNotFoundError:
        return {}
    return json.loads(text) if text else {}
