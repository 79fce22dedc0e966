"""Data sets as a table of images and labels: the same pixels as from folders, and every way to get a table wrong."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_sets import CLASSES, sample_files, write_folder

from daybreak.core.errors import BadImagesError, DataError
from daybreak.data import open_dataset
from daybreak.data.table import Table


def listed(files: dict[str, bytes], head: str = "image,label,split", separator: str = ",") -> str:
    """The table of files called part/class/name."""
    rows = [(name, name.split("/")[1], name.split("/")[0]) for name in files]
    return "\n".join([head, *(separator.join(row[: head.count(separator) + 1]) for row in rows)]) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "photos", sample_files(per_class=5))


def write(folder: Path, text: str, name: str = "labels.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_a_table_is_the_same_data_as_the_folders_it_lists(folder: Path) -> None:
    files = sample_files(per_class=5)
    expected = open_dataset(folder)
    for number, (head, separator) in enumerate(
        [("image,label,split", ","), ("\ufeffFile_Name;Class;Part", ";"), ("path\tcategory\tset", "\t")]
    ):
        found = open_dataset(write(folder, listed(files, head, separator), f"table{number}.csv"))
        assert found.fingerprint == expected.fingerprint
        assert found.classes == expected.classes == CLASSES
        assert np.array_equal(found.test.images_NHWC, expected.test.images_NHWC)
        assert found.test.names[0] == "test/ant/000.png"
        assert (found.name, found.title) == (f"table{number}", f"table{number}")


def test_without_a_split_a_test_part_is_drawn(folder: Path) -> None:
    files = {name: data for name, data in sample_files(per_class=5).items() if name.startswith("train")}
    found = open_dataset(write(folder, listed(files, "image,label")))
    assert (len(found.train.labels_N), len(found.test.labels_N)) == (12, 3)
    assert any("no test part" in note for note in found.notes)


def test_a_validation_part_of_its_own(folder: Path) -> None:
    text = listed(sample_files(per_class=5)).replace("/004.png,ant,train", "/004.png,ant,val")
    text = text.replace("/004.png,bee,train", "/004.png,bee,Validation").replace(
        "/004.png,cow,train", "/004.png,cow,VALID"
    )
    found = open_dataset(write(folder, text))
    assert found.validation is not None
    assert (len(found.validation.labels_N), len(found.train.labels_N), len(found.test.labels_N)) == (3, 12, 15)


def test_it_follows_the_table_and_the_files(folder: Path) -> None:
    table = write(folder, listed(sample_files(per_class=5)))
    first = open_dataset(table).fingerprint
    assert open_dataset(table).seconds["decode"] == 0.0
    image = folder / "train/ant/000.png"
    image.write_bytes((folder / "train/bee/000.png").read_bytes())
    os.utime(image, ns=(1, 1))
    assert open_dataset(table).fingerprint != first
    write(folder, listed(sample_files(per_class=5)).replace("ant", "auk", 0).replace(",cow,", ",bee,"))
    assert open_dataset(table).classes == ("ant", "bee")


HEAD, GOOD = "image,label,split\n", "train/ant/000.png,ant,train\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no images"),
        ("image,label\n", "lists no images"),
        ("picture,label\na.png,ant\n", r"no column called image \(found: picture, label\); try: call it one of image,"),
        ("image,ant,bee\na.png,0,1\n", r"no column called label \(found: image, ant, bee\)"),
        (HEAD + ",ant,train\n", "line 2: no image"),
        (HEAD + GOOD + "train/ant/001.png,,train\n", "line 3: no label"),
        (HEAD + GOOD + "\n\ntrain/ant/001.png\n", "line 5: no label"),
        (HEAD + "train/ant/000.png,ant,trian\n", "line 2: 'trian' is no part of a data set; try: 'train'"),
        (HEAD + "train/ant/000.png,ant,\n", "line 2: '' is no part"),
        (HEAD + "train/ant/000.png,ant,test\n", "no row of the training part"),
        (HEAD + "/etc/passwd,ant,train\n", "line 2: /etc/passwd is not a path below the table's folder"),
        (HEAD + "../a.png,ant,train\n", r"line 2: \.\./a\.png is not a path below"),
        (HEAD + "a\\..\\..\\b.png,ant,train\n", "is not a path below"),
        (HEAD + "C:\\a.png,ant,train\n", "is not a path below"),
        (HEAD + GOOD + GOOD, "line 3: train/ant/000.png is listed twice"),
        (HEAD + GOOD + "./train//ant/000.png,ant,test\n", "line 3: train/ant/000.png is listed twice"),
        (HEAD + GOOD + "train/ant/000.png,bee,train\n", "line 3: .* is listed as ant and as bee; try: one row and one"),
        (HEAD + '"train/ant/000.png,ant,train\n', "line 2: unexpected end of data"),
        ("image,label\na.png,ant\nb.png,Ant\n", "class names 'Ant' and 'ant' differ only in case"),
        ("image,label\na.png,ant\nb.png,ant\n", "needs two classes or more"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_in_a_line(folder: Path, text: str, message: str) -> None:
    table = write(folder, text)
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(table)
    assert "\n" not in str(caught.value)
    assert "labels.csv" in str(caught.value)


def test_bytes_that_are_no_text(folder: Path) -> None:
    (folder / "labels.csv").write_bytes(b"image,label\n\xff\xfe.png,ant\n")
    with pytest.raises(DataError, match=r"is not UTF-8 text \(byte 12\); try: save it as UTF-8"):
        open_dataset(folder / "labels.csv")


def test_files_that_are_not_there_are_listed_and_can_be_left_out(folder: Path) -> None:
    table = write(folder, listed(sample_files(per_class=5)))
    (folder / "train/ant/000.png").unlink()
    (folder / "train/bee/001.png").unlink()
    (folder / "train/bee/001.png").symlink_to("/etc/passwd")
    (folder / "train/cow/002.png").unlink()
    os.mkfifo(folder / "train/cow/002.png")  # reading it would never end
    with pytest.raises(BadImagesError, match="3 of 30 images cannot be used") as caught:
        open_dataset(table)
    for words in ("000.png: cannot be read (No such file", "outside the table's folder", "is not a file"):
        assert words in str(caught.value)
    found = open_dataset(table, skip_bad=True)
    assert len(found.train.labels_N) == 12


def table_or_error(path: Path) -> Table | str:
    try:
        return Table(path)
    except DataError as error:
        return str(error)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_a_table_or_an_error_in_a_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    for content in (text, "image,label\n" + text):
        path.write_text(content, encoding="utf-8", errors="replace")
        found = table_or_error(path)
        if isinstance(found, Table):
            assert len({row.image for row in found.rows}) == len(found.rows) > 0
        else:
            assert "\n" not in found
