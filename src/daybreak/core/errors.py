"""The few errors a user can meet: each carries its exit code, its cause and a remedy.

An error prints as one line, ``error: WHAT: WHY; try: REMEDY``. WHAT names the file or the key. The exit codes
are part of the public contract; a new kind of failure takes the code of the part of the world that failed.
"""

import difflib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any


class DaybreakError(Exception):
    """Base of all errors that a user can mend.

    Args:
        what: the file, key or command that is at fault.
        why: what is wrong with it.
        remedy: what the user can do next.
    """

    exit_code = 1
    code = "error"

    def __init__(self, what: object, why: str, remedy: str) -> None:
        self.what, self.why, self.remedy = one_line(what), one_line(why), one_line(remedy)
        super().__init__(f"{self.what}: {self.why}; try: {self.remedy}")

    def as_json(self) -> dict[str, Any]:
        return {"error": {"code": self.code, "what": self.what, "why": self.why, "try": self.remedy}}


class UsageError(DaybreakError):
    """The call or the configuration is wrong."""

    exit_code, code = 2, "usage"


class DataError(DaybreakError):
    """The data is wrong or cannot be had."""

    exit_code, code = 3, "data"


class BadImagesError(DataError):
    """Some images cannot be used; `names` are all of them."""

    def __init__(self, what: object, why: str, remedy: str, names: Sequence[str]) -> None:
        super().__init__(what, why, remedy)
        self.names = tuple(names)

    def as_json(self) -> dict[str, Any]:
        """With all names, of which the line shows the first."""
        found = super().as_json()
        found["error"]["names"] = [one_line(name) for name in self.names]
        return found


class RunError(DaybreakError):
    """A checkpoint or a run cannot be used."""

    exit_code, code = 4, "run"


class StorageError(DaybreakError):
    """The file system failed."""

    exit_code, code = 5, "storage"


class NonFiniteError(DaybreakError):
    """The loss, a gradient or the net's answers stopped being finite."""

    exit_code, code = 6, "non-finite"


class BadStepError(NonFiniteError):
    """A step's loss or gradient is not finite, found before the step changed the net."""


class BusyError(DaybreakError):
    """Another process writes to the run directory."""

    exit_code, code = 7, "busy"


class StoppedError(Exception):
    """A signal ended a training that is part of a larger work; `remark` says what is left of it."""

    def __init__(self, signal: int, remark: str) -> None:
        super().__init__(f"interrupted; {remark}")
        self.signal = signal


TARGET_MISSED_EXIT_CODE = 8
MOST_NAMES = 20  # in a remedy: more would hide it


def nearest(word: str, known: Iterable[str]) -> str:
    """The known name most like `word`, else all of them, or the first of many: the remedy for a typo."""
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    listed = names if len(names) <= MOST_NAMES else [*names[:MOST_NAMES], "…"]
    return f"{near[0]!r}" if near else f"one of {', '.join(listed)}"


def one_line(text: object) -> str:
    """Text with line breaks and control characters escaped, so that a hostile file name stays one line."""
    printable = str(text)
    with suppress(UnicodeEncodeError):  # a lone surrogate that is no byte: not printable, and escaped below
        printable = printable.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in printable)
