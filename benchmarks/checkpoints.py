"""What checkpoints cost sprint: windows of training that begin with one, and windows that do not, in turn.

    python benchmarks/checkpoints.py cifar10-jpeg --out benchmarks/records/DATE_checkpoints

A pair is two neighbouring windows of one training at full image size. Their difference is the price of a checkpoint,
with whatever it does to the steps behind it. pairs.json has every window; the line goes into docs/reliability.md.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peers import open_record, setting_of
from readme import between

from daybreak.data import open_dataset
from daybreak.device import kept_memory, pick_device
from daybreak.loop import train_step
from daybreak.recipes import get_recipe
from daybreak.record import spread
from daybreak.run import RunDirectory
from daybreak.session import Session, prepare
from daybreak.state import NEVER, Saver
from daybreak.steplog import StepLog

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "reliability.md"
BLOCK = between("checkpoints")
AT = 0.9  # of the cycle: at full image size
MINUTE = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", default="sprint")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20, help="of a window")
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.data)
    folder = open_record(arguments.out, setting_of(dataset))
    with tempfile.TemporaryDirectory(dir=folder) as scratch, kept_memory():  # on the disk where runs lie
        session = prepare(get_recipe(arguments.recipe), dataset, 0, pick_device("cpu"))
        run = RunDirectory(scratch)
        pairs = time_pairs(session, run, arguments.pairs, arguments.steps)
    found = judge(pairs) | {"recipe": arguments.recipe, "steps": arguments.steps, "windows": pairs}
    (folder / "pairs.json").write_text(json.dumps(found, indent=2) + "\n")
    DOCS.write_text(BLOCK.sub(lambda m: m[1] + line(found) + m[2], DOCS.read_text()))
    print(line(found), end="")


def time_pairs(session: Session, run: RunDirectory, pairs: int, steps: int) -> list[tuple[float, float]]:
    """Seconds of windows (with a checkpoint, without); which comes first changes from pair to pair."""
    saver = Saver(session, run, StepLog(session, run, lambda event: None), NEVER)
    window(session, None, steps)  # the first steps are slower
    found = []
    for pair in range(pairs):
        order = (saver, None) if pair % 2 == 0 else (None, saver)
        seconds = {saves is saver: window(session, saves, steps) for saves in order}
        found.append((seconds[True], seconds[False]))
    return found


def window(session: Session, saver: Saver | None, steps: int) -> float:
    """Seconds of so many steps, after a checkpoint if there is a saver."""
    begun = time.perf_counter()
    if saver:
        saver.save()
    for _ in range(steps):
        session.optimizer.set_progress(AT)
        train_step(session, *session.loader.batch(session.step, AT))
        session.step += 1
    return time.perf_counter() - begun


def judge(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Seconds that a checkpoint adds, and their share of a minute."""
    cost = spread([with_one - without for with_one, without in pairs])
    return {
        "seconds": cost,
        "share_of_a_minute": [bound / MINUTE for bound in (cost["ci95"][0], cost["mean"], cost["ci95"][1])],
    }


def line(found: dict[str, Any]) -> str:
    low, mean, high = (f"{100 * share:.2f} %" for share in found["share_of_a_minute"])
    pairs = len(found["windows"])
    return (
        f"`{found['recipe']}` with a checkpoint every minute is slower by {mean} (95 % interval {low} to {high}) than\n"
        f"without, by {pairs} pairs of windows of {found['steps']} steps with and without one.\n"
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
