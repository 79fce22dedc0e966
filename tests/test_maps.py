"""Class activation maps: worked out by hand, against independent libraries, and a net that is left alone."""

import gc

import pytest
import torch
from captum.attr import LayerGradCam, LayerGradientXActivation
from torch import nn
from torchcam.methods import GradCAM, LayerCAM

from daybreak.core.errors import UsageError
from daybreak.core.nets import net_config
from daybreak.explain.cam import METHODS, Method, class_maps, maps_of_targets
from daybreak.models.registry import build_net, stages_of

STAGES = ["prep", "layer1", "layer2", "layer3"]


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


# Channel 0 is a = [[1, 2], [3, 4]], channel 1 is b = [[1, 0], [0, 1]]. Activations: A0 = a, A1 = a - 2b =
# [[-1, 2], [3, 2]]. Every cell adds a quarter of the head's weight to the logit, so the gradients are w / 4.
IMAGE = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[1.0, 0.0], [0.0, 1.0]]]])


def tiny(method: str, target: int, against: int | None = None) -> list[list[float]]:
    other = None if against is None else torch.tensor([against])
    return class_maps(TinyNet(), IMAGE, torch.tensor([target]), ["layer1"], method, other)["layer1"][0].tolist()


def test_grad_cam_by_hand() -> None:
    """Class 0: relu(3/4 A0 - 1/4 A1); class 1: relu(-A0 + 2 A1)."""
    assert tiny("grad-cam", 0) == [[1.0, 1.0], [1.5, 2.5]]
    assert tiny("grad-cam", 1) == [[0.0, 2.0], [3.0, 0.0]]  # [[-3, 2], [3, 0]] before the relu


def test_hires_cam_is_what_each_cell_adds_to_the_logit() -> None:
    net = TinyNet()
    assert tiny("hires-cam", 0) == [[1.0, 1.0], [1.5, 2.5]]
    assert sum(map(sum, tiny("hires-cam", 0))) == net(IMAGE)[0, 0].item()  # nothing was cut off: it adds up


def test_layer_cam_by_hand() -> None:
    """Only positive gradients count: class 0 has 3/4 for A0, class 1 has 2 for A1 = [[-1, 2], [3, 2]]."""
    assert tiny("layer-cam", 0) == [[0.75, 1.5], [2.25, 3.0]]
    assert tiny("layer-cam", 1) == [[0.0, 4.0], [6.0, 4.0]]


def test_grad_cam_plus_plus_by_hand() -> None:
    """Class 0: g = 3/4, sum(A0) = 10, α = g² / (2 g² + 10 g³) = 1 / 9.5; the weight is 4 cells · α · g = 6/19."""
    got = torch.tensor(tiny("grad-cam++", 0))
    assert torch.allclose(got, 6 / 19 * IMAGE[0, 0], rtol=1e-6)


def test_against_another_class_explains_the_difference_of_the_logits() -> None:
    """Class 1 against class 0: weights (-1 - 3/4, 2 + 1/4), so relu(-7/4 A0 + 9/4 A1)."""
    assert tiny("grad-cam", 1, against=0) == [[0.0, 1.0], [1.5, 0.0]]
    assert tiny("grad-cam", 0, against=0) == [[0.0, 0.0], [0.0, 0.0]]


def test_eigen_cam_finds_the_direction_that_was_planted() -> None:
    """Activations of rank one: every channel is the same pattern, so the pattern times the length of the channels'
    factors is the map; a pattern upside down is turned over."""
    pattern, factors = torch.tensor([[0.0, 1.0], [2.0, 5.0]]), torch.tensor([3.0, 4.0])
    image = (factors[:, None, None] * pattern)[None]
    net = TinyNet()
    net.layer1.weight.data = torch.eye(2).view(2, 2, 1, 1)
    for sign in (1, -1):
        found = class_maps(net, sign * image, torch.tensor([0]), ["layer1"], "eigen-cam")["layer1"][0]
        assert torch.allclose(found, 5 * pattern, atol=1e-4)


