"""Apply a record to a picture."""

from __future__ import annotations

import numpy as np

from basicsr_unirestorer.degradations.record import QUANTIZE, DegradationRecord
from basicsr_unirestorer.degradations.registry import DEGRADATION_TYPES
from basicsr_unirestorer.degradations.window import Window
from basicsr_unirestorer.errors import DataError, OptionError

SMALLEST_SIDE = 8


def degrade(
    image: np.ndarray,
    record: DegradationRecord,
    rng: np.random.Generator,
    window: Window | None = None,
    quantize: str | bool | None = None,
) -> np.ndarray:
    """Degrade a picture, or a crop of one, as a record says.

    Each operation is followed by a clip to [0, 1] unless the record says otherwise; rounding to 8 bits comes once, at
    the end, unless the record says otherwise (JPEG and WebP round before they encode, as their coders do). Operations
    that change the pixel grid are followed by others on that grid; the result is on the picture's own grid again.

    Args:
        image: RGB, (h, w, 3), float32, [0, 1], at least 8 x 8; never changed.
        record: Operations in order.
        rng: Drives the realisation: noise fields, rain drops, snow flakes.
        window: Place of ``image`` in its picture where it is a crop; None where it is the whole picture. Give crops
            ``record.margin`` pixels of context and cut them off afterwards.
        quantize: ``'end'``, ``'each'`` or ``'off'`` (``True`` and ``False`` stand for end and off) in place of what
            the record says, see ``DegradationRecord``.

    Returns:
        RGB, (h, w, 3), float32, a new array; [0, 1] unless ``quantize`` is off.

    Raises:
        DataError: The image is not as described, or the window has another size.
        OptionError: ``quantize`` is none of these.
    """
    _check_image(image)
    h, w = image.shape[:2]
    window = window or Window.whole(h, w)
    if (window.height, window.width) != (h, w):
        raise DataError(
            f'The window is {window.width}x{window.height} but the image {w}x{h}; a window has the size of '
            'the crop it describes.'
        )
    quantize = {None: record.quantize, True: 'end', False: 'off'}.get(quantize, quantize)
    if quantize not in QUANTIZE:
        raise OptionError(f"quantize is '{quantize}', expected one of {', '.join(QUANTIZE)}.")
    result, last = np.array(image, order='C'), len(record.steps) - 1  # a copy: callers may pass a view
    for place, operation in enumerate(record.steps):
        kind = DEGRADATION_TYPES[operation.type]
        result = kind.apply(result, operation.params, rng, window)
        if kind.grid:
            window = window.on_grid(kind.grid(operation.params))
        if operation.clip and not (quantize == 'off' and place == last):
            np.clip(result, 0, 1, out=result)
        if quantize == 'each':
            result = _round(result)
    return result if quantize == 'off' else _round(result)


def _round(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 1) * 255) / np.float32(255)


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
