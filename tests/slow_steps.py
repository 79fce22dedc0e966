"""A callback for tests that need a training to last."""

import time

import daybreak as db
from daybreak.training.callbacks import Step


class Slow(db.Callback):
    """Lets every step take a while longer."""

    def after_step(self, step: Step) -> None:  # noqa: ARG002
        time.sleep(0.05)
