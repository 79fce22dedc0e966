import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from image_sets import encode, pixels
from PIL import Image

from daybreak.core.errors import DataError
from daybreak.data import DecodeSpec, decode_image

RGB8, GREY8 = DecodeSpec(8, 3), DecodeSpec(8, 1)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_png_pixels_arrive_unchanged():
    image = pixels(1)[0]
    decoded = decode_image(encode(image), RGB8)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, image)


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "WEBP"])
def test_the_lossless_formats_agree(kind: str):
    image = pixels(1)[0]
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(decode_image(encode(image, kind, **options), RGB8), image)


def test_exif_orientation_is_applied():
    image = pixels(1)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    turned = decode_image(saved(Image.fromarray(image), "PNG", exif=exif), RGB8)
    np.testing.assert_array_equal(turned, np.rot90(image, k=-1))
    assert not np.array_equal(turned, image)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_matches_its_definition(orientation: int):
    image = pixels(1)[0]
    expected = {
        1: image,
        2: image[:, ::-1],
        3: image[::-1, ::-1],
        4: image[::-1],
        5: image.transpose(1, 0, 2),
        6: np.rot90(image, -1),
        7: image[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(image, 1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(
        decode_image(saved(Image.fromarray(image), "PNG", exif=exif), RGB8), expected[orientation]
    )


def test_cmyk_becomes_rgb():
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    decoded = decode_image(saved(cmyk, "TIFF"), RGB8)
    assert decoded.reshape(-1, 3).tolist() == [[255, 0, 0]] * 64


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.array([0, 128, 129, 256, 257, 32768, 65407, 65535], np.uint16)
    image = np.tile(values, (8, 1))
    decoded = decode_image(saved(Image.fromarray(image), "PNG"), GREY8)
    assert decoded[0, :, 0].tolist() == [0, 0, 1, 1, 1, 128, 255, 255]  # round(v / 257)


@pytest.mark.parametrize(("alpha", "expected"), [(0, [255, 255, 255]), (255, [200, 0, 100]), (51, [244, 204, 224])])
def test_transparency_is_laid_on_white(alpha: int, expected: list[int]):
    image = np.full((8, 8, 4), (200, 0, 100, alpha), np.uint8)
    assert decode_image(encode(image), RGB8)[3, 3].tolist() == expected


def test_a_transparent_palette_colour_is_white_and_grey_alpha_too():
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((0, 0), 0)
    decoded = decode_image(saved(palette, "PNG", transparency=1), RGB8)
    assert decoded[0, 0].tolist() == [255, 0, 0]
    assert decoded[5, 5].tolist() == [255, 255, 255]
    assert decode_image(saved(Image.new("LA", (8, 8), (10, 0)), "PNG"), GREY8)[0, 0].tolist() == [255]


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(data, RGB8)[0, 0].tolist() == [255, 0, 0]


def test_the_centre_square_is_kept():
    image = np.zeros((8, 24, 3), np.uint8)
    image[:, 8:16] = 255
    assert decode_image(encode(image), RGB8).min() == 255


def test_resizing_averages_instead_of_picking():
    checkerboard = np.indices((64, 64)).sum(0) % 2 * 255
    decoded = decode_image(encode(checkerboard.astype(np.uint8)[..., None]), GREY8)
    assert np.abs(decoded[1:-1, 1:-1].astype(int) - 127).max() <= 2


def test_a_large_jpeg_is_reduced_without_moving_its_content():
    ramp = np.repeat(np.linspace(0, 255, 512).astype(np.uint8)[None, :, None], 512, axis=0)
    decoded = decode_image(encode(ramp, "JPEG", quality=95), GREY8)
    assert decoded[4, :, 0].tolist() == pytest.approx([16, 48, 80, 112, 143, 175, 207, 239], abs=3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 10_000), (10_000, 1)])
def test_thin_images_are_resized(shape: tuple[int, int]):
    image = np.full((*shape, 3), 77, np.uint8)
    assert (decode_image(encode(image), RGB8) == 77).all()


def test_grey_and_colour_follow_the_spec():
    grey = pixels(1, channels=1)[0]
    np.testing.assert_array_equal(decode_image(encode(grey), RGB8), np.repeat(grey, 3, axis=2))
    red = np.full((8, 8, 3), (255, 0, 0), np.uint8)
    assert decode_image(encode(red), GREY8)[0, 0].tolist() == [76]  # ITU-R 601 luma


def png_header(width: int, height: int) -> bytes:
    """A tiny file that claims to be huge."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"these are words", "not an image"),
        (png_header(50_000, 50_000), "more than 64 million"),
        (png_header(9_000, 9_000), "more than 64 million"),
        (encode(pixels(1, side=64)[0], "JPEG")[:-200], "truncated"),
        (encode(pixels(1, side=64)[0])[:-200], "truncated"),
        (b"SIMPLE  =                    T" + b" " * 3000, "not an image"),  # FITS
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "not an image"),
        (saved(Image.new("F", (8, 8)), "TIFF"), "32 bits"),
    ],
)
def test_bad_images_are_refused_with_the_reason_and_the_file_name(tmp_path: Path, data: bytes, reason: str):
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    with pytest.raises(DataError, match=reason) as caught:
        decode_image(path, RGB8)
    assert "photo.png" in caught.value.what


def test_an_unreadable_path_is_a_data_error(tmp_path: Path):
    for path in (tmp_path / "none.png", tmp_path, Path("a\0b.png")):
        with pytest.raises(DataError, match="cannot be read"):
            decode_image(path, RGB8)
