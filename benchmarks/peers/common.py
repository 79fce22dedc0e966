"""What every peer shares: arguments, pixels, the clock, how many steps fit a budget, the result line.

Nothing in here is about how a net is trained. A peer hands `main` two functions, `train` and `evaluate`; `main` prints
one JSON object as the last line of stdout (of several runs, a line each), everything else goes to stderr.

The rules, the same for all:
- The clock starts before the first training pixel is touched (normalising and whitening are inside) and stops for
  evaluation. Starting the process and reading the pixels' file are outside.
- With a budget, a peer first trains a few throw-away steps, then as many as fit a twentieth of the budget, to learn how
  many fit the whole. They are *not* on its clock: a courtesy to the peers, which have no budgets of their own. Its
  schedule then has that many steps, at least one, and it reports the seconds these really took. Who knows from an
  earlier run how many fit gives them as `--steps`.
- `--rate` multiplies a peer's peak rates, so that a grid can find the best for a budget on held-out images.
"""

import argparse
import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

REHEARSAL = 8  # throw-away steps at least; the first pays for setting up, so it does not count as a step
REHEARSED_SHARE = 0.05  # of the budget
EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Pixels:
    """Images (N, H, W, C) uint8 and labels (N,) int64 of both parts."""

    x_train: npt.NDArray[np.uint8]
    y_train: npt.NDArray[np.int64]
    x_test: npt.NDArray[np.uint8]
    y_test: npt.NDArray[np.int64]

    @classmethod
    def load(cls, path: Path) -> "Pixels":
        with np.load(path) as file:
            return cls(*(file[name] for name in ("x_train", "y_train", "x_test", "y_test")))


@dataclass(frozen=True)
class Plan:
    """How far to train, and how long the schedule is that the rates follow; they differ only where a run is cut
    short on purpose (`--of`, a rehearsal)."""

    steps: int
    schedule: int
    steps_per_epoch: int
    rate: float = 1.0  # multiplies the peer's peak rates

    @property
    def epochs(self) -> int:
        """Epochs begun."""
        return math.ceil(self.steps / self.steps_per_epoch)


class Clock:
    """Seconds of training. `start` and `stop` as often as needed; `step` after every step.

    Args:
        device: where the peer trains; `start` and `stop` wait until it has done all that was queued.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self._before, self._begun = 0.0, None  # type: float, float | None
        self.steps: list[float] = []  # seconds on the clock when each step was done

    def start(self) -> None:
        self._wait()
        self._begun = time.perf_counter()

    def stop(self) -> None:
        self._wait()
        self._before, self._begun = self.seconds, None

    def step(self) -> None:
        self.steps.append(self.seconds)

    def _wait(self) -> None:
        if self.device == "cuda":
            import torch  # not every peer has it loaded, and only this one can be asked for CUDA

            torch.cuda.synchronize()

    @property
    def seconds(self) -> float:
        return self._before + (time.perf_counter() - self._begun if self._begun is not None else 0.0)


Train = Callable[[Pixels, Plan, int, Clock], Any]  # pixels, plan, seed, clock -> trained model
Evaluate = Callable[[Any, Pixels], tuple[float, float | None]]  # accuracy: plain, with test-time augmentation


def main(
    peer: str, batch_size: int, train: Train, evaluate: Evaluate, packages: Sequence[str] = ("torch", "numpy")
) -> None:
    """Run one peer as the command line says.

    Args:
        batch_size: of the training part; where that is smaller, it is one batch.
    """
    arguments = parse()
    pixels = Pixels.load(arguments.pixels)
    for seed in range(arguments.seed, arguments.seed + arguments.runs):
        arguments.seed = seed
        result = run(peer, max(1, len(pixels.y_train) // batch_size), pixels, train, evaluate, arguments)
        print(json.dumps(result | {"versions": {name: version(name) for name in packages}}), flush=True)


def run(
    peer: str, steps_per_epoch: int, pixels: Pixels, train: Train, evaluate: Evaluate, arguments: argparse.Namespace
) -> dict[str, Any]:
    """One training, and what came of it."""
    with contextlib.redirect_stdout(sys.stderr):  # frameworks print what they like
        plan = make_plan(arguments, steps_per_epoch, lambda plan, clock: train(pixels, plan, arguments.seed, clock))
        say(f"{peer}: {plan.steps} steps of {plan.schedule}, {steps_per_epoch} an epoch")
        clock = Clock(arguments.device)
        model = train(pixels, plan, arguments.seed, clock)
        clock.stop()
        say(f"{peer}: trained in {clock.seconds:.1f} s")
        begun = time.perf_counter()
        test_acc, test_acc_tta = evaluate(model, pixels)
        evaluated = time.perf_counter() - begun
    result = {"peer": peer, "seed": arguments.seed, "budget": arguments.budget, "epochs": plan.steps / steps_per_epoch}
    result |= {"steps": plan.steps, "schedule_steps": plan.schedule, "rate": plan.rate, "train_seconds": clock.seconds}
    result |= {"judge_seconds": evaluated}
    return result | {"test_acc": test_acc, "test_acc_tta": test_acc_tta}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pixels", type=Path, required=True, help=".npz with x_train, y_train, x_test, y_test")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--budget", type=float, help="seconds of training")
    length.add_argument("--epochs", type=int)
    length.add_argument("--steps", type=int)
    parser.add_argument("--of", type=int, help="stop after --epochs of a schedule of this many")
    parser.add_argument("--rate", type=float, default=1.0, help="multiplies the peer's peak rates")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=1, help="seeds, from that one on, in this process")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: airbench94_muon with --epochs")
    return parser.parse_args(arguments)


def make_plan(arguments: argparse.Namespace, steps_per_epoch: int, rehearse: Callable[[Plan, Clock], object]) -> Plan:
    """The plan that the command line asks for; a budget takes a rehearsal."""
    rate = arguments.rate
    if arguments.steps:
        return Plan(arguments.steps, arguments.steps, steps_per_epoch, rate)
    if arguments.budget is None:
        schedule = arguments.of or arguments.epochs
        return Plan(arguments.epochs * steps_per_epoch, schedule * steps_per_epoch, steps_per_epoch, rate)
    enough, clock = REHEARSAL, Clock()
    rehearse(Plan(enough, 100 * enough, 100 * enough, rate), clock)  # the start of a long epoch
    if (enough := steps_for(REHEARSED_SHARE * arguments.budget, clock.steps)) > REHEARSAL:
        clock = Clock()
        rehearse(Plan(enough, 100 * enough, 100 * enough, rate), clock)
    steps = steps_for(arguments.budget, clock.steps)
    return Plan(steps, steps, steps_per_epoch, rate)


def steps_for(budget: float, rehearsed: Sequence[float]) -> int:
    """How many steps fit `budget` seconds, at least one.

    Args:
        rehearsed: seconds on the clock when each throw-away step was done. What the first took more than the others
            is the time to set up.
    """
    lengths = np.diff(rehearsed).tolist()
    one = median(lengths)
    setting_up = max(0.0, rehearsed[0] - one)
    return max(1, int((budget - setting_up) / one))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
