"""The result of a sweep: a recipe as TOML, a table, and a page.

    best.toml    the recipe of the best trial, for `daybreak train DATA --recipe best.toml`
    trials.csv   a line for each trial
    sweep.json   all of it
    sweep.html   history, importance, parallel coordinates, slices

Every process of a sweep that ends writes the same, each into a folder of its own or all into one.
"""

import csv
import io
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from daybreak.core.device import versions
from daybreak.core.errors import RunError
from daybreak.core.files import write_json, write_text
from daybreak.recipes import to_toml
from daybreak.sweeping.page import write_page
from daybreak.sweeping.queue import Place, Queue
from daybreak.sweeping.setting import Setting
from daybreak.sweeping.space import with_settings
from daybreak.sweeping.storage import without_password
from daybreak.sweeping.trial import FACTS

STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
Row = dict[str, Any]


def write_results(setting: Setting, queue: Queue, folder: Path, storage: str) -> dict[str, Any]:
    """Write the four files; returns what sweep.json says, with whole paths.

    Raises:
        RunError: no trial came to an accuracy.
        StorageError: they cannot be written.
    """
    rows = [_row(setting, place) for place in queue.places()]
    finished = [row for row in rows if row["state"] == "complete"]
    if not finished:
        why = next((row["why"] for row in rows if row["why"]), "all were pruned")
        raise RunError(f"study {setting.study}", f"no trial came to an accuracy ({why})", "another space")
    best = max(finished, key=lambda row: row["val_acc"])  # of equals the first
    recipe = folder / "best.toml"
    found = _facts(setting, rows, best, recipe, storage)
    write_text(recipe, _best(setting, best, found["command"]))
    write_text(folder / "trials.csv", table(rows, [p.key for p in setting.space.parameters]))
    page = write_page(folder / "sweep.html", queue.study, found)
    write_json(folder / "sweep.json", found)
    return found | {"recipe": str(recipe), "report": str(page), "out": str(folder)}


def table(rows: Sequence[Row], keys: Sequence[str]) -> str:
    """The trials as CSV: number, state, accuracy, the searched keys, and what they took."""
    text = io.StringIO()
    plain = ("trial", "state", "val_acc")
    facts = ("train_seconds", "epochs", "attempts", "shared_machine", "why")
    out = csv.writer(text, lineterminator="\n")
    out.writerow([*plain, *keys, *facts])
    for row in rows:
        out.writerow(
            [*(row[name] for name in plain), *(row["settings"].get(key) for key in keys), *map(row.get, facts)]
        )
    return text.getvalue()


def _row(setting: Setting, place: Place) -> Row:
    """A trial as plain values; of one that was pruned the accuracy is the last that was seen."""
    trial = place.last
    assert trial is not None
    facts: Mapping[str, Any] = trial.user_attrs.get(FACTS, {})
    return {
        "trial": place.number,
        "state": STATES[trial.state.name],
        "val_acc": trial.value,
        "settings": to_jsonable_python(setting.space.settings(trial.params)),
        "values": facts.get("values", []),
        "train_seconds": facts.get("train_seconds"),
        "epochs": facts.get("epochs"),
        "threads": facts.get("threads"),
        "device": facts.get("device"),
        "shared_machine": facts.get("shared_machine", False),
        "attempts": len(place.attempts),
        "why": place.reason,
        "curve": [[step / 1000, value] for step, value in sorted(trial.intermediate_values.items())],
    }


def _facts(setting: Setting, rows: list[Row], best: Row, recipe: Path, storage: str) -> dict[str, Any]:
    asked = setting.asked
    repeat = shlex.join(setting.repeats(recipe, with_settings(setting.base, best["settings"]).balance).command())
    return {
        "study": setting.study,
        "best": {key: best[key] for key in ("trial", "val_acc", "values", "settings", "threads", "device")},
        "counts": {state: sum(row["state"] == state for row in rows) for state in STATES.values()},
        "recipe": recipe.name,
        "command": repeat,
        "base": setting.base.name,
        "dataset": setting.dataset.title,
        "fingerprint": setting.dataset.fingerprint,
        "validation_images": len(setting.dataset.test.labels_N),
        "space": to_jsonable_python(setting.space.tables),
        "sampler": asked.sampler,
        "pruning": asked.prune,
        "seeds": [*setting.seeds],
        "budget": asked.budget,
        "storage": Path(storage).name if "://" not in storage else without_password(storage),
        "shared_machine": any(row["shared_machine"] for row in rows),
        "train_seconds": sum(row["train_seconds"] or 0.0 for row in rows),
        "versions": versions(),
        "trials": rows,
    }


def _best(setting: Setting, best: Row, command: str) -> str:
    recipe = with_settings(setting.base, best["settings"])
    summary = f"{setting.base.name} with what a sweep of {setting.size} trials found on {setting.dataset.title}"
    named = recipe.model_copy(update={"name": f"{setting.base.name}-swept", "summary": summary})
    head = [f"Trial {best['trial']} of {setting.study}: {best['val_acc']:.2%} on the validation part.", command]
    return "".join(f"# {line}\n" for line in head) + to_toml(named)
