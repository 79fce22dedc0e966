"""The real images: 60,000 JPEGs, decoded through the public door."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from daybreak.data import Dataset, DecodeSpec, decode_image, describe

pytestmark = pytest.mark.cifar


def test_counts_and_names(cifar: Dataset):
    assert (cifar.name, cifar.title) == ("cifar10-jpeg", "CIFAR-10 (JPEG q75)")
    assert cifar.decode == DecodeSpec(32, 3)
    assert cifar.classes == (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip
    assert cifar.train.images_NHWC.shape == (50_000, 32, 32, 3)
    assert np.bincount(cifar.train.labels_N).tolist() == [5000] * 10
    assert np.bincount(cifar.test.labels_N).tolist() == [1000] * 10
    assert cifar.notes == ()


def test_pixels_are_pillows(cifar: Dataset, cifar_jpeg: Path):
    with tarfile.open(cifar_jpeg) as archive:
        for _ in range(50):
            member = archive.next()
            if member and member.isfile() and member.name in cifar.train.names:
                break
        data = archive.extractfile(member).read()
    index = cifar.train.names.index(member.name)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(cifar.train.images_NHWC[index], expected)
    np.testing.assert_array_equal(decode_image(data, cifar.decode), expected)
    assert cifar.classes[cifar.train.labels_N[index]] == member.name.split("/")[1]


def test_known_statistics(cifar: Dataset):
    facts = describe(cifar)
    assert facts["mean"] == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-4)  # the well-known means of CIFAR-10
    assert facts["splits"]["train"]["images"] == 50_000
    assert facts["fingerprint"] == cifar.fingerprint
