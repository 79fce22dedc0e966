"""Class activation maps: a map worked out by hand, an independent library, and a net that is left alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn

from daybreak.augment import Normalizer
from daybreak.config import ModelConfig
from daybreak.data import DecodeSpec
from daybreak.errors import UsageError
from daybreak.explain import ClassMap, explain, grad_cam, overlay, to_picture
from daybreak.gallery import draw
from daybreak.inference import Classifier
from daybreak.models import build_net, stages_of
from daybreak.run import ModelCard, RunDirectory


class TinyNet(nn.Module):
    """Two channels that pass through a 1×1 convolution, a mean over space, and a linear head."""

    stages = ("layer1",)

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Conv2d(2, 2, 1, bias=False)
        self.head = nn.Linear(2, 2, bias=False)
        self.layer1.weight.data = torch.tensor([[1.0, 0.0], [1.0, -2.0]]).view(2, 2, 1, 1)
        self.head.weight.data = torch.tensor([[3.0, -1.0], [-4.0, 8.0]])

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer1(x_NCHW).mean((2, 3)))


def test_grad_cam_by_hand() -> None:
    """A 2×2 image: channel 0 is a = [[1, 2], [3, 4]], channel 1 is b = [[1, 0], [0, 1]].

    Activations: A0 = a, A1 = a - 2b = [[-1, 2], [3, 2]]. Every cell adds a quarter of the head's weight to the
    logit, so the weights are w / 4. Class 0: relu(3/4 A0 - 1/4 A1); class 1: relu(-A0 + 2 A1).
    """
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[1.0, 0.0], [0.0, 1.0]]]])
    maps = grad_cam(TinyNet(), image.repeat(2, 1, 1, 1), torch.tensor([0, 1]), ["layer1"])["layer1"]
    assert maps[0].tolist() == [[1.0, 1.0], [1.5, 2.5]]
    assert maps[1].tolist() == [[0.0, 2.0], [3.0, 0.0]]  # [[-3, 2], [3, 0]] before the relu


@pytest.mark.parametrize("name", ["page", "sprint"])
def test_every_stage_agrees_with_an_independent_library(name: str) -> None:
    torch.manual_seed(0)
    net = build_net(ModelConfig(name=name, width=0.25), 10, 3).eval()
    for p in net.parameters():
        p.requires_grad_(True)  # the library needs a gradient at the first layer
    images, targets = torch.randn(6, 3, 32, 32), torch.arange(6)
    ours = grad_cam(net, images, targets, list(stages_of(net)))
    assert list(ours) == ["prep", "layer1", "layer2", "layer3"]
    for stage, module in stages_of(net).items():
        theirs = LayerGradCam(net, module).attribute(images, targets, relu_attributions=True)[:, 0]
        assert theirs.max() > 0
        assert torch.allclose(ours[stage], theirs.detach(), rtol=1e-5, atol=1e-5 * theirs.max().item())


def test_the_net_is_left_as_it_was_found() -> None:
    net = build_net(ModelConfig(name="sprint", width=0.25), 10, 3)
    net.layer2.eval()  # a mixed state must come back too
    modes = [m.training for m in net.modules()]
    trainable = [p.requires_grad for p in net.parameters()]
    state = {k: v.clone() for k, v in net.state_dict().items()}
    grad_cam(net, torch.randn(2, 3, 32, 32), torch.tensor([0, 1]), ["layer1", "layer3"])
    with pytest.raises(UsageError):
        grad_cam(net, torch.randn(2, 3, 32, 32), torch.tensor([0, 1]), ["nonsense"])
    assert [m.training for m in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == trainable
    assert all(p.grad is None for p in net.parameters())
    assert all(not m._forward_hooks for m in net.modules())
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())


def test_maps_work_inside_no_grad() -> None:
    net = build_net(ModelConfig(name="sprint", width=0.25), 10, 3)
    with torch.no_grad():
        assert grad_cam(net, torch.randn(1, 3, 32, 32), torch.tensor([0]), ["layer2"])["layer2"].shape == (1, 7, 7)


def test_a_wrong_stage_lists_the_right_ones() -> None:
    with pytest.raises(UsageError, match="prep, layer1, layer2, layer3"):
        grad_cam(
            build_net(ModelConfig(name="page", width=0.1), 10, 3),
            torch.zeros(1, 3, 32, 32),
            torch.zeros(1).long(),
            ["x"],
        )


def classifier() -> Classifier:
    torch.manual_seed(0)
    net = build_net(ModelConfig(name="page", width=0.1), 3, 3).eval()
    cpu = torch.device("cpu")
    return Classifier(net, ("a", "b", "c"), 32, Normalizer((0.5,) * 3, (0.25,) * 3), cpu, torch.float32)


def test_explain_orders_by_image_target_and_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daybreak.explain.BATCH", 2)
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    targets = np.array([[0, 1], [1, 2], [2, 0], [0, 2], [1, 0]])
    maps = explain(classifier(), images, targets, ["layer1", "prep"])
    assert [(m.image, m.target, m.layer) for m in maps[:5]] == [
        (0, 0, "prep"), (0, 0, "layer1"), (0, 1, "prep"), (0, 1, "layer1"), (1, 1, "prep"),
    ]  # fmt: skip
    alone = explain(classifier(), images[4:], targets[4:], ["prep"])
    last = next(m for m in maps if (m.image, m.layer, m.target) == (4, "prep", 1))
    assert np.allclose(last.values_HW, alone[0].values_HW, atol=1e-6)


def test_an_empty_map_leaves_the_picture_and_a_full_one_colours_it() -> None:
    image = np.full((4, 4, 3), 100, dtype=np.uint8)
    assert np.asarray(overlay(image, np.zeros((2, 2)), 8)).tolist() == np.full((8, 8, 3), 100).tolist()
    hot = np.asarray(overlay(image, np.ones((2, 2)), 8))[0, 0]
    assert hot.tolist() == [round(0.25 * 100 + 0.75 * c * 255) for c in (0.988362, 0.998364, 0.644924)]  # inferno(1.0)


def test_heat_lies_where_the_map_is_high() -> None:
    picture = np.asarray(overlay(np.zeros((4, 4, 1), dtype=np.uint8), np.array([[0, 0], [0, 1.0]]), 64)).sum(2)
    assert picture[:16, :16].max() == 0
    assert picture[48:, 48:].min() > 300


def test_pictures_keep_their_pixels() -> None:
    for channels in (1, 3):
        image = np.random.default_rng(0).integers(0, 256, (5, 5, channels), dtype=np.uint8)
        assert np.array_equal(np.asarray(to_picture(image)).reshape(image.shape), image)


def test_hostile_names_stay_in_the_folder_and_apart(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    card = ModelCard(ModelConfig(name="page"), ("C+", "C#", "<b>\n/.."), 32, DecodeSpec(4, 3), (0.0,), (1.0,), "auto")
    run.write_model(nn.Linear(1, 1), card)
    maps = [ClassMap(0, "prep", target, np.ones((2, 2), np.float32)) for target in range(3)]
    paths = draw(run, maps, np.zeros((1, 4, 4, 3), np.uint8), ["../../etc/" + "x" * 300])
    assert len(set(paths)) == 3
    assert all(path.parent == tmp_path / "figures" / "maps" and path.is_file() for path in paths)
