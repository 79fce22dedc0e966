"""What a frozen net, or the frozen part of one, makes of every image is computed once, and kept.

With features at hand an epoch of the head takes a fraction of a second; nearly all the time of a run is spent on
computing them. Each training image goes through the net in several views (`view_of`), and an epoch draws one of them
for each image. Features are kept in the cache directory in blocks, each whole or not at all and with a sum of its
bytes. So another run on the same images, or the same one after it was killed, goes on with those that are there:

    <cache directory>/features/<key>/<view>-<block>.f16

The key says which images, net, weights and size they are of. Where more than the head learns (`models.cut`), what is
kept are maps, of which there can be more than memory holds: they are read from their files a batch at a time.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Sequence
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
from daybreak.data.dataset import Dataset, Indices, Split, release
from daybreak.models.anatomy.folding import fold_batch_norms
from daybreak.models.fused import fuse
from daybreak.runs.classifier import autocast
from daybreak.runs.transforms import Normalizer, resize
from daybreak.training.loader import Batches

log = logging.getLogger(__name__)

BLOCK = 256  # images of a file
BATCH = 16  # images a forward on a CPU: at 224 px the widest map of lite0, in float32, is then 77 MB
ABOVE = 64  # images a forward above a cut on a CPU: the widest map above `stage6` of lite0 is then 34 MB
SMALLEST_CROP = 0.35  # of an image's area, in the views that are crops
IN_MEMORY = 512 * 2**20  # bytes of the views of a part: more stays in its files
SUM_BYTES = 32  # before the values of a block
FORMAT = 1


@dataclass(frozen=True)
class Trunk:
    """The frozen part of a net, ready to be run.

    Attributes:
        net: images (N, C, size, size) to features (N, D) or maps (N, C, H, W); its batch norms are folded into its
            convolutions.
        digest: of its weights and its layers.
        shape: of what is kept of an image: (D,), or (H, W, C) of a map.
    """

    net: nn.Module
    size: int
    normalize: Normalizer
    device: torch.device
    dtype: torch.dtype
    digest: str
    shape: tuple[int, ...]

    @classmethod
    def of(
        cls, trunk: nn.Module, size: int, normalize: Normalizer, device: torch.device, dtype: torch.dtype
    ) -> "Trunk":
        digest = hashlib.sha256()
        for name, tensor in trunk.state_dict().items():
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        folded = fold_batch_norms(trunk).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        digest.update(f"{folded!r}{getattr(folded, 'code', '')}".encode())  # what is done with them
        with torch.inference_mode():
            blank = folded(torch.zeros(1, len(normalize.mean), size, size, device=device))
        shape = tuple(_rows(blank).shape[1:])
        return cls(fuse(folded, device, dtype), size, normalize, device, dtype, digest.hexdigest(), shape)

    @torch.inference_mode()
    def features(self, images_NHWC: np.ndarray, first: int, view: int) -> np.ndarray:
        """What is kept of uint8 images of any size: (N, *shape), float16.

        Args:
            first: the number of the first image in its part: what a view shows of an image depends on it.
        """
        found, batch = [], BATCH if self.device.type == "cpu" else BLOCK
        for start in range(0, len(images_NHWC), batch):
            images = torch.from_numpy(np.array(images_NHWC[start : start + batch])).to(self.device)
            images_BCHW = view_of(self.normalize(resize(images, self.size)), first + start, view)
            with autocast(self.device, self.dtype):
                found.append(_rows(self.net(images_BCHW.contiguous(memory_format=torch.channels_last))).half().cpu())
        return torch.cat(found).numpy()


def _rows(features: Tensor) -> Tensor:
    """Features (N, D) as they are, maps (N, C, H, W) as (N, H, W, C): a row of memory an image."""
    return features.permute(0, 2, 3, 1).contiguous() if features.dim() == 4 else features


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


class View:
    """What is kept of the images of a part in one view, read from its files where it does not fit in memory.

    Args:
        paths: of its blocks.
        shape: of an image's features.
        rows: which of the images in the blocks are in the part, and in which order.
        views: how many of the part there may be, which share the memory.

    Attributes:
        shape: as given.
    """

    def __init__(self, paths: Sequence[Path], shape: tuple[int, ...], rows: Indices, views: int = 1) -> None:
        self._paths, self.shape, self._rows = paths, shape, rows
        self._bytes = 2 * math.prod(shape)
        self._held: np.ndarray | None = None
        if views * len(rows) * self._bytes <= IN_MEMORY:
            self._held = self._read(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, index_M: np.ndarray) -> Tensor:
        """Features (M, D) or maps (M, C, H, W) of images of the part, float32.

        Raises:
            StorageError: a file is gone.
        """
        found_M = self._read(self._rows[index_M]) if self._held is None else self._held[index_M]
        found = torch.from_numpy(found_M).float()
        return found.permute(0, 3, 1, 2) if found.dim() == 4 else found

    def _read(self, index_M: np.ndarray) -> np.ndarray:
        found = np.empty((len(index_M), *self.shape), np.float16)
        rows = found.reshape(len(index_M), -1).view(np.uint8)
        for block in np.unique(index_M // BLOCK):
            path = self._paths[block]
            try:
                with path.open("rb") as file:
                    for at in np.flatnonzero(index_M // BLOCK == block):
                        file.seek(SUM_BYTES + int(index_M[at] % BLOCK) * self._bytes)
                        if file.readinto(rows[at]) != self._bytes:
                            raise OSError("it is shorter than it was")
            except OSError as error:
                why = f"features that were there cannot be read ({error.strerror or error})"
                raise StorageError(path, why, "daybreak train --resume RUN, which computes them again") from None
        return found


class Store:
    """The features of one part of a data set, in the cache directory. Of a part that was taken from another, they are
    those of the whole: then validation images and the folds of a cross-validation share them.

    Args:
        fingerprint: of the data set.
        views: how many may be asked for.

    Attributes:
        blocks: how many there are of each view.
        computed: how many have been computed here; the others were there.
    """

    def __init__(self, trunk: Trunk, part: Split, fingerprint: str, views: int = 1) -> None:
        self.trunk, self.views, self.computed = trunk, views, 0
        self.part, self._rows = part.origin or (part, np.arange(len(part.labels_N)))
        self.blocks = -(-len(self.part.labels_N) // BLOCK)
        self._folder = cache_dir() / "features" / _key(trunk, self.part, fingerprint)

    def plain(self) -> View:
        """All images as they are."""
        found = self.view(0, lambda: True)
        assert found is not None
        return found

    def view(self, number: int, has_time: Callable[[], bool]) -> View | None:
        """All images in a view.

        Args:
            has_time: asked before each block that is still to be computed; None comes back where it says no.

        Raises:
            StorageError: the cache cannot be written.
        """
        images = len(self.part.labels_N)
        paths, count = [], Count(log, "computed the features of", images)
        for at in range(0, images, BLOCK):
            path = self._path(number, at)
            if not _is_whole(path, min(BLOCK, images - at) * math.prod(self.trunk.shape)):
                if not has_time():
                    return None
                block = self.trunk.features(self.part.images_NHWC[at : at + BLOCK], at, number)
                release(self.part.images_NHWC)
                self.computed += 1
                count.add(len(block))
                _write(path, block)
            paths.append(path)
        return View(paths, self.trunk.shape, self._rows, self.views)

    def missing(self) -> float:
        """How many of the views are not there yet, in parts of a view; what is damaged counts as there."""
        names = {self._path(view, block * BLOCK).name for view in range(self.views) for block in range(self.blocks)}
        return len(names - {path.name for path in self._folder.glob("*.f16")}) / self.blocks

    def _path(self, view: int, at: int) -> Path:
        return self._folder / f"{view}-{at // BLOCK}.f16"


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


def _is_whole(path: Path, values: int) -> bool:
    """Whether there is a block of so many values, and it is what was written."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    sum_of_bytes, rest = content[:SUM_BYTES], memoryview(content)[SUM_BYTES:]
    return len(rest) == 2 * values and hashlib.sha256(rest).digest() == sum_of_bytes


