"""Where a crop lies in its picture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """A rectangle of a picture, in pixels.

    Operators whose effect depends on the place (depth of haze, size of snow flakes, grids of JPEG and of resampling)
    work in the coordinates of the whole picture, so a crop gets what the whole picture would have there.

    Attributes:
        top, left: First row and column of the crop.
        height, width: Size of the crop.
        full_height, full_width: Size of the picture it was cut from.
    """

    top: int
    left: int
    height: int
    width: int
    full_height: int
    full_width: int

    @classmethod
    def whole(cls, height: int, width: int) -> Window:
        """Make the window of an uncropped picture."""
        return cls(0, 0, height, width, height, width)
