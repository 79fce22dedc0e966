"""The scripts that make and read series of measurements: what they print is what they were given."""

import importlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from daybreak.data import Dataset
from daybreak.recipes import get_recipe

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def script(name: str) -> Any:
    """A script's module, found where the script would find its neighbours if it were started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module(name)


anchor_original, anchor_steps, stairs = map(script, ("anchor_original", "anchor_steps", "stairs"))


def test_every_stair_changes_what_it_says_and_nothing_else() -> None:
    """The first two are recipes of their own; the last but for its net, batch, rate and views is sprint."""
    found = stairs.recipes()
    assert len(found) >= 8
    for step, before, after in zip(stairs.STEPS[1:], found, found[1:], strict=False):
        changed = {key for key, value in flat(after).items() if flat(before).get(key) != value}
        changed |= flat(before).keys() - flat(after).keys()
        if step.recipe is None:
            assert {key.split(".")[0] for key in changed} == {key.split(".")[0] for key in step.settings}
    last, sprint = flat(found[-1]), flat(get_recipe("sprint"))
    differ = {key for key in last.keys() | sprint.keys() if last.get(key) != sprint.get(key)}
    rates = {"schedule.max_lr", "schedule.initial_lr"}
    assert differ == rates | {"model.depth", "model.channels", "batch_size", "tta"}


def flat(recipe: Any) -> dict[str, Any]:
    """Settings by dotted key, without what is only said about a recipe."""
    values = recipe.model_dump(mode="json", exclude={"name", "summary", "expected"})
    found = {}
    for key, value in values.items():
        found |= {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, dict) else {key: value}
    return found


def test_the_table_of_the_original_anchor_is_read_without_its_warm_up() -> None:
    text = """
|  run     |  epoch   |  train_acc  |  val_acc  |  tta_val_acc  |  time_seconds  |
|  warmup  |       0  |     0.1000  |   0.1000  |               |        9.0000  |
|          |    eval  |     0.1000  |   0.1000  |       0.1000  |        9.1000  |
|       0  |       0  |     0.5000  |   0.6000  |               |        0.4000  |
|          |       1  |     0.9000  |   0.9300  |               |        0.8000  |
|          |    eval  |     0.9000  |   0.9300  |       0.9400  |        0.9000  |
|       1  |       0  |     0.5000  |   0.6100  |               |        0.4100  |
|          |    eval  |     0.9000  |   0.6100  |       0.6200  |        0.5000  |
"""
    first = {"train_seconds": 0.8, "seconds_with_evaluation": 0.9, "test_acc": 0.93, "test_acc_tta": 0.94}
    second = {"train_seconds": 0.41, "seconds_with_evaluation": 0.5, "test_acc": 0.61, "test_acc_tta": 0.62}
    assert anchor_original.finished(text) == [first, second]


def test_time_to_equal_accuracy_is_read_off_the_line_through_the_recipes(tmp_path: Path) -> None:
    """Half-way in accuracy is half-way in the logarithm of time."""
    rows = [
        {"recipe": name, "n": 3, "test_acc_tta": {"mean": mean}} for name, mean in (("short", 0.92), ("long", 0.94))
    ]
    (tmp_path / "record.json").write_text(json.dumps({"recipes": rows}))
    anchors = [{"test_acc_tta": accuracy} for accuracy in (0.925, 0.935)]
    (tmp_path / "airbench94_muon.jsonl").write_text("".join(json.dumps(row) + "\n" for row in anchors))
    runs = {"airbench94_muon": {"seconds": 400.0}, "short": {"seconds": 50.0}, "long": {"seconds": 200.0}}
    found = anchor_steps.at_equal_accuracy(runs, tmp_path)
    assert found["accuracy"] == pytest.approx(0.93)
    assert found["seconds"] == pytest.approx(math.sqrt(50 * 200))
    assert found["ratio"] == pytest.approx(0.25)
    assert found["anchor_runs"] == 2
    del runs["long"]
    assert anchor_steps.at_equal_accuracy(runs, tmp_path)["ratio"] is None  # nothing of ours is as good


def test_the_shares_of_a_run_are_measured(digits: Dataset) -> None:
    """What `parts.py` puts in the place of the loader's batches is called as those are."""
    found = script("parts").whole_run(digits)
    assert 0 < found["augmentation_share"] < 1
    assert 0 < found["logging_share"] < 1
