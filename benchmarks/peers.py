"""daybreak and its peers side by side: the same pixels, the same machine, the same clock, one process at a time.

    python benchmarks/peers.py cifar10-jpeg --minutes 5 10 --seeds 3
    python benchmarks/peers.py photos/ --peers photos --size 224 --minutes 2 5 --seeds 3

Every peer is a script in benchmarks/peers/ and runs in a process of its own; benchmarks/peers/common.py has the rules
of the clock. Peers that need more than daybreak's own environment get one each, with pinned versions and a CPU build
of PyTorch; where that cannot be installed, the reason stands in place of a number. Each result is appended to
raw.jsonl in the record's folder as soon as it is there: started again with the same --record, a series goes on with
what is missing. At the end peers.json, peers.svg and a table show mean and deviation over the seeds, and daybreak's
lead over each peer with Welch's test.

A peer has the peak rates that peer_rates.py found for it, where that ran with the same --record, and takes as many
steps as fit: by the pace of its last run there, or by its own rehearsal. A run that ends early is repeated
once with more steps, and the repetition counts.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from peer_environments import SCRIPTS, environments
from peer_results import FIGURES, accuracy, draw, summarize, table
from platformdirs import user_cache_path
from series import DAYBREAK, KEPT_MEMORY, Row, append, open_record, read, say, setting_of, without_paths, write_pixels

from daybreak.core.device import versions
from daybreak.core.files import write_json, write_text
from daybreak.data import open_dataset
from daybreak.report.figures import svg

RECORDS = Path(__file__).parent / "records"
FROM_NOTHING = (
    "airbench94_muon", "seed_page", "resnet18", "lightning_resnet18", "fastai_resnet18", "keras_cnn"
)  # fmt: skip
FROM_IMAGENET = ("finetune_timm", "finetune_fastai")  # of photos
PEERS = (*FROM_NOTHING, *FROM_IMAGENET)
SAME_RATE = {"lightning_resnet18": "resnet18"}  # net, optimizer and batches are the other's
TOLERANCE = 0.05  # of the budget; a run that is further off is flagged
TRIES = 2  # of a run that ends early
RATES = "rates.jsonl"


@dataclass(frozen=True)
class Job:
    """One run: a peer, its budget in minutes, a seed, what multiplies its peak rates, its steps if they are known."""

    peer: str
    minutes: float
    seed: int
    rate: float = 1.0
    steps: int | None = None

    def is_of(self, row: Row) -> bool:
        return (row["peer"], row["minutes"], row["seed"]) == (self.peer, self.minutes, self.seed)


def main() -> None:
    arguments = parse()
    dataset = open_dataset(arguments.data, size=arguments.size, validate=0 if arguments.size else None)
    setting = setting_of(dataset)
    folder = open_record(arguments.record, setting)
    pythons, not_installable = environments(arguments.peers, arguments.environments)
    with tempfile.TemporaryDirectory() as scratch:
        pixels = Path(scratch) / "pixels.npz"
        write_pixels(dataset, pixels)
        todo = [
            job
            for job in jobs(pythons, arguments.minutes, arguments.seeds)
            if not is_done(job, folder, arguments.tries)
        ]
        for number, job in enumerate(todo, 1):
            say(f"[{number} of {len(todo)}] {job.peer}, {job.minutes:g} min, seed {job.seed}")
            while not is_done(job, folder, arguments.tries):
                job = tuned(job, folder)
                append(folder, run_job(job, command(job, pythons[job.peer], arguments.data, pixels, Path(scratch))))
    results = summarize(read(folder))
    tuned_peers = [peer for peer in pythons if peer not in (DAYBREAK, "seed_page")]
    rates = {peer: {f"{m:g}": best_rate(peer, folder, m) for m in arguments.minutes} for peer in tuned_peers}
    record = setting | {"memory": "kept", "not_installable": not_installable, "rates": rates, "results": results}
    write_json(folder / "peers.json", record)
    write_text(folder / "peers.svg", svg(draw(results)))
    print(table(results, not_installable))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--minutes", type=float, nargs="+", default=[5.0, 10.0], help="budgets of training")
    parser.add_argument(
        "--peers", type=peers_named, default=(DAYBREAK, *FROM_NOTHING), help="all (from nothing), photos, or a,b"
    )
    parser.add_argument("--size", type=int, help="side in px of photos; daybreak takes its own recipe's")
    parser.add_argument("--seeds", type=int, default=1, help="how many: 0, 1, …")
    parser.add_argument("--tries", type=int, default=TRIES, help="of a run that ends early; its last one counts")
    parser.add_argument("--record", type=Path, default=RECORDS / f"{time.strftime('%Y-%m-%d')}_peers")
    parser.add_argument("--environments", type=Path, default=user_cache_path("daybreak") / "peers")
    return parser.parse_args(arguments)


def peers_named(text: str) -> tuple[str, ...]:
    named = {"all": (DAYBREAK, *FROM_NOTHING), "photos": (DAYBREAK, *FROM_IMAGENET)}
    names = named.get(text) or tuple(text.split(","))
    unknown = set(names) - {DAYBREAK, *PEERS}
    if unknown:
        raise argparse.ArgumentTypeError(f"no such peer: {', '.join(sorted(unknown))} (there are {', '.join(PEERS)})")
    return names


def jobs(peers: Iterable[str], minutes: Iterable[float], seeds: int) -> list[Job]:
    """All runs, seed by seed: what drifts during a long series then falls on all peers alike."""
    return [Job(peer, budget, seed) for seed in range(seeds) for budget in minutes for peer in peers]


def is_done(job: Job, folder: Path, tries: int = TRIES) -> bool:
    """A failed run counts as done: it is part of the result. Delete its line to try again."""
    mine = [row for row in read(folder) if job.is_of(row)]
    tries = 1 if job.peer == DAYBREAK else tries  # it has a budget of its own, and may need less
    return len(mine) >= tries or (bool(mine) and not mine[-1].get("off_budget", 0) < -TOLERANCE)


def tuned(job: Job, folder: Path) -> Job:
    """With the best rate of the peer's grid, if it had one, and the steps that fit by the pace of its last run."""
    steps = None if job.peer == DAYBREAK else steps_by_pace(job, [*read(folder, RATES), *read(folder)])
    return replace(job, rate=best_rate(job.peer, folder, job.minutes), steps=steps)


