"""Write the tables of the README and the docs, and the figure of accuracy against time, from the records.

    python benchmarks/readme.py

Everything between the markers is generated; a test checks that it matches the records.
"""

import json
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
from anchor import KEPT, PLAIN
from matplotlib.figure import Figure
from peers import DAYBREAK, TOLERANCE, best

from daybreak.benchmarking.record import evidence, read_record, settings
from daybreak.core.files import write_text
from daybreak.recipes import RECIPES
from daybreak.report.figures import STYLE, TEST, svg
from daybreak.runs.old_format import recipe_of

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "benchmarks" / "records"
FIGURE = ROOT / "docs" / "ladder.svg"
WRITE_UP, WRITE_UP_EPOCHS, WRITE_UP_CLAIM = "seed_page", 24, 0.9042  # its own figures, on the published pixels
PLAIN_PEERS = ("resnet18", "lightning_resnet18", "fastai_resnet18")  # one net and setting under three trainers
ELSEWHERE = ("_nets", "_page-mistake")  # records that have a table of their own in docs/
ALSO_NETS = ("sprint-2",)  # two epochs of sprint, in the record of the ladder of then
TICKS = (60, 120, 300, 600, 1200, 3600)  # seconds
HIDDEN = ("--recipe", "--seed", "--device", "--validate")

Row = dict[str, Any]
DATASET = "CIFAR-10"  # the published pixels: of the figure and of the ratios
COMPRESSED = "CIFAR-10 (JPEG q75)"  # results on these pixels stay in their records and in the tables of docs/


def main() -> None:
    for file, block, text in blocks():
        file.write_text(block.sub(lambda m, text=text: m[1] + text + m[2], file.read_text()))
    write_text(FIGURE, svg(ladder(rows())))


