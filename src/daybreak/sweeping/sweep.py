"""`daybreak sweep`: the best settings of a recipe, by many trainings, evaluated on the validation part."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from daybreak.core import fanout
from daybreak.core.config import Device, Recipe
from daybreak.core.errors import RunError, UsageError
from daybreak.core.events import OnEvent
from daybreak.core.extras import needing
from daybreak.core.fanout import started
from daybreak.core.files import make_folder, storage_errors
from daybreak.sweeping.queue import Queue, is_done
from daybreak.sweeping.results import write_results
from daybreak.sweeping.setting import Asked, settle
from daybreak.sweeping.storage import is_url, storage_calls
from daybreak.sweeping.worker import Teller, open_queue, work

JOURNAL, RESULT = "journal.log", "sweep.json"
MODULE = "daybreak.sweeping"  # what a worker's process runs


def sweep(
    data: str | Path,
    space: str | Path | Mapping[str, Any],
    trials: int | None = None,
    *,
    recipe: str | Path | Recipe | None = None,
    epochs: int | None = None,
    budget: float | None = None,
    settings: Mapping[str, Any] | None = None,
    storage: str | Path | None = None,
    workers: int = 1,
    sampler: str = "tpe",
    prune: bool = True,
    seeds: int = 1,
    seed: int = 0,
    validate: float | None = None,
    split_seed: int = 0,
    size: int | None = None,
    skip_bad: bool = False,
    device: Device = "auto",
    out: str | Path | None = None,
    on_event: OnEvent = lambda event: None,
) -> dict[str, Any]:
    """Search recipe keys for the best accuracy on the validation part; the test part is never looked at.

    The same call goes on with a sweep that was interrupted, and any number of processes with the same call and storage
    share the work. A trial is a training with the settings that Optuna proposes; it counts once, whoever runs it.

    Args:
        space: a TOML file, or the like of it: `{"schedule.max_lr": {"low": 0.01, "high": 0.3, "log": True}}`, or
            `{"batch_size": {"choices": [32, 64]}}`.
        trials: how many results are wanted, pruned and failed ones among them; by default all of a grid.
        recipe: what the space changes; by default what suits the data.
        epochs: of a trial, instead of the recipe's.
        budget: seconds of training a trial, instead of epochs.
        settings: dotted recipe keys to set in all trials.
        storage: where the trials are kept: a file (by default one in `out`), `postgresql://…` or `redis://…`.
        workers: processes on this machine, which share its cores. Their times are marked, and are not to be compared.
        sampler: "tpe" (Bergstra et al. 2011), "cmaes" (Hansen and Ostermeier 2001), "random", or "grid" for all
            combinations in order.
        prune: end trials early that have no prospects, by successive halving (Li et al. 2018).
        seeds: trainings of each trial, whose mean counts, with the seeds from `seed` on. All trials have the same ones,
            so that they differ by their settings alone.
        validate: share of the training images to hold out; by default 0.1 where the data has no validation part.
        out: the folder of the result, by default one below `runs/` named after the sweep.
        on_event: called with the events of every training here, and with
            `{"event": "trial", "trial", "state", "val_acc", "why", "settings", "done", "trials"}` for each result.

    Returns:
        "best" (its settings and accuracy), "trials" (all of them), "recipe" (a file for `daybreak train --recipe`),
        "report" (a page), "study" and more: what `sweep.json` has, with paths.

    Raises:
        UsageError: what is asked for makes no sense, a key of the space is no recipe key, or Optuna is not installed.
        DataError: the data cannot be had, or is too small to hold any of it out.
        StorageError: the storage cannot be reached, or the result cannot be written.
        RunError: no trial came to an accuracy.
    """
    asked = Asked(
        data=str(data), space=dict(space) if isinstance(space, Mapping) else str(space), trials=trials,
        recipe=recipe if isinstance(recipe, Recipe) or recipe is None else str(recipe), epochs=epochs, budget=budget,
        settings=settings, sampler=sampler, prune=prune, seeds=seeds, seed=seed, validate=validate,
        split_seed=split_seed, size=size, skip_bad=skip_bad, device=device,
    )  # fmt: skip
    if workers < 1:
        raise UsageError(f"--workers {workers}", "not a number of processes", "--workers 2")
    with needing("sweep", "daybreak sweep"):
        import cmaes  # noqa: F401 - both are imported where they are used
        import optuna  # noqa: F401
    setting = settle(asked)
    folder = Path(out) if out is not None else Path("runs") / f"sweep-{setting.study}"
    _check_folder(folder)
    where = str(storage) if storage is not None else str((folder / JOURNAL).absolute())
    if not is_url(where):
        where = str(Path(where).absolute())
    queue = open_queue(setting, where)
    if workers == 1:
        work(setting, queue, where, on_event)
    else:
        _work_together(asked, queue, where, workers, on_event)
    with storage_calls(where):
        return write_results(setting, queue, folder, where)


def work_on(job: Mapping[str, Any]) -> None:
    """What a worker's process does: the trials of a sweep, without its result."""
    setting = settle(Asked.of(job["asked"]))
    work(setting, open_queue(setting, job["storage"]), job["storage"])


def _work_together(asked: Asked, queue: Queue, storage: str, workers: int, on_event: OnEvent) -> None:
    """Start workers, and tell of what they come to. Those that are killed are missed, but not waited for."""
    tell = Teller(queue, on_event)
    job = {"asked": asked.as_json(), "storage": storage}
    with storage_calls(storage), started(MODULE, [job] * workers) as running:
        fanout.wait(
            running, lambda: tell(queue.places()), "the trials went back to the queue; the same command goes on"
        )
        tell(queue.places())
        if not is_done(queue.places()):
            raise running.error() or RunError(
                f"study {queue.study.study_name}",
                "all workers have ended before its trials",
                "the same command goes on",
            )


def _check_folder(folder: Path) -> None:
    """
    Raises:
        UsageError: the folder has something else in it.
    """
    with storage_errors(folder):
        make_folder(folder)
        names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if names and not names & {JOURNAL, RESULT}:
        raise UsageError(f"--out {folder}", "has something in it that is no sweep", "another directory")
