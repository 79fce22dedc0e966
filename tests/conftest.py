"""Fixtures that many tests share, and the two tiers: what `make test` runs, and what it leaves out and says so.

DAYBREAK_TEST_BFLOAT16=1 trains in bfloat16 where a recipe leaves the number format to the processor, whether it has
bfloat16 or not (PyTorch computes it on any, if slowly); =0 trains in float32. Processes that tests start ask the
processor.
"""

import fcntl
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from image_sets import write_part
from playwright.sync_api import Browser, sync_playwright

from daybreak.core.config import override
from daybreak.core.options import TrainOptions
from daybreak.data import Dataset, open_dataset
from daybreak.recipes import RECIPES
from daybreak.runs.directory import RunDirectory
from daybreak.training.train import train

LEFT_OUT = pytest.StashKey[int]()  # slow tests that this process, or the workers, left out


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = 0
    os.environ.pop("COLUMNS", None)  # GNU readline, which pytest loads, sets it for the workers; tables would be folded
    if "PYTEST_XDIST_WORKER" in os.environ:  # as many workers as cores: a thread each, in the processes they start too
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in items:
        item.config.stash[LEFT_OUT] += item.get_closest_marker("slow") is not None


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash[LEFT_OUT]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Each worker of xdist collects, and leaves out, the same tests. (One that crashed has nothing to tell.)"""
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", node.config.stash[LEFT_OUT])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if count := config.stash[LEFT_OUT]:
        terminalreporter.line(f"left out: {count} slow tests; to run them: make test-slow")


@pytest.fixture(scope="session", autouse=True)
def number_format() -> Iterator[None]:
    """What DAYBREAK_TEST_BFLOAT16 says of the processor, if it says anything."""
    with pytest.MonkeyPatch.context() as patch:
        if "DAYBREAK_TEST_BFLOAT16" in os.environ:
            has_bfloat16 = os.environ["DAYBREAK_TEST_BFLOAT16"] == "1"
            patch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bfloat16)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or fills the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAYBREAK_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is compiled on first use is shared by all tests and by the processes they start."""
    shared = "PYTEST_XDIST_WORKER" in os.environ
    folder = tmp_path_factory.getbasetemp().parent if shared else tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAYBREAK_NATIVE", str(folder / "native"))
        yield


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """In the background of a shell SIGINT is ignored, and so it would be by the processes that tests start."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory of this test's own, and no data directory."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DAYBREAK_CACHE_DIR", str(folder))
    monkeypatch.delenv("DAYBREAK_DATA_DIR", raising=False)
    return folder


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return open_dataset("digits")


@pytest.fixture(scope="session")
def digits_run(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A small net that has seen the digits four times: good, but not without mistakes. No report. Many tests read
    it; one that would change it copies it."""
    recipe = override(RECIPES["small"], {"model.width": 0.2, "epochs": 4, "min_steps": 0, "precision": "float32"})
    return train(recipe, digits, tmp_path_factory.mktemp("digits") / "run", TrainOptions(device="cpu"))


@pytest.fixture(scope="session")
def cifar_jpeg() -> Path:
    """The real images. They cannot be downloaded, so a machine without $DAYBREAK_DATA_DIR skips the tests that need
    them; where it is set, as in CI, a missing file fails."""
    return _real_images("cifar10-jpeg.tar.xz")


@pytest.fixture(scope="session")
def cifar_zip() -> Path:
    """The real images without loss; found or missing as `cifar_jpeg` is."""
    return _real_images("cifar10.zip")


def _real_images(name: str) -> Path:
    folder = os.environ.get("DAYBREAK_DATA_DIR")
    if not folder:
        pytest.skip(f"needs DAYBREAK_DATA_DIR, the folder with {name}")
    path = Path(folder) / name
    assert path.is_file(), f"{path} is missing"
    return path


@pytest.fixture(scope="session")
def cifar(cifar_jpeg: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The real images, decoded once for all tests: the workers of xdist share the folder above their own."""
    shared = "PYTEST_XDIST_WORKER" in os.environ
    folder = tmp_path_factory.getbasetemp().parent if shared else tmp_path_factory.mktemp("cifar")
    with pytest.MonkeyPatch.context() as patch, (folder / "cifar.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        patch.setenv("DAYBREAK_CACHE_DIR", str(folder / "cifar-cache"))
        return open_dataset(cifar_jpeg)


@pytest.fixture(scope="session")
def cifar_part(cifar: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Every tenth training image and every fifth test image: of all classes, as a data set of its own."""
    path = write_part(cifar, tmp_path_factory.mktemp("cifar-part") / "cifar.npz", 5000, 2000)
    return open_dataset(path)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Of one module only: while it is open there is a running event loop, which tests of others may not find."""
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next((path for name in names if (path := shutil.which(name))), None)
    assert chromium, "needs a Chromium (on Debian: apt-get install chromium)"
    with sync_playwright() as playwright:
        camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # a moving test picture
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", *camera])
        yield browser
        browser.close()