class Features:
    """What a run on features knows of its images.

    Args:
        dataset: its training part is taken through the trunk now.
        views: how many of each training image, if there is time.
        has_time: asked before each block after the first view.

    Attributes:
        views: of the training part.
        digest: of the weights they were computed with.
        computed, found: how many blocks of them were computed here, and how many were there.
    """

    def __init__(self, trunk: Trunk, dataset: Dataset, views: int, has_time: Callable[[], bool]) -> None:
        self._trunk, self._fingerprint = trunk, dataset.fingerprint
        store = Store(trunk, dataset.train, dataset.fingerprint, views)
        self.views, self.digest = [store.plain()], trunk.digest
        self.computed = store.computed
        while len(self.views) < views and (view := store.view(len(self.views), has_time)) is not None:
            self.views.append(view)
            self.computed = store.computed  # without the blocks of a view for which there was no time
        self.found = len(self.views) * store.blocks - store.computed
        self._plain = {"train": self.views[0]}

    def as_json(self) -> dict[str, int]:
        """What summary.json says: views, and blocks of the training part's features."""
        return {"views": len(self.views), "computed": self.computed, "found": self.found}

    def plain(self, name: str, part: Split) -> View:
        """A part's images as they are; their features are computed when they are first asked for."""
        if name not in self._plain:
            self._plain[name] = Store(self._trunk, part, self._fingerprint).plain()
        return self._plain[name]


