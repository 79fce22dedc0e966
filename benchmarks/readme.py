"""Write the tables of the README and the docs, and the figure of accuracy against time, from the records.

    python benchmarks/readme.py

Nothing in between the markers is written by hand; a test holds it equal to the records.
"""

import json
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from daybreak.bench.record import evidence, read_record, settings
from daybreak.core.config import Recipe
from daybreak.core.files import write_text
from daybreak.recipes import RECIPES
from daybreak.report.figures import STYLE, TEST, svg

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "benchmarks" / "records"
FIGURE = ROOT / "docs" / "ladder.svg"
SEED_PAGE, SEED_EPOCHS, SEED_CLAIM = "seed_page", 24, 0.9042  # the write-up's own figures, on the published pixels

ELSEWHERE = ("_nets", "_page-mistake")  # records that have a table of their own in docs/
ALSO_NETS = ("sprint-2",)  # two epochs of sprint, in the ladder's record
TICKS = (60, 120, 300, 600, 1200)  # seconds
HIDDEN = ("--recipe", "--seed", "--device")

Row = dict[str, Any]
DATASET, HARDWARE = "CIFAR-10 (JPEG q75)", "2 cores, AMD EPYC Zen 5"  # of the figure


def main() -> None:
    for file, block, text in blocks():
        file.write_text(block.sub(lambda m, text=text: m[1] + text + m[2], file.read_text()))
    write_text(FIGURE, svg(ladder(rows())))


def blocks() -> list[tuple[Path, re.Pattern[str], str]]:
    """Files, the markers in them, and what belongs in between."""
    texts = {
        (ROOT / "README.md", "results"): table(rows()),
        (ROOT / "README.md", "peers"): peers(),
        (ROOT / "docs" / "nets.md", "nets"): nets(),
        (ROOT / "docs" / "one-cycle.md", "mistake"): mistake(),
    }
    return [(file, between(name), text) for (file, name), text in texts.items()]


def between(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)


def rows() -> list[Row]:
    """Every recipe of the records that are not shown elsewhere, with the record's folder, by data set and time."""
    folders = [
        path.parent for path in sorted(RECORDS.glob("*/record.json")) if not path.parent.name.endswith(ELSEWHERE)
    ]
    found = [row for folder in folders for row in rows_of(folder)]
    return sorted(found, key=lambda row: (row["dataset"], row["train_seconds"]["mean"]))


def rows_of(folder: Path) -> list[Row]:
    """The recipes of one record that have a result."""
    record = read_record(folder)
    return [row | {"folder": folder, "hardware": record["hardware"]} for row in record["recipes"] if row["n"]]


def nets() -> str:
    """What each net reached in two epochs; sprint as it stands in a record of its own."""
    (folder,) = RECORDS.glob("*_nets")
    found = rows_of(folder)
    others = [row for row in rows() if command(row) in ALSO_NETS and row["dataset"] == found[0]["dataset"]]
    head = "| net | run | accuracy (TTA) | training | n |\n" + "| --- " * 5 + "|"
    lines = [
        f"| `{row['config']['model']['name']}` | `{command(row)}` | {accuracy_of(row)} | {seconds_of(row)} | "
        f"{row['n']} |"
        for row in sorted(found + others, key=lambda row: -row["test_acc_tta"]["mean"])
    ]
    return "\n".join([head, *lines, "", about(found[0])]) + "\n"


def mistake() -> str:
    """The assignment's run beside the one with the mistake of its write-up, epoch by epoch."""
    (folder,) = RECORDS.glob("*_page-mistake")
    names = ("page", "page-mistake")
    curves = [evidence(folder)[name][0].metrics("epoch") for name in names]
    head = "| epoch | " + " | ".join(f"`{name}`: rate, test accuracy, test loss" for name in names) + " |"
    lines = [
        f"| {pair[0]['epoch']:g} | "
        + " | ".join(f"{r['lr']:.2g}, {100 * r['test_acc']:.2f} %, {r['test_loss']:.3f}" for r in pair)
        + " |"
        for pair in zip(*curves, strict=True)
    ]
    found = {row["recipe"]: row for row in rows_of(folder)}
    ends = "; ".join(f"`{name}` {accuracy_of(found[name])} in {seconds_of(found[name])}" for name in names)
    text = f"With flip TTA: {ends}. {about(found['page'])}"
    return "\n".join([head, "| --- " * 3 + "|", *lines, "", text]) + "\n"


