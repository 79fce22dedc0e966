"""The rows of training steps: collected while the device works, read and written now and then.

Reading a loss makes the host wait for the device, so it is done about once a second and never once a step.
"""

import time
from collections.abc import Mapping
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from daybreak.core.errors import NonFiniteError
from daybreak.core.events import OnEvent
from daybreak.runs.directory import RunDirectory
from daybreak.training.session import Session

ROWS = 200  # how many steps of a run leave a row behind
SECONDS_BETWEEN_READINGS = 1.0


class StepLog:
    """Takes every step of a run; writes rows to metrics.jsonl and sends the latest position to a display."""

    def __init__(self, session: Session, run: RunDirectory, on_event: OnEvent) -> None:
        self.session, self.run, self.on_event = session, run, on_event
        self.last: dict[str, Any] = {}  # the row that was read last
        self._rows: list[tuple[dict[str, Any], Tensor | None, bool]] = []
        self._read = time.perf_counter()

    def add(self, position: Mapping[str, Any], loss: Tensor | None, before: float, is_last: bool) -> None:
        """Note a step.

        Args:
            position: where the schedule stood.
            loss: of the step's batch, still on the device; None if the step was skipped, which leaves a row behind.
            before: the progress before the step.
            is_last: of its epoch: it leaves a row behind, and everything is read.
        """
        is_row = is_last or loss is None or int(before * ROWS) != int(position["progress"] * ROWS)
        is_due = is_last or time.perf_counter() - self._read > SECONDS_BETWEEN_READINGS
        if is_row or is_due:
            self._rows.append((dict(position), loss, is_row))
        if is_due:
            self.flush()

    def flush(self) -> None:
        """Read the losses that wait, in one go; write their rows; show the last.

        Raises:
            NonFiniteError: a loss stopped being finite.
        """
        if not self._rows:
            return
        waiting = [loss for _, loss, _ in self._rows if loss is not None]
        losses = iter(torch.stack(waiting).tolist() if waiting else [])
        rows = [
            (row | {"batch_loss": None if loss is None else next(losses)}, is_row) for row, loss, is_row in self._rows
        ]
        self._rows, self._read = [], time.perf_counter()
        for row, is_row in rows:
            if row["batch_loss"] is not None and not isfinite(row["batch_loss"]):
                why = f"the loss is {row['batch_loss']} at learning rate {row['lr']:g}"
                raise NonFiniteError(f"step {row['step']}", why, "a lower schedule.max_lr")
            if is_row:
                self.run.append_metrics({"event": "step"} | row)
        self.last = rows[-1][0]
        self.on_event({"event": "step"} | self.last | self._pace())

    def _pace(self) -> dict[str, float]:
        """For a progress display: how fast, and the share of the run's work that is done."""
        return {
            "images_per_second": images_per_second(self.session),
            "work": self.session.horizon.work(self.session.step),
            "stepping_seconds": self.session.stepping_seconds,
        }


def images_per_second(session: Session) -> float:
    return session.step * session.loader.batch_size / max(session.stepping_seconds, 1e-9)
