"""Are the maps true? Scores with known answers, a net that looks at a known place, and one that has forgotten."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from shapes import CLASSES, OBJECT, SIDE, Shapes, shapes
from torch import Tensor, nn

from daybreak.core.config import override
from daybreak.core.options import TrainOptions
from daybreak.data import open_dataset
from daybreak.explain import faithfulness
from daybreak.explain.faithfulness import importance_order, imputed, pointing_game, random_maps, scores
from daybreak.explain.maps import MapOptions, explain
from daybreak.models.registry import build_net
from daybreak.recipes import RECIPES
from daybreak.runs.classifier import Classifier
from daybreak.runs.transforms import Normalizer
from daybreak.training.train import train

# A net of one convolution in each branch: what it points at is known, whatever the ladder's net is.
NET = {"model.width": 0.5, "model.depth": 1, "model.channels": [48, 256, 256]}

CPU = torch.device("cpu")


class Window(nn.Module):
    """Says class 1 as far as a window of the image is bright; looks at nothing else."""

    stages = ()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        seen = 4 * (x_NCHW[:, :, 8:16, 16:24].mean((1, 2, 3)) - 1.2)
        return torch.stack([-seen, seen], 1)


WINDOW = Classifier(Window(), ("no", "yes"), 32, Normalizer((0.5,) * 3, (0.25,) * 3), CPU, torch.float32)


@pytest.fixture(scope="module")
def bright() -> np.ndarray:
    """Ten images of dark noise with a bright window."""
    images = np.random.default_rng(0).integers(0, 120, (10, 32, 32, 3)).astype(np.uint8)
    images[:, 8:16, 16:24] = 250
    return images


def test_a_true_map_scores_better_than_chance_and_a_false_one_worse(bright: np.ndarray) -> None:
    true = np.zeros((10, 8, 8), np.float32)
    true[:, 2:4, 4:6] = 1
    yes = np.ones(10, np.int64)
    right, wrong = (scores(WINDOW, bright, maps, yes) for maps in (true, 1 - true))
    chance = scores(WINDOW, bright, random_maps(true, 0), yes)
    assert right.deletion < chance.deletion - 0.1 < wrong.deletion
    assert right.insertion > chance.insertion + 0.1 > wrong.insertion
    assert right.road > 0.3
    assert abs(chance.road) < 0.3
    assert wrong.road == pytest.approx(-right.road, abs=0.15)


def test_curves_begin_and_end_where_they_must(bright: np.ndarray) -> None:
    """Nothing deleted is the image, all deleted the image without content; insertion is the other way round."""
    images = WINDOW.prepare(bright)
    order = importance_order(random_maps(np.zeros((10, 4, 4)), 1), 32)
    yes = np.ones(10, np.int64)
    empty = faithfulness.blurred(images)
    deleted = faithfulness._curve(WINDOW, images, empty, order, yes, (0.0, 1.0))
    whole, none = (WINDOW.forward(x).softmax(1)[:, 1].mean().item() for x in (images, empty))
    assert deleted.tolist() == pytest.approx([whole, none])


def test_the_order_is_that_of_the_enlarged_map() -> None:
    values = np.zeros((2, 4, 4), np.float32)
    values[0, 3, 0] = 1.0
    order = importance_order(values, 32)
    assert divmod(int(order[0, 0]), 32) in {(y, x) for y in range(28, 32) for x in range(4)}
    assert sorted(order[0].tolist()) == list(range(1024))
    flat = order[1][:100]  # a flat map has no order: its first pixels lie anywhere
    assert len(set(flat // 32)) > 20
    assert len(set(flat % 32)) > 20


def test_an_imputed_pixel_is_the_mean_of_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faithfulness, "NOISE", 0.0)
    rng = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(8.0), 2 * np.arange(8.0))[None]
    hole = np.zeros((8, 8), bool)
    hole[3, 4] = True
    assert imputed(ramp, hole, rng)[0, 3, 4] == pytest.approx(ramp[0, 3, 4])
    hole[2:5, 3:6] = True  # a larger hole in a plane: the plane is the solution
    assert np.allclose(imputed(ramp, hole, rng), ramp)
    image = rng.normal(size=(3, 8, 8))
    out = imputed(image, hole, rng)
    assert np.array_equal(out[:, ~hole], image[:, ~hole])
    for y, x in np.argwhere(hole):  # every imputed pixel satisfies its equation
        mean = sum(w * out[:, y + down, x + right] for (down, right), w in faithfulness.NEIGHBOURS.items())
        assert np.allclose(out[:, y, x], mean)
    corner = np.zeros((8, 8), bool)
    corner[0, 0] = True  # at a border the weights of the neighbours that are there count
    expected = (ramp[0, 0, 1] / 6 + ramp[0, 1, 0] / 6 + ramp[0, 1, 1] / 12) / (5 / 12)
    assert imputed(ramp, corner, rng)[0, 0, 0] == pytest.approx(expected)


def test_pointing_at_a_box() -> None:
    values = np.zeros((2, 8, 8), np.float32)
    values[:, 1, 6] = 1  # rows 4 to 7, columns 24 to 27 of 32
    boxes = np.array([[20, 0, 30, 10], [0, 20, 10, 30]])
    assert pointing_game(values, boxes, 32).tolist() == [True, False]


# -- a trained net, and one that has forgotten ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked() -> Shapes:
    return shapes(300, seed=2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """A sprint net that tells four patterns apart wherever they stand."""
    folder = tmp_path_factory.mktemp("shapes")
    known, test = shapes(3000, seed=0), shapes(300, seed=1)
    np.savez(
        folder / "shapes.npz", x_train=known.images_NHWC, y_train=known.labels_N, x_test=test.images_NHWC,
        y_test=test.labels_N,
    )  # fmt: skip
    rate = {"schedule.max_lr": 0.14, "schedule.initial_lr": 0.14}
    recipe = override(RECIPES["sprint"], NET | rate | {"epochs": 6, "batch_size": 100, "precision": "float32"})
    run = train(recipe, open_dataset(folder / "shapes.npz"), folder / "run", TrainOptions(device="cpu"))
    assert run.summary["test_acc"] > 0.97
    return run.classifier("cpu")


def forgetful(classifier: Classifier, seed: int = 0) -> Classifier:
    """The same net with fresh weights."""
    torch.manual_seed(seed)
    net = build_net(override(RECIPES["sprint"], NET).model, len(CLASSES), 3).eval()
    net.get_submodule("whiten").load_state_dict(classifier.net.get_submodule("whiten").state_dict())
    return replace(classifier, net=net)


def maps_of(classifier: Classifier, asked: Shapes, method: str, layer: str) -> np.ndarray:
    found = explain(classifier, asked.images_NHWC, asked.labels_N[:, None], MapOptions([layer], method))
    return np.stack([m.values_HW for m in found])


CHANCE = OBJECT**2 / SIDE**2


@pytest.mark.slow
@pytest.mark.parametrize(("method", "least"), [("grad-cam", 0.8), ("hires-cam", 0.95), ("layer-cam", 0.95)])
def test_a_trained_net_points_at_the_object_and_an_untrained_one_does_not(
    method: str, least: float, trained: Classifier, asked: Shapes
) -> None:
    """(Grad-CAM weighs channels by a mean over all places, so at a stage of many cells it points less well.)"""
    hits = pointing_game(maps_of(trained, asked, method, "layer2"), asked.boxes_N4, SIDE).mean()
    assert hits > least
    blind = pointing_game(maps_of(forgetful(trained), asked, method, "layer2"), asked.boxes_N4, SIDE).mean()
    assert abs(blind - CHANCE) < 0.08


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grad-cam", "grad-cam++", "hires-cam", "layer-cam"])
def test_a_map_changes_when_the_net_forgets(method: str, trained: Classifier, asked: Shapes) -> None:
    """The model-randomisation check of Adebayo et al. (2018): a map that stays the same when the weights are random
    explains the image and not the net."""
    learnt = maps_of(trained, asked, method, "layer2")
    again = maps_of(trained, asked, method, "layer2")
    random = maps_of(forgetful(trained), asked, method, "layer2")
    assert likeness(learnt, again) > 0.999
    assert abs(likeness(learnt, random)) < 0.3


def likeness(some_Nhw: np.ndarray, others_Nhw: np.ndarray) -> float:
    """Mean rank correlation of maps that are not empty."""
    pairs = [
        (a.ravel(), b.ravel()) for a, b in zip(some_Nhw, others_Nhw, strict=True) if np.ptp(a) > 0 and np.ptp(b) > 0
    ]
    assert len(pairs) > len(some_Nhw) / 2
    return float(np.mean([spearmanr(a, b).statistic for a, b in pairs]))


@pytest.mark.slow
def test_maps_of_a_trained_net_are_faithful(trained: Classifier, asked: Shapes) -> None:
    part = slice(0, 60)
    few = Shapes(asked.images_NHWC[part], asked.labels_N[part], asked.boxes_N4[part])
    maps = maps_of(trained, few, "grad-cam", "layer2")
    ours = scores(trained, few.images_NHWC, maps, few.labels_N)
    chance = scores(trained, few.images_NHWC, random_maps(maps, 0), few.labels_N)
    assert ours.deletion < chance.deletion
    assert ours.insertion > chance.insertion
    assert ours.road > chance.road + 0.2
