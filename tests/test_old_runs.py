"""Runs that 0.1.0 wrote can still be loaded, evaluated, reported, used and resumed; and so can the runs of our records
be read. `tests/runs_of_0.1.0` holds two small runs on digits: one finished, one stopped by a signal in its second
epoch. Only public functions are called, so that these tests stay as they are while formats change."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import daybreak as db

OLD = Path(__file__).parent / "runs_of_0.1.0"
RECORDS = Path(__file__).parent.parent / "benchmarks" / "records"
EVIDENCE = sorted(path.parent for path in RECORDS.glob("*/*/seed-*/config.json"))


def copy(name: str, folder: Path) -> Path:
    """A copy to change, since a report and a resumed run write into the run directory."""
    return Path(shutil.copytree(OLD / name, folder / name))


def written(path: Path) -> dict[str, Any]:
    """What a JSON file says, read without daybreak."""
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


@pytest.mark.parametrize("name", ["finished", "interrupted"])
def test_it_loads(name: str) -> None:
    run = db.load(OLD / name)
    summary, config = written(OLD / name / "summary.json"), written(OLD / name / "config.json")
    assert vars(run.summary).items() >= summary.items()
    assert run.classes == tuple("0123456789")
    assert [row["epoch"] for row in run.history] == [1, 2][: int(summary["epochs"])]
    epochs = [json.loads(line) for line in (OLD / name / "metrics.jsonl").read_text().splitlines() if "epoch" in line]
    assert run.history == [row for row in epochs if row["event"] == "epoch"]
    check_recipe(run, config["recipe"])
    assert run.summary.recipe in repr(run)


# What 0.1.0 wrote into the section of every net, also of those that have no such option, and what it meant: nothing.
NOT_SET = {"model.channels": [64, 256, 256], "model.residual_from": "pool", "model.dilation": 1}


def check_recipe(run: db.Run, written_recipe: dict[str, Any]) -> None:
    """A later version may add keys; it may leave out what said nothing, and change nothing."""
    now = settings_of(run.directory.recipe.model_dump(mode="json"))
    then = settings_of({key: value for key, value in written_recipe.items() if key != "expected"})
    for key, value in then.items():
        assert now[key] == value if key in now else NOT_SET[key] == value


def settings_of(recipe: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A recipe as flat keys: what a later version may add to, and not change."""
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        flat |= settings_of(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def test_the_finished_one_evaluates_to_what_its_summary_says() -> None:
    run = db.load(OLD / "finished")
    found, summary = run.evaluate(), written(OLD / "finished" / "summary.json")
    assert found.accuracy == summary["test_acc"] == 346 / 359
    with np.load(OLD / "finished" / "predictions.npz") as arrays:
        logits, labels = arrays["logits"], arrays["labels"]
    assert (logits.argmax(1) == labels).mean() == summary["test_acc"]
    assert (run.confusion().sum(), np.diag(run.confusion()).sum()) == (359, 346)
    assert len(run.mistakes()) == 13


def test_its_weights_give_the_predictions_that_were_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluated again, from the weights alone: the net and its preparation of images are still the same. (In float32,
    in which the run was made: where the processor has bfloat16, `auto` would round more coarsely.)"""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    run = db.load(copy("finished", tmp_path))
    with np.load(run.path / "predictions.npz") as arrays:
        stored = arrays["logits"]
    (run.path / "predictions.npz").unlink()
    again = db.load(run.path).evaluate(tta="none")
    np.testing.assert_allclose(again.logits_NK, stored, atol=0.02)
    assert again.accuracy == pytest.approx(346 / 359, abs=1 / 359)


def test_the_finished_one_reports(tmp_path: Path) -> None:
    page = db.load(copy("finished", tmp_path)).report()
    assert page == tmp_path / "finished" / "report.html"
    text = page.read_text(encoding="utf-8")
    assert "96.38" in text
    assert all(name in text for name in ("small", "digits"))


def test_the_finished_one_predicts(tmp_path: Path) -> None:
    """On a test image that was written to a file; its stored logits say which class comes out."""
    with np.load(OLD / "finished" / "predictions.npz") as arrays:
        predicted = arrays["logits"].argmax(1)
    images = db.open_dataset("digits").test.images_NHWC
    files = [tmp_path / f"{i}.png" for i in range(8)]
    for i, file in enumerate(files):
        Image.fromarray(np.asarray(images[i]).squeeze(-1)).save(file)
    rows = db.load(OLD / "finished").predict(*files, top=1)
    assert [row["top"][0]["class"] for row in rows] == [str(predicted[i]) for i in range(8)]


def test_the_finished_one_is_extended(tmp_path: Path) -> None:
    path = copy("finished", tmp_path)
    before = (path / "metrics.jsonl").read_text().splitlines()
    assert db.resume(path, report=False).summary.steps == 44
    run = db.resume(path, epochs=3, report=False)
    assert (run.summary.steps, run.summary.epochs, run.summary.interrupted) == (66, 3.0, None)
    assert [row["step"] for row in run.history] == [22, 44, 66]
    assert (path / "metrics.jsonl").read_text().splitlines()[: len(before)] == before
    assert run.evaluate().accuracy == run.summary.test_acc > 0.9
    assert written(path / "config.json")["data"] == written(OLD / "finished" / "config.json")["data"]


def test_the_interrupted_one_goes_on_to_its_end(tmp_path: Path) -> None:
    path = copy("interrupted", tmp_path)
    assert db.load(path).summary.interrupted == 2
    run = db.resume(path, report=False)
    assert (run.summary.steps, run.summary.epochs, run.summary.interrupted, run.summary.error) == (66, 3.0, None, None)
    assert [row["step"] for row in run.history] == [22, 44, 66]
    assert run.history[0] == db.load(OLD / "interrupted").history[0]  # it went on, and did not begin again
    assert run.evaluate().accuracy == run.summary.test_acc > 0.9
    assert vars(run.summary).keys() >= written(OLD / "finished" / "summary.json").keys()


# -- our records ------------------------------------------------------------------------------------------------------


def test_the_records_have_runs() -> None:
    assert len(EVIDENCE) >= 36


@pytest.mark.parametrize("path", EVIDENCE, ids=lambda path: "/".join(path.parts[-3:]))
def test_a_record_can_be_read(path: Path) -> None:
    run, config, summary = db.load(path), written(path / "config.json"), written(path / "summary.json")
    check_recipe(run, config["recipe"])
    assert vars(run.summary).items() >= summary.items()
    assert run.history[-1]["step"] == summary["steps"]
