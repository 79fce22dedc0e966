"""How maps are drawn over images."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw

from daybreak.data.picture import enlarged
from daybreak.explain.maps import ClassMap

HEAT = colormaps["inferno"]
BOX_COLOUR = (64, 224, 255)


def overlay(image_HWC: np.ndarray, map_HW: np.ndarray, size: int = 128) -> Image.Image:
    """The image blended with its map: the higher the value, the more opaque the heat colour.

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
    """The image with a box around the receptive field of the map's maximum.

    Args:
        image_size: side in px at which the net saw the image; the map's receptive field is in those px.
    """
    picture = enlarged(image_HWC, size)
    draw_box(picture, [round(v * size / image_size) for v in m.field_of_max(image_size)], width=2)
    return picture


def draw_box(picture: Image.Image, box: Sequence[int], width: int = 1) -> None:
    """Draw a frame just inside left, top, right, bottom, at least one pixel wide."""
    left, top, right, bottom = box
    corners = (left, top, max(left, right - 1), max(top, bottom - 1))
    ImageDraw.Draw(picture).rectangle(corners, outline=BOX_COLOUR, width=width)
