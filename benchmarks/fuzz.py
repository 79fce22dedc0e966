"""Coverage-guided fuzzing (atheris) of everything that reads what comes from outside.

    pip install 'atheris==3.0.0'
    python benchmarks/fuzz.py --seconds 600 --out benchmarks/records/DATE_fuzz        all readers, one after the other
    python benchmarks/fuzz.py --reader zip --seconds 60

A reader answers or raises an error of ours, which is one line; anything else is a finding, and so is more than a
gigabyte of memory or more than 25 seconds for one input. Inputs begin with those in tests/corpora/READER; findings are
left in the folder that is named, and belong into a test.
"""

import argparse
import io
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CORPORA = ROOT / "tests" / "corpora"
READERS = ("decoder", "zip", "tar", "npz", "idx", "cifar", "recipe", "config", "card", "checkpoint", "metrics")
LIMITS = ("-rss_limit_mb=1024", "-timeout=25", "-max_len=65536", "-print_final_stats=1", "-verbosity=1")
Reader = Callable[[bytes], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reader", action="append", choices=READERS)
    parser.add_argument("--seconds", type=int, default=600, help="of each reader")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", help=argparse.SUPPRESS)  # one reader, in this process
    arguments, rest = parser.parse_known_args()
    if arguments.only:
        fuzz(arguments.only, rest)
        return
    if rest:
        parser.error(f"unknown: {' '.join(rest)}")
    rows = [in_a_process(name, arguments.seconds) for name in arguments.reader or READERS]
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "fuzz.json").write_text(json.dumps({"readers": rows} | about(), indent=2) + "\n")
    sys.exit(any(row["finding"] for row in rows))


def about() -> dict[str, Any]:
    import torch

    from daybreak.core.device import describe_hardware, versions

    return {"hardware": describe_hardware(torch.device("cpu")), "versions": versions()}


def in_a_process(name: str, seconds: int) -> dict[str, Any]:
    """Fuzz one reader; says how many inputs it saw, and what was found."""
    with tempfile.TemporaryDirectory() as grown:
        findings = Path(tempfile.mkdtemp(prefix=f"daybreak-fuzz-{name}-"))
        words = [sys.executable, __file__, "--only", name, f"-max_total_time={seconds}", *LIMITS]
        words += [f"-artifact_prefix={findings}/", grown, str(CORPORA / name)]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    executed = re.search(r"stat::number_of_executed_units:\s+(\d+)", done.stdout)
    row = {"reader": name, "inputs": int(executed[1]) if executed else 0, "seconds": seconds, "finding": ""}
    if done.returncode:
        row["finding"] = f"{findings}: {done.stdout[-2000:]}"
    else:
        findings.rmdir()
    print(json.dumps(row), flush=True)
    return row


def fuzz(name: str, arguments: list[str]) -> None:
    """Runs until time is up or something is found; then this process is over."""
    import atheris  # type: ignore[import-not-found]  # for Linux only

    with atheris.instrument_imports(include=["daybreak"]), tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        reader = readers(Path(folder))[name]
        from daybreak.core.errors import DaybreakError

        def attempt(data: bytes) -> None:
            said = ""
            try:
                reader(data)
            except DaybreakError as error:
                said = str(error)
            assert "\n" not in said, "an error of more than one line"

        atheris.Setup([sys.argv[0], *arguments], attempt)
        atheris.Fuzz()


def readers(folder: Path) -> dict[str, Reader]:
    """By name; they work in this folder, which lies in memory."""
    return data_readers(folder) | run_readers(folder)


