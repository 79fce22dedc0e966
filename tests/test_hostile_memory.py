"""What is refused costs little memory: each input is opened in a process of its own, whose largest size is read."""

import io
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_sets import pixels, sample_files, write_zip

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


@pytest.mark.parametrize(
    ("name", "make", "why"),
    [
        ("set.zip", zip_with_large_members, "large0.png: more than 256 MiB"),
        ("set.tar.gz", tar_with_a_large_member, "large.png: more than 256 MiB"),
        ("label.npz", npz_with_a_large_label, "more than 100,000 classes"),
        ("header.npz", npz_with_a_large_header, "does not fit"),
        ("float.npz", npz_of_another_type, "x_train: float64, but must be uint8"),
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
