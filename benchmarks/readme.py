"""Write the tables of the README and the docs, and the figure of accuracy against time, from the records.

    python benchmarks/readme.py

Everything between the markers is generated; a test checks that it matches the records.
"""

import json
import re
from pathlib import Path

import matplotlib as mpl
import tables
from anchor import KEPT, PLAIN
from docs_tables import fuzz, mistake, mutants, nets, stairs, stairs_figure
from matplotlib.figure import Figure
from peer_results import best
from peers import TOLERANCE
from series import DAYBREAK
from tables import (
    COMPRESSED,
    DATASET,
    ROOT,
    Row,
    accuracy_of,
    between,
    command,
    hardware,
    of_single,
    place,
    rows,
    second_run,
    seconds_of,
    shown,
)

from daybreak.benchmarking.record import read_record
from daybreak.core.files import write_text
from daybreak.report.figures import STYLE, TEST, svg

FIGURE, STAIRS = ROOT / "docs" / "ladder.svg", ROOT / "docs" / "stairs.svg"
WRITE_UP, WRITE_UP_EPOCHS, WRITE_UP_CLAIM = "seed_page", 24, 0.9042  # its own figures, on the published pixels
PLAIN_PEERS = ("resnet18", "lightning_resnet18", "fastai_resnet18")  # one net and setting under three trainers
TICKS = (0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600, 1200, 3600)  # seconds


def main() -> None:
    for file, block, text in blocks():
        file.write_text(block.sub(lambda m, text=text: m[1] + text + m[2], file.read_text()))
    write_text(FIGURE, svg(ladder(rows())))
    write_text(STAIRS, svg(stairs_figure()))


def blocks() -> list[tuple[Path, re.Pattern[str], str]]:
    """Files, the markers in them, and what belongs in between."""
    texts = {
        (ROOT / "README.md", "headline"): headline(),
        (ROOT / "README.md", "results"): table(shown(rows())),
        (ROOT / "README.md", "peers"): peers(),
        (ROOT / "docs" / "nets.md", "nets"): nets(),
        (ROOT / "docs" / "one-cycle.md", "mistake"): mistake(),
        (ROOT / "docs" / "photos.md", "photo-peers"): photo_peers(),
        (ROOT / "docs" / "reliability.md", "fuzz"): fuzz(),
        (ROOT / "docs" / "reliability.md", "mutants"): mutants(),
        (ROOT / "docs" / "stairs.md", "stairs"): stairs(),
    }
    return [(file, between(name), text) for (file, name), text in texts.items()]


def table(found: list[Row]) -> str:
    """The results as Markdown."""
    head = "| run | data | accuracy (TTA) | training | n | hardware | date and record |"
    compared = [against_anchor(folder) for folder in anchor_series()]
    lines = [head, "| --- " * 7 + "|", *map(line, found)]
    return "\n".join([*lines, "", second_run(of_single(found)), *compared]) + "\n"


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
    return text + "".join(map(anchor_sentence, anchor_series())) + steps_sentence()


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


def steps_sentence() -> str:
    """How long recipes take to the anchor's accuracy by steps of both in turn; nothing where none has reached it."""
    folder = tables.record_of("steps", "steps.json")
    found = json.loads((folder / "steps.json").read_text())
    equal = found.get("equal_accuracy") or {}
    if not equal.get("ratio"):
        return ""
    ours = " and ".join(f"{n} of `{run}`" for run, n in equal["recipe_runs"].items())
    accuracies = hardware(read_record(tables.RECORDS / equal["record"])["hardware"])
    return (
        f"To the mean accuracy of {PLAIN} (Jordan 2024), a method built for speed, it takes an estimated\n"
        f"{equal['ratio']:.2f} of its time ({100 * equal['accuracy']:.2f} % on {found['dataset']}; "
        f"{hardware(found['hardware'])}; steps of both [in turn]({place(folder)});\n"
        f"accuracies of {equal['anchor_runs']} of its runs and {ours} on an {accuracies}).\n"
    )


