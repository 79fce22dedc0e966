"""A head trained on features: what a frozen net makes of every image is computed once, and kept.

With features at hand an epoch takes a fraction of a second; nearly all the time of a run is spent on computing them.
Each training image goes through the net in several views (`view_of`), and an epoch draws one of them for each image.
Features are kept in the cache directory in blocks, each whole or not at all and with a sum of its bytes. So another run
on the same images, or the same one after it was killed, goes on with those that are there:

    <cache directory>/features/<key>/<view>-<block>.f16

The key says which images, net, weights and size they are of.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daybreak.core.config import Recipe
from daybreak.core.count import Count
from daybreak.core.errors import StorageError
from daybreak.core.files import write_bytes
from daybreak.core.machine import cache_dir
from daybreak.data.cache import REMEDY
from daybreak.data.dataset import Dataset, Indices, Split
from daybreak.models.anatomy.folding import fold_batch_norms
from daybreak.runs.classifier import autocast
from daybreak.runs.transforms import Normalizer, resize
from daybreak.training.loader import Batches

log = logging.getLogger(__name__)

BLOCK = 256  # images of a file
BATCH = 16  # images a forward: at 224 px the widest map of lite0, in float32, is then 77 MB
SMALLEST_CROP = 0.35  # of an image's area, in the views that are crops
FORMAT = 1


@dataclass(frozen=True)
class Trunk:
    """A frozen net without its head, ready to be run.

    Attributes:
        net: images (N, C, size, size) to features (N, D); its batch norms are folded into its convolutions.
        digest: of its weights.
    """

    net: nn.Module
    size: int
    normalize: Normalizer
    device: torch.device
    dtype: torch.dtype
    digest: str

    @classmethod
    def of(
        cls, trunk: nn.Module, size: int, normalize: Normalizer, device: torch.device, dtype: torch.dtype
    ) -> "Trunk":
        digest = hashlib.sha256()
        for name, tensor in trunk.state_dict().items():
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        folded = fold_batch_norms(trunk).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(folded, size, normalize, device, dtype, digest.hexdigest())

    @torch.inference_mode()
    def features(self, images_NHWC: np.ndarray, first: int, view: int) -> np.ndarray:
        """Features (N, D), float16, of uint8 images of any size.

        Args:
            first: the number of the first image in its part: what a view shows of an image depends on it.
        """
        found = []
        for start in range(0, len(images_NHWC), BATCH):
            images = torch.from_numpy(np.array(images_NHWC[start : start + BATCH])).to(self.device)
            images_BCHW = view_of(self.normalize(resize(images, self.size)), first + start, view)
            with autocast(self.device, self.dtype):
                found.append(self.net(images_BCHW.contiguous(memory_format=torch.channels_last)).half().cpu())
        return torch.cat(found).numpy()


def view_of(images_BCHW: Tensor, first: int, view: int) -> Tensor:
    """A view of images: 0 as they are, 1 mirrored, from 2 on a crop of its own for each image and view, of a third of
    the area to all of it, mirrored or not.

    Args:
        first: the number of the first image; the others follow.
    """
    if view < 2:
        return images_BCHW.flip(3) if view else images_BCHW
    draws_B4 = np.stack([np.random.default_rng([view, first + i]).random(4) for i in range(len(images_BCHW))])
    side_B = np.sqrt(SMALLEST_CROP + (1 - SMALLEST_CROP) * draws_B4[:, 0])
    turned_B = np.where(draws_B4[:, 3] < 0.5, -side_B, side_B)
    shift_B2 = (2 * draws_B4[:, 1:3] - 1) * (1 - side_B)[:, None]
    zero_B = np.zeros_like(side_B)
    rows = [turned_B, zero_B, shift_B2[:, 0], zero_B, side_B, shift_B2[:, 1]]
    theta_B23 = torch.from_numpy(np.stack(rows, 1).reshape(-1, 2, 3)).to(images_BCHW)
    grid = F.affine_grid(theta_B23, list(images_BCHW.shape), align_corners=False)
    return F.grid_sample(images_BCHW, grid, padding_mode="reflection", align_corners=False)


class Store:
    """The features of one part of a data set, in the cache directory. Of a part that was taken from another, they are
    those of the whole: then validation images and the folds of a cross-validation share them.

    Args:
        fingerprint: of the data set.

    Attributes:
        blocks: how many there are of each view.
        computed: how many have been computed here; the others were there.
    """

    def __init__(self, trunk: Trunk, part: Split, fingerprint: str) -> None:
        self.trunk, self.computed = trunk, 0
        self._rows: Indices | None
        self.part, self._rows = part.origin or (part, None)
        self.blocks = -(-len(self.part.labels_N) // BLOCK)
        self._folder = cache_dir() / "features" / _key(trunk, self.part, fingerprint)

    def plain(self) -> Tensor:
        """Features (N, D), float16, of all images as they are."""
        found = self.view(0, lambda: True)
        assert found is not None
        return found

    def view(self, number: int, has_time: Callable[[], bool]) -> Tensor | None:
        """Features (N, D), float16, of all images in a view.

        Args:
            has_time: asked before each block that is still to be computed; None comes back where it says no.

        Raises:
            StorageError: the cache cannot be written.
        """
        blocks, count = [], Count(log, "computed the features of", len(self.part.labels_N))
        for at in range(0, len(self.part.labels_N), BLOCK):
            path = self._folder / f"{number}-{at // BLOCK}.f16"
            block = _read(path, min(BLOCK, len(self.part.labels_N) - at))
            if block is None:
                if not has_time():
                    return None
                block = self.trunk.features(self.part.images_NHWC[at : at + BLOCK], at, number)
                self.computed += 1
                count.add(len(block))
                _write(path, block)
            blocks.append(torch.from_numpy(block))
        whole_ND = torch.cat(blocks)
        return whole_ND if self._rows is None else whole_ND[torch.from_numpy(self._rows)]


def _key(trunk: Trunk, part: Split, fingerprint: str) -> str:
    names = hashlib.sha256("\0".join(part.names).encode("utf-8", "surrogateescape")).hexdigest()
    mean, std = trunk.normalize.mean, trunk.normalize.std
    facts = [FORMAT, fingerprint, names, trunk.digest, trunk.size, mean, std, str(trunk.dtype), SMALLEST_CROP]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _write(path: Path, block: np.ndarray) -> None:
    try:
        write_bytes(path, hashlib.sha256(block.tobytes()).digest() + block.tobytes())
    except StorageError as error:
        raise StorageError(error.what, error.why, REMEDY) from None


def _read(path: Path, images: int) -> np.ndarray | None:
    """A block that is what was written; None where there is none."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    sum_of_bytes, values = content[:32], content[32:]
    if hashlib.sha256(values).digest() != sum_of_bytes or len(values) % (2 * images):
        return None
    return np.frombuffer(bytearray(values), np.float16).reshape(images, -1)


