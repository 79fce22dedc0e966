"""`make demo`: always a trained net and a report, whatever can be reached."""

from pathlib import Path

import numpy as np
import pytest

from daybreak.cli import demo
from daybreak.core.config import override
from daybreak.core.errors import DataError
from daybreak.data import Dataset
from daybreak.recipes import RECIPES


@pytest.fixture
def offline(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No network, an empty cache, and a working directory of its own."""

    def refuse(*_: object) -> None:
        raise DataError("cifar10", "cannot be downloaded (https://example.org: refused)", "put it there by hand")

    monkeypatch.setattr("daybreak.data.sources.fetch", refuse)
    monkeypatch.chdir(tmp_path)
    assert cache.parent == tmp_path
    return tmp_path


def test_without_anything_it_trains_on_digits(
    offline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shorter = override(RECIPES["small"], {"model.width": 0.1, "epochs": 1, "min_steps": 0})
    monkeypatch.setitem(RECIPES, "small", shorter)
    assert demo.main() == 0
    out = capsys.readouterr()
    assert "CIFAR-10 cannot be had here (cannot be downloaded); using digits" in out.err
    assert "% on digits in" in out.out
    assert len(list(offline.glob("runs/*-digits-small-s0/report.html"))) == 1


@pytest.mark.slow
def test_with_cifar_at_hand_it_says_how_to_go_on(
    offline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, labels = np.random.default_rng(0), np.arange(60) % 3
    images = rng.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    np.savez(offline / "cifar10-jpeg.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    monkeypatch.setenv("DAYBREAK_DATA_DIR", str(offline))
    monkeypatch.setattr(demo, "CPU_BUDGET", 1.0)
    assert demo.main() == 0
    assert "the full recipe: .venv/bin/daybreak train cifar10-jpeg" in capsys.readouterr().out


@pytest.mark.parametrize(("is_here", "expected"), [(True, ["cifar10"]), (False, ["cifar10-jpeg"])])
def test_published_pixels_come_first_and_a_download_last(
    is_here: bool, expected: list[str], monkeypatch: pytest.MonkeyPatch, digits: Dataset
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(demo, "find_here", lambda name: "here" if is_here else None)
    monkeypatch.setattr(demo.api, "open_dataset", lambda name: (opened.append(name), digits)[1])
    assert demo.reachable_data() == expected[0]
    assert opened == expected


@pytest.mark.cifar
def test_beside_its_jpeg_copy_the_lossless_archive_is_taken(cifar_zip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBREAK_DATA_DIR", str(cifar_zip.parent))
    assert demo.reachable_data() == "cifar10"