def blocks() -> list[tuple[Path, re.Pattern[str], str]]:
    """Files, the markers in them, and what belongs in between."""
    texts = {
        (ROOT / "README.md", "headline"): headline(),
        (ROOT / "README.md", "results"): table(shown(rows())),
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


def shown(found: list[Row]) -> list[Row]:
    """Without those on compressed images, once there are any on the published pixels."""
    is_measured = any(row["dataset"] == DATASET for row in found)
    return [row for row in found if row["dataset"] != COMPRESSED or not is_measured]


def rows_of(folder: Path) -> list[Row]:
    """The recipes of one record that have a result."""
    record = read_record(folder)
    return [row | {"folder": folder, "hardware": record["hardware"]} for row in record["recipes"] if row["n"]]


def nets() -> str:
    """What each net reached in two epochs; sprint as it stands in a record of its own."""
    (folder,) = RECORDS.glob("*_nets")
    found = rows_of(folder)
    others = [row for row in rows() if row["recipe"] in ALSO_NETS and row["dataset"] == found[0]["dataset"]]
    head = "| net | run | accuracy (TTA) | training | n |\n" + "| --- " * 5 + "|"
    lines = [
        f"| `{row['config']['model']['name']}` | `{command(row)}` | {accuracy_of(row)} | {seconds_of(row)} | "
        f"{row['n']} |"
        for row in sorted(found + others, key=lambda row: -row["test_acc_tta"]["mean"])
    ]
    sources = [about(found[0]), *(f"`{command(row)}`: {about(row)}" for row in others)]
    return "\n".join([head, *lines, "", " ".join(sources)]) + "\n"


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
    seeds = f"seed{'s' * (len(row['seeds']) > 1)} {', '.join(map(str, row['seeds']))}"
    return f"{row['dataset']}, {hardware(row['hardware'])}, {seeds}; record `{place(row['folder'])}`."


def accuracy_of(row: Row) -> str:
    accuracy = row["test_acc_tta"]
    spread = "" if accuracy["std"] is None else f" ± {100 * accuracy['std']:.2f}"
    return f"{100 * accuracy['mean']:.2f}{spread} %"


def table(found: list[Row]) -> str:
    """The results as Markdown."""
    head = "| run | data | accuracy (TTA) | training | n | hardware | date and record |"
    compared = [against_anchor(folder) for folder in anchor_series()]
    return "\n".join([head, "| --- " * 7 + "|", *(line(row) for row in found), *compared]) + "\n"


def headline() -> str:
    """What daybreak is ahead of, in a sentence or two."""
    record, folder = peers_record()
    minutes = max(row["minutes"] for row in record["results"])
    ours = result_of(record, DAYBREAK, minutes)
    theirs = [row for name in PLAIN_PEERS if (row := result_of(record, name, minutes))]
    assert ours is not None
    low, high = (f(map(per_cent, theirs)) for f in (min, max))
    runs = " or ".join(str(n) for n in sorted({row["n"] for row in [ours, *theirs]}))
    text = f"With a budget of {minutes:g} minutes on {hardware(record['hardware'])}, it reaches {per_cent(ours):.1f} % "
    text += f"on {record['dataset']}.\n"
    text += f"A standard ResNet-18 in plain PyTorch, Lightning or fastai reaches {low:.0f} to {high:.0f} % "
    text += f"([n = {runs} each]({folder})).\n"
    return text + "".join(map(anchor_sentence, anchor_series()))


def anchor_sentence(folder: Path) -> str:
    """Nothing where no recipe has reached the anchor's accuracy."""
    name, anchor, equal = fair_anchor(folder)
    if equal["train"]["ratio"] is None:
        return ""
    machine = hardware(read_record(folder)["hardware"])
    return (
        f"It reaches the accuracy of {name} (Jordan 2024), a method built for speed, in "
        f"{equal['train']['ratio']:.2f} of its time\n"
        f"({100 * equal['accuracy']:.2f} % on {DATASET}; {machine}; [n = {anchor['n']}]({place(folder)})).\n"
    )


def anchor_series() -> list[Path]:
    """The records in which recipes alternated with an anchor that may be compared.

    On a CPU that is one that keeps freed memory, as daybreak does: without that setting it spends a third of its time
    on page faults.
    """
    folders = [path.parent for path in sorted(RECORDS.glob("*/ratio.json"))]
    return [folder for folder in folders if fair_name(folder) in ratios(folder).get("equal_accuracy", {})]


def ratios(folder: Path) -> Row:
    found: Row = json.loads((folder / "ratio.json").read_text())
    return found


def fair_name(folder: Path) -> str:
    return PLAIN if read_record(folder)["hardware"].get("gpu") else KEPT


def fair_anchor(folder: Path) -> tuple[str, Row, Row]:
    """Name, figures and the comparison at equal accuracy of a series' anchor."""
    found, name = ratios(folder), fair_name(folder)
    return PLAIN, found["anchors"][name], found["equal_accuracy"][name]


def against_anchor(folder: Path) -> str:
    """A paragraph on the anchor, the rungs beside it, and the time to its mean accuracy if there is one."""
    name, anchor, equal = fair_anchor(folder)
    rungs = ", ".join(
        f"`{row['recipe']}` {accuracy_of(row)} in {seconds_of(row)} (n = {row['n']})"
        for row in read_record(folder)["recipes"]
        if row["n"]
    )
    both = equal["train and evaluate"]["ratio"]
    and_both = "" if both is None else f", {both:.2f} with the evaluation of the finished net on either clock"
    if equal["train"]["ratio"] is None:
        verdict = "None of them brackets its accuracy, so there is no time to equal accuracy yet."
    else:
        verdict = (
            f"On the line through them its accuracy takes {equal['train']['seconds']:.0f} s, "
            f"{equal['train']['ratio']:.2f} of its time{and_both}."
        )
    return (
        "\nBeside the anchor, alternating in one series with the same memory setting: "
        f"{name} {accuracy_of(anchor)} in {seconds_of(anchor)} (n = {anchor['n']}); {rungs}. {verdict} "
        f"[Record]({place(folder)}), by `python benchmarks/anchor.py`."
    )


def place(folder: Path) -> str:
    return folder.relative_to(ROOT).as_posix()


def peers_record() -> tuple[Row, str]:
    """The series of daybreak beside other tools, and its folder."""
    (path,) = RECORDS.glob("*/peers.json")
    return json.loads(path.read_text()), place(path.parent)


def peers() -> str:
    """Other tools beside daybreak, with equal budgets and pixels, and how long the write-up's training would take."""
    record, folder = peers_record()
    budgets = sorted({row["minutes"] for row in record["results"]})
    names = sorted({row["peer"] for row in record["results"]}, key=lambda name: -accuracy_at(record, name, budgets[0]))
    head = "| | " + " | ".join(f"{m:g} min" for m in budgets) + " |\n" + "| --- " * (1 + len(budgets)) + "|"
    lines = [f"| {name} | " + " | ".join(reached(record, name, m) for m in budgets) + " |" for name in names]
    missing = [f"{name}: {reason}." for name, reason in record["not_installable"].items()]
    facts = f"{record['dataset']}, {hardware(record['hardware'])}; accuracy with a peer's own test-time augmentation "
    facts += f"where it has one; seconds are the training time that was used. [Record]({folder}), by "
    facts += "`python benchmarks/peers.py`."
    notes = [facts, *missing, off_budget(record), MEMORY if "memory" in record else MEMORY_THEN, write_up(record)]
    return "\n".join([head, *lines, "", " ".join(notes)]) + "\n"


MEMORY = "Freed memory stays in the process for all of them."
MEMORY_THEN = (
    "daybreak keeps freed memory while it trains on a CPU; the peers run with glibc's default, which is slower with "
    "large batches."
)


def off_budget(record: Row) -> str:
    """Names the results whose training time is not the budget."""
    off: dict[str, list[str]] = {}
    for row in sorted(record["results"], key=lambda row: (row["peer"], row["minutes"])):
        if row["n"] and row["off_budget"]:
            off.setdefault(row["peer"], []).append(f"{row['train_seconds']['mean']:.0f} of {60 * row['minutes']:g} s")
    listed = "; ".join(f"{name} ({', '.join(times)})" for name, times in off.items())
    return (
        "A peer decides before it starts how many steps fit, so it can end early or late. These are more than "
        f"{100 * TOLERANCE:.0f} % off the budget and not compared at equal time: {listed}."
    )


def result_of(record: Row, name: str, minutes: float) -> Row | None:
    return next((r for r in record["results"] if (r["peer"], r["minutes"]) == (name, minutes) and r["n"]), None)


def accuracy_at(record: Row, name: str, minutes: float) -> float:
    row = result_of(record, name, minutes)
    return per_cent(row) if row else 0.0


def per_cent(row: Row) -> float:
    """The accuracy of a peer's result, with its own test-time augmentation where it has one."""
    accuracy = best(row)
    assert accuracy is not None
    return float(100 * accuracy["mean"])


def reached(record: Row, name: str, minutes: float) -> str:
    row = result_of(record, name, minutes)
    if row is None:
        return "–"
    return f"{per_cent(row):.2f} % ({row['train_seconds']['mean']:.0f} s, n = {row['n']})"


def write_up(record: Row) -> str:
    """How long the write-up's 24 epochs would take, from its longest run here."""
    longest = max((r for r in record["results"] if r["peer"] == WRITE_UP and r["n"]), key=lambda r: r["minutes"])
    epochs = longest["epochs"]["mean"]
    epoch = longest["train_seconds"]["mean"] / epochs
    return (
        f"`{WRITE_UP}` trains the way of the write-up that this project starts from: {epoch:.0f} s an epoch here "
        f"({epochs:.2f} epochs measured), which extrapolates to {WRITE_UP_EPOCHS * epoch / 3600:.1f} hours for its "
        f"{WRITE_UP_EPOCHS}. Its claim of {100 * WRITE_UP_CLAIM:.2f} % is on the published pixels, which are easier, "
        "and has not been repeated here."
    )


def seconds_of(figures: Row) -> str:
    return f"{figures['train_seconds']['mean']:.0f} s"


def line(row: Row) -> str:
    folder = row["folder"]
    failed = f", {row['failed']} failed" if row["failed"] else ""
    link = f"[{folder.name[:10]}]({place(folder)})"
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
    then = recipe_of(row["config"]).model_dump(mode="json")  # keys that are newer have their defaults
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
    """Accuracy against training time of every run on one data set and machine, with the deviation of single runs: the
    machine of the newest record."""
    of_this_data = [row for row in shown(found) if row["dataset"] in (DATASET, COMPRESSED)]
    newest = max(of_this_data, key=lambda row: row["folder"].name)
    data, machine = newest["dataset"], hardware(newest["hardware"])
    drawn = [row for row in of_this_data if hardware(row["hardware"]) == machine]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4), layout="constrained")
        axes = figure.subplots()
        for row in drawn:
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
        axes.set(xscale="log", xlim=(40, 4000), xlabel="training time, seconds", ylabel="test accuracy (TTA), %")
        axes.set_xticks(TICKS, [str(seconds) for seconds in TICKS])
        axes.minorticks_off()
        axes.set_title(f"{data}, {machine}; written by benchmarks/readme.py", loc="left", fontsize=10)
    return figure


if __name__ == "__main__":
    main()
