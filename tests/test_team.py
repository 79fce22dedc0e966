"""Training in several processes: the losses and nets of one, agreed decisions, and what is left when one dies."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import torch.distributed as dist
from golden import few_images, few_images_recipe, losses
from test_training import GOLDEN
from torch import Tensor, nn

from daybreak.core.config import override
from daybreak.core.errors import UsageError
from daybreak.data import Dataset
from daybreak.models.layers import ACTIVATIONS
from daybreak.models.norm import can_be_one, pool_norm_act
from daybreak.models.registry import build_net
from daybreak.models.synced_norm import synchronize_norms
from daybreak.recipes import RECIPES
from daybreak.runs.directory import RunDirectory
from daybreak.training.checkpoint import MANIFEST, TENSORS
from daybreak.training.meeting import meet
from daybreak.training.team import Processes
from daybreak.training.train import check_team

SLOW = pytest.mark.slow
SOAK = "DAYBREAK_SOAK" in os.environ
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
DIGITS = [
    "train",
    "digits",
    "--set",
    "precision=float32",
    "--set",
    "model.width=0.25",
    "--no-report",
    "--device",
    "cpu",
]


def torchrun(processes: int, *arguments: str, restarts: int = 0) -> list[str]:
    how = [f"--nproc-per-node={processes}", f"--max-restarts={restarts}", "--monitor-interval=0.1"]
    return [*TORCHRUN, *how, *arguments]


def together(processes: int, *arguments: str, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    command = torchrun(processes, *arguments, restarts=restarts)
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def train_together(processes: int, out: Path, *more: str, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    return together(processes, "-m", "daybreak", *DIGITS, "--out", str(out), *more, restarts=restarts)


# The same losses


def losses_of(processes: int, out: Path, data: str, name: str, steps: int, *settings: str) -> list[float]:
    script = str(Path(__file__).with_name("golden.py"))
    found = together(processes, script, str(out), data, name, str(steps), *settings)
    assert found.returncode == 0, found.stderr
    return list(json.loads(out.read_text()))


@pytest.mark.parametrize(
    ("data", "name", "settings"),
    [
        ("digits", "sprint", ("balance=weights", "mixed")),
        pytest.param("digits", "page", ("balance=sampling", "batch_size=31"), marks=SLOW),
        pytest.param("cifar10", "page", (), marks=[SLOW, pytest.mark.cifar]),
        pytest.param("cifar10", "sprint", (), marks=[SLOW, pytest.mark.cifar]),
    ],
)
@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=SLOW)])
def test_losses_are_those_of_one_process(
    processes: int, data: str, name: str, settings: tuple[str, ...], tmp_path: Path
) -> None:
    """Forty steps in float64, on two processes and on four; 31 images do not divide evenly."""
    given = ("model.width=0.25", "epochs=2", *settings)
    one, several = (losses_of(n, tmp_path / f"{n}.json", data, name, 40, *given) for n in (1, processes))
    assert len(set(one)) == 40
    assert several == pytest.approx(one, abs=1e-10)


@SLOW
@pytest.mark.cifar
@pytest.mark.parametrize("name", ["page", "sprint"])
def test_golden_losses_in_two_processes(name: str, cifar: Dataset, tmp_path: Path) -> None:
    found = losses_of(2, tmp_path / "two.json", "cifar10-jpeg", name, 4)
    assert found == pytest.approx(GOLDEN[name], abs=1e-5)
    assert found == pytest.approx(losses(few_images_recipe(name), few_images(cifar), 4, double=True), abs=1e-10)


# Batch norm


def twice(tensor: Tensor) -> None:
    """The sum over two processes that see the same images."""
    tensor.mul_(2)


def half(x: Tensor) -> Tensor:
    return x[: len(x) // 2]


@pytest.mark.parametrize("make", [nn.BatchNorm1d, nn.BatchNorm2d])
def test_a_synced_norm_is_the_norm_of_the_whole_batch(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 3, dtype=torch.float64) if make is nn.BatchNorm1d else torch.randn(5, 3, 4, 2).double()
    dy = torch.randn_like(x)
    whole, part = make(3).double(), make(3).double()
    synchronize_norms(nn.Sequential(part), twice)
    x1, x2 = x.clone().requires_grad_(), torch.cat([x, x]).requires_grad_()
    for norm, given, gradient in ((part, x1, dy), (whole, x2, torch.cat([dy, dy]))):
        nn.init.uniform_(norm.weight)  # type: ignore[arg-type]
        torch.manual_seed(1)
        nn.init.uniform_(norm.weight, 0.5, 2)  # type: ignore[arg-type]
        norm(given).backward(gradient)
    assert x1.grad is not None
    assert x2.grad is not None
    torch.testing.assert_close(part(x), half(whole(torch.cat([x, x]))))
    torch.testing.assert_close(x1.grad, half(x2.grad))
    torch.testing.assert_close(2 * part.weight.grad, whole.weight.grad)  # the gradients of both are added up later
    torch.testing.assert_close(2 * part.bias.grad, whole.bias.grad)
    torch.testing.assert_close(part.state_dict(), whole.state_dict())
    part.eval(), whole.eval()
    torch.testing.assert_close(part(x), whole(x))


@pytest.mark.parametrize("act", ["relu", "silu"])
def test_the_operation_of_cpus_is_synced_too(act: str) -> None:
    torch.manual_seed(0)
    x = (torch.randn(6, 16, 8, 8) + 3).contiguous(memory_format=torch.channels_last)
    dy = torch.randn(6, 16, 4, 4)
    whole, part = nn.BatchNorm2d(16), nn.BatchNorm2d(16)
    synchronize_norms(nn.Sequential(part), twice)
    activation = ACTIVATIONS[act]()
    assert can_be_one(x, part, activation, nn.MaxPool2d(2))
    x1, x2 = x.clone().requires_grad_(), torch.cat([x, x]).requires_grad_()
    y1, y2 = pool_norm_act(x1, part, activation, 2), pool_norm_act(x2, whole, activation, 2)
    y1.backward(dy)
    y2.backward(torch.cat([dy, dy]))
    assert x1.grad is not None
    assert x2.grad is not None
    torch.testing.assert_close(y1, half(y2))
    torch.testing.assert_close(x1.grad, half(x2.grad))
    torch.testing.assert_close(2 * part.weight.grad, whole.weight.grad)  # type: ignore[operator]
    torch.testing.assert_close(part.state_dict(), whole.state_dict())


def test_a_norm_of_another_make_is_refused() -> None:
    class Own(nn.BatchNorm2d):
        pass

    with pytest.raises(UsageError, match="1: a Own of its own, which sees the images of one process only"):
        synchronize_norms(nn.Sequential(nn.ReLU(), Own(3)), twice)


def test_evaluation_of_a_net_with_synced_norms_is_as_ever() -> None:
    torch.manual_seed(0)
    net = build_net(RECIPES["page"].model, 10, 3).eval()
    x = torch.randn(2, 3, 32, 32)
    expected = net(x)
    synchronize_norms(net, twice)
    assert torch.equal(net(x), expected)


# Meeting


def test_a_dead_process_of_an_earlier_attempt_is_not_met(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store keeps what was written by processes that are gone; the names of attempts differ."""
    store, names = dist.HashStore(), []
    monkeypatch.setattr("daybreak.training.meeting.rendezvous", lambda *_, **__: iter([(store, 0, 0)]))
    for _ in range(3):
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda rank: meet(rank, 3, timedelta(seconds=30)), [2, 1, 0]))
        found[0].set("who", b"2")
        assert found[1].get("who") == found[2].get("who") == b"2"
        names.append(json.loads(store.get("daybreak/invitation"))["name"])
    assert len(set(names)) == 3


