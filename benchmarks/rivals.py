"""One cycle against its rivals at equal length, each at its own best rate.

    python benchmarks/rivals.py cifar10 --out benchmarks/records/DATE_rivals
    python benchmarks/rivals.py cifar10 --out REPEATED --only "step decay" --peaks benchmarks/records/DATE_rivals

For every schedule and length a grid of peak rates is tried on seeds 0 and 1, on a tenth of the training images that is
held out; it grows by factors of two until its best is not at its end. That rate is then trained on the whole training
part with fresh seeds, the same for all schedules, and evaluated on the test part, which so chooses nothing. A line each
in trials.jsonl; trials that are there are not repeated. Table and figure go into docs/one-cycle.md. With two workers
each has one thread, and times say nothing. (An epoch takes such a worker 15 s: two hours in all, so begin it first.)
The second command repeats a row, beside the reference, at the rates that a record chose.
"""

import argparse
import multiprocessing
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from statistics import median

import matplotlib as mpl
import numpy as np
from held_out import without_test
from matplotlib.figure import Figure
from series import open_record, setting_of
from tables import between
from trials import Row, about, accuracy_of, by_seed, failed, lead, per_cent, read, run_once

from daybreak.core.config import Recipe, override
from daybreak.core.files import write_text
from daybreak.data import open_dataset
from daybreak.recipes import get_recipe
from daybreak.report.figures import STYLE, TEST, TRAIN, svg
from daybreak.training import schedule
from daybreak.training.lr_finder import with_rate

ROOT = Path(__file__).parents[1]
DOCS, FIGURE, BLOCK = ROOT / "docs" / "one-cycle.md", ROOT / "docs" / "rivals.svg", between("rivals")

# The net, optimizer and augmentation of `page`, a quarter as wide, on 16 px and in batches of 256: what two cores can
# repeat often.
SMALL_PAGE = {"model.width": 0.25, "resolution": [{"until": 1.0, "scale": 0.5}], "batch_size": 256, "tta": "none"}
LENGTHS = (1, 4)  # epochs
CHOSEN_ON, FRESH = (0, 1), tuple(range(2, 10))  # seeds
GRID = (0.002, 0.004, 0.008)

