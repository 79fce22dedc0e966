"""Parquet files as Hugging Face's hub has them: written here by pyarrow, with the schema that `datasets` writes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_sets import encode, pixels

from daybreak.core.errors import BadImagesError, DataError
from daybreak.data import open_dataset, sources

IMAGES, NAMES = pixels(12), ["ant", "bee", "cow"]
SCHEMA = {"info": {"features": {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}}}


def write(path: Path, rows: range, labels: list[Any] | None = None, schema: Any = SCHEMA, **images: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [{"bytes": encode(IMAGES[n]), "path": f"{n}.png"} for n in rows]
    found = pa.table({"image": images.get("image", files), "label": labels or [n % 3 for n in rows]})
    if schema:
        found = found.replace_schema_metadata({"huggingface": json.dumps(schema)})
    pq.write_table(found, path, row_group_size=2)


def test_a_folder_of_the_hub_is_read_with_its_parts_and_names(tmp_path: Path) -> None:
    write(tmp_path / "set" / "data" / "train-00000-of-00002.parquet", range(4))
    write(tmp_path / "set" / "data" / "train-00001-of-00002.parquet", range(4, 6))
    write(tmp_path / "set" / "data" / "validation-00000-of-00001.parquet", range(6, 9))
    write(tmp_path / "set" / "data" / "test-00000-of-00001.parquet", range(9, 12))
    found = open_dataset(tmp_path / "set")
    assert found.classes == tuple(NAMES)
    assert found.validation is not None
    parts = [(found.train, range(6)), (found.validation, range(6, 9)), (found.test, range(9, 12))]
    for split, rows in parts:
        order = [split.labels_N.tolist(), [n % 3 for n in rows]]
        assert sorted(order[0]) == sorted(order[1])
        by_pixels = {image.tobytes(): n % 3 for n, image in zip(rows, IMAGES[list(rows)], strict=True)}
        assert [by_pixels[np.asarray(image).tobytes()] for image in split.images_NHWC] == order[0]
    assert found.test.names == tuple(f"test-00000-of-00001/{row}" for row in range(3))
    assert found.name == "set"


def test_one_file_with_names_for_labels(tmp_path: Path) -> None:
    write(tmp_path / "pets.parquet", range(12), ["cat", "dog"] * 6, schema=None)
    found = open_dataset(tmp_path / "pets.parquet")
    assert found.classes == ("cat", "dog")
    assert len(found.train.labels_N) + len(found.test.labels_N) == 12


def test_it_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    write(tmp_path / "pets.parquet", range(12), ["cat", "dog"] * 6, schema=None)
    first = open_dataset(tmp_path / "pets.parquet")
    write(tmp_path / "pets.parquet", range(12), ["dog", "cat"] * 6, schema=None)
    assert open_dataset(tmp_path / "pets.parquet").fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [[0, 1]] * 12, "schema": None}, r"row 0: several labels an image; try: one class for each image"),
        ({"labels": [0] * 11 + [None]}, r"row 11: no label"),
        ({"labels": [0] * 11 + [3]}, r"row 11: label 3 has no name among 3"),
    ],
)
def test_what_is_no_label_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path / "set.parquet", range(12), **changes)
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path / "set.parquet")


def test_a_file_that_was_damaged_is_named(tmp_path: Path) -> None:
    """Found by fuzzing: bytes that are lost, and a count of rows that is not theirs."""
    path = tmp_path / "set.parquet"
    write(path, range(12))
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + whole[8:])
    with pytest.raises(DataError, match=r"set\.parquet: column label: cannot be read \("):
        open_dataset(path)
    at = whole.index(b"\x16\x18\x19")  # in the foot: field of the row count, 12 in zigzag, field of the row groups
    path.write_bytes(whole[: at + 1] + b"\x1a" + whole[at + 2 :])
    with pytest.raises(DataError, match=r"set\.parquet: 12 labels for 13 rows; try: a whole file"):
        open_dataset(path)


def test_a_schema_nested_beyond_measure_names_no_class(tmp_path: Path) -> None:
    write(tmp_path / "set.parquet", range(12))
    found = pq.read_table(tmp_path / "set.parquet").replace_schema_metadata({"huggingface": "[" * 100_000})
    pq.write_table(found, tmp_path / "set.parquet")
    assert open_dataset(tmp_path / "set.parquet").classes == ("0", "1", "2")


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no.parquet").write_bytes(b"PAR1 is not enough")
    with pytest.raises(DataError, match=r"no\.parquet: cannot be read as Parquet"):
        open_dataset(tmp_path / "no.parquet")
    pq.write_table(pa.table({"text": ["a"], "label": [0]}), tmp_path / "text.parquet")
    with pytest.raises(DataError, match=r"no column called image \(found: text, label\)"):
        open_dataset(tmp_path / "text.parquet")
    write(tmp_path / "links.parquet", range(12), image=[{"bytes": None, "path": f"{n}.png"} for n in range(12)])
    with pytest.raises(BadImagesError, match="links/0"):
        open_dataset(tmp_path / "links.parquet")
    write(tmp_path / "test-only.parquet", range(12))
    with pytest.raises(DataError, match="no file of the training part; try: one whose name begins with train"):
        open_dataset(tmp_path / "test-only.parquet")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match="needs pyarrow, which is not installed; try: pip install pyarrow"):
        sources.find(tmp_path / "links.parquet")
