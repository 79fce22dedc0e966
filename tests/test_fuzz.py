"""Readers of what comes from outside, on bytes that somebody changed: an answer or one line, and nothing else."""

import io
import multiprocessing
import pickle
import resource
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_sets import CLASSES, encode, pixels, sample_files, write_folder, write_npz, write_tar, write_zip
from test_data_canonical import cifar10_members, idx_contents, tar_gz

from daybreak.core.config import Recipe
from daybreak.core.errors import DataError, DaybreakError
from daybreak.data import open_dataset
from daybreak.data.cifar import read_cifar10
from daybreak.data.idx import reader_of_idx
from daybreak.recipes import RECIPES, read_toml, to_toml

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
Changes = list[tuple[int, int]]
CHANGES = st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 255)), min_size=1, max_size=4)


def changed(data: bytes, changes: Changes) -> bytes:
    """The bytes with some of them XORed, at places counted round and round."""
    damaged = bytearray(data)
    for place, mask in changes:
        damaged[place % len(damaged)] ^= mask
    return bytes(damaged)


@contextmanager
def or_one_line() -> Iterator[None]:
    """The block may fail with an error of ours, which is one line."""
    said = ""
    try:
        yield
    except DaybreakError as error:
        said = str(error)
    assert "\n" not in said


def opens_or_says_why(path: Path) -> bool:
    """Whether the data set opens; if it does not, the error is one line."""
    with or_one_line():
        dataset = open_dataset(path)
        assert dataset.train.images_NHWC.dtype == np.uint8
        assert len(dataset.classes) >= 2
        return True
    return False


KINDS = ("zip", "tar", "tar.gz", "tar.xz", "npz")


def archive(folder: Path, kind: str) -> Path:
    path = folder / f"set.{kind}"
    if kind == "npz":
        return write_npz(path)
    if kind == "zip":
        return write_zip(path, sample_files())
    return write_tar(path, sample_files(), {"tar": "w", "tar.gz": "w:gz", "tar.xz": "w:xz"}[kind])


@pytest.mark.parametrize("kind", KINDS)
@QUICK
@given(changes=CHANGES, cut=st.one_of(st.none(), st.integers(0, 2**20)))
def test_a_changed_archive_opens_or_says_why(
    kind: str, changes: Changes, cut: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("archive")
    path = archive(folder, kind)
    data = changed(path.read_bytes(), changes)
    path.write_bytes(data if cut is None else data[: cut % len(data)])
    opens_or_says_why(path)
    assert [file.name for file in folder.iterdir()] == [path.name]  # nothing was unpacked beside it


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_that_nobody_changed_opens(kind: str, tmp_path: Path) -> None:
    assert opens_or_says_why(archive(tmp_path, kind))


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=30)


@QUICK
@given(names=st.lists(NAMES, min_size=2, max_size=4, unique=True))
def test_any_names_are_classes_or_one_line(names: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    usable = [name for name in names if name not in (".", "..") and len(name.encode()) <= 200]
    folder = tmp_path_factory.mktemp("names")
    files = {f"{name}/{i}.png": encode(image) for name in usable for i, image in enumerate(pixels(4))}
    if opens_or_says_why(write_folder(folder, files) if files else folder):
        assert set(open_dataset(folder).classes) <= set(usable)


@QUICK
@given(changes=CHANGES)
def test_a_changed_recipe_file_is_a_recipe_or_one_line(changes: Changes, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(changed(to_toml(RECIPES["small"]).encode(), changes))
    with or_one_line():
        assert isinstance(read_toml(file), Recipe)


@QUICK
@given(changes=CHANGES)
def test_changed_idx_files_are_read_or_refused(changes: Changes, tmp_path: Path) -> None:
    paths = []
    for number, content in enumerate(idx_contents()):
        paths.append(tmp_path / f"{number}.gz")
        paths[-1].write_bytes(changed(content, changes) if number == changes[0][0] % 4 else content)
    with or_one_line():
        assert reader_of_idx(CLASSES + tuple("defghij"))(tuple(paths), None).labels_N.max() < 10


def read_changed_pickles(trials: int, mark: str) -> None:
    """In a process of its own with little memory: a changed pickle may ask for any amount."""
    resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
    rng, members = np.random.default_rng(0), cifar10_members()
    path = Path(mark).with_name("cifar.tar.gz")
    for trial in range(trials):
        damaged = dict(members)
        name = list(members)[trial % len(members)]
        data = pickle.dumps(members[name], protocol=2)
        head = min(len(data), 600)  # most of the bytes are pixels; what matters stands before and behind them
        places = [int(rng.integers(0, head)), len(data) - 1 - int(rng.integers(0, head))]
        damaged[name] = changed(data, [(place, int(rng.integers(1, 256))) for place in places])
        path.write_bytes(tar_gz("cifar-10-batches-py", damaged))
        with or_one_line():
            read_cifar10((path,), None)


@pytest.mark.slow
def test_changed_pickles_are_read_or_refused(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=read_changed_pickles, args=(400, str(tmp_path / "m")))
    process.start()
    process.join(300)
    assert process.exitcode == 0


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    """Every class that a pickle can name, but the four that arrays need."""
    buffer = io.BytesIO()
    pickle.Pickler(buffer, protocol=2).dump({b"data": Path("x").touch})
    path = tmp_path / "cifar.tar.gz"
    path.write_bytes(tar_gz("cifar-10-batches-py", cifar10_members() | {"test_batch": buffer.getvalue()}))
    with pytest.raises(DataError, match="is not allowed"):
        read_cifar10((path,), None)
    assert not Path("x").exists()


def test_a_number_behind_a_remember_costs_nothing(tmp_path: Path) -> None:
    """Found by fuzzing: the table in C would take 16 bytes for every number up to it, here 32 GB. The rest is sound."""
    members = dict(cifar10_members())
    plain = pickle.dumps(members["test_batch"], protocol=2)
    assert plain.startswith(b"\x80\x02}q\x00")
    odd = b"\x80\x02}r\xff\xff\xff\x7f" + plain[5:]
    path = tmp_path / "cifar.tar.gz"
    path.write_bytes(tar_gz("cifar-10-batches-py", members | {"test_batch": odd}))
    tracemalloc.start()
    try:
        assert len(read_cifar10((path,), None).labels_N) == 30
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_member_without_a_name_is_refused(kind: str, tmp_path: Path) -> None:
    """Found by fuzzing: zipfile cuts a name at a zero byte, and asks for the last letter of what is left."""
    if kind == "tar":
        path = write_tar(tmp_path / "set.tar", {"": b"x"} | sample_files(), "w")
    else:
        path, name = archive(tmp_path, "zip"), next(iter(sample_files())).encode()
        path.write_bytes(path.read_bytes().replace(name, b"\0" + name[1:]))
    with pytest.raises(DataError, match="unsafe name"):
        open_dataset(path)
