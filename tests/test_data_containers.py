"""The same images in a folder, an archive or arrays are the same data set; hostile archives are refused."""

import io
import os
import tarfile
import unicodedata
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from image_sets import CLASSES, encode, notes_of, pixels, sample_files, write_folder, write_npz, write_tar, write_zip

from daybreak.core.errors import BadImagesError, DataError
from daybreak.data import Dataset, DecodeSpec, open_dataset
from daybreak.data import files as files_module

pytestmark = pytest.mark.usefixtures("cache")


def test_every_container_gives_the_same_data_set(tmp_path: Path):
    files = sample_files()
    backwards = dict(reversed(files.items()))
    top = {f"pets-1.0/{name}": data for name, data in files.items()}
    paths = [
        write_folder(tmp_path / "folder", files),
        write_folder(tmp_path / "a" / "copy", backwards),
        write_zip(tmp_path / "pets.zip", backwards),
        write_zip(tmp_path / "top.zip", top),
        write_tar(tmp_path / "pets.tar", files, "w"),
        write_tar(tmp_path / "pets.tar.gz", backwards),
        write_tar(tmp_path / "pets.tgz", {f"./{name}": data for name, data in files.items()}),
        write_tar(tmp_path / "pets.tar.xz", top, "w:xz"),
        write_tar(tmp_path / "pets.tar.bz2", files, "w:bz2"),
        write_npz(tmp_path / "pets.npz"),
    ]
    sets = [open_dataset(path) for path in paths]
    assert len({dataset.fingerprint for dataset in sets}) == 1
    for dataset in sets:
        assert dataset.classes == CLASSES
        assert dataset.decode == DecodeSpec(8, 3)
        np.testing.assert_array_equal(dataset.train.images_NHWC, pixels(6, seed=0))
        np.testing.assert_array_equal(dataset.test.images_NHWC, pixels(6, seed=1))
        assert dataset.test.labels_N.tolist() == [0, 0, 1, 1, 2, 2]
        assert dataset.train.labels_N.dtype == np.int64
    assert sets[0].train.names[0] == sets[3].train.names[0] == "train/ant/000.png"
    assert sets[-1].test.names[5] == "test/5"
    assert [dataset.name for dataset in sets] == ["folder", "copy", "pets", "top", *["pets"] * 6]


def test_one_changed_pixel_changes_the_fingerprint(tmp_path: Path):
    files = sample_files()
    before = open_dataset(write_folder(tmp_path / "a", files)).fingerprint
    image = pixels(6, seed=1)[5]
    image[0, 0, 0] ^= 1
    files["test/cow/001.png"] = encode(image)
    assert open_dataset(write_folder(tmp_path / "b", files)).fingerprint != before


def test_a_renamed_class_and_a_swapped_label_change_the_fingerprint(tmp_path: Path):
    files = sample_files()
    renamed = {name.replace("cow", "dog"): data for name, data in files.items()}
    swapped = dict(files)
    swapped["train/ant/000.png"], swapped["train/cow/000.png"] = files["train/cow/000.png"], files["train/ant/000.png"]
    prints = [
        open_dataset(write_folder(tmp_path / str(i), f)).fingerprint for i, f in enumerate((files, renamed, swapped))
    ]
    assert len(set(prints)) == 3


def coloured(dataset: Dataset, part: str) -> dict[str, list[int]]:
    """Class name -> the red value of its images."""
    split = getattr(dataset, part)
    return {name: split.images_NHWC[split.labels_N == i, 0, 0, 0].tolist() for i, name in enumerate(dataset.classes)}


@pytest.mark.parametrize("test_part", ["test", "Test"])
def test_labels_follow_names_not_positions(tmp_path: Path, test_part: str):
    red = {"zebra": 10, "ant": 20, "moth": 30}
    image = {name: encode(np.full((8, 8, 3), value, np.uint8)) for name, value in red.items()}
    files = {f"train/{name}/1.png": image[name] for name in ("moth", "zebra", "ant")}
    files |= {f"{test_part}/{name}/1.png": image[name] for name in ("zebra", "ant", "moth")}
    dataset = open_dataset(write_folder(tmp_path / "set", files))
    assert dataset.classes == ("ant", "moth", "zebra")
    assert coloured(dataset, "train") == coloured(dataset, "test") == {"ant": [20], "moth": [30], "zebra": [10]}


