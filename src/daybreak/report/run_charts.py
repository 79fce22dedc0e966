"""The line charts of a run, each defined once as values. `chart.svg` draws them in a page, `figures.draw` in a file."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from daybreak.core.metrics import Answered, ReliabilityBin, is_even
from daybreak.report.chart import Chart, Line
from daybreak.runs.curves import PART_NAMES, curve_part

Row = Mapping[str, Any]  # of metrics.jsonl

TEST_CURVES = "no validation part: the curves show the test part"


def accuracy_and_loss(epochs: Sequence[Row]) -> list[Chart]:
    """Accuracy and loss at the end of every epoch, for the training part and the validation (or test) part; where it
    is another, also the latter's mean accuracy over classes."""
    part = curve_part(epochs)
    names = {"train": "train", part: PART_NAMES[part]}

    def over_epochs(title: str, key: str, unit: str, factor: float) -> Chart:
        lines = [
            Line(name, prefix, [(row["epoch"], factor * row[f"{prefix}_{key}"]) for row in epochs])
            for prefix, name in names.items()
        ]
        return Chart(title, "epoch", unit, lines)

    accuracy = over_epochs("accuracy", "acc", "accuracy, %", 100)
    balanced = [(row["epoch"], row[f"{part}_acc"], row.get(f"{part}_balanced_acc")) for row in epochs]
    if any(of_classes is not None and not is_even(overall, of_classes) for _, overall, of_classes in balanced):
        points = [(epoch, 100 * of_classes) for epoch, _, of_classes in balanced if of_classes is not None]
        accuracy = replace(accuracy, lines=[*accuracy.lines, Line(f"{names[part]}, over classes", "balanced", points)])
    return [accuracy, over_epochs("loss", "loss", "loss, nats", 1)]


def schedule(steps: Sequence[Row], steps_per_epoch: float) -> list[Chart]:
    """Learning rate and momentum at every recorded step, and the image size if it changed."""

    def over_steps(title: str, key: str) -> Chart:
        points = [(row["step"] / steps_per_epoch, row[key]) for row in steps]
        return Chart(title, "epoch", title, [Line(title, "rate", points)], from_zero=True, markers=False)

    charts = [over_steps("learning rate", "lr"), over_steps("momentum", "momentum")]
    if len({row["size"] for row in steps}) > 1:
        charts.append(over_steps("image size, px", "size"))
    return charts


def compared(labels: Sequence[str], histories: Sequence[Sequence[Row]]) -> list[Chart]:
    """Validation (or test) accuracy and loss of several runs over seconds of training, which runs of different lengths
    can be compared by; none where no run has epochs. Where only some runs have a validation part, each line says which
    part it shows."""
    runs = [(n, label, rows, curve_part(rows)) for n, (label, rows) in enumerate(zip(labels, histories, strict=True))]
    runs = [run for run in runs if run[2]]
    names = {PART_NAMES[part] for *_, part in runs}
    if not runs:
        return []

    def over_seconds(quantity: str, key: str, unit: str, factor: float) -> Chart:
        title = f"{' or '.join(sorted(names))} {quantity}"
        lines = [
            Line(
                label if len(names) == 1 else f"{label} ({PART_NAMES[part]})",
                f"r{n % 10}",
                [(row["train_seconds"], factor * row[f"{part}_{key}"]) for row in rows],
            )
            for n, label, rows, part in runs
        ]
        return Chart(title, "seconds of training", f"{title}, {unit}", lines)

    return [over_seconds("accuracy", "acc", "%", 100), over_seconds("loss", "loss", "nats", 1)]


def coverage(found: Sequence[Answered]) -> Chart:
    """Accuracy over the share of images that get an answer, the surest first."""
    points = [(100 * row.coverage, 100 * row.accuracy) for row in found]
    line = Line("accuracy of the answers", "test", points)
    return Chart("leaving doubtful images unanswered", "answered, %", "accuracy, %", [line], markers=False)


def calibration(bins: Sequence[ReliabilityBin]) -> Chart:
    """Accuracy over mean confidence, a point per bin, beside the diagonal of perfect calibration."""
    low = 100 * min(b.confidence for b in bins)
    return Chart(
        "accuracy",
        "confidence, %",
        "accuracy, %",
        [
            Line("perfect calibration", "ideal", [(low, low), (100, 100)]),
            Line("measured", "test", [(100 * b.confidence, 100 * b.accuracy) for b in bins]),
        ],
    )
