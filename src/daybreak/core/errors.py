"""The errors that a user can see. Each has an exit code, a cause and a remedy.

An error prints as one line, ``error: WHAT: WHY; try: REMEDY``. WHAT names the file or the key. The exit codes are part
of the public interface. A new kind of failure uses the code of its cause: usage, data, run or storage.
"""

import difflib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any


class DaybreakError(Exception):
    """Base of all errors that a user can fix.

    Args:
        what: the file, key or command that caused the error.
        why: what is wrong with it.
        remedy: what the user can try.
    """

    exit_code = 1
    code = "error"

    def __init__(self, what: object, why: str, remedy: str) -> None:
        self.what, self.why, self.remedy = one_line(what), one_line(why), one_line(remedy)
        super().__init__(f"{self.what}: {self.why}; try: {self.remedy}")

    def as_json(self) -> dict[str, Any]:
        return {"error": {"code": self.code, "what": self.what, "why": self.why, "try": self.remedy}}


class UsageError(DaybreakError):
    """The command line, the arguments or the configuration are invalid."""

    exit_code, code = 2, "usage"


class DataError(DaybreakError):
    """The data is invalid or cannot be obtained."""

    exit_code, code = 3, "data"


class BadImagesError(DataError):
    """Some images cannot be read; `names` lists all of them."""

    def __init__(self, what: object, why: str, remedy: str, names: Sequence[str]) -> None:
        super().__init__(what, why, remedy)
        self.names = tuple(names)

    def as_json(self) -> dict[str, Any]:
        """With all names; the error line shows only the first ten."""
        found = super().as_json()
        found["error"]["names"] = [one_line(name) for name in self.names]
        return found


class RunError(DaybreakError):
    """A checkpoint or a run cannot be used."""

    exit_code, code = 4, "run"


class StorageError(DaybreakError):
    """A file cannot be written, or the disk is full."""

    exit_code, code = 5, "storage"


class NonFiniteError(DaybreakError):
    """The loss, a gradient or the net's outputs became NaN or infinite."""

    exit_code, code = 6, "non-finite"


class BadStepError(NonFiniteError):
    """The loss or a gradient of a step is not finite; raised before the step changes the weights."""


class BusyError(DaybreakError):
    """Another process writes to the run directory."""

    exit_code, code = 7, "busy"


class LostProcessError(DaybreakError):
    """Another process of a training in several processes has died, or cannot be reached."""

    exit_code, code = 9, "lost-process"


class StoppedError(Exception):
    """A signal ended one training of a series; `remark` says what was saved and how to continue."""

    def __init__(self, signal: int, remark: str) -> None:
        super().__init__(f"interrupted; {remark}")
        self.signal = signal


TARGET_MISSED_EXIT_CODE = 8
MAX_NAMES = 20  # listed in a remedy; more would be unreadable


def nearest(word: str, known: Iterable[str]) -> str:
    """The remedy for a typo: the known name closest to `word`, or else a list of the known names."""
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    listed = names if len(names) <= MAX_NAMES else [*names[:MAX_NAMES], "…"]
    return f"{near[0]!r}" if near else f"one of {', '.join(listed)}"


def one_line(text: object) -> str:
    """Text with line breaks and control characters escaped, so that any file name stays on one line."""
    printable = str(text)
    with suppress(UnicodeEncodeError):  # a lone surrogate that encodes no byte is not printable and escaped below
        printable = printable.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in printable)
