"""`make demo`: a trained net and its report, whatever this machine can reach.

CIFAR-10 where it is at hand or can be downloaded, on a short budget; otherwise the handwritten digits that
scikit-learn carries. The JPEG re-encoding of CIFAR-10 is used where a data directory offers nothing better.
"""

import sys

from rich.console import Console

from daybreak import api
from daybreak.cli import output
from daybreak.cli.progress_bar import TrainingProgress
from daybreak.core.device import pick_device
from daybreak.core.errors import DataError, DaybreakError, StoppedError
from daybreak.data import Dataset
from daybreak.data.sources import find_here

CPU_BUDGET = 120.0  # seconds of training; three minutes with evaluation and report

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
    with TrainingProgress(console, quiet=False) as on_event:
        run = api.train(name, budget=CPU_BUDGET if short else None, on_event=on_event)
    summary = run.directory.summary
    print(output.last_line(summary, run.path))
    if short:
        print(f"the full recipe: .venv/bin/daybreak train {name}")
    print(f"next, try: .venv/bin/daybreak explain {run.path}")
    return 128 + summary["interrupted"] if summary["interrupted"] else 0


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
