"""Maps of a classifier's own images, and how they are drawn over them. How a map is computed: daybreak.maps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image, ImageDraw

from daybreak.data.dataset import images_a_block
from daybreak.data.picture import enlarged
from daybreak.errors import UsageError
from daybreak.inference import Classifier
from daybreak.maps import Method, check_layers, class_maps
from daybreak.models.trace import Field, stage_fields

BATCH = 100  # images of 32 px a pass: bounds the memory of the activations that are kept
HEAT = colormaps["inferno"]
BOX_COLOUR = (64, 224, 255)


@dataclass(frozen=True)
class ClassMap:
    """One map: which image, at which stage, for which class."""

    image: int  # position among the images asked for
    layer: str
    target: int
    values_HW: np.ndarray  # float32, not negative, at the stage's resolution
    field: Field  # of one cell

    @property
    def shows_a_place(self) -> bool:
        """A map of one cell says how much, not where."""
        return self.values_HW.size > 1

    def strongest(self, image_size: int) -> tuple[float, float, float, float]:
        """All that the strongest cell can have seen of the image: left, top, right, bottom in px."""
        row, column = np.unravel_index(int(self.values_HW.argmax()), self.values_HW.shape)
        (top, bottom), (left, right) = (self.field.span(int(unit), image_size) for unit in (row, column))
        return left, top, right, bottom

    @property
    def is_empty(self) -> bool:
        """Nothing at this stage speaks for the class."""
        return not self.values_HW.max() > 0


@dataclass(frozen=True)
class Question:
    """What maps are to answer: why this class (and not that one), seen at which stages, by which method.

    Attributes:
        layers: stages by name; all of them without any.
        target: a class, or "predicted" or "true"; without one, what suits the images.
        against: a class, or "predicted" or "true": the map then shows what speaks for the target and not for it.
    """

    layers: Sequence[str] | None = None
    method: Method = "grad-cam"
    target: str | None = None
    against: str | None = None


def explain(
    classifier: Classifier,
    images_NHWC: np.ndarray,
    targets_NT: np.ndarray,
    question: Question = Question(),
    against_N: np.ndarray | None = None,
) -> list[ClassMap]:
    """Maps of uint8 images at each stage for each of their T target classes, ordered by image, target and stage.

    Args:
        question: stages and method; the classes are given by number.
        against_N: for each image the class to explain its targets against.
    """
    names = check_layers(classifier.net, question.layers)
    fields = stage_fields(classifier.net, classifier.size, images_NHWC.shape[3])
    found: list[ClassMap] = []
    batch = images_a_block(classifier.size, BATCH)
    for start in range(0, len(images_NHWC), batch):
        part = slice(start, start + batch)
        images = classifier.prepare(images_NHWC[part])
        targets_TN = torch.as_tensor(targets_NT[part], device=images.device).unbind(1)
        other_N = None if against_N is None else torch.as_tensor(against_N[part], device=images.device)
        by_target = [class_maps(classifier.net, images, t, names, question.method, other_N) for t in targets_TN]
        found += [
            ClassMap(start + i, name, int(target_N[i]), maps[name][i].cpu().numpy(), fields[name])
            for i in range(len(images))
            for target_N, maps in zip(targets_TN, by_target, strict=True)
            for name in names
        ]
    return found


def class_numbers(name: str, classes: Sequence[str], predicted_N: np.ndarray, true_N: np.ndarray | None) -> np.ndarray:
    """The class that a question means, for each image.

    Raises:
        UsageError: there is no such class, or nobody knows the true one.
    """
    if name == "predicted":
        return predicted_N
    if name == "true" and true_N is not None:
        return true_N
    if name == "true" and name not in classes:
        raise UsageError("class true", "nobody knows the true class of a file", f"predicted, {', '.join(classes)}")
    if name not in classes:
        raise UsageError(f"class {name}", "the run has no such class", f"predicted, true, {', '.join(classes)}")
    return np.full(len(predicted_N), classes.index(name))


# -- pictures ---------------------------------------------------------------------------------------------------------


def overlay(image_HWC: np.ndarray, map_HW: np.ndarray, size: int = 128) -> Image.Image:
    """The image with its map laid over it: the stronger the evidence, the more of the heat colour shows.

    Args:
        image_HWC: uint8, 1 or 3 channels.
        map_HW: not negative, any resolution; shown relative to its own maximum.
    """
    picture = np.asarray(enlarged(image_HWC, size))
    relative = map_HW / max(float(map_HW.max()), 1e-12)
    heat = np.asarray(Image.fromarray(relative.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC))
    heat = heat.clip(0, 1)[..., None]
    strength = 0.75 * heat
    mixed = (1 - strength) * picture + strength * HEAT(heat[..., 0])[..., :3] * 255
    return Image.fromarray(mixed.round().astype(np.uint8))


def field_box(m: ClassMap, image_HWC: np.ndarray, image_size: int, size: int = 128) -> Image.Image:
    """The image with a box around all that the map's strongest cell can have seen of it.

    Args:
        image_size: side in px at which the net saw the image; the map's receptive field is in those px.
    """
    picture = enlarged(image_HWC, size)
    draw_box(picture, [round(v * size / image_size) for v in m.strongest(image_size)], width=2)
    return picture


def draw_box(picture: Image.Image, box: Sequence[int], width: int = 1) -> None:
    """A frame just inside left, top, right, bottom; at least a pixel."""
    left, top, right, bottom = box
    corners = (left, top, max(left, right - 1), max(top, bottom - 1))
    ImageDraw.Draw(picture).rectangle(corners, outline=BOX_COLOUR, width=width)
