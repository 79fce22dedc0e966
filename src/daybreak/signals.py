"""Asking a training run to stop without losing it."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")


class StopRequest:
    """While entered, SIGINT and SIGTERM are noted instead of obeyed; a second one ends the process at once.

    Only the main thread can catch signals; elsewhere this does nothing.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal: int | None = None
        self._leaves = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in self.SIGNALS}
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
        except _Leave:
            return None
        finally:
            self._leaves = False

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal = number
        if self._leaves:
            raise _Leave


class _Leave(BaseException):
    """Ends the work; never seen outside."""