UP_AND_DOWN: Row = {"initial_lr": 0.1, "final_lr": 0.0, "warmup": 0.25, "momentum": (0.85, 0.95)}
FROM_THE_PEAK: Row = {"initial_lr": 1.0, "final_lr": 0.0, "warmup": 0.0}
REFERENCE = "one cycle: linear up, linear down to zero"
RIVALS: dict[str, Row] = {  # at a peak of one
    REFERENCE: UP_AND_DOWN,
    "one cycle, momentum not cycled": UP_AND_DOWN | {"momentum": None},
    "one cycle, cosine": UP_AND_DOWN | {"shape": "cosine"},
    "one cycle, three phases": UP_AND_DOWN | {"phases": 3, "warmup": 0.45, "final_lr": 0.001},
    "linear down, no warm-up": FROM_THE_PEAK,
    "flat, then cosine": FROM_THE_PEAK | {"hold": 0.7, "shape": "cosine"},
    "warm-up, stable, decay": UP_AND_DOWN | {"warmup": 0.05, "hold": 0.75, "momentum": None},
    "step decay": FROM_THE_PEAK | {"final_lr": 0.01, "shape": "steps"},
    "one rate all the way": FROM_THE_PEAK | {"final_lr": 1.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=list(RIVALS), help="beside the reference; prints their rows")
    parser.add_argument("--peaks", type=Path, help="a record whose peak rates are taken; by default they are searched")
    arguments = parser.parse_args()
    folder = open_record(arguments.out, setting_of(open_dataset(arguments.data)))
    context = multiprocessing.get_context("spawn")
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1") if arguments.workers > 1 else {}
    rivals = [name for name in RIVALS if not arguments.only or name in (REFERENCE, *arguments.only)]
    contests = [(name, epochs) for epochs in LENGTHS for name in rivals]
    with ProcessPoolExecutor(arguments.workers, context) as pool:
        if arguments.peaks:
            peaks = [peak_of(read(arguments.peaks), *contest) for contest in contests]
        else:
            choices = [pool.submit(best_peak, folder, arguments.data, *contest) for contest in contests]
            peaks = [choice.result() for choice in choices]
        # Seed by seed, so that a series cut short has fewer seeds of every schedule and not fewer schedules.
        trials = [
            pool.submit(try_fresh, folder, arguments.data, *contest, peak, seed)
            for seed in FRESH
            for contest, peak in zip(contests, peaks, strict=True)
        ]
        for trial in as_completed(trials):
            trial.result()
    if arguments.only:
        print(table(folder, rivals))
        return
    write_text(DOCS, BLOCK.sub(lambda m: m[1] + table(folder) + m[2], DOCS.read_text()))
    write_text(FIGURE, svg(draw(folder)))


def best_peak(folder: Path, data: str, rival: str, epochs: int) -> float:
    """The peak rate that is best on held-out images for a schedule of a length."""
    held_out, plain = without_test(open_dataset(data)), recipe(rival, epochs)

    def tried(peak: float) -> float:
        at = partial(run_once, folder, chosen_name(rival, epochs, peak), with_rate(plain, peak), held_out)
        return float(accuracy_of([at(seed) for seed in CHOSEN_ON])["mean"] or 0.0)

    found = {peak: tried(peak) for peak in GRID}
    while (peak := beyond(found)) is not None:
        found[peak] = tried(peak)
    return max(found, key=lambda peak: found[peak])


def try_fresh(folder: Path, data: str, rival: str, epochs: int, peak: float, seed: int) -> None:
    run_once(folder, fresh_name(rival, epochs), with_rate(recipe(rival, epochs), peak), open_dataset(data), seed)


def peak_of(rows: list[Row], rival: str, epochs: int) -> float:
    """The peak at which a record has the fresh seeds of a schedule of a length."""
    return float(trials_of(rows, rival, epochs)[0]["recipe"]["schedule"]["max_lr"])


def beyond(found: dict[float, float]) -> float | None:
    """The next rate of a grid by factors of two, if its best is at an end."""
    best = max(found, key=lambda peak: found[peak])
    if best == max(found):
        return 2 * best
    return best / 2 if best == min(found) else None


def recipe(rival: str, epochs: int) -> Recipe:
    cycle = {"max_lr": 1.0} | RIVALS[rival]
    settings = {f"schedule.{key}": value for key, value in ({"momentum": None} | cycle).items()}
    return override(get_recipe("page"), SMALL_PAGE | settings | {"epochs": epochs})


def chosen_name(rival: str, epochs: int, peak: float) -> str:
    return f"{rival}; {epochs} epochs; peak {peak:g}"


def fresh_name(rival: str, epochs: int) -> str:
    return f"{rival}; {epochs} epochs"


def trials_of(rows: list[Row], rival: str, epochs: int) -> list[Row]:
    return [row for row in rows if row["name"] == fresh_name(rival, epochs)]


def ahead_of_reference(rows: list[Row], rival: str, epochs: int) -> Row:
    """Its accuracy minus that of the reference, seed by seed, in points."""
    mine, other = (by_seed(trials_of(rows, name, epochs)) for name in (rival, REFERENCE))
    return lead(mine, other, mine.keys() & other.keys())


def visible(rows: list[Row], epochs: int, rivals: Iterable[str] = RIVALS) -> float:
    """Half the width of a usual 95 % interval of such a difference: what the series can tell apart."""
    found = [ahead_of_reference(rows, name, epochs)["ci95"] for name in rivals if name != REFERENCE]
    return median((high - low) / 2 for low, high in found)


def table(folder: Path, rivals: Sequence[str] = tuple(RIVALS)) -> str:
    """A row a schedule; for each length its best peak, its accuracy, and its lead over the reference."""
    rows = read(folder)
    heads = [f"{lasting(n)}: peak | test accuracy | minus one cycle" for n in LENGTHS]
    lines = [f"| schedule | {' | '.join(heads)} | failed |", "| --- " * (2 + 3 * len(LENGTHS)) + "|"]
    for name in rivals:
        mine = [row for row in rows if row["name"].startswith(f"{name};")]
        cells = [cell for epochs in LENGTHS for cell in cells_of(rows, name, epochs)]
        lines.append(f"| {name} | {' | '.join(cells)} | {failed(mine)} |")
    sees = ", ".join(f"{visible(rows, n, rivals):.1f} points after {lasting(n)}" for n in LENGTHS)
    seeds = {row["seed"] for row in rows} - set(CHOSEN_ON)
    words = (
        f"Test accuracy: mean and standard deviation of {len(seeds)} seeds that chose nothing. Differences: seed by "
        f"seed, with the 95 % interval of their mean. The series tells apart {sees}."
    )
    return "\n".join([*lines, "", words, about(folder)]) + "\n"


def lasting(epochs: int) -> str:
    return f"{epochs} epoch{'' if epochs == 1 else 's'}"


def cells_of(rows: list[Row], name: str, epochs: int) -> tuple[str, str, str]:
    trials, ahead = trials_of(rows, name, epochs), ahead_of_reference(rows, name, epochs)
    low, high = ahead["ci95"]
    lead = "" if name == REFERENCE else f"{ahead['mean']:+.2f} ({low:+.2f} to {high:+.2f})"
    return f"{peak_of(trials, name, epochs):g}", per_cent(accuracy_of(trials)), lead


def draw(folder: Path) -> Figure:
    """Left, the rate of each schedule over progress; right, how far it is ahead of one cycle at each length."""
    rows = read(folder)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 0.52 * len(RIVALS) + 0.8), layout="constrained")
        grid = figure.add_gridspec(len(RIVALS), 2, width_ratios=[1, 3])
        right = figure.add_subplot(grid[:, 1])
        at = np.linspace(0, 1, 200, endpoint=False)
        for place, name in enumerate(RIVALS):
            left = figure.add_subplot(grid[place, 0])
            cycle = recipe(name, LENGTHS[0]).schedule
            left.fill_between(at, [schedule.learning_rate(cycle, p) for p in at], color=TEST, alpha=0.4, linewidth=0)
            left.set(xticks=[], yticks=[], ylim=(0, 1.05))
            left.spines[:].set_visible(False)
        for shift, epochs, colour in zip((-0.14, 0.14), LENGTHS, (TRAIN, TEST), strict=True):
            found = {name: ahead_of_reference(rows, name, epochs) for name in RIVALS if name != REFERENCE}
            places = [list(RIVALS).index(name) + shift for name in found]
            means = [row["mean"] for row in found.values()]
            halves = [row["mean"] - row["ci95"][0] for row in found.values()]
            right.errorbar(means, places, xerr=halves, fmt="o", color=colour, capsize=3, label=lasting(epochs))
        right.axvline(0, color="#888888", linewidth=1, linestyle="--")
        right.set(yticks=range(len(RIVALS)), yticklabels=list(RIVALS), ylim=(len(RIVALS) - 0.5, -0.5))
        right.set(xlabel="points of test accuracy ahead of one cycle, 95 % interval")
        right.legend(loc="upper left")
    return figure


if __name__ == "__main__":
    main()
