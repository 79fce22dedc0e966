"""A net together with all that is needed to use it, and the one place where logits are computed."""

from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from daybreak.core.config import Tta
from daybreak.core.errors import UsageError
from daybreak.data.dataset import Split, images_a_block, release
from daybreak.models.mode import evaluating
from daybreak.models.winograd.fixed import fixed_weights
from daybreak.runs.predictions import Predictions
from daybreak.runs.transforms import Normalizer, pad_reflect, resize, scale_pixels

BATCH = 250  # images of 32 px a forward: what fits the caches of a small CPU best
RELEASED = 100  # forwards after which images that were read of a memory-mapped part are let go of
ON_AN_ACCELERATOR = 8  # times as many, see `images_a_forward`


@dataclass(frozen=True)
class Classifier:
    """Images in, logits out. The net is left in the mode it was found in.

    Attributes:
        size: side in px at which the net sees an image.
        dtype: of the convolutions; logits are always float32.
        mirrors: whether training mirrored images; where it did not, full test-time augmentation does not either.
    """

    net: nn.Module
    classes: tuple[str, ...]
    size: int
    normalize: Normalizer
    device: torch.device
    dtype: torch.dtype
    mirrors: bool = True

    def prepare(self, images_NHWC: np.ndarray) -> Tensor:
        """uint8 images of any size as the net's input (N, C, size, size), float32, on the device."""
        images = torch.from_numpy(np.array(images_NHWC))  # a copy: torch wants memory it may write to
        return self.normalize(resize(images.to(self.device), self.size))

    def logits(self, images_NHWC: np.ndarray, tta: Tta = "none") -> np.ndarray:
        """Logits (N, K), float32, of uint8 images (N, H, W, C)."""
        _, averaged_NK = self.plain_and_averaged(images_NHWC, tta)
        return averaged_NK

    @torch.no_grad()
    @fixed_weights()
    def plain_and_averaged(self, images_NHWC: np.ndarray, tta: Tta) -> tuple[np.ndarray, np.ndarray]:
        """Logits of uint8 images (N, H, W, C) as they are, and averaged over their views: both (N, K), float32."""
        batch = images_a_forward(self.size, self.device)
        # Taken first: results kept one by one between large maps would leave holes in memory that no map fits in.
        found_2NK = torch.empty(2, len(images_NHWC), len(self.classes), device=self.device)
        with evaluating(self.net):
            for n, start in enumerate(range(0, len(images_NHWC), batch)):
                images = self.prepare(images_NHWC[start : start + batch])
                views = [(w, self.forward(view)) for w, view in tta_views(images, tta, self.mirrors)]
                found_2NK[0, start : start + batch] = views[0][1]
                found_2NK[1, start : start + batch] = torch.stack([w * logits for w, logits in views]).sum(0)
                if n % RELEASED == RELEASED - 1:
                    release(images_NHWC)
        plain_NK, averaged_NK = found_2NK.cpu().numpy()
        return plain_NK, averaged_NK

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits (N, K), float32, of prepared images."""
        with autocast(self.device, self.dtype):
            logits: Tensor = self.net(images_NCHW)
        return logits.float()


def predict_test(classifier: Classifier, test: Split, tta: Tta) -> Predictions:
    """What a classifier says about test images, with and without test-time augmentation."""
    plain, averaged = classifier.plain_and_averaged(test.images_NHWC, tta)
    return Predictions(plain, averaged, np.asarray(test.labels_N), np.asarray(test.names, dtype=np.str_))


def images_a_forward(side: int, device: torch.device, at_32_px: int = BATCH) -> int:
    """How many images of this side in px to take through a net at a time.

    On a CPU that is `at_32_px` of 32 px and fewer of larger ones: 250, or 5 of 224 px. So few leave an accelerator
    idle, and what bounds it is its memory: it takes eight times as many, 2,000 or 40, which are two million pixels.
    The widest map at full resolution of our nets has 128 channels; it is then 1 GiB in float32, and inference holds
    about three such maps at once.
    """
    return images_a_block(side, at_32_px if device.type == "cpu" else ON_AN_ACCELERATOR * at_32_px)


def tta_views(images_NCHW: Tensor, tta: Tta, mirrors: bool = True) -> list[tuple[float, Tensor]]:
    """The views over which logits are averaged, with their weights; the first is the image as it is.

    `flip`: the image and its mirror. `full`: those with weight 1/2 in all, and both shifted by one pixel (of 32)
    up-left and down-right with 1/4 each; six forwards (Jordan 2024). A net that has never seen mirrored images takes
    a mirrored 2 or 5 for something else, so without `mirrors` three views are left of `full`; `flip` is what was asked
    for by its name.
    """
    if tta not in get_args(Tta):
        raise UsageError(f"tta {tta}", "no such test-time augmentation", f"one of {', '.join(get_args(Tta))}")
    if tta == "none":
        return [(1.0, images_NCHW)]
    if tta == "flip":
        return [(0.5, images_NCHW), (0.5, images_NCHW.flip(3))]
    size, shift = images_NCHW.shape[2], scale_pixels(1, images_NCHW.shape[2])
    padded = pad_reflect(images_NCHW.permute(0, 2, 3, 1), shift).permute(0, 3, 1, 2)
    corners = [padded[:, :, at : at + size, at : at + size] for at in (0, 2 * shift)]
    weighted = [(0.5, images_NCHW), *((0.25, corner) for corner in corners)]
    if not mirrors:
        return weighted
    return [(w / 2, view) for w, image in weighted for view in (image, image.flip(3))]


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Compute in `dtype` with float32 weights; does nothing for float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
