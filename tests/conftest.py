"""Fixtures that many tests share."""

import os
from pathlib import Path

import pytest

from daybreak.data import Dataset, open_dataset


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory of this test's own, and no data directory."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DAYBREAK_CACHE_DIR", str(folder))
    monkeypatch.delenv("DAYBREAK_DATA_DIR", raising=False)
    return folder


@pytest.fixture(scope="session")
def cifar_jpeg() -> Path:
    """The real images. A test that asks for them fails where they are missing: a skipped test proves nothing."""
    folder = os.environ.get("DAYBREAK_DATA_DIR")
    assert folder, "set DAYBREAK_DATA_DIR to the folder with cifar10-jpeg.tar.xz"
    path = Path(folder) / "cifar10-jpeg.tar.xz"
    assert path.is_file(), f"{path} is missing"
    return path


@pytest.fixture(scope="session")
def cifar(cifar_jpeg: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The real images, decoded once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAYBREAK_CACHE_DIR", str(tmp_path_factory.mktemp("cifar-cache")))
        return open_dataset(cifar_jpeg)
