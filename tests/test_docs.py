"""Documents cannot drift: links lead somewhere, commands exist, named records are there and say what is claimed."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.main import get_command

from daybreak import cli
from daybreak.recipes import RECIPES

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
COMMAND = re.compile(r"^\s*(?:\$ )?(?:\.venv/bin/)?daybreak (.*)$", re.MULTILINE)


def code_of(page: Path) -> str:
    return "\n".join(re.findall(r"```(?:sh|console)?\n(.*?)```", page.read_text(), re.DOTALL))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)|(?:src|srcset)=\"([^\"]+)\"", page.read_text())
    local = [a or b for a, b in links if not (a or b).startswith(("http", "data:"))]
    assert not [link for link in local if not (page.parent / link).exists()]


def commands() -> list[str]:
    shown = [line for page in PAGES for line in COMMAND.findall(code_of(page))]
    examples = [c.epilog.removeprefix("Example: daybreak ") for c in get_command(cli.app).commands.values()]
    return shown + examples


def test_there_are_commands_to_check() -> None:
    assert len(commands()) > 10


@pytest.mark.parametrize("line", commands())
def test_every_command_shown_is_one_the_parser_takes(line: str) -> None:
    name, *arguments = shlex.split(line.split(" #")[0])
    command = get_command(cli.app).commands[name]
    with command.make_context(name, arguments, resilient_parsing=False) as context:
        assert context.params


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30), "orange").save("cat.jpg")
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["run"].summary.test_acc > 0.97


@pytest.mark.parametrize("name", [n for n, r in RECIPES.items() if r.expected])
def test_a_recipe_claims_what_its_record_says(name: str) -> None:
    expected = RECIPES[name].expected
    assert expected is not None
    record = json.loads((ROOT / expected.record / "record.json").read_text())
    assert record["test_acc_tta"]["mean"] == pytest.approx(expected.accuracy, abs=5e-5)
    assert record["train_seconds"]["mean"] == pytest.approx(expected.train_seconds, abs=0.5)
    assert record["dataset"] == expected.dataset
    used = {k: v for k, v in record["recipe"].items() if k != "expected"}
    assert used == RECIPES[name].model_dump(mode="json", exclude={"expected"})


@pytest.mark.parametrize("record", sorted((ROOT / "benchmarks" / "records").glob("*/record.json")), ids=str)
def test_records_add_up(record: Path) -> None:
    values = json.loads(record.read_text())
    summaries = [json.loads(p.read_text()) for p in sorted(record.parent.glob("seed-*/summary.json"))]
    assert len(summaries) == len(values["seeds"]) == values["n"] + values["failed"]
    for figure in ("test_acc", "test_acc_tta", "train_seconds"):
        assert sorted(values[figure]["values"]) == sorted(s[figure] for s in summaries)
        assert values[figure]["mean"] == pytest.approx(sum(s[figure] for s in summaries) / len(summaries))


def test_the_readme_quotes_its_records() -> None:
    """Every row of the table of results links its record and quotes its accuracy and seconds."""
    rows = re.findall(r"^\|.*\]\((benchmarks/records/[^)]+)\).*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if "](benchmarks/records/" in line]
    assert len(rows) == len(lines) >= 2
    for folder, line in zip(rows, lines, strict=True):
        record = json.loads((ROOT / folder / "record.json").read_text())
        assert f"{100 * record['test_acc_tta']['mean']:.2f} %" in line
        assert f"{record['train_seconds']['mean']:.0f} s" in line
        assert record["dataset"] in line
