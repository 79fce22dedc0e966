"""What training shows while it runs: live on a terminal, plain lines elsewhere, always on stderr.

The bar has one line: what is going on, how much of it is done, the time left, and then as many figures as there is room
for. What matters most stands first, so that a narrow terminal cuts nothing off.
"""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from daybreak.core.clock import in_words
from daybreak.core.events import Event, OnEvent
from daybreak.runs.curves import curve_part

SECONDS_BETWEEN_LINES = 15.0
BAR, SHORT_BAR, NARROW = 12, 4, 60  # columns: of the bar, of the bar on a narrow terminal, and what is narrow
OTHERS = len(" 100 %") + len(" 1:00:00 left") + 3  # columns of all but the label, the bar and the figures


class TrainingProgress:
    """Shows training events; use as `on_event` inside a `with` block."""

    def __init__(self, console: Console, quiet: bool) -> None:
        self.console, self.quiet = console, quiet
        self._columns = BAR if console.width >= NARROW else SHORT_BAR
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(self._columns),
            _Percentage("{task.percentage:>3.0f} %"),
            _TimeLeft(compact=True),
            TextColumn("{task.fields[facts]}", markup=False),
            console=console,
            disable=quiet or not console.is_terminal,
        )
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
        kind = event["event"]
        if kind == "start":
            self._start(event)
        elif kind == "phase":
            self._begin(event["what"])
        elif kind in ("choice", "note"):
            self._line(event["why"])
        elif kind == "compile" and "why" in event:
            self._line(f"note: {event['why']}")
        elif kind == "run":
            self._line(f"{event['label']}, seed {event['seed']}")
        elif kind == "trial":
            self._trial(event)
        elif kind == "latency":
            self._line(f"{event['label']}: how long it takes to answer ({', '.join(event['forms'])})")
        elif kind == "range":
            self._range(event)
        elif kind == "step":
            self._step(event)
        elif kind == "epoch":
            self._epoch(event)

    def _begin(self, label: str, total: float | None = None) -> None:
        """A bar for other work; without a total it only moves."""
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
        self._bar.add_task(label, total=total, facts="")

    def _start(self, event: Event) -> None:
        self._epochs, self._accuracy = event["epochs"], ""
        for note in event["notes"]:
            self._line(f"note: {note}")
        self._begin(self._epoch_name(1), total=1.0)

    def _epoch_name(self, epoch: int) -> str:
        return f"epoch {epoch}" if self._epochs is None else f"epoch {min(epoch, self._epochs)} of {self._epochs}"

    def _move(self, done: float, label: str | None, facts: Sequence[str] = ()) -> None:
        for task in self._bar.tasks:
            label = label or task.description
            room = self.console.width - OTHERS - self._columns - len(label)
            self._bar.update(task.id, completed=done, description=label, facts=fitting(facts, room))

    def _step(self, event: Event) -> None:
        loss, lr, speed = _facts(event)
        facts = [loss, self._accuracy, speed, lr]
        self._move(event["work"], None, facts)
        if not self.console.is_terminal and time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            left = event["stepping_seconds"] * (1 / event["work"] - 1)
            self._line(f"{event['progress']:4.0%}  {fitting(facts)}  {in_words(left)} left")

    def _epoch(self, event: Event) -> None:
        part = curve_part([event])
        self._accuracy = f"{part} {event[f'{part}_acc']:.2%}"
        for task in self._bar.task_ids:
            self._bar.update(task, description=self._epoch_name(int(event["epoch"]) + 1))
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

    def _range(self, event: Event) -> None:
        """A step of a learning-rate range test; the first says how long all will take."""
        if "seconds" in event:
            tests = f"{event['tests']} tests" if event["tests"] > 1 else "one test"
            self._line(f"{tests} of up to {event['steps']} steps: about {in_words(event['seconds'])}")
        if not self._bar.tasks:
            self._begin("range test", total=1.0)
        self._move(event["work"], f"range test {event['test']} of {event['tests']}")

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        if not self.quiet:
            self._bar.console.print(text, highlight=False, markup=False)


class _Percentage(TextColumn):
    """Nothing while nobody knows how much there is to do."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.total else Text("")


class _TimeLeft(TimeRemainingColumn):
    def render(self, task: Task) -> Text:
        left = super().render(task)
        return left.append(" left") if task.total and task.time_remaining is not None else Text("")


def fitting(facts: Sequence[str], room: int = 1000) -> str:
    """As many of the facts, from the first on, as there is room for, in columns."""
    text = ""
    for fact in filter(None, facts):
        longer = f"{text}  {fact}" if text else fact
        if len(longer) > room:
            break
        text = longer
    return text


def _facts(event: Event) -> tuple[str, str, str]:
    """Loss, rate and speed."""
    loss = "skipped" if event["batch_loss"] is None else f"{event['batch_loss']:.3f}"
    return f"loss {loss}", f"lr {event['lr']:.4g}", f"{event['images_per_second']:.0f} images/s"
