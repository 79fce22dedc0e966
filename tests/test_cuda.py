"""On a GPU: recorded steps are the steps they were recorded from, a run goes on where it stopped, nothing stalls.

CI has no GPU and leaves these out; whoever has one runs them after a change to the training step.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from daybreak.core.config import Recipe, override
from daybreak.core.device import repeatable
from daybreak.core.options import TrainOptions
from daybreak.data import Dataset
from daybreak.recipes import RECIPES
from daybreak.training import features, graphs
from daybreak.training.graphs import make_ready
from daybreak.training.session import Session, prepare
from daybreak.training.step import train_step
from daybreak.training.train import resume, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SETTINGS = {"batch_size": 64, "epochs": 1, "min_steps": 0, "precision": "float32"}
SPRINT = {
    "optimizer.whiten_bias_until": 0.5,
    "resolution": [{"until": 0.4, "scale": 0.75}, {"until": 1.0, "scale": 1.0}],
}
ON_MAPS = {"model.weights": "none", "model.folded": False, "model.width": 0.25, "size": 64, "model.dropout": 0.0}
RECIPE_SETTINGS = {
    "sprint": SPRINT, "page": {"model.width": 0.25}, "resnet18": {"model.width": 0.1}, "finetune": ON_MAPS,
}  # fmt: skip


def recipe(name: str, **settings: object) -> Recipe:
    return override(RECIPES[name], SETTINGS | RECIPE_SETTINGS[name] | settings)


def losses(session: Session, steps: int = 20) -> list[float]:
    found = []
    for step in range(min(steps, session.loader.steps)):
        progress = session.horizon.progress(step)
        session.optimizer.set_progress(progress)
        found.append(train_step(session, *session.loader.batch(step, progress)))
    return [loss.item() for loss in found]


@pytest.fixture(autouse=True)
def exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.backends.cudnn.allow_tf32 = False
    monkeypatch.setattr(features, "cache_dir", lambda: tmp_path / "cache")


@pytest.mark.parametrize("name", RECIPE_SETTINGS)
def test_recorded_steps_are_those_of_the_cpu(digits: Dataset, name: str) -> None:
    """The same kernels give the same losses; those of a CPU round otherwise, and every step makes more of that."""
    expected = losses(prepare(recipe(name), digits, 0, CPU))
    with repeatable(True):
        eager = losses(prepare(recipe(name), digits, 0, CUDA))
        session = prepare(recipe(name), digits, 0, CUDA)
        before = {key: value.clone() for key, value in session.net.state_dict().items()}
        assert make_ready(session, "never") == {}
        assert session.graphs
        assert all(torch.equal(before[key], value) for key, value in session.net.state_dict().items())
        assert losses(session) == pytest.approx(eager, abs=2e-2, rel=1e-3)
    assert eager[:2] == pytest.approx(expected[:2], abs=1e-2, rel=1e-3)
    assert len(set(expected)) == len(expected)  # that of a net that stands still would be too


def test_every_phase_is_recorded_and_none_runs_eagerly(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    session = prepare(recipe("sprint"), digits, 0, CUDA)
    make_ready(session, "never")
    assert len(session.graphs) == 3
    monkeypatch.setattr("daybreak.training.step.learn", lambda *_: pytest.fail("a step was not recorded"))
    losses(session, steps=10**6)


@pytest.mark.parametrize("tune", ["head", "stage6"])
def test_steps_on_features_are_recorded_too(digits: Dataset, monkeypatch: pytest.MonkeyPatch, tune: str) -> None:
    session = prepare(recipe("finetune", tune=tune), digits, 0, CUDA)
    assert make_ready(session, "always") == {}
    assert len(session.graphs) == 1
    monkeypatch.setattr("daybreak.training.step.learn", lambda *_: pytest.fail("a step was not recorded"))
    found = losses(session)
    assert found[-1] < found[0]


def test_a_recorded_step_does_not_wait_for_the_device(digits: Dataset) -> None:
    session = prepare(recipe("sprint"), digits, 0, CUDA)
    make_ready(session, "never")
    session.optimizer.set_progress(0.0)
    batch = session.loader.batch(0, 0.0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(3):
            session.optimizer.set_progress(step / 100)
            train_step(session, *session.loader.batch(step, 0.0))
        with pytest.raises(RuntimeError, match="synchroniz"):
            batch[1].sum().item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_what_cannot_be_recorded_is_trained_eagerly_and_says_so(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss looks at a value: while it is recorded, that is an error."""

    def looking(logits_BK: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        loss = torch.nn.functional.cross_entropy(logits_BK, labels_B)
        return loss * float(loss.item() >= 0)

    session = prepare(recipe("sprint", **{"model.dropout": 0.1}), digits, 0, CUDA)
    session.extensions = replace(session.extensions, loss=looking)
    assert make_ready(session, "never") == {}  # somebody's own is not recorded at all
    assert session.graphs == {}
    monkeypatch.setattr(graphs, "can_be_recorded", lambda _: True)
    stream = torch.cuda.current_stream()
    told = make_ready(session, "never")
    assert told is not None
    assert "kernel by kernel" in told["why"]
    assert session.graphs == {}
    assert torch.cuda.current_stream() == stream
    assert np.isfinite(losses(session)).all()


@pytest.mark.parametrize("name", ["sprint", "page", "finetune"])
def test_a_run_goes_on_where_it_stopped(digits: Dataset, tmp_path: Path, name: str) -> None:
    options = TrainOptions(device="cuda", deterministic=True, compile="never", report=False, checkpoint_every="7steps")
    two = recipe(name, epochs=2)
    whole = train(two, digits, tmp_path / "whole", options)
    asked = 0

    def interrupt(event: dict[str, object]) -> None:
        nonlocal asked
        asked += event["event"] == "epoch"
        if asked == 1:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        train(two, digits, tmp_path / "part", options, on_event=interrupt)
    resumed = resume(tmp_path / "part", digits)
    assert (whole.path / "model.safetensors").read_bytes() == (resumed.path / "model.safetensors").read_bytes()
    assert resumed.summary["test_acc"] > 0.5


def test_compiled_steps_are_eager_steps(digits: Dataset) -> None:
    expected = losses(prepare(recipe("sprint"), digits, 0, CUDA))
    session = prepare(recipe("sprint"), digits, 0, CUDA)
    assert make_ready(session, "always") == {}
    assert session.forward is not session.net
    assert session.graphs
    assert losses(session) == pytest.approx(expected, abs=2e-2)
    again = prepare(recipe("sprint"), digits, 1, CUDA)
    with torch._dynamo.config.patch(error_on_recompile=True):
        graphs.make_ready(again, "always")  # the same programs serve the next run
