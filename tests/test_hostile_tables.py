"""Names, arrays, tables, Parquet files and pickles that are small and ask for much, or say what no person can mean."""

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_sets import encode, pixels, sample_files, write_folder, write_zip
from test_data_arrays import header, with_member
from test_data_canonical import batch, cifar10_members, tar_gz
from test_data_parquet import IMAGES, SCHEMA
from test_data_parquet import write as write_parquet

from daybreak.core.errors import DataError
from daybreak.data import arrays, open_dataset, parquet_file, table
from daybreak.data.cifar import read_cifar10
from daybreak.data.folder import Folder
from daybreak.data.layout import check_class_names, read_layout
from daybreak.data.parquet import Parquet
from daybreak.data.table import Table

pytestmark = pytest.mark.usefixtures("cache")


def refused(path: Path, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        open_dataset(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("d/" * 101 + "x.png", "a name of 207 characters and 101 levels: d/d/"),
        ("ant/" + "n" * 5000 + ".png", "a name of 5,008 characters and 1 levels: ant/nnn"),
    ],
)
def test_a_name_that_is_too_deep_or_too_long_is_refused(tmp_path: Path, name: str, why: str) -> None:
    refused(write_zip(tmp_path / "set.zip", sample_files() | {name: b""}), why)
    refused(write_zip(tmp_path / "folders.zip", sample_files() | {f"{name}/": b""}), "a name of .* levels")


def test_names_of_a_hundred_levels_are_read_in_memory_as_long_as_they_are() -> None:
    names = [f"{n:03}/{'d/' * 99}x.png" for n in range(500)]
    tracemalloc.start()
    found = read_layout(names, [], "set.zip")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.classes == tuple(f"{n:03}" for n in range(500))
    assert found.files == found.names == tuple(names)
    assert peak < 8e6  # with all folders above each, 20 MB and more


def test_a_folder_below_a_hundred_others_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "set", sample_files(parts=("",)))
    deep = tmp_path / "set" / "ant" / "/".join("d" * 99)
    deep.mkdir(parents=True)
    assert len(Folder(tmp_path / "set").folders) == 3 + 99
    (deep / "e").mkdir()
    refused(tmp_path / "set", "folders of more than 100 levels: ant/d/d/")


@pytest.mark.parametrize("name", ["\u3164", "\u2800", " \u3164\u2800", "\ufe0f", "\u115f\u1160"])
def test_a_class_whose_name_shows_nothing_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"set: class name '.*\\u.*' is blank"):
        check_class_names((name, "ant"), "set")
    with pytest.raises(DataError, match=r"class names 'ant' and .* differ only in case, blanks or Unicode form"):
        check_class_names(("ant", f"ant{name}"), "set")


def test_names_of_signs_that_show_are_sound() -> None:
    check_class_names(("\u2764\ufe0f", "\uac00", "\u2801", "a\u3164b"), "set")


# -- arrays ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "shape", "dtype", "why"),
    [
        ("x_train", (4 * 10**8, 1, 1), "u1", r"x_train: shape \(400000000, 1, 1\), but up to 5,000,000 are read"),
        ("y_train", (4 * 10**8,), "u1", "y_train: .*but up to 5,000,000 are read"),
        ("y_train", (1, 4 * 10**8), "u1", "y_train: .*but up to 5,000,000 are read"),
        ("y_train", (4,), "<U9", "y_train: <U9, but must be integers"),
        ("x_train", (16, 8192, 8192), "u1", "x_train: .*but an image has up to 64 million pixels"),
        ("x_train", (16, 8192, 8192, 2), "u1", "x_train: .*but must be N,H,W or N,H,W,C with C 1 or 3"),
        ("classes", (10**9,), "<U0", "classes: <U0, of which an item takes no bytes"),
        ("classes", (10**6,), "<U1", "classes: .*but up to 100,000 are read"),
    ],
)
def test_a_header_that_asks_for_too_much_is_refused(key: str, shape: tuple[int, ...], dtype: str, why: str) -> None:
    with pytest.raises(DataError, match=f"set.npz: {why}"):
        arrays._check_size(key, shape, np.dtype(dtype), Path("set.npz"))