@pytest.fixture(params=["page", "sprint"])
def net(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    net = build_net(net_config(name=request.param, width=0.25, activation="relu"), 10, 3).eval()
    for p in net.parameters():
        p.requires_grad_(True)  # the libraries need a gradient at the first layer
    return net


IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
TARGETS = torch.arange(6)


def assert_equal_to(theirs: torch.Tensor, ours: torch.Tensor) -> None:
    assert theirs.max() > 0
    assert torch.allclose(ours, theirs.detach(), rtol=1e-5, atol=1e-5 * theirs.max().item())


def test_grad_cam_and_hires_cam_equal_captum_at_every_stage(net: nn.Module) -> None:
    grad_cam = class_maps(net, IMAGES, TARGETS, STAGES, "grad-cam")
    hires_cam = class_maps(net, IMAGES, TARGETS, STAGES, "hires-cam")
    assert list(grad_cam) == STAGES
    for stage, module in stages_of(net).items():
        theirs = LayerGradCam(net, module).attribute(IMAGES, TARGETS, relu_attributions=True)[:, 0]
        assert_equal_to(theirs, grad_cam[stage])
        theirs = LayerGradientXActivation(net, module).attribute(IMAGES, TARGETS).sum(1).relu()
        assert_equal_to(theirs, hires_cam[stage])


@pytest.mark.parametrize(("method", "library"), [("grad-cam", GradCAM), ("layer-cam", LayerCAM)])
def test_gradient_maps_equal_torchcam_at_every_stage(net: nn.Module, method: str, library: type) -> None:
    ours = class_maps(net, IMAGES, TARGETS, STAGES, method)
    for stage in STAGES:
        with library(net, stage) as extractor:
            theirs = extractor(TARGETS.tolist(), net(IMAGES), normalized=False)[0]
        assert_equal_to(theirs, ours[stage])


def test_grad_cam_plus_plus_equals_its_equation_at_every_stage(net: nn.Module) -> None:
    """Equation 19 term by term, in float64, where no small number is lost."""
    net = net.double()
    images = IMAGES.double()
    ours = class_maps(net, images, TARGETS, STAGES, "grad-cam++")
    for stage, module in stages_of(net).items():
        kept = []
        handle = module.register_forward_hook(lambda m, i, output, kept=kept: kept.append(output))
        score = net(images).gather(1, TARGETS[:, None]).sum()
        handle.remove()
        a, g = kept[0], torch.autograd.grad(score, kept[0])[0]
        for n in range(len(images)):
            expected = torch.zeros_like(a[n, 0])
            for k in range(a.shape[1]):
                alpha = torch.where(g[n, k] == 0, 0, g[n, k] ** 2 / (2 * g[n, k] ** 2 + a[n, k].sum() * g[n, k] ** 3))
                expected = expected + (alpha * g[n, k].relu()).nan_to_num().sum() * a[n, k]
            assert_equal_to(expected.relu(), ours[stage][n])


def test_score_cam_equals_its_algorithm_channel_by_channel(net: nn.Module) -> None:
    """(torchcam stretches the masks to [0, 1] before it enlarges them, the paper's algorithm 1 after.)"""
    ours = class_maps(net, IMAGES[:2], TARGETS[:2], ["layer3"], "score-cam")["layer3"]
    a, black = net_until(net, "layer3")(IMAGES[:2]), net(torch.zeros(1, 3, 32, 32))[0]
    for n in range(2):
        rises = []
        for channel in a[n].unbind():
            mask = nn.Upsample((32, 32), mode="bilinear")(channel[None, None])
            mask = (mask - mask.min()) / (mask.max() - mask.min()).clamp(min=1e-12)
            rises.append((net(IMAGES[n : n + 1] * mask)[0] - black)[TARGETS[n]])  # the "increase of confidence"
        weights = torch.stack(rises).softmax(0)
        assert_equal_to((weights[:, None, None] * a[n]).sum(0).relu(), ours[n])


@pytest.mark.parametrize("method", METHODS)
def test_only_masked_copies_are_seen_in_the_number_format_of_the_classifier(net: nn.Module, method: Method) -> None:
    """Their logits alone are used; gradients in bfloat16 would be noise where they are small."""
    seen: list[torch.dtype] = []
    handle = net.layer3.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    (half,) = maps_of_targets(net, IMAGES[:1], [TARGETS[:1]], ["layer2"], method, dtype=torch.bfloat16)
    handle.remove()
    assert seen == [torch.float32] + [torch.bfloat16] * (method == "score-cam")
    whole = class_maps(net, IMAGES[:1], TARGETS[:1], ["layer2"], method)
    assert half["layer2"].dtype == torch.float32
    assert torch.allclose(half["layer2"], whole["layer2"], rtol=0.02, atol=0.02 * whole["layer2"].max().item())


def net_until(net: nn.Module, stage: str) -> nn.Module:
    children = dict(net.named_children())
    return nn.Sequential(*list(children.values())[: list(children).index(stage) + 1])


@pytest.mark.parametrize("against", [None, torch.tensor([9, 0])], ids=["alone", "against another"])
@pytest.mark.parametrize("method", METHODS)
def test_several_targets_get_the_maps_of_each(net: nn.Module, method: Method, against: torch.Tensor | None) -> None:
    """To the bit, and the net sees each image, and each masked copy of it, once."""
    seen: list[int] = []
    handle = net.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    targets = [torch.tensor([1, 2]), torch.tensor([3, 2]), torch.tensor([0, 5])]
    together = maps_of_targets(net, IMAGES[:2], targets, ["layer2", "layer3"], method, against)
    for_all, seen[:] = sum(seen), []
    for found, target in zip(together, targets, strict=True):
        alone = class_maps(net, IMAGES[:2], target, ["layer2", "layer3"], method, against)
        assert list(found) == list(alone)
        assert all(torch.equal(found[name], alone[name]) for name in alone)
    handle.remove()
    assert sum(seen) == 3 * for_all
    if method != "eigen-cam":
        assert not torch.equal(together[0]["layer3"], together[2]["layer3"])


@pytest.mark.parametrize("method", METHODS)
def test_images_do_not_mix(method: str) -> None:
    torch.manual_seed(0)
    net = build_net(net_config(name="sprint", width=0.1, activation="silu"), 10, 3).eval()
    together = class_maps(net, IMAGES, TARGETS, STAGES, method)
    alone = class_maps(net, IMAGES[3:4], TARGETS[3:4], STAGES, method)
    for stage in STAGES:
        assert torch.isfinite(together[stage]).all()
        assert (together[stage] >= 0).all()
        assert torch.allclose(together[stage][3], alone[stage][0], rtol=1e-3, atol=1e-5 * alone[stage].max().item())


@pytest.mark.parametrize("method", METHODS)
def test_the_net_is_left_as_it_was_found(method: str) -> None:
    net = build_net(net_config(name="sprint", width=0.1), 10, 3)
    net.layer2.eval()  # a mixed state must come back too
    modes = [m.training for m in net.modules()]
    trainable = [p.requires_grad for p in net.parameters()]
    state = {k: v.clone() for k, v in net.state_dict().items()}
    class_maps(net, IMAGES[:2], TARGETS[:2], ["layer1", "layer3"], method)
    with pytest.raises(UsageError):
        class_maps(net, IMAGES[:2], TARGETS[:2], ["nonsense"], method)
    with pytest.raises(RuntimeError):
        class_maps(net, IMAGES[:2, :2], TARGETS[:2], ["layer1"], method)  # two channels: fails inside the net
    assert [m.training for m in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == trainable
    assert all(p.grad is None for p in net.parameters())
    assert all(not m._forward_hooks for m in net.modules())
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())


@pytest.mark.slow
def test_a_thousand_calls_keep_nothing() -> None:
    net = build_net(net_config(name="sprint", width=0.05), 10, 3)

    def alive() -> int:
        gc.collect()
        return sum(torch.is_tensor(thing) for thing in gc.get_objects())

    class_maps(net, IMAGES[:1], TARGETS[:1], STAGES)
    before = alive()
    for _ in range(1000):
        class_maps(net, IMAGES[:1], TARGETS[:1], STAGES)
    assert alive() <= before  # what other tests left behind may go meanwhile


def test_maps_work_inside_no_grad() -> None:
    net = build_net(net_config(name="sprint", width=0.25), 10, 3)
    with torch.no_grad():
        assert class_maps(net, IMAGES[:1], TARGETS[:1], ["layer2"])["layer2"].shape == (1, 7, 7)


def test_a_wrong_stage_or_method_lists_the_right_ones() -> None:
    net = build_net(net_config(name="page", width=0.1), 10, 3)
    with pytest.raises(UsageError, match="prep, layer1, layer2, layer3"):
        class_maps(net, IMAGES, TARGETS, ["x"])
    with pytest.raises(UsageError, match="try: 'grad-cam'"):
        class_maps(net, IMAGES, TARGETS, STAGES, "gradcam")  # type: ignore[arg-type]
