"""The bytes of an image file become a square uint8 array; numpy and Pillow are all that this needs.

An exported bundle has a copy of this file: it prepares images as training did. Only six formats are tried, whatever the
file is called. Orientation tags are applied, transparency is laid on white, CMYK is converted and 16-bit grey is
scaled. The centre square is resized with an anti-aliased bicubic filter. Left out: colour profiles, and all frames
after the first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = npt.NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 64_000_000
MAX_BYTES = 256 * 2**20
PIECE_BYTES = 4 * 2**20
STRIP_PIXELS = 2**20  # of an image whose pixels are converted
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
    """The rest of a stream.

    Raises:
        BadImage: it is too long to be an image.
    """
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
        image = _upright(image)  # what was turned is not held meanwhile
        return fit(image, spec)
    except Exception as error:  # decoders raise almost anything on hostile bytes
        raise BadImage(f"cannot be decoded ({_reason(error)})") from None


def read_header(file: BinaryIO) -> Header:
    """Size and kind of an image, without decoding it.

    Raises:
        BadImage: not an image of an allowed format, or too many pixels.
    """
    image = _open(cast(BinaryIO, _Limited(file)))
    return Header(*image.size, image.mode in GREY_MODES, image.mode == "CMYK", _is_animated(image))


def fit(image: Image.Image, spec: DecodeSpec) -> Pixels:
    """The centre square of an image at the size and with the channels of `spec`: uint8, HWC."""
    image = _eight_bit(image, "L" if spec.channels == 1 else "RGB")
    if image.size != (spec.size, spec.size):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)  # cropping first keeps a 1 x 10,000 image from growing to gigabytes
        image = image.resize((spec.size, spec.size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(image, dtype=np.uint8).reshape(spec.size, spec.size, spec.channels)


class _Limited:
    """A stream of which no more is read than an image may have: for its size alone Pillow reads all of a WebP, and all
    the texts of a PNG."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._left = file, MAX_BYTES

    def read(self, size: int = -1) -> bytes:
        content = read_stream(self._file) if size < 0 else self._file.read(min(size, self._left + 1))
        self._left -= len(content)
        if self._left < 0:
            raise BadImage(f"more than {MAX_BYTES // 2**20} MiB")
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _open(file: BinaryIO) -> Image.Image:
    try:
        image = Image.open(file, formats=FORMATS)
    except BadImage:
        raise
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


def _is_animated(image: Image.Image) -> bool:
    """A JPEG with a second, larger picture inside (MPO) counts as animated for Pillow and for nobody else."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # what follows the first frame is broken, and only that frame is used
        return False


def _eight_bit(image: Image.Image, mode: str) -> Image.Image:
    """The image without transparency and with eight bits a channel.

    Args:
        mode: L or RGB.
    """
    if image.mode.startswith("I;16"):
        return _in_strips(image, mode, _scaled)
    if image.mode in ("I", "F"):
        raise BadImage("32 bits per pixel without a known range of values")
    if image.has_transparency_data:
        return _in_strips(image, mode, _on_white)
    return image if image.mode == mode else image.convert(mode)


def _in_strips(image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """The image converted some rows at a time: what is needed on the way is several times as large as the result."""
    result = Image.new(mode, image.size)
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        result.paste(convert(strip).convert(mode), (0, top))
    return result


def _scaled(image: Image.Image) -> Image.Image:
    values_HW = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((values_HW + 128) // 257).astype(np.uint8))  # 65535 -> 255, rounded


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
