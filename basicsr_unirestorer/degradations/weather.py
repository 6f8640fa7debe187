"""Weather between scene and lens: rain, snow, haze."""

from __future__ import annotations

import numpy as np

from basicsr_unirestorer.degradations.map_files import depth_from_folder, mask_from_folder
from basicsr_unirestorer.degradations.maps import PRIOR_REACH, depth_map, fractal_map, prior_depth
from basicsr_unirestorer.degradations.precipitation import physical_rain, rain_streaks, snow_mask
from basicsr_unirestorer.degradations.window import Window

VEIL_HORIZON, VEIL_FALLOFF = 0.35, 0.5  # of the depth behind the veil of heavy rain and snow
VEIL_LIGHT = 0.9  # grey of that veil


def add_rain(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Add grey streaks: I = J + b S, or on a screen 1 - (1 - J)(1 - b S), which never exceeds white.

    Heavy rain is a veil too: then I = (J + b S) t + A (1 - t), as in Outdoor-Rain (Li 2019).

    Args:
        image: RGB, (h, w, 3), float32, [0, 1].
        params: ``value`` (density, or millimetres an hour of physical rain), ``angle_deg`` (from the vertical),
            ``brightness`` (b, light that the brightest drop adds), ``blend``: ``'add'`` or ``'screen'``, ``veil`` (0
            for none, see ``lay_veil``); S is ``rain_streaks`` of ``length_px``, ``width_px`` and ``layers``,
            ``physical_rain`` with ``exposure_ms`` where ``mode`` is ``'physical'``, or the picture ``mask`` of
            ``mask_dir`` where that is given.
        rng: Draws the drops, on this crop alone: crops of one picture have rain of one kind, not the same drops. Unused
            for real masks, which are stretched over the picture.
        window: Gives physical rain its focal length, masks and veil their place.

    Returns:
        RGB, (h, w, 3), float32; may exceed 1.
    """
    light = np.float32(params['brightness']) * _streaks(params, rng, window)[..., None]
    image = image + light if params['blend'] == 'add' else image + light * (1 - image)
    return lay_veil(image, params['veil'], window)


def _streaks(params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    if params['mask_dir']:
        return mask_from_folder(params['mask_dir'], params['mask'], window)
    if params['mode'] == 'physical':
        return physical_rain(params['value'], params['exposure_ms'], params['angle_deg'], window, rng)
    size = (params['length_px'], params['angle_deg'], params['width_px'], params['layers'])
    return rain_streaks(window.height, window.width, params['value'], *size, rng)


def add_snow(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Lay flakes over the scene: I = a z + J (1 - z), model of DesnowNet and Snow100K; with a veil, of JSTASR.

    Args:
        image: RGB, (h, w, 3), float32, [0, 1].
        params: ``size`` (``'S'``, ``'M'`` or ``'L'``), ``density``, ``angle_deg`` (from the vertical), ``brightness``
            (a, grey level of a flake), ``veil`` (0 for none, see ``lay_veil``); z is ``snow_mask``, or the picture
            ``mask`` of ``mask_dir`` where that is given.
        rng: Draws the flakes, on this crop alone. Unused for real masks, which are stretched over the picture.
        window: Its whole picture scales the flakes.
    """
    if params['mask_dir']:
        mask = mask_from_folder(params['mask_dir'], params['mask'], window)
    else:
        mask = snow_mask(params['size'], params['density'], params['angle_deg'], window, rng)
    mask = mask[..., None]
    return lay_veil(np.float32(params['brightness']) * mask + image * (1 - mask), params['veil'], window)


def add_haze(image: np.ndarray, params: dict, rng: np.random.Generator, window: Window) -> np.ndarray:
    """Scatter light on the way: I = J t + A (1 - t), t = exp(-beta d), with one of four depths d.

    Args:
        image: RGB, (h, w, 3), float32, [0, 1].
        params: ``beta`` (0 changes nothing), ``airlight`` (A, grey), ``depth``: ``'ramp'`` (``depth_map`` of
            ``horizon``, ``falloff``, ``roughness``, ``map_seed``), ``'prior'`` (``prior_depth`` of the image),
            ``'fractal'`` (``fractal_map`` of ``map_seed``) or ``'file'`` (``depth_from_folder`` of ``depth_dir``,
            ``depth_inverse``, ``depth_box``); ``depth_cap``: the largest depth there is.
        rng: Unused: the depth belongs to the picture, so every crop and every epoch sees the same scene.
        window: Place of the crop in the picture's depth.
    """
    transmission = np.exp(np.float32(-params['beta']) * haze_depth(image, params, window))[..., None]
    return image * transmission + np.float32(params['airlight']) * (1 - transmission)


def haze_depth(image: np.ndarray, params: dict, window: Window) -> np.ndarray:
    """Make the depth of ``add_haze``, (h, w) float32 in [0, 1]."""
    if params['depth'] == 'prior':
        depth = prior_depth(image)
    elif params['depth'] == 'fractal':
        depth = fractal_map(params['map_seed'], window)
    elif params['depth'] == 'file':
        depth = depth_from_folder(params['depth_dir'], params['depth_inverse'], params['depth_box'], window)
    else:
        depth = depth_map(params['horizon'], params['falloff'], params['roughness'], params['map_seed'], window)
    return np.minimum(depth, np.float32(params['depth_cap']))


def add_haze_reach(params: dict) -> int:
    """Pixels that ``add_haze`` reaches."""
    return PRIOR_REACH if params['depth'] == 'prior' else 0


def lay_veil(image: np.ndarray, veil: float, window: Window) -> np.ndarray:
    """Lay the mist of many unresolved drops or flakes over the scene, thicker towards the horizon.

    Args:
        image: RGB, (h, w, 3), float32.
        veil: Scattering, as ``beta`` of haze; 0 returns the image.
        window: Place of the crop in the picture's depth, a plane under a sky.
    """
    if veil == 0:
        return image
    transmission = np.exp(np.float32(-veil) * depth_map(VEIL_HORIZON, VEIL_FALLOFF, 0, 0, window))[..., None]
    return image * transmission + np.float32(VEIL_LIGHT) * (1 - transmission)
