"""The bytes of an image file become a square uint8 array; numpy and Pillow are all that this needs.

An exported bundle has a copy of this file: it prepares images as training did. Only six formats are tried, whatever the
file is called. Orientation tags are applied, transparency is laid on white, CMYK is converted and 16-bit grey is
scaled. The centre square is resized with an anti-aliased bicubic filter. Left out: colour profiles, and all frames
after the first.
"""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = npt.NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 64_000_000
MAX_BYTES = 256 * 2**20
PIECE_BYTES = 4 * 2**20
ORIENTATION_TAG = 0x0112
GREY_MODES = {"1", "L", "LA", "I;16", "I;16L", "I;16B"}


class BadImage(ValueError):  # noqa: N818 - it is a finding about a file, gathered with others into one DataError
    """An image cannot be used; the message is the reason."""


@dataclass(frozen=True)
class DecodeSpec:
    """How an image file becomes an array; a model keeps it, so that predicting decodes as training did.

    Attributes:
        size: side of the square image in pixels.
        channels: 1 (grey) or 3 (RGB).
    """

    size: int
    channels: int


@dataclass(frozen=True)
class Header:
    """What the first bytes of an image file tell."""

    width: int
    height: int
    grey: bool
    cmyk: bool
    animated: bool


def read_limited(path: Path) -> bytes:
    """A file's bytes; refuses one that is too large to be an image before reading it into memory."""
    try:
        with path.open("rb") as file:
            return read_stream(file)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, BadImage):
            raise
        raise BadImage(f"cannot be read ({_reason(error)})") from None


def read_stream(file: BinaryIO) -> bytes:
    pieces, held = [], 0
    while piece := file.read(PIECE_BYTES):  # all at once, what inflates would be copied again and again
        pieces.append(piece)
        held += len(piece)
        if held > MAX_BYTES:
            raise BadImage(f"more than {MAX_BYTES // 2**20} MiB")
    return b"".join(pieces)


def decode(data: bytes, spec: DecodeSpec) -> Pixels:
    """Decode the bytes of one image file.

    Args:
        spec: side and channels of the result.

    Returns:
        uint8, (size, size, channels).

    Raises:
        BadImage: with the reason only.
    """
    if not data:
        raise BadImage("empty file")
    image = _open(BytesIO(data))
    try:
        # A large JPEG is decoded at a half, a quarter or an eighth of its size, never below twice the wanted side.
        image.draft(None, (2 * spec.size, 2 * spec.size))
        image.load()
        return fit(_upright(image), spec)
    except Exception as error:  # decoders raise almost anything on hostile bytes
        raise BadImage(f"cannot be decoded ({_reason(error)})") from None


def read_header(file: BinaryIO) -> Header:
    """Size and kind of an image, without decoding it.

    Raises:
        BadImage: not an image of an allowed format, or too many pixels.
    """
    image = _open(file)
    # A JPEG with a second, larger picture inside (MPO) counts as animated for Pillow and for nobody else.
    animated = image.format != "MPO" and bool(getattr(image, "is_animated", False))
    return Header(*image.size, image.mode in GREY_MODES, image.mode == "CMYK", animated)


def fit(image: Image.Image, spec: DecodeSpec) -> Pixels:
    """The centre square of an image at the size and with the channels of `spec`: uint8, HWC."""
    image = _eight_bit(image).convert("L" if spec.channels == 1 else "RGB")
    if image.size != (spec.size, spec.size):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)  # cropping first keeps a 1 x 10,000 image from growing to gigabytes
        image = image.resize((spec.size, spec.size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(image, dtype=np.uint8).reshape(spec.size, spec.size, spec.channels)


def _open(file: BinaryIO) -> Image.Image:
    try:
        image = Image.open(file, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(f"more than {MAX_PIXELS // 10**6} million pixels") from None
    except Exception as error:  # as in decode
        formats = "PNG, JPEG, WebP, BMP, GIF or TIFF"
        unknown = isinstance(error, UnidentifiedImageError)
        raise BadImage(f"not an image ({formats if unknown else _reason(error)})") from None
    if image.width * image.height > MAX_PIXELS:
        raise BadImage(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS // 10**6} million")
    return image


def _upright(image: Image.Image) -> Image.Image:
    if image.getexif().get(ORIENTATION_TAG, 1) == 1:  # saves a copy of nearly every image
        return image
    return ImageOps.exif_transpose(image)


def _eight_bit(image: Image.Image) -> Image.Image:
    """The image without transparency and with eight bits a channel."""
    if image.mode.startswith("I;16"):
        values_HW = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((values_HW + 128) // 257).astype(np.uint8))  # 65535 -> 255, rounded
    if image.mode in ("I", "F"):
        raise BadImage("32 bits per pixel without a known range of values")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
