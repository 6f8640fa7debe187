"""Every degradation there is, in physical order: a new one takes a pure function and one entry of the table below.

A range of a parameter is written, here and in recipes, as

- a fixed value: ``25``, ``rgb``, ``true``;
- two numbers ``[lo, hi]``, between which one is drawn uniformly;
- a list of such ranges ``[[10, 20], [40, 60]]``, one of which is chosen first, each as often as the others;
- a list of words ``[S, L]``, where the parameter is a word or a switch.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from basicsr_unirestorer.degradations import blur, compression, kernels, light, noise, weather
from basicsr_unirestorer.degradations.window import Window
from basicsr_unirestorer.errors import OptionError, check_keys

Operator = Callable[[np.ndarray, dict, np.random.Generator, Window], np.ndarray]


@dataclass(frozen=True)
class Parameter:
    """What a parameter may be.

    Attributes:
        default: Range used where a recipe gives none.
        lowest, highest: Limits of what makes sense, both included.
        integer: Whether it is drawn as an integer, both ends included.
        choices: The allowed words (or switches); then the limits mean nothing.
    """

    default: Any
    lowest: float = 0
    highest: float = 0
    integer: bool = False
    choices: tuple = ()

    def alternatives(self, given: Any, where: str) -> list:
        """Check a range and list what it may be: words, or (lo, hi) pairs.

        Raises:
            OptionError: Not a range, empty, outside the limits or an unknown word; names ``where``.
        """
        if self.choices:
            words = given if isinstance(given, (list, tuple)) else [given]
            if not words or any(type(word) is not type(self.choices[0]) or word not in self.choices for word in words):
                raise OptionError(
                    f'{where} is {given}, expected one of {", ".join(map(str, self.choices))}, or a list of them.'
                )
            return list(words)
        nested = isinstance(given, (list, tuple)) and given and all(isinstance(part, (list, tuple)) for part in given)
        return [self._pair(part, where) for part in (given if nested else [given])]

    def _pair(self, given: Any, where: str) -> tuple[float, float]:
        pair = tuple(given) if isinstance(given, (list, tuple)) else (given, given)
        if len(pair) != 2 or any(isinstance(end, bool) or not isinstance(end, (int, float)) for end in pair):
            raise OptionError(
                f'{where} is {given}, expected a number, a range [lo, hi] or a list of ranges [[lo, hi], [lo, hi]].'
            )
        if pair[0] > pair[1]:
            raise OptionError(f'{where} is the empty range {list(pair)}; write {[pair[1], pair[0]]}.')
        if not self.lowest <= pair[0] <= pair[1] <= self.highest:
            raise OptionError(f'{where} is {given}, expected values from {self.lowest} to {self.highest}.')
        if self.integer and any(end != int(end) for end in pair):
            raise OptionError(f'{where} is {given}, expected whole numbers.')
        return pair

    def draw(self, given: Any, where: str, rng: np.random.Generator) -> Any:
        """Draw a plain Python value from a range."""
        options = self.alternatives(given, where)
        chosen = options[int(rng.integers(len(options)))]
        if self.choices:
            return chosen
        lo, hi = chosen
        return int(rng.integers(int(lo), int(hi) + 1)) if self.integer else float(rng.uniform(lo, hi))


@dataclass(frozen=True)
class DegradationType:
    """One kind of degradation: how to draw it, do it and name it.

    Attributes:
        name: Name in recipes, records and labels.
        apply: ``(image, params, rng, window) -> image``, RGB (h, w, 3) float32; never changes its input.
        parameters: What it takes, by name.
        measure: The parameter that states the strength (a word counts by its place among the choices, from 1).
        words: Strength words, from the smallest measure to the largest.
        edges: Measures at which the word changes, one fewer than words; recipes may set their own.
        phrase: Pattern of the caption, with ``{word}`` in it.
        reach: Pixels around a crop that its result depends on, from the parameters.
        camera: Whether it happens in the camera, where the order varies, and not in the scene.
        edge_belongs_below: Whether a measure equal to an edge takes the word below it (else the one above).
    """

    name: str
    apply: Operator
    parameters: dict[str, Parameter]
    measure: str
    words: tuple[str, ...]
    edges: tuple[float, ...]
    phrase: str
    reach: Callable[[dict], int] = lambda params: 0
    camera: bool = False
    edge_belongs_below: bool = False

    @property
    def ranges(self) -> dict[str, Any]:
        """Default range of each parameter."""
        return {name: parameter.default for name, parameter in self.parameters.items()}

    def check(self, ranges: dict, where: str | None = None) -> None:
        """Raise OptionError for unknown parameters and impossible ranges; ``where`` is quoted in the message."""
        where = where or self.name
        check_keys(ranges, self.parameters, where)
        for name, given in ranges.items():
            self.parameters[name].alternatives(given, f'{where}.{name}')

    def draw(self, ranges: dict, rng: np.random.Generator) -> dict[str, Any]:
        """Draw all parameters, in the order of the table whatever the order of ``ranges``; absent ones by default."""
        check_keys(ranges, self.parameters, self.name)
        return {
            name: parameter.draw(ranges.get(name, parameter.default), f'{self.name}.{name}', rng)
            for name, parameter in self.parameters.items()
        }

    def strength(self, params: dict) -> float:
        """Return the measure of drawn parameters. It need not grow with the damage: JPEG is measured by quality."""
        value, choices = params[self.measure], self.parameters[self.measure].choices
        return float(choices.index(value) + 1 if choices else value)

    def word(self, strength: float, edges: tuple[float, ...] | None = None) -> str:
        """Return the word of a strength; intervals are half-open, so 50 is medium rain where 50 is an edge."""
        find = bisect_left if self.edge_belongs_below else bisect_right
        return self.words[find(self.edges if edges is None else edges, strength)]

    def possible_words(self, ranges: dict, edges: tuple[float, ...] | None = None) -> list[str]:
        """Return the words that parameters drawn from ``ranges`` can get, weakest measure first."""
        parameter, found = self.parameters[self.measure], set()
        for option in parameter.alternatives(ranges.get(self.measure, parameter.default), self.measure):
            ends = [self.strength({self.measure: end}) for end in ([option] if parameter.choices else option)]
            if len(ends) == 2 and not parameter.integer and ends[0] < ends[1]:
                # The ends of a continuous range have no weight of their own: U(20, 40) is never 40.
                ends = [float(np.nextafter(ends[0], ends[1])), float(np.nextafter(ends[1], ends[0]))]
            first, last = (self.words.index(self.word(end, edges)) for end in (ends[0], ends[-1]))
            found.update(range(first, last + 1))
        return [self.words[index] for index in sorted(found)]


SMALL_TO_LARGE = ('small', 'medium', 'large')
ANGLE = Parameter([0, 180], 0, 180)  # of a direction without a sense
SLANT = Parameter([-30, 30], -60, 60)

DEGRADATION_TYPES: dict[str, DegradationType] = {
    entry.name: entry
    for entry in (
        DegradationType(
            'low_light',
            light.darken,
            measure='gamma',
            phrase='{word}',
            words=('slightly dark', 'dark', 'very dark'),
            edges=(2, 3),
            reach=lambda params: 2 * light.LIGHT_RADIUS,
            parameters={
                'gamma': Parameter([1.5, 3.5], 1, 8),
                'exposure': Parameter([0.6, 0.9], 0.05, 1),
                'noise_255': Parameter([0, 10], 0, 100),
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
                'value': Parameter([20, 150], 0, 400),
                'length_px': Parameter([20, 40], 1, 200),
                'width_px': Parameter([1.5, 3], 0.5, 20),
                'angle_deg': SLANT,
                'brightness': Parameter([0.6, 1.0], 0, 1),
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
                'density': Parameter([0.8, 1.3], 0, 10),
                'angle_deg': SLANT,
                'brightness': Parameter([0.85, 1.0], 0, 1),
            },
        ),
        DegradationType(
            'haze',
            weather.add_haze,
            measure='beta',
            phrase='{word} haze',
            words=('normal', 'thick'),
            edges=(1.5,),
            parameters={
                'beta': Parameter([0.6, 2.5], 0, 10),
                'airlight': Parameter([0.8, 1.0], 0, 1),
                'horizon': Parameter([0.2, 0.5], 0, 1),
                'falloff': Parameter([0.3, 0.8], 0.01, 100),
                'roughness': Parameter(0.1, 0, 1),
                'map_seed': Parameter([0, 2**31 - 1], 0, 2**31 - 1, integer=True),
            },
        ),
        DegradationType(
            'motion_blur',
            blur.blur_motion,
            measure='length_px',
            phrase='{word} motion blur',
            words=('small', 'large'),
            edges=(15,),
            reach=lambda params: kernels.line_radius(params['length_px'], 1),
            camera=True,
            parameters={'length_px': Parameter([5, 31], 1, 200), 'angle_deg': ANGLE},
        ),
        DegradationType(
            'blur',
            blur.blur_gaussian,
            measure='sigma_px',
            phrase='{word} blur',
            words=('small', 'large'),
            edges=(2,),
            reach=lambda params: kernels.gaussian_radius(params['sigma_px'], params['aspect']),
            camera=True,
            parameters={
                'sigma_px': Parameter([0.6, 4], 0, 30),
                'aspect': Parameter([[1, 1], [1, 2.5]], 1, 10),
                'angle_deg': ANGLE,
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
            parameters={'factor': Parameter([1.5, 4], 1, 16), 'antialias': Parameter(True, choices=(True, False))},
        ),
        DegradationType(
            'poisson_noise',
            noise.add_poisson_noise,
            measure='scale',
            phrase='{word} poisson noise',
            words=SMALL_TO_LARGE,
            edges=(0.8, 1.7),
            camera=True,
            parameters={'scale': Parameter([0.3, 3], 0, 20), 'photons': Parameter(256, 1, 1e5)},
        ),
        DegradationType(
            'noise',
            noise.add_gaussian_noise,
            measure='sigma_255',
            phrase='{word} noise',
            words=SMALL_TO_LARGE,
            edges=(20, 40),
            camera=True,
            parameters={'sigma_255': Parameter([5, 60], 0, 255), 'channels': Parameter('rgb', choices=('rgb', 'grey'))},
        ),
        DegradationType(
            'jpeg',
            compression.compress_jpeg,
            measure='quality_pct',
            phrase='{word} jpeg artifacts',
            words=('heavy', 'medium', 'light'),
            edges=(25, 50),
            reach=lambda params: compression.JPEG_UNIT,
            camera=True,
            parameters={'quality_pct': Parameter([8, 85], 1, 100, integer=True)},
        ),
    )
}
