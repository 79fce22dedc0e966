"""The command line as a person sees it: in a real terminal of 80 columns."""

import codecs
import fcntl
import io
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.main import get_command
from typer.testing import CliRunner

import daybreak as db
from daybreak import cli
from daybreak.cli.progress_bar import TrainingProgress, fitting
from daybreak.core.clock import in_words
from daybreak.core.options import OPTIONS
from daybreak.explain.maps import ClassMap, MapOptions
from daybreak.explain.overlay import overlay
from daybreak.explain.sheet import CELL, GAP, HEAD, LINE, MAX_ROWS, contact_sheet
from daybreak.models.anatomy.trace import Field

COLUMNS = 80
TINY = ("--set", "model.width=0.1", "--set", "precision=float32", "--device", "cpu", "--no-report")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, folder: Path, *words: object) -> None:
        self.screen, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 30, COLUMNS, 0, 0))
        env = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR", "CI")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "daybreak", *map(str, words)], cwd=folder, stdin=inside, stdout=inside,
            stderr=inside, env=env | {"TERM": "xterm-256color", "DAYBREAK_NATIVE": "0"}, start_new_session=True,
        )  # fmt: skip
        os.close(inside)
        self.text, self._decode = "", codecs.getincrementaldecoder("utf-8")().decode

    def read_until(self, words: str = "") -> str:
        """What has been shown, once these words have been, or to the end."""
        while not words or words not in self.text:
            try:
                piece = os.read(self.screen, 65536)
            except OSError:  # EIO: how Linux says that nobody has the terminal open any more
                break
            if not piece:
                break
            self.text += self._decode(piece)
        return self.text

    def end(self) -> tuple[int, list[str]]:
        """The exit code, and all lines that ever stood on the screen."""
        text = CONTROL.sub("", self.read_until())
        os.close(self.screen)
        return self.process.wait(), [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def test_train_says_at_once_what_it_does_and_cuts_nothing(tmp_path: Path) -> None:
    code, lines = Terminal(tmp_path, "train", "digits", "--epochs", 3, *TINY, "--out", "run").end()
    assert code == 0
    assert lines[0] == "opening data digits …"
    bars = [line for line in lines if "━" in line]
    assert {line.split("  ")[0].split(" ━")[0].split(" ╸")[0] for line in bars} >= {"epoch 1 of 3"}
    assert all(len(line) <= COLUMNS for line in bars)
    assert not [line for line in bars if line.endswith("…")]
    assert re.fullmatch(r"\d+\.\d\d% on digits in \d+\.\d s: run", lines[-1])


def test_ctrl_c_ends_with_the_command_that_goes_on(tmp_path: Path) -> None:
    shown = Terminal(tmp_path, "train", "digits", "--epochs", 2000, *TINY, "--out", "my run")
    shown.read_until("epoch   1  train")
    shown.process.send_signal(signal.SIGINT)
    code, lines = shown.end()
    assert code == 130
    found = re.fullmatch(r"interrupted after \d+ steps; to go on: (daybreak train --resume 'my run')", lines[-1])
    assert found, lines[-3:]
    words = shlex.split(found[1])[1:]
    assert cli._run([*words, "--epochs", "1", "--help"]) == 0  # the parser takes it


def test_lr_find_says_how_long_and_ends_with_the_command_that_uses_it(tmp_path: Path) -> None:
    words = ("--recipe", "small", "--seeds", 2, "--steps", 60, "--device", "cpu", "--set", "model.width=0.2")
    code, lines = Terminal(tmp_path, "lr-find", "digits", *words).end()
    assert code == 0
    assert lines[0] == "opening data digits …"
    assert [line for line in lines if re.fullmatch(r"2 tests of up to 60 steps: about \d+ (s|min)( \d+ s)?", line)]
    assert any("range test 2 of 2" in line for line in lines)
    words = shlex.split(lines[-1].partition(": ")[2])
    assert words[:5] == ["daybreak", "train", "digits", "--recipe", "small"]
    stored = db.find_lr(
        "digits", "small", seeds=2, steps=60, device="cpu", settings={"model.width": 0.2}, out=tmp_path / "again"
    )
    assert ("--lr" in words) == (stored.doubt is None)
    assert words[-2:] == ["--set", "model.width=0.2"]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_time_left_is_never_cut(width: int) -> None:
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=True, color_system=None)
    step = {"event": "step", "batch_loss": 1.234567, "lr": 0.123456, "images_per_second": 12345.6, "progress": 0.5}
    with TrainingProgress(console, quiet=False) as on_event:
        on_event({"event": "start", "epochs": 24, "notes": []})
        for n in range(1, 60):
            on_event(step | {"work": n / 100, "stepping_seconds": float(n)})
    last = CONTROL.sub("", text.getvalue()).strip().splitlines()[-1].rstrip()
    assert last.startswith("epoch 1 of 24 ")
    assert re.search(r" 59 % \d+:\d\d left", last), last
    assert "…" not in last
    assert ("loss 1.235" in last) == (width > 50)
    assert ("images/s" in last) == (width >= 80)


