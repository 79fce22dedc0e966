"""Coverage-guided fuzzing (atheris) of everything that reads what comes from outside.

    pip install 'atheris==3.0.0'
    python benchmarks/fuzz.py --out benchmarks/records/DATE_fuzz     a million inputs of all readers, one by one
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
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daybreak.data.dataset import Pictures

ROOT = Path(__file__).parents[1]
CORPORA = ROOT / "tests" / "corpora"
READERS = (
    "decoder", "zip", "tar", "npz", "idx", "cifar", "shards", "table", "parquet", "entry",
    "recipe", "config", "card", "checkpoint", "metrics", "summary", "predictions", "bundle",
)  # fmt: skip
LIMITS = ("-rss_limit_mb=1024", "-timeout=25", "-max_len=65536", "-print_final_stats=1", "-verbosity=1")
Reader = Callable[[bytes], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reader", action="append", choices=READERS)
    parser.add_argument("--inputs", type=int, default=10**6, help="of each reader, at most")
    parser.add_argument("--seconds", type=int, default=3600, help="of each reader, at most")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", help=argparse.SUPPRESS)  # one reader, in this process
    arguments, rest = parser.parse_known_args()
    if arguments.only:
        fuzz(arguments.only, rest)
        return
    if rest:
        parser.error(f"unknown: {' '.join(rest)}")
    findings = []
    for name in arguments.reader or READERS:
        row = in_a_process(name, arguments.inputs, arguments.seconds)
        findings.append(row["finding"])
        if arguments.out:  # a file each, so that several processes can share the readers
            arguments.out.mkdir(parents=True, exist_ok=True)
            (arguments.out / f"{name}.json").write_text(json.dumps(row | about(), indent=2) + "\n")
    sys.exit(any(findings))


def about() -> dict[str, Any]:
    import torch

    from daybreak.core.device import describe_hardware, versions

    return {"hardware": describe_hardware(torch.device("cpu")), "versions": versions()}


def in_a_process(name: str, inputs: int, seconds: int) -> dict[str, Any]:
    """Fuzz one reader; says how many inputs it saw, and what was found."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as grown:
        findings = Path(tempfile.mkdtemp(prefix=f"daybreak-fuzz-{name}-"))
        words = [sys.executable, __file__, "--only", name, f"-runs={inputs}", f"-max_total_time={seconds}", *LIMITS]
        words += [f"-artifact_prefix={findings}/", grown, str(CORPORA / name)]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    executed = re.search(r"stat::number_of_executed_units:\s+(\d+)", done.stdout)
    peak = re.search(r"stat::peak_rss_mb:\s+(\d+)", done.stdout)
    row: dict[str, Any] = {"reader": name, "inputs": int(executed[1]) if executed else 0, "finding": ""}
    row |= {"seconds": round(time.monotonic() - begun), "peak_rss_mib": int(peak[1]) if peak else None}
    if done.returncode:
        row["finding"] = f"{findings}: {done.stdout[-2000:]}"
    else:
        findings.rmdir()
    print(json.dumps(row), flush=True)
    return row


def fuzz(name: str, arguments: list[str]) -> None:
    """Runs until time is up or something is found; then this process is over."""
    import atheris  # type: ignore[import-not-found]  # for Linux only

    without_checksums()
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


def without_checksums() -> None:
    """Nearly every change of a zip or a tar would be refused for its checksum alone, and nothing behind it be tried."""

    class Anything:
        def __contains__(self, _: object) -> bool:
            return True

    zipfile.ZipExtFile._update_crc = lambda *_: None  # type: ignore[attr-defined]
    tarfile.calc_chksums = lambda _: Anything()  # type: ignore[attr-defined]


def readers(folder: Path) -> dict[str, Reader]:
    """By name; they work in this folder, which lies in memory."""
    return data_readers(folder) | listed_readers(folder) | {"entry": entry_reader(folder)} | run_readers(folder)


def write_into(folder: Path, data: bytes, name: str) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def all_of(pictures: "Pictures") -> None:
    for image in pictures.images(range(len(pictures.labels_N))):
        assert str(image.dtype) == "uint8"


def data_readers(folder: Path) -> dict[str, Reader]:
    from daybreak.core.errors import DataError
    from daybreak.data import cifar
    from daybreak.data.archives import open_archive
    from daybreak.data.arrays import read_npz
    from daybreak.data.files import read_pictures
    from daybreak.data.idx import reader_of_idx
    from daybreak.data.image import BadImage, DecodeSpec, decode

    spec = DecodeSpec(8, 3)

    written = partial(write_into, folder)

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
            found = cifar._InertUnpickler(io.BytesIO(data), encoding="bytes").load()
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


