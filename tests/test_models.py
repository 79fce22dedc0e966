"""The nets: published sizes and shapes, receptive fields measured by gradient, whitening that whitens."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from image_sets import write_npz
from torch import nn

import daybreak as db
from daybreak.core.config import override
from daybreak.core.errors import UsageError
from daybreak.core.nets import net_config
from daybreak.explain.inspection import inspect_net
from daybreak.models.anatomy.trace import count_macs, count_params, stage_fields, trace
from daybreak.models.layers import GlobalMaxPool, conv3x3
from daybreak.models.registry import NETS, build_net, stages_of
from daybreak.models.resnet import GROUPS, PreactBlock, basic_block, grouped_block
from daybreak.models.sprint import WHITEN_PATCHES, whitening_filters
from daybreak.recipes import RECIPES


def net_of(name: str, classes: int = 10, channels: int = 3, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_net(net_config(name=name, **options), classes, channels)


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


# As published: VGG-11 with BN and ResNet-18 for CIFAR in the usual re-implementations; preact-ResNet-18 there has no
# last norm, which the paper has (1,024 more); the small Inception's norms have no scales in Zhang et al. (1,712 fewer).
@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        ("vgg", 9_231_114, 152_769_536),
        ("resnet18", 11_173_962, 555_422_720),
        ("preact-resnet18", 11_171_146 + 1_024, 555_422_720),
        ("inception", 1_649_402 + 1_712, None),
        ("resnext29", 34_426_698, None),
    ],
)
def test_the_family_has_the_published_sizes(name: str, params: int, macs: int | None) -> None:
    assert count_params(net_of(name)) == params
    assert macs is None or count_macs(net_of(name), 32, 3) == macs


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("vgg", [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2), (512, 1, 1)]),
        ("inception", [(96, 32, 32), (80, 32, 32), (144, 16, 16), (336, 8, 8)]),
        ("resnet18", [(64, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]),
        ("preact-resnet18", [(64, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]),
        ("resnext29", [(64, 32, 32), (256, 32, 32), (512, 16, 16), (1024, 8, 8)]),
    ],
)
def test_the_family_has_the_published_stages(name: str, shapes: list[tuple[int, ...]]) -> None:
    assert list(stage_shapes(name).values()) == shapes


def test_a_block_of_each_generation_is_its_formula() -> None:
    """V1: relu(x + f(x)); V2: x + f(relu(norm(x))); V3: groups are branches that are added up."""
    x = torch.randn(2, 16, 8, 8)
    v1 = basic_block(16, 16, 1, nn.ReLU).eval()
    assert torch.allclose(v1(x), torch.relu(x + v1.branch(x)))
    v2 = PreactBlock(16, 16, 1, nn.ReLU).eval()
    assert torch.allclose(v2(x), x + v2.branch(torch.relu(v2.ready.norm(x))))
    v3 = grouped_block(16, 16, 1, nn.ReLU).eval()
    conv, wide = v3.branch.conv2, torch.randn(2, 32, 8, 8)
    apart = [
        nn.functional.conv2d(part, weight, padding=1)
        for part, weight in zip(wide.chunk(GROUPS, 1), conv.weight.chunk(GROUPS, 0), strict=True)
    ]
    assert torch.allclose(conv(wide), torch.cat(apart, 1), atol=1e-5)


def test_the_write_ups_variant_has_its_branch_from_the_layers_input() -> None:
    config = net_config(name="page", width=0.1, residual_from="input")
    layer = build_net(config, 10, 3).layer1.eval()
    x = torch.randn(2, 6, 12, 12)
    assert torch.allclose(layer(x), layer.main(x) + layer.branch(x), atol=1e-6)
    assert layer.branch.conv1.stride == (2, 2)


def test_dropout_is_before_the_head_and_only_while_training() -> None:
    net, images = build_net(net_config(name="vgg", width=0.1, dropout=0.5), 10, 3), torch.randn(4, 3, 32, 32)
    net.eval()
    assert torch.equal(net(images), net(images))
    net.pool.train()
    assert not torch.equal(net(images), net(images))


@pytest.mark.parametrize(("name", "option", "value"), [("vgg", "dilation", 2), ("page", "channels", (1, 2, 3))])
def test_an_option_that_a_net_does_not_have_is_refused(name: str, option: str, value: object) -> None:
    with pytest.raises(UsageError, match=rf"model\.{option}: unknown key in the options of {name}"):
        build_net(net_config(name, **{option: value}), 10, 3)


def test_another_net_begins_with_its_own_options() -> None:
    """The channels of the sprint net mean nothing to another."""
    changed = override(RECIPES["sprint"], {"model.name": "vgg", "model.width": 0.5})
    assert changed.model == net_config(name="vgg", width=0.5)


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18"])
def test_a_foreign_net_is_trained_at_its_own_stages(name: str) -> None:
    net = net_of(name, classes=7)
    assert list(stages_of(net))[-4:] == ["net.layer1", "net.layer2", "net.layer3", "net.layer4"]
    assert count_params(net) == 11_689_512 - 993 * 513  # the published ResNet-18 with 7 of 1,000 classes
    assert net(torch.randn(2, 3, 64, 64)).shape == (2, 7)
    seen = stage_fields(net, 224, 3)["net.layer4"]
    assert (seen.size, seen.stride) == (435, 32)  # Araujo et al. 2019, table 1


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("timm:resnet81", "no such net"),
        ("timm:vit_tiny_patch16_224", "cannot be used here"),
        ("torchvision:resent18", "no such net"),
    ],
)
def test_a_foreign_net_that_cannot_be_had_is_one_line(name: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        net_of(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_foreign_net_trains_reports_and_explains(tmp_path: Path) -> None:
    """timm:test_resnet is timm's own small net for tests."""
    settings = {"model.name": "timm:test_resnet", "resolution": [{"until": 1.0, "scale": 1.0}]}
    settings |= {"precision": "float32"}
    run = db.train(
        "digits", recipe="resnet18", lr=0.01, epochs=1, settings=settings, out=tmp_path / "run", device="cpu"
    )
    assert (run.path / "report.html").stat().st_size > 100_000
    stage = next(iter(stages_of(run.directory.classifier("cpu").net)))
    assert run.cam(0, layer=stage) is not None