@pytest.mark.parametrize(
    ("key", "shape", "dtype"),
    [("x_test", (5_000_000, 8, 8, 3), "u1"), ("y_test", (5_000_000, 1), "i8"), ("classes", (100_000,), "<U9")],
)
def test_a_header_within_the_limits_is_believed(key: str, shape: tuple[int, ...], dtype: str) -> None:
    arrays._check_size(key, shape, np.dtype(dtype), Path("set.npz"))


def test_names_that_take_no_bytes_are_refused_by_their_header(tmp_path: Path) -> None:
    names = {"classes": np.array(["a", "b"])}
    refused(with_member(tmp_path / "set.npz", "classes", header((2,), "<U0"), **names), "classes: <U0, of which")


# -- tables ------------------------------------------------------------------------------------------------------------


def test_cells_beyond_the_head_are_no_label_cut_short(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,label\na.png,white,\nb.png,black, cat\n")
    refused(tmp_path / "labels.csv", "line 3: 3 cells below a head of 2; try: quotes around a value")
    (tmp_path / "labels.csv").write_text('image,label\na.png,white, ,\nb.png,"black, cat"\n')
    assert [row.label for row in Table(tmp_path / "labels.csv").rows] == ["white", "black, cat"]


def test_rows_are_counted_while_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table's last line is broken, and is not looked at."""
    monkeypatch.setattr(table, "MAX_MEMBERS", 2)
    (tmp_path / "labels.csv").write_text('image,label\na.png,ant\nb.png,bee\nc.png,cow\n"d')
    refused(tmp_path / "labels.csv", "more than 2 rows; try: a smaller table")
    (tmp_path / "labels.csv").write_text("image,label\na.png,ant\nb.png,bee\n\n")
    assert len(Table(tmp_path / "labels.csv").rows) == 2


# -- Parquet -----------------------------------------------------------------------------------------------------------


def naming(*names: str) -> dict[str, Any]:
    return {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}


@pytest.mark.parametrize(
    "schema", [None, naming("ant", "bee", "cow", "dodo"), naming("bee", "ant", "cow")], ids=["none", "more", "order"]
)
def test_files_that_name_other_classes_are_named(tmp_path: Path, schema: Any) -> None:
    write_parquet(tmp_path / "set" / "test-0.parquet", range(6))
    write_parquet(tmp_path / "set" / "train-0.parquet", range(6, 12), schema=schema)
    why = r"train-0\.parquet: its schema names other classes than test-0\.parquet, or in another order; try: files that"
    with pytest.raises(DataError, match=why):
        open_dataset(tmp_path / "set")


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ([0.0] * 11 + [float("nan")], "row 11: no label; try: one class for each image"),
        ([b"cat"] * 11 + [b"\xff"], r"row 11: label b'\\xff' is not UTF-8 text"),
        (["cat"] * 11 + ["x" * 5000], "row 11: a label of 5,000 characters; try: the name of a class"),
        ([{"a": [1, 2]}] * 12, "row 0: several labels an image"),
    ],
)
def test_what_is_no_class_is_refused(tmp_path: Path, labels: list[Any], why: str) -> None:
    write_parquet(tmp_path / "set.parquet", range(12), labels, schema=None)
    refused(tmp_path / "set.parquet", why)


def test_labels_as_bytes_are_text(tmp_path: Path) -> None:
    write_parquet(tmp_path / "set.parquet", range(12), [b"cat", "h\u00e9n".encode()] * 6, schema=None)
    assert open_dataset(tmp_path / "set.parquet").classes == ("cat", "h\u00e9n")


def test_a_long_label_that_is_stored_once_is_refused_at_its_first_row(tmp_path: Path) -> None:
    """As text it would take 2 GB."""
    labels = pa.DictionaryArray.from_arrays(pa.array([0] * 4000, pa.int32()), ["x" * 500_000])
    pq.write_table(pa.table({"image": [b""] * 4000, "label": labels}), tmp_path / "set.parquet")
    refused(tmp_path / "set.parquet", "row 0: a label of 500,000 characters")


