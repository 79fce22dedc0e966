"""The real images: 60,000 JPEGs, decoded through the public door."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from daybreak.data import Dataset, DecodeSpec, decode_image, describe, open_dataset

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


@pytest.mark.slow
def test_the_archive_without_loss_is_cifar10(
    cifar: Dataset, cifar_zip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Found by the name alone; the images of the JPEG copy, in its order, and near to them in every pixel's mean."""
    monkeypatch.setenv("DAYBREAK_CACHE_DIR", str(tmp_path / "cache"))
    dataset = open_dataset("cifar10")
    assert (dataset.name, dataset.title, dataset.notes) == ("cifar10", "CIFAR-10", ())
    assert dataset.request.data == "cifar10"
    assert Path(os.environ["DAYBREAK_DATA_DIR"]) == cifar_zip.parent
    assert dataset.validation is None
    assert dataset.decode == DecodeSpec(32, 3)
    assert dataset.classes == cifar.classes
    assert dataset.train.labels_N.tolist() == cifar.train.labels_N.tolist()
    difference = dataset.test.images_NHWC.astype(np.int16) - cifar.test.images_NHWC
    rms_N = np.sqrt(np.square(difference, dtype=np.float64).mean((1, 2, 3)))
    assert 0 < np.median(rms_N) < 10
    assert rms_N.max() < 40
    # Mean and deviation of the published training images, as they are commonly quoted.
    facts = describe(dataset)
    assert facts["mean"] == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
    assert facts["std"] == pytest.approx([0.2470, 0.2435, 0.2616], abs=1e-4)
