"""Contact sheets: pictures in a grid, each with a line or two of text below it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP = 6  # pixels around a tile
LINE = 15  # pixels a line of text
TEXT_SIZE = 12
SIDE = 240  # pixels, longer side of a tile


def contact_sheet(rows: Sequence[Sequence[tuple[np.ndarray, str]]], side: int = SIDE, lines: int = 2) -> np.ndarray:
    """Lay out pictures in rows.

    Args:
        rows: Rows of (picture, text); pictures RGB, (h, w, 3), float32 [0, 1] or uint8, of any size. Text that is too
            long for ``lines`` lines is cut.
        side: Longer side of a tile in pixels; larger pictures are shrunk to it, smaller ones stay as they are.
        lines: Lines of text below each tile.

    Returns:
        RGB, uint8, (height, width, 3), white where there is nothing.
    """
    tiles = [[(Image.fromarray(thumbnail(picture, side)), text) for picture, text in row] for row in rows]
    widths = [max(row[column][0].width for row in tiles if column < len(row)) for column in range(max(map(len, tiles)))]
    heights = [max(tile.height for tile, _ in row) + lines * LINE for row in tiles]
    sheet = Image.new('RGB', (sum(widths) + GAP * (len(widths) + 1), sum(heights) + GAP * (len(heights) + 1)), 'white')
    draw, font = ImageDraw.Draw(sheet), _font()
    for number, row in enumerate(tiles):
        y = sum(heights[:number]) + GAP * (number + 1)
        for column, (tile, text) in enumerate(row):
            x = sum(widths[:column]) + GAP * (column + 1)
            sheet.paste(tile, (x, y))
            short = '\n'.join(_wrap(text, widths[column], lines, draw, font))
            draw.multiline_text((x, y + tile.height + 1), short, fill='black', font=font, spacing=LINE - TEXT_SIZE)
    return np.asarray(sheet)


def thumbnail(picture: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Shrink a picture, RGB, float32 [0, 1] or uint8, to fit into a square of ``side``; returns uint8."""
    if picture.dtype != np.uint8:
        picture = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    tile = Image.fromarray(picture)
    tile.thumbnail((side, side), Image.Resampling.BOX)
    return np.asarray(tile)


def _wrap(text: str, width: int, lines: int, draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont) -> list[str]:
    letters = max(8, int(width / max(draw.textlength('small blur, noise', font=font) / 17, 1)))
    return textwrap.wrap(text, letters, max_lines=lines, placeholder=' ...')


def _font() -> ImageFont.ImageFont:
    try:
        return ImageFont.load_default(TEXT_SIZE)
    except TypeError:  # Pillow before 10.1 has one size only
        return ImageFont.load_default()
