"""The validation part: the source's own, or training images that are held out."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from image_sets import CLASSES, encode, notes_of, pixels, sample_files, write_folder, write_npz, write_zip

from daybreak import cli
from daybreak.core.errors import DataError, UsageError
from daybreak.data import Dataset, Split, check_strictly, describe, open_dataset
from daybreak.runs.datasets import other_dataset, run_dataset
from daybreak.runs.directory import RunDirectory

pytestmark = pytest.mark.usefixtures("cache")
OLD_RUN = Path(__file__).parent / "runs_of_0.1.0" / "finished"
# What 0.1.0 gave for train/ with sample_files' pixels and one other part with the next ones, whatever that was called.
FINGERPRINT_OF_0_1_0 = "c505067845e929ae3ecb3f2752df5f2fb01a9be50b70ea907ca9b577e06f9997"


def validation_of(dataset: Dataset) -> Split:
    assert dataset.validation is not None
    return dataset.validation


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Thirty images a class, no test part: 24 to train and 6 to test."""
    return write_folder(tmp_path / "plain", sample_files(per_class=30, parts=("",)))


@pytest.mark.parametrize("name", ["validation", "val", "Val"])
def test_a_folder_beside_train_is_the_validation_part(tmp_path: Path, name: str):
    dataset = open_dataset(write_folder(tmp_path / "set", sample_files(parts=("train", "test", name))))
    for split, seed, part in (
        (dataset.train, 0, "train"),
        (dataset.test, 1, "test"),
        (validation_of(dataset), 2, name),
    ):
        np.testing.assert_array_equal(split.images_NHWC, pixels(6, seed=seed))
        assert split.labels_N.tolist() == [0, 0, 1, 1, 2, 2]
        assert split.names[5] == f"{part}/cow/001.png"
    assert notes_of(dataset) == ()


def test_every_container_gives_the_same_three_parts(tmp_path: Path):
    files = sample_files(parts=("train", "test", "val"))
    paths = (
        write_folder(tmp_path / "set", files),
        write_zip(tmp_path / "set.zip", files),
        write_npz(tmp_path / "set.npz", validation="val"),
    )
    sets = [open_dataset(path) for path in paths]
    assert len({dataset.fingerprint for dataset in sets}) == 1
    again = open_dataset(paths[0])
    assert again.seconds["decode"] == 0
    np.testing.assert_array_equal(validation_of(again).images_NHWC, pixels(6, seed=2))


def test_a_pixel_of_the_validation_part_changes_the_fingerprint(tmp_path: Path):
    files = sample_files(parts=("train", "test", "val"))
    before = open_dataset(write_folder(tmp_path / "a", files)).fingerprint
    files["val/cow/001.png"] = encode(pixels(1, seed=9)[0])
    assert open_dataset(write_folder(tmp_path / "b", files)).fingerprint != before


def test_without_a_validation_part_the_fingerprint_is_that_of_0_1_0(tmp_path: Path):
    assert open_dataset(write_folder(tmp_path / "set", sample_files())).fingerprint == FINGERPRINT_OF_0_1_0


def test_without_a_test_part_it_is_drawn_from_the_training_images(tmp_path: Path):
    files = sample_files(per_class=10, parts=("train", "validation"))
    dataset = open_dataset(write_folder(tmp_path / "set", files), split_seed=3)
    assert notes_of(dataset) == ("no test part: stratified 80/20 split by seed 3",)
    np.testing.assert_array_equal(validation_of(dataset).images_NHWC, pixels(30, seed=1))
    assert np.bincount(dataset.train.labels_N).tolist() == [8, 8, 8]
    assert {*dataset.train.names, *dataset.test.names} == {name for name in files if name.startswith("train/")}
    assert open_dataset(tmp_path / "set", split_seed=4).test.names != dataset.test.names


def test_of_two_validation_folders_the_first_is_used_and_the_other_named(tmp_path: Path):
    dataset = open_dataset(write_folder(tmp_path / "set", sample_files(parts=("train", "test", "validation", "val"))))
    assert notes_of(dataset) == ("val/ is not used: validation/ is the validation part",)
    np.testing.assert_array_equal(validation_of(dataset).images_NHWC, pixels(6, seed=2))


def test_all_parts_have_the_same_classes(tmp_path: Path):
    files = sample_files(parts=("train", "test", "val"))
    image = encode(pixels(1)[0])
    with pytest.raises(DataError, match="no image in train: emu; no image in test: emu"):
        open_dataset(write_folder(tmp_path / "a", files | {"val/emu/1.png": image}))
    with pytest.raises(DataError, match="no image in validation: emu"):
        open_dataset(write_folder(tmp_path / "b", files | {f"{part}/emu/1.png": image for part in ("train", "test")}))
    with pytest.raises(DataError, match=r"outside the class folders: val/stray\.png"):
        open_dataset(write_folder(tmp_path / "c", files | {"val/stray.png": image}))
    with pytest.raises(DataError, match="val/ without a train/"):
        open_dataset(write_folder(tmp_path / "d", sample_files(parts=("val",))))


