"""Search a run for labels that are probably wrong."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from daybreak.core.clock import Stopwatch, check_budget
from daybreak.core.config import override
from daybreak.core.device import pick_device, synchronizer
from daybreak.core.events import OnEvent
from daybreak.evaluation.evaluate import evaluate
from daybreak.evaluation.label_errors import Suspect, suspects
from daybreak.recipes.finetune import HEAD_ONLY
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
) -> dict[str, Any]:
    """Search a run's test part, and its training part where there are folds; the result stands in `suspects.json`.

    Args:
        folds: nets to train for the training part.
        budget: seconds of training for each; where the run is one on features, their heads take what they take.
        data: where the run's data is now, if it has moved.

    Returns:
        "test" and, where it was searched, "train": lists of suspects as plain values; "folds" and "budget".
    """
    if folds:
        check_budget(budget)
    dataset = run_dataset(run, data)
    evaluation = evaluate(run, moved_to=data)
    found = run.suspects() or {}  # searching the training part takes long: what was found stays
    found |= {"test": _rows(suspects(evaluation.logits_NK, dataset.test, dataset.classes))}
    if folds:
        where = pick_device("auto")
        if run.recipe.is_head_only:
            recipe, seconds = run.recipe, None
        elif run.recipe.features:  # of a net whose upper stages learnt, too: a line on what they began with
            recipe, seconds = override(run.recipe, HEAD_ONLY | {"features": 1}), None
        else:
            recipe, _ = recipe_choice.for_budget(budget, dataset, seed, where, Stopwatch(synchronizer(where)))
            seconds = budget
        logits_NK = out_of_sample(dataset, recipe, folds=folds, budget=seconds, seed=seed, on_event=on_event)
        found |= {"train": _rows(suspects(logits_NK, dataset.train, dataset.classes)), "folds": folds, "budget": budget}
    run.write_suspects(found)
    return found


def _rows(found: list[Suspect]) -> list[dict[str, Any]]:
    return [asdict(suspect) for suspect in found]
