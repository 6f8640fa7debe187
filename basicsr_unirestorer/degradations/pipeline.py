"""Apply a record to a picture."""

from __future__ import annotations

import numpy as np

from basicsr_unirestorer.degradations.record import DegradationRecord
from basicsr_unirestorer.degradations.registry import DEGRADATION_TYPES
from basicsr_unirestorer.degradations.window import Window
from basicsr_unirestorer.errors import DataError

SMALLEST_SIDE = 8


def degrade(
    image: np.ndarray,
    record: DegradationRecord,
    rng: np.random.Generator,
    window: Window | None = None,
    quantize: bool = True,
) -> np.ndarray:
    """Degrade a picture, or a crop of one, as a record says.

    Each operation is followed by a clip to [0, 1]; rounding to 8 bits comes once, at the end (JPEG alone rounds before
    it encodes, as its coder does).

    Args:
        image: RGB, (h, w, 3), float32, [0, 1], at least 8 x 8; never changed.
        record: Operations in order.
        rng: Drives the realisation: noise fields, rain drops, snow flakes.
        window: Place of ``image`` in its picture where it is a crop; None where it is the whole picture. Give crops
            ``record.margin`` pixels of context and cut them off afterwards.
        quantize: Round to the 256 levels of an 8-bit file.

    Returns:
        RGB, (h, w, 3), float32, [0, 1], a new array.

    Raises:
        DataError: The image is not as described, or the window has another size.
    """
    _check_image(image)
    h, w = image.shape[:2]
    window = window or Window.whole(h, w)
    if (window.height, window.width) != (h, w):
        raise DataError(
            f'The window is {window.width}x{window.height} but the image {w}x{h}; a window has the size of '
            'the crop it describes.'
        )
    result = np.array(image, order='C')  # a copy, since clipping works in place and callers may pass a view
    for operation in record.operations:
        result = DEGRADATION_TYPES[operation.type].apply(result, operation.params, rng, window)
        np.clip(result, 0, 1, out=result)
    return np.rint(result * 255) / np.float32(255) if quantize else result


def _check_image(image: np.ndarray) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.float32:
        kind = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise DataError(
            f'The image to degrade is {kind}, expected a float32 array in [0, 1]; convert 8-bit pictures '
            'with image.astype(np.float32) / 255.'
        )
    if image.ndim != 3 or image.shape[2] != 3:
        raise DataError(f'The image to degrade has shape {image.shape}, expected (height, width, 3) in RGB.')
    if min(image.shape[:2]) < SMALLEST_SIDE:
        raise DataError(
            f'The image to degrade is {image.shape[1]}x{image.shape[0]}, expected at least '
            f'{SMALLEST_SIDE}x{SMALLEST_SIDE}.'
        )
    lowest, highest = float(image.min()), float(image.max())
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise DataError('The image to degrade has NaN or infinite values; check the file it came from.')
    if lowest < -1e-4 or highest > 1 + 1e-4:
        raise DataError(
            f'The image to degrade has values from {lowest:g} to {highest:g}, expected 0 to 1; divide '
            '8-bit values by 255.'
        )
