"""Degradations: pure operators, recipes, records and captions. Needs neither torch nor BasicSR nor global state."""

from basicsr_unirestorer.degradations.pipeline import degrade
from basicsr_unirestorer.degradations.recipe import DegradationRecipe
from basicsr_unirestorer.degradations.record import DegradationRecord, Operation, parse_caption
from basicsr_unirestorer.degradations.registry import DEGRADATION_TYPES
from basicsr_unirestorer.degradations.seeding import sample_rng
from basicsr_unirestorer.degradations.window import Window

__all__ = [
    'DEGRADATION_TYPES',
    'DegradationRecipe',
    'DegradationRecord',
    'Operation',
    'Window',
    'degrade',
    'parse_caption',
    'sample_rng',
]
