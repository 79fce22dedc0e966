"""Labels that are probably wrong: what a net that never saw an image says of it, against what its label says.

Confident learning (Northcutt, Jiang & Chuang 2021) by cleanlab. It needs *out-of-sample* probabilities: a net that was
trained on the very label it is asked about repeats that label. A run has them for its test part. For its training part
`out_of_sample` trains one net a fold, on the other folds.
"""

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold

from daybreak import choice, metrics
from daybreak.clock import Stopwatch, check_budget
from daybreak.config import Device, Recipe
from daybreak.data.dataset import Dataset, Split
from daybreak.device import pick_device, synchronizer
from daybreak.errors import StoppedError, UsageError
from daybreak.evaluate import evaluate, run_dataset
from daybreak.run import RunDirectory
from daybreak.session import OnEvent
from daybreak.training import train

FOLDS = 4


@dataclass(frozen=True)
class Suspect:
    """An image whose label is probably wrong."""

    index: int
    file: str
    given: str
    suggested: str
    quality: float  # the probability of the given label, as a net sees it that did not train on it


def suspects(logits_NK: np.ndarray, split: Split, classes: tuple[str, ...]) -> list[Suspect]:
    """The images of a split whose labels are probably wrong, the most suspicious first.

    Args:
        logits_NK: out of sample.
    """
    from cleanlab.filter import find_label_issues  # loads pandas

    probability_NK, labels_N = metrics.softmax(logits_NK), np.asarray(split.labels_N)
    present = np.unique(labels_N)  # cleanlab knows only classes that occur
    if len(present) < 2:
        return []
    probability_NP = probability_NK[:, present] / probability_NK[:, present].sum(1, keepdims=True)
    found = find_label_issues(
        np.searchsorted(present, labels_N), probability_NP, return_indices_ranked_by="self_confidence", n_jobs=1
    )
    best_N = present[probability_NP.argmax(1)]
    return [
        Suspect(int(i), split.names[i], classes[labels_N[i]], classes[best_N[i]], float(probability_NK[i, labels_N[i]]))
        for i in found
    ]


def out_of_sample(
    dataset: Dataset,
    recipe: Recipe,
    *,
    folds: int = FOLDS,
    budget: float | None = None,
    seed: int = 0,
    device: Device = "auto",
    on_event: OnEvent = lambda event: None,
) -> np.ndarray:
    """Logits (N, K) of all training images, each by a net that was trained on the other folds.

    Args:
        recipe: of every fold's net.
        folds: how many; stratified by class.
        budget: seconds of training a fold, instead of the recipe's epochs.
        on_event: called with the progress of every fold's training.

    Raises:
        UsageError: fewer than two folds, or more than the smallest class has images.
    """
    train_part, labels_N = dataset.train, np.asarray(dataset.train.labels_N)
    counts = np.bincount(labels_N)
    smallest = int(counts[counts > 0].min())
    if not 2 <= folds <= smallest:
        raise UsageError(f"--folds {folds}", f"the smallest class has {smallest} training images", f"2 to {smallest}")
    logits_NK = np.zeros((len(labels_N), len(dataset.classes)), np.float32)
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels_N, labels_N)
    for number, (known, asked) in enumerate(splits, 1):
        on_event({"event": "run", "label": f"fold {number} of {folds}", "seed": seed})
        fold = replace(dataset, train=_part(train_part, known), test=_part(train_part, asked))
        with tempfile.TemporaryDirectory() as folder:
            run = train(recipe, fold, Path(folder) / "run", seed=seed, device=device, budget=budget, on_event=on_event)
            predictions = run.predictions()
            if predictions is None:
                raise StoppedError(run.summary["interrupted"], "nothing was changed; the same command starts again")
        logits_NK[asked] = predictions.logits_tta
    return logits_NK


def _part(split: Split, index: np.ndarray) -> Split:
    return Split(split.images_NHWC[index], split.labels_N[index], tuple(split.names[i] for i in index))


def find_suspects(
    run: RunDirectory,
    folds: int | None = None,
    budget: float = 60.0,
    seed: int = 0,
    data: str | Path | None = None,
    on_event: OnEvent = lambda event: None,
) -> dict[str, Any]:
    """Search a run's test part, and its training part where there are folds; the result stands in `suspects.json`.

    Args:
        folds: nets to train for the training part.
        budget: seconds of training for each.
        data: where the run's data is now, if it has moved.

    Returns:
        "test" and, where it was searched, "train": lists of suspects as plain values; "folds" and "budget".
    """
    if folds:
        check_budget(budget)
    dataset = run_dataset(run, data)
    judged = evaluate(run, moved_to=data)
    found = run.suspects() or {}  # searching the training part takes long: what was found stays
    found |= {"test": _rows(suspects(judged.logits_NK, dataset.test, dataset.classes))}
    if folds:
        where = pick_device("auto")
        recipe, _ = choice.for_budget(budget, dataset, seed, where, Stopwatch(synchronizer(where)))
        logits_NK = out_of_sample(dataset, recipe, folds=folds, budget=budget, seed=seed, on_event=on_event)
        found |= {"train": _rows(suspects(logits_NK, dataset.train, dataset.classes)), "folds": folds, "budget": budget}
    run.write_suspects(found)
    return found


def _rows(found: list[Suspect]) -> list[dict[str, Any]]:
    return [asdict(suspect) for suspect in found]