class Features:
    """What a run on features knows of its images.

    Args:
        dataset: its training part is taken through the trunk now.
        views: how many of each training image, if there is time.
        has_time: asked before each block after the first view.

    Attributes:
        train_VND: of the training part, float16.
        computed, found: how many blocks of them were computed here, and how many were there.
    """

    def __init__(self, trunk: Trunk, dataset: Dataset, views: int, has_time: Callable[[], bool]) -> None:
        self._trunk, self._fingerprint = trunk, dataset.fingerprint
        store = Store(trunk, dataset.train, dataset.fingerprint)
        found = [store.plain()]
        while len(found) < views and (view := store.view(len(found), has_time)) is not None:
            found.append(view)
        self.train_VND = torch.stack(found)
        self.computed = store.computed
        self.found = len(found) * store.blocks - store.computed
        self._plain = {"train": found[0]}

    def as_json(self) -> dict[str, int]:
        """What summary.json says: views, and blocks of the training part's features."""
        return {"views": len(self.train_VND), "computed": self.computed, "found": self.found}

    def plain(self, name: str, part: Split) -> Tensor:
        """Features (N, D), float16, of a part's images as they are; computed when they are first asked for."""
        if name not in self._plain:
            self._plain[name] = Store(self._trunk, part, self._fingerprint).plain()
        return self._plain[name]


class FeatureLoader(Batches):
    """Batches of features in place of images: of each image, in each epoch, one of its views."""

    def __init__(self, recipe: Recipe, features_VND: Tensor, labels_N: Tensor, size: int, seed: int) -> None:
        super().__init__(recipe, labels_N, seed)
        self.features_VND, self._size = features_VND, size
        self._viewed: tuple[int, Tensor] | None = None  # of the epoch last asked for

    def size_at(self, progress: float) -> int:  # noqa: ARG002 (features were computed at one size)
        return self._size

    def work_done(self, steps: int) -> float:
        return steps / self.steps

    def batch(self, step: int, progress: float) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Features (B, D), float32, and labels (B,) of a step counted over the whole run."""
        epoch, at = divmod(step, self.steps_per_epoch)
        index_B = self.indices(step)
        view_B = self._views(epoch)[at * self.batch_size : (at + 1) * self.batch_size]
        return self.features_VND[view_B, index_B].float(), self.labels_N[index_B]

    def _views(self, epoch: int) -> Tensor:
        """Which view is shown at each place of an epoch: int64 (N,)."""
        if self._viewed is None or self._viewed[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch, 4])
            view_N = rng.integers(len(self.features_VND), size=len(self.labels_N))
            self._viewed = (epoch, torch.from_numpy(view_N).to(self.labels_N.device))
        return self._viewed[1]
