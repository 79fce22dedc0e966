"""What the generated tables have in common: the rows of the records, and how a cell says what a row is."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from daybreak.benchmarking.record import read_record, settings
from daybreak.core.config import LENGTH
from daybreak.recipes import RECIPES
from daybreak.runs.old_format import recipe_of

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "benchmarks" / "records"
ELSEWHERE = ("_nets", "_page-mistake", "_stairs")  # records that have a table of their own in docs/
HIDDEN = ("--recipe", "--seed", "--device", "--validate", "--compile")

Row = dict[str, Any]
DATASET = "CIFAR-10"  # the published pixels: of the figure and of the ratios
COMPRESSED = "CIFAR-10 (JPEG q75)"  # results on these pixels stay in their records and in the tables of docs/


def between(name: str) -> re.Pattern[str]:
    """The place in a page that is generated."""
    return re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)


def record_of(ending: str, file: str = "record.json") -> Path:
    """The newest record whose name ends like this and that has the file."""
    return max(path.parent for path in RECORDS.glob(f"*_{ending}/{file}"))


def rows() -> list[Row]:
    """Every recipe of the records that are not shown elsewhere, with the record's folder, by data set and time."""
    folders = [
        path.parent for path in sorted(RECORDS.glob("*/record.json")) if not path.parent.name.endswith(ELSEWHERE)
    ]
    found = [row for folder in folders for row in rows_of(folder)]
    return sorted(found, key=lambda row: (row["dataset"], row["train_seconds"]["mean"]))


def shown(found: list[Row]) -> list[Row]:
    """Without those on compressed images, once there are any on the published pixels."""
    is_measured = any(row["dataset"] == DATASET for row in found)
    return [row for row in found if row["dataset"] != COMPRESSED or not is_measured]


def rows_of(folder: Path) -> list[Row]:
    """The recipes of one record that have a result."""
    record = read_record(folder)
    return [row | {"folder": folder, "hardware": record["hardware"]} for row in record["recipes"] if row["n"]]


def about(row: Row) -> str:
    seeds = f"seed{'s' * (len(row['seeds']) > 1)} {', '.join(map(str, row['seeds']))}"
    return f"{row['dataset']}, {hardware(row['hardware'])}, {seeds}; record `{place(row['folder'])}`."


def accuracy_of(row: Row, figure: str = "test_acc_tta") -> str:
    accuracy = row[figure]
    spread = "" if accuracy["std"] is None else f" ± {100 * accuracy['std']:.2f}"
    return f"{100 * accuracy['mean']:.2f}{spread} %"


def seconds_of(figures: Row) -> str:
    seconds = figures["train_seconds"]["mean"]
    return f"{seconds:.1f} s" if seconds < 20 else f"{seconds:.0f} s"


def second_run(once: Sequence[float]) -> str:
    """What it would take to run everything that was run once again, each on its own hardware, from seconds of each."""
    return f"A second run of each where n = 1 costs {sum(once) / 60:.0f} minutes." if once else ""


def of_single(found: Iterable[Row]) -> list[float]:
    """Seconds of training of the rows that have one run."""
    return [row["train_seconds"]["mean"] for row in found if row["n"] == 1]


def place(folder: Path) -> str:
    return folder.relative_to(ROOT).as_posix()


def hardware(facts: Row) -> str:
    if "gpu" in facts:
        return str(facts["gpu"])
    return f"{facts['cores']} cores, {facts['cpu'].replace(' (family 26 model 2)', ' Zen 5')}"


def command(row: Row) -> str:
    """What was asked for: the recipe, or the budget that chose one, and what differs from it."""
    words = row["command"][3:]
    pairs = [
        (key, minutes(value) if key == "--budget" else value) for key, value in zip(*[iter(words)] * 2, strict=True)
    ]
    options = [word for pair in pairs if pair[0] not in HIDDEN for word in pair]
    name = row["config"]["name"]
    then = recipe_of(row["config"]).model_dump(mode="json")  # keys that are newer have their defaults
    now = RECIPES[name].model_dump(mode="json") if name in RECIPES else {}
    lengths = set(LENGTH) if options else set()
    is_still = {k: v for k, v in settings(now).items() if k not in lengths} == {
        k: v for k, v in settings(then).items() if k not in lengths
    }
    was = [] if is_still else [f"as of {row['folder'].name[:10]}"]
    return " ".join(options if "--budget" in options else [name, *options, *was])


def minutes(seconds: str) -> str:
    return f"{float(seconds) / 60:g}m"
