"""Parts of parts: the images that are meant, in memory or read where they are asked for."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daybreak.data import dataset
from daybreak.data.dataset import PickedImages, Split, release

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 4, 5, 3), np.uint8)

rows = st.lists(st.integers(0, 11), min_size=6, max_size=20)
keys: st.SearchStrategy[Any] = st.one_of(
    st.slices(6),
    st.integers(-6, 5),
    st.lists(st.integers(0, 5)).map(lambda at: np.array(at, np.int64)),
    st.tuples(st.slices(6), st.just(slice(None)), st.just(slice(None, None, -1))),
    st.tuples(st.slices(6), st.just(...), st.integers(0, 2)),
    st.tuples(st.integers(0, 5), st.integers(0, 3)),
)


@given(rows, keys)
def test_picked_images_can_be_read_like_an_array(index: list[int], key: Any) -> None:
    index_M = np.array(index)
    picked, copied = PickedImages(IMAGES, index_M), IMAGES[index_M]
    np.testing.assert_array_equal(picked[key], copied[key])
    np.testing.assert_array_equal(np.asarray(picked), copied)
    assert (picked.shape, picked.dtype, picked.ndim, len(picked)) == (copied.shape, np.uint8, 4, len(copied))


def test_a_large_part_of_a_part_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Split(IMAGES, np.arange(12), tuple(map(str, range(12))))
    small = whole.take(np.arange(11, 1, -1)).take(np.array([0, 2, 4]))
    monkeypatch.setattr(dataset, "COPIED_UP_TO", 100)
    large = whole.take(np.arange(11, 1, -1)).take(np.array([0, 2, 4]))
    assert isinstance(small.images_NHWC, np.ndarray)
    assert isinstance(large.images_NHWC, PickedImages)
    np.testing.assert_array_equal(np.asarray(large.images_NHWC), small.images_NHWC)
    assert (large.names, large.labels_N.tolist()) == (small.names, [11, 9, 7])
    assert large.origin is not None
    assert large.origin[0] is whole


def test_what_is_released_is_no_longer_in_memory_and_can_be_read_again(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.ones((64, 512, 512, 4), np.uint8))
    images = np.load(tmp_path / "images.npy", mmap_mode="r")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    before = resident()
    assert images.sum() == images.size
    read = resident()
    assert read > before + 32 * 2**20
    release(PickedImages(images, np.arange(3)))  # type: ignore[arg-type]
    assert resident() < before + 16 * 2**20
    assert images[63].all()
    release(np.zeros((2, 2, 2, 1), np.uint8))  # of nothing that is mapped
