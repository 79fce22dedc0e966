"""A loss or a gradient that is not finite ends or skips a step before it has changed anything."""

import html
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from resuming import STEPS, recipe

from daybreak.api import load
from daybreak.core import metrics
from daybreak.core.config import Recipe, override
from daybreak.core.errors import BadStepError, UsageError
from daybreak.core.options import TrainOptions
from daybreak.data import open_dataset
from daybreak.evaluation.evaluate import evaluate
from daybreak.report.report import write_report
from daybreak.runs.directory import RunDirectory
from daybreak.training import checkpoint, loop
from daybreak.training.session import Session, prepare
from daybreak.training.step import Before, check_step
from daybreak.training.train import check_options, resume, train


def spoil(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """The third and fifth image of the batches of these steps (from 1) give no finite logits."""
    original = Session.__dict__["__init__"]

    def with_spoilt_batches(self: Session, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        make = self.loader.batch

        def batch(step: int, *where: Any) -> Any:
            images, labels = make(step, *where)
            if step + 1 in steps:
                images[[2, 4]] = torch.nan
            return images, labels

        self.loader.batch = batch  # type: ignore[method-assign]

    monkeypatch.setattr(Session, "__init__", with_spoilt_batches)


def page() -> Recipe:
    return override(recipe("page"), {"model.width": 0.05})


def test_a_step_that_is_not_finite_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_dataset("digits")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "KEPT", STEPS)
        train(page(), data, tmp_path / "whole", TrainOptions(device="cpu", checkpoint_every="1steps"))
    spoil(monkeypatch, 8)
    with pytest.raises(BadStepError, match=r"step 8: the loss is nan at learning rate 0\.\d+, on ") as caught:
        train(page(), data, tmp_path / "run", TrainOptions(device="cpu", checkpoint_every="never"))
    assert caught.value.exit_code == 6
    left, before = (checkpoint.read(tmp_path / name / "checkpoints" / "step-00000007") for name in ("run", "whole"))
    assert left.tensors.keys() == before.tensors.keys()
    assert all(torch.equal(left.tensors[name], value) for name, value in before.tensors.items())
    ema = {name: value for name, value in before.tensors.items() if name.startswith("ema.module.")}
    net = RunDirectory.open(tmp_path / "run").classifier("cpu").net
    assert all(torch.equal(net.state_dict()[name.removeprefix("ema.module.")], value) for name, value in ema.items())


def test_what_is_left_of_a_run_can_be_used_and_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_dataset("digits")
    spoil(monkeypatch, 8)
    with pytest.raises(BadStepError) as caught:
        train(page(), data, tmp_path / "run", TrainOptions(device="cpu"))
    run = RunDirectory.open(tmp_path / "run")
    assert (run.summary["error"], run.summary["steps"]) == (str(caught.value), 7)
    assert "digits, not finite," in repr(load(run.path))
    logits = run.classifier("cpu").logits(data.test.images_NHWC)
    assert evaluate(run, tta="none", device="cpu").accuracy == metrics.accuracy(logits, data.test.labels_N)
    assert str(caught.value) in html.unescape(write_report(run).read_text())
    finished = resume(run.path, data, replace(run.options, on_nonfinite="skip"))
    assert (finished.summary["error"], finished.summary["steps"], finished.summary["skipped_steps"]) == (None, STEPS, 1)


def test_the_images_that_did_it_are_named() -> None:
    """Without batch norm, where one image does not spoil the others, exactly those are named."""
    data = open_dataset("digits")
    session = prepare(page(), data, 0, torch.device("cpu"))
    session.net.eval()
    session.optimizer.set_progress(0.0)
    images, labels = session.loader.batch(0, 0.0)
    images[[2, 4]] = torch.nan
    first, second = (data.train.names[int(i)] for i in session.loader.indices(0)[[2, 4]])
    with pytest.raises(BadStepError) as caught:
        loop.train_step(session, images, labels)
    assert caught.value.why.endswith(f"on {first}, {second}")


def test_two_bad_steps_are_skipped_the_third_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_dataset("digits")
    spoil(monkeypatch, 8, 20)
    run = train(page(), data, tmp_path / "run", TrainOptions(device="cpu", on_nonfinite="skip"))
    skipped = {row["step"]: row["batch_loss"] for row in run.metrics("step") if "skipped" in row}
    assert skipped == {8: None, 20: None}
    assert (run.summary["skipped_steps"], run.summary["steps"]) == (2, STEPS)
    assert len(run.metrics("epoch")) == 2
    spoil(monkeypatch, 30)
    with pytest.raises(BadStepError, match="step 30"):
        train(page(), data, tmp_path / "again", TrainOptions(device="cpu", on_nonfinite="skip"))


def test_a_gradient_that_is_not_finite() -> None:
    """The loss may be finite while a gradient is not."""
    session = prepare(page(), open_dataset("digits"), 0, torch.device("cpu"))
    session.optimizer.set_progress(0.0)
    first = next(p for p in session.net.parameters() if p.requires_grad)
    first.register_hook(lambda gradient: gradient * torch.inf)
    before = {name: value.clone() for name, value in session.net.state_dict().items()}
    with pytest.raises(BadStepError, match="step 1: a gradient is not finite at learning rate"):
        loop.train_step(session, *session.loader.batch(0, 0.0))
    assert all(torch.equal(value, before[name]) for name, value in session.net.state_dict().items())


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_no_step_waits_for_a_device_that_works_on_its_own(kind: str) -> None:
    """Reading a loss at every step would stall CUDA and MPS alike: nothing is kept and nothing is read there. (The
    net stays on the CPU; the session says that it does not, and a tensor whose value is asked for complains.)"""
    digits = open_dataset("digits")
    session = prepare(page(), digits, 0, torch.device("cpu"))
    session.device = torch.device(kind)
    assert Before.of(session) is None
    check_step(session, Unread(), Unread(), None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"--on-nonfinite skip: not on {kind.upper()}"):
        check_options(TrainOptions(on_nonfinite="skip"), digits, session.device)
    check_options(TrainOptions(on_nonfinite="stop"), digits, session.device)
    assert Before.of(prepare(page(), open_dataset("digits"), 0, torch.device("cpu"))) is not None
    check_options(TrainOptions(on_nonfinite="skip"), digits, torch.device("cpu"))


class Unread:
    """Stands for a tensor that nobody may look at."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for")
