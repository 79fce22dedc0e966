"""Learned features: first filters, activations of an image, the images that activate a channel most, embeddings."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.linalg import eigh
from torch import Tensor, nn

from daybreak.data.picture import enlarged
from daybreak.explain.cam import activations_of, check_layers
from daybreak.models.anatomy.trace import Field, stage_fields
from daybreak.models.mode import evaluating
from daybreak.models.registry import stages_of
from daybreak.models.winograd.fixed import fixed_weights
from daybreak.runs.classifier import Classifier, images_a_forward

GAP = 2  # px between the pictures of a grid


@dataclass(frozen=True)
class Observed:
    """What a net made of N images on its way.

    Attributes:
        embeddings_ND: float32, what the head was given; of a net without `head` its last linear layer, and of one
            without any the logits.
        peaks_NK: float32, the highest activation of each channel of the stage that was watched.
        cells_NK: int64, in which cell of the stage (row · width + column) that was.
        width: of the stage in cells.
    """

    embeddings_ND: np.ndarray
    peaks_NK: np.ndarray
    cells_NK: np.ndarray
    width: int


@dataclass(frozen=True)
class TopImages:
    """A channel, the images that activate it most (highest first), and the receptive field of each maximum."""

    channel: int
    images: tuple[int, ...]
    boxes: tuple[tuple[int, int, int, int], ...]  # left, top, right, bottom in px at the net's size


@torch.no_grad()
@fixed_weights()
def observe(classifier: Classifier, images_NHWC: np.ndarray, layer: str) -> Observed:
    """One pass over uint8 images; the net is left in the mode it was found in.

    Raises:
        UsageError: a stage has no such name.
    """
    net, (layer,) = classifier.net, check_layers(classifier.net, [layer])
    batch = images_a_forward(classifier.size, classifier.device)
    embeddings, peaks, cells, width = [], [], [], 1
    with evaluating(net), _kept_inputs(_heads(net)) as inputs, _kept_outputs(stages_of(net)[layer]) as outputs:
        for start in range(0, len(images_NHWC), batch):
            logits_BK = classifier.forward(classifier.prepare(images_NHWC[start : start + batch]))
            embeddings.append((inputs[-1] if inputs else logits_BK).float().flatten(1).cpu())
            inputs.clear()
            stage = outputs.pop().float()
            peak, cell = stage.flatten(2).max(2)
            peaks.append(peak.cpu())
            cells.append(cell.cpu())
            width = stage.shape[3]
    return Observed(torch.cat(embeddings).numpy(), torch.cat(peaks).numpy(), torch.cat(cells).numpy(), width)


def top_images(
    classifier: Classifier, seen: Observed, layer: str, channels: int = 8, images: int = 6
) -> list[TopImages]:
    """The channels whose maximum activation varies most between images, each with the images that activate it most."""
    whole = Field(2 * classifier.size, 0, classifier.size / 2)  # where the net cannot be traced
    field = stage_fields(classifier.net, classifier.size, len(classifier.normalize.mean)).get(layer, whole)
    found = []
    for channel in np.argsort(-seen.peaks_NK.std(0), kind="stable")[:channels]:
        top = np.argsort(-seen.peaks_NK[:, channel], kind="stable")[:images]
        boxes = []
        for i in top:
            row, column = divmod(int(seen.cells_NK[i, channel]), seen.width)
            (upper, lower), (left, right) = (field.span(unit, classifier.size) for unit in (row, column))
            boxes.append((int(left), int(upper), int(np.ceil(right)), int(np.ceil(lower))))
        found.append(TopImages(int(channel), tuple(int(i) for i in top), tuple(boxes)))
    return found


def principal_plane(embeddings_ND: np.ndarray) -> np.ndarray:
    """The embeddings on their first two principal components, float64 (N, 2). The largest entry of each component is
    made positive, so that the same run gives the same picture."""
    centred_ND = embeddings_ND.astype(np.float64) - embeddings_ND.mean(0, dtype=np.float64)
    last = centred_ND.shape[1] - 1
    _, ascending_D2 = eigh(centred_ND.T @ centred_ND, subset_by_index=[max(0, last - 1), last])
    plane_D2 = ascending_D2[:, ::-1]
    plane_D2 = plane_D2 * np.sign(plane_D2[np.abs(plane_D2).argmax(0), range(plane_D2.shape[1])])
    return np.asarray(centred_ND @ plane_D2)


def first_filters(net: nn.Module) -> np.ndarray | None:
    """The filters of the first convolution as pictures, (F, k, k, C) in [0, 1] with 0.5 for a weight of zero; each
    scaled to its own largest weight. None unless the input has one or three channels."""
    first = next((module for module in net.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        return None
    weights_FkkC = first.weight.detach().float().cpu().permute(0, 2, 3, 1).numpy()
    if weights_FkkC.shape[3] not in (1, 3):
        return None
    largest = np.abs(weights_FkkC).max((1, 2, 3), keepdims=True)
    return np.asarray(0.5 + 0.5 * weights_FkkC / np.maximum(largest, 1e-12))


def filter_sheet(net: nn.Module, columns: int = 12, size: int = 32) -> Image.Image | None:
    """The first filters side by side."""
    filters = first_filters(net)
    if filters is None:
        return None
    pictures = [enlarged((255 * f).round().astype(np.uint8), size) for f in filters]
    return grid(pictures, columns)


def activation_sheets(
    classifier: Classifier, image_HWC: np.ndarray, channels: int = 8, size: int = 64
) -> dict[str, Image.Image]:
    """For each stage its `channels` most active channels on one image, from zero (black) to the maximum of the stage
    (white)."""
    names = tuple(stages_of(classifier.net))
    found = activations_of(classifier.net, classifier.prepare(image_HWC[None]), names)
    sheets = {}
    for name in names:
        a_Khw = found[name][0].float().cpu()
        strongest = a_Khw.amax((1, 2)).argsort(descending=True)[:channels]
        levels = (255 * a_Khw[strongest].clamp(min=0) / a_Khw.max().clamp(min=1e-12)).round().to(torch.uint8)
        sheets[name] = grid([enlarged(level.numpy()[..., None], size) for level in levels], channels)
    return sheets


def grid(pictures: list[Image.Image], columns: int) -> Image.Image:
    """Pictures of the same size in rows, on a transparent background."""
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    columns = min(columns, len(pictures))
    sheet = Image.new("RGBA", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP))
    for n, picture in enumerate(pictures):
        row, column = divmod(n, columns)
        sheet.paste(picture, (column * (width + GAP), row * (height + GAP)))
    return sheet


def _heads(net: nn.Module) -> list[nn.Module]:
    """The net's head, or what may be it: the linear layer that comes last."""
    head = getattr(net, "head", None)
    return [head] if isinstance(head, nn.Module) else [part for part in net.modules() if isinstance(part, nn.Linear)]


@contextmanager
def _kept_inputs(modules: list[nn.Module]) -> Iterator[list[Tensor]]:
    """What the last of the modules to run was given."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept[:] = inputs[:1]

    handles = [module.register_forward_pre_hook(keep) for module in modules]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _kept_outputs(module: nn.Module) -> Iterator[list[Tensor]]:
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        kept.append(output)

    handle = module.register_forward_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()
