"""Training: golden losses on real images, the clock, interruption, and what a run directory holds."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from golden import few_images, few_images_recipe, losses

from daybreak.core.clock import Stopwatch
from daybreak.core.config import Recipe, override
from daybreak.core.errors import NonFiniteError, RunError, UsageError
from daybreak.core.options import TrainOptions
from daybreak.data import Dataset
from daybreak.evaluation.evaluate import evaluate
from daybreak.recipes import RECIPES
from daybreak.report.report import write_report
from daybreak.runs.directory import RunDirectory, default_paths
from daybreak.training.loop import evaluate_epoch, fit
from daybreak.training.session import initial_net, prepare
from daybreak.training.step import batch_loss, train_step
from daybreak.training.train import train

TINY = {"model.width": 0.1, "epochs": 2, "min_steps": 0, "precision": "float32"}
CPU = torch.device("cpu")


def tiny(name: str = "small", **settings: object) -> Recipe:
    return override(RECIPES[name], TINY | settings)


# Batches of 32 of the first 10 x 200 images, seed 0, in float64: the first steps of Adam blow up rounding errors a
# millionfold, so float32 losses differ between processors in the second digit.
GOLDEN: dict[str, list[float]] = {
    "page": [4.211672, 2.514928, 2.764356, 2.695987],
    "sprint": [2.335718, 2.303972, 2.299036, 2.222426],
}


@pytest.mark.cifar
@pytest.mark.parametrize("name", [pytest.param("page", marks=pytest.mark.slow), "sprint"])
def test_golden_losses_on_real_images(name: str, cifar: Dataset) -> None:
    found = losses(few_images_recipe(name), few_images(cifar), 4, double=True)
    assert found == pytest.approx(GOLDEN[name], abs=1e-5)


@pytest.mark.cifar
@pytest.mark.parametrize(
    "mistake",
    [
        pytest.param({"augment.cutout": 7}, marks=pytest.mark.slow),
        pytest.param({"schedule.max_lr": 0.0037}, marks=pytest.mark.slow),
        pytest.param({"label_smoothing": 0.01}, marks=pytest.mark.slow),
    ],
)
def test_golden_losses_notice_a_mistake(mistake: dict[str, float], cifar: Dataset) -> None:
    found = losses(override(few_images_recipe("page"), mistake), few_images(cifar), 4, double=True)
    assert found != pytest.approx(GOLDEN["page"], abs=1e-3)


def test_the_seed_decides_everything(digits: Dataset) -> None:
    first = losses(tiny(), digits, 5)
    torch.manual_seed(99)  # the global state has no say
    assert losses(tiny(), digits, 5) == first
    assert losses(tiny(), digits, 5, seed=1) != first


def test_a_loss_of_probabilities_cannot_fall_to_zero() -> None:
    """Confident and right, softmax before the loss still costs ln(1 + 9/e) = 1.4612, cross-entropy nothing."""
    logits, labels = 1000 * torch.eye(10), torch.arange(10)
    plain, twice = (tiny(**{"loss": kind, "label_smoothing": 0}) for kind in ("cross-entropy", "softmax-twice"))
    assert batch_loss(plain, logits, labels).item() == 0.0
    assert batch_loss(twice, logits, labels).item() == pytest.approx(math.log(1 + 9 / math.e))
    wrong = torch.randn(10, 10, requires_grad=True)
    (steep,) = torch.autograd.grad(batch_loss(plain, wrong, labels), wrong)
    (flat,) = torch.autograd.grad(batch_loss(twice, wrong, labels), wrong)
    assert flat.norm() < 0.3 * steep.norm()  # why its range test finds a rate far too low


def test_a_run_over_steps_takes_so_many(digits: Dataset, tmp_path: Path) -> None:
    run = train(tiny(steps=30), digits, tmp_path / "run")
    assert (run.summary["steps"], run.summary["epochs"]) == (30, pytest.approx(30 / 22))
    assert [row["step"] for row in run.metrics("epoch")] == [22, 30]
    assert run.metrics("epoch")[-1]["progress"] == 1.0


def test_building_a_net_leaves_the_global_random_state(digits: Dataset) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    initial_net(tiny(), digits, 0)
    assert torch.equal(torch.rand(1), expected)


def test_training_learns_real_digits(digits: Dataset, tmp_path: Path) -> None:
    recipe = override(RECIPES["small"], {"model.width": 0.2, "epochs": 4, "min_steps": 0, "precision": "float32"})
    run = train(recipe, digits, tmp_path / "run", TrainOptions(target=0.9))
    summary = run.summary
    assert summary["test_acc"] > 0.93
    assert summary["target_met"] is True
    assert evaluate(run, tta="none").accuracy == summary["test_acc"]


def test_a_run_directory_is_whole(digits: Dataset, tmp_path: Path) -> None:
    events: list[dict] = []
    recipe = tiny(**{"tta": "flip", "ema": 0.9, "augment.cutout": 4})
    options = TrainOptions(data="digits", seed=3, device="cpu")
    run = train(recipe, digits, tmp_path / "run", options, on_event=events.append)
    files = {p.name for p in run.path.iterdir()}
    wanted = {"config.json", "metrics.jsonl", "summary.json", "model.safetensors", "model.json", "predictions.npz"}
    wanted |= {"metrics.csv"}
    assert files == wanted | {"checkpoints"}
    again = RunDirectory.open(run.path)
    assert again.recipe == recipe
    assert again.config["seed"] == 3
    assert again.config["command"] == ["daybreak", "train", "digits", "--seed", "3", "--device", "cpu"]
    assert again.options == options
    assert again.config["data"]["fingerprint"] == digits.fingerprint
    epochs = again.metrics("epoch")
    assert [row["epoch"] for row in epochs] == [1, 2]
    assert [row["step"] for row in epochs] == [22, 44]
    assert epochs[-1]["progress"] == 1.0
    keys = {"lr", "train_loss", "train_acc", "test_loss", "test_acc", "train_seconds", "size"}
    assert keys <= epochs[0].keys()
    assert [e["event"] for e in events if e["event"] not in ("step", "phase")] == ["start", "epoch", "epoch", "end"]
    stored = again.predictions()
    assert stored is not None
    fresh = again.classifier("cpu").logits(digits.test.images_NHWC)
    assert np.allclose(fresh, stored.logits, atol=1e-5)
    assert not np.allclose(stored.logits, stored.logits_tta)
    assert (stored.labels == digits.test.labels_N).all()
    assert stored.names.tolist() == list(digits.test.names)


def test_summary_numbers_agree(digits: Dataset, tmp_path: Path) -> None:
    s = train(tiny(), digits, tmp_path / "run", TrainOptions(device="cpu")).summary
    assert (s["steps"], s["epochs"], s["dataset"], s["device"]) == (44, 2.0, "digits", "cpu")
    assert s["images_per_second"] == pytest.approx(44 * 64 / s["train_seconds"])
    assert s["wall_seconds"] > s["train_seconds"] + s["evaluate_seconds"]
    net = initial_net(tiny(), digits, 0)
    assert s["params"] == sum(p.numel() for p in net.parameters())
    from daybreak.models.anatomy.trace import count_macs

    assert s["train_flops"] == 6 * count_macs(net, 16, 1) * 44 * 64


def test_moving_average_is_what_is_evaluated(digits: Dataset) -> None:
    session = prepare(tiny(ema=0.5), digits, 0, CPU)
    assert session.ema is not None
    expected = [p.detach().clone() for p in session.net.parameters()]
    for step in range(3):
        session.optimizer.set_progress(0)
        train_step(session, *session.loader.batch(step, 0.0))
        now = [p.detach() for p in session.net.parameters()]
        expected = [n.clone() if step == 0 else 0.5 * e + 0.5 * n for e, n in zip(expected, now, strict=True)]
    for e, p in zip(expected, session.classifier.net.parameters(), strict=True):
        assert torch.allclose(e, p, atol=1e-6)


def test_evaluation_leaves_the_net_in_training_mode(digits: Dataset) -> None:
    session = prepare(tiny(), digits, 0, CPU)
    before = {k: v.clone() for k, v in session.net.state_dict().items()}
    session.step = 1
    evaluate_epoch(session, 32)
    assert session.net.training
    assert all(torch.equal(before[k], v) for k, v in session.net.state_dict().items())


def test_a_loss_that_is_not_finite_ends_the_run(digits: Dataset, tmp_path: Path) -> None:
    recipe = tiny(**{"optimizer": {"name": "sgd"}, "schedule.max_lr": 1e30, "schedule.initial_lr": 1e30})
    with pytest.raises(NonFiniteError, match=r"step \d+: the loss is (nan|inf)") as caught:
        train(recipe, digits, tmp_path / "run")
    assert caught.value.exit_code == 6


def test_a_net_spoilt_by_its_last_step_is_noticed(digits: Dataset, tmp_path: Path) -> None:
    """The loss is that of the net before the step, so only looking at the net afterwards finds this."""
    one_step = {"batch_size": 2000, "epochs": 1, "optimizer": {"name": "sgd"}}
    recipe = tiny(**one_step, **{"schedule.max_lr": 1e30, "schedule.initial_lr": 1e30})
    with pytest.raises(NonFiniteError, match="step 1: the net's logits") as caught:
        train(recipe, digits, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    assert (run.summary["error"], run.summary["test_acc"], run.has_result) == (str(caught.value), None, False)
    assert not (run.path / "model.safetensors").exists()  # a net that is worth nothing is not kept


def test_a_recipe_that_cannot_be_built_leaves_no_directory(digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such net"):
        train(tiny(**{"model.name": "pagee"}), digits, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_half_a_row_of_a_killed_run_is_passed_over(digits_run: RunDirectory, tmp_path: Path) -> None:
    run = RunDirectory.open(shutil.copytree(digits_run.path, tmp_path / "run"))
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "epoch", "epo')
    assert len(run.metrics("epoch")) == 4


def test_a_directory_with_something_in_it_is_left_alone(digits: Dataset, tmp_path: Path) -> None:
    for name in ("thesis.txt", ".draft.txt.7.tmp"):
        (tmp_path / name).write_text("years of work")
    with pytest.raises(UsageError, match="not empty"):
        train(tiny(), digits, tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == [".draft.txt.7.tmp", "thesis.txt"]


def test_default_paths_do_not_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda _: "20261122-101502")
    names = []
    for _ in range(2):  # in the same second
        with RunDirectory.create(default_paths("cifar10", "sprint", 0)) as run:
            names.append(str(run.path))
    assert names == ["runs/20261122-101502-cifar10-sprint-s0", "runs/20261122-101502-cifar10-sprint-s0-2"]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("config.json", b"{"),
        ("model.json", b"[1]"),
        ("model.json", b'{"format": 99}'),
        ("model.safetensors", b"junk"),
        ("predictions.npz", b"PK junk"),
        ("predictions.npz", b""),
        ("predictions.npz", b"PK\x03\x04half of an archive"),
    ],
)
def test_damaged_runs_are_refused_by_name(digits_run: RunDirectory, tmp_path: Path, name: str, damage: bytes) -> None:
    run = shutil.copytree(digits_run.path, tmp_path / "run")
    use_everything(run)
    (run / name).write_bytes(damage)
    with pytest.raises(RunError, match=name.replace(".", r"\.")):
        use_everything(run)


def use_everything(path: Path) -> None:
    run = RunDirectory.open(path)
    assert run.recipe
    run.classifier("cpu")
    run.predictions()


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run directory"):
        RunDirectory.open(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_usable_run(number: signal.Signals, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "daybreak", "train", "digits", "--epochs", "5000", "--out", str(out), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ, text=True)
    metrics = out / "metrics.jsonl"
    while process.poll() is None and (not metrics.exists() or '"epoch"' not in metrics.read_text()):
        time.sleep(0.1)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number, stderr
    assert json.loads(stdout)["interrupted"] == number
    run = RunDirectory.open(out)
    assert run.predictions() is None
    assert evaluate(run).accuracy > 0.3  # made now, from the weights that were saved
    assert run.predictions() is not None
    assert "interrupted after" in write_report(run).read_text()


def test_stopwatch_counts_named_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([-1.0, 0.0, 1.0, 5.0, 7.5, 8.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    waits = []
    watch = Stopwatch(lambda: waits.append(1))
    with watch.timed("train"):
        pass  # 0 to 1
    with watch.timed("evaluate"):
        pass  # 5 to 7.5
    assert (watch.seconds("train"), watch.seconds("evaluate"), watch.seconds("never")) == (1.0, 2.5, 0.0)
    assert len(waits) == 4  # the device is waited for at both ends


def test_the_train_clock_stops_for_evaluation(digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is made of steps here, 0.1 s each, and of an evaluation, 50 s."""
    from daybreak.core.signals import StopRequest
    from daybreak.training import loop as module

    original, now = module.train_step, [0.0]

    def step(*args: Any) -> Any:
        now[0] += 0.1
        return original(*args)

    def evaluated(*_: object) -> dict[str, float]:
        now[0] += 50.0
        return {"train_seconds": session.watch.seconds("train"), "test_acc": 0.0}

    monkeypatch.setattr(module, "train_step", step)
    monkeypatch.setattr(module, "evaluate_epoch", evaluated)
    monkeypatch.setattr("daybreak.core.clock.time", SimpleNamespace(perf_counter=lambda: now[0]))
    session = prepare(tiny(epochs=1), digits, 0, CPU)
    with RunDirectory.create(tmp_path / "run") as run:
        fit(session, run, StopRequest())
    assert session.watch.seconds("evaluate") == pytest.approx(50.0)
    assert session.watch.seconds("train") == pytest.approx(22 * 0.1)


def test_a_stopwatch_goes_on_from_what_was_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("daybreak.core.clock.time", SimpleNamespace(perf_counter=lambda: now[0]))
    fresh, watch = Stopwatch(), Stopwatch(spent={"wall": 50.0, "train": 30.0})
    now[0] = 104.0
    assert (fresh.wall(), watch.wall(), fresh.spent()) == (4.0, 54.0, {"wall": 4.0})
    watch.move(10.0, "train", "paused")
    with watch.timed("evaluate"):
        now[0] = 106.0
        assert watch.spent() == {"train": 20.0, "paused": 10.0, "evaluate": 2.0, "wall": 56.0}
    watch.move(1.0, "compile", "train")
    assert (watch.seconds("compile"), watch.seconds("train")) == (-1.0, 21.0)