def test_a_share_is_held_out_of_each_class(plain: Path):
    whole = open_dataset(plain, validate=0)
    dataset = open_dataset(plain, validate=0.25)
    held_out = validation_of(dataset)
    assert np.bincount(held_out.labels_N).tolist() == [6, 6, 6]
    assert np.bincount(dataset.train.labels_N).tolist() == [18, 18, 18]
    assert {*held_out.names, *dataset.train.names} == set(whole.train.names)
    pixels_of = dict(zip(whole.train.names, whole.train.images_NHWC, strict=True))
    for split in (held_out, dataset.train):
        np.testing.assert_array_equal(split.images_NHWC, np.stack([pixels_of[name] for name in split.names]))
        assert [CLASSES[label] for label in split.labels_N] == [name.split("/")[0] for name in split.names]
        with pytest.raises(ValueError, match="read-only"):
            split.images_NHWC[0] = 0
    assert dataset.test.names == whole.test.names
    assert dataset.fingerprint == whole.fingerprint
    assert dataset.notes[-1] == "validation part: 25 % of the training images, stratified, by split seed 0"


def test_what_is_held_out_depends_on_the_split_seed(tmp_path: Path):
    folder = write_folder(tmp_path / "set", sample_files(per_class=30))
    parts = [validation_of(open_dataset(folder, validate=0.1, split_seed=seed)).names for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]


def test_a_tenth_is_held_out_by_default_where_every_class_has_twenty(tmp_path: Path):
    enough = open_dataset(write_folder(tmp_path / "enough", sample_files(per_class=20)))
    assert np.bincount(validation_of(enough).labels_N).tolist() == [2, 2, 2]
    assert enough.notes == ("validation part: 10 % of the training images, stratified, by split seed 0",)
    few = sample_files(per_class=20)
    del few["train/cow/000.png"]
    assert open_dataset(write_folder(tmp_path / "few", few)).validation is None


def test_nothing_is_held_out_of_published_data_unless_asked():
    digits = open_dataset("digits")
    assert digits.validation is None
    asked = validation_of(open_dataset("digits", validate=0.1))
    tenth_K = np.bincount(digits.train.labels_N) / 10
    assert np.abs(np.bincount(asked.labels_N) - tenth_K).max() <= 0.5


def test_a_set_of_ones_own_that_is_called_like_a_published_one_is_not_published(tmp_path: Path):
    folder = write_folder(tmp_path / "mnist", sample_files(per_class=20))
    assert open_dataset(folder).validation is not None


def test_a_validation_part_of_its_own_refuses_a_share_and_can_be_left_unused(tmp_path: Path):
    folder = write_folder(tmp_path / "set", sample_files(per_class=30, parts=("train", "test", "val")))
    with pytest.raises(UsageError, match=r"--validate 0\.1: the data has a validation part of its own"):
        open_dataset(folder, validate=0.1)
    unused = open_dataset(folder, validate=0)
    assert unused.validation is None
    assert notes_of(unused) == ("the validation part is not used: --validate 0",)
    assert unused.fingerprint == open_dataset(folder).fingerprint


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan")])
def test_what_is_no_share_is_refused(share: float):
    with pytest.raises(UsageError, match="--validate"):
        open_dataset("digits", validate=share)


def test_a_class_that_is_too_small_to_hold_any_out_is_named(tmp_path: Path):
    files = sample_files(per_class=5) | {f"{part}/dodo/1.png": encode(pixels(1)[0]) for part in ("train", "test")}
    folder = write_folder(tmp_path / "set", files)
    with pytest.raises(DataError, match=r"--validate 0\.1: a class needs two \(dodo\)"):
        open_dataset(folder, validate=0.1)
    assert open_dataset(folder).validation is None


def test_the_request_opens_the_same_parts_again(plain: Path):
    dataset = open_dataset(plain, validate=0.3, split_seed=2)
    again = open_dataset(**asdict(dataset.request))
    assert validation_of(again).names == validation_of(dataset).names


def test_the_validation_part_is_described_and_checked(tmp_path: Path):
    files = sample_files(parts=("train", "test", "val"))
    files["val/ant/twice.png"] = files["train/ant/000.png"]
    files["val/bee/conflict.png"] = files["test/ant/000.png"]
    dataset = open_dataset(write_folder(tmp_path / "set", files))
    facts = describe(dataset)
    assert list(facts["splits"]) == ["train", "validation", "test"]
    assert facts["splits"]["validation"] == {"images": 8, "per_class": {"ant": 3, "bee": 3, "cow": 2}}
    assert (facts["duplicates"], facts["validation_duplicates"]) == (0, 1)
    assert facts["conflict_names"] == [["val/bee/conflict.png", "test/ant/000.png"]]
    with pytest.raises(DataError, match=r"1 validation image also in the training part, first val/ant/twice\.png"):
        check_strictly(dataset)
    assert "validation_duplicates" not in describe(open_dataset(tmp_path / "set", validate=0))


