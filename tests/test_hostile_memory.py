"""What is refused costs little memory: each input is opened in a process of its own, whose largest size is read."""

import io
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_sets import pixels, sample_files, write_zip
from test_data_pages import number

pytestmark = [
    pytest.mark.slow,  # a second or two each, of writing and inflating hundreds of megabytes
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

LIMIT = 1e9
OPEN = """
import sys
from pathlib import Path
from daybreak.core.errors import DaybreakError
from daybreak.data import open_dataset
try:
    open_dataset(sys.argv[1])
    said = "opened"
except DaybreakError as error:
    said = str(error)
# Not getrusage: that of a new process begins with the size of the one it was forked from.
largest = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(int(largest.split()[1]) * 1024, said)
"""


def zip_with_large_members(path: Path) -> Path:
    """A megabyte that unpacks to 1.2 GB: less than what counts as a bomb, so that every member is looked at."""
    write_zip(path, sample_files(per_class=30))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        for i in range(4):
            archive.writestr(f"train/ant/large{i}.png", bytes(300 * 2**20))
    return path


def tar_with_a_large_member(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in [*sample_files().items(), ("train/ant/large.png", bytes(300 * 2**20))]:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def npz_with_a_large_label(path: Path) -> Path:
    np.savez(path, x_train=pixels(4), y_train=np.array([0, 0, 1, 2_000_000_000]))
    return path


def npz_with_a_large_header(path: Path) -> Path:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (4, 10**6, 10**7)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", header.getvalue())
        archive.writestr("y_train.npy", b"")
    return path


def npz_of_another_type(path: Path) -> Path:
    """Read whole, it would take 960 MB; its header says what it is."""
    np.savez_compressed(path, x_train=np.zeros((40, 1000, 1000, 3), np.float64), y_train=np.zeros(40, np.int64))
    return path


def parquet_of_a_large_page(path: Path) -> Path:
    """Read whole, it would be in memory three times."""
    pq.write_table(
        pa.table({"label": [0, 1] * 2, "image": [bytes(400 * 2**20), b"", b"", b""]}), path, compression="zstd"
    )
    return path


def parquet_of_a_page_that_claims_much(path: Path) -> Path:
    """Found by fuzzing: pyarrow takes memory for it, and fills it, before it sees how much is there."""
    table = pa.table({"label": [0, 1] * 2, "image": [b"small"] * 4})
    pq.write_table(table, path, use_dictionary=False, compression="none")
    whole = path.read_bytes()
    at = pq.ParquetFile(path).metadata.row_group(0).column(1).data_page_offset
    large = whole[at + 3 : at + 4]  # a page's kind, and its size twice
    assert whole[at : at + 6] == b"\x15\x00\x15" + large + b"\x15" + large
    path.write_bytes(whole[: at + 5] + number(1_800_000_000) + whole[at + 6 :])
    return path


def parquet_of_many_differences(path: Path) -> Path:
    """Pyarrow makes a list of 400 million lengths."""
    table = pa.table({"label": [0, 1] * 50, "image": [b"12345678"] * 100})
    encoding = {"image": "DELTA_LENGTH_BYTE_ARRAY", "label": "PLAIN"}
    pq.write_table(table, path, use_dictionary=False, compression="none", column_encoding=encoding)
    whole = path.read_bytes()
    found = whole.index(b"\x80\x01\x04" + b"\x64")  # blocks of 128, in four parts, and a hundred values
    many = b"\x80\x80\x80\x80\x04" + b"\x01" + b"\x80\x88\xde\xbe\x01" + b"\x10\x00\x00"
    path.write_bytes(whole[:found] + many + whole[found + len(many) :])
    return path


@pytest.mark.parametrize(
    ("name", "make", "why"),
    [
        ("set.zip", zip_with_large_members, "large0.png: more than 256 MiB"),
        ("set.tar.gz", tar_with_a_large_member, "large.png: more than 256 MiB"),
        ("label.npz", npz_with_a_large_label, "more than 100,000 classes"),
        ("header.npz", npz_with_a_large_header, "does not fit"),
        ("float.npz", npz_of_another_type, "x_train: float64, but must be uint8"),
        ("page.parquet", parquet_of_a_large_page, "a page of 419,430,408 bytes, more than 268,435,456"),
        ("claim.parquet", parquet_of_a_page_that_claims_much, "a page is longer than its column"),
        ("many.parquet", parquet_of_many_differences, "texts that are stored by their differences"),
    ],
)
def test_a_refused_input_takes_less_than_a_gigabyte(
    tmp_path: Path, cache: Path, name: str, make: Callable[[Path], Path], why: str
) -> None:
    assert not cache.exists()
    words = [sys.executable, "-c", OPEN, str(make(tmp_path / name))]
    said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120).stdout
    largest, message = said.split(" ", 1)
    assert why in message
    assert int(largest) < LIMIT
