"""An environment of its own, with pinned versions and a CPU build of PyTorch, for each peer that needs packages."""

import ast
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from series import DAYBREAK, say, without_paths

SCRIPTS = Path(__file__).parent / "peers"


def environments(peers: Iterable[str], folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """The Python of each peer, and why others have none. Peers without requirements use daybreak's own."""
    pythons, reasons = {}, {}
    for peer in peers:
        needs = () if peer == DAYBREAK else requirements(SCRIPTS / f"{peer}.py")
        try:
            pythons[peer] = environment(peer, needs, folder) if needs else Path(sys.executable)
        except RuntimeError as error:
            reasons[peer] = f"not installable here: {error}"
            say(f"{peer}: {reasons[peer]}")
    return pythons, reasons


def requirements(script: Path) -> tuple[str, ...]:
    """What stands in a script as REQUIREMENTS; it is read, not run, since it imports what may not be there yet."""
    for node in ast.parse(script.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "REQUIREMENTS":
            return tuple(ast.literal_eval(node.value))
    return ()


def environment(peer: str, needs: tuple[str, ...], folder: Path) -> Path:
    """The Python of an environment with these packages, made where there is none.

    Raises:
        RuntimeError: the packages cannot be had, would bring CUDA, or do not load.
    """
    home = folder / f"{peer}-{hashlib.sha256(repr(needs).encode()).hexdigest()[:8]}"
    python, ready = home / "bin" / "python", home / ".ready"
    if not ready.exists():
        say(f"{peer}: making an environment with {', '.join(needs)}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        install(pip, needs)
        must(run_quietly([str(python), str(SCRIPTS / f"{peer}.py"), "--help"]))
        ready.touch()
    return python


def install(pip: list[str], needs: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        plan = Path(scratch) / "plan.json"
        must(run_quietly([*pip, "--dry-run", "--report", str(plan), *needs]))
        wanted = [entry["metadata"]["name"] for entry in json.loads(plan.read_text())["install"]]
    cuda = sorted(name for name in wanted if name.startswith(("nvidia-", "cuda-", "triton")))
    if cuda:
        raise RuntimeError(f"would bring CUDA packages ({cuda[0]} and {len(cuda) - 1} more)")
    must(run_quietly([*pip, *needs]))


def run_quietly(line: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line, capture_output=True, text=True, check=False)


def must(process: subprocess.CompletedProcess[str]) -> None:
    if process.returncode:
        last = (process.stderr.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        raise RuntimeError(without_paths(last))
