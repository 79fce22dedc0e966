"""The nets: published sizes and shapes, receptive fields measured by gradient, whitening that whitens."""

import pytest
import torch
from torch import nn

from daybreak.config import ModelConfig, override
from daybreak.errors import UsageError
from daybreak.inspection import inspect
from daybreak.models import NETS, build_net, stages_of
from daybreak.models.layers import GlobalMaxPool, conv3x3
from daybreak.models.sprint import WHITEN_PATCHES, whitening_filters
from daybreak.models.trace import count_macs, count_params, stage_fields, trace
from daybreak.recipes import RECIPES


def net_of(name: str, classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    return build_net(ModelConfig(name=name, width=width), classes, channels)


def stage_shapes(name: str, size: int = 32) -> dict[str, tuple[int, ...]]:
    net, shapes = net_of(name), {}
    for stage, module in stages_of(net).items():
        module.register_forward_hook(lambda _m, _i, out, stage=stage: shapes.__setitem__(stage, tuple(out.shape[1:])))
    net(torch.zeros(2, 3, size, size))
    return shapes


def test_page_has_the_published_size() -> None:
    """6,573,120 parameters and 379.27 million multiply-adds (batch norms included) stand in the published summaries
    of this net; convolutions and the head alone are 379.26."""
    net = net_of("page")
    assert count_params(net) == 6_573_120
    assert count_macs(net, 32, 3) == 379_261_952


def test_page_has_the_published_stages() -> None:
    shapes = {"prep": (64, 32, 32), "layer1": (128, 16, 16), "layer2": (256, 8, 8), "layer3": (512, 4, 4)}
    assert stage_shapes("page") == shapes


def test_sprint_has_the_stages_of_airbench94() -> None:
    shapes = {"prep": (24, 31, 31), "layer1": (64, 15, 15), "layer2": (256, 7, 7), "layer3": (256, 3, 3)}
    assert stage_shapes("sprint") == shapes
    assert count_params(net_of("sprint")) == 1_972_792
    assert count_macs(net_of("sprint"), 32, 3) == 118_147_360


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(("size", "channels", "classes"), [(28, 1, 10), (32, 3, 100), (64, 3, 2), (224, 3, 5)])
def test_every_net_takes_many_image_sizes(name: str, size: int, channels: int, classes: int) -> None:
    net = net_of(name, classes, channels, width=0.25)
    assert net(torch.randn(2, channels, size, size)).shape == (2, classes)


@pytest.mark.parametrize("name", NETS)
def test_logits_are_not_probabilities(name: str) -> None:
    logits = net_of(name)(torch.randn(8, 3, 32, 32))
    assert (logits < 0).any()
    assert not torch.allclose(logits.sum(1), torch.ones(8), atol=0.1)


def test_unknown_net_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="try: 'page'"):
        build_net(ModelConfig(name="pgae"), 10, 3)


def test_global_max_pool_is_max_pool_four_at_four() -> None:
    x = torch.randn(5, 7, 4, 4)
    assert torch.equal(GlobalMaxPool()(x), nn.MaxPool2d(4)(x).flatten(1))


def test_the_channels_of_the_sprint_net_can_be_chosen() -> None:
    net = build_net(ModelConfig(name="sprint", channels=(48, 32, 16)), 10, 3)
    assert [net.get_submodule(f"layer{i}.residual.conv").out_channels for i in (1, 2, 3)] == [48, 32, 16]
    with pytest.raises(UsageError, match="channels"):
        override(RECIPES["sprint"], {"model.channels": [48, 0, 16]})


def test_sprint_starts_as_the_identity_where_it_has_channels() -> None:
    conv = net_of("sprint").layer1.conv
    x = torch.randn(1, 24, 9, 9)
    assert torch.allclose(conv(x)[:, :24], x, atol=1e-6)


def test_whitening_filters_whiten() -> None:
    base = torch.randn(400, 3, 9, 9)
    images = base + 2 * base.roll(1, 3) + base.mean(1, keepdim=True)  # correlated pixels and channels
    filters = whitening_filters(images, 2, eps=0.0)
    assert filters.shape == (24, 3, 2, 2)
    assert torch.equal(filters[:12], -filters[12:])
    responses = nn.functional.conv2d(images, filters[:12]).transpose(0, 1).flatten(1)
    covariance = responses @ responses.T / responses.shape[1]
    assert torch.allclose(covariance, torch.eye(12), atol=1e-3)


