"""Augmentation against numpy written out by hand; sample i of epoch e never depends on the batch."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daybreak.core.config import Augment, override
from daybreak.core.errors import UsageError
from daybreak.data import open_dataset
from daybreak.recipes import RECIPES
from daybreak.runs.transforms import Normalizer, pad_reflect, resize, scale_pixels
from daybreak.training.augment import Draws, augment_batch, crop, cutout, draw_epoch, draw_flip, flip, rotate
from daybreak.training.images import Resident
from daybreak.training.loader import Loader, epoch_order

CPU = torch.device("cpu")
EVERYTHING = Augment(crop=4, flip="random", cutout=8, rotation=15, brightness=0.2, contrast=0.2)


def images(n: int = 6, size: int = 8, channels: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, size, size, channels), dtype=np.uint8))


def test_pad_and_crop_are_numpys() -> None:
    x = images()
    padded = pad_reflect(x, 2)
    by_numpy = np.pad(x.numpy(), ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    assert np.array_equal(padded.numpy(), by_numpy)
    index, position = torch.tensor([4, 0, 4]), torch.tensor([[0.0, 0.99], [0.5, 0.3], [0.79, 0.0]])
    cut = crop(padded, index, position, 8)
    tops_lefts = [(0, 4), (2, 1), (3, 0)]  # floor(position * 5)
    for out, i, (top, left) in zip(cut.numpy(), index.tolist(), tops_lefts, strict=True):
        assert np.array_equal(out, by_numpy[i, top : top + 8, left : left + 8])


def test_crop_without_padding_is_the_image() -> None:
    x = images()
    assert torch.equal(crop(pad_reflect(x, 0), torch.arange(6), torch.rand(6, 2), 8), x)


def test_padding_may_be_wider_than_the_image() -> None:
    assert pad_reflect(images(size=3), 5).shape == (6, 13, 13, 3)


def test_flip_mirrors_only_what_is_asked() -> None:
    x = images(3)
    out = flip(x, torch.tensor([True, False, True]))
    assert torch.equal(out[0], x[0].flip(1))
    assert torch.equal(out[1], x[1])


def test_alternating_flip_shows_both_sides_in_two_epochs() -> None:
    config = Augment(flip="alternating")
    even, odd, third = (draw_flip(config, 1000, seed=3, epoch=e) for e in (0, 1, 2))
    assert np.array_equal(odd, ~even)
    assert np.array_equal(third, even)
    assert 400 < even.sum() < 600


def test_random_flip_differs_between_epochs_and_seeds() -> None:
    config = Augment(flip="random")
    first = draw_flip(config, 1000, 0, 0)
    assert not np.array_equal(first, draw_flip(config, 1000, 0, 1))
    assert not np.array_equal(first, draw_flip(config, 1000, 1, 0))


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True), st.integers(1, 8))
def test_cutout_is_a_whole_square_inside(y: float, x: float, hole: int) -> None:
    out = cutout(torch.ones(1, 3, 8, 8), torch.tensor([[y, x]]), hole)
    assert (out == 0).sum() == 3 * hole * hole
    rows, columns = (out[0, 0] == 0).nonzero().unbind(1)
    assert rows.max() - rows.min() == columns.max() - columns.min() == hole - 1


def test_rotation_by_a_right_angle_and_by_nothing() -> None:
    x = images(2, 8).permute(0, 3, 1, 2).float()
    assert torch.allclose(rotate(x, torch.zeros(2)), x, atol=1e-3)
    assert torch.allclose(rotate(x, torch.full((2,), 90.0)), x.rot90(1, (2, 3)), atol=1e-2)


def test_brightness_and_contrast_by_hand() -> None:
    x = torch.tensor([[100, 200]], dtype=torch.uint8).view(1, 1, 2, 1)
    levels = Normalizer((0.0,), (1 / 255,))  # leaves the levels 0 to 255 as they are

    def jittered(brightness: float, contrast: float) -> list[float]:
        return levels(x, gain_N2=torch.tensor([[brightness, contrast]])).flatten().tolist()

    assert jittered(0.1, 1.0) == pytest.approx([125.5, 225.5])
    assert jittered(0.0, 0.5) == pytest.approx([125, 175])
    assert jittered(0.2, 2.0) == pytest.approx([101, 301])


def test_brightness_and_contrast_come_before_normalising() -> None:
    x, gain = images(4), torch.tensor([[0.1, 0.8], [-0.1, 1.2], [0.0, 1.0], [0.05, 0.9]])
    mean = x.double().mean((1, 2, 3), keepdim=True)
    brightness, contrast = gain.double().view(4, 2, 1, 1, 1).unbind(1)
    expected = ((x - mean) * contrast + mean) / 255 + brightness
    normalize = Normalizer((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    expected = (expected - torch.tensor(normalize.mean)) / torch.tensor(normalize.std)
    assert torch.allclose(normalize(x, gain_N2=gain).double(), expected.permute(0, 3, 1, 2), atol=1e-5)


def test_normalizer_is_exact() -> None:
    x = images(50)
    normalize = Normalizer.of(x)
    values = x.double().flatten(0, 2) / 255
    assert normalize.mean == pytest.approx(values.mean(0).tolist(), abs=1e-12)
    assert normalize.std == pytest.approx(values.std(0, correction=0).tolist(), abs=1e-9)
    out = normalize(x)
    assert out.shape == (50, 3, 8, 8)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert out.mean((0, 2, 3)).abs().max() < 1e-5
    assert (out.square().mean((0, 2, 3)) - 1).abs().max() < 1e-5


def test_normalizer_gives_the_numbers_that_0_1_0_stored() -> None:
    card = json.loads((Path(__file__).parent / "runs_of_0.1.0" / "finished" / "model.json").read_text())
    train = torch.from_numpy(np.array(open_dataset("digits").train.images_NHWC))
    normalize = Normalizer.of(resize(train, card["size"]))
    assert normalize.mean == pytest.approx(card["mean"], rel=1e-15)
    assert normalize.std == pytest.approx(card["std"], rel=1e-15)


def test_a_constant_channel_stays_finite() -> None:
    x = torch.full((4, 8, 8, 1), 7, dtype=torch.uint8)
    assert Normalizer.of(x)(x).abs().max() < 1e-2


def test_resize_keeps_the_mean_and_is_the_identity_at_the_same_size() -> None:
    x = images(20, 32)
    assert resize(x, 32) is x
    small = resize(x, 20)
    assert small.dtype == torch.uint8
    assert small.shape == (20, 20, 20, 3)
    assert abs(small.double().mean() - x.double().mean()) < 1


def test_lengths_scale_with_the_image() -> None:
    assert [scale_pixels(4, s) for s in (32, 20, 64, 8)] == [4, 2, 8, 1]
    assert scale_pixels(0, 32) == 0


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 5), st.integers(0, 3), st.lists(st.integers(0, 11), min_size=1, max_size=12))
def test_a_sample_is_the_same_in_every_batch(seed: int, epoch: int, asked: list[int]) -> None:
    x = images(12, 16)
    padded, normalize = pad_reflect(x, 4), Normalizer.of(x)
    draws = draw_epoch(EVERYTHING, 12, seed, epoch, CPU)

    def make(index: list[int]) -> torch.Tensor:
        return augment_batch(
            EVERYTHING, padded, torch.tensor(index), draws.take(torch.tensor(index)), 16, normalize, torch.float32
        )

    together, alone = make(asked), torch.cat([make([i]) for i in asked])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("size", [64, 224])
def test_bfloat16_images_are_float32_images_rounded(size: int) -> None:
    """Turning an image in bfloat16 read past its end at 128 px and more, and blurred it below."""
    x = images(4, size)
    config, index = Augment(rotation=15, brightness=0.1), torch.arange(4)
    draws, normalize = draw_epoch(config, 4, 0, 0, CPU), Normalizer.of(x)
    exact, coarse = (
        augment_batch(config, x, index, draws, size, normalize, d) for d in (torch.float32, torch.bfloat16)
    )
    assert coarse.dtype == torch.bfloat16
    assert torch.equal(exact.to(torch.bfloat16), coarse)


def test_the_batch_size_changes_no_sample() -> None:
    recipe = override(RECIPES["page"], {"augment.rotation": 10, "epochs": 2})
    x, number = images(40, 32), torch.arange(40)
    seen = []
    for batch_size in (5, 8):
        train = Loader(
            override(recipe, {"batch_size": batch_size}), Resident(x), number, Normalizer.of(x), 1, torch.float32
        )
        second_epoch = [train.batch(step, step / train.steps) for step in range(train.steps_per_epoch, train.steps)]
        order = torch.cat([label for _, label in second_epoch])
        seen.append(torch.cat([image for image, _ in second_epoch])[order.argsort()])
    assert torch.allclose(*seen, atol=1e-5)


def test_another_epoch_or_seed_draws_other_numbers() -> None:
    def numbers(seed: int, epoch: int) -> Draws:
        return draw_epoch(EVERYTHING, 20, seed, epoch, CPU)

    assert torch.equal(numbers(0, 0).crop_N2, numbers(0, 0).crop_N2)
    for name in Draws.__dataclass_fields__:
        assert not torch.equal(getattr(numbers(0, 0), name), getattr(numbers(0, 1), name)), name
        assert not torch.equal(getattr(numbers(0, 0), name), getattr(numbers(1, 0), name)), name


def loader(batch_size: int) -> Loader:
    recipe = override(RECIPES["sprint"], {"batch_size": batch_size, "epochs": 2})
    x, labels = images(100, 32), torch.arange(100) % 10
    return Loader(recipe, Resident(x), labels, Normalizer.of(x), seed=5, dtype=torch.float32)


def test_an_epoch_visits_every_sample_once() -> None:
    assert np.array_equal(np.sort(epoch_order(100, 0, 0)), np.arange(100))
    assert not np.array_equal(epoch_order(100, 0, 0), epoch_order(100, 0, 1))


def test_any_step_can_be_asked_for_at_any_time() -> None:
    forwards, backwards = loader(10), loader(10)
    expected = [forwards.batch(step, step / 20) for step in range(20)]
    for step in reversed(range(20)):
        image, label = backwards.batch(step, step / 20)
        assert torch.equal(image, expected[step][0])
        assert torch.equal(label, expected[step][1])


def test_the_resolution_follows_progress() -> None:
    train = loader(10)
    assert [train.size_at(step / 20) for step in (0, 5, 6, 19)] == [16, 16, 32, 32]
    assert train.batch(3, 0.15)[0].shape == (10, 3, 16, 16)


def test_a_batch_larger_than_the_data_is_the_data() -> None:
    train = loader(500)
    assert (train.batch_size, train.steps) == (100, 2)


def loader_of(steps: int, stages: list[tuple[float, float]]) -> Loader:
    resolution = [{"until": until, "scale": scale} for until, scale in stages]
    recipe = override(RECIPES["sprint"], {"steps": steps, "batch_size": 4, "resolution": resolution})
    x = torch.zeros(8, 32, 32, 3, dtype=torch.uint8)
    return Loader(recipe, Resident(x), torch.zeros(8, dtype=torch.int64), Normalizer.of(x), seed=0, dtype=torch.float32)


@given(st.integers(1, 200), st.lists(st.floats(0.001, 0.999), unique=True, max_size=4), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_the_work_done_is_the_sum_over_steps(steps: int, untils: list[float], seed: int) -> None:
    scales = np.random.default_rng(seed).choice([0.3, 0.5, 0.75, 1.0], len(untils) + 1).tolist()
    train = loader_of(steps, list(zip([*sorted(untils), 1.0], scales, strict=True)))
    pixels = [train.size_at(step / steps) ** 2 for step in range(steps)]
    for step in {0, 1, steps // 3, steps // 2, steps - 1, steps}:
        assert train.work_done(step) == sum(pixels[:step]) / sum(pixels)


def test_a_training_of_a_thousand_million_steps_is_planned_at_once() -> None:
    train = loader_of(10**9, [(0.3, 0.5), (1.0, 1.0)])
    assert train.work_done(3 * 10**8) == pytest.approx(0.3 * 0.25 / (0.3 * 0.25 + 0.7))


@pytest.mark.parametrize("setting", [{"epochs": 10**6 + 1}, {"steps": 10**9 + 1}, {"min_steps": 10**9 + 1}])
def test_absurd_lengths_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(setting))):
        override(RECIPES["sprint"], setting)


def test_the_smallest_lengths_and_images() -> None:
    assert [scale_pixels(1, side) for side in (8, 16, 32)] == [1, 1, 1]
    one = images(2, size=1)
    assert torch.equal(pad_reflect(one, 2), one.expand(-1, 5, 5, -1))
