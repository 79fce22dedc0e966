"""Tar shards as WebDataset writes them."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from image_sets import CLASSES, encode, pixels, sample_files, write_tar

from daybreak.core.errors import BadImagesError, DataError
from daybreak.data import open_dataset
from daybreak.data.dataset import TEST, TRAIN, VALIDATION
from daybreak.data.parquet import part_of

pytestmark = pytest.mark.usefixtures("cache")

Files = dict[str, bytes]


def samples(part: int, start: int, count: int, label: str = "{i}.cls") -> Files:
    """Images of `pixels(6, seed=part)` with the number of their class; classes 0, 0, 1, 1, 2, 2."""
    images = pixels(6, seed=part)
    files: Files = {}
    for i in range(start, start + count):
        files[f"{i:04}.png"] = encode(images[i])
        files[label.format(i=f"{i:04}")] = str(i // 2).encode()
    return files


def numbered(count: int, label: str = "{}") -> Files:
    """So many different images, each with a label made of its number."""
    files: Files = {}
    for i, image in enumerate(pixels(count)):
        files |= {f"{i}.png": encode(image), f"{i}.cls": label.format(i, i % 2).encode()}
    return files


def write_shards(folder: Path, classes: tuple[str, ...] | None = CLASSES) -> Path:
    """Two shards of four and two training images, one of six test images."""
    folder.mkdir(parents=True)
    write_tar(folder / "train-000000.tar", samples(0, 0, 4), "w")
    write_tar(folder / "train-000001.tar", samples(0, 4, 2), "w")
    write_tar(folder / "test-000000.tar", samples(1, 0, 6), "w")
    if classes:
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    return folder


def test_images_labels_and_parts_are_those_that_were_written(tmp_path: Path) -> None:
    dataset = open_dataset(write_shards(tmp_path / "set"))
    assert dataset.classes == CLASSES
    for seed, split in enumerate((dataset.train, dataset.test)):
        np.testing.assert_array_equal(split.images_NHWC, pixels(6, seed=seed))
        assert split.labels_N.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.train.names[:1] + dataset.train.names[-1:] == ("train-000000/0000.png", "train-000001/0005.png")


def test_without_names_a_class_is_its_number_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    write_tar(folder / "train-0.tar", numbered(12), "w")
    write_tar(folder / "test-0.tar", numbered(12), "w")
    dataset = open_dataset(folder)
    assert dataset.classes == tuple(map(str, range(12)))  # not 0, 1, 10, 11, 2 …
    assert dataset.train.labels_N.tolist() == list(range(12))


@pytest.mark.parametrize(
    ("member", "content"),
    [("a.cls", "bee"), ("a.txt", " bee\n"), ("a.json", '{"label": "bee", "width": 8}'), ("a.json", '{"class": "bee"}')],
)
def test_a_label_is_a_name_in_any_of_the_usual_places(tmp_path: Path, member: str, content: str) -> None:
    other = {"b.png": encode(pixels(2)[1]), "b.cls": b"ant"}
    shard = {"a.png": encode(pixels(2)[0]), member: content.encode()} | other
    folder = tmp_path / "set"
    folder.mkdir()
    write_tar(folder / "train.tar", shard, "w")
    write_tar(folder / "test.tar", shard, "w")
    dataset = open_dataset(folder)
    assert dict(zip(dataset.train.names, dataset.train.labels_N.tolist(), strict=True)) == {
        "train/a.png": 1,
        "train/b.png": 0,
    }


def test_the_class_file_counts_before_a_caption(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for part in ("train", "test"):
        files = {"a.txt": b"a bee on a flower", "a.png": encode(pixels(2)[0]), "a.cls": b"bee"}
        write_tar(folder / f"{part}.tar", files | {"b.png": encode(pixels(2)[1]), "b.cls": b"ant"}, "w")
    assert open_dataset(folder).classes == ("ant", "bee")


def test_one_shard_is_a_data_set(tmp_path: Path) -> None:
    dataset = open_dataset(write_tar(tmp_path / "birds.tar", numbered(20, "kind {1}"), "w"))
    assert dataset.classes == ("kind 0", "kind 1")
    assert len(dataset.train.names) + len(dataset.test.names) == 20


def test_a_tar_of_class_folders_is_still_one(tmp_path: Path) -> None:
    """Also where a text with notes lies beside an image."""
    files = sample_files(classes=("a", "b")) | {"train/a/000.txt": b"taken in May"}
    dataset = open_dataset(write_tar(tmp_path / "set.tar", files, "w"))
    assert dataset.classes == ("a", "b")


def test_a_copy_elsewhere_is_not_decoded_again_and_a_change_is_seen(tmp_path: Path) -> None:
    first = open_dataset(write_shards(tmp_path / "one"))
    other = open_dataset(write_shards(tmp_path / "two"))
    assert (other.fingerprint, other.seconds["decode"]) == (first.fingerprint, 0.0)
    (tmp_path / "two" / "classes.txt").write_text("ant\nbee\ndog\n")
    assert open_dataset(tmp_path / "two").classes == ("ant", "bee", "dog")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:700])


def test_negative_controls(tmp_path: Path) -> None:
    """What is wrong is named with the shard or the sample."""
    label, image = {"a.cls": b"x"}, {"a.png": encode(pixels(1)[0])}
    folder = write_shards(tmp_path / "set")
    for files, why in [
        (image, "a.png has no label beside it; try: a.cls"),
        (image | {"a.jpg": encode(pixels(1)[0], "JPEG")} | label, "two images are called 'a'"),
        (label, "0000.png: label '7' is none of the 3 in it"),
        (image | {"a.cls": b"7"}, "label '7' is none of the 3 in it"),
        (image | {"../a.cls": b"1"}, "unsafe name"),
        (image | {"a.json": b'{"label": ["x", "y"]}'}, "has no label"),
        (image | {"a.cls": b"\xff\xfe"}, "train-000002.tar: cannot be read as a tar"),
    ]:
        write_tar(folder / "train-000002.tar", files, "w")
        if files == label:
            write_tar(folder / "train-000002.tar", {"0000.png": image["a.png"], "0000.cls": b"7"}, "w")
        with pytest.raises(DataError) as caught:
            open_dataset(folder)
        assert why in str(caught.value)


def test_class_names_in_another_encoding_are_refused(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set")
    (folder / "classes.txt").write_bytes("Möwe\nbee\ncow\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"classes.txt: cannot be read .*UTF-8"):
        open_dataset(folder)


def test_a_label_of_5000_digits_is_a_name(tmp_path: Path) -> None:
    """Python refuses to make a number of it."""
    folder = write_shards(tmp_path / "set", classes=None)
    for part in ("train-000002", "test-000001"):
        write_tar(folder / f"{part}.tar", {"a.png": encode(pixels(1)[0]), "a.cls": b"9" * 5000}, "w")
    assert open_dataset(folder).classes[-1] == "9" * 5000


def test_a_cut_or_compressed_shard_is_refused(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set")
    write_tar(folder / "train-000001.tar", samples(0, 4, 2), "w:gz")
    with pytest.raises(DataError, match=r"train-000001.tar: cannot be read as a tar .*plain .tar files"):
        open_dataset(folder)


def test_a_bad_image_is_named_and_can_be_skipped(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set")
    write_tar(folder / "train-000001.tar", samples(0, 4, 2) | {"9.png": b"no image", "9.cls": b"0"}, "w")
    with pytest.raises(BadImagesError, match=r"train-000001/9.png"):
        open_dataset(folder)
    assert len(open_dataset(folder, skip_bad=True).train.names) == 6


def test_a_thousand_shards_hold_one_file_open(tmp_path: Path) -> None:
    import resource

    folder = tmp_path / "set"
    folder.mkdir()
    for n in range(200):
        write_tar(folder / f"train-{n:06}.tar", {"a.png": encode(pixels(1, seed=n)[0]), "a.cls": b"%d" % (n % 2)}, "w")
    write_tar(folder / "test-0.tar", samples(1, 0, 4), "w")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 50, before[1]))
    try:
        assert len(open_dataset(folder, validate=0).train.names) == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train-00000-of-00002/7", TRAIN),
        ("imagenet-val-000001/a.jpg", VALIDATION),
        ("birds_test_0/train/a.jpg", TEST),
        ("shard-000/a.jpg", TRAIN),
        ("contest-0/a.jpg", TRAIN),
    ],
)
def test_the_part_is_a_word_of_the_name(name: str, part: int) -> None:
    assert part_of(name) == part


def test_long_and_foreign_names_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for part in ("train", "test"):
        with tarfile.open(folder / f"{part}.tar", "w", format=tarfile.PAX_FORMAT) as archive:
            for stem, label in (("ä" * 150, "x"), ("deep/" * 30 + "a", "y")):
                facts = json.dumps({"label": label}).encode()
                for name, content in ((f"{stem}.png", encode(pixels(1)[0])), (f"{stem}.json", facts)):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    assert open_dataset(folder).classes == ("x", "y")