def test_whitening_looks_at_no_more_patches_than_it_needs() -> None:
    """The unfolded patches of 5,000 images of 224 px would take 12 GB."""
    images_of = {size: min(5000, WHITEN_PATCHES // size**2) for size in (16, 32, 224)}
    assert images_of == {16: 5000, 32: 4882, 224: 99}


# Receptive fields


def smooth_copy(net: nn.Module) -> nn.Module:
    """The same geometry with nothing that hides an influence: positive weights, averages instead of maxima."""

    class MeanPool(GlobalMaxPool):
        def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
            return x_NCHW.mean((2, 3))

    def walk(module: nn.Module) -> None:
        for name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(child.kernel_size, child.stride))
            elif isinstance(child, GlobalMaxPool):
                setattr(module, name, MeanPool())
            elif isinstance(child, nn.BatchNorm2d | nn.ReLU | nn.SiLU):
                setattr(module, name, nn.Identity())
            else:
                walk(child)

    walk(net)
    for p in net.parameters():
        nn.init.constant_(p, 0.01)
    return net.double().eval()


@pytest.mark.parametrize(("name", "stage", "expected"), [
    ("page", "prep", (3, 1)), ("page", "layer1", (14, 2)), ("page", "layer2", (20, 4)), ("page", "layer3", (64, 8)),
    ("sprint", "prep", (2, 1)), ("sprint", "layer1", (9, 2)), ("sprint", "layer2", (23, 4)),
    ("sprint", "layer3", (51, 8)),
])  # fmt: skip
def test_receptive_field_is_what_a_gradient_reaches(name: str, stage: str, expected: tuple[int, int]) -> None:
    size = 160  # large enough that no border cuts the field of the centre
    net = smooth_copy(net_of(name, width=0.1))
    image = torch.ones(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    kept = {}
    stages_of(net)[stage].register_forward_hook(lambda _m, _i, out: kept.update(out=out))
    net(image)
    out = kept["out"]
    middle = out.shape[2] // 2

    def reach(column: int) -> torch.Tensor:
        (gradient,) = torch.autograd.grad(out[0, 0, middle, column], image, retain_graph=True)
        return gradient[0, 0].any(0).nonzero().flatten()

    field, neighbour = reach(middle), reach(middle + 1)
    assert (field[-1] - field[0] + 1, neighbour[0] - field[0]) == expected
    seen = stage_fields(net_of(name, width=0.1), size, 3)[stage]
    assert (seen.size, seen.stride) == expected
    assert seen.span(middle, size) == (field[0].item(), field[-1].item() + 1)
    assert seen.span(0, size)[0] == 0.0  # cut off at the border


def test_receptive_field_of_strided_and_dilated_convolutions() -> None:
    net = nn.Sequential(conv3x3(3, 4), nn.Conv2d(4, 4, 3, stride=2), nn.Conv2d(4, 4, 3, dilation=2), nn.AvgPool2d(3, 2))
    rows = trace(net, 64, 3)
    assert [(r.receptive_field, r.effective_stride) for r in rows] == [(3, 1), (5, 2), (13, 2), (17, 4)]
    assert [r.kind for r in rows] == ["conv 3×3", "conv 3×3 /2", "conv 3×3 dilated 2", "avg-pool 3×3"]


def test_a_residual_takes_the_larger_field() -> None:
    rows = {layer.name: layer for layer in trace(net_of("page"), 32, 3)}
    assert rows["layer1.act"].receptive_field == 6
    assert rows["layer1.residual"].kind == "add"
    assert rows["layer1.residual"].receptive_field == 14


def test_inspect_adds_up() -> None:
    found = inspect("page", ModelConfig(name="page"))
    assert found.params == sum(layer.params for layer in found.layers) == 6_573_120
    first = found.as_json()["layers"][0]
    assert first == {
        "name": "prep.conv", "kind": "conv 3×3", "output_shape": (64, 32, 32), "params": 1728, "macs": 1_769_472,
        "receptive_field": 3, "effective_stride": 1, "first_centre": 0.5,
    }  # fmt: skip


def test_tracing_leaves_the_net_in_its_mode() -> None:
    net = net_of("page", width=0.1)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    trace(net, 32, 3)
    assert net.training
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
