"""Where training images come from: in memory or read ahead from the cache, with the same bits."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from daybreak.core import machine
from daybreak.core.config import Recipe, override
from daybreak.core.errors import UsageError
from daybreak.core.machine import parse_bytes
from daybreak.core.options import TrainOptions, train_options
from daybreak.data import Dataset
from daybreak.data.dataset import PickedImages, Split
from daybreak.recipes import RECIPES
from daybreak.runs.transforms import Normalizer
from daybreak.training.checkpoint import MANIFEST, TENSORS
from daybreak.training.images import Resident, Streamed, TrainingImages, training_images
from daybreak.training.loader import Loader
from daybreak.training.train import train

CPU = torch.device("cpu")
AUGMENT = {"augment.crop": 2, "augment.flip": "random", "augment.cutout": 3, "augment.contrast": 0.1}
STAGES = [{"until": 0.5, "scale": 0.75}, {"until": 1.0, "scale": 1.0}]


def recipe(**settings: object) -> Recipe:
    return override(RECIPES["small"], {"batch_size": 7, "epochs": 3, "min_steps": 0, **AUGMENT} | settings)


@pytest.fixture
def part(tmp_path: Path) -> Split:
    """Thirty images on disk, memory-mapped."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", rng.integers(0, 256, (30, 12, 12, 3), dtype=np.uint8))
    images_NHWC = np.load(tmp_path / "images.npy", mmap_mode="r")
    return Split(images_NHWC, rng.integers(0, 4, 30), tuple(map(str, range(30))))


def loader(images: TrainingImages, part: Split, recipe: Recipe) -> Loader:
    normalize = Normalizer.of_blocks(images.blocks())
    return Loader(recipe, images, torch.from_numpy(part.labels_N), normalize, 3, torch.float32)


@pytest.mark.parametrize("side", [12, 16])
@pytest.mark.parametrize("balance", ["none", "sampling"])
def test_batches_have_the_same_bits(side: int, balance: str, part: Split) -> None:
    """Over epochs and image sizes, in any order of steps, whole batches and rows of them."""
    chosen = recipe(resolution=STAGES, balance=balance)
    resident, streamed = (loader(training_images(part, side, 2, CPU, memory), part, chosen) for memory in (10**9, 0))
    assert isinstance(resident.images, Resident)
    assert isinstance(streamed.images, Streamed)
    assert streamed.normalize == resident.normalize
    for step in [*range(resident.steps), 3, 11, 0]:
        for rows in (slice(None), slice(2, 5)):
            progress = step / resident.steps
            for found, expected in zip(
                streamed.batch(step, progress, rows), resident.batch(step, progress, rows), strict=True
            ):
                assert torch.equal(found, expected), (step, rows)
            assert found.shape == expected.shape


def test_images_picked_from_a_larger_part_are_streamed_too(part: Split) -> None:
    index = np.array([5, 2, 29, 11])
    picked = Split(PickedImages(part.images_NHWC, index), part.labels_N[index], tuple("abcd"))  # type: ignore[arg-type]
    images = training_images(picked, 12, 0, CPU, 0)
    assert len(images) == 4
    assert torch.equal(images.take(np.array([3, 0])), torch.from_numpy(part.images_NHWC[[11, 5]]))


def test_what_was_expected_and_did_not_come_is_read_anew(part: Split) -> None:
    images = Streamed(part, 12, CPU)
    images.expect(torch.tensor([1, 2]))
    found, at = images.padded(torch.tensor([4, 3]), 12, 0)
    assert torch.equal(found[at], torch.from_numpy(part.images_NHWC[[4, 3]]))


def test_memory_decides(part: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """30 images of 3 channels, as they are and with 2 px around: 30 · 3 · (12² + 16²) bytes."""
    wanted = 30 * 3 * (144 + 256)
    assert isinstance(training_images(part, 12, 2, CPU, wanted), Resident)
    assert isinstance(training_images(part, 12, 2, CPU, wanted - 1), Streamed)
    for free, kind in ((2 * wanted, Resident), (2 * wanted - 2, Streamed)):
        monkeypatch.setattr("daybreak.training.images.memory_bytes", lambda free=free: (10**9, free))
        assert isinstance(training_images(part, 12, 2, CPU, None), kind)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr("daybreak.training.images.memory_bytes", lambda: (10**9, 2 * wanted))
    assert isinstance(training_images(part, 12, 2, CPU, None), Streamed)  # two processes share what is free


def test_a_run_that_reads_as_it_goes_ends_in_the_same_state(digits: Dataset, tmp_path: Path) -> None:
    states, notes = [], []
    for name, memory in (("resident", None), ("streamed", 0)):
        told: list[dict[str, object]] = []
        run = train(
            recipe(batch_size=100, epochs=2, precision="float32", **{"model.width": 0.1}), digits, tmp_path / name,
            TrainOptions(device="cpu", memory=memory), on_event=told.append,
        )  # fmt: skip
        last = max(run.checkpoints.glob("step-*"))
        states.append(json.loads((last / MANIFEST).read_text())[TENSORS])
        notes.append(next(event["notes"] for event in told if event["event"] == "start"))
    assert states[0] == states[1]
    assert not any("read as they are needed" in note for note in notes[0])
    assert "training images are read as they are needed: they do not fit in memory" in notes[1]


@pytest.mark.parametrize(
    ("text", "count"), [("512", 512), ("2GB", 2 * 10**9), ("1.5 MB", 1_500_000), ("3k", 3000), ("1T", 10**12)]
)
def test_sizes_are_read(text: str, count: int) -> None:
    assert parse_bytes(text, "--memory") == count
    assert train_options(memory=text).memory == count


@pytest.mark.parametrize("text", ["", "GB", "2 bytes", "-1GB", "2XB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a size; try: a size such as 500MB or 2GB"):
        machine.parse_bytes(text, "--memory")