def data_readers(folder: Path) -> dict[str, Reader]:
    import numpy as np

    from daybreak.core.errors import DataError
    from daybreak.data import cifar
    from daybreak.data.archives import open_archive
    from daybreak.data.arrays import read_npz
    from daybreak.data.dataset import Pictures
    from daybreak.data.files import read_pictures
    from daybreak.data.idx import reader_of_idx
    from daybreak.data.image import BadImage, DecodeSpec, decode

    spec = DecodeSpec(8, 3)

    def written(data: bytes, name: str) -> Path:
        path = folder / name
        path.write_bytes(data)
        return path

    def all_of(pictures: Pictures) -> None:
        for image in pictures.images(np.arange(len(pictures.labels_N))):
            assert image.dtype == np.uint8

    def decoder(data: bytes) -> None:
        try:
            assert decode(data, spec).shape == (8, 8, 3)
        except BadImage as error:
            raise DataError("image", str(error), "another") from None

    def archive(name: str) -> Reader:
        def read(data: bytes) -> None:
            with open_archive(written(data, name)) as container:
                all_of(read_pictures(container, 8, name))

        return read

    def idx(data: bytes) -> None:
        images, labels = bytes.fromhex("00000803000000020000000200000002") + b"\1" * 8, b"\0\0\x08\1\0\0\0\2\0\1"
        good = [written(images, "train-images"), written(labels, "train-labels")]
        bad = [written(data, "images"), written(data[::-1], "labels")]
        for paths in ((bad[0], good[1], *good), (good[0], bad[0], *good), (*good, good[0], bad[1])):
            all_of(reader_of_idx(("a", "b"))(tuple(paths), None))

    def batch(data: bytes) -> None:
        path = Path("data_batch_1")
        try:
            found = cifar._InertUnpickler(io.BytesIO(data)).load()
        except DataError:
            raise
        except Exception as error:  # as where members are read
            raise DataError(path, f"cannot be read ({type(error).__name__})", "another") from None
        cifar._cifar_part(found, b"labels", "train", path)

    return {
        "decoder": decoder,
        "zip": archive("set.zip"),
        "tar": archive("set.tar"),
        "npz": lambda data: all_of(read_npz(written(data, "set.npz"), None)),
        "idx": idx,
        "cifar": batch,
    }


def run_readers(folder: Path) -> dict[str, Reader]:
    from hashlib import sha256

    from daybreak.recipes import read_toml
    from daybreak.runs.directory import RunDirectory
    from daybreak.runs.metrics_rows import kept_until
    from daybreak.training import checkpoint

    run, step = folder / "run", folder / "step-00000001"
    run.mkdir()
    step.mkdir()
    (run / "config.json").write_bytes(first_of("config"))

    def recipe(data: bytes) -> None:
        (folder / "mine.toml").write_bytes(data)
        read_toml(folder / "mine.toml")

    def config(data: bytes) -> None:
        (run / "config.json").write_bytes(data)
        opened = RunDirectory.open(run)
        assert opened.recipe.epochs
        assert opened.options.seed >= 0

    def card(data: bytes) -> None:
        (run / "model.json").write_bytes(data)
        assert RunDirectory.open(run).card.classes

    def saved(data: bytes) -> None:
        half = len(data) // 2
        names = (checkpoint.TENSORS, checkpoint.FACTS)
        for parts in ((data, first_of("checkpoint")), (first_of("tensors"), data), (data[:half], data[half:])):
            content = dict(zip(names, parts, strict=True))
            for name, part in content.items():
                (step / name).write_bytes(part)
            manifest = {name: sha256(part).hexdigest() for name, part in content.items()}
            (step / checkpoint.MANIFEST).write_text(json.dumps(manifest))
            with suppress(checkpoint._DamagedError):
                assert checkpoint.read(step).facts["step"] >= 0

    def metrics(data: bytes) -> None:
        log, _, table = data.partition(b"\0\0")
        kept_until(len(data) % 7, len(log), log, table.decode("utf-8", errors="replace"))

    return {"recipe": recipe, "config": config, "card": card, "checkpoint": saved, "metrics": metrics}


def first_of(reader: str) -> bytes:
    """The first input of a corpus, which is a sound one."""
    return min((CORPORA / reader).iterdir()).read_bytes()


if __name__ == "__main__":
    main()
