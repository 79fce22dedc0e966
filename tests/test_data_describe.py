import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from image_sets import encode, pixels, sample_files, write_folder
from PIL import Image

from daybreak.core.errors import StorageError
from daybreak.data import contact_sheet, describe, open_dataset

pytestmark = pytest.mark.usefixtures("cache")


def test_numbers_of_a_known_set(tmp_path: Path):
    dataset = open_dataset(write_folder(tmp_path / "set", sample_files(per_class=3)))
    facts = describe(dataset)
    train = pixels(9, seed=0) / 255
    assert facts["mean"] == pytest.approx(train.mean((0, 1, 2)).tolist(), abs=1e-12)
    assert facts["std"] == pytest.approx(train.std((0, 1, 2)).tolist(), abs=1e-12)
    assert facts["splits"]["test"] == {"images": 9, "per_class": {"ant": 3, "bee": 3, "cow": 3}}
    assert (facts["image_size"], facts["channels"], facts["classes"]) == (8, 3, ["ant", "bee", "cow"])
    assert (facts["duplicates"], facts["conflicts"]) == (0, 0)
    assert facts["fingerprint"] == dataset.fingerprint
    json.dumps(facts)


def test_duplicates_and_conflicts_are_counted(tmp_path: Path):
    files = sample_files()
    files["test/ant/dup1.png"] = files["test/ant/dup2.png"] = files["train/ant/000.png"]
    files["train/ant/twice.png"] = files["train/ant/001.png"]  # within a part, under one label: neither
    files["train/cow/same.png"] = files["train/bee/000.png"]
    facts = describe(open_dataset(write_folder(tmp_path / "set", files)))
    assert facts["duplicates"] == 2
    assert facts["conflicts"] == 1
    assert facts["conflict_names"] == [["train/bee/000.png", "train/cow/same.png"]]


def test_advice_says_what_to_do(tmp_path: Path):
    """Of a test image that is a training image brightened, a picture under two labels, and classes of 3 and 30."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 200, (70, 4, 4, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    files = {f"train/bee/{n:03}.png": encode(pictures[n]) for n in range(30)}
    files |= {f"train/ant/{n:03}.png": encode(pictures[30 + n]) for n in range(3)}
    files |= {f"test/{name}/{n}.png": encode(pictures[40 + n]) for n, name in enumerate(["ant", "bee"] * 10)}
    assert describe(open_dataset(write_folder(tmp_path / "set", files)))["advice"] == [
        "the largest class has 30 training images, the smallest 3: training evens them out (--balance), and balanced "
        "accuracy says more than accuracy",
        "20 test images: an accuracy of 90 % is known to ±13.1 points (95 %)",
    ]
    files["test/bee/burst.png"] = encode(pictures[7] + 20)
    files["train/bee/030.png"] = files["train/ant/000.png"]
    first, second, *_ = describe(open_dataset(write_folder(tmp_path / "worse", files)))["advice"]
    assert first == (
        "exactly or nearly in the training part, too, as photos of a burst are: 1 of 21 test images, such as "
        "test/bee/burst.png and train/bee/007.png; the accuracy will be too high: keep such photos in one part"
    )
    assert second == "1 picture under two labels: decide for one, or --strict refuses such data"
    held_out = {name.replace("train/bee/02", "validation/bee/2"): content for name, content in files.items()}
    held_out |= {"validation/bee/burst.png": encode(pictures[8] + 20), "validation/ant/0.png": encode(pictures[69])}
    _, of_validation, *_ = describe(open_dataset(write_folder(tmp_path / "three", held_out)))["advice"]
    assert (
        "1 of 12 validation images, such as validation/bee/burst.png and train/bee/008.png; the curves" in of_validation
    )


def test_nothing_is_said_of_data_that_is_in_order(digits):
    assert describe(digits)["advice"] == ["359 test images: an accuracy of 90 % is known to ±3.1 points (95 %)"]


def chequered(i: int, j: int) -> np.ndarray:
    image = np.full((8, 8, 3), (i * 10, j * 20, 7), np.uint8)
    image[::2, ::2] = 255 - image[::2, ::2]
    return image


def test_contact_sheet_shows_true_colours_enlarged(tmp_path: Path):
    files = {}
    for i in range(23):
        for j in range(12):
            files |= {f"{part}/class{i:02}/{j:02}.png": encode(chequered(i, j)) for part in ("train", "test")}
    path = contact_sheet(open_dataset(write_folder(tmp_path / "set", files)), tmp_path / "out" / "sheet.png")
    sheet = np.asarray(Image.open(path))
    assert sheet.shape[1] == 180 + 10 * 68
    assert sheet.shape[0] == 21 * 68  # 20 classes, and a line for the three left out
    for row, column in ((0, 0), (3, 9), (19, 5)):
        cell = sheet[row * 68 : row * 68 + 64, 180 + column * 68 : 180 + column * 68 + 64]
        np.testing.assert_array_equal(cell, chequered(row, column).repeat(8, 0).repeat(8, 1))
    assert (sheet[:68, :180] < 128).any()  # a class name
    assert (sheet[20 * 68 :, :180] < 128).any()
    assert (sheet[20 * 68 :, 180:] == 255).all()


def test_contact_sheet_of_grey_images_and_odd_names(tmp_path: Path):
    files = {
        f"{name}/{i}.png": encode(pixels(1, channels=1, seed=i)[0])
        for name in ("a\n\udcff", "b" * 99)
        for i in range(5)
    }
    path = contact_sheet(open_dataset(write_folder(tmp_path / "set", files)), tmp_path / "sheet.png")
    assert Image.open(path).size == (180 + 680, 2 * 68)
    with pytest.raises(StorageError):
        contact_sheet(open_dataset(tmp_path / "set"), path / "below-a-file.png")


def test_opening_data_needs_no_torch():
    code = "import sys, daybreak.data; assert not {'torch', 'sklearn'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
