"""`make demo`: a trained net and its report, whatever this machine can reach.

CIFAR-10 where it is at hand or can be downloaded, on a short budget; otherwise the handwritten digits that
scikit-learn carries. The JPEG re-encoding of CIFAR-10 is used where a data directory offers nothing better.

All of `make demo`, set-up included, should take three minutes at most where packages and data are there already: the
Makefile says when it began, and training gets what evaluation and report leave of the rest.
"""

import os
import sys
import time
from pathlib import Path

from rich.console import Console

from daybreak import api
from daybreak.cli import output
from daybreak.cli.progress_bar import TrainingProgress
from daybreak.core.device import pick_device
from daybreak.core.errors import DataError, DaybreakError, StoppedError, UsageError
from daybreak.data import Dataset
from daybreak.data.sources import find_here

LIMIT, AFTERWARDS = 180.0, 75.0  # seconds of all, and of evaluation and report
SHORTEST, LONGEST = 45.0, 100.0  # seconds of training
PATIENT = 300.0  # where SHORTEST has not been enough for a step
STARTED = "DAYBREAK_DEMO_STARTED"  # seconds since 1970

console = Console(stderr=True, soft_wrap=True)


def main() -> int:
    output.log()
    try:
        return demo()
    except DaybreakError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except StoppedError as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.signal
    except KeyboardInterrupt:
        return 130


def demo() -> int:
    name = reachable_data()
    short = name != "digits" and pick_device().type == "cpu"
    run = trained(name, budget()) if short else trained(name)
    summary = run.directory.summary
    print(output.last_line(summary, run.path))
    if summary["interrupted"]:
        return 128 + int(summary["interrupted"])
    print("what to do next:")
    for command, why in suggestions(name if short else None, run.path):
        print(f"  {command}\n      {why}")
    return 0


def trained(name: str, seconds: float | None = None) -> api.Run:
    """Where the machine is so slow, or so busy, that no step fits into the seconds, it is given PATIENT ones."""
    # Test images are seen once: averaging over six views of each takes as long as most of the training here.
    settings = {"tta": "none"} if seconds else {}
    with TrainingProgress(console, quiet=False) as on_event:
        try:
            return api.train(name, budget=seconds, settings=settings, on_event=on_event)
        except UsageError:  # which leaves nothing behind
            if seconds is None:
                raise
            return api.train(name, budget=PATIENT, settings=settings, on_event=on_event)


def budget() -> float:
    """Seconds of training."""
    spent = max(0.0, time.time() - float(os.environ.get(STARTED, time.time())))
    return min(LONGEST, max(SHORTEST, LIMIT - AFTERWARDS - spent))


def suggestions(cut_short: str | None, run: Path) -> list[tuple[str, str]]:
    """Three commands, each with what it is for.

    Args:
        cut_short: the data whose recipe was cut short by the budget, if it was.
    """
    daybreak = ".venv/bin/daybreak"
    full = (f"{daybreak} train {cut_short}", "the full recipe, for as long as it takes")
    maps = (f"{daybreak} explain {run}", "what the net looked at where it was wrong, as pictures")
    return [
        (
            f"{daybreak} serve {run}",
            "drop an image on a web page, see its class and why (first: .venv/bin/pip install -e '.[serve]')",
        ),
        full if cut_short else maps,
        (f"{daybreak} train my-photos/", "your own photos: a folder with a folder of images for each class"),
    ]


def reachable_data() -> str:
    """The best data set that can be opened here; opening it also decodes it into the cache."""
    reasons = []
    for name in ["cifar10"] if find_here("cifar10") else ["cifar10-jpeg", "cifar10"]:  # which would be downloaded
        try:
            opened: Dataset = api.open_dataset(name)
        except DataError as error:
            reasons.append(error)
        else:
            console.print(f"{opened.title}: {len(opened.train.labels_N)} training images", highlight=False)
            return name
    console.print(
        f"CIFAR-10 cannot be had here ({reasons[-1].why.partition(' (')[0]}); using digits",
        highlight=False,
        markup=False,
    )
    return "digits"


if __name__ == "__main__":
    sys.exit(main())
