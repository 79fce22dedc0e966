import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from image_sets import notes_of, pixels, write_npz
from PIL import Image

from daybreak.core.errors import DataError
from daybreak.data import DecodeSpec, open_dataset
from daybreak.data.arrays import read_npz
from daybreak.data.split import stratified_split

pytestmark = pytest.mark.usefixtures("cache")


def test_digits_are_scikit_learns_scaled_to_bytes():
    from sklearn.datasets import load_digits

    digits = load_digits()
    dataset = open_dataset("digits")
    assert (dataset.name, dataset.title) == ("digits", "digits")
    assert dataset.classes == tuple("0123456789")
    assert dataset.decode == DecodeSpec(8, 1)
    assert notes_of(dataset) == ("no test part: stratified 80/20 split by seed 0",)
    assert len(dataset.train.names) + len(dataset.test.names) == 1797
    for split in (dataset.train, dataset.test):
        indices = [int(name.removeprefix("train/")) for name in split.names]
        assert split.labels_N.tolist() == digits.target[indices].tolist()
        expected = np.round(digits.images[indices] * 255 / 16)
        np.testing.assert_array_equal(split.images_NHWC[..., 0], expected)
    assert dataset.train.images_NHWC.max() == 255


def test_npz_without_names_or_test_part(tmp_path: Path):
    images = pixels(20, channels=1)[..., 0]
    np.savez(tmp_path / "set.npz", x_train=images, y_train=np.arange(20, dtype=np.uint8)[:, None] % 2)
    dataset = open_dataset(tmp_path / "set.npz")
    assert dataset.classes == ("0", "1")
    assert dataset.decode == DecodeSpec(8, 1)
    for split in (dataset.train, dataset.test):
        indices = [int(name.removeprefix("train/")) for name in split.names]
        np.testing.assert_array_equal(split.images_NHWC[..., 0], images[indices])
        assert split.labels_N.tolist() == [i % 2 for i in indices]


def test_npz_keeps_the_numbers_of_its_classes(tmp_path: Path):
    x, y = pixels(24), np.arange(24) % 12
    np.savez(tmp_path / "set.npz", x_train=x, y_train=y, x_test=x, y_test=y[::-1])
    dataset = open_dataset(tmp_path / "set.npz")
    assert dataset.classes == tuple(map(str, range(12)))
    assert dataset.train.labels_N.tolist() == y.tolist()
    assert dataset.test.labels_N.tolist() == y[::-1].tolist()


def test_arrays_are_resized_as_files_are(tmp_path: Path):
    write_npz(tmp_path / "set.npz")
    dataset = open_dataset(tmp_path / "set.npz", size=16)
    expected = Image.fromarray(pixels(1)[0]).resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(dataset.train.images_NHWC[0], np.asarray(expected))
    assert notes_of(dataset) == ("12 images resized and cropped to 16 x 16 px",)


