"""What training shows while it runs: live on a terminal, plain lines elsewhere, always on stderr."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from daybreak.core.events import Event, OnEvent
from daybreak.runs.curves import curve_part

SECONDS_BETWEEN_LINES = 15.0


class TrainingProgress:
    """Shows training events; use as `on_event` inside a `with` block."""

    def __init__(self, console: Console, quiet: bool) -> None:
        self.console, self.quiet = console, quiet
        self._bar = Progress(
            TextColumn("[bold]{task.fields[epochs]}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[facts]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task("train", epochs="", facts="", total=1.0)
        self._last_line = time.monotonic()
        self._accuracy = ""
        self._epochs: int | None = None

    def __enter__(self) -> OnEvent:
        self._bar.start()
        return self.show

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def show(self, event: Event) -> None:
        """Take one training event."""
        if event["event"] == "start":
            self._start(event)
        elif event["event"] in ("choice", "note"):
            self._line(event["why"])
        elif event["event"] == "compile" and "why" in event:
            self._line(f"note: {event['why']}")
        elif event["event"] == "run":
            self._line(f"{event['label']}, seed {event['seed']}")
        elif event["event"] == "trial":
            self._trial(event)
        elif event["event"] == "latency":
            self._line(f"{event['label']}: how long it takes to answer ({', '.join(event['forms'])})")
        elif event["event"] == "step":
            self._step(event)
        elif event["event"] == "epoch":
            self._epoch(event)

    def _start(self, event: Event) -> None:
        self._epochs, self._accuracy = event["epochs"], ""
        for note in event["notes"]:
            self._line(f"note: {note}")
        self._bar.reset(self._task, epochs=self._epoch_name(1), facts="")

    def _epoch_name(self, epoch: int) -> str:
        return f"epoch {epoch}" if self._epochs is None else f"epoch {min(epoch, self._epochs)} of {self._epochs}"

    def _step(self, event: Event) -> None:
        facts = _facts(event) + self._accuracy
        self._bar.update(self._task, completed=event["work"], facts=facts)
        if not self.console.is_terminal and time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            left = event["stepping_seconds"] * (1 / event["work"] - 1)
            self._line(f"{event['progress']:4.0%}  {facts}  {left:.0f} s left")

    def _epoch(self, event: Event) -> None:
        part = curve_part([event])
        self._accuracy = f"  {part} {event[f'{part}_acc']:.2%}"
        self._bar.update(self._task, epochs=self._epoch_name(int(event["epoch"]) + 1))
        self._line(
            f"epoch {event['epoch']:>3}  train {event['train_acc']:6.2%} loss {event['train_loss']:.3f}"
            f"  {part} {event[f'{part}_acc']:6.2%} loss {event[f'{part}_loss']:.3f}"
            f"  {event['size']} px  lr {event['lr']:.4g}  {event['train_seconds']:.1f} s"
        )

    def _trial(self, event: Event) -> None:
        accuracy = event["why"] if event["val_acc"] is None else f"val {event['val_acc']:.2%}"
        settings = "  ".join(
            f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in event["settings"].items()
        )
        self._line(
            f"trial {event['trial']} {event['state']}: {accuracy}  {settings}  ({event['done']} of {event['trials']})"
        )

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        if not self.quiet:
            self._bar.console.print(text, highlight=False, markup=False)


def _facts(event: Event) -> str:
    loss = "skipped" if event["batch_loss"] is None else f"{event['batch_loss']:.3f}"
    return f"loss {loss}  lr {event['lr']:.4g}  {event['images_per_second']:.0f} images/s"