def test_labels_are_bounded_by_what_is_stored_and_by_their_kinds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path / "set.parquet", range(12), ["a" * 90, "b" * 90, "c" * 90] * 4, schema=None)
    with monkeypatch.context() as patch:
        patch.setattr(parquet_file, "unpacked_limit", lambda path: path.stat().st_size // 2)
        refused(
            tmp_path / "set.parquet", "unpacks to 12 files, [0-9]+ bytes: too much for its size; try: a plain folder"
        )
    with monkeypatch.context() as patch:
        patch.setattr(parquet_file, "MAX_CLASSES", 2)
        refused(tmp_path / "set.parquet", "more than 2 labels that differ; try: a column of classes")
    assert len(open_dataset(tmp_path / "set.parquet").classes) == 3


def one_group(path: Path) -> Parquet:
    files = [{"bytes": encode(image), "path": "a long path " * 100} for image in IMAGES]
    pq.write_table(pa.table({"image": files, "label": [0] * 12}), path)
    return Parquet([path])


@pytest.mark.parametrize(("rows", "stored", "largest"), [(64, 2**28, 12), (5, 2**28, 5), (64, 1, 1)])
def test_images_of_a_row_group_are_read_a_few_at_a_time(
    rows: int, stored: int, largest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_file, "ROWS_AT_A_TIME", rows)
    monkeypatch.setattr(parquet_file, "BYTES_AT_A_TIME", stored)
    found = one_group(tmp_path / "set.parquet")
    batches = list(found._files[0].images(0))
    assert max(map(len, batches)) == largest
    assert [value for values in batches for value in values] == [{"bytes": encode(image)} for image in IMAGES]
    for row in (0, 1, 5, 4, 11, 0, 7):
        assert found.open(f"set/{row}").read() == encode(IMAGES[row])


def test_images_that_are_lists_have_no_bytes(tmp_path: Path) -> None:
    write_parquet(tmp_path / "set.parquet", range(12), image=[[0, 1]] * 12)
    refused(tmp_path / "set.parquet", "set/0: cannot be read .has no bytes in it")


def test_the_name_of_a_column_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    pq.write_table(
        pa.table({"image": [encode(image) for image in IMAGES], "label": [0, 1] * 6, "zqzq": [0] * 12}), path
    )
    path.write_bytes(path.read_bytes().replace(b"zqzq", b"\xff\xfe\xfd\xfc"))
    refused(path, r"set\.parquet: ")


def test_files_that_name_the_same_classes_are_read(tmp_path: Path) -> None:
    for name in ("test-0", "train-0"):
        write_parquet(tmp_path / "set" / f"{name}.parquet", range(12), schema=SCHEMA)
    assert open_dataset(tmp_path / "set").classes == ("ant", "bee", "cow")


# -- pickles -----------------------------------------------------------------------------------------------------------


def long_names(count: int) -> dict[bytes, Any]:
    return batch(pixels(count, side=32), list(range(count))) | {b"filenames": [b"n" * 300] * count}


@pytest.mark.parametrize(
    ("member", "why"),
    [
        (b"\x80\x05\x96" + struct.pack("<Q", 3) + b"abc.", "asks for a bytearray, which is not allowed"),
        (batch(pixels(4, side=32), [0, 1, 2, 3]) | {b"labels": [[0, 1], [2, 3]]}, "bad labels or file names"),
        (batch(pixels(4, side=32), [0, 1, 2, 3]) | {b"labels": [0, 1, 2, True]}, "bad labels or file names"),
        (long_names(4), "bad labels or file names"),
    ],
)
def test_a_pickle_of_more_than_flat_lists_is_refused(tmp_path: Path, member: Any, why: str) -> None:
    path = tmp_path / "cifar.tar.gz"
    path.write_bytes(tar_gz("cifar-10-batches-py", cifar10_members() | {"data_batch_1": member}))
    with pytest.raises(DataError, match=rf"cifar\.tar\.gz: not in the published format \(.*{why}"):
        read_cifar10((path,), None)
    path.write_bytes(tar_gz("cifar-10-batches-py", cifar10_members()))
    assert len(read_cifar10((path,), None).labels_N) == 30


def test_a_file_that_is_cut_while_it_is_read_ends_no_process(tmp_path: Path) -> None:
    """It is mapped into memory, where what is gone from the file must not be asked for."""
    path = tmp_path / "set.parquet"
    write_parquet(path, range(12))  # two rows to a group
    found = Parquet([path])
    assert found.open("set/0").read() == encode(IMAGES[0])
    with path.open("r+b") as file:
        file.truncate(100)
    assert found.open("set/1").read() == encode(IMAGES[1])  # which had been read
    for _ in range(2):
        with pytest.raises(ValueError, match=r"cannot be read \(it is shorter than it was\)"):
            found.open("set/2")