GOOD = {
    "x_train": pixels(4),
    "y_train": np.array([0, 1, 0, 1]),
    "x_test": pixels(2),
    "y_test": np.array([0, 1]),
}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"x_train": None}, "x_train: missing"),
        ({"y_train": None}, "y_train: missing"),
        ({"y_test": None}, "y_test: missing"),
        ({"x_train": GOOD["x_train"] / 255}, "x_train: float64, but must be uint8"),
        ({"x_train": pixels(4, channels=3)[..., :2]}, r"x_train: shape \(4, 8, 8, 2\)"),
        ({"x_train": pixels(4)[0, 0]}, "x_train: shape"),
        ({"x_train": pixels(4)[:0], "y_train": np.zeros(0, int)}, "x_train: shape"),
        ({"y_train": np.array([0.0, 1, 0, 1])}, "y_train: float64, but must be integers"),
        ({"y_train": np.array([True, False] * 2)}, "y_train: bool"),
        ({"y_train": np.array([0, 1, 0])}, r"y_train: shape \(3,\) for 4 images"),
        ({"y_train": np.array([0, 1, 0, -1])}, "y_train: labels from -1"),
        ({"y_train": np.array([0, 1, 0, 2**63], np.uint64)}, "y_train: labels from 0 to 9223372036854775808"),
        ({"y_train": np.array([0, 1, 0, 1], object)}, "y_train: Object arrays cannot be loaded"),
        ({"x_test": pixels(2, side=9)}, "x_test: images of shape"),
        ({"x_val": pixels(2, side=9), "y_val": GOOD["y_test"]}, "x_val: images of shape"),
        ({"x_val": GOOD["x_test"]}, "y_val: missing"),
        ({"x_val": GOOD["x_test"], "y_val": np.array([0, 0])}, "no image in validation: 1"),
        ({"x_val": GOOD["x_test"], "y_val": np.array([0, 2])}, "no image in train: 2; .* no image in validation: 1"),
        ({"classes": np.array(["a"])}, "classes: 1 names, but labels go to 1"),
        ({"classes": np.array(["a", "a"])}, "classes: has the same name twice"),
        ({"classes": np.array([["a", "b"]])}, "classes: must be a one-dimensional array of strings"),
        ({"classes": np.array([1, 2])}, "classes: must be a one-dimensional array of strings"),
        ({"classes": np.array([97, 2**31], "<u4").view("<U1")}, "classes: has numbers in it that are no characters"),
        ({"classes": np.array([97, 2**30], ">u4").view(">U1")}, "classes: has numbers in it that are no characters"),
        ({"classes": np.array([1, 2])}, "classes: must be"),
        ({"y_test": np.array([0, 0])}, "no image in test: 1"),
        ({"y_test": np.array([0, 3])}, "no image in train: 2, 3; no image in test: 1, 2"),
        ({"y_train": np.zeros(4, int), "y_test": np.zeros(2, int)}, "two classes or more"),
    ],
)
def test_a_wrong_array_is_named(tmp_path: Path, change: dict, match: str):
    arrays = {key: value for key, value in (GOOD | change).items() if value is not None}
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(DataError, match=match) as caught:
        open_dataset(tmp_path / "set.npz")
    assert "set.npz" in caught.value.what


def test_what_is_no_npz_is_refused(tmp_path: Path):
    np.save(tmp_path / "one.npy", pixels(2))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    (tmp_path / "text.npz").write_text("hello")
    for name in ("one.npz", "text.npz"):
        with pytest.raises(DataError, match="not a readable"):
            open_dataset(tmp_path / name)


@settings(max_examples=40, deadline=None)
@given(
    images=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=6)),
    dtype=st.sampled_from([np.uint8, np.int8, np.int16, np.uint32, np.int64]),
    channels=st.sampled_from([None, 1, 3]),
)
def test_npz_reader_returns_what_was_written(tmp_path_factory: pytest.TempPathFactory, images, dtype, channels):
    x = images if channels is None else np.repeat(images[..., None], channels, axis=3)
    y = (np.arange(len(x)) % 2).astype(dtype)
    path = tmp_path_factory.mktemp("npz") / "set.npz"
    np.savez(path, x_train=x, y_train=y)
    pictures = read_npz(path, None)
    order = np.arange(len(x))[::-1]
    if x.shape[1] == x.shape[2]:
        np.testing.assert_array_equal(np.stack(list(pictures.images(order))).reshape(x.shape), x[order])
    assert pictures.labels_N.tolist() == y.tolist()
    assert pictures.labels_N.dtype == np.int64
    assert pictures.part_N is None


@given(
    counts=st.lists(st.integers(2, 60), min_size=1, max_size=8),
    percent=st.integers(1, 99),
    seed=st.integers(0, 2**32),
    shuffle=st.randoms(),
)
def test_stratified_split_properties(counts: list[int], percent: int, seed: int, shuffle):
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    shuffle.shuffle(labels)
    labels_N = np.array(labels)
    stay, drawn = stratified_split(labels_N, percent / 100, seed)
    assert sorted([*stay, *drawn]) == list(range(len(labels)))
    assert stay.tolist() == sorted(stay)
    assert drawn.tolist() == sorted(drawn)
    for label, count in enumerate(counts):
        in_drawn = int((labels_N[drawn] == label).sum())
        assert 1 <= in_drawn < count
        assert in_drawn == pytest.approx(count * percent / 100, abs=0.5 + 1e-9) or in_drawn in (1, count - 1)
    again = stratified_split(labels_N, percent / 100, seed)
    assert stay.tolist() == again[0].tolist()
    assert drawn.tolist() == again[1].tolist()


