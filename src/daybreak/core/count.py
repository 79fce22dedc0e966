"""A long count that says now and then how far it is, for whoever follows the log."""

import logging
import time

SECONDS_BETWEEN_LINES = 5.0


class Count:
    """How many are done, of many.

    Args:
        log: where lines go, at most one in five seconds and none for a count that is over before.
        what: what is done to them, as in `decoded 500 of 2,000 images`.
        things: what there are so many of.
    """

    def __init__(self, log: logging.Logger, what: str, total: int, things: str = "images") -> None:
        self._log, self._what, self._total, self._things = log, what, total, things
        self._done, self._told = 0, time.monotonic()

    def add(self, images: int) -> None:
        """So many more are done."""
        self._done += images
        if time.monotonic() - self._told > SECONDS_BETWEEN_LINES and self._done < self._total:
            self._told = time.monotonic()
            self._log.info("%s %s of %s %s", self._what, f"{self._done:,}", f"{self._total:,}", self._things)
