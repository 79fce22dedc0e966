"""Reading the text files of a run: whatever is wrong with one becomes a RunError that names it."""

import json
from pathlib import Path
from typing import Any

from daybreak.core.errors import RunError, one_line

COPY = "a whole copy of the run"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        RunError: the file is missing, cannot be read, or has something else in it.
    """
    return parse_object(path, read_text(path))


def read_text(path: Path) -> str:
    """A file of UTF-8; errors as for `read_json`."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RunError(path, "missing", "a run that daybreak train finished") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(path, f"cannot be read ({error})", COPY) from None


def parse_object(path: Path, text: str) -> dict[str, Any]:
    """A JSON object from text that was read from `path`; errors as for `read_json`."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits, or thousands of brackets
        raise RunError(path, f"not JSON ({one_line(str(error))[:120]})", COPY) from None
    if not isinstance(values, dict):
        raise RunError(path, "not a JSON object", COPY)
    return values
