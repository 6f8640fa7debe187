"""Instruction mode: what a user says is wrong with a picture, and which leaves of a tree know it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from basicsr_unirestorer.errors import OptionError, did_you_mean

Wish = tuple[str, str]  # (strength word, label); the word is empty where any strength will do


@lru_cache(maxsize=4096)
def wishes_in(caption: str) -> frozenset[Wish]:
    """Return what a caption satisfies: ``'large noise'`` satisfies both ``large noise`` and ``noise``."""
    from basicsr_unirestorer.degradations import parse_caption

    parsed = parse_caption(caption)
    return frozenset(parsed) | frozenset(('', label) for _, label in parsed)


def _name(wish: Wish) -> str:
    """Say a wish as a user would: ``'large noise'``, ``'very dark'``, or the label itself."""
    from basicsr_unirestorer.degradations.record import phrase_of

    word, label = wish
    return phrase_of(label, word) if word else label


def _plain(text: str) -> str:
    return ' '.join(text.lower().replace('_', ' ').replace('-', ' ').split())


def read_wishes(labels: Sequence[str], captions: Iterable[str]) -> list[Wish]:
    """Understand labels such as ``rain``, ``low light``, ``large noise`` or ``very dark`` by what a tree has seen.

    Args:
        labels: What the user wrote; one entry may hold several, separated by commas.
        captions: All captions of the tree.

    Raises:
        OptionError: No label, or one that no caption contains; names the nearest, and what is known.
    """
    known = sorted({wish for caption in captions for wish in wishes_in(caption)}, key=lambda wish: (wish[1], wish[0]))
    if not known:
        raise OptionError('The tree carries no degradation labels; use auto mode, which looks at the picture.')
    by_name = {_plain(_name(wish)): wish for wish in known}
    texts = [text for label in labels for text in label.split(',') if text.strip()]
    if not texts:
        raise OptionError(f'No degradation is named; write for example --labels "{_name(known[0])}".')
    for text in texts:
        if _plain(text) not in by_name:
            plain = [wish[1] for wish in known if not wish[0]]
            same = [_name(wish) for wish in known if wish[0] and _plain(wish[1]) in _plain(text)]
            strengths = f' Of that it knows {", ".join(same)}.' if same else ''
            raise OptionError(
                f"The tree knows no degradation '{text.strip()}'.{did_you_mean(_plain(text), by_name)}{strengths} "
                f'It knows {", ".join(sorted(plain))}.'
            )
    return [by_name[_plain(text)] for text in texts]


def leaf_mask(leaves: Sequence[Mapping[str, int]], wishes: Sequence[Wish], min_share: float) -> np.ndarray:
    """Choose the leaves that know what is wished for.

    Args:
        leaves: How many samples of each leaf have which caption.
        wishes: See ``read_wishes``.
        min_share: Share of a leaf's samples that makes the leaf count.

    Returns:
        Shape (leaves,), bool. Leaves with samples that have all of it at once; where there are none, leaves that hold
        all of it in different samples; else those that hold any; else, where it is rare everywhere, those with most.
    """
    totals = [max(sum(captions.values()), 1) for captions in leaves]
    wanted = set(wishes)
    together = np.asarray(
        [sum(n for c, n in own.items() if wanted <= wishes_in(c)) / t for own, t in zip(leaves, totals, strict=True)]
    )
    if (together >= min_share).any():
        return together >= min_share
    shares = np.asarray(
        [
            [sum(n for c, n in own.items() if wish in wishes_in(c)) / total for wish in wishes]
            for own, total in zip(leaves, totals, strict=True)
        ]
    )  # (leaves, wishes)
    contains = shares >= min_share
    if contains.all(1).any():
        return contains.all(1)
    return contains.any(1) if contains.any() else (shares >= shares.max()).any(1)
