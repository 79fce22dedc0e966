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
import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from platformdirs import user_cache_path
from scipy import stats

from daybreak.benchmarking.record import spread
from daybreak.core.device import describe_hardware, versions
from daybreak.core.files import write_json, write_text
from daybreak.data import Dataset, open_dataset
from daybreak.report.figures import STYLE, svg

RECORDS = Path(__file__).parent / "records"
SCRIPTS = Path(__file__).parent / "peers"
DAYBREAK = "daybreak"
FROM_NOTHING = (
    "airbench94_muon", "seed_page", "resnet18", "lightning_resnet18", "fastai_resnet18", "keras_cnn"
)  # fmt: skip
FROM_IMAGENET = ("finetune_timm", "finetune_fastai")  # of photos
PEERS = (*FROM_NOTHING, *FROM_IMAGENET)
# glibc's names for what daybreak.core.device.kept_memory sets, for all alike: freed blocks stay in the process.
KEPT_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**63 - 1)}
SAME_RATE = {"lightning_resnet18": "resnet18"}  # net, optimizer and batches are the other's
TOLERANCE = 0.05  # of the budget; a run that is further off is flagged
TRIES = 2  # of a run that ends early
RAW, RATES = "raw.jsonl", "rates.jsonl"
FIGURES = ("test_acc", "test_acc_tta", "train_seconds")

Row = dict[str, Any]


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


def setting_of(dataset: Dataset, device: str = "cpu") -> Row:
    """What all runs of a series have in common."""
    hardware = describe_hardware(torch.device(device))
    return {"dataset": dataset.title, "fingerprint": dataset.fingerprint, "hardware": hardware, "versions": versions()}


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


def write_pixels(dataset: Dataset, path: Path) -> None:
    arrays: dict[str, np.ndarray] = {}
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        arrays |= {f"x_{name}": np.asarray(split.images_NHWC), f"y_{name}": np.asarray(split.labels_N)}
    np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for its own arguments


# -- the record -------------------------------------------------------------------------------------------------------


def open_record(folder: Path, setting: Row) -> Path:
    """The folder of a new series, or of one to go on with; that one must be of the same data and machine."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "setting.json"
    if file.exists() and json.loads(file.read_text()) != setting:
        raise SystemExit(
            f"error: {folder}: was begun with other data, versions or on another machine; try: another --record"
        )
    write_json(file, setting)
    return folder


def read(folder: Path, name: str = RAW) -> list[Row]:
    file = folder / name
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def append(folder: Path, row: Row, name: str = RAW) -> None:
    with (folder / name).open("a") as file:
        file.write(json.dumps(row) + "\n")


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


def without_paths(text: str) -> str:
    """Paths on this machine cut down to the file's name, for the record."""
    return re.sub(r"(?<![\w:/])/[^\s:'\"]*/", "", text)


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


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# -- environments -----------------------------------------------------------------------------------------------------


def environments(peers: Iterable[str], folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """The Python of each peer, and why others have none. Peers without requirements use daybreak's own."""
    pythons, reasons = {}, {}
    for peer in peers:
        needs = () if peer == DAYBREAK else requirements(SCRIPTS / f"{peer}.py")
        try:
            pythons[peer] = environment(peer, needs, folder) if needs else Path(sys.executable)
        except RuntimeError as error:
            reasons[peer] = f"not installable here: {error}"
            say(f"{peer}: {reasons[peer]}")
    return pythons, reasons


def requirements(script: Path) -> tuple[str, ...]:
    """What stands in a script as REQUIREMENTS; it is read, not run, since it imports what may not be there yet."""
    for node in ast.parse(script.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "REQUIREMENTS":
            return tuple(ast.literal_eval(node.value))
    return ()


def environment(peer: str, needs: tuple[str, ...], folder: Path) -> Path:
    """The Python of an environment with these packages, made where there is none.

    Raises:
        RuntimeError: the packages cannot be had, would bring CUDA, or do not load.
    """
    home = folder / f"{peer}-{hashlib.sha256(repr(needs).encode()).hexdigest()[:8]}"
    python, ready = home / "bin" / "python", home / ".ready"
    if not ready.exists():
        say(f"{peer}: making an environment with {', '.join(needs)}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        install(pip, needs)
        must(run_quietly([str(python), str(SCRIPTS / f"{peer}.py"), "--help"]))
        ready.touch()
    return python


def install(pip: list[str], needs: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        plan = Path(scratch) / "plan.json"
        must(run_quietly([*pip, "--dry-run", "--report", str(plan), *needs]))
        wanted = [entry["metadata"]["name"] for entry in json.loads(plan.read_text())["install"]]
    cuda = sorted(name for name in wanted if name.startswith(("nvidia-", "cuda-", "triton")))
    if cuda:
        raise RuntimeError(f"would bring CUDA packages ({cuda[0]} and {len(cuda) - 1} more)")
    must(run_quietly([*pip, *needs]))


def run_quietly(line: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line, capture_output=True, text=True, check=False)


def must(process: subprocess.CompletedProcess[str]) -> None:
    if process.returncode:
        last = (process.stderr.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        raise RuntimeError(without_paths(last))


# -- what it came to --------------------------------------------------------------------------------------------------


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


if __name__ == "__main__":
    main()
