"""Class activation maps of a classifier's images. How a map is computed: daybreak.explain.cam."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from daybreak.core.errors import UsageError
from daybreak.explain.cam import Method, check_layers, maps_of_targets
from daybreak.models.anatomy.trace import Field, stage_fields
from daybreak.models.winograd.fixed import fixed_weights
from daybreak.runs.classifier import Classifier, images_a_forward

BATCH = 100  # images of 32 px a pass on a CPU: bounds the memory of the activations that are kept


@dataclass(frozen=True)
class ClassMap:
    """One map: of one image, at one stage, for one class."""

    image: int  # position among the given images
    layer: str
    target: int
    values_HW: np.ndarray  # float32, not negative, at the stage's resolution
    field: Field | None  # of one cell; None where the net cannot be traced

    @property
    def is_single_cell(self) -> bool:
        """A map of 1×1 has no spatial resolution."""
        return self.values_HW.size == 1

    def field_of_max(self, image_size: int) -> tuple[float, float, float, float]:
        """The receptive field of the cell with the maximum: left, top, right, bottom in px of the image. All of the
        image where it is unknown."""
        if self.field is None:
            return 0.0, 0.0, float(image_size), float(image_size)
        row, column = np.unravel_index(int(self.values_HW.argmax()), self.values_HW.shape)
        (top, bottom), (left, right) = (self.field.span(int(unit), image_size) for unit in (row, column))
        return left, top, right, bottom

    @property
    def is_empty(self) -> bool:
        """No evidence for the class at this stage: no value is positive."""
        return not self.values_HW.max() > 0


@dataclass(frozen=True)
class MapOptions:
    """Which maps to compute: at which stages, by which method, for which class.

    Attributes:
        layers: stages by name; None means all.
        method: of all stages, or of each by its name.
        target: a class, "predicted" or "true"; None leaves the choice to the caller.
        against: a class, "predicted" or "true": the map then shows evidence for the target and against this class.
    """

    layers: Sequence[str] | None = None
    method: Method | Mapping[str, Method] = "grad-cam"
    target: str | None = None
    against: str | None = None


@fixed_weights()
def explain(
    classifier: Classifier,
    images_NHWC: np.ndarray,
    targets_NT: np.ndarray,
    options: MapOptions = MapOptions(),
    against_N: np.ndarray | None = None,
) -> list[ClassMap]:
    """Maps of uint8 images at each stage for each of their T target classes, ordered by image, target and stage.

    Args:
        options: stages and method; the classes are given by number in `targets_NT` and `against_N`.
        against_N: for each image the class to explain its targets against.
    """
    names = check_layers(classifier.net, options.layers)
    fields = stage_fields(classifier.net, classifier.size, images_NHWC.shape[3])
    found: list[ClassMap] = []
    batch = images_a_forward(classifier.size, classifier.device, BATCH)
    for start in range(0, len(images_NHWC), batch):
        part = slice(start, start + batch)
        images = classifier.prepare(images_NHWC[part])
        targets_TN = torch.as_tensor(targets_NT[part], device=images.device).unbind(1)
        other_N = None if against_N is None else torch.as_tensor(against_N[part], device=images.device)
        by_target = maps_of_targets(
            classifier.net, images, targets_TN, names, options.method, other_N, classifier.dtype
        )
        found += [
            ClassMap(start + i, name, int(target_N[i]), maps[name][i].cpu().numpy(), fields.get(name))
            for i in range(len(images))
            for target_N, maps in zip(targets_TN, by_target, strict=True)
            for name in names
        ]
    return found


def stage_words(m: ClassMap, net_size: int) -> str:
    """The stage's resolution and what one of its cells sees of the image."""
    height, width = m.values_HW.shape
    cells = "1 cell" if m.is_single_cell else f"{height}×{width} cells"
    if m.field is None:
        return cells
    seen = "the whole image" if m.field.size >= 2 * net_size else f"{m.field.size}×{m.field.size} px"
    return f"{cells}; each sees {seen} of {net_size}×{net_size}"


def class_numbers(name: str, classes: Sequence[str], predicted_N: np.ndarray, true_N: np.ndarray | None) -> np.ndarray:
    """The class number that a name stands for, for each image.

    Raises:
        UsageError: there is no such class, or the true class is not known.
    """
    if name == "predicted":
        return predicted_N
    if name == "true" and true_N is not None:
        return true_N
    if name == "true" and name not in classes:
        raise UsageError("class true", "the true class of a file is not known", f"predicted, {', '.join(classes)}")
    if name not in classes:
        raise UsageError(f"class {name}", "the run has no such class", f"predicted, true, {', '.join(classes)}")
    return np.full(len(predicted_N), classes.index(name))
