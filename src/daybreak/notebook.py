"""How objects show themselves in a notebook: pictures with captions, as HTML that needs nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import torch
from PIL import Image

from daybreak.core.config import Recipe
from daybreak.core.errors import one_line
from daybreak.data.dataset import Dataset
from daybreak.data.picture import enlarged
from daybreak.evaluation.evaluation import Mistake
from daybreak.explain.gallery import note_on
from daybreak.explain.maps import ClassMap
from daybreak.explain.overlay import overlay
from daybreak.models.registry import SMALLEST_SIZE
from daybreak.report.html import data_uri
from daybreak.report.items import drawn_uri, thumbnail
from daybreak.runs.transforms import Normalizer, resize
from daybreak.training.images import Resident
from daybreak.training.loader import Loader
from daybreak.training.session import spread

SIZE = 96  # px of a picture
ENOUGH = 1000  # images to choose from
FIGURE = "display:inline-block;margin:4px;width:104px;vertical-align:top;font-size:12px;line-height:1.3"
PIXELS = "image-rendering:pixelated;width:96px;height:96px;display:block"


@dataclass(frozen=True)
class Gallery:
    """Pictures with captions. `exact` ones are shown pixel for pixel."""

    pictures: Sequence[Image.Image]
    captions: Sequence[str]
    exact: bool = True

    def __len__(self) -> int:
        return len(self.pictures)

    def __repr__(self) -> str:
        return "\n".join(["<Gallery>", *(one_line(caption) for caption in self.captions)])

    def _repr_html_(self) -> str:
        to_uri = data_uri if self.exact else drawn_uri
        return "".join(
            f'<figure style="{FIGURE}"><img style="{PIXELS}" src="{to_uri(picture)}" alt="{escape(one_line(caption))}">'
            f"{escape(one_line(caption))}</figure>"
            for picture, caption in zip(self.pictures, self.captions, strict=True)
        )


def of_dataset(dataset: Dataset, each: int = 3) -> Gallery:
    """A few training images of every class."""
    train = dataset.train
    chosen = [i for k in range(len(dataset.classes)) for i in np.flatnonzero(train.labels_N == k)[:each]]
    pictures = [thumbnail(np.asarray(train.images_NHWC[i])) for i in chosen]
    return Gallery(pictures, [dataset.classes[train.labels_N[i]] for i in chosen])


def of_augmented(dataset: Dataset, recipe: Recipe, n: int = 12, seed: int = 0) -> Gallery:
    """What the net is shown in training: some images at full size, with the recipe's augmentation."""
    some = spread(len(dataset.train.labels_N), ENOUGH)
    images = torch.from_numpy(np.array(dataset.train.images_NHWC[some]))
    images = resize(images, max(SMALLEST_SIZE, dataset.decode.size))  # as training does
    labels = torch.from_numpy(np.array(dataset.train.labels_N[some]))
    normalize = Normalizer.of(images)
    loader = Loader(recipe, Resident(images), labels, normalize, seed, torch.float32)
    batch_BCHW, labels_B = loader.batch(0, progress=1.0)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (normalize.mean, normalize.std))
    pixels = (255 * (batch_BCHW[:n] * std + mean)).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return Gallery([thumbnail(image) for image in pixels], [dataset.classes[k] for k in labels_B[:n].tolist()])


def of_mistakes(wrong: Sequence[Mistake], images_NHWC: np.ndarray) -> Gallery:
    """Misclassified images in their own pixels."""
    pictures = [thumbnail(np.asarray(images_NHWC[m.index])) for m in wrong]
    return Gallery(pictures, [f"{m.predicted} {m.confidence:.0%}, is {m.true} (test image {m.index})" for m in wrong])


def of_maps(maps: Sequence[ClassMap], image_HWC: np.ndarray, classes: Sequence[str]) -> Gallery:
    """One image and its maps."""
    drawn = [(overlay(image_HWC, m.values_HW, SIZE), _caption(m, classes)) for m in maps if not m.is_single_cell]
    pictures, captions = zip((enlarged(image_HWC, SIZE), "the image"), *drawn, strict=True)
    return Gallery(pictures, captions, exact=False)


def _caption(m: ClassMap, classes: Sequence[str]) -> str:
    note = note_on(m)
    return f"{m.layer}: {classes[m.target]}" + (f" ({note})" if note else "")