def test_nobody_is_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daybreak.training.meeting.rendezvous", lambda *_, **__: iter([(dist.HashStore(), 0, 0)]))
    for rank in (0, 1):
        with pytest.raises(RuntimeError, match="the others did not come"):
            meet(rank, 2, timedelta(seconds=0.05))


# Shares


@pytest.mark.parametrize("count", [1, 7, 64, 1001])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_rows_are_shared_without_gaps(count: int, size: int) -> None:
    rows = [Processes(rank, size).rows(count) for rank in range(size)]
    assert np.concatenate([np.arange(count)[part] for part in rows]).tolist() == list(range(count))
    lengths = [part.stop - part.start for part in rows]
    assert max(lengths) - min(lengths) <= 1


def test_what_cannot_be_shared_is_refused(digits: Dataset) -> None:
    with pytest.raises(UsageError, match="recipe finetune in 2 processes: trains the top of a net on features"):
        check_team(Processes(0, 2), RECIPES["finetune"], digits)
    with pytest.raises(UsageError, match="8 processes: a batch of 15 leaves one of them without two images"):
        check_team(Processes(0, 8), override(RECIPES["small"], {"batch_size": 15}), digits)
    check_team(Processes(0, 8), override(RECIPES["small"], {"batch_size": 16}), digits)


# Whole runs