def test_a_foreign_net_that_cannot_see_the_images_is_refused_before_training(tmp_path: Path) -> None:
    data, settings = write_npz(tmp_path / "set.npz"), {"model.name": "torchvision:alexnet"}
    with pytest.raises(UsageError, match="cannot take images of 10 px") as caught:
        db.train(data, recipe="resnet18", settings=settings, out=tmp_path / "run", device="cpu")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("size", [20, 28, 30, 32])
def test_the_write_ups_variant_takes_odd_sizes(size: int) -> None:
    net = build_net(net_config(name="page", width=0.1, residual_from="input"), 10, 3)
    assert net(torch.randn(2, 3, size, size)).shape == (2, 10)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(("size", "channels", "classes"), [(28, 1, 10), (32, 3, 100), (64, 3, 2), (224, 3, 5)])
def test_every_net_takes_many_image_sizes(name: str, size: int, channels: int, classes: int) -> None:
    options = {"weights": "none"} if name.startswith("lite") else {}
    net = net_of(name, classes, channels, width=0.25, **options)
    assert net(torch.randn(2, channels, size, size)).shape == (2, classes)


@pytest.mark.parametrize("name", NETS)
def test_logits_are_not_probabilities(name: str) -> None:
    logits = net_of(name)(torch.randn(8, 3, 32, 32))
    assert (logits < 0).any()
    assert not torch.allclose(logits.sum(1), torch.ones(8), atol=0.1)


def test_unknown_net_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="try: 'page'"):
        build_net(net_config(name="pgae"), 10, 3)


def test_global_max_pool_is_max_pool_four_at_four() -> None:
    x = torch.randn(5, 7, 4, 4)
    assert torch.equal(GlobalMaxPool()(x), nn.MaxPool2d(4)(x).flatten(1))


def test_the_channels_of_the_sprint_net_can_be_chosen() -> None:
    net = build_net(net_config(name="sprint", channels=(48, 32, 16)), 10, 3)
    assert [net.get_submodule(f"layer{i}.residual.conv").out_channels for i in (1, 2, 3)] == [48, 32, 16]
    with pytest.raises(UsageError, match="channels"):
        override(RECIPES["sprint"], {"model.channels": [48, 0, 16]})