def about(row: Row) -> str:
    place = row["folder"].relative_to(ROOT).as_posix()
    return (
        f"{row['dataset']}, {hardware(row['hardware'])}, seeds {', '.join(map(str, row['seeds']))}; record `{place}`."
    )


def accuracy_of(row: Row) -> str:
    accuracy = row["test_acc_tta"]
    spread = "" if accuracy["std"] is None else f" ± {100 * accuracy['std']:.2f}"
    return f"{100 * accuracy['mean']:.2f}{spread} %"


def table(found: list[Row]) -> str:
    """The results as Markdown."""
    head = "| run | data | accuracy (TTA) | training | n | hardware | date and record |"
    return "\n".join([head, "| --- " * 7 + "|", *(line(row) for row in found), *map(against_anchor, series())]) + "\n"


def series() -> list[Path]:
    """The records in which recipes alternated with their anchor."""
    return [path.parent for path in sorted(RECORDS.glob("*/ratio.json"))]


def against_anchor(folder: Path) -> str:
    """What the recipes of one series took as a share of the anchor's time, with and without kept memory."""
    found = json.loads((folder / "ratio.json").read_text())
    (plain, anchor), (kept, anchor_kept) = found["anchors"].items()
    text = f"\nIn the same series, alternating: {plain} in plain eager PyTorch took {seconds_of(anchor)} for "
    text += (
        f"{100 * anchor['test_acc_tta']['mean']:.2f} % (n = {anchor['n']}); {seconds_of(anchor_kept)} where it keeps "
    )
    text += f"freed memory as daybreak does (n = {anchor_kept['n']}). "
    text += "; ".join(
        f"`{name}` takes {row['ratio_to'][plain]:.3f} of the first, {row['ratio_to'][kept]:.3f} of the second"
        for name, row in found["recipes"].items()
    )
    return f"{text}. [Record]({folder.relative_to(ROOT).as_posix()}), by `python benchmarks/anchor.py`."


def peers() -> str:
    """Other tools beside daybreak, at equal time on equal pixels, and how long the seed's 24 epochs would take."""
    (path,) = RECORDS.glob("*/peers.json")
    record, folder = json.loads(path.read_text()), path.parent.relative_to(ROOT).as_posix()
    budgets = sorted({row["minutes"] for row in record["results"]})
    names = sorted({row["peer"] for row in record["results"]}, key=lambda name: -best_of(record, name, budgets[0]))
    head = "| | " + " | ".join(f"{m:g} min" for m in budgets) + " |\n" + "| --- " * (1 + len(budgets)) + "|"
    lines = [f"| {name} | " + " | ".join(reached(record, name, m) for m in budgets) + " |" for name in names]
    missing = [f"{name}: {reason}." for name, reason in record["not_installable"].items()]
    facts = f"{record['dataset']}, {hardware(record['hardware'])}; accuracy with a peer's own test-time augmentation "
    facts += f"where it has one. [Record]({folder}), by `python benchmarks/peers.py`."
    return "\n".join([head, *lines, "", " ".join([facts, *missing, seed_factor(record)])]) + "\n"


def result_of(record: Row, name: str, minutes: float) -> Row | None:
    return next((r for r in record["results"] if (r["peer"], r["minutes"]) == (name, minutes) and r["n"]), None)


def best_of(record: Row, name: str, minutes: float) -> float:
    row = result_of(record, name, minutes)
    return (row["test_acc_tta"] or row["test_acc"])["mean"] if row else 0.0


def reached(record: Row, name: str, minutes: float) -> str:
    row = result_of(record, name, minutes)
    if row is None:
        return "–"
    ended = f", in {row['train_seconds']['mean']:.0f} s" if row["off_budget"] else ""
    return f"{100 * best_of(record, name, minutes):.2f} % (n = {row['n']}{ended})"


