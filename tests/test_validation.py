"""The validation part draws the curves and picks the checkpoint; the test part is evaluated once and picks nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from resuming import final_state
from resuming import recipe as resuming_recipe
from scipy.stats import norm

import daybreak as db
from daybreak.core import metrics
from daybreak.core.config import Recipe, override
from daybreak.core.errors import UsageError
from daybreak.core.options import TrainOptions
from daybreak.data import Dataset, open_dataset
from daybreak.recipes import RECIPES
from daybreak.runs.classifier import Classifier
from daybreak.runs.directory import RunDirectory
from daybreak.training import loop
from daybreak.training.callbacks import Callback, Step
from daybreak.training.expectation import about_target
from daybreak.training.extensions import Extensions
from daybreak.training.session import Session
from daybreak.training.train import resume, train


def tiny(epochs: int = 3) -> Recipe:
    settings = {"model.width": 0.1, "epochs": epochs, "min_steps": 0, "precision": "float32", "batch_size": 100}
    return override(RECIPES["small"], settings)


@pytest.fixture(scope="module")
def held_out() -> Dataset:
    return open_dataset("digits", validate=0.25)


def test_curves_show_the_validation_part(held_out: Dataset, tmp_path: Path) -> None:
    run = train(tiny(), held_out, tmp_path / "run", TrainOptions(device="cpu"))
    part = held_out.validation
    assert part is not None
    for row in run.metrics("epoch"):
        assert {"val_loss", "val_acc"} <= row.keys()
        assert not {"test_loss", "test_acc"} & row.keys()
    logits = run.classifier("cpu").logits(part.images_NHWC)
    assert run.summary["val_acc"] == (logits.argmax(1) == part.labels_N).mean() == run.metrics("epoch")[-1]["val_acc"]
    assert (run.summary["curves_show"], run.summary["weights_of_step"]) == ("validation", run.summary["steps"])
    assert run.summary["test_acc"] is not None
    assert (run.path / "metrics.csv").read_text().startswith("epoch,step,progress,lr,momentum,size,train_seconds,")


def test_without_one_they_show_the_test_part_and_say_so(digits: Dataset, tmp_path: Path) -> None:
    run = train(tiny(1), digits, tmp_path / "run", TrainOptions(device="cpu"))
    assert "test_acc" in run.metrics("epoch")[0]
    assert (run.summary["curves_show"], run.summary["val_acc"]) == ("test", None)


def test_the_test_part_is_seen_once(held_out: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, seen = Classifier.plain_and_averaged, []

    def noted(self: Classifier, images_NHWC: np.ndarray, *views: Any) -> tuple[np.ndarray, np.ndarray]:
        seen.append(images_NHWC is held_out.test.images_NHWC)
        return original(self, images_NHWC, *views)

    monkeypatch.setattr(Classifier, "plain_and_averaged", noted)
    train(tiny(), held_out, tmp_path / "run", TrainOptions(device="cpu", keep="best"))
    assert sum(seen) == 1
    assert len(seen) == 3 * 2 + 1 + 1  # epochs: a sample of the training part and the validation part; the end


class Ruin(Callback):
    """Ruins the net from a step on, as a rate that is too high would: the best epoch is then not the last."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_start(self, session: Session) -> None:
        self.session = session

    def after_step(self, step: Step) -> None:
        if step.number >= self.after:
            with torch.no_grad():
                self.session.net.head.linear.weight.mul_(-1)  # type: ignore[union-attr, operator]


def test_the_best_epoch_is_what_the_run_ends_with(held_out: Dataset, tmp_path: Path) -> None:
    steps = 10  # of an epoch
    ruined = Extensions(callbacks=(Ruin(2 * steps),))
    last = train(tiny(4), held_out, tmp_path / "last", TrainOptions(device="cpu"), extensions=ruined)
    best = train(tiny(4), held_out, tmp_path / "best", TrainOptions(device="cpu", keep="best"), extensions=ruined)
    curve = {row["step"]: row["val_acc"] for row in best.metrics("epoch")}
    assert best.summary["steps"] == last.summary["steps"] == 4 * steps == max(curve)
    chosen = best.summary["weights_of_step"]
    assert chosen == max(curve, key=lambda step: curve[step]) != 4 * steps
    assert best.summary["val_acc"] == curve[chosen] > last.summary["val_acc"]
    assert best.summary["test_acc"] > last.summary["test_acc"]
    assert (best.checkpoints / f"step-{chosen:08d}").is_dir()
    assert last.summary["weights_of_step"] == 4 * steps
    assert not (last.checkpoints / f"step-{chosen:08d}").exists()  # what nothing uses is not kept


@pytest.mark.parametrize(("right", "of", "expected"), [(90, 100, 0.8396444904), (10, 10, 0.7870580299), (0, 10, 0.0)])
def test_the_lower_bound_is_wilsons(right: int, of: int, expected: float) -> None:
    """The lower root of (share - p)² n = z² p (1 - p), at the 95 % quantile of the normal distribution."""
    found = metrics.lower_bound(right / of, of)
    assert found == pytest.approx(expected, abs=1e-9)
    assert (right / of - found) ** 2 * of == pytest.approx(norm.ppf(0.95) ** 2 * found * (1 - found))


