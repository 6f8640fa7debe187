"""Packaging of the plugin. The files of ``options/`` travel inside the wheel as ``basicsr_unirestorer/options``."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
PACKAGE = 'basicsr_unirestorer'
OPTIONS = f'{PACKAGE}.options'


def read(name):
    path = HERE / name
    return path.read_text(encoding='utf-8') if path.is_file() else ''


# Lower bounds only: an upper bound would turn every new release of a dependency into an installation failure.
INSTALL_REQUIRES = [
    'basicsr>=1.4.2',  # the trainer, the registries and the option files that this package plugs into
    'torch>=2.0',  # scaled_dot_product_attention; loading of weights without unpickling objects
    'torchvision>=0.15',  # the partner of torch 2.0; named here so that pip resolves both in one go
    'numpy>=1.23',  # the first to support Python 3.11
    'mmengine>=0.10',  # parallel progress and complexity analysis that run with torch 2
    'opencv-python>=4.6',  # picture files, resizing and filters, as BasicSR uses them
    'lmdb>=1.3',  # the first with wheels for Python 3.10; the store of clean pictures
    'scikit-learn>=1.1',  # BisectingKMeans
    'scikit-image>=0.19',  # its bundled photographs feed the demo and the tests
    'pyyaml>=6.0',  # option files, recipes and bundles
    'safetensors>=0.4',  # bundles hold weights, never pickles
    'matplotlib>=3.6',  # figures of reports
    'tqdm>=4.60',  # progress bars
    'tifffile>=2022.8',  # writes TIFFs with colours in 16 bit, which Pillow does not; scikit-image needs it, too
    'pillow>=9.1',  # EXIF orientation, alpha channels, and the pictures in reports
    'tb-nightly',  # what BasicSR itself names as TensorBoard
    'setuptools>=62.3',  # gives BasicSR the distutils it imports, which Python 3.12 dropped
]
CLIP = ['open_clip_torch>=2.20']  # CLIP's tokenizer, for captions of DA-CLIP
PERCEPTUAL = ['torchmetrics>=1.8']  # LPIPS and DISTS for the benchmark; the first with both
TESTS = [
    'pytest>=7.0',
    'hypothesis>=6.75',  # sizes, types and damages that nobody thinks of
    'playwright>=1.40',  # drives an installed Chromium through the report; brings no browser itself
]
EXTRAS_REQUIRE = {'clip': CLIP, 'perceptual': PERCEPTUAL, 'dev': [*TESTS, 'ruff>=0.4', *CLIP]}

setup(
    name='basicsr-unirestorer',
    version=re.search(r"__version__ = '([^']+)'", read(f'{PACKAGE}/__init__.py'))[1],
    description='Universal image restoration by experts on a degradation tree (UniRestorer), as a BasicSR plugin',
    long_description=read('README.md'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    keywords='image restoration, mixture of experts, degradation, BasicSR, PyTorch',
    python_requires='>=3.10',
    packages=[*find_packages(include=[PACKAGE, f'{PACKAGE}.*']), OPTIONS],
    package_dir={OPTIONS: 'options'},
    package_data={
        PACKAGE: [*(f'**/*.{suffix}' for suffix in ('yml', 'json', 'txt', 'gz', 'css', 'js')), 'zoo/**/*'],
        OPTIONS: ['**/*.yml', 'slurm/*.sbatch'],
    },
    exclude_package_data={'': ['*.pyc']},
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={'console_scripts': ['unirestorer=basicsr_unirestorer.cli:main']},
    zip_safe=False,
)
