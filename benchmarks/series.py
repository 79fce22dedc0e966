"""What all series of runs share: a record's folder with its setting, rows appended as they come, and equal terms."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from daybreak.core.device import describe_hardware, versions
from daybreak.core.files import write_json
from daybreak.data import Dataset

# glibc's names for what daybreak.core.device.kept_memory sets, for all alike: freed blocks stay in the process.
KEPT_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**63 - 1)}
RAW = "raw.jsonl"
DAYBREAK = "daybreak"  # among its peers

Row = dict[str, Any]


def setting_of(dataset: Dataset, device: str = "cpu") -> Row:
    """What all runs of a series have in common."""
    hardware = describe_hardware(torch.device(device))
    return {"dataset": dataset.title, "fingerprint": dataset.fingerprint, "hardware": hardware, "versions": versions()}


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


def write_pixels(dataset: Dataset, path: Path) -> None:
    arrays: dict[str, np.ndarray] = {}
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        arrays |= {f"x_{name}": np.asarray(split.images_NHWC), f"y_{name}": np.asarray(split.labels_N)}
    np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for its own arguments


def without_paths(text: str) -> str:
    """Paths on this machine cut down to the file's name, for the record."""
    return re.sub(r"(?<![\w:/])/[^\s:'\"]*/", "", text)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
