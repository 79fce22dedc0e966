"""What SIGINT and SIGTERM do to a process, and how a training is stopped without losing it.

The command line calls `obey_signals`. From then on the first signal is noted and raised as an exception, so that what
is half done is tidied up; a second one ends the process at once, as the system would.

While a module is being imported the first one does so too: an exception there would be swallowed, become an
ImportError, or make the C++ of torch abort (SIGABRT), and an import leaves nothing to tidy up.

Elsewhere an exception can get lost as well, in what C code calls back for one. Therefore the note decides and not the
exception: whatever surfaces after a signal, another error or a result, `daybreak` exits with 128 + signal, and no
training or report begins (`StopRequest`). Until then, what swallowed the signal goes on.

While a training runs, a `StopRequest` takes the signals instead, and the training ends after the step in hand.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


SIGNALS = (signal.SIGINT, signal.SIGTERM)
_noted: list[int] = []


def obey_signals() -> None:
    """From now on SIGINT and SIGTERM are noted, and raise SystemExit(128 + signal)."""
    _noted.clear()
    if threading.current_thread() is threading.main_thread():  # only there can signals be caught
        for number in SIGNALS:
            signal.signal(number, _obey)


def noted_signal() -> int | None:
    """The signal that has come since `obey_signals`, whatever became of the exception; None if none has."""
    return _noted[0] if _noted else None


def _obey(number: int, _frame: FrameType | None) -> None:
    if _noted or _is_importing():
        _end_the_process(number)
    _noted.append(number)
    sys.exit(128 + number)


def _is_importing() -> bool:
    specs = [getattr(module, "__spec__", None) for module in list(sys.modules.values())]
    return any(getattr(spec, "_initializing", False) for spec in specs)  # set by import itself, in all CPythons


def _end_the_process(number: int) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    os._exit(128 + number)  # the first process of a container is not ended by a signal of its own


class StopRequest:
    """While entered, SIGINT and SIGTERM are noted in `signal` and raise nothing; a second one ends the process at once.

    Entering it raises if a signal was noted before. Only the main thread can catch signals; elsewhere this does
    nothing.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._raises = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if (number := noted_signal()) is not None:  # and was swallowed, or nobody would be here
            sys.exit(128 + number)
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def unless_stopped(self, work: Callable[[], T]) -> T | None:
        """What the work returns, or None if a signal came, which ends it at once: for what can be done again.
        (A function and not a block, because a signal may come between any two lines.)"""
        try:
            self._raises = True
            if self.signal is not None:
                return None
            result = work()
            self._raises = False
            return result
        except (_Stop, Exception):
            if self.signal is None:
                raise
            return None  # an import may have turned the signal into an error of its own
        finally:
            self._raises = False

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None:
            _end_the_process(number)
        self.signal = number
        if self._raises:
            raise _Stop


class _Stop(BaseException):
    """Ends the work; never seen outside."""
