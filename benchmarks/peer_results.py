"""What a series of peers came to: mean and deviation over the seeds, daybreak's lead, a figure and a table."""

from collections.abc import Callable, Iterable, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from scipy import stats
from series import DAYBREAK, Row

from daybreak.benchmarking.record import spread
from daybreak.report.figures import STYLE

FIGURES = ("test_acc", "test_acc_tta", "train_seconds")


def summarize(rows: Iterable[Row]) -> list[Row]:
    """A row for each peer and budget, in the order in which they first ran. Of a repeated run the last one counts."""
    counted = {(row["peer"], row["minutes"], row["seed"]): row for row in rows}
    groups: dict[tuple[str, float], list[Row]] = {}
    for (peer, minutes, _), row in counted.items():
        groups.setdefault((peer, minutes), []).append(row)
    return [
        {"peer": peer, "minutes": minutes} | spread_of(group) | lead_over(group, groups.get((DAYBREAK, minutes), []))
        for (peer, minutes), group in groups.items()
    ]


def lead_over(theirs: Sequence[Row], ours: Sequence[Row]) -> Row:
    """By how much daybreak is ahead, with the 95 % interval and p of Welch's test; nothing below two runs a side."""
    mine, other = ([accuracy(row) for row in group if "failed" not in row] for group in (ours, theirs))
    if theirs is ours or min(len(mine), len(other)) < 2:
        return {}
    test = stats.ttest_ind(mine, other, equal_var=False)
    low, high = test.confidence_interval()
    lead = float(np.mean(mine) - np.mean(other))
    return {"lead": {"mean": lead, "low": float(low), "high": float(high), "p": float(test.pvalue)}}


def accuracy(row: Row) -> float:
    """What a user of the peer gets from this run: with test-time augmentation where the peer has it."""
    return float(row["test_acc"] if row["test_acc_tta"] is None else row["test_acc_tta"])


def spread_of(group: Sequence[Row]) -> Row:
    done = [row for row in group if "failed" not in row]
    values = {key: [row[key] for row in done if row[key] is not None] for key in ("epochs", *FIGURES)}
    found = {key: spread(those) if those else None for key, those in values.items()}
    flagged = sum(row["flagged"] for row in done)
    return {"n": len(done), "failed": len(group) - len(done), "off_budget": flagged, **found}


def best(result: Row) -> Row | None:
    """The accuracy a user of this peer gets: with test-time augmentation where the peer has it."""
    found: Row | None = result["test_acc_tta"] or result["test_acc"]
    return found


def draw(results: Sequence[Row]) -> Figure:
    """Accuracy against minutes, one line a peer."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.subplots()
        for peer in dict.fromkeys(result["peer"] for result in results):
            mine = sorted((r for r in results if r["peer"] == peer and r["n"]), key=lambda r: r["minutes"])
            points = [(r["minutes"], 100 * v["mean"], 100 * (v["std"] or 0)) for r in mine if (v := best(r))]
            if not points:
                continue
            minutes, means, stds = zip(*points, strict=True)
            label, width = f"{peer} (TTA)" if mine[0]["test_acc_tta"] else peer, 2.2 if peer == DAYBREAK else 1.2
            axes.errorbar(minutes, means, stds, marker="o", markersize=4, capsize=3, label=label, linewidth=width)
        axes.set(xlabel="minutes of training", ylabel="test accuracy, %")
        axes.set_xlim(0)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def table(results: Sequence[Row], not_installable: dict[str, str]) -> str:
    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("peer", lambda r: r["peer"]),
        ("minutes", lambda r: f"{r['minutes']:g}"),
        ("n", lambda r: str(r["n"])),
        ("failed", lambda r: str(r["failed"])),
        ("epochs", lambda r: f"{r['epochs']['mean']:.2f}" if r["epochs"] else "–"),
        ("test %", lambda r: per_cent(r["test_acc"])),
        ("TTA %", lambda r: per_cent(r["test_acc_tta"])),
        ("seconds", lambda r: f"{r['train_seconds']['mean']:.0f}" if r["train_seconds"] else "–"),
        ("off budget", lambda r: str(r["off_budget"] or "")),
        (
            "daybreak's lead, p",
            lambda r: f"{100 * r['lead']['mean']:+.2f}, {r['lead']['p']:.1g}" if "lead" in r else "",
        ),
    ]
    cells = [[name for name, _ in columns], *([show(r) for _, show in columns] for r in results)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([*lines, *(f"{peer}: {reason}" for peer, reason in not_installable.items())])


def per_cent(value: Row | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value['mean']:.2f}" + (f" ± {100 * value['std']:.2f}" if value["std"] is not None else "")
