"""The house: a module imports only from modules above it, and files stay readable."""

import ast
from pathlib import Path

import pytest

import daybreak

SOURCE = Path(daybreak.__file__).parent
# Top to bottom: what stands later may import what stands earlier, never the other way round.
HOUSE = [
    "errors", "config", "recipes", "clock", "durable", "device", "schedule", "data.dataset", "augment", "data",
    "data.loader", "models.layers", "models.trace", "models.foreign", "models.page", "models.sprint", "models.vgg",
    "models.inception", "models.resnet", "models", "models.effective", "models.fold",
    "optim", "metrics", "inference", "run", "checkpoint", "signals", "pace", "session", "finite", "compilation",
    "steplog", "state", "outcome", "loop", "training", "lr_range", "choice", "latency", "record", "dawn", "evaluate",
    "comparison", "label_errors", "maps", "explain", "views", "faithfulness", "inspection", "predict", "gallery",
    "report", "serve", "notebook", "trained", "tracking", "api", "benchmark", "progress", "show", "demo", "cli",
    "__main__",
]  # fmt: skip
FILES = sorted(SOURCE.rglob("*.py"))
LONGEST_FILE = 350


def floor_of(module: str) -> int:
    """Where a module stands; parts of a package stand where the package does unless they are named."""
    while module not in HOUSE:
        module = module.rpartition(".")[0]
    return HOUSE.index(module)


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Modules of daybreak that a file imports when it is loaded (what only type checkers see does not count)."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.name.removeprefix("daybreak.") for a in node.names if a.name.startswith("daybreak.")}
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("daybreak"):
            base = (node.module or "").removeprefix("daybreak").lstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                found.add(inner if (SOURCE / (inner.replace(".", "/") + ".py")).exists() else base)
    return found - {""}


@pytest.mark.parametrize("path", [p for p in FILES if p != SOURCE / "__init__.py"], ids=name_of)
def test_imports_go_up_only(path: Path) -> None:
    here = name_of(path)
    above = {m for m in imports_of(path) if floor_of(m) > floor_of(here)}
    assert not above, f"{here} stands above {sorted(above)} and must not import them"


def test_the_check_can_fail(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("from daybreak.training import train\nfrom daybreak import metrics\nimport daybreak.data.cache\n")
    assert imports_of(bad) == {"training", "metrics", "data.cache"}
    assert floor_of("training") > floor_of("config")
    assert floor_of("data.cache") == floor_of("data")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_fit_the_mind(path: Path) -> None:
    assert path.read_text().count("\n") <= LONGEST_FILE


@pytest.mark.parametrize("module", ["daybreak", "daybreak.cli", "daybreak.data", "daybreak.errors"])
def test_starting_up_does_not_load_torch(module: str) -> None:
    import subprocess
    import sys

    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
