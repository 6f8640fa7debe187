"""LoRA Restormer as an expert: a frozen Restormer with low-rank factors beside every convolution.

The factors' shapes and names are those in the release of UniRestorer (method, section 2), whose weights load unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from basicsr.utils.registry import ARCH_REGISTRY

from basicsr_unirestorer.archs.lora import add_lora
from basicsr_unirestorer.archs.restormer_expert_arch import RestormerExpert
from basicsr_unirestorer.errors import OptionError

# the resolution that a part belongs to, finest first; what is not named here is of the finest
LEVELS = {
    'encoder_level2': 1,
    'decoder_level2': 1,
    'reduce_chan_level2': 1,
    'down2_3': 1,
    'up2_1': 1,
    'encoder_level3': 2,
    'decoder_level3': 2,
    'reduce_chan_level3': 2,
    'down3_4': 2,
    'up3_2': 2,
    'latent': 3,
    'up4_3': 3,
}


@ARCH_REGISTRY.register()
class LoRARestormerExpert(RestormerExpert):
    """Restormer whose factors alone are trained; they are merged with ``merge_lora`` or ``fuse_lora``.

    Args:
        r: Rank of the factors at each resolution, finest first.
        lora_alpha: Their alpha at each resolution.
        others: As of ``RestormerExpert``.

    Raises:
        OptionError: As ``RestormerExpert`` and ``add_lora``, or not four numbers in ``r`` or ``lora_alpha``.
    """

    def __init__(
        self,
        inp_channels: int = 3,
        out_channels: int = 3,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_expansion_factor: float = 2.66,
        bias: bool = False,
        LayerNorm_type: str = 'WithBias',  # noqa: N803
        dual_pixel_task: bool = False,
        r: Sequence[int] = (8, 8, 8, 8),
        lora_alpha: Sequence[float] = (16, 16, 16, 16),
    ) -> None:
        super().__init__(
            inp_channels,
            out_channels,
            dim,
            num_blocks,
            num_refinement_blocks,
            heads,
            ffn_expansion_factor,
            bias,
            LayerNorm_type,
            dual_pixel_task,
        )
        for name, values in (('r', r), ('lora_alpha', lora_alpha)):
            if len(values) != 4:
                raise OptionError(
                    f'{name} is {list(values)} but must give one number for each of the four resolutions.'
                )

        def level(name: str) -> int:
            return LEVELS.get(name.split('.')[0], 0)

        add_lora(
            self,
            rank=lambda name: r[level(name)],
            alpha=lambda name: lora_alpha[level(name)],
            only=lambda name: name != 'skip_conv',
        )

    @classmethod
    def options_of(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict | None:
        """See ``Expert``; alpha is not stored and comes back as twice the rank, as in the release."""
        if 'patch_embed.proj.lora_A' not in shapes:
            return None
        plain = {key.replace('.conv.', '.'): shape for key, shape in shapes.items() if '.lora_' not in key}
        base = super().options_of(plain)
        parts = ['encoder_level1.0', 'encoder_level2.0', 'encoder_level3.0', 'latent.0']
        ranks = [shapes[f'{part}.attn.qkv.lora_A'][0] for part in parts]  # of a 1x1 convolution
        return base and {**base, 'r': ranks, 'lora_alpha': [2 * rank for rank in ranks]}
