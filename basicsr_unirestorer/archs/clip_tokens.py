"""CLIP's tokens, by the tokenizer of open_clip."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from torch import Tensor

from basicsr_unirestorer.errors import OptionError


@functools.cache
def _tokenizer():  # noqa: ANN202
    try:
        from open_clip.tokenizer import SimpleTokenizer
    except ImportError as error:
        raise OptionError(
            f'Captions for CLIP need its tokenizer, but {error.name} is not installed; type: pip install '
            '"basicsr-unirestorer[clip]" (or take network_t: {type: CaptionEncoder}, which needs none).'
        ) from error
    return SimpleTokenizer()


def tokenize(texts: Sequence[str], context_length: int = 77) -> Tensor:
    """Turn texts into token ids.

    Args:
        texts: Any number of texts; one too long is cut and still ends with the end token.
        context_length: Tokens a text, filled up with zeros.

    Returns:
        Shape (len(texts), context_length), int64.

    Raises:
        OptionError: The package ``open_clip_torch`` is not installed.
    """
    return _tokenizer()(list(texts), context_length)
