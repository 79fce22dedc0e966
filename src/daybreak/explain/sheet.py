"""A contact sheet of class activation maps: a row per image and class, with the image itself and its map at each stage,
below a legend that says how to read them."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from daybreak.core.errors import one_line
from daybreak.data.picture import enlarged
from daybreak.explain.maps import ClassMap, MapOptions
from daybreak.explain.overlay import overlay

FOLDER = "figures/maps"
SHEET = f"{FOLDER}/contact-sheet.png"
MAX_ROWS = 40  # of a sheet; the files beside it have all maps
CELL, GAP, LINE, HEAD = 144, 6, 20, 52  # px
FONT = Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")  # which has more letters than Pillow's own
INK, SOFT = "#222222", "#777777"


def contact_sheet(
    maps: Sequence[ClassMap],
    images_NHWC: np.ndarray,
    titles: Sequence[str],
    classes: Sequence[str],
    options: MapOptions = MapOptions(),
) -> Image.Image:
    """Draw the first `MAX_ROWS` rows.

    Args:
        maps: ordered by image, class and stage.
        images_NHWC: uint8.
        titles: of the images.
    """
    rows = [list(group) for _, group in groupby(maps, lambda m: (m.image, m.target))]
    stages = list(dict.fromkeys(m.layer for m in maps))
    shown, height = rows[:MAX_ROWS], LINE + CELL + GAP
    size = (max(GAP + (1 + len(stages)) * (CELL + GAP), 4 * (CELL + GAP)), HEAD + len(shown) * height + LINE)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.truetype(FONT, 12)
    _legend(sheet, draw, font, options)
    for column, name in enumerate(["image", *stages]):
        draw.text((GAP + column * (CELL + GAP), HEAD - GAP), name, INK, font, anchor="ls")
    other = {"true": "the true class", "predicted": "the predicted class"}.get(options.against or "", options.against)
    against = f", not for {other}" if other else ""
    for number, row in enumerate(shown):
        top = HEAD + number * height
        text = f"{titles[row[0].image]} – evidence for {classes[row[0].target]}{against}"
        draw.text((GAP, top + LINE - 5), shortened(text, font, size[0] - 2 * GAP), INK, font, anchor="ls")
        sheet.paste(enlarged(images_NHWC[row[0].image], CELL), (GAP, top + LINE))
        for m in row:
            left = GAP + (1 + stages.index(m.layer)) * (CELL + GAP)
            _cell(sheet, draw, font, m, images_NHWC[m.image], (left, top + LINE))
    rest = f"{len(rows) - len(shown)} more rows in the files beside this sheet" if len(rows) > len(shown) else ""
    draw.text((GAP, size[1] - GAP), rest, SOFT, font, anchor="ls")
    return sheet


def _legend(sheet: Image.Image, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, options: MapOptions) -> None:
    """The colours from no evidence to the most, on grey as an image would be."""
    bar = overlay(np.full((1, 1, 3), 128, np.uint8), np.linspace(0, 1, CELL)[None], CELL)
    sheet.paste(bar.crop((0, 0, CELL, 12)), (GAP, GAP))
    text = f"{options.method}: no evidence to most; each map relative to its own maximum"
    draw.text((2 * GAP + CELL, GAP + 11), text, SOFT, font, anchor="ls")


def _cell(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont,
    m: ClassMap,
    image_HWC: np.ndarray,
    place: tuple[int, int],
) -> None:
    """A map, or what stands in its place."""
    if not m.is_single_cell and not m.is_empty:
        sheet.paste(overlay(image_HWC, m.values_HW, CELL), place)
        return
    left, top = place
    draw.rectangle((left, top, left + CELL - 1, top + CELL - 1), outline="#cccccc")
    text = "one cell:\nno place to show" if m.is_single_cell else "no evidence"
    draw.multiline_text((left + CELL / 2, top + CELL / 2), text, SOFT, font, anchor="mm", align="center")


def shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text as one line that is no wider than so many px."""
    line = one_line(text)
    while len(line) > 1 and font.getlength(line) > width:
        line = line[:-2] + "…"
    return line
