"""Callbacks: what happens in a training, in order, and what a callback may change.

    on_start(session)   once, before the first step, also of a resumed run
    before_step(step)   `step.lr`, `step.images_BCHW` and `step.labels_B` may be changed
    after_step(step)    `step.loss` is there, on the device: reading it makes the host wait
    on_epoch(epoch)     `epoch.row` may get more keys, which go to metrics.jsonl; `epoch.stop = True` ends training
    on_end(summary)     once, with summary.json as it was written

A resumed run repeats steps after its newest checkpoint, and its callbacks see them again. A callback that counts or
averages stays exact by `state_dict` and `load_state_dict`: plain JSON values, kept in every checkpoint.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from daybreak.training.session import Session


@dataclass
class Step:
    """A step that is about to be taken, or was.

    Attributes:
        number: from 0, over the whole run.
        progress: in [0, 1], before the step.
        lr: of the first parameter group; the others change in proportion.
        images_BCHW: augmented and normalised, in the format of the convolutions.
        labels_B: int64, or whatever the run's augmentation makes of them.
        loss: mean over the batch in nats, on the device; None before the step, or if it was skipped.
    """

    number: int
    progress: float
    lr: float
    momentum: float
    images_BCHW: Tensor
    labels_B: Tensor
    loss: Tensor | None = None


@dataclass
class Epoch:
    """An epoch that has just been evaluated: its row of metrics.jsonl."""

    row: dict[str, Any]
    stop: bool = False


class Callback:
    """Does nothing; override what you need."""

    def on_start(self, session: Session) -> None: ...

    def before_step(self, step: Step) -> None: ...

    def after_step(self, step: Step) -> None: ...

    def on_epoch(self, epoch: Epoch) -> None: ...

    def on_end(self, summary: Mapping[str, Any]) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...
