"""The wheel: it builds, has what it needs and nothing else, and works where there is no repository."""

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as pip builds it for a user: in an environment of its own, from pyproject.toml alone."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--quiet", "--wheel-dir", str(folder)]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (found,) = folder.iterdir()
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel. What daybreak depends on is lent from this one: nothing is downloaded."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False, symlinks=True)
    executable = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(executable),
        "install",
        "--no-deps",
        "--no-index",
        str(wheel),
    ]
    subprocess.run(command, check=True, capture_output=True)
    # Added after our own folder, and by a line that runs no .pth files there: an editable daybreak stays outside.
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return executable


def run(python: Path, folder: Path, *arguments: str) -> str:
    """What `python ARGUMENTS` prints in a folder outside the repository."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    inside = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    parts = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*") if path.is_file()}
    assert inside == {path for path in parts if "__pycache__" not in path}
    assert "daybreak/py.typed" in inside
    templates = {Path(name).suffix for name in inside if name.startswith("daybreak/report/templates/")}
    assert templates == {".html", ".js", ".css"}


def test_its_metadata_says_what_it_is(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        metadata = archive.read(name).decode()
    assert f"Version: {PROJECT['version']}\n" in metadata
    assert "Classifier: Typing :: Typed\n" in metadata
    assert "# daybreak" in metadata  # the README


def test_what_was_installed_works_outside_the_repository(python: Path, tmp_path: Path) -> None:
    where = Path(run(python, tmp_path, "-c", "import daybreak; print(daybreak.__file__)").strip())
    assert where.is_relative_to(python.parents[1])
    assert run(python, tmp_path, "-m", "daybreak", "--version") == f"daybreak {PROJECT['version']}\n"
    listed = json.loads(run(python, tmp_path, "-m", "daybreak", "recipes", "--json"))["recipes"]
    assert "sprint" in [recipe["name"] for recipe in listed]


def test_what_was_installed_trains_and_reports(python: Path, tmp_path: Path) -> None:
    options = ["--epochs", "1", "--set", "model.width=0.1", "--out", "run", "--json"]
    summary = json.loads(run(python, tmp_path, "-m", "daybreak", "train", "digits", *options))
    assert summary["test_acc"] > 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["versions"]["daybreak"] == PROJECT["version"]
    assert "<h1" in (tmp_path / "run" / "report.html").read_text()
