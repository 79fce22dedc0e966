"""Find the peak rates of the peers by a small grid, on held-out training images, for budgets as short as theirs.

    python benchmarks/peer_rates.py cifar10 --minutes 1 --record benchmarks/records/DATE_peers

Every trial trains on nine tenths of the training images and is evaluated on the rest, so that the test set chooses
nothing. While the best rate of a peer lies at an end of its grid, the grid goes on there. The trials are appended to
rates.jsonl in the record; peers.py with the same --record takes each peer's best, of the longest trials that are no
longer than its run (long runs want lower rates: try --minutes 1, then --minutes 5). `seed_page` keeps the rates of the
write-up, which it is there to show, and daybreak's own were tuned long before (LOG.md).
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from held_out import without_test
from peer_environments import environments
from peer_results import accuracy
from peers import FROM_NOTHING, RATES, Job, command, run_job, steps_by_pace
from platformdirs import user_cache_path
from series import Row, append, open_record, read, say, setting_of, write_pixels

from daybreak.data import open_dataset

GRIDS = {
    "airbench94_muon": (0.5, 1.0, 2.0),
    "resnet18": (0.1, 0.3, 1.0),
    "fastai_resnet18": (0.3, 1.0, 3.0),
    "keras_cnn": (0.1, 0.3, 1.0),
    "finetune_timm": (0.3, 1.0, 3.0),
    "finetune_fastai": (0.3, 1.0, 3.0),
}  # factors of the rates in the scripts
STEP, MOST = 3.0, 5  # how a grid goes on, and up to how many trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--minutes", type=float, default=1.0, help="of a trial; enough for tens of steps")
    usual = [peer for peer in FROM_NOTHING if peer in GRIDS]
    parser.add_argument("--peers", nargs="+", choices=tuple(GRIDS), default=usual)
    parser.add_argument("--grid", type=float, nargs="+", help="factors to begin with, in place of the usual ones")
    parser.add_argument("--size", type=int, help="side in px of photos")
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--environments", type=Path, default=user_cache_path("daybreak") / "peers")
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.data, size=arguments.size, validate=0)
    folder = open_record(arguments.record, setting_of(dataset))
    pythons, _ = environments(arguments.peers, arguments.environments)
    with tempfile.TemporaryDirectory() as scratch:
        pixels = Path(scratch) / "pixels.npz"
        write_pixels(without_test(dataset), pixels)
        for peer, python in pythons.items():
            job = Job(peer, arguments.minutes, seed=0)
            grid = arguments.grid or GRIDS[peer]
            while (rate := next_rate(grid, trials(folder, peer, arguments.minutes))) is not None:
                say(f"{peer}: rates times {rate:g}")
                trial = replace(job, rate=rate, steps=steps_by_pace(job, read(folder, RATES)))
                append(folder, run_job(trial, command(trial, python, arguments.data, pixels, Path(scratch))), RATES)
    for row in read(folder, RATES):
        print(f"{row['peer']:20} {row['rate']:<8g}", row.get("failed") or f"{100 * accuracy(row):.2f} %")


def trials(folder: Path, peer: str, minutes: float) -> dict[float, float]:
    """Held-out accuracy of each rate that has been tried for so long; a failed trial has none to speak of."""
    rows: list[Row] = [row for row in read(folder, RATES) if (row["peer"], row["minutes"]) == (peer, minutes)]
    return {row["rate"]: 0.0 if "failed" in row else accuracy(row) for row in rows}


def next_rate(grid: Sequence[float], tried: dict[float, float]) -> float | None:
    """What to try next: what the grid has left, then on from the end at which the best one lies."""
    left = [rate for rate in grid if rate not in tried]
    if left:
        return left[0]
    if len(tried) >= MOST:
        return None
    best, rates = max(tried, key=lambda rate: tried[rate]), sorted(tried)
    return {rates[0]: round(best / STEP, 6), rates[-1]: round(best * STEP, 6)}.get(best)


if __name__ == "__main__":
    main()
