"""A training leaves the process as it found it, and does not mind how it finds it."""

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from daybreak.core.config import Recipe, override
from daybreak.core.device import repeatable
from daybreak.core.options import TrainOptions
from daybreak.core.process_state import left_as_found
from daybreak.data import Dataset
from daybreak.models.anatomy.trace import count_macs
from daybreak.models.registry import build_net
from daybreak.recipes import RECIPES
from daybreak.runs.directory import RunDirectory
from daybreak.training.checkpoint import newest
from daybreak.training.lr_finder import lr_find
from daybreak.training.train import resume, train

OPTIONS = TrainOptions(device="cpu", checkpoint_every="never")


def recipe() -> Recipe:
    return override(RECIPES["small"], {"model.width": 0.1, "epochs": 1, "min_steps": 0, "precision": "float32"})


def state() -> dict[str, Any]:
    """Some thirty things that a library could change for everybody."""
    return {
        "python random": random.getstate(),
        "numpy random": str(np.random.get_state()),
        "torch random": torch.get_rng_state().tolist(),
        "environment": dict(os.environ),
        "warning filters": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)],
        "threads": torch.get_num_threads(),
        "interop threads": torch.get_num_interop_threads(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "autocast dtype": torch.get_autocast_dtype("cpu"),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warns only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "benchmark": torch.backends.cudnn.benchmark,
        "cudnn deterministic": torch.backends.cudnn.deterministic,
        "matmul precision": torch.get_float32_matmul_precision(),
        "mkldnn": torch.backends.mkldnn.enabled,  # type: ignore[attr-defined]
        "denormals": (torch.tensor(1e-40, device="cpu") * 1.0).item(),
        "anomaly": torch.is_anomaly_enabled(),
        "numpy errors": np.geterr(),
        "numpy printing": str(np.get_printoptions()),
        "directory": os.getcwd(),
        "umask": _umask(),
        "excepthook": sys.excepthook,
        "thread excepthook": threading.excepthook,
        "recursion limit": sys.getrecursionlimit(),
        "log level": logging.getLogger().level,
        "log handlers": list(logging.getLogger().handlers),
        "path": list(sys.path),
        "Module.__call__": torch.nn.Module.__call__,
        "Module.__getattr__": torch.nn.Module.__getattr__,
    }


def _umask() -> int:
    os.umask(mask := os.umask(0o22))
    return mask


def differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [name for name in before if before[name] != after[name]]


def trained(digits: Dataset, folder: Path) -> None:
    train(recipe(), digits, folder / "run", OPTIONS)


def deterministically_trained(digits: Dataset, folder: Path) -> None:
    train(recipe(), digits, folder / "run", TrainOptions(device="cpu", deterministic=True))


def resumed(digits: Dataset, folder: Path) -> None:
    train(recipe(), digits, folder / "run", OPTIONS)
    resume(folder / "run", digits, epochs=2)


def range_found(digits: Dataset, folder: Path) -> None:
    assert folder
    lr_find(recipe(), digits, seeds=[0], steps=30)


def failed(digits: Dataset, folder: Path) -> None:
    def fail(event: Any) -> None:
        raise LookupError(event["event"])

    with pytest.raises(LookupError):
        train(recipe(), digits, folder / "run", TrainOptions(device="cpu", deterministic=True), on_event=fail)