def test_daybreak_data_shows_the_validation_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = write_folder(tmp_path / "set", sample_files(per_class=30, parts=("train", "test", "val")))
    (folder / "val" / "ant" / "000.png").unlink()
    assert cli._run(["data", str(folder)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["class", "train", "validation", "test"] in lines
    assert ["ant", "30", "29", "30"] in lines
    assert ["validation", "images", "also", "in", "train:", "0"] in lines


@pytest.mark.parametrize(
    ("parts", "note"),
    [
        (("train", "val"), ()),
        (("train", "validation"), ()),
        (("train", "val", "validation"), ("validation/ is not used: val/ is the test part",)),
        (("train", "test", "val"), ("val/ is not used: test/ is the test part",)),
    ],
)
def test_parts_as_0_1_0_understood_them(tmp_path: Path, parts: tuple[str, ...], note: tuple[str, ...]):
    folder = write_folder(tmp_path / "set", sample_files(parts=parts))
    open_dataset(folder, validate=0, split_seed=1)  # its entry in the cache is another one
    dataset = open_dataset(folder, parts_of_0_1_0=True)
    assert dataset.fingerprint == FINGERPRINT_OF_0_1_0
    assert dataset.validation is None
    assert notes_of(dataset) == note
    np.testing.assert_array_equal(dataset.test.images_NHWC, pixels(6, seed=1))


def test_arrays_as_0_1_0_understood_them(tmp_path: Path):
    x, y = pixels(50), np.arange(50) % 2
    np.savez(tmp_path / "set.npz", x_train=x, y_train=y, x_val=x[:4], y_val=y[:4])
    dataset = open_dataset(tmp_path / "set.npz", parts_of_0_1_0=True)
    assert dataset.fingerprint == "72171b3ebd41d34f1b4178b7898a75952f27428703e4ad60c209fecccc0cf0a8"
    assert dataset.validation is None  # and nothing is held out, though each class has twenty


def run_on(folder: Path, data: Path, request: dict[str, object], fingerprint: str) -> RunDirectory:
    """A copy of a run of 0.1.0, as if it had been trained on this data."""
    shutil.copytree(OLD_RUN, folder)
    config = json.loads((folder / "config.json").read_text())
    asked = {"data": str(data), "size": None, "split_seed": 0, "skip_bad": False} | request
    config["data"] |= {"request": asked, "fingerprint": fingerprint}
    (folder / "config.json").write_text(json.dumps(config))
    return RunDirectory.open(folder)


def test_the_data_of_a_run_of_0_1_0_is_opened_as_it_was(tmp_path: Path):
    data = write_folder(tmp_path / "set", sample_files(per_class=2, parts=("train", "val")))
    dataset = run_dataset(run_on(tmp_path / "run", data, {}, FINGERPRINT_OF_0_1_0))
    assert dataset.test.names[0] == "val/ant/000.png"
    resumed = run_on(tmp_path / "resumed", data, asdict(dataset.request), FINGERPRINT_OF_0_1_0)
    assert run_dataset(resumed).test.names == dataset.test.names


def test_the_data_of_a_run_has_the_parts_that_it_was_trained_on(plain: Path, tmp_path: Path):
    trained_on = open_dataset(plain, validate=0.25)
    run = run_on(tmp_path / "run", plain, asdict(trained_on.request), trained_on.fingerprint)
    for dataset in (run_dataset(run), run_dataset(run, shutil.copytree(plain, tmp_path / "moved"))):
        assert validation_of(dataset).names == validation_of(trained_on).names


def write_digits(path: Path, order: list[int]) -> Path:
    """Four digits of each class in each of three parts, the classes in this order."""
    digits = open_dataset("digits").train
    rows = np.concatenate([np.flatnonzero(digits.labels_N == k)[:4] for k in range(10)])
    x, y = digits.images_NHWC[rows], np.argsort(order)[digits.labels_N[rows]]
    arrays = {f"{axis}_{part}": a for part in ("train", "test", "val") for axis, a in (("x", x), ("y", y))}
    np.savez(path, **arrays, classes=[str(k) for k in order])
    return path


def test_other_data_is_renumbered_in_all_parts(tmp_path: Path):
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    run = run_on(tmp_path / "run", tmp_path, {"validate": 0.1}, "another")
    other = other_dataset(run, write_digits(tmp_path / "other.npz", order))
    expected = np.repeat(np.arange(10), 4).tolist()
    assert other.classes == tuple("0123456789")
    for split in (other.train, validation_of(other), other.test):
        assert split.labels_N.tolist() == expected


def test_the_runs_own_data_as_other_data_has_the_runs_parts(tmp_path: Path):
    digits = open_dataset("digits", validate=0.2)
    run = run_on(tmp_path / "run", Path("digits"), asdict(digits.request), digits.fingerprint)
    assert validation_of(other_dataset(run, "digits")).names == validation_of(digits).names


@pytest.mark.parametrize("other", ["0" * 64, "f" * 64])
def test_other_content_than_the_runs_is_refused(other: str, tmp_path: Path):
    data = write_folder(tmp_path / "set", sample_files(per_class=2, parts=("train", "val")))
    with pytest.raises(DataError, match=r"its content is not what .* was trained on"):
        run_dataset(run_on(tmp_path / "run", data, {}, other))