def anchor_series() -> list[Path]:
    """The records in which recipes alternated with an anchor that may be compared.

    On a CPU that is one that keeps freed memory, as daybreak does: without that setting it spends a third of its time
    on page faults.
    """
    folders = [path.parent for path in sorted(tables.RECORDS.glob("*/ratio.json"))]
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
    beside = [row for row in read_record(folder)["recipes"] if row["n"]]
    rungs = ", ".join(f"`{row['recipe']}` {accuracy_of(row)} in {seconds_of(row)} (n = {row['n']})" for row in beside)
    both = equal["train and evaluate"]["ratio"]
    and_both = "" if both is None else f", {both:.2f} with the evaluation of the finished net on either clock"
    if equal["train"]["ratio"] is None:
        verdict = "None of them brackets its accuracy, so this series has no time to equal accuracy."
    else:
        verdict = (
            f"On the line through them its accuracy takes {equal['train']['seconds']:.0f} s, "
            f"{equal['train']['ratio']:.2f} of its time{and_both}."
        )
    sentences = [
        f"\nBeside the anchor, alternating in one series with the same memory setting: {name} {accuracy_of(anchor)} in "
        f"{seconds_of(anchor)} (n = {anchor['n']}); {rungs}.",
        verdict,
        second_run(of_single([anchor, *beside])),
        f"[Record]({place(folder)}), by `python benchmarks/anchor.py`.",
    ]
    return " ".join(filter(None, sentences))


def peers_record() -> tuple[Row, str]:
    """The newest series of daybreak beside other tools, and its folder."""
    folder = tables.record_of("peers", "peers.json")
    return json.loads((folder / "peers.json").read_text()), place(folder)


def peers() -> str:
    """Other tools beside daybreak, with equal budgets and pixels, and how long `seed_page` would take."""
    record, folder = peers_record()
    missing = [f"{name}: {reason}." for name, reason in record["not_installable"].items()]
    facts = f"{record['dataset']}, {hardware(record['hardware'])}; accuracy with a peer's own test-time augmentation "
    facts += f"where it has one; seconds are the training time that was used. [Record]({folder}), by "
    facts += "`python benchmarks/peers.py`. Leads are in points, with the 95 % interval and p of Welch's test."
    notes = [facts, *missing, off_budget(record), MEMORY if "memory" in record else MEMORY_THEN, write_up(record)]
    notes += [RATES] if record.get("rates") else []
    return "\n".join([*side_by_side(record), "", " ".join(notes)]) + "\n"


def photo_peers() -> str:
    """Other tools that begin with a net from ImageNet, on photos: a row each budget."""
    folder = tables.record_of("photo-peers", "peers.json")
    record = json.loads((folder / "peers.json").read_text())
    budgets = sorted({row["minutes"] for row in record["results"]})
    names = sorted({row["peer"] for row in record["results"]} - {DAYBREAK})
    head = f"| | {DAYBREAK} | " + " | ".join(f"{name} | {DAYBREAK}'s lead" for name in names) + " |"
    lines = [head, "| --- " * (2 + 2 * len(names)) + "|"]
    for minutes in budgets:
        theirs = (cell for name in names for cell in (reached(record, name, minutes), lead(record, name, minutes)))
        lines.append(f"| {minutes:g} min | {reached(record, DAYBREAK, minutes)} | {' | '.join(theirs)} |")
    facts = f"{record['dataset']}, {hardware(record['hardware'])}; one backbone and the same pixels for all, accuracy "
    facts += "with mirrored images. Leads are in points, with the 95 % interval and p of Welch's test."
    cost = second_run([60 * row["minutes"] for row in record["results"] if row["n"] == 1])
    rates = "The others' rates are the best of a grid on held-out training photos."
    notes = " ".join(note for note in (facts, cost, off_budget(record), rates) if note)
    return "\n".join([*lines, "", notes, f"Record: `{place(folder)}`."]) + "\n"


def side_by_side(record: Row) -> list[str]:
    """A row each peer, two columns each budget."""
    budgets = sorted({row["minutes"] for row in record["results"]})
    names = sorted({row["peer"] for row in record["results"]}, key=lambda name: -accuracy_at(record, name, budgets[0]))
    columns = [f"{m:g} min | daybreak's lead" for m in budgets]
    head = "| | " + " | ".join(columns) + " |\n" + "| --- " * (1 + 2 * len(budgets)) + "|"
    return [head] + [
        f"| {name} | " + " | ".join(f"{reached(record, name, m)} | {lead(record, name, m)}" for m in budgets) + " |"
        for name in names
    ]


RATES = (
    "The peers' rates are the best of a grid on held-out training images (`python benchmarks/peer_rates.py`); "
    "`seed_page` has its own."
)
MEMORY = "Freed memory stays in the process for all of them."
EASIER = " on the published pixels, which are easier"
MEMORY_THEN = (
    "daybreak keeps freed memory while it trains on a CPU; the peers run with glibc's default, which is slower with "
    "large batches."
)


