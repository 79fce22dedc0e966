"""The cost of a guarantee: sprint trains windows of steps with it and without it, alternating.

    python benchmarks/prices.py checkpoints cifar10-jpeg --out benchmarks/records/DATE_checkpoints
    python benchmarks/prices.py deterministic cifar10-jpeg --out benchmarks/records/DATE_deterministic

A pair is two consecutive windows of one training at full image size. A window with a checkpoint begins with one, so
the difference includes its effect on the steps after it. pairs.json has every window; the sentence goes into
docs/reliability.md.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from series import open_record, setting_of
from tables import between

from daybreak.benchmarking.record import spread
from daybreak.core.clock import Stopwatch
from daybreak.core.device import kept_memory, pick_device, repeatable, synchronizer
from daybreak.core.files import write_json
from daybreak.core.options import TrainOptions
from daybreak.data import open_dataset
from daybreak.recipes import get_recipe
from daybreak.runs.directory import RunDirectory
from daybreak.training.session import Session, prepare
from daybreak.training.state import Saver
from daybreak.training.step import train_step
from daybreak.training.step_log import StepLog

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "reliability.md"
BLOCKS = {promise: between(promise) for promise in ("checkpoints", "deterministic")}
AT = 0.9  # of the cycle: at full image size
MINUTE = 60.0

Promise = Callable[[], AbstractContextManager[None]]  # entered before a window


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("promise", choices=list(BLOCKS))
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", default="sprint")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20, help="of a window")
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    dataset = open_dataset(arguments.data)
    folder = open_record(arguments.out, setting_of(dataset, str(device)))
    with tempfile.TemporaryDirectory(dir=folder) as scratch, kept_memory():  # on the disk where runs lie
        session = prepare(get_recipe(arguments.recipe), dataset, 0, device)
        promise = {"checkpoints": saving(session, RunDirectory(scratch)), "deterministic": lambda: repeatable(True)}
        pairs = time_pairs(session, promise[arguments.promise], arguments.pairs, arguments.steps)
    found = price(arguments.promise, pairs)
    found |= {"promise": arguments.promise, "recipe": arguments.recipe, "steps": arguments.steps, "windows": pairs}
    write_json(folder / "pairs.json", found)
    DOCS.write_text(BLOCKS[arguments.promise].sub(lambda m: m[1] + line(found) + m[2], DOCS.read_text()))
    print(line(found), end="")


def saving(session: Session, run: RunDirectory) -> Promise:
    saver = Saver(session, run, StepLog(session, run, lambda event: None), TrainOptions(checkpoint_every="never"))

    @contextmanager
    def begin_with_a_checkpoint() -> Iterator[None]:
        saver.save()
        yield

    return begin_with_a_checkpoint


def time_pairs(session: Session, promise: Promise, pairs: int, steps: int) -> list[tuple[float, float]]:
    """Seconds of windows (with the promise, without); which comes first changes from pair to pair."""
    window(session, nullcontext, steps)  # the first steps are slower
    found = []
    for pair in range(pairs):
        order: tuple[Promise, ...] = (promise, nullcontext) if pair % 2 == 0 else (nullcontext, promise)
        seconds = {kept is promise: window(session, kept, steps) for kept in order}
        found.append((seconds[True], seconds[False]))
    return found


def window(session: Session, promise: Promise, steps: int) -> float:
    """Seconds of so many steps, what the promise does before them included."""
    watch = Stopwatch(synchronizer(session.device))
    with watch.timed("window"), promise():
        for _ in range(steps):
            session.optimizer.set_progress(AT)
            train_step(session, *session.loader.batch(session.step, AT))
            session.step += 1
    return watch.seconds("window")


def price(promise: str, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """The added time as a share of training: of a minute for one checkpoint, of a window for a permanent setting."""
    cost = spread([with_it - without for with_it, without in pairs])
    whole = MINUTE if promise == "checkpoints" else sum(without for _, without in pairs) / len(pairs)
    return {"seconds": cost, "share": [bound / whole for bound in (cost["ci95"][0], cost["mean"], cost["ci95"][1])]}


def line(found: dict[str, Any]) -> str:
    low, mean, high = (f"{100 * share:.2f} %" for share in found["share"])
    what = {"checkpoints": "with a checkpoint every minute", "deterministic": "with `--deterministic`"}
    return (
        f"`{found['recipe']}` {what[found['promise']]} takes {mean} longer (95 % interval {low} to {high}),\n"
        f"measured over {len(found['windows'])} pairs of windows of {found['steps']} steps with and without.\n"
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
