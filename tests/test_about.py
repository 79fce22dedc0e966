"""What the program says about itself and the machine: version, shell completion, `daybreak doctor`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import daybreak
from daybreak import cli
from daybreak.recipes import RECIPES


def call(*arguments: object) -> int:
    return cli._run([str(a) for a in arguments])


def test_the_version_is_the_packages_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out == f"daybreak {daybreak.__version__}\n"


def complete(words: str) -> tuple[list[str], str]:
    """What a shell is offered for the last word, and the modules that were imported for it."""
    code = "from daybreak.cli import main; main()"
    env = os.environ | {"_DAYBREAK_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    command = [sys.executable, "-X", "importtime", "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return done.stdout.split(), done.stderr


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("daybreak rec", ["recipes"]),
        ("daybreak recipes --js", ["--json"]),
        ("daybreak recipes page", [name for name in RECIPES if name.startswith("page")]),
        ("daybreak data dig", ["digits"]),
        ("daybreak inspect mara", ["marathon"]),
    ],
)
def test_a_shell_completes_without_loading_torch(words: str, offered: list[str]) -> None:
    completed, imported = complete(words)
    assert completed == offered
    assert "daybreak.cli" in imported
    assert "torch" not in imported


def test_completion_is_installed_for_the_command_whatever_started_it(tmp_path: Path) -> None:
    env = os.environ | {"HOME": str(tmp_path)}
    command = [sys.executable, "-m", "daybreak", "--install-completion", "bash"]
    subprocess.run(command, env=env, capture_output=True, check=True)
    (script,) = (tmp_path / ".bash_completions").iterdir()
    assert script.name == "daybreak.sh"
    assert "_DAYBREAK_COMPLETE=complete_bash" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()