@pytest.mark.parametrize("work", [trained, deterministically_trained, resumed, range_found, failed])
def test_the_process_is_left_as_it_was_found(
    work: Callable[[Dataset, Path], None], digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    random.seed(3)
    torch.manual_seed(4)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        before = state()
        work(digits, tmp_path)
        assert differing(before, state()) == []
    finally:
        torch.use_deterministic_algorithms(False)


def test_what_a_library_changes_is_put_back(digits: Dataset, tmp_path: Path) -> None:
    """The negative control of the test above: somebody does change these things."""

    def meddle(event: Any) -> None:
        assert event
        random.seed(7)
        np.random.seed(7)
        os.environ["KMP_OF_SOMEBODY"] = "1"
        warnings.simplefilter("ignore", ResourceWarning)

    os.environ.pop("KMP_OF_SOMEBODY", None)
    before, seen = state(), []
    train(
        recipe(), digits, tmp_path / "run", OPTIONS,
        on_event=lambda event: (meddle(event), seen.append(differing(before, state()))),
    )  # fmt: skip
    assert {"python random", "numpy random", "environment", "warning filters"} <= set(seen[-1])
    assert differing(before, state()) == []


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "float64": lambda: default_dtype(torch.float64),
    "another device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.fixture(scope="module")
def usual(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    run = train(recipe(), digits, tmp_path_factory.mktemp("usual") / "run", OPTIONS)
    return logits(run)


def logits(run: RunDirectory) -> np.ndarray:
    found = run.predictions()
    assert found is not None
    return found.logits


@pytest.mark.parametrize("mode", [*MODES, "all"])
def test_the_modes_of_the_caller_change_nothing(mode: str, digits: Dataset, tmp_path: Path, usual: np.ndarray) -> None:
    with ExitStack() as stack:
        for name in MODES if mode == "all" else [mode]:
            stack.enter_context(MODES[name]())
        before = state()
        run = train(recipe(), digits, tmp_path / "run", OPTIONS)
        found = logits(run)
        assert differing(before, state()) == []
    assert np.array_equal(found, usual)


def test_an_error_in_a_callback_leaves_a_checkpoint(digits: Dataset, tmp_path: Path, usual: np.ndarray) -> None:
    def fail(event: Any) -> None:
        if event["event"] == "step" and event["step"] >= 5:
            raise LookupError("of the caller's")

    with pytest.raises(LookupError, match="of the caller's"):
        train(recipe(), digits, tmp_path / "run", OPTIONS, on_event=fail)
    run = RunDirectory.open(tmp_path / "run")
    saved, notes = newest(run.checkpoints)
    assert saved is not None
    assert saved.facts["step"] >= 5
    assert notes == []
    assert np.array_equal(logits(resume(run.path, digits)), usual)


def test_three_threads_give_what_one_gives(digits: Dataset, tmp_path: Path, usual: np.ndarray) -> None:
    """Also while others trace nets, as a report does, and afterwards."""
    found: dict[int, np.ndarray] = {}
    errors: list[BaseException] = []
    done = threading.Event()

    def train_one(number: int) -> None:
        try:
            found[number] = logits(train(recipe(), digits, tmp_path / str(number), OPTIONS))
        except BaseException as error:  # a thread's error is seen by nobody else
            errors.append(error)

    other = build_net(recipe().model, 10, 1)  # not in the thread: it draws from PyTorch's one generator

    def trace_on() -> None:
        while not done.is_set():
            count_macs(other, 16, 1)

    threads = [threading.Thread(target=train_one, args=(number,)) for number in range(3)]
    tracer = threading.Thread(target=trace_on)
    for thread in [tracer, *threads]:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    tracer.join()
    assert errors == []
    assert len(found) == 3
    assert all(np.array_equal(each, usual) for each in found.values())
    train_one(4)
    assert errors == []
    assert np.array_equal(found[4], usual)


IN_A_FORK = """
import multiprocessing, sys
from pathlib import Path
from daybreak.core.config import override
from daybreak.core.options import TrainOptions
from daybreak.data import open_dataset
from daybreak.recipes import RECIPES
from daybreak.training.train import train

def work(out):
    settings = {"model.width": 0.1, "epochs": 1, "min_steps": 0, "precision": "float32"}
    train(override(RECIPES["small"], settings), open_dataset("digits"), Path(out), TrainOptions(device="cpu"))

folder = Path(sys.argv[1])
work(folder / "parent")
child = multiprocessing.get_context("fork").Process(target=work, args=(folder / "child",))
child.start()
child.join(60)
print(child.exitcode)
child.kill()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_forked_worker_trains_after_its_parent_has(tmp_path: Path) -> None:
    words = [sys.executable, "-c", IN_A_FORK, str(tmp_path)]
    said = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert said.stdout.strip() == "0", said.stderr[-2000:]
    assert (tmp_path / "child" / "summary.json").exists()


@pytest.mark.parametrize("wanted", [True, False])
def test_inside_the_block_pytorch_is_repeatable_or_times_its_algorithms(
    wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", wanted)
    with left_as_found(), repeatable(wanted):
        assert torch.are_deterministic_algorithms_enabled() == wanted
        assert torch.backends.cudnn.benchmark != wanted
        assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if wanted else None)
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark) == (False, wanted)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_forked_process_computes_with_one_thread() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    here, there = os.pipe()
    try:
        if (child := os.fork()) == 0:
            os.write(there, str(torch.get_num_threads()).encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert (os.read(here, 9), torch.get_num_threads()) == (b"1", 2)
    finally:
        torch.set_num_threads(threads)
        os.close(here)
        os.close(there)