def on_features(above: Callable[[Tensor], Tensor], view: View, index_M: np.ndarray, device: torch.device) -> Tensor:
    """What the part above a cut makes of images: (M, ...), float32, on the device.

    Its place is taken first: results kept one by one between the maps of one batch and the next would leave holes that
    no map fits in, gigabytes of them.
    """
    found, batch = torch.empty(0), ABOVE if device.type == "cpu" else BLOCK
    for start in range(0, len(index_M), batch):
        part = above(view.take(index_M[start : start + batch]).to(device)).float()
        if not start:
            found = part.new_empty(len(index_M), *part.shape[1:])
        found[start : start + batch] = part
    return found


class FeatureLoader(Batches):
    """Batches of features in place of images: of each image, in each epoch, one of its views."""

    def __init__(self, recipe: Recipe, views: Sequence[View], labels_N: Tensor, size: int, seed: int) -> None:
        super().__init__(recipe, labels_N, seed)
        self.views, self._size = views, size
        self._viewed: tuple[int, np.ndarray] | None = None  # of the epoch last asked for

    def size_at(self, progress: float) -> int:  # noqa: ARG002 (features were computed at one size)
        return self._size

    def work_done(self, steps: int) -> float:
        return steps / self.steps

    def batch(self, step: int, progress: float, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Features (B, D) or maps (B, C, H, W), float32, and labels (B,) of a step counted over the whole run."""
        epoch, at = divmod(step, self.steps_per_epoch)
        index_B = self.indices(step)[rows]
        view_B = self._views(epoch)[at * self.batch_size : (at + 1) * self.batch_size][rows]
        return self._gathered(index_B.cpu().numpy(), view_B).to(self.labels_N.device), self.labels_N[index_B]

    def blank(self, device: torch.device) -> Tensor:
        """A batch that shows nothing, of the shape, format and layout of every batch."""
        blank = torch.zeros((self.batch_size, *self.views[0].shape), device=device)
        return blank.permute(0, 3, 1, 2) if blank.dim() == 4 else blank

    def _gathered(self, index_B: np.ndarray, view_B: np.ndarray) -> Tensor:
        by_view = np.argsort(view_B, kind="stable")
        parts = [self.views[view].take(index_B[view_B == view]) for view in np.unique(view_B)]
        found = torch.cat(parts)[torch.from_numpy(np.argsort(by_view))]
        return found.contiguous(memory_format=torch.channels_last) if found.dim() == 4 else found

    def _views(self, epoch: int) -> np.ndarray:
        """Which view is shown at each place of an epoch: int64 (N,)."""
        if self._viewed is None or self._viewed[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch, 4])
            self._viewed = (epoch, rng.integers(len(self.views), size=len(self.labels_N)))
        return self._viewed[1]