def test_without_a_test_part_the_split_is_stratified_and_stated(tmp_path: Path):
    files = sample_files(per_class=10, parts=("",))
    dataset = open_dataset(write_folder(tmp_path / "set", files), split_seed=3)
    assert notes_of(dataset) == ("no test part: stratified 80/20 split by seed 3",)
    assert np.bincount(dataset.train.labels_N).tolist() == [8, 8, 8]
    assert np.bincount(dataset.test.labels_N).tolist() == [2, 2, 2]
    together = np.concatenate([dataset.train.images_NHWC, dataset.test.images_NHWC])
    assert {i.tobytes() for i in together} == {i.tobytes() for i in pixels(30)}
    other = open_dataset(tmp_path / "set", split_seed=4)
    assert other.test.names != dataset.test.names
    assert open_dataset(tmp_path / "set", split_seed=3).test.names == dataset.test.names


def test_a_class_may_be_called_train(tmp_path: Path):
    files = sample_files(classes=("bus", "car", "train"), parts=("",))
    assert open_dataset(write_folder(tmp_path / "set", files)).classes == ("bus", "car", "train")


def test_size_rule(tmp_path: Path):
    mixed = {"a/1.png": encode(pixels(1, side=8)[0]), "b/1.png": encode(pixels(1, side=9)[0])}
    mixed |= {"a/2.png": mixed["a/1.png"], "b/2.png": mixed["b/1.png"]}
    folder = write_folder(tmp_path / "mixed", mixed)
    assert open_dataset(folder).decode.size == 64
    assert "4 images resized and cropped to 64 x 64 px; they are 8 x 8 to 9 x 9" in open_dataset(folder).notes
    assert open_dataset(folder, size=10).train.images_NHWC.shape == (2, 10, 10, 3)
    large = {name: encode(pixels(1, side=65)[0]) for name in mixed}
    assert open_dataset(write_folder(tmp_path / "large", large)).decode.size == 64
    edge = {name: encode(pixels(1, side=64)[0]) for name in mixed}
    assert not any("resized" in note for note in open_dataset(write_folder(tmp_path / "edge", edge)).notes)


def test_grey_sets_have_one_channel_and_one_colour_image_makes_three(tmp_path: Path):
    files = {f"{name}/{i}.png": encode(pixels(1, channels=1, seed=i)[0]) for name in "ab" for i in range(3)}
    grey = open_dataset(write_folder(tmp_path / "grey", files))
    assert grey.decode.channels == grey.train.images_NHWC.shape[3] == 1
    files["a/9.png"] = encode(pixels(1)[0])
    assert open_dataset(write_folder(tmp_path / "mixed", files)).decode.channels == 3


def test_cmyk_and_animations_are_counted(tmp_path: Path):
    from PIL import Image

    files = sample_files()
    for name, image in (("x.jpg", Image.new("CMYK", (8, 8))), ("y.gif", Image.new("RGB", (8, 8), "red"))):
        buffer = io.BytesIO()
        options = {"save_all": True, "append_images": [Image.new("RGB", (8, 8), "blue")]} if name == "y.gif" else {}
        image.save(buffer, **options, format="GIF" if options else "JPEG")
        files[f"train/ant/{name}"] = buffer.getvalue()
    notes = notes_of(open_dataset(write_folder(tmp_path / "set", files)))
    assert notes == ("1 CMYK image converted to RGB", "1 animated image: first frame used")


def test_large_images_decode_in_threads_to_the_same_order(tmp_path: Path):
    images = pixels(12, side=200)
    files = {f"{'ab'[i % 2]}/{i:02}.png": encode(image) for i, image in enumerate(images)}
    dataset = open_dataset(write_folder(tmp_path / "set", files), size=200)
    for image, name in zip(dataset.train.images_NHWC, dataset.train.names, strict=True):
        np.testing.assert_array_equal(image, images[int(name[2:4])])


def test_names_that_are_not_utf8_work(tmp_path: Path):
    files = {name: data for name, data in sample_files().items() if "cow" not in name}
    folder = write_folder(tmp_path / "set", files)
    for part in ("train", "test"):
        directory = os.fsencode(folder / part) + b"/caf\xe9"
        os.mkdir(directory)
        with open(directory + b"/\xff\n.png", "wb") as file:
            file.write(encode(pixels(1)[0]))
    dataset = open_dataset(folder)
    assert dataset.classes == ("ant", "bee", "caf\udce9")
    assert dataset.test.names[-1] == "test/caf\udce9/\udcff\n.png"
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(folder, "set")
    assert open_dataset(tmp_path / "set.tar").fingerprint == dataset.fingerprint


