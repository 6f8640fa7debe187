"""Where a crop lies in its picture, and on which pixel grid."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """A rectangle of a picture, in pixels of the current grid.

    Operators whose effect depends on the place (depth of haze, size of snow flakes, grids of JPEG and of resampling)
    work in the coordinates of the whole picture, so a crop gets what the whole picture would have there.

    All grids are anchored at the picture's upper left corner: pixel j of a grid of scale s covers [j / s, (j + 1) / s)
    of the picture's own pixels. A crop and its picture therefore share the pixels of every grid.

    Attributes:
        top, left: First row and column of the crop.
        height, width: Size of the crop.
        full_height, full_width: Size of the picture it was cut from.
        key: Name of the picture, by which files that belong to it (a depth map) are found; empty where it has none.
        scale: Pixels of the current grid to one pixel of the picture; 1 is the picture's own grid.
        origin: The same window on the picture's own grid; None where this is it.
    """

    top: int
    left: int
    height: int
    width: int
    full_height: int
    full_width: int
    key: str = ''
    scale: float = 1.0
    origin: Window | None = None

    @classmethod
    def whole(cls, height: int, width: int, key: str = '') -> Window:
        """Make the window of an uncropped picture."""
        return cls(0, 0, height, width, height, width, key)

    def on_grid(self, scale: float) -> Window:
        """Return the window of the same part of the picture on another grid: all its pixels that touch the part.

        Args:
            scale: Pixels of the new grid to one of the picture; 1 returns the very window the picture started with.
        """
        base = self.origin or self
        if scale == 1:
            return base
        top, left = math.floor(base.top * scale), math.floor(base.left * scale)
        return Window(
            top,
            left,
            math.ceil((base.top + base.height) * scale) - top,
            math.ceil((base.left + base.width) * scale) - left,
            math.ceil(base.full_height * scale),
            math.ceil(base.full_width * scale),
            base.key,
            scale,
            base,
        )
