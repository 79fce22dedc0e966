"""Near-duplicates between test and train: planted ones are found with their partner, unlike images are not."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from daybreak.data import Dataset
from daybreak.data.dataset import Split
from daybreak.data.duplicates import correlation, near_duplicates, perceptual_hashes


@pytest.fixture(scope="module")
def few(cifar: Dataset) -> Dataset:
    """500 training and 200 test images, none of which repeats another."""
    train, test = (part(split, n) for split, n in ((cifar.train, 500), (cifar.test, 200)))
    return replace(cifar, train=train, test=test)


def part(split: Split, n: int) -> Split:
    return Split(np.array(split.images_NHWC[:n]), np.array(split.labels_N[:n]), split.names[:n])


def worked_on(image_HWC: np.ndarray, kind: str) -> np.ndarray:
    picture = Image.fromarray(image_HWC)
    if kind == "brighter":
        picture = ImageEnhance.Brightness(picture).enhance(1.15)
    if kind == "less contrast":
        picture = ImageEnhance.Contrast(picture).enhance(0.7)
    if kind == "smaller and back":
        picture = picture.resize((24, 24), Image.Resampling.BICUBIC).resize((32, 32), Image.Resampling.BICUBIC)
    changed = np.array(picture)
    return changed[:, ::-1] if kind == "mirrored" else changed


KINDS = ("the same", "brighter", "less contrast", "smaller and back", "mirrored")


@pytest.mark.cifar
def test_planted_duplicates_are_found_with_their_partner(few: Dataset) -> None:
    images, planted = few.test.images_NHWC.copy(), {}
    for n in range(50):
        planted[4 * n] = 7 * n
        images[4 * n] = worked_on(few.train.images_NHWC[7 * n], KINDS[n % 5])
    found = near_duplicates(few.train, replace(few.test, images_NHWC=images))
    assert {d.test: d.train for d in found} == planted
    assert {d.test for d in found if d.mirrored} == {4 * n for n in range(50) if n % 5 == 4}
    assert [d.correlation for d in found] == sorted((d.correlation for d in found), reverse=True)
    assert found[0].correlation == pytest.approx(1)
    same = few.test.labels_N[[d.test for d in found]] == few.train.labels_N[[d.train for d in found]]
    assert [d.same_label for d in found] == same.tolist()


@pytest.mark.cifar
def test_unlike_images_are_no_duplicates(few: Dataset) -> None:
    assert near_duplicates(few.train, few.test) == []


def test_images_of_one_colour_are_compared_by_their_pixels() -> None:
    black, grey = np.zeros((3000, 8, 8, 1), np.uint8), np.full((40, 8, 8, 1), 90, np.uint8)
    grey[7] = 0
    train = Split(black, np.zeros(3000, int), tuple(map(str, range(3000))))
    test = Split(grey, np.zeros(40, int), tuple(map(str, range(40))))
    assert [(d.test, d.train) for d in near_duplicates(train, test)] == [(7, 0)]


def test_a_hash_survives_scale_and_tells_images_apart() -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    large = small.repeat(3, 1).repeat(3, 2)
    assert np.array_equal(perceptual_hashes(small), perceptual_hashes(large))
    assert len(set(perceptual_hashes(small).tolist())) == 20


def test_correlation_knows_no_brightness() -> None:
    image = np.random.default_rng(0).integers(0, 100, (8, 8, 3), dtype=np.uint8)
    assert correlation(image, image + 50) == pytest.approx(1)
    assert correlation(image, 255 - image) == pytest.approx(-1)