def test_side_files_are_ignored(tmp_path: Path):
    files = sample_files()
    folder = write_folder(tmp_path / "set", files)
    plain = open_dataset(folder).fingerprint
    clutter = [
        "notes.txt",
        "LICENSE",
        "train/ant/labels.csv",
        "train/ant/Thumbs.db",
        ".git/a.png",
        "train/bee/.DS_Store",
    ]
    write_folder(
        folder, dict.fromkeys([*clutter, "__MACOSX/train/ant/x.png", "train/.ipynb_checkpoints/1.png"], b"junk")
    )
    assert open_dataset(folder).fingerprint == plain


def fails(path: Path, match: str) -> str:
    with pytest.raises(DataError, match=match) as caught:
        open_dataset(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_bad_images_are_listed_at_once(tmp_path: Path):
    files = sample_files()
    jpeg = encode(pixels(1, side=64)[0], "JPEG")
    files |= {"train/ant/cut.jpg": jpeg[:-300], "test/bee/zero.png": b"", "test/cow/words.jpg": b"hello"}
    files |= {"train/cow/no-suffix": b"what is this"}
    message = fails(write_folder(tmp_path / "set", files), "4 of 16 images cannot be used")
    for expected in ("cut.jpg: cannot be decoded", "truncated", "zero.png: empty file", "words.jpg: not an image"):
        assert expected in message
    assert message.endswith("try: remove or replace them, or --skip-bad")
    for suffix in ("zip", "tar.gz"):
        path = tmp_path / f"set.{suffix}"
        (write_zip if suffix == "zip" else write_tar)(path, files)
        assert "cut.jpg" in fails(path, "4 of 16 images")
    assert not list((tmp_path / "cache" / "decoded").iterdir())


def test_bad_images_are_left_out_on_demand(tmp_path: Path):
    """What is left is the data set without those files; it is kept apart from the one that is refused."""
    clean = sample_files()
    bad = {"train/ant/cut.jpg": encode(pixels(1, side=64)[0], "JPEG")[:-300], "test/bee/zero.png": b""}
    folder = write_folder(tmp_path / "set", clean | bad)
    expected = open_dataset(write_folder(tmp_path / "clean", clean))
    for _ in range(2):  # decoded, then from the cache
        found = open_dataset(folder, skip_bad=True)
        assert found.fingerprint == expected.fingerprint
        assert found.train.names == expected.train.names
        (note,) = [note for note in found.notes if "left out" in note]
        assert note.startswith("2 images that cannot be used are left out: ")
        assert all(name in note for name in bad)
    assert open_dataset(**asdict(found.request)).fingerprint == expected.fingerprint
    fails(folder, "2 of 14 images cannot be used")


def test_only_ten_bad_images_are_spelt_out(tmp_path: Path):
    files = sample_files() | {f"train/ant/bad{i:02}.png": b"x" for i in range(13)}
    message = fails(write_folder(tmp_path / "set", files), "and 3 more")
    assert "bad09.png" in message
    assert "bad10.png" not in message
    with pytest.raises(BadImagesError) as caught:
        open_dataset(tmp_path / "set")
    assert caught.value.as_json()["error"]["names"][10:] == [f"train/ant/bad{i}.png" for i in range(10, 13)]


def test_an_empty_class_folder_is_named(tmp_path: Path):
    folder = write_folder(tmp_path / "set", sample_files())
    (folder / "train" / "dodo").mkdir()
    fails(folder, "no images in class folder train/dodo")
    (folder / "train" / "dodo" / "readme.txt").write_text("none yet")
    fails(folder, "train/dodo")
    entry = tarfile.TarInfo("train/dodo")
    entry.type = tarfile.DIRTYPE
    fails(write_tar(tmp_path / "set.tar", sample_files(), "w", (entry,)), "train/dodo")
    fails(write_zip(tmp_path / "set.zip", sample_files() | {"train/dodo/": b""}), "train/dodo")


def test_one_class_is_too_few(tmp_path: Path):
    fails(write_folder(tmp_path / "set", sample_files(classes=("ant",))), "two classes or more .*'ant'")


def test_a_class_with_one_image_cannot_be_split(tmp_path: Path):
    files = sample_files(parts=("",)) | {"dodo/1.png": encode(pixels(1)[0])}
    fails(write_folder(tmp_path / "set", files), r"a class needs two \(dodo\)")


def test_different_classes_in_the_parts_are_shown(tmp_path: Path):
    files = sample_files() | {"train/dodo/1.png": encode(pixels(1)[0]), "test/emu/1.png": encode(pixels(1)[0])}
    fails(write_folder(tmp_path / "set", files), "no image in train: emu; no image in test: dodo")


@pytest.mark.parametrize(
    "pair", [("Ant", "ant"), (unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café"))]
)
def test_class_names_that_only_look_different_are_refused(tmp_path: Path, pair: tuple[str, str]):
    message = fails(
        write_zip(tmp_path / "set.zip", sample_files(classes=("bee", *pair))), "only in case, blanks or Unicode"
    )
    assert ascii(pair[0]) in message


@pytest.mark.parametrize("pair", [("Train", "train"), ("test", "TEST")])
def test_two_folders_for_one_part_are_refused(tmp_path: Path, pair: tuple[str, str]):
    one, other = pair
    files = {f"{folder}/{name}/1.png": encode(pixels(1)[0]) for folder in (*pair, "train") for name in ("ant", "bee")}
    message = fails(write_zip(tmp_path / "set.zip", files), "are one part")
    assert f"{one}/" in message
    assert f"{other}/" in message


def test_strays_and_strangers_are_named(tmp_path: Path):
    files = sample_files()
    fails(write_folder(tmp_path / "a", files | {"train/x.png": b""}), "outside the class folders: train/x.png")
    fails(write_folder(tmp_path / "b", files | {"extra/x.png": b""}), "folders beside train/: extra")
    fails(write_folder(tmp_path / "c", sample_files(parts=("test",))), "without a train/")
    fails(write_folder(tmp_path / "d", {"1.png": encode(pixels(1)[0])}), "outside the class folders")
    fails(write_folder(tmp_path / "e", {}), "no class folders")


def test_links_out_of_the_folder_are_refused_and_loops_end(tmp_path: Path):
    folder = write_folder(tmp_path / "set", sample_files())
    plain = open_dataset(folder).fingerprint
    (folder / "train" / "ant" / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "train" / "ant" / "self").symlink_to(folder / "train" / "ant", target_is_directory=True)
    assert open_dataset(folder).fingerprint == plain
    secret = tmp_path / "secret.png"
    secret.write_bytes(encode(pixels(1)[0]))
    link = folder / "train" / "ant" / "9.png"
    link.symlink_to(secret)
    fails(folder, "9.png: the link leaves the data folder")
    link.unlink()
    link.symlink_to("000.png")  # inside: as good as a copy
    assert len(open_dataset(folder).train.names) == 7
    link.unlink()
    link.symlink_to("gone.png")
    fails(folder, "9.png: cannot be read")


@pytest.mark.parametrize(
    "name", ["../evil.png", "/etc/evil.png", "train/../../evil.png", "C:/evil.png", "a\\..\\evil.png"]
)
def test_names_that_leave_an_archive_are_refused(tmp_path: Path, name: str):
    for path in (write_zip(tmp_path / "set.zip", {name: b"x"}), write_tar(tmp_path / "set.tar", {name: b"x"}, "w")):
        assert "evil.png" in fails(path, "unsafe name")
    assert not list(tmp_path.rglob("evil.png"))


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def test_links_in_an_archive(tmp_path: Path):
    inside = (
        link("train/ant/002.png", "../bee/000.png", tarfile.SYMTYPE),
        link("train/ant/003.png", "train/bee/001.png", tarfile.LNKTYPE),
    )
    dataset = open_dataset(write_tar(tmp_path / "set.tar.gz", sample_files(), extra=inside))
    np.testing.assert_array_equal(dataset.train.images_NHWC[2:4], pixels(6)[2:4])
    for target, kind in (
        ("../../../x.png", tarfile.SYMTYPE),
        ("/x.png", tarfile.SYMTYPE),
        ("../x.png", tarfile.LNKTYPE),
    ):
        bad = link("train/ant/002.png", target, kind)
        fails(write_tar(tmp_path / "bad.tar", sample_files(), "w", (bad,)), "002.png' leaves the archive")
    dangling = link("train/ant/002.png", "none.png", tarfile.SYMTYPE)
    fails(write_tar(tmp_path / "dangling.tar", sample_files(), "w", (dangling,)), "002.png' links to")
    device = link("train/ant/002.png", "", tarfile.CHRTYPE)
    fails(write_tar(tmp_path / "device.tar", sample_files(), "w", (device,)), "a device or a pipe")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path):
    member = tarfile.TarInfo("train/ant/000.png")
    member.size = 2**40
    path = tmp_path / "bomb.tar"
    path.write_bytes(member.tobuf() + b"\0" * 1024)
    fails(path, "too much for its size")


def test_broken_archives_are_data_errors(tmp_path: Path):
    for suffix, write in (("zip", write_zip), ("tar.gz", write_tar)):
        path = write(tmp_path / f"set.{suffix}", sample_files())
        path.write_bytes(path.read_bytes()[:-400])
        assert f"set.{suffix}" in fails(path, "broken archive")
        path.write_bytes(b"")
        fails(path, "broken archive")
    (tmp_path / "set.rar").write_bytes(b"Rar!")
    fails(tmp_path / "set.rar", "neither a folder nor a data file")


def test_a_name_is_looked_for_in_the_data_and_cache_directories(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    data = tmp_path / "shelf"
    data.mkdir()
    write_tar(data / "pets.tar.gz", sample_files())
    with pytest.raises(DataError, match="not found as a path") as caught:
        open_dataset("pets")
    assert str(cache) in str(caught.value)
    monkeypatch.setenv("DAYBREAK_DATA_DIR", str(data))
    found = open_dataset("pets")
    assert found.name == found.title == "pets"
    cache.mkdir(exist_ok=True)
    write_npz(cache / "more.npz")
    assert open_dataset("more").fingerprint == found.fingerprint


def test_a_misspelt_name_gets_the_nearest_one():
    with pytest.raises(DataError, match="try: 'cifar10'"):
        open_dataset("cifar-10")


def test_odd_names_are_made_safe(tmp_path: Path):
    dataset = open_dataset(write_zip(tmp_path / "my <b>pets</b> & co.zip".replace("/", ""), sample_files()))
    assert dataset.name == "my-b-pets-b-co"
    assert dataset.title == "my <b>pets<b> & co"


def test_a_hidden_class_folder_is_told_of(tmp_path: Path):
    """`.net` is a class to its owner and a hidden folder to everything else."""
    files = sample_files() | {f"train/.net/{i}.png": encode(image) for i, image in enumerate(pixels(3))}
    files |= {"train/.git/x.png": b"", "train/.cls/readme.txt": b""}
    note = "images in hidden folders are left out: .net/ (3); rename a folder that is a class"
    for path in (write_folder(tmp_path / "set", files), write_zip(tmp_path / "set.zip", files)):
        dataset = open_dataset(path)
        assert note in dataset.notes
        assert dataset.classes == ("ant", "bee", "cow")
    assert not [n for n in open_dataset(write_folder(tmp_path / "other", sample_files())).notes if "hidden" in n]


@pytest.mark.parametrize("name", [" ", "\u2003", "\n"])
def test_class_names_that_nobody_can_read_are_refused(tmp_path: Path, name: str):
    fails(write_folder(tmp_path / "set", sample_files(classes=("ant", name))), "is blank or has a NUL")


def test_two_members_of_one_name_are_refused(tmp_path: Path):
    files = sample_files()
    twice = "train/ant/000.png"
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name, data in [*files.items(), (f"./{twice}", files["train/bee/000.png"])]:
            archive.writestr(name, data)
    fails(tmp_path / "set.zip", f"two members are called '{twice}'")
    member = tarfile.TarInfo(twice)
    fails(write_tar(tmp_path / "set.tar", files, "w", (member,)), f"two members are called '{twice}'")
    link = tarfile.TarInfo(twice)
    link.type, link.linkname = tarfile.SYMTYPE, "000.png"
    fails(write_tar(tmp_path / "link.tar", files, "w", (link,)), f"two members are called '{twice}'")
    assert open_dataset(write_zip(tmp_path / "once.zip", files)).classes  # the control


def test_a_gzip_that_ends_in_its_header_is_a_broken_archive(tmp_path: Path):
    whole = write_tar(tmp_path / "whole.tar.gz", sample_files()).read_bytes()
    for cut in range(12):
        (tmp_path / "cut.tar.gz").write_bytes(whole[:cut])
        fails(tmp_path / "cut.tar.gz", "broken archive")


def test_large_files_are_not_held_many_at_a_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files_module, "CHUNK_BYTES", 1000)

    class Holding:
        def open(self, name: str) -> io.BytesIO:
            return io.BytesIO(b"x" * (400 if name < "c" else 10))

    chunks = list(files_module._chunks(Holding(), list("aaabbcdefg")))  # type: ignore[arg-type]
    assert ["".join(names) for names, _ in chunks] == ["aaa", "bbcdefg"]
    assert [len(blobs) for _, blobs in chunks] == [3, 7]
