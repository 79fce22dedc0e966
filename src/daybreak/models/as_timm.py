"""The nets that timm has too, in timm's own form and in its folder layout (config.json and model.safetensors).

`lite0` and `lite2` have the layers of `tf_efficientnet_lite0` and `tf_efficientnet_lite2`, in the same order.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from daybreak.core.errors import RunError, UsageError, one_line
from daybreak.models.foreign import LIBRARIES, ForeignNet, imported_library
from daybreak.models.lite import LiteNet
from daybreak.models.pretrained import WEIGHTS

UPGRADE = "pip install 'timm>=1.0.22'"
KEPT = ("architecture", "fixed_input_size", "first_conv", "classifier")  # of what timm says of its own weights


def as_timm(net: nn.Module) -> nn.Module | None:
    """The net of timm that maps images to the same logits; None where timm has no such net.

    Raises:
        UsageError: timm is not installed.
    """
    if isinstance(net, ForeignNet):
        return net.net if net.name.startswith("timm:") else None
    if isinstance(net, LiteNet) and net.config.width == 1:
        return _lite(net).train(net.training)
    return None


@torch.no_grad()
def _lite(net: LiteNet) -> nn.Module:
    """Layers are copied in the order of both nets. Where ours has no norms, theirs do nothing but add the bias; the
    scale of the features goes into the linear layer."""
    first, head = net.stem.get_submodule("conv"), net.head
    assert isinstance(first, nn.Conv2d)
    theirs = LIBRARIES["timm"](f"tf_efficientnet_{net.config.name}", head.out_features, first.in_channels)
    convs, their_convs = ([m for m in one.modules() if isinstance(m, nn.Conv2d)] for one in (net, theirs))
    norms, their_norms = ([m for m in one.modules() if isinstance(m, nn.BatchNorm2d)] for one in (net, theirs))
    for conv, their_conv in zip(convs, their_convs, strict=True):
        their_conv.weight.copy_(conv.weight)
    if net.config.is_folded:
        norms = [_adding(conv, norm) for conv, norm in zip(convs, their_norms, strict=True)]
    for norm, their_norm in zip(norms, their_norms, strict=True):
        their_norm.load_state_dict(norm.state_dict())
    (linear,) = (m for m in theirs.modules() if isinstance(m, nn.Linear))
    linear.weight.copy_(head.weight / net.scale.deviation)
    linear.bias.copy_(head.bias - linear.weight @ net.scale.mean)
    return theirs


def _adding(conv: nn.Conv2d, like: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """A norm of mean zero and deviation one, which adds the bias of a convolution."""
    assert conv.bias is not None
    norm = nn.BatchNorm2d(like.num_features, eps=like.eps)
    norm.running_var.fill_(1 - like.eps)  # type: ignore[union-attr]
    norm.bias.copy_(conv.bias)
    return norm


def write_timm(
    net: nn.Module,
    folder: Path,
    classes: Sequence[str],
    input_size: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str,
) -> None:
    """Write config.json and model.safetensors, by timm. Of an image its transform is told to take the centre square.

    Args:
        net: of timm; what it says of other weights (their source, licence and preprocessing) is replaced.
        input_size: channels, height and width in px.
        mean: of each channel or one for all, on the scale of [0, 1]; so is `std`.
        interpolation: by which timm's transform resizes: bilinear or bicubic.

    Raises:
        UsageError: timm cannot write this net.
    """
    theirs: dict[str, Any] = net.pretrained_cfg  # type: ignore[assignment]
    pool = theirs.get("pool_size") if tuple(theirs["input_size"][1:]) == input_size[1:] else None
    net.pretrained_cfg = {key: theirs[key] for key in KEPT if key in theirs} | {  # type: ignore[assignment]
        "input_size": input_size, "pool_size": pool, "interpolation": interpolation, "crop_pct": 1.0,
        "crop_mode": "center", "mean": list(mean), "std": list(std), "num_classes": len(classes),
    }  # fmt: skip
    for parameter in net.parameters():
        parameter.data = parameter.data.contiguous()
    said, arguments = {"label_names": list(classes)}, {"in_chans": input_size[0]}
    try:
        imported_library("timm").models.save_for_hf(net, folder, said, arguments, safe_serialization=True)
    except Exception as error:  # whatever timm does not like about a net, or lacks
        why = f"timm cannot write this net ({one_line(error)[:160]})"
        raise UsageError("--hub", why, f"{UPGRADE}, or --format safetensors") from None
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).unlink()  # which nobody but its owner could read
    (folder / WEIGHTS).write_bytes(weights)


def read_timm(folder: Path) -> nn.Module:
    """The net of such a folder, in training mode, read by timm; its `pretrained_cfg` is the one that was written.

    Raises:
        UsageError: timm is not installed.
        RunError: timm cannot load it.
    """
    timm = imported_library("timm")
    try:
        net: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except Exception as error:  # whatever timm says of a stranger's folder
        why = f"cannot be loaded by timm ({one_line(error)[:200]})"
        raise RunError(folder, why, f"{UPGRADE}, or another folder") from None
    return net
