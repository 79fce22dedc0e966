"""`bench` and `suspects` by several workers: the same accuracies and logits, and no times."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import daybreak as db
from daybreak import cli, suspects
from daybreak.core.config import override
from daybreak.core.errors import UsageError
from daybreak.recipes import RECIPES, to_toml
from daybreak.runs.directory import RunDirectory
from daybreak.suspects import find_suspects
from daybreak.training.cross_validation import out_of_sample

SHORT = {"model.width": 0.1, "epochs": 1, "min_steps": 0, "precision": "float32"}


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "short.toml"
    path.write_text(to_toml(override(RECIPES["small"], SHORT)))
    return str(path)


def test_seeds_are_shared_out_and_their_times_are_not_kept(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["bench", "digits", "--recipe", recipe, "--runs", "3", "--device", "cpu", "--json"]
    assert cli._run([*words, "--workers", "2"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    (row,) = found["recipes"]
    assert (row["n"], row["seeds"], found["shared_machine"]) == (3, [0, 1, 2], True)
    assert row["train_seconds"] == {"mean": None, "std": None, "ci95": None, "values": []}
    assert (row["time_to_target"], row["latency_ms"]) == (None, None)
    assert said.err.count("small, seed") == 3
    folder = Path(found["record"])
    assert not (folder / "record.json").exists()
    assert json.loads((folder / "accuracies.json").read_text())["recipes"] == found["recipes"]
    for seed in range(3):
        summary = json.loads((folder / "small" / f"seed-{seed}" / "summary.json").read_text())
        assert summary["shared_machine"] is True
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    alone = db.train("digits", recipe=recipe, seed=1, device="cpu", validate=0.0, report=False, out=tmp_path / "alone")
    assert alone.directory.summary["shared_machine"] is False
    assert len(row["test_acc"]["values"]) == 3
    assert row["test_acc"]["values"][1] == pytest.approx(alone.summary.test_acc, abs=0.02)


@pytest.mark.parametrize(
    "options",
    [{"out": "somewhere"}, {"dawn_folder": "entries"}, {"cost_per_hour": 0.1}, {"target": 0.9}],
)
def test_what_needs_times_is_refused(options: dict[str, Any], recipe: str) -> None:
    with pytest.raises(UsageError, match=r"with --workers: workers that share a machine have no times"):
        db.bench("digits", [recipe], workers=2, **options)


def test_no_number_of_workers(recipe: str, digits_run: RunDirectory) -> None:
    with pytest.raises(UsageError, match="--workers 0: not a number of processes"):
        db.bench("digits", [recipe], workers=0)
    with pytest.raises(UsageError, match="--workers 0: not a number of processes"):
        find_suspects(digits_run, 2, workers=0)


def test_folds_are_shared_out(digits_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers say of every image what one process says."""
    run = RunDirectory.open(shutil.copytree(digits_run.path, tmp_path / "run"))
    dataset = db.open_dataset("digits")
    recipe = override(RECIPES["small"], SHORT)
    shared = {"recipe": recipe.model_dump(mode="json"), "folds": 3, "budget": None, "seed": 0}
    together = suspects._by_workers(run, None, shared, 2)
    alone = out_of_sample(dataset, recipe, folds=3, device="cpu")
    assert np.abs(together).sum(1).min() > 0
    np.testing.assert_allclose(together, alone, atol=0.5)
    assert (together.argmax(1) == alone.argmax(1)).mean() > 0.97
    part = out_of_sample(dataset, recipe, folds=3, only=[2], device="cpu")
    asked = np.abs(part).sum(1) > 0
    assert asked.mean() == pytest.approx(1 / 3, abs=0.01)
    np.testing.assert_array_equal(part[asked], alone[asked])
    monkeypatch.setattr(suspects, "_by_workers", lambda *_: together)
    assert find_suspects(run, 3, 0.1, workers=2)["folds"] == 3