def steps_by_pace(job: Job, rows: Iterable[Row]) -> int | None:
    """How many steps fit the job's budget by what one took in its peer's last run; None before the first."""
    paces = [row["train_seconds"] / row["steps"] for row in rows if row["peer"] == job.peer and "steps" in row]
    return max(1, round(60 * job.minutes / paces[-1])) if paces else None


def best_rate(peer: str, folder: Path, minutes: float) -> float:
    """Of the longest trials that are no longer than the run, as long runs want lower rates than short ones; else of the
    shortest there are."""
    grid = [row for row in read(folder, RATES) if row["peer"] == SAME_RATE.get(peer, peer) and "failed" not in row]
    lengths = sorted({row["minutes"] for row in grid})
    length = max([length for length in lengths if length <= minutes] or lengths[:1], default=None)
    return float(max((row for row in grid if row["minutes"] == length), key=accuracy, default={"rate": 1.0})["rate"])


# -- one run ----------------------------------------------------------------------------------------------------------


def command(job: Job, python: Path, data: str, pixels: Path, scratch: Path) -> list[str]:
    if job.peer == DAYBREAK:
        out = scratch / f"daybreak-{job.minutes:g}-{job.seed}"
        budget = ["--budget", f"{job.minutes:g}m", "--seed", str(job.seed)]
        words = ["train", data, *budget, "--device", "cpu", "--json", "--out", str(out)]
        if not Path(data).is_dir():
            return [str(python.with_name("daybreak")), *words]
        # Photos: with a cache of its own, as features of an earlier run would be a present; and nobody validates.
        own_cache = ["env", f"DAYBREAK_CACHE_DIR={out}-cache"]
        return [*own_cache, str(python.with_name("daybreak")), *words, "--validate", "0"]
    length = ["--steps", str(job.steps)] if job.steps else ["--budget", f"{60 * job.minutes:g}"]
    words = ["--pixels", str(pixels), *length, "--rate", f"{job.rate:g}", "--seed", str(job.seed)]
    return [str(python), str(SCRIPTS / f"{job.peer}.py"), *words]


def run_job(job: Job, line: Sequence[str]) -> Row:
    """The job's row of the record: its result, or why there is none."""
    row = {"peer": job.peer, "minutes": job.minutes, "seed": job.seed, "rate": job.rate}
    code, output, last = run(line, limit=60 * (3 * job.minutes + 60))
    try:
        result = json.loads(output.splitlines()[-1]) if code == 0 else {}
        figures = {key: result[key] for key in ("epochs", "steps", *FIGURES)}
    except (IndexError, KeyError, ValueError):
        return row | {"failed": f"exit code {code}: {without_paths(last)}"}
    off = figures["train_seconds"] / (60 * job.minutes) - 1
    used = result.get("versions") or versions()
    return row | figures | {"off_budget": off, "flagged": abs(off) > TOLERANCE, "versions": used}


def run(line: Sequence[str], limit: float) -> tuple[int, str, str]:
    """Exit code, stdout and the last line of stderr, which is shown as it comes; killed after `limit` seconds."""
    with tempfile.TemporaryFile("w+") as stdout:
        same = os.environ | KEPT_MEMORY | {"CUDA_VISIBLE_DEVICES": ""}  # memory setting and device, for all
        process = subprocess.Popen(line, stdout=stdout, stderr=subprocess.PIPE, text=True, errors="replace", env=same)
        timer = threading.Timer(limit, process.kill)
        timer.start()
        last = deque([""], maxlen=1)
        try:
            for said in process.stderr or ():
                sys.stderr.write(said)
                last.extend([said.strip()] if said.strip() else [])
            code = process.wait()
        finally:
            timer.cancel()
            process.kill()  # does nothing to one that has ended; an interrupted series leaves none behind
        stdout.seek(0)
        return code, stdout.read(), last[0]


if __name__ == "__main__":
    main()
