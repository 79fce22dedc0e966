"""The house: files stay readable, starting up stays quick, and a room that reaches too high is found by `make lint`."""

import dataclasses
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import daybreak

SOURCE = Path(daybreak.__file__).parent
ROOT = Path(__file__).parents[1]
PYPROJECT = ROOT / "pyproject.toml"
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


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("house")


def test_the_picture_of_the_rooms_is_what_their_imports_say(house: ModuleType) -> None:
    """It is what `python docs/house.py` draws."""
    assert house.PICTURE.read_text(encoding="utf-8") == house.svg(house.draw())


def test_every_room_is_in_a_layer_and_described(house: ModuleType) -> None:
    layers = [room for layer in house.layers() for room in layer]
    rooms = {path.stem for path in SOURCE.iterdir() if path.is_dir() and list(path.glob("*.py"))}
    modules = {path.stem for path in SOURCE.glob("*.py")} - {"__init__", "__main__"}
    assert sorted(layers) == sorted(rooms | modules)
    described = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [room for room in layers if f"| `{room}`" not in described] == []


def test_arrows_that_others_imply_are_left_out(house: ModuleType) -> None:
    edges = {"top": {"left", "right", "base"}, "left": {"base"}, "right": {"base", "left"}, "base": set()}
    assert house.reduced(edges) == {"top": {"right"}, "left": {"base"}, "right": {"left"}, "base": set()}
    assert house.rows([["top"], ["right"], ["left"], ["base"]], edges) == [["base"], ["left"], ["right"], ["top"]]
    apart = {"top": {"base"}, "left": {"base"}, "right": {"base"}, "base": set()}
    assert house.rows([["top"], ["right"], ["left"], ["base"]], apart) == [["base"], ["left", "right", "top"]]


def test_no_arrow_runs_through_a_box(house: ModuleType) -> None:
    """Where an arrow passes a row, it keeps its distance from the rooms there."""
    edges = house.imports({room for layer in house.layers() for room in layer})
    stacked = house.rows(house.layers(), edges)
    places = house.place(stacked, house.ways(stacked, house.reduced(edges)))
    passing = [node for node in places if not isinstance(node, str)]
    assert passing
    for node in passing:
        for room in stacked[node[2]]:
            assert abs(places[node][0] - places[room][0]) >= house.WIDTH / 2 + house.GAP - 0.02


VALUES = [
    "daybreak.core.clock:Every", "daybreak.core.launcher:Launch", "daybreak.core.lr_curve:RangeTest",
    "daybreak.core.lr_curve:LrFindResult", "daybreak.core.machine:Folder", "daybreak.core.metrics:ReliabilityBin",
    "daybreak.core.metrics:Answered", "daybreak.core.metrics:ClassScore", "daybreak.core.options:Cli",
    "daybreak.core.options:TrainOptions", "daybreak.core.timing:Effort", "daybreak.runs.card:ModelCard",
    "daybreak.runs.classifier:Classifier", "daybreak.runs.metrics_rows:Kept", "daybreak.runs.predictions:Predictions",
    "daybreak.runs.transforms:Normalizer", "daybreak.training.checkpoint:Checkpoint",
]  # fmt: skip


@pytest.mark.parametrize("path", VALUES)
def test_what_is_handed_around_cannot_be_changed(path: str) -> None:
    module, _, name = path.partition(":")
    found = getattr(importlib.import_module(module), name)
    assert dataclasses.is_dataclass(found)
    assert found.__dataclass_params__.frozen  # type: ignore[attr-defined]
