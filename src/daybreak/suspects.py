"""Search a run for labels that are probably wrong."""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from daybreak.core import fanout, metrics
from daybreak.core.clock import Stopwatch, check_budget
from daybreak.core.config import Recipe, override
from daybreak.core.device import pick_device, synchronizer
from daybreak.core.errors import RunError, UsageError
from daybreak.core.events import OnEvent
from daybreak.core.files import whole_file
from daybreak.data.dataset import Split
from daybreak.data.files import plural
from daybreak.evaluation.evaluate import evaluate
from daybreak.evaluation.label_errors import suspects
from daybreak.recipes.finetune import HEAD_ONLY
from daybreak.report.verdict import mistrust
from daybreak.runs.classifier import predict_test
from daybreak.runs.datasets import run_dataset
from daybreak.runs.directory import RunDirectory
from daybreak.training import recipe_choice
from daybreak.training.cross_validation import out_of_sample


def find_suspects(
    run: RunDirectory,
    folds: int | None = None,
    budget: float = 60.0,
    seed: int = 0,
    data: str | Path | None = None,
    on_event: OnEvent = lambda event: None,
    workers: int = 1,
) -> dict[str, Any]:
    """Search the parts that a run's net has not learnt from, test and validation, and its training part where there are
    folds; the result stands in `suspects.json`.

    Args:
        folds: nets to train for the training part.
        budget: seconds of training for each; where the run is one on features, their heads take what they take.
        data: where the run's data is now, if it has moved.
        workers: processes that share the folds, and this machine's cores: a budget then trains less.

    Returns:
        "test", "validation" where the data has that part, and "train" where it was searched: lists of suspects as
        plain values; "test_balanced_acc", "validation_balanced_acc" and "train_balanced_acc", how often the nets that
        were asked were right, as the mean over classes; "folds" and "budget", which is None of heads on features.
    """
    if workers < 1:
        raise UsageError(f"--workers {workers}", "not a number of processes", "--workers 2")
    if folds:
        check_budget(budget)
    dataset = run_dataset(run, data)
    evaluation = evaluate(run, moved_to=data)
    found = run.suspects() or {}  # searching the training part takes long: what was found stays
    found |= _found("test", evaluation.logits_NK, dataset.test, dataset.classes)
    if dataset.validation is not None:
        asked_NK = predict_test(run.classifier(), dataset.validation, run.recipe.tta).logits_tta
        found |= _found("validation", asked_NK, dataset.validation, dataset.classes)
    if folds:
        where = pick_device("auto")
        if run.recipe.is_head_only:
            recipe, seconds = run.recipe, None
        elif run.recipe.features:  # of a net whose upper stages learnt, too: a line on what they began with
            recipe, seconds = override(run.recipe, HEAD_ONLY | {"features": 1}), None
        else:
            recipe, _ = recipe_choice.for_budget(budget, dataset, seed, where, Stopwatch(synchronizer(where)))
            seconds = budget
        if workers == 1:
            logits_NK = out_of_sample(dataset, recipe, folds=folds, budget=seconds, seed=seed, on_event=on_event)
        else:
            shared = {"recipe": recipe.model_dump(mode="json"), "folds": folds, "budget": seconds, "seed": seed}
            logits_NK = _by_workers(run, data, shared, min(workers, folds))
        found |= _found("train", logits_NK, dataset.train, dataset.classes) | {"folds": folds, "budget": seconds}
    run.write_suspects(found)
    return found


def heading(found: Mapping[str, Any], part: str, shown: int) -> list[str]:
    """What stands above the suspects of a part: how many there are, how far to trust that, what was not searched."""
    count, known = len(found[part]), found.get(f"{part}_balanced_acc")
    more = f" ({shown} shown, all in suspects.json)" if count > shown else ""
    lines = [f"{part}: {plural(count, 'label')} {'is' if count == 1 else 'are'} probably wrong{more}"]
    why = mistrust(known) if count and known is not None else None
    lines += [f"note: look before you change a label: {why}"] if why else []
    is_last = part == ("validation" if "validation" in found else "test") and "train" not in found
    return lines + (["note: the training part has not been searched; --folds 4 does that"] if is_last else [])


def _by_workers(run: RunDirectory, data: str | Path | None, shared: Mapping[str, Any], workers: int) -> np.ndarray:
    """Logits (N, K) of all training images, from folds that processes have shared out."""
    with tempfile.TemporaryDirectory() as scratch:
        where = {"run": str(run.path.absolute()), "data": None if data is None else str(Path(data).absolute())}
        if data is not None and not Path(data).exists():  # a name
            where["data"] = str(data)
        files = [Path(scratch) / f"{n}.npy" for n in range(workers)]
        jobs = [
            {**shared, **where, "only": [*range(1 + n, shared["folds"] + 1, workers)], "out": str(file)}
            for n, file in enumerate(files)
        ]
        with fanout.started("daybreak.suspects", jobs) as running:
            fanout.wait(running, lambda: None, "nothing was changed; the same command starts again")
            if not all(file.exists() for file in files):
                raise running.error() or RunError(run.path, "a worker has died", "the same command again")
        parts: list[np.ndarray] = [np.load(file) for file in files]
        return np.sum(parts, axis=0)


def _share(job: Mapping[str, Any]) -> None:
    """What a worker's process does: some of the folds."""
    dataset = run_dataset(RunDirectory.open(job["run"]), job["data"])
    recipe = Recipe.model_validate(job["recipe"])
    logits_NK = out_of_sample(
        dataset, recipe, folds=job["folds"], budget=job["budget"], seed=job["seed"], only=job["only"]
    )
    with whole_file(Path(job["out"])) as temporary, temporary.open("wb") as file:
        np.save(file, logits_NK)


def _found(part: str, logits_NK: np.ndarray, split: Split, classes: tuple[str, ...]) -> dict[str, Any]:
    """The suspects of a part, and how often the nets that were asked about it were right."""
    confusion_KK = metrics.confusion_matrix(logits_NK, np.asarray(split.labels_N))
    rows = [asdict(suspect) for suspect in suspects(logits_NK, split, classes)]
    return {part: rows, f"{part}_balanced_acc": metrics.balanced_accuracy(confusion_KK)}


if __name__ == "__main__":  # as `find_suspects` starts it
    fanout.run_worker(_share)