def listed_readers(folder: Path) -> dict[str, Reader]:
    """Of images that are listed with their labels. A table lists the two images that lie beside it."""
    from daybreak.data.files import pictures_of
    from daybreak.data.parquet import Parquet
    from daybreak.data.shards import Shards
    from daybreak.data.table import Table

    beside = folder / "listed"
    beside.mkdir()
    for name in ("a.png", "b.png"):
        (beside / name).write_bytes(first_of("decoder"))

    def reader(opened: Callable[[Path], Any], name: str) -> Reader:
        def read(data: bytes) -> None:
            container = opened(write_into(beside, data, name))
            all_of(pictures_of(container, container.layout(frozenset()), 8, name))

        return read

    return {
        "shards": reader(lambda path: Shards([path]), "train-0.tar"),
        "table": reader(Table, "table.csv"),
        "parquet": reader(lambda path: Parquet([path]), "train-0.parquet"),
    }


def entry_reader(folder: Path) -> Reader:
    """An entry of the decode cache whose description is the input, and one of whose arrays is. Its sums are made to
    fit, for otherwise nothing else would be looked at."""
    import numpy as np

    from daybreak.data import entry

    where = folder / "entry"
    where.mkdir()
    sound: dict[str, Any] = {
        "classes": ["a", "b"], "decode": {"size": 1, "channels": 1}, "fingerprint": "0" * 64, "notes": [],
        "names": {"train": ["1", "2"], "test": ["3"]},
    }  # fmt: skip
    arrays = {
        f"{part}_{name}.npy": array
        for part, n in (("train", 2), ("test", 1))
        for name, array in (("images", np.zeros((n, 1, 1, 1), np.uint8)), ("labels", np.zeros(n, np.int64)))
    }
    for name, array in arrays.items():
        np.save(where / name, array)
    whole = {name: (where / name).read_bytes() for name in arrays}
    sizes = {name: len(content) for name, content in whole.items()}

    def describe(meta: Any) -> None:
        if isinstance(meta, dict):
            meta["sum"] = entry._sum_of({key: value for key, value in meta.items() if key != "sum"})
        (where / entry.META).write_text(json.dumps(meta))

    def read(data: bytes) -> None:
        (where / entry.META).write_bytes(data)
        with suppress(ValueError, RecursionError):  # it stays as it is where no sum can be made to fit
            meta = json.loads(data)
            describe(meta | {"sizes": sizes} if isinstance(meta, dict) else meta)
        with suppress(entry.DamagedEntryError):
            entry.read_entry(where)
        for name in ("train_labels.npy", "train_images.npy"):
            (where / name).write_bytes(data)
            describe(sound | {"sizes": sizes | {name: len(data)}})
            with suppress(entry.DamagedEntryError):
                entry.read_entry(where)
            (where / name).write_bytes(whole[name])

    return read


def run_readers(folder: Path) -> dict[str, Reader]:
    from hashlib import sha256

    from daybreak.export.bundle import FACTS, MODEL, read_facts
    from daybreak.recipes import read_toml
    from daybreak.runs.directory import RunDirectory
    from daybreak.runs.metrics_rows import kept_until
    from daybreak.training import checkpoint

    run, step, packed = folder / "run", folder / "step-00000001", folder / "bundle"
    for each in (run, step, packed):
        each.mkdir()
    (packed / MODEL).write_bytes(b"a graph")
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

    def summary(data: bytes) -> None:
        (run / "summary.json").write_bytes(data)
        assert isinstance(RunDirectory.open(run).summary, Mapping)

    def predictions(data: bytes) -> None:
        (run / "predictions.npz").write_bytes(data)
        RunDirectory.open(run).predictions()

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

    def bundle(data: bytes) -> None:
        (packed / FACTS).write_bytes(data)
        assert read_facts(packed, MODEL, "daybreak export").classes

    return {
        "recipe": recipe, "config": config, "card": card, "checkpoint": saved, "metrics": metrics,
        "summary": summary, "predictions": predictions, "bundle": bundle,
    }  # fmt: skip


def first_of(reader: str) -> bytes:
    """The first input of a corpus, which is a sound one."""
    return min((CORPORA / reader).iterdir()).read_bytes()


if __name__ == "__main__":
    main()
