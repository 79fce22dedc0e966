"""Rows of the docs' tables, drawn at random to be repeated by their commands, and what came out.

    python benchmarks/repeats.py draw --seed 2026-11-28
    python benchmarks/repeats.py table benchmarks/records/DATE_repeats

The first prints all rows that have an interval or a deviation, in a random order: repeat the first three that this
machine can. The second compares them in docs/measuring.md. A record has draw.json, with the rows as they were drawn and
why others were passed over, and what their commands wrote: `rivals/`, `labels.json`.
"""

import argparse
import json
import random
import re
from pathlib import Path

import faithfulness
import label_errors
import rivals
from tables import ROOT, between, hardware, record_of

from daybreak.core.files import write_text

DOCS = ROOT / "docs" / "measuring.md"
BLOCK = between("repeats")
GENERATED = re.compile(r"<!-- ([a-z-]+) -->\n(.*?)<!-- end of \1 -->", re.DOTALL)
UNSURE = re.compile(r"±|\d to [+-]?\d")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("draw").add_argument("--seed", required=True)
    commands.add_parser("table").add_argument("record", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "draw":
        for number, (file, block, row) in enumerate(drawn(arguments.seed), 1):
            print(number, file, block, row)
    else:
        write_text(DOCS, BLOCK.sub(lambda m: m[1] + table(arguments.record) + m[2], DOCS.read_text()))


def drawn(seed: str) -> list[tuple[str, str, str]]:
    """File, block and row of every generated table, in random order; this comparison's own rows are left out."""
    found = [
        (file.name, name, line)
        for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
        for name, body in GENERATED.findall(file.read_text(encoding="utf-8"))
        for line in body.splitlines()
        if name != "repeats" and line.startswith("|") and UNSURE.search(line)
    ]
    random.Random(seed).shuffle(found)
    return found


def table(folder: Path) -> str:
    """The rows that were repeated, as drawn and as they came out, and those that were passed over."""
    draw = json.loads((folder / "draw.json").read_text())
    lines = ["| table | row as drawn | repeated |", "| --- " * 3 + "|"]
    lines += [
        f"| {entry['block']} | {cells(entry['row'])} | {cells(again(folder, entry['block'], entry['row']))} |"
        for entry in draw["drawn"]
        if "passed_over" not in entry
    ]
    passed = [f"{cells(e['row'])} ({e['passed_over']})" for e in draw["drawn"] if "passed_over" in e]
    setting = json.loads((folder / "rivals" / "setting.json").read_text())
    about = f"{hardware(setting['hardware'])}; record `benchmarks/records/{folder.name}`. Passed over: "
    return "\n".join([*lines, "", about + "; ".join(passed) + "."]) + "\n"


def again(folder: Path, block: str, row: str) -> str:
    """The same row of what the repeated command wrote. Maps of today's net stand in the docs themselves."""
    if block == "rivals":
        text = rivals.table(folder / "rivals", (rivals.REFERENCE, name_of(row)))
    elif block == "labels":
        text = label_errors.table(json.loads((folder / "labels.json").read_text()))
    else:
        record = record_of("faithfulness", "faithfulness.json")
        text = faithfulness.table(json.loads((record / "faithfulness.json").read_text()), record.name)
    return next(line for line in text.splitlines() if line.startswith("|") and name_of(line) == name_of(row))


def name_of(row: str) -> str:
    return row.strip("| ").split(" | ")[0].split(",")[0]


def cells(row: str) -> str:
    """The row without its bars, as a cell of another table."""
    return "; ".join(cell.strip() for cell in row.strip("|").split("|") if cell.strip())


if __name__ == "__main__":
    main()
