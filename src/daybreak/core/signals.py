"""Asking a training run to stop without losing it."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


SIGNALS = (signal.SIGINT, signal.SIGTERM)
_obeyed: list[int] = []


def obey_signals() -> None:
    """From now on SIGINT and SIGTERM end the process as an error would: what is half done is tidied up."""
    _obeyed.clear()
    if threading.current_thread() is threading.main_thread():  # only there can signals be caught
        for number in SIGNALS:
            signal.signal(number, _obey)


def _obey(number: int, frame: FrameType | None) -> None:
    # An import would swallow an exception, or turn it into an ImportError.
    if _imports(frame):
        _end_the_process(number)
    _obeyed.append(number)
    _leave_the_process(number)


def _leave_the_process(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _imports(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _end_the_process(number: int) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    os._exit(128 + number)  # the first process of a container is not ended by a signal of its own


class StopRequest:
    """While entered, SIGINT and SIGTERM are noted instead of obeyed; a second one ends the process at once.

    Only the main thread can catch signals; elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._leaves = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in _obeyed:  # what C calls back can swallow an exception too
            _leave_the_process(number)
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def unless_stopped(self, work: Callable[[], T]) -> T | None:
        """What the work returns, or None where a signal came, which ends it there and then: for what can be done
        again. (One function and not a block: a signal may come between any two lines.)"""
        try:
            self._leaves = True
            if self.signal is not None:
                return None
            result = work()
            self._leaves = False
            return result
        except (_Leave, Exception):
            if self.signal is None:
                raise
            return None  # an import may have made an error of its own of the signal
        finally:
            self._leaves = False

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None:
            _end_the_process(number)
        self.signal = number
        if self._leaves:
            raise _Leave


class _Leave(BaseException):
    """Ends the work; never seen outside."""
