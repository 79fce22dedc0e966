"""`make demo`: always a trained net and a report, whatever can be reached."""

import importlib
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from daybreak.cli import demo
from daybreak.core.config import override
from daybreak.core.errors import DataError, UsageError
from daybreak.data import Dataset
from daybreak.recipes import RECIPES

ROOT = Path(__file__).parents[1]


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
    (report,) = offline.glob("runs/*-digits-small-s0/report.html")
    head, *lines = out.out[out.out.index("what to do next:") :].splitlines()
    commands = [line.strip() for line in lines if line.strip().startswith(".venv/bin/daybreak ")]
    assert len(commands) == 3
    assert f".venv/bin/daybreak explain {report.parent.relative_to(offline)}" in commands
    assert head == "what to do next:"


@pytest.mark.parametrize(
    ("since_make_began", "seconds"), [(0.0, 100.0), (50.0, 55.0), (90.0, 45.0), (900.0, 45.0), (-5.0, 100.0)]
)
def test_training_gets_what_is_left_of_three_minutes(
    since_make_began: float, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "time", SimpleNamespace(time=lambda: 1000.0))
    monkeypatch.setenv(demo.STARTED, str(1000.0 - since_make_began))
    assert demo.budget() == seconds


def test_pip_is_followed_and_its_failure_shown(tmp_path: Path) -> None:
    """A package is built and installed from a folder; one that is nowhere fails with pip's own words."""
    words = [sys.executable, str(ROOT / "install.py"), sys.executable, "--no-index", "--target", str(tmp_path / "here")]
    failed = subprocess.run([*words, "no-such-package"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "No matching distribution found for no-such-package" in failed.stderr
    wheel = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny.py", "")
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    done = subprocess.run([*words, str(wheel)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "here" / "tiny.py").is_file()


def test_what_pip_says_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    install = importlib.import_module("install")
    assert install.doing("Collecting numpy==2.1 (from -c constraints.txt)", 4) == "package 4: numpy==2.1"
    assert install.doing("  Downloading https://example.org/a/b.whl (3 MB)", 4) == "downloading b.whl (3 MB)"
    assert install.doing("Installing collected packages: a, b, c", 4) == "unpacking 3 packages"
    assert install.doing("Requirement already satisfied: x", 4) is None


@pytest.mark.slow
def test_with_cifar_at_hand_it_says_how_to_go_on(
    offline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, labels = np.random.default_rng(0), np.arange(60) % 3
    images = rng.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    np.savez(offline / "cifar10-jpeg.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    monkeypatch.setenv("DAYBREAK_DATA_DIR", str(offline))
    monkeypatch.setattr(demo, "budget", lambda: 1.0)
    assert demo.main() == 0
    assert ".venv/bin/daybreak train cifar10-jpeg\n      the full recipe" in capsys.readouterr().out


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


def test_a_machine_on_which_no_step_fits_gets_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    budgets: list[float | None] = []

    def train(_: str, budget: float | None, **__: Any) -> str:
        budgets.append(budget)
        if budget is None or budget < needed:
            raise UsageError(f"--budget {budget}s", "over before the first step", "a longer budget")
        return "a run"

    monkeypatch.setattr(demo.api, "train", train)
    needed = 200.0
    assert demo.trained("cifar10", 45.0) == "a run"
    assert budgets == [45.0, demo.PATIENT]
    needed = 1e9
    for seconds in (45.0, None):
        with pytest.raises(UsageError, match="over before the first step"):
            demo.trained("cifar10", seconds)
    assert budgets[2:] == [45.0, demo.PATIENT, None]  # and no further
