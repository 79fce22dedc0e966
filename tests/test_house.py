"""The house: files stay readable, starting up stays quick, and a room that reaches too high is found by `make lint`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import daybreak

SOURCE = Path(daybreak.__file__).parent
PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
FILES = sorted(SOURCE.rglob("*.py"))
LONGEST_FILE = 350


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_files_fit_the_mind(path: Path) -> None:
    assert path.read_text().count("\n") <= LONGEST_FILE


@pytest.mark.parametrize("module", ["daybreak", "daybreak.cli", "daybreak.data", "daybreak.core.errors"])
def test_starting_up_does_not_load_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("daybreak.core.clock", "daybreak.data.dataset"),  # upwards
        ("daybreak.evaluation.predict", "daybreak.training.schedule"),  # beside
        ("daybreak.report.html", "daybreak.training.schedule"),  # downwards, but never training
    ],
)
def test_an_import_against_the_flow_is_found(module: str, imported: str, tmp_path: Path) -> None:
    copy = tmp_path / "daybreak"
    shutil.copytree(SOURCE, copy)
    guilty = copy / (module.removeprefix("daybreak.").replace(".", "/") + ".py")
    guilty.write_text(guilty.read_text() + f"\nimport {imported}\n")
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    options = ["--no-cache", str(PYPROJECT)]
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    found = subprocess.run([*command, *options], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 1, found.stdout + found.stderr
    assert module in found.stdout
    assert imported in found.stdout