def test_figures_that_do_not_fit_are_left_out_whole() -> None:
    facts = ["loss 1.234", "test 90.00%", "", "100 images/s"]
    assert [fitting(facts, room) for room in (0, 10, 22, 23, 37)] == [
        "", "loss 1.234", "loss 1.234", "loss 1.234  test 90.00%", "loss 1.234  test 90.00%  100 images/s",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (8.4, "8 s"), (60, "1 min"), (200, "3 min 20 s"), (3600, "1 h"), (7510, "2 h 5 min")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_options_and_commands_are_in_groups() -> None:
    commands: dict[str, Any] = get_command(cli.app).commands  # type: ignore[attr-defined]
    assert all(command.rich_help_panel for command in commands.values())
    panels = {p.name: p.rich_help_panel for p in commands["train"].params}
    assert {panels[name] for name in OPTIONS if name != "data"} == {
        "Training", "Data", "Output", "Reliability", "Parts of your own (docs/extend.md)",
    }  # fmt: skip
    assert (panels["as_json"], panels["validate"], panels["epochs"]) == ("Output", "Data", "Training")


@pytest.mark.parametrize("name", sorted(get_command(cli.app).commands))  # type: ignore[attr-defined]
def test_help_fits_80_columns(name: str) -> None:
    shown = CliRunner(env={"COLUMNS": str(COLUMNS), "TERMINAL_WIDTH": str(COLUMNS)}).invoke(cli.app, [name, "--help"])
    lines = [line.rstrip() for line in shown.output.splitlines() if line.strip()]
    assert max(map(len, lines)) <= COLUMNS
    assert not [line for line in lines if re.search(r"\w… *│", line)]
    output = lines.index(next(line for line in lines if line.startswith("╭─ Output")))
    assert any("--help" in line for line in lines[output:])
    assert not any("--help" in line for line in lines[1:output])


def test_a_contact_sheet_has_the_images_with_their_maps() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    values = rng.random((2, 4, 4)).astype(np.float32)
    maps = [ClassMap(i, stage, i, values[i], Field()) for i in range(2) for stage in ("prep", "layer1")]
    maps[1] = ClassMap(0, "layer1", 0, np.ones((1, 1), np.float32), Field())
    sheet = np.asarray(contact_sheet(maps, images, ["one", "two"], ["cat", "dog"], MapOptions()))
    for i in range(2):
        top = HEAD + i * (LINE + CELL + GAP) + LINE
        for column, expected in enumerate([np.zeros((1, 1)), values[i]]):
            left = GAP + column * (CELL + GAP)
            cell = sheet[top : top + CELL, left : left + CELL]
            assert np.array_equal(cell, np.asarray(overlay(images[i], expected, CELL)))
    first = sheet[HEAD + LINE :][:CELL, GAP + 2 * (CELL + GAP) :][:, :CELL]
    assert (first == 255).mean() > 0.8  # a map of one cell has no place to show
    many = [ClassMap(i, "prep", 0, values[0], Field()) for i in range(MAX_ROWS + 5)]
    tall = contact_sheet(many, np.repeat(images[:1], MAX_ROWS + 5, 0), ["x"] * (MAX_ROWS + 5), ["cat"])
    assert tall.height == HEAD + MAX_ROWS * (LINE + CELL + GAP) + LINE


def test_explain_writes_the_sheet_beside_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(db.open_dataset("digits").test.images_NHWC[0, :, :, 0]).save(tmp_path / "mine.png")
    words = ["train", "digits", "--epochs", "1", *TINY, "--out", str(tmp_path / "run"), "-q"]
    assert cli._run(words) == 0
    capsys.readouterr()
    assert cli._run(["explain", str(tmp_path / "run"), "--image", str(tmp_path / "mine.png")]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert paths[-1] == tmp_path / "run" / "figures" / "maps" / "contact-sheet.png"
    assert all(path.parent == paths[-1].parent for path in paths[:-1])
    assert Image.open(paths[-1]).size[0] == GAP + (
        1 + len(db.load(tmp_path / "run").directory.classifier().net.stages)
    ) * (CELL + GAP)