def test_the_depth_of_the_sprint_nets_branches_can_be_chosen() -> None:
    """A second convolution of 256 channels at 3×3 and its like add what the layer table says, and no stage changes."""
    options = {"name": "sprint", "channels": (48, 32, 16)}
    one, two = (build_net(net_config(**options, depth=depth), 10, 3).train() for depth in (1, 2))
    added = sum(9 * c * c + 2 * c for c in (48, 32, 16))  # filters, and a norm's scale and bias
    assert sum(p.numel() for p in two.parameters()) - sum(p.numel() for p in one.parameters()) == added
    branch = two.get_submodule("layer2.residual")
    assert [name for name, _ in branch.named_children()] == ["conv", "norm", "act", "conv2", "norm2", "act2"]
    x = torch.randn(4, 32, 8, 8)
    by_hand = x
    for module in branch:
        by_hand = module(by_hand)
    assert torch.allclose(branch(x), x + by_hand, atol=1e-5)


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
                pool = nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode)
                setattr(module, name, pool)
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
    ("vgg", "layer1", (4, 2)), ("vgg", "layer2", (10, 4)), ("vgg", "layer3", (30, 8)), ("vgg", "layer4", (70, 16)),
    ("vgg", "layer5", (150, 32)),
    ("inception", "prep", (3, 1)), ("inception", "layer1", (7, 1)), ("inception", "layer2", (25, 2)),
    ("inception", "layer3", (45, 4)),
    ("resnet18", "layer1", (11, 1)), ("resnet18", "layer2", (25, 2)), ("resnet18", "layer3", (53, 4)),
    ("resnet18", "layer4", (109, 8)),
    ("preact-resnet18", "prep", (3, 1)), ("preact-resnet18", "layer4", (109, 8)),
    ("resnext29", "layer1", (9, 1)), pytest.param("resnext29", "layer2", (19, 2), marks=pytest.mark.slow),
    pytest.param("resnext29", "layer3", (39, 4), marks=pytest.mark.slow),
    ("page strided", "layer1", (9, 2)), ("page strided", "layer2", (15, 4)), ("page strided", "layer3", (39, 8)),
    ("page dilated", "layer1", (22, 2)), ("page dilated", "layer3", (104, 8)),
])  # fmt: skip
def test_receptive_field_is_what_a_gradient_reaches(name: str, stage: str, expected: tuple[int, int]) -> None:
    size = 320  # large enough that no border cuts the field of the centre
    options = {"page strided": {"residual_from": "input"}, "page dilated": {"dilation": 2}}.get(name, {})
    torch.manual_seed(0)
    plain = build_net(net_config(name=name.split()[0], width=0.05, **options), 10, 3)
    net = smooth_copy(copy.deepcopy(plain))
    image = torch.ones(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    kept = {}
    stages_of(net)[stage].register_forward_hook(lambda _m, _i, out: kept.update(out=out))
    net(image)
    out = kept["out"]
    middle = out.shape[2] // 2

    def reach(column: int) -> torch.Tensor:
        (gradient,) = torch.autograd.grad(out[0, :, middle, column].sum(), image, retain_graph=True)
        return gradient[0, 0].any(0).nonzero().flatten()

    field, neighbour = reach(middle), reach(middle + 1)
    assert (field[-1] - field[0] + 1, neighbour[0] - field[0]) == expected
    seen = stage_fields(plain, size, 3)[stage]
    assert (seen.size, seen.stride) == expected
    assert seen.span(middle, size) == (field[0].item(), field[-1].item() + 1)
    assert seen.span(0, size)[0] == 0.0  # cut off at the border


def test_receptive_field_of_strided_and_dilated_convolutions() -> None:
    net = nn.Sequential(conv3x3(3, 4), nn.Conv2d(4, 4, 3, stride=2), nn.Conv2d(4, 4, 3, dilation=2), nn.AvgPool2d(3, 2))
    rows = trace(net, 64, 3)
    assert [(r.receptive_field, r.effective_stride) for r in rows] == [(3, 1), (5, 2), (13, 2), (17, 4)]
    assert [r.kind for r in rows] == ["conv 3×3", "conv 3×3 /2", "conv 3×3 dilated 2", "avg-pool 3×3 /2"]


def test_a_residual_takes_the_larger_field() -> None:
    rows = {layer.name: layer for layer in trace(net_of("page"), 32, 3)}
    assert rows["layer1.act"].receptive_field == 6
    assert rows["layer1.residual"].kind == "add"
    assert rows["layer1.residual"].receptive_field == 14


def test_what_counts_is_inside_the_field_and_smaller() -> None:
    """Luo et al. 2016: the effective field is a part of the theoretical one, most of all in deep nets."""
    found = inspect_net("page", net_of("page"), 3, 64)
    for stage in found.stages:
        low, high = stage.seen.span(stage.output_shape[-1] // 2, 64)
        inside = stage.counts_HW[round(low) : round(high), round(low) : round(high)]
        assert inside.sum() == pytest.approx(stage.counts_HW.sum())
        assert inside.max() == 1.0
    assert found.stages[0].effective_side == 3.0  # a single convolution uses all of its window
    assert found.stages[-1].effective_side < 0.6 * found.stages[-1].seen.size


def test_what_does_not_suit_the_image_is_said() -> None:
    assert inspect_net("page", net_of("page", width=0.1), 3, 32).warnings == []
    (small,) = inspect_net("page", net_of("page", width=0.1), 3, 96).warnings
    assert small == "a unit of layer3 sees 64 px of an image of 96 px"
    (shrunk,) = inspect_net("vgg", net_of("vgg", width=0.1), 3, 32).warnings
    assert shrunk.startswith("layer5 has shrunk to one unit")


def test_inspect_adds_up() -> None:
    found = inspect_net("page", net_of("page"), 3, 32)
    assert found.params == sum(layer.params for layer in found.layers) == 6_573_120
    first = found.as_json()["layers"][0]
    assert first == {
        "name": "prep.conv", "kind": "conv 3×3", "output_shape": (64, 32, 32), "params": 1728, "macs": 1_769_472,
        "activation_bytes": 262_144, "kernel": 3, "stride": 1, "dilation": 1, "receptive_field": 3,
        "effective_stride": 1, "first_centre": 0.5,
    }  # fmt: skip
    assert found.activation_bytes == sum(4 * math.prod(layer.output_shape) for layer in found.layers)


def test_tracing_leaves_the_net_in_its_mode() -> None:
    net = net_of("page", width=0.1)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    trace(net, 32, 3)
    assert net.training
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
