"""The generated tables and figures of the docs: what nets reach, what softmax before the loss costs, what each piece of
`sprint` is worth."""

import json
from statistics import fmean

import matplotlib as mpl
from matplotlib.figure import Figure
from mutants import is_noticed, place_of
from stairs import STEPS
from tables import (
    RECORDS,
    Row,
    about,
    accuracy_of,
    command,
    of_single,
    record_of,
    rows,
    rows_of,
    second_run,
    seconds_of,
)

from daybreak.benchmarking.record import evidence
from daybreak.core.metrics import wilson_interval
from daybreak.report.figures import STYLE, TEST, TRAIN

MILLION = 10**6
EPOCHS_SHOWN = (1, 6, 12, 18, 24)
ALSO_NETS = ("sprint-2",)  # two epochs of sprint, in the record of the ladder of then


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
    sources.append(second_run(of_single(found)))
    return "\n".join([head, *lines, "", " ".join(filter(None, sources))]) + "\n"


def mistake() -> str:
    """`page` beside `page-mistake` in some epochs of their 24, means over seeds."""
    folder = record_of("stairs")
    names = {"page": "2-page", "page-mistake": "1-mistake"}
    runs = [[run.metrics("epoch") for run in evidence(folder)[step]] for step in names.values()]
    head = "| epoch | " + " | ".join(f"`{name}`: rate, test accuracy, test loss" for name in names) + " |"
    lines = []
    for epoch in EPOCHS_SHOWN:
        at = [[next(row for row in rows if row["epoch"] == epoch) for rows in seeds] for seeds in runs]
        cells = [
            f"{seeds[0]['lr']:.2g}, {100 * fmean(r['test_acc'] for r in seeds):.2f} %, "
            f"{fmean(r['test_loss'] for r in seeds):.3f}"
            for seeds in at
        ]
        lines.append(f"| {epoch} | {' | '.join(cells)} |")
    found = {row["recipe"]: row for row in rows_of(folder)}
    ends = "; ".join(f"`{name}` {accuracy_of(found[step])}" for name, step in names.items())
    text = f"Means over two seeds. At the end, with flip TTA: {ends}. {about(found['2-page'])}"
    return "\n".join([head, "| --- " * 3 + "|", *lines, "", text]) + "\n"


def fuzz() -> str:
    """How many inputs each reader has seen, most first; of several series of one reader the newest."""
    by_reader = {file.stem: file for file in sorted(RECORDS.glob("*_fuzz/*.json"))}
    rows = [json.loads(file.read_text()) for _, file in sorted(by_reader.items())]
    rows.sort(key=lambda row: -row["inputs"])
    many = [row["reader"] for row in rows if row["inputs"] >= MILLION]
    fewer = [f"{row['reader']} ({row['inputs']:,})" for row in rows if row["inputs"] < MILLION]
    found = [row["reader"] for row in rows if row["finding"]]
    processors = sorted({row["hardware"]["cpu"] for row in rows})
    folders = sorted({f"`benchmarks/records/{file.parent.name}`" for file in by_reader.values()})
    lines = [f"A million inputs each, made from sound ones by what they reach in the code: {', '.join(many)}."]
    lines += [f"Fewer: {', '.join(fewer)}."] if fewer else []
    lines += [f"Failed: {', '.join(found)}." if found else "None of these failed, hung or took a gigabyte of memory."]
    lines += [f"(`python benchmarks/fuzz.py`; {', '.join(processors)}; {', '.join(folders)})"]
    return "\n".join(lines) + "\n"


def mutants() -> str:
    """How many changes of the code a test noticed: those asked first, and all."""
    folder = record_of("mutants", "mutants.jsonl")
    judged = [json.loads(line) for line in (folder / "mutants.jsonl").read_text().splitlines()]
    first, last = ({place_of(row): is_noticed(row) for row in order} for order in (judged[::-1], judged))
    reasons = json.loads((folder / "equal.json").read_text())
    survivors = {place for place, noticed in last.items() if not noticed}
    assert survivors == reasons.keys(), survivors ^ reasons.keys()
    at_once, noticed = sum(first.values()), sum(last.values())
    cpu = json.loads((folder / "setting.json").read_text())["hardware"]["cpu"]
    counted = len(last) - len(reasons)
    low, high = wilson_interval(at_once, counted)
    return (
        f"{len(last)} places at random: {len(reasons)} changes make no difference that a test could see "
        f"(`equal.json` says why). Of the other {counted}, {at_once} were noticed by the tests asked first "
        f"(95 % interval: {100 * low:.0f} to {100 * high:.0f} %), {noticed} with more and with new ones.\n"
        f"(`python benchmarks/mutants.py`; {cpu}; `benchmarks/records/{folder.name}`)\n"
    )


def stairs() -> str:
    """Step by step from a student's write-up to `sprint`: what changes, and what the run then reaches."""
    found = _stairs()
    head = "| | change | accuracy, one view | with TTA | training | n |\n" + "| --- " * 6 + "|"
    lines = [
        f"| {i} | {change} | {accuracy_of(row, 'test_acc')} | {accuracy_of(row)} | {seconds_of(row)} | {row['n']} |"
        for i, (change, row) in enumerate(found, 1)
    ]
    first, last = found[0][1], found[-1][1]
    text = f"{about(first)} The last row: {about(last)}"
    return "\n".join([head, *lines, "", text]) + "\n"


def _stairs() -> list[tuple[str, Row]]:
    """Changes, each with its row; the last one is sprint, from a record of its own."""
    steps = {row["recipe"]: row for row in rows_of(record_of("stairs"))}
    (sprint,) = (row for row in rows_of(record_of("cuda")) if row["recipe"] == "sprint")
    last = "`sprint`: narrower groups, residual branches of two convolutions, batches of 1,000, six views"
    return [*((step.change, steps[step.name]) for step in STEPS), (last, sprint)]


def stairs_figure() -> Figure:
    """Accuracy of every step, and the time it takes."""
    found = [row for _, row in _stairs()]
    places = range(1, len(found) + 1)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4.5), layout="constrained")
        accuracy, seconds = figure.subplots(2, sharex=True, height_ratios=(2, 1))
        for name, color, label in (("test_acc_tta", TEST, "with TTA"), ("test_acc", TRAIN, "one view")):
            means = [100 * row[name]["mean"] for row in found]
            spreads = [100 * (row[name]["std"] or 0) for row in found]
            accuracy.errorbar(places, means, yerr=spreads, fmt="o-", color=color, capsize=3, label=label)
        accuracy.set(ylabel="test accuracy, %")
        accuracy.legend(frameon=False, loc="lower right")
        seconds.bar(places, [row["train_seconds"]["mean"] for row in found], color=TRAIN)
        seconds.set(ylabel="training, s", xlabel="step", xticks=list(places))
    return figure
