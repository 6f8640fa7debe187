"""Every degradation there is, in physical order: a new one takes a pure function and one entry of the table below."""

from __future__ import annotations

from functools import partial
from math import pi, sqrt

from basicsr_unirestorer.degradations import blur, compression, kernels, lens, light, noise, resizing, weather
from basicsr_unirestorer.degradations.degradation_type import UNNAMED, DegradationType
from basicsr_unirestorer.degradations.parameter import Parameter

__all__ = ['DEGRADATION_TYPES', 'UNNAMED', 'DegradationType', 'Parameter']

FIRST = partial(Parameter, first=True)  # parameters of the first release; new ones are plain

SMALL_TO_LARGE = ('small', 'medium', 'large')
HEAVY_TO_LIGHT = ('heavy', 'medium', 'light')
ANGLE = FIRST([0, 180], 0, 180)  # of a direction without a sense
SLANT = FIRST([-30, 30], -60, 60)
SEED = Parameter([0, 2**31 - 1], 0, 2**31 - 1, integer=True)
WHICH_MASK = Parameter([0, 2**31 - 1], 0, 2**31 - 1, integer=True, needs=('mask_dir', ()))
FOLDER = Parameter('', folder=True)
VEIL = Parameter(0, 0, 10)

DEGRADATION_TYPES: dict[str, DegradationType] = {
    entry.name: entry
    for entry in (
        DegradationType(
            'low_light',
            light.darken,
            measure='gamma',
            formula=light.darkness,
            formula_of=('mode', 'gamma', 'ratio'),
            phrase='{word}',
            words=('slightly dark', 'dark', 'very dark'),
            edges=(2, 3),
            reach=lambda params: 2 * light.LIGHT_RADIUS if params['mode'] == 'retinex' else 0,
            parameters={
                'gamma': FIRST([1.5, 3.5], 1, 8, needs=('mode', ('retinex', 'gamma'))),
                'exposure': FIRST([0.6, 0.9], 0.05, 1, needs=('mode', ('retinex', 'gamma'))),
                'noise_255': FIRST([0, 10], 0, 100, needs=('mode', ('retinex', 'gamma'))),
                'mode': Parameter('retinex', choices=('retinex', 'gamma', 'linear')),
                'gain': Parameter(1, 0.05, 1, needs=('mode', ('gamma',))),
                'ratio': Parameter([2, 20], 1, 1000, needs=('mode', ('linear',))),
                'shot': Parameter([1e-4, 2e-3], 0, 1, log=True, needs=('mode', ('linear',))),
                'read': Parameter([5e-4, 3e-3], 0, 1, log=True, needs=('mode', ('linear',))),
            },
        ),
        DegradationType(
            'rain',
            weather.add_rain,
            measure='value',
            phrase='{word} rain',
            words=SMALL_TO_LARGE,
            edges=(50, 100),
            parameters={
                'value': FIRST([20, 150], 0, 400),
                'length_px': FIRST([20, 40], 1, 200, needs=('mode', ('noise',))),
                'width_px': FIRST([1.5, 3], 0.5, 20, needs=('mode', ('noise',))),
                'angle_deg': SLANT,
                'brightness': FIRST([0.6, 1.0], 0, 1),
                'mode': Parameter('noise', choices=('noise', 'physical')),
                'layers': Parameter(1, 1, 3, integer=True, needs=('mode', ('noise',))),
                'exposure_ms': Parameter([4, 16], 0.1, 100, needs=('mode', ('physical',))),
                'blend': Parameter('add', choices=('add', 'screen')),
                'veil': VEIL,
                'mask_dir': FOLDER,
                'mask': WHICH_MASK,
            },
        ),
        DegradationType(
            'snow',
            weather.add_snow,
            measure='size',
            phrase='{word} snow',
            words=SMALL_TO_LARGE,
            edges=(2, 3),
            parameters={
                'size': Parameter(['S', 'M', 'L'], choices=('S', 'M', 'L')),
                'density': FIRST([0.8, 1.3], 0, 10),
                'angle_deg': SLANT,
                'brightness': FIRST([0.85, 1.0], 0, 1),
                'veil': VEIL,
                'mask_dir': FOLDER,
                'mask': WHICH_MASK,
            },
        ),
        DegradationType(
            'haze',
            weather.add_haze,
            measure='beta',
            phrase='{word} haze',
            words=('normal', 'thick'),
            edges=(1.5,),
            reach=weather.add_haze_reach,
            parameters={
                'beta': FIRST([0.6, 2.5], 0, 10),
                'airlight': FIRST([0.8, 1.0], 0, 1),
                'horizon': FIRST([0.2, 0.5], 0, 1, needs=('depth', ('ramp',))),
                'falloff': FIRST([0.3, 0.8], 0.01, 100, needs=('depth', ('ramp',))),
                'roughness': FIRST(0.1, 0, 1, needs=('depth', ('ramp',))),
                'map_seed': SEED,
                'depth': Parameter('ramp', choices=('ramp', 'prior', 'fractal', 'file')),
                'depth_dir': Parameter('', folder=True, needs=('depth', ('file',))),
                'depth_inverse': Parameter(False, choices=(False, True), needs=('depth', ('file',))),
                'depth_cap': Parameter(1, 0, 1, needs=('depth', ('file',))),
                'depth_box': Parameter(0, 0, 200, integer=True, needs=('depth', ('file',))),
            },
        ),
        DegradationType(
            'raindrop',
            lens.add_raindrops,
            measure='cover',
            phrase='{word} raindrops',
            words=('few', 'several', 'many'),
            edges=(0.03, 0.08),
            reach=lens.raindrops_reach,
            parameters={
                'cover': Parameter([0.01, 0.15], 0, 0.9),
                'radius_px': Parameter([8, 20], 2, 100),
                'blur_px': Parameter([1, 3], 0.1, 20),
                'map_seed': SEED,
                'mask_dir': FOLDER,
                'mask': WHICH_MASK,
            },
        ),
        DegradationType(
            'defocus_blur',
            blur.blur_defocus,
            measure='radius_px',
            phrase='{word} defocus blur',
            words=('small', 'large'),
            edges=(4,),
            reach=lambda params: kernels.disc_radius(params['radius_px'], params['soft_px']),
            camera=True,
            parameters={'radius_px': Parameter([1.5, 8], 0, 50), 'soft_px': Parameter(0.5, 0, 10)},
        ),
        DegradationType(
            'motion_blur',
            blur.blur_motion,
            measure='length_px',
            phrase='{word} motion blur',
            words=('small', 'large'),
            edges=(15,),
            reach=blur.blur_motion_reach,
            camera=True,
            parameters={
                'length_px': FIRST([5, 31], 1, 200),
                'angle_deg': FIRST([0, 180], -180, 360, needs=('path', ('line', 'gaussian'))),
                'path': Parameter('line', choices=('line', 'gaussian', 'trajectory')),
                'path_seed': Parameter([0, 2**31 - 1], 0, 2**31 - 1, integer=True, needs=('path', ('trajectory',))),
            },
        ),
        DegradationType(
            'blur',
            blur.blur_gaussian,
            measure='sigma_px',
            phrase='{word} blur',
            words=('small', 'large'),
            edges=(2,),
            reach=blur.blur_gaussian_reach,
            camera=True,
            parameters={
                'sigma_px': FIRST([0.6, 4], 0, 30),
                'aspect': FIRST([[1, 1], [1, 2.5]], 1, 20),
                'angle_deg': ANGLE,
                'kernel': Parameter('gaussian', choices=('gaussian', 'generalized', 'plateau')),
                'shape': Parameter([[0.5, 1], [1, 2]], 0.1, 20, needs=('kernel', ('generalized', 'plateau'))),
                'radius_px': Parameter(0, 0, 60, integer=True),
            },
        ),
        DegradationType(
            'ringing',
            blur.blur_ringing,
            measure='cutoff',
            phrase='{word} ringing',
            words=('heavy', 'light'),
            edges=(pi / 2,),
            weakens=True,
            reach=lambda params: params['radius_px'],
            camera=True,
            parameters={
                'cutoff': Parameter([pi / 3, pi], 0.2, 3.1416),
                'radius_px': Parameter(10, 1, 60, integer=True),
            },
        ),
        DegradationType(
            'low_resolution',
            compression.resample,
            measure='factor',
            phrase='{word} low resolution',
            words=('slight', 'medium', 'severe'),
            edges=(2, 3),
            edge_belongs_below=True,
            camera=True,
            reach=lambda params: compression.resample_reach(params['factor']),
            parameters={
                'factor': FIRST([1.5, 4], 1, 16),
                'antialias': Parameter(True, choices=(True, False)),
                'filter': Parameter('bicubic', choices=('bicubic', 'bilinear', 'area')),
            },
        ),
        DegradationType(
            'resize',
            resizing.resize,
            measure='scale',
            phrase='{word} low resolution',
            words=('severe', 'medium', 'slight', UNNAMED),
            edges=(1 / 3, 1 / 2, 1),
            weakens=True,
            label='low_resolution',
            grid=lambda params: params['scale'],
            camera=True,
            parameters={
                'scale': Parameter([0.25, 0.67], 0.05, 4),
                'filter': Parameter('bicubic', choices=('bicubic', 'bilinear', 'area')),
                'antialias': Parameter(True, choices=(True, False), needs=('filter', ('bicubic', 'bilinear'))),
            },
        ),
        DegradationType(
            'poisson_noise',
            noise.add_poisson_noise,
            measure='scale',
            formula=lambda params: params['scale'] * (sqrt(256 / params['photons']) if params['photons'] else 1),
            formula_of=('scale', 'photons'),
            phrase='{word} poisson noise',
            words=SMALL_TO_LARGE,
            edges=(0.8, 1.7),
            camera=True,
            parameters={
                'scale': FIRST([0.3, 3], 0, 20),
                'photons': FIRST(256, 1, 1e5, log=True, needs=('levels', ('fixed',))),
                'levels': Parameter('fixed', choices=('fixed', 'distinct')),
                'channels': Parameter('rgb', choices=('rgb', 'grey')),
            },
        ),
        DegradationType(
            'speckle_noise',
            noise.add_speckle_noise,
            measure='sigma_255',
            phrase='{word} speckle noise',
            words=SMALL_TO_LARGE,
            edges=(20, 40),
            camera=True,
            parameters={
                'sigma_255': Parameter([5, 60], 0, 255),
                'channels': Parameter('rgb', choices=('rgb', 'grey', 'correlated')),
            },
        ),
        DegradationType(
            'camera_noise',
            noise.add_camera_noise,
            measure='shot',
            formula=noise.camera_sigma_255,
            formula_of=('shot', 'read'),
            phrase='{word} camera noise',
            words=SMALL_TO_LARGE,
            edges=(20, 40),
            camera=True,
            parameters={
                'shot': Parameter([1e-3, 0.08], 0, 1, log=True),
                'read': Parameter([0, 0.06], 0, 1),
                'light': Parameter('display', choices=('display', 'linear')),
            },
        ),
        DegradationType(
            'noise',
            noise.add_gaussian_noise,
            measure='sigma_255',
            phrase='{word} noise',
            words=SMALL_TO_LARGE,
            edges=(20, 40),
            camera=True,
            parameters={
                'sigma_255': FIRST([5, 60], 0, 255),
                'channels': Parameter('rgb', choices=('rgb', 'grey', 'correlated')),
            },
        ),
        DegradationType(
            'jpeg',
            compression.compress_jpeg,
            measure='quality_pct',
            phrase='{word} jpeg artifacts',
            words=HEAVY_TO_LIGHT,
            edges=(25, 50),
            weakens=True,
            reach=lambda params: compression.JPEG_UNIT,
            camera=True,
            parameters={
                'quality_pct': Parameter([8, 85], 1, 100, integer=True),
                'shift_rows': Parameter(0, 0, compression.JPEG_UNIT - 1, integer=True),
                'shift_columns': Parameter(0, 0, compression.JPEG_UNIT - 1, integer=True),
            },
        ),
        DegradationType(
            'webp',
            compression.compress_webp,
            measure='quality_pct',
            phrase='{word} webp artifacts',
            words=HEAVY_TO_LIGHT,
            edges=(25, 50),
            weakens=True,
            reach=lambda params: compression.WEBP_UNIT,
            camera=True,
            parameters={'quality_pct': Parameter([5, 85], 1, 100, integer=True)},
        ),
    )
}