@given(count=st.integers(2, 200))
def test_a_test_part_is_a_fifth_with_halves_rounded_up(count: int):
    _, test = stratified_split(np.zeros(count, np.int64), 0.2, 0)
    assert len(test) == max(1, (2 * count + 5) // 10)


def test_the_split_is_the_one_that_0_1_0_drew():
    """Another one would put test images of old runs among the training images of new ones."""
    _, test = stratified_split(np.arange(1000) ** 2 % 7, 0.2, 5)
    expected = "4356c907fffc7a8bed471c821dbd9c028cd27f6c131ad57c7135929b0987b55b"
    assert hashlib.sha256(test.astype("<i8").tobytes()).hexdigest() == expected
    fingerprint = "f940cf9c87062956ae1a923111baf1cdf87c6ff3404c0a7f990ebc054eab1c9b"
    assert open_dataset("digits").fingerprint == fingerprint


def test_another_seed_is_another_split():
    labels_N = np.repeat([0, 1], 50)
    splits = {tuple(stratified_split(labels_N, 0.2, seed)[1]) for seed in range(5)}
    assert len(splits) == 5


@pytest.mark.parametrize("name", ["val", "validation"])
def test_npz_may_have_a_validation_part(tmp_path: Path, name: str):
    write_npz(tmp_path / "set.npz", validation=name)
    dataset = open_dataset(tmp_path / "set.npz")
    assert dataset.validation is not None
    np.testing.assert_array_equal(dataset.validation.images_NHWC, pixels(6, seed=2))
    assert dataset.validation.labels_N.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.validation.names[5] == "validation/5"
    np.testing.assert_array_equal(dataset.train.images_NHWC, pixels(6, seed=0))
    np.testing.assert_array_equal(dataset.test.images_NHWC, pixels(6, seed=1))


def test_npz_with_two_validation_parts_uses_the_first_and_says_so(tmp_path: Path):
    write_npz(tmp_path / "set.npz", validation="validation")
    with np.load(tmp_path / "set.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "set.npz", **arrays, x_val=pixels(3, seed=9), y_val=np.arange(3))
    dataset = open_dataset(tmp_path / "set.npz")
    assert notes_of(dataset) == ("x_val is not used: x_validation is the validation part",)
    assert dataset.validation is not None
    assert len(dataset.validation.names) == 6


def with_member(path: Path, name: str, content: bytes, **arrays: np.ndarray) -> Path:
    """An .npz in which one member is not what numpy would write."""
    buffer = io.BytesIO()
    np.savez(buffer, **({"x_train": pixels(4), "y_train": np.array([0, 0, 1, 1])} | arrays))
    with zipfile.ZipFile(buffer) as whole, zipfile.ZipFile(path, "w") as changed:
        for member in whole.namelist():
            changed.writestr(member, content if member == f"{name}.npy" else whole.read(member))
    return path


def header(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (header((4, 10**6, 10**6, 11)), r"x_train: shape \(4, 1000000, 1000000, 11\) of uint8 does not fit 128 bytes"),
        (header((2**62, 2**62)), "does not fit"),
        (b"not an array", "x_train: not an array"),
        (b"", "x_train: not an array"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr': '|u1'}", "x_train: not an array"),
        (b"\x93NUMPY\x09\x09", "x_train: not an array"),
    ],
)
def test_a_header_is_not_believed(tmp_path: Path, content: bytes, why: str):
    with pytest.raises(DataError, match=why):
        open_dataset(with_member(tmp_path / "set.npz", "x_train", content))


def test_a_label_of_two_thousand_million_makes_no_classes(tmp_path: Path):
    np.savez(tmp_path / "set.npz", x_train=pixels(4), y_train=np.array([0, 0, 1, 2_000_000_000]))
    with pytest.raises(DataError, match="go to 2,000,000,000, which are more than 100,000 classes"):
        open_dataset(tmp_path / "set.npz")


@pytest.mark.parametrize(
    "names", [["caf\u00e9", "cafe\u0301"], ["", "a"], [" ", "a"], ["a\0b", "c"], ["Ant", "ant"], ["a b", "a  b"]]
)
def test_names_of_arrays_are_held_to_the_rules_of_folders(tmp_path: Path, names: list[str]):
    np.savez(tmp_path / "set.npz", x_train=pixels(4), y_train=np.array([0, 0, 1, 1]), classes=np.array(names))
    with pytest.raises(DataError, match="class name"):
        open_dataset(tmp_path / "set.npz")


def test_two_arrays_of_one_name_are_refused(tmp_path: Path):
    with_member(tmp_path / "set.npz", "none", b"")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(tmp_path / "set.npz", "a") as archive:
        archive.writestr("y_train.npy", b"x")
    with pytest.raises(DataError, match="two of its arrays have one name"):
        open_dataset(tmp_path / "set.npz")