def final_state(run: Path) -> str:
    """The SHA-256 over all tensors of the last state."""
    last = max(run.glob("checkpoints/step-*"))
    return str(json.loads((last / MANIFEST).read_text())[TENSORS])


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if key != "train_seconds"}
        for row in RunDirectory.open(run).metrics("epoch")
    ]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs in two processes that nobody disturbed."""
    out = tmp_path_factory.mktemp("reference") / "run"
    found = train_together(2, out, "--epochs", "3")
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("\n") == 1  # one of them speaks
    assert found.stdout.endswith(f"s: {out}\n")
    return out


def test_two_processes_leave_the_run_of_one(reference: Path, tmp_path: Path) -> None:
    alone = subprocess.run(
        [sys.executable, "-m", "daybreak", *DIGITS, "--epochs", "3", "--out", str(tmp_path / "run")], check=False
    )
    assert alone.returncode == 0
    one, two = (RunDirectory.open(path) for path in (tmp_path / "run", reference))
    assert {path.name for path in one.path.iterdir()} == {path.name for path in two.path.iterdir()}
    assert (one.summary["processes"], two.summary["processes"]) == (1, 2)
    assert one.summary["steps"] == two.summary["steps"]
    first = [run.metrics("step")[0]["batch_loss"] for run in (one, two)]
    assert first[1] == pytest.approx(
        first[0], rel=1e-5
    )  # later ones differ: Adam's first steps blow up rounding errors
    answers = [run.predictions() for run in (one, two)]
    assert answers[0] is not None
    assert answers[1] is not None
    assert answers[1].labels.tolist() == answers[0].labels.tolist()
    same = answers[0].logits.argmax(1) == answers[1].logits.argmax(1)
    assert same.mean() > 0.95


def test_a_signal_stops_all_after_the_same_step_and_they_go_on(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    slow = ["--callback", "slow_steps:Slow"]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    command = torchrun(2, "-m", "daybreak", *DIGITS, "--out", str(out), "--epochs", "3", *slow)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for_rows(out, process, 1)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    summary = RunDirectory.open(out).summary
    assert summary["interrupted"] == signal.SIGTERM, errors
    assert 0 < summary["steps"] < RunDirectory.open(reference).summary["steps"]
    resumed = together(2, "-m", "daybreak", "train", "--resume", str(out), "--no-report", *slow)
    assert resumed.returncode == 0, resumed.stderr
    assert "bit-exact" not in resumed.stderr
    assert final_state(out) == final_state(reference)
    assert rows_of(out) == rows_of(reference)


def test_a_run_goes_on_in_another_number_of_processes(reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train_together(2, out, "--epochs", "2").returncode == 0
    command = [sys.executable, "-m", "daybreak", "train", "--resume", str(out), "--epochs", "3", "--no-report"]
    assert subprocess.run(command, check=False).returncode == 0
    run = RunDirectory.open(out)
    assert run.config["resumed"][0]["notes"][-1] == "not bit-exact: processes 2 then, none now"
    assert run.summary["steps"] == RunDirectory.open(reference).summary["steps"]
    assert run.summary["test_acc"] == pytest.approx(RunDirectory.open(reference).summary["test_acc"], abs=0.03)


def test_a_budget_ends_for_all_at_once(tmp_path: Path) -> None:
    """They take the same steps, though each has a clock of its own; one more in one of them would wait for ever."""
    found = train_together(2, tmp_path / "run", "--recipe", "small", "--budget", "10s")
    assert found.returncode == 0, found.stderr
    run = RunDirectory.open(tmp_path / "run")
    assert run.summary["interrupted"] is None
    assert run.metrics("epoch")[-1]["step"] == run.summary["steps"]


def test_restarts_need_a_place(tmp_path: Path) -> None:
    found = together(2, "-m", "daybreak", *DIGITS, restarts=1)
    assert "error: --out: missing, and a launcher that starts processes again must find the run" in found.stderr
    assert not (tmp_path / "runs").exists()


# A process dies


def workers_of(process: subprocess.Popen[str]) -> Sequence[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children() if "daybreak" in child.cmdline()]


def wait_for_rows(out: Path, process: subprocess.Popen[str], count: int) -> None:
    log = out / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text().count("\n") >= count):
        time.sleep(0.02)


def killed_once(out: Path, processes: int, rng: random.Random, *more: str) -> subprocess.CompletedProcess[str]:
    """A training of which one process is killed at some moment after its start, and all are started again."""
    more = (*more, "--epochs", "3", "--checkpoint-every", "5steps", "--out", str(out))
    command = torchrun(processes, "-m", "daybreak", *DIGITS, *more, restarts=3)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_rows(out, process, rng.randrange(1, 60))
    time.sleep(rng.random() * 0.05)
    if workers := workers_of(process):
        os.kill(rng.choice(workers).pid, signal.SIGKILL)
    output, errors = process.communicate(timeout=300)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


@pytest.mark.parametrize("trials", [1, pytest.param(100 if SOAK else 3, marks=SLOW)])
def test_a_killed_process_costs_nothing(trials: int, reference: Path, tmp_path: Path, record_property: Any) -> None:
    """Whichever process dies, the launcher starts all again, and the run ends in the reference state."""
    record_property("trials", trials)
    for trial in range(trials):
        out = tmp_path / str(trial)
        found = killed_once(out, 2, random.Random(trial))
        assert found.returncode == 0, f"trial {trial}: {found.stderr}"
        assert final_state(out) == final_state(reference), f"trial {trial}"
        assert rows_of(out) == rows_of(reference), f"trial {trial}"
