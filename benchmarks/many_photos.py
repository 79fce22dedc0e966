"""How much memory a run on many photos takes, and that it can be killed while features are computed.

    python benchmarks/many_photos.py --photos 100000 --out benchmarks/records/DATE_many-photos

The photos are parts of the two photographs that come with scikit-learn, a class each, every one of them under many
names. The first process is killed (SIGKILL) as soon as a third of the blocks of features are there; the second goes on
and trains the head. many_photos.json has the largest memory of each, and which blocks the second one found.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from photos import write_photos

from daybreak.core.device import describe_hardware, versions
from daybreak.core.files import write_json

DISTINCT = 1000  # photos; the others are links to them
BLOCK = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--set", dest="settings", action="append", default=[], help="as for daybreak train")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = linked(write_photos(Path(scratch) / "photos", min(DISTINCT, arguments.photos)), arguments.photos)
        settings = [word for pair in ("features=1", *arguments.settings) for word in ("--set", pair)]
        out = Path(scratch) / "run"
        line = [sys.executable, "-m", "daybreak", "train", str(data), "--recipe", "finetune", *settings]
        line += ["--device", "cpu", "--no-report", "-q", "--out", str(out)]
        os.environ["DAYBREAK_CACHE_DIR"] = f"{scratch}/cache"
        first = killed(line, Path(scratch) / "cache", arguments.photos // BLOCK // 3)
        second = finished(line)
        summary = json.loads((out / "summary.json").read_text())
    keys = ("features", "features_seconds", "train_seconds", "wall_seconds", "test_acc", "peak_rss_bytes")
    record = {"photos": arguments.photos, "settings": arguments.settings, "killed": first, "finished": second}
    record |= {"summary": {key: summary[key] for key in keys}}
    record |= {"hardware": describe_hardware(torch.device("cpu")), "versions": versions()}
    write_json(arguments.out / "many_photos.json", record)
    print(json.dumps(record, indent=1))


def linked(folder: Path, photos: int) -> Path:
    """The folder with every file under so many names that there are `photos` of them."""
    files = sorted(folder.rglob("*.jpg"))
    for n in range(len(files), photos):
        file = files[n % len(files)]
        os.link(file, file.with_name(f"{file.stem}-{n}.jpg"))
    return folder


def killed(line: list[str], cache: Path, blocks: int) -> dict[str, Any]:
    """Its memory and how far it had come, when so many blocks of features were there."""
    begun, peak = time.perf_counter(), 0
    process = subprocess.Popen(line)
    while process.poll() is None and len(list(cache.glob("features/*/*.f16"))) < blocks:
        time.sleep(1)
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = max([peak, *(1024 * int(row.split()[1]) for row in status.splitlines() if row.startswith("VmHWM"))])
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = len(list(cache.glob("features/*/*.f16")))
    return {"seconds": time.perf_counter() - begun, "peak_bytes": peak, "blocks": there, "exit": process.returncode}


def finished(line: list[str]) -> dict[str, Any]:
    begun, process = time.perf_counter(), subprocess.Popen(line)
    _, status, usage = os.wait4(process.pid, 0)
    seconds, code = time.perf_counter() - begun, os.waitstatus_to_exitcode(status)
    return {"seconds": seconds, "peak_bytes": 1024 * usage.ru_maxrss, "exit": code}


if __name__ == "__main__":
    main()
