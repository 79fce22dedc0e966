"""Logits: test-time views with their weights, batches of any size, a net left as it was."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from daybreak.core.config import override
from daybreak.core.errors import UsageError
from daybreak.core.nets import net_config
from daybreak.data.dataset import images_a_block
from daybreak.explain.cam import class_maps
from daybreak.explain.faithfulness import scores
from daybreak.explain.features import observe
from daybreak.explain.maps import explain
from daybreak.models.registry import build_net
from daybreak.recipes import RECIPES
from daybreak.runs.classifier import Classifier, images_a_forward, tta_views
from daybreak.runs.transforms import Normalizer

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)


def classifier(size: int = 32, dtype: torch.dtype = torch.float32) -> Classifier:
    torch.manual_seed(0)
    net = build_net(net_config(name="page", width=0.1), 4, 3)
    return Classifier(net, tuple("abcd"), size, Normalizer((0.5,) * 3, (0.25,) * 3), CPU, dtype)


def test_the_six_views_are_shifts_and_mirrors_with_airbenchs_weights() -> None:
    x = torch.arange(32.0 * 32).view(1, 1, 32, 32)
    views = tta_views(x, "full")
    assert [weight for weight, _ in views] == [0.25, 0.25, 0.125, 0.125, 0.125, 0.125]
    plain, mirrored, up_left, _, down_right, down_right_mirrored = (view[0, 0] for _, view in views)
    assert torch.equal(plain, x[0, 0])
    assert torch.equal(mirrored, x[0, 0].flip(1))
    assert torch.equal(up_left[1:, 1:], x[0, 0, :-1, :-1])
    assert torch.equal(down_right[:-1, :-1], x[0, 0, 1:, 1:])
    assert down_right[-1, -1] == x[0, 0, -2, -2]  # the border is reflected
    assert torch.equal(down_right_mirrored, down_right.flip(1))


def test_without_mirrors_three_views_are_left_and_flip_is_taken_at_its_word() -> None:
    x = torch.arange(32.0 * 32).view(1, 1, 32, 32)
    views, six = tta_views(x, "full", mirrors=False), tta_views(x, "full")
    assert [weight for weight, _ in views] == [0.5, 0.25, 0.25]
    assert all(torch.equal(view, six[2 * i][1]) for i, (_, view) in enumerate(views))
    assert len(tta_views(x, "flip", mirrors=False)) == 2
    one = replace(classifier(), mirrors=False)
    one.net.eval()
    with torch.no_grad():
        expected = sum(weight * one.net(view) for weight, view in tta_views(one.prepare(IMAGES), "full", mirrors=False))
    assert isinstance(expected, torch.Tensor)
    assert np.allclose(one.logits(IMAGES, "full"), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["small", "page", "sprint", "finetune"])
def test_which_recipes_mirror(name: str) -> None:
    assert RECIPES[name].mirrors == (name != "small")
    assert not override(RECIPES["page"], {"augment.flip": "none"}).mirrors
    assert [override(RECIPES["finetune"], {"features": n}).mirrors for n in (1, 2)] == [False, True]


@pytest.mark.parametrize(("tta", "count"), [("none", 1), ("flip", 2), ("full", 6)])
def test_weights_add_up_and_logits_are_the_weighted_mean(tta: str, count: int) -> None:
    one = classifier()
    one.net.eval()
    prepared = one.prepare(IMAGES)
    views = tta_views(prepared, tta)  # type: ignore[arg-type]
    assert len(views) == count
    assert sum(weight for weight, _ in views) == 1
    with torch.no_grad():
        expected = sum(weight * one.net(view) for weight, view in views)
    assert isinstance(expected, torch.Tensor)
    assert np.allclose(one.logits(IMAGES, tta), expected.numpy(), atol=1e-5)  # type: ignore[arg-type]


def test_an_unknown_augmentation_is_refused() -> None:
    with pytest.raises(UsageError, match="none, flip, full"):
        classifier().logits(IMAGES, "many")  # type: ignore[arg-type]


def test_the_batch_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = classifier().logits(IMAGES)
    monkeypatch.setattr("daybreak.runs.classifier.images_a_forward", lambda *_: 2)
    assert np.allclose(classifier().logits(IMAGES), whole, atol=1e-5)
    assert classifier().logits(IMAGES[:0]).shape == (0, 4)


def test_batches_shrink_with_the_image() -> None:
    assert [images_a_block(size, 250) for size in (16, 32, 64, 224, 1024)] == [250, 250, 62, 5, 1]


def test_batches_are_larger_on_an_accelerator() -> None:
    """2,000 images of 32 px or 40 of 224 px keep one busy; on a CPU 250 and 5, as its caches want it."""
    sizes = (16, 32, 224, 2048)
    assert [images_a_forward(size, CPU) for size in sizes] == [250, 250, 5, 1]
    for kind in ("cuda", "mps"):
        assert [images_a_forward(size, torch.device(kind)) for size in sizes] == [2000, 2000, 40, 1]
    assert images_a_forward(64, torch.device("cuda"), 100) == 200


def blocks_of(work: str, one: Classifier) -> list[int]:
    """Batch sizes of the forwards of seven images."""
    found: list[int] = []
    one.net.register_forward_hook(lambda _m, inputs, _o: found.append(len(inputs[0])))
    classes_N = np.zeros(7, np.int64)
    if work == "logits":
        one.logits(IMAGES)
    elif work == "features":
        observe(one, IMAGES, "layer1")
    elif work == "maps":
        explain(one, IMAGES, classes_N[:, None])
    elif work == "score-cam":
        class_maps(one.net, one.prepare(IMAGES[:1]), torch.tensor([0]), ["layer3"], "score-cam")
        found.remove(1)  # the activations
    else:
        scores(one, IMAGES, np.ones((7, 4, 4), np.float32), classes_N)
    return found


@pytest.mark.parametrize(
    ("work", "module"),
    [
        ("logits", "runs.classifier"),
        ("features", "explain.features"),
        ("maps", "explain.maps"),
        ("score-cam", "explain.cam"),
        ("faithfulness", "explain.faithfulness"),
    ],
)
def test_all_that_runs_a_net_asks_how_many_images_its_device_takes(
    work: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, torch.device]] = []

    def three(side: int, device: torch.device, _at_32_px: int = 0) -> int:
        asked.append((side, device))
        return 3

    monkeypatch.setattr(f"daybreak.{module}.images_a_forward", three)
    blocks = blocks_of(work, classifier())
    assert set(asked) == {(32, CPU)}
    assert max(blocks) == 3
    if work != "score-cam":  # which has a mask for each channel
        assert sum(blocks) % 7 == 0


def test_the_net_stays_in_its_mode_and_keeps_its_statistics() -> None:
    one = classifier()
    state = {k: v.clone() for k, v in one.net.state_dict().items()}
    one.logits(IMAGES, "full")
    assert one.net.training
    assert all(torch.equal(state[k], v) for k, v in one.net.state_dict().items())


def test_images_are_resized_to_the_size_of_the_net() -> None:
    sizes: list[int] = []
    one = classifier(size=20)
    one.net.register_forward_hook(lambda _m, inputs, _o: sizes.append(inputs[0].shape[2]))
    one.logits(IMAGES)
    assert sizes == [20]


def test_bfloat16_gives_float32_logits_close_by() -> None:
    exact, coarse = classifier().logits(IMAGES), classifier(dtype=torch.bfloat16).logits(IMAGES)
    assert coarse.dtype == np.float32
    assert not np.array_equal(exact, coarse)
    assert np.abs(exact - coarse).max() < 0.05 * np.abs(exact).max()


def test_mapped_images_are_let_go_of_after_every_other_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    one, forwards, released = classifier(), list[int](), list[int]()
    one.net.register_forward_hook(lambda *_: forwards.append(1))
    monkeypatch.setattr("daybreak.runs.classifier.images_a_forward", lambda *_: 1)
    monkeypatch.setattr("daybreak.runs.classifier.RELEASED", 2)
    monkeypatch.setattr("daybreak.runs.classifier.release", lambda _: released.append(len(forwards)))
    one.logits(IMAGES)
    assert released == [2, 4, 6]


def test_views_are_shifted_by_a_32nd_of_the_side() -> None:
    x = torch.arange(96.0 * 96).view(1, 1, 96, 96)
    _, _, up_left, _, down_right, _ = (view[0, 0] for _, view in tta_views(x, "full"))
    assert torch.equal(up_left[3:, 3:], x[0, 0, :-3, :-3])
    assert torch.equal(down_right[:-3, :-3], x[0, 0, 3:, 3:])


def test_the_test_part_is_asked_once_for_each_view() -> None:
    one, forwards = classifier(), list[int]()
    expected = one.logits(IMAGES), one.logits(IMAGES, "flip")
    one.net.register_forward_hook(lambda _, images, __: forwards.append(len(images[0])))
    found = one.plain_and_averaged(IMAGES, "flip")
    assert sum(forwards) == 2 * len(IMAGES)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not np.array_equal(*found)
