"""Fixtures that many tests share."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from daybreak.data import Dataset, open_dataset


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