def off_budget(record: Row) -> str:
    """Names the results whose training time is not the budget."""
    off: dict[str, list[str]] = {}
    for row in sorted(record["results"], key=lambda row: (row["peer"], row["minutes"])):
        if row["n"] and row["off_budget"]:
            used = f"{row['train_seconds']['mean']:.0f} of {60 * row['minutes']:g} s"
            off.setdefault(row["peer"], []).append(f"mean {used}, {row['off_budget']} of {row['n']} runs off")
    listed = ", ".join(f"{name} ({'; '.join(times)})" for name, times in off.items())
    if not listed:
        return f"All of them trained to within {100 * TOLERANCE:.0f} % of the budget."
    return (
        "A peer decides before it starts how many steps fit, so it can end early or late. These have runs more than "
        f"{100 * TOLERANCE:.0f} % off the budget; their leads are at unequal times: {listed}."
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
    std = (best(row) or {}).get("std")
    spread = "" if std is None else f" ± {100 * std:.2f}"
    return f"{per_cent(row):.2f}{spread} % ({row['train_seconds']['mean']:.0f} s, n = {row['n']})"


def lead(record: Row, name: str, minutes: float) -> str:
    """By how much daybreak is ahead of a peer; a dash for itself, and where a side has one run only."""
    found = (result_of(record, name, minutes) or {}).get("lead")
    if found is None:
        return "–"
    low, high = 100 * found["low"], 100 * found["high"]
    return f"{100 * found['mean']:+.2f} ({low:+.2f} to {high:+.2f}), p = {found['p']:.1g}"


def write_up(record: Row) -> str:
    """What `seed_page` is, and how long its 24 epochs would take, from its longest run here."""
    longest = max((r for r in record["results"] if r["peer"] == WRITE_UP and r["n"]), key=lambda r: r["minutes"])
    epochs = longest["epochs"]["mean"]
    epoch = longest["train_seconds"]["mean"] / epochs
    return (
        f"`{WRITE_UP}` is the training that daybreak set out to improve on, a student's write-up of Page's residual "
        f"net ([its setting](docs/stairs.md)): {epoch:.0f} s an epoch here "
        f"({epochs:.2f} epochs measured), which extrapolates to {WRITE_UP_EPOCHS * epoch / 3600:.1f} hours for its "
        f"{WRITE_UP_EPOCHS}, for which it claims {100 * WRITE_UP_CLAIM:.2f} %{EASIER * (record['dataset'] != DATASET)}."
    )


def line(row: Row) -> str:
    folder = row["folder"]
    failed = f", {row['failed']} failed" if row["failed"] else ""
    link = f"[{folder.name[:10]}]({place(folder)})"
    cells = (
        f"`{command(row)}`", row["dataset"], accuracy_of(row), seconds_of(row),
        f"{row['n']}{failed}", hardware(row["hardware"]), link,
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def ladder(found: list[Row]) -> Figure:
    """Accuracy against training time of every run on the published pixels and one machine, with the deviation of single
    runs: the machine with the most runs among the newest records."""
    of_this_data = [row for row in shown(found) if row["dataset"] in (DATASET, COMPRESSED)]
    newest = max(row["folder"].name[:10] for row in of_this_data)
    machines = [hardware(row["hardware"]) for row in of_this_data if row["folder"].name.startswith(newest)]
    machine = max(sorted(set(machines)), key=machines.count)
    drawn = [row for row in of_this_data if hardware(row["hardware"]) == machine]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4), layout="constrained")
        axes = figure.subplots()
        for row in drawn:
            accuracy, seconds = row["test_acc_tta"], row["train_seconds"]["mean"]
            spread = 100 * (accuracy["std"] or 0)
            axes.errorbar(seconds, 100 * accuracy["mean"], yerr=spread, fmt="o", color=TEST, capsize=3)
            name, at = command(row), (seconds, 100 * accuracy["mean"])
            beside = (7, -9) if name.startswith("--budget") else (6, -11)  # budgets and rungs lie close together
            axes.annotate(name, at, textcoords="offset points", xytext=beside)
        times = [row["train_seconds"]["mean"] for row in drawn]
        low, high = min(times) / 1.5, max(times) * 2
        axes.set(xscale="log", xlim=(low, high), xlabel="training time, seconds", ylabel="test accuracy (TTA), %")
        axes.set_xticks([t for t in TICKS if low < t < high], [f"{t:g}" for t in TICKS if low < t < high])
        axes.minorticks_off()
        axes.set_title(f"{drawn[0]['dataset']}, {machine}; written by benchmarks/readme.py", loc="left", fontsize=10)
    return figure


if __name__ == "__main__":
    main()