def seed_factor(record: Row) -> str:
    """From the longest run of the seed's way: its seconds an epoch, 24 times, against sprint's measured time."""
    longest = max((r for r in record["results"] if r["peer"] == SEED_PAGE and r["n"]), key=lambda r: r["minutes"])
    epoch = longest["train_seconds"]["mean"] / longest["epochs"]["mean"]
    expected = RECIPES["sprint"].expected
    assert expected is not None
    assert expected.accuracy >= SEED_CLAIM
    whole = SEED_EPOCHS * epoch
    return (
        f"The seed's own way takes {epoch:.0f} s an epoch here ({longest['epochs']['mean']:.2f} epochs timed), so "
        f"{whole / 3600:.1f} hours for its {SEED_EPOCHS}; `sprint` passes the {100 * SEED_CLAIM:.2f} % that its "
        f"write-up claims (on the published pixels, which are easier) in {expected.train_seconds:.0f} s: "
        f"{whole / expected.train_seconds:.0f} times as fast."
    )


def seconds_of(figures: Row) -> str:
    return f"{figures['train_seconds']['mean']:.0f} s"


def line(row: Row) -> str:
    folder = row["folder"]
    failed = f", {row['failed']} failed" if row["failed"] else ""
    link = f"[{folder.name[:10]}]({folder.relative_to(ROOT).as_posix()})"
    cells = (
        f"`{command(row)}`", row["dataset"], accuracy_of(row), seconds_of(row),
        f"{row['n']}{failed}", hardware(row["hardware"]), link,
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def command(row: Row) -> str:
    """What was asked for: the recipe, or the budget that chose one, and what differs from it."""
    words = row["command"][3:]
    pairs = [
        (key, minutes(value) if key == "--budget" else value) for key, value in zip(*[iter(words)] * 2, strict=True)
    ]
    options = [word for pair in pairs if pair[0] not in HIDDEN for word in pair]
    name = row["config"]["name"]
    then = Recipe.model_validate(row["config"]).model_dump(mode="json")  # keys that are newer have their defaults
    now = RECIPES[name].model_dump(mode="json") if name in RECIPES else {}
    lengths = {"epochs", "steps", "min_steps"} if options else set()
    is_still = {k: v for k, v in settings(now).items() if k not in lengths} == {
        k: v for k, v in settings(then).items() if k not in lengths
    }
    was = [] if is_still else [f"as of {row['folder'].name[:10]}"]
    return " ".join(options if "--budget" in options else [name, *options, *was])


def minutes(seconds: str) -> str:
    return f"{float(seconds) / 60:g}m"


def hardware(facts: Row) -> str:
    name = facts.get("gpu") or facts["cpu"].replace(" (family 26 model 2)", " Zen 5")
    return f"{facts['cores']} cores, {name}"


def ladder(found: list[Row]) -> Figure:
    """Accuracy against training time of every run on one data set and machine, with the deviation of single runs."""
    shown = [row for row in found if row["dataset"] == DATASET and hardware(row["hardware"]) == HARDWARE]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4), layout="constrained")
        axes = figure.subplots()
        for row in shown:
            accuracy, seconds = row["test_acc_tta"], row["train_seconds"]
            axes.errorbar(
                seconds["mean"],
                100 * accuracy["mean"],
                yerr=100 * (accuracy["std"] or 0),
                fmt="o",
                color=TEST,
                capsize=3,
            )
            name, at = command(row), (seconds["mean"], 100 * accuracy["mean"])
            beside = (7, -9) if name.startswith("--budget") else (4, 7)  # budgets and rungs lie close together
            axes.annotate(name, at, textcoords="offset points", xytext=beside)
        axes.set(xscale="log", xlim=(40, 1800), xlabel="training time, seconds", ylabel="test accuracy (TTA), %")
        axes.set_xticks(TICKS, [str(seconds) for seconds in TICKS])
        axes.minorticks_off()
        axes.set_title(f"{DATASET}, {HARDWARE}; written by benchmarks/readme.py", loc="left", fontsize=10)
    return figure


if __name__ == "__main__":
    main()
