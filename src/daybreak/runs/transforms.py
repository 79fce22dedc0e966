"""How pixels become what a net takes: resized, padded, normalised. Pure functions."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from daybreak.data.statistics import moments

REFERENCE_SIZE = 32


RESIZE_BLOCK = 4096  # images: bounds the memory of floating copies


def scale_pixels(pixels: float, size: int) -> int:
    """A length given for a 32 px image, in pixels of an image of `size`; never rounded away to nothing."""
    return max(1, round(pixels * size / REFERENCE_SIZE)) if pixels else 0


def resize(images_NHWC: Tensor, size: int) -> Tensor:
    """uint8 images at another size, bilinear with antialiasing; the same tensor where the size is already right."""
    if images_NHWC.shape[1:3] == (size, size):
        return images_NHWC
    return torch.cat([_resized(part, size) for part in images_NHWC.split(RESIZE_BLOCK)])


def _resized(images_NHWC: Tensor, size: int) -> Tensor:
    images_NCHW = images_NHWC.permute(0, 3, 1, 2)
    if images_NHWC.device.type != "cpu":  # only the CPU kernel takes uint8
        images_NCHW = images_NCHW.float()
    out = F.interpolate(images_NCHW, size=(size, size), mode="bilinear", antialias=True)
    return out.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def pad_reflect(images_NHWC: Tensor, pad: int) -> Tensor:
    """Mirror `pad` pixels outwards at every border, the border pixel itself not repeated."""
    if pad == 0:
        return images_NHWC
    rows = _reflected(images_NHWC.shape[1], pad, images_NHWC.device)
    columns = _reflected(images_NHWC.shape[2], pad, images_NHWC.device)
    return images_NHWC.index_select(1, rows).index_select(2, columns)


@dataclass(frozen=True)
class Normalizer:
    """uint8 NHWC to floating NCHW (channels last in memory) with zero mean and unit deviation a channel."""

    mean: tuple[float, ...]  # a channel, on the scale of [0, 1]
    std: tuple[float, ...]

    def __call__(self, images_NHWC: Tensor, gain_N2: Tensor | None = None) -> Tensor:
        """Normalised images, (N, C, H, W), float32.

        Args:
            gain_N2: brightness offset (of the full range) and contrast factor (about the image's own mean) of each
                image; both fold into the one multiply-add that normalises, and nothing is clipped.
        """
        images = images_NHWC.float()
        scale, shift = self.affine(images.device)
        if gain_N2 is not None:
            brightness, contrast = (g.view(-1, 1, 1, 1) for g in gain_N2.unbind(1))
            offset = images.mean((1, 2, 3), keepdim=True) * (1 - contrast) + 255 * brightness
            scale, shift = contrast * scale, shift + offset * scale
        return torch.addcmul(shift, images, scale).permute(0, 3, 1, 2)

    @lru_cache(maxsize=8)  # noqa: B019 - few and small; copying them to a GPU each time would stall it
    def affine(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Scale and shift of each channel (C,) for levels of 0 to 255."""
        scale = torch.tensor(self.std).mul(255).reciprocal()
        return scale.to(device), (-torch.tensor(self.mean).mul(255) * scale).to(device)

    @classmethod
    def of(cls, images_NHWC: Tensor) -> "Normalizer":
        """Mean and deviation of each channel over all pixels; exact, from a histogram of the 256 levels."""
        return cls.of_blocks([images_NHWC])

    @classmethod
    def of_blocks(cls, blocks: Iterable[Tensor]) -> "Normalizer":
        """The same of images (N, H, W, C) that come in blocks."""
        counts_CL = sum((_histogram(images_NHWC) for images_NHWC in blocks), torch.zeros(()).double())
        mean_C, variance_C = moments(counts_CL / counts_CL.sum(1, keepdim=True), torch.arange(256).double() / 255)
        return cls(tuple(mean_C.tolist()), tuple(variance_C.clamp(min=1e-6).sqrt().tolist()))


def _histogram(images_NHWC: Tensor) -> Tensor:
    """How often each channel has each of the 256 levels: (C, 256), float64."""
    channels = [images_NHWC[..., c].flatten() for c in range(images_NHWC.shape[3])]
    return torch.stack([torch.bincount(values, minlength=256) for values in channels]).cpu().double()


def _reflected(size: int, pad: int, device: torch.device) -> Tensor:
    """Source positions of a line of `size` pixels with `pad` mirrored ones at either end."""
    period = max(2 * (size - 1), 1)
    at = torch.arange(-pad, size + pad, device=device) % period
    return torch.minimum(at, period - at) if size > 1 else torch.zeros_like(at)
