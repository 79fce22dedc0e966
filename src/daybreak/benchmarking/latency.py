"""How long a net takes to answer in each of its forms, for one image and for 64, and which form is the run's fastest.

Forms are timed in turns. A form's figure counts for the run only if it answers as the run does, which is looked at over
the whole test part.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import numpy as np

from daybreak.benchmarking.compiling import compiled
from daybreak.benchmarking.forms import (
    COMPILED,
    EAGER,
    FOLDED,
    INT8,
    ONNX,
    Form,
    Maker,
    folded,
    of_torch,
    onnx_makers,
    reason,
)
from daybreak.core.config import Device
from daybreak.core.errors import UsageError
from daybreak.core.metrics import softmax
from daybreak.core.timing import BATCHES, Effort, percentiles_ms, time_in_turns
from daybreak.evaluation.evaluate import stored_predictions
from daybreak.export.parity import Parity, in_blocks
from daybreak.runs.classifier import Classifier
from daybreak.runs.datasets import run_dataset
from daybreak.runs.directory import RunDirectory

Latency = Literal["none", "quick", "all"]
FORMS: dict[str, tuple[str, ...]] = {
    "none": (),
    "quick": (EAGER, FOLDED),
    "all": (EAGER, FOLDED, COMPILED, ONNX, INT8),
}
EFFORT = Effort(timings=50, seconds=2.0, longest=20.0, turn=0.25)  # of each form and number of images
Row = dict[str, Any]


def forms_of(latency: str) -> tuple[str, ...]:
    """
    Raises:
        UsageError: not a choice.
    """
    if latency not in FORMS:
        raise UsageError(f"--latency {latency}", "not a choice", f"one of {', '.join(FORMS)}")
    return FORMS[latency]


def measure(run: RunDirectory, device: Device, names: Sequence[str], effort: Effort = EFFORT) -> dict[str, Any]:
    """What each form of a finished run answers over its test part, and how long it takes.

    Returns:
        "rows": one for each form and number of images a call, with "form", "batch", "p50_ms", "p95_ms", "p99_ms" of a
            call, "images_per_second" over all timings, "n" of these, "device", "dtype" of the convolutions,
            "changed_answers" against the run (but for ties, see `Parity`) and "test_acc".
        "unavailable": the reason for each form that is not there.
        "run": "seed", "test_acc" and "dtype" of the run.
    """
    dataset, predictions, classifier = run_dataset(run), stored_predictions(run, device), run.classifier(device)
    images_NHWC, expected_NK = dataset.test.images_NHWC, softmax(predictions.logits)
    pool_NHWC = np.array(images_NHWC[: max(BATCHES)])
    facts: Row = {}
    with tempfile.TemporaryDirectory(prefix="daybreak-latency-") as folder:
        makers = torch_makers(classifier, pool_NHWC) | onnx_makers(run, dataset, Path(folder))
        forms, unavailable = working({name: makers[name] for name in names}, pool_NHWC)
        for form in forms:
            found_NK = in_blocks(form.answer, images_NHWC, len(pool_NHWC))
            parity = Parity.of(expected_NK, found_NK, predictions.labels)
            facts[form.name] = {"changed_answers": parity.changed_apart, "test_acc": parity.accuracy}
        rows = [row | facts[row["form"]] for row in timings(forms, pool_NHWC, effort)]
    accuracy = float((expected_NK.argmax(1) == predictions.labels).mean())
    told = {"seed": run.config["seed"], "test_acc": accuracy, "dtype": str(classifier.dtype).removeprefix("torch.")}
    return {"rows": rows, "unavailable": unavailable, "run": told}


def torch_makers(classifier: Classifier, pool_NHWC: np.ndarray) -> dict[str, Maker]:
    """Makers of the forms that PyTorch runs; `compiled` is for the numbers of images that `timings` of the pool has."""
    samples = [pool_NHWC[:batch] for batch in batches(pool_NHWC)]
    ways: dict[str, Callable[[], Classifier]] = {
        EAGER: lambda: classifier,
        FOLDED: partial(folded, classifier),
        COMPILED: partial(compiled, classifier, samples),
    }
    return {name: partial(of_torch, name, make) for name, make in ways.items()}


def working(makers: Mapping[str, Maker], pool_NHWC: np.ndarray) -> tuple[list[Form], dict[str, str]]:
    """The forms that can be made and that answer; for each of the others the reason."""
    forms, unavailable = [], {}
    for name, make in makers.items():
        try:
            form = make()
            for batch in batches(pool_NHWC):
                form.answer(pool_NHWC[:batch])
            forms.append(form)
        except Exception as error:  # whatever a compiler or a runtime of another make may raise
            unavailable[name] = reason(error)
    return forms, unavailable


def timings(forms: Sequence[Form], pool_NHWC: np.ndarray, effort: Effort = EFFORT) -> list[Row]:
    """A row for each form and number of images a call, without what it answers; see `measure`.

    Args:
        pool_NHWC: the images that are taken in turn.
    """
    rows = []
    for batch in batches(pool_NHWC):
        calls = {form.name: _caller(form, pool_NHWC, batch) for form in forms}
        for form, seconds in zip(forms, time_in_turns(calls, effort).values(), strict=True):
            speed = {"images_per_second": batch * len(seconds) / sum(seconds), "n": len(seconds)}
            where = {"device": form.device, "dtype": form.dtype}
            rows.append({"form": form.name, "batch": batch} | percentiles_ms(seconds) | speed | where)
    return sorted(rows, key=lambda row: [form.name for form in forms].index(row["form"]))


def fastest(rows: Sequence[Row], run: Mapping[str, Any] | None) -> Row | None:
    """The row with the lowest median for one image, of the forms that answer as the run does; None without any.

    Args:
        run: "test_acc" and "dtype", as `measure` has them; None where nothing was measured.
    """
    good = (row for row in rows if run and row["batch"] == 1 and is_the_runs(row, run))
    return min(good, key=lambda row: row["p50_ms"], default=None)


def is_the_runs(row: Row, run: Mapping[str, Any]) -> bool:
    """Whether a form's figures count for the run. `eager` is the run's own net. Where both compute in float32, no
    answer may have changed. Other formats round so coarsely that answers differ: there the accuracy may not be lower.
    """
    if row["form"] == EAGER:
        return True
    if row["dtype"] == run["dtype"] == "float32":
        return bool(row["changed_answers"] == 0)
    return bool(row["test_acc"] >= run["test_acc"])


def batches(pool_NHWC: np.ndarray) -> list[int]:
    """How many images a call has, at most those that there are."""
    return sorted({min(batch, len(pool_NHWC)) for batch in BATCHES})


def _caller(form: Form, pool_NHWC: np.ndarray, batch: int) -> Callable[[], np.ndarray]:
    """Answers for the next images at each call."""
    parts = cycle([pool_NHWC[at : at + batch] for at in range(0, len(pool_NHWC) - batch + 1, batch)])
    return lambda: form.answer(next(parts))
