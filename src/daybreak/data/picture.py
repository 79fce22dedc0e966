"""Pixels of a data set as pictures: the way back from `decode`."""

import numpy as np
from PIL import Image

from daybreak.data.image import Pixels


def to_picture(image_HWC: Pixels) -> Image.Image:
    """A uint8 image with 1 or 3 channels as a Pillow image with the very same pixels."""
    return Image.fromarray(np.ascontiguousarray(image_HWC.squeeze(2) if image_HWC.shape[2] == 1 else image_HWC))


def enlarged(image_HWC: Pixels, size: int) -> Image.Image:
    """The image in colour at another size in px, its pixels as squares."""
    return to_picture(image_HWC).resize((size, size), Image.Resampling.NEAREST).convert("RGB")
