"""One image file, decoded: one path for predicting, explaining and serving; it is that of training (`data.image`)."""

from pathlib import Path

from daybreak.core.errors import DataError
from daybreak.data.image import BadImage, DecodeSpec, Pixels, decode, read_limited


def decode_image(source: bytes | Path, spec: DecodeSpec) -> Pixels:
    """Decode one image file.

    Args:
        source: the file's bytes or its path.
        spec: side and channels of the result.

    Returns:
        uint8, (size, size, channels).

    Raises:
        DataError: the file cannot be read or is not a whole image; it names the file.
    """
    name = "image" if isinstance(source, bytes) else source
    try:
        return decode(source if isinstance(source, bytes) else read_limited(source), spec)
    except BadImage as bad:
        raise DataError(name, str(bad), "another image, or convert it to PNG or JPEG") from None