def test_a_target_ends_training_once_the_validation_part_shows_it(held_out: Dataset, tmp_path: Path) -> None:
    """At the first epoch whose lower bound reaches it, which its accuracy alone has passed before or then."""
    whole = train(tiny(8), held_out, tmp_path / "whole", TrainOptions(device="cpu")).metrics("epoch")
    assert held_out.validation is not None
    n = len(held_out.validation.labels_N)
    target = metrics.lower_bound(whole[4]["val_acc"], n)
    first = next(row for row in whole if metrics.lower_bound(row["val_acc"], n) >= target)
    events: list[Any] = []
    options = TrainOptions(device="cpu", target=target)
    run = train(tiny(8), held_out, tmp_path / "run", options, on_event=events.append)
    assert [row["val_acc"] for row in run.metrics("epoch")] == [
        row["val_acc"] for row in whole if row["step"] <= first["step"]
    ]
    assert run.summary["steps"] == first["step"] < whole[-1]["step"]
    assert run.summary["ended_by"] == "validation"
    (note,) = [note for note in run.summary["notes"] if note.startswith("training ended after ")]
    assert note in [event.get("why") for event in events]
    assert run.summary["target_met"] == (run.summary["test_acc_tta"] >= target)
    again = resume(run.path, held_out)
    assert (again.summary["steps"], again.summary["ended_by"]) == (first["step"], "validation")


def test_a_target_that_is_only_reached_by_the_point_estimate_does_not_end_it(held_out: Dataset, tmp_path: Path) -> None:
    whole = train(tiny(3), held_out, tmp_path / "whole", TrainOptions(device="cpu")).metrics("epoch")
    options = TrainOptions(device="cpu", target=max(row["val_acc"] for row in whole))
    run = train(tiny(3), held_out, tmp_path / "run", options)
    assert (run.summary["steps"], run.summary["ended_by"]) == (whole[-1]["step"], None)


def test_a_target_without_a_validation_part_says_what_one_would_give(
    held_out: Dataset, digits: Dataset, tmp_path: Path
) -> None:
    why = about_target(TrainOptions(target=0.9), digits)
    assert why is not None
    assert "--validate 0.1 ends it once 144 images held out show 90.00%" in why
    assert about_target(TrainOptions(target=0.9), held_out) is None
    assert about_target(TrainOptions(target=0.9, dawn_rule=True), digits) is None
    assert about_target(TrainOptions(), digits) is None
    events: list[Any] = []
    settings = {"model.width": 0.1}
    db.train(
        "digits", target=0.01, epochs=1, settings=settings, out=tmp_path / "r", report=False, on_event=events.append
    )
    assert why.replace("90.00%", "1.00%") in [event.get("why") for event in events]


def test_the_best_epoch_of_a_resumed_run(held_out: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after the best epoch, it still ends with it; and the state is that of a run that was never stopped."""
    options = TrainOptions(device="cpu", keep="best", checkpoint_every="never")
    ruined = Extensions(callbacks=(Ruin(20),))
    recipe = override(resuming_recipe(), {"epochs": 4, "batch_size": 100, "model.dropout": 0.0, "ema": None})
    whole = train(recipe, held_out, tmp_path / "whole", options, extensions=ruined)
    original, calls = loop.train_step, []

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 33:
            import signal

            signal.raise_signal(signal.SIGINT)
        return original(*args)

    monkeypatch.setattr(loop, "train_step", interrupted)
    run = train(recipe, held_out, tmp_path / "run", options, extensions=ruined)
    assert run.summary["interrupted"]
    run = resume(run.path, held_out, extensions=ruined)
    assert run.summary["weights_of_step"] == whole.summary["weights_of_step"] < 40
    assert run.summary["val_acc"] == whole.summary["val_acc"]
    assert final_state(run.path) == final_state(whole.path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": "best"}, "--keep best: only the test part is there, and it chooses nothing; try: --validate 0.1"),
        ({"validate": 0.1, "dawn_rule": True, "target": 0.9}, "--dawn-rule: goes by the test part"),
    ],
)
def test_rules_that_need_the_other_part(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        db.train("digits", out=tmp_path / "run", device="cpu", **options)
    assert not (tmp_path / "run").exists()


def test_the_command_line_holds_out_and_a_resumed_run_holds_out_the_same(tmp_path: Path) -> None:
    from daybreak.cli import main

    settings = ["--set", "model.width=0.1", "--set", "precision=float32", "--no-report", "--quiet"]
    words = ["train", "digits", "--validate", "0.25", "--split-seed", "3", "--epochs", "1", *settings]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--out", str(tmp_path / "run")])
    assert ended.value.code == 0
    before = RunDirectory.open(tmp_path / "run")
    assert any(note.startswith("validation part: 25 %") for note in before.summary["notes"])
    longer = db.resume(tmp_path / "run", epochs=2)
    assert [row["epoch"] for row in longer.history] == [1, 2]
    assert "val_acc" in longer.history[1]
    assert longer.directory.options == replace(before.options, epochs=2)
    assert "--validate 0.25" in " ".join(longer.directory.config["command"])
