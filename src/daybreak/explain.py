"""Class activation maps: where in the image a stage of the net saw what speaks for a class.

Grad-CAM (Selvaraju et al. 2017): the activations A of a stage, weighted by the mean gradient of the class's logit,

    map = relu( sum_k  mean_ij(d logit / d A_kij) · A_k ),

at the stage's own resolution. All stages share one forward and one backward pass; `benchmarks/maps.py` compares that
with a library that takes one of each a stage. Maps are computed in float32, whatever the net trained in.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor, nn

from daybreak.errors import UsageError
from daybreak.inference import Classifier, batch_for
from daybreak.models import stages_of

BATCH = 100  # images of 32 px a pass: bounds the memory of the activations that are kept
HEAT = colormaps["inferno"]


@dataclass(frozen=True)
class ClassMap:
    """One map: which image, at which stage, for which class."""

    image: int  # position among the images asked for
    layer: str
    target: int
    values_HW: np.ndarray  # float32, not negative, at the stage's resolution


def grad_cam(net: nn.Module, images_NCHW: Tensor, target_N: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """Grad-CAM maps (N, h, w), float32, of every named stage; the net is left exactly as it was found.

    Args:
        images_NCHW: prepared images, float32.
        target_N: int64, the class to explain for each image.

    Raises:
        UsageError: a stage has no such name.
    """
    layers = check_layers(net, layers)
    with _untouched(net), _captured(net, layers) as activations, torch.enable_grad():
        logits_NK = net(images_NCHW)
        score = logits_NK.gather(1, target_N[:, None]).sum()
        gradients = torch.autograd.grad(score, [activations[name] for name in layers])
    return {name: _weighted(activations[name].detach(), g) for name, g in zip(layers, gradients, strict=True)}


def explain(
    classifier: Classifier, images_NHWC: np.ndarray, targets_NT: np.ndarray, layers: Sequence[str] | None = None
) -> list[ClassMap]:
    """Maps of uint8 images at each stage for each of their T target classes, ordered by image, target and stage."""
    names = check_layers(classifier.net, layers)
    maps: list[ClassMap] = []
    batch = batch_for(classifier.size, BATCH)
    for start in range(0, len(images_NHWC), batch):
        images = classifier.prepare(images_NHWC[start : start + batch])
        targets = torch.as_tensor(targets_NT[start : start + batch], device=images.device)
        by_target = [grad_cam(classifier.net, images, target_N, names) for target_N in targets.unbind(1)]
        maps += [
            ClassMap(start + i, name, int(targets[i, t]), by_target[t][name][i].cpu().numpy())
            for i in range(len(images))
            for t in range(targets.shape[1])
            for name in names
        ]
    return maps


def check_layers(net: nn.Module, layers: Sequence[str] | None) -> tuple[str, ...]:
    """The stages asked for in order of depth; all of them where none is named.

    Raises:
        UsageError: a name is not a stage; the stages are listed.
    """
    known = tuple(stages_of(net))
    layers = [name.strip() for name in layers or known]
    unknown = [name for name in layers if name not in known]
    if unknown:
        raise UsageError(f"layer {unknown[0]}", "this net has no such stage", f"one of {', '.join(known)}")
    return tuple(name for name in known if name in layers)


def overlay(image_HWC: np.ndarray, map_HW: np.ndarray, size: int = 128) -> Image.Image:
    """The image with its map laid over it: the stronger the evidence, the more of the heat colour shows.

    Args:
        image_HWC: uint8, 1 or 3 channels.
        map_HW: not negative, any resolution; shown relative to its own maximum.
    """
    picture = np.asarray(to_picture(image_HWC).resize((size, size), Image.Resampling.NEAREST).convert("RGB"))
    relative = map_HW / max(float(map_HW.max()), 1e-12)
    heat = np.asarray(Image.fromarray(relative.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC))
    heat = heat.clip(0, 1)[..., None]
    strength = 0.75 * heat
    mixed = (1 - strength) * picture + strength * HEAT(heat[..., 0])[..., :3] * 255
    return Image.fromarray(mixed.round().astype(np.uint8))


def to_picture(image_HWC: np.ndarray) -> Image.Image:
    """A uint8 image with 1 or 3 channels as a Pillow image with the very same pixels."""
    return Image.fromarray(np.ascontiguousarray(image_HWC.squeeze(2) if image_HWC.shape[2] == 1 else image_HWC))


def _weighted(activations_NCHW: Tensor, gradients_NCHW: Tensor) -> Tensor:
    weights_NC = gradients_NCHW.mean((2, 3))
    return torch.einsum("nc,nchw->nhw", weights_NC, activations_NCHW).relu()


@contextmanager
def _captured(net: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collects what the stages put out during the block."""
    activations: dict[str, Tensor] = {}
    stages = stages_of(net)

    def keep(name: str, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        # Parameters are frozen here, so autograd starts at the first stage asked for: what lies before is free.
        activations[name] = output if output.requires_grad else output.detach().requires_grad_()
        return activations[name]

    handles = [stages[name].register_forward_hook(partial(keep, name)) for name in layers]
    try:
        yield activations
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _untouched(net: nn.Module) -> Iterator[None]:
    """Evaluation mode and no parameter gradients during the block; both as they were afterwards."""
    training = {module: module.training for module in net.modules()}
    trainable = [p for p in net.parameters() if p.requires_grad]
    net.eval()
    for p in trainable:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trainable:
            p.requires_grad_(True)
        for module, mode in training.items():
            module.training = mode
