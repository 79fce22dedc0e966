"""Fixtures that many tests share, and the two tiers: what `make test` runs, and what it leaves out and says so.

DAYBREAK_TEST_BFLOAT16=1 trains in bfloat16 where a recipe leaves the number format to the processor, whether it has
bfloat16 or not (PyTorch computes it on any, if slowly); =0 trains in float32. Processes that tests start ask the
processor.
"""

import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, sync_playwright

from daybreak.core import device
from daybreak.data import Dataset, open_dataset

LEFT_OUT = pytest.StashKey[int]()  # slow tests that this process, or the workers, left out


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = 0
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
            patch.setattr(device, "_has_bfloat16", lambda _: has_bfloat16)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or fills the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAYBREAK_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
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
def cifar_jpeg() -> Path:
    """The real images. They cannot be downloaded, so a machine without $DAYBREAK_DATA_DIR skips the tests that need
    them; where it is set, as in CI, a missing file fails."""
    folder = os.environ.get("DAYBREAK_DATA_DIR")
    if not folder:
        pytest.skip("needs DAYBREAK_DATA_DIR, the folder with cifar10-jpeg.tar.xz")
    path = Path(folder) / "cifar10-jpeg.tar.xz"
    assert path.is_file(), f"{path} is missing"
    return path


@pytest.fixture(scope="session")
def cifar(cifar_jpeg: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The real images, decoded once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAYBREAK_CACHE_DIR", str(tmp_path_factory.mktemp("cifar-cache")))
        return open_dataset(cifar_jpeg)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next((path for name in names if (path := shutil.which(name))), None)
    assert chromium, "needs a Chromium (on Debian: apt-get install chromium)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()
