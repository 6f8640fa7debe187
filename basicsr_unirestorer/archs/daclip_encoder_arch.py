"""DA-CLIP as a degradation encoder: CLIP's image tower and a controller that reads how a picture is degraded.

Luo et al., ICLR 2024, arXiv 2310.01018. Written from the paper and from golden inputs and outputs; weights published
for DA-CLIP (MIT licence), for the release of UniRestorer and for CLIP ViT load unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from basicsr_unirestorer.archs.clip_tokens import tokenize
from basicsr_unirestorer.archs.compact_encoder_arch import native_crops
from basicsr_unirestorer.errors import DataError, OptionError, check_keys

TOWERS = ('control', 'image', 'text')
VISION = {'image_size': 224, 'layers': 12, 'width': 768, 'patch_size': 32, 'head_width': 64, 'mlp_ratio': 4.0}
TEXT = {'context_length': 77, 'vocab_size': 49408, 'width': 512, 'heads': 8, 'layers': 12}
# of CLIP's training pictures, RGB, [0, 1]
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class Attention(nn.Module):
    """Multi-head self-attention with the parameter names of torch's."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        # (n, tokens, 3 width) -> three times (n, heads, tokens, width / heads)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers with the exact GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))


class Block(nn.Module):
    """Attention, then the feed-forward, each behind a norm and added to its input: (n, tokens, width), in and out."""

    def __init__(self, width: int, heads: int, ratio: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, int(width * ratio))

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        x = x + self.attn(self.ln_1(x), causal)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """Blocks one after another."""

    def __init__(self, width: int, layers: int, heads: int, ratio: float = 4.0) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, ratio) for _ in range(layers))


class Controller(nn.Module):
    """A transformer each of whose blocks speaks through a linear layer that starts at zero."""

    def __init__(self, width: int, layers: int, heads: int, ratio: float) -> None:
        super().__init__()
        self.transformer = Transformer(width, layers, heads, ratio)
        self.zero_modules = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        for layer in self.zero_modules:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


class ImageTower(nn.Module):
    """A vision transformer; as a controller its blocks also speak."""

    def __init__(self, embed_dim: int, config: Mapping, controls: bool) -> None:
        super().__init__()
        width, patch = config['width'], config['patch_size']
        tokens = (config['image_size'] // patch) ** 2 + 1
        sizes = width, config['layers'], width // config['head_width'], config['mlp_ratio']
        self.class_embedding = nn.Parameter(width**-0.5 * torch.randn(width))
        self.positional_embedding = nn.Parameter(width**-0.5 * torch.randn(tokens, width))
        self.proj = nn.Parameter(width**-0.5 * torch.randn(width, embed_dim))
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Controller(*sizes) if controls else Transformer(*sizes)
        self.ln_post = nn.LayerNorm(width)

    def forward(self, images: Tensor, controls: Sequence[Tensor] = ()) -> Tensor:
        """Embed images: (n, 3, size, size) -> (n, embed_dim); ``controls[i]`` is added after block i."""
        x = self._tokens(images)
        for i, block in enumerate(self.transformer.resblocks):
            x = block(x)
            x = x + controls[i] if controls else x
        return self._embedding(x)

    def speak(self, images: Tensor, aloud: bool = True) -> tuple[Tensor, list[Tensor]]:
        """Embed images as a controller; also return what each block says, (n, tokens, width), unless not ``aloud``."""
        x = self._tokens(images)
        said = []
        for block, layer in zip(self.transformer.transformer.resblocks, self.transformer.zero_modules, strict=True):
            x = block(x)
            said += [layer(x)] if aloud else []
        return self._embedding(x), said

    def _tokens(self, images: Tensor) -> Tensor:
        patches = self.conv1(images).flatten(2).transpose(1, 2)  # (n, patches, width), row by row
        first = self.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        return self.ln_pre(torch.cat([first, patches], dim=1) + self.positional_embedding)

    def _embedding(self, x: Tensor) -> Tensor:
        return self.ln_post(x[:, 0]) @ self.proj


class CLIP(nn.Module):
    """CLIP's towers: those for images and texts, or one of them."""

    def __init__(self, embed_dim: int, vision: Mapping, text: Mapping, towers: Sequence[str]) -> None:
        super().__init__()
        width = text['width']
        if 'text' in towers:
            self.positional_embedding = nn.Parameter(0.01 * torch.randn(text['context_length'], width))
            self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(100.0).log())
        if 'image' in towers:
            self.visual = ImageTower(embed_dim, vision, controls=False)
        if 'text' in towers:
            self.transformer = Transformer(width, text['layers'], text['heads'])
            self.token_embedding = nn.Embedding(text['vocab_size'], width)
            self.ln_final = nn.LayerNorm(width)

    def encode_text(self, token_ids: Tensor) -> Tensor:
        """Embed texts: (n, context_length) token ids -> (n, embed_dim), not normalised."""
        x = self.token_embedding(token_ids) + self.positional_embedding
        for block in self.transformer.resblocks:
            x = block(x, causal=True)
        x = self.ln_final(x)
        end = token_ids.argmax(dim=1)  # the end of a text is the largest token
        return x[torch.arange(len(x), device=x.device), end] @ self.text_projection


def configuration(given: Mapping | None, defaults: Mapping, where: str) -> dict:
    """Fill up a tower's configuration; raises OptionError for an unknown key."""
    check_keys(given or {}, defaults, where)
    return {**defaults, **(given or {})}


def without_prefix(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries of DA-CLIP in a state dict: those of a whole release, or all."""
    prefix = 'daclip_model.'
    inside = {key.removeprefix(prefix): value for key, value in params.items() if key.startswith(prefix)}
    return inside or dict(params)


def whole_picture(lq: Tensor, size: int) -> Tensor:
    """Shrink or grow pictures to squares, as the release does: their middle, and 8-bit values.

    Args:
        lq: Shape (n, 3, h, w), RGB, [0, 1].
        size: Side of the squares; the shorter side gets this length (bicubic, antialiased), the longer one is cut.

    Returns:
        Shape (n, 3, size, size), RGB, [0, 1].
    """
    h, w = map(int, lq.shape[-2:])
    short = min(h, w)
    sides = [size if side == short else int(size * side / short) for side in (h, w)]
    levels = (lq.clamp(0, 1) * 255).round()
    for rows_columns in ((h, sides[1]), sides):  # as Pillow: columns first, then rows, each time in 8 bits
        levels = F.interpolate(levels, rows_columns, mode='bicubic', antialias=True).round().clamp(0, 255)
    top, left = (int(round((side - size) / 2)) for side in sides)
    return levels[..., top : top + size, left : left + size] / 255


@ARCH_REGISTRY.register()
class DACLIPEncoder(nn.Module):
    """DA-CLIP: degradation embeddings from its controller, content embeddings from the image tower it steers.

    Only the controller is trained. It never sees the image tower, so routing needs no more than ``towers: [control]``.

    Args:
        embed_dim: Length of an embedding.
        vision_cfg: ``image_size``, ``layers``, ``width``, ``patch_size``, ``head_width`` and ``mlp_ratio`` of the image
            tower and the controller.
        text_cfg: ``context_length``, ``vocab_size``, ``width``, ``heads``, ``layers`` of the text tower.
        towers: What is built: ``control``, ``image``, ``text``.
        resize: How ``embed`` reads a picture: as crops at native resolution or, as the release does, resized as a
            whole, which erases noise and compression.
        num_crops: Crops a picture that ``embed`` averages.
        normalize: Whether embeddings have unit length; the released router takes them raw.

    Raises:
        OptionError: An unknown key or tower, or no controller.
    """

    def __init__(
        self,
        embed_dim: int = 512,
        vision_cfg: Mapping | None = None,
        text_cfg: Mapping | None = None,
        towers: Sequence[str] = TOWERS,
        resize: bool = False,
        num_crops: int = 5,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        vision = configuration(vision_cfg, VISION, 'vision_cfg')
        text = configuration(text_cfg, TEXT, 'text_cfg')
        check_keys(dict.fromkeys(towers), TOWERS, 'towers')
        if 'control' not in towers:
            raise OptionError(f"towers is {list(towers)} but needs 'control', which embeds degradations.")
        self.embed_dim = embed_dim
        self.crop_size = vision['image_size']
        self.towers = tuple(towers)
        self.resize = resize
        self.num_crops = num_crops
        self.normalize = normalize
        if len(towers) > 1:
            self.logit_scale = nn.Parameter(torch.tensor(100.0).log())
            self.clip = CLIP(embed_dim, vision, text, towers)
            if 'image' in towers:
                self.visual = self.clip.visual  # published weights list it under both names
            self.clip.requires_grad_(False)
            self.logit_scale.requires_grad_(False)
        self.visual_control = ImageTower(embed_dim, vision, controls=True)

    def forward(self, crops: Tensor) -> Tensor:
        """Embed how crops are degraded.

        Args:
            crops: Shape (n, 3, crop_size, crop_size), RGB, [0, 1].

        Returns:
            Shape (n, embed_dim).

        Raises:
            DataError: Crops of another shape.
        """
        if crops.ndim != 4 or tuple(crops.shape[1:]) != (3, self.crop_size, self.crop_size):
            raise DataError(
                f'DACLIPEncoder takes RGB crops of shape (n, 3, {self.crop_size}, {self.crop_size}), but got '
                f'{tuple(crops.shape)}; set gt_size: {self.crop_size}, or embed whole pictures with embed().'
            )
        mean, std = (crops.new_tensor(values)[:, None, None] for values in (MEAN, STD))
        return self._finished(self.encode_degradation((crops - mean) / std))

    def embed(self, lq: Tensor) -> Tensor:
        """Embed whole pictures of any size, shape (n, 3, h, w), RGB, [0, 1] -> (n, embed_dim)."""
        if self.resize:
            return self(whole_picture(lq, self.crop_size))
        embeddings = self(native_crops(lq, self.crop_size, self.num_crops))
        return self._finished(embeddings.unflatten(0, (-1, self.num_crops)).mean(dim=1))

    def _finished(self, embeddings: Tensor) -> Tensor:
        return F.normalize(embeddings, dim=1) if self.normalize else embeddings

    def encode_degradation(self, images: Tensor) -> Tensor:
        """Embed the degradation of images normalised as CLIP's, (n, 3, size, size) -> (n, embed_dim), raw."""
        return self.visual_control.speak(images, aloud=False)[0]

    def encode_image(self, images: Tensor, control: bool = True) -> tuple[Tensor, Tensor | None]:
        """Embed content and degradation of images normalised as CLIP's.

        Args:
            images: Shape (n, 3, size, size).
            control: Whether the controller steers the image tower, which then sees the content through the degradation.

        Returns:
            Content and degradation embeddings, (n, embed_dim) each, raw; None for the latter without control.

        Raises:
            OptionError: The image tower is not built.
        """
        self._need('image')
        if not control:
            return self.clip.visual(images), None
        degradation, said = self.visual_control.speak(images)
        return self.clip.visual(images, said[::-1]), degradation

    def encode_text(self, token_ids: Tensor) -> Tensor:
        """Embed texts, (n, context_length) -> (n, embed_dim), raw; raises OptionError without the text tower."""
        self._need('text')
        return self.clip.encode_text(token_ids)

    def _need(self, tower: str) -> None:
        if tower not in self.towers:
            raise OptionError(f'This DACLIPEncoder has no {tower} tower; build it with towers: [control, {tower}].')

    def own_part(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pick what this network needs out of the weights of DA-CLIP, of a whole release, or of plain CLIP.

        Plain CLIP has no controller: it starts as a copy of the image tower, and its blocks say nothing yet.

        Args:
            params: A state dict; what is missing in it is missing in the result.
        """
        params = without_prefix(params)
        if 'visual.proj' in params and not any(key.startswith('visual_control.') for key in params):
            params = self._from_clip(params)
        return {key: params[key] for key in self.state_dict() if key in params}

    def _from_clip(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        ours = {f'clip.{key}': value for key, value in params.items()}
        ours |= {key: value for key, value in params.items() if key.startswith('visual.') or key == 'logit_scale'}
        for key, value in params.items():
            if key.startswith('visual.'):
                ours['visual_control.' + key[7:].replace('transformer.', 'transformer.transformer.', 1)] = value
        silent = {k: torch.zeros(v.shape) for k, v in self.state_dict().items() if '.zero_modules.' in k}
        return ours | silent


@ARCH_REGISTRY.register()
class DACLIPCaptionEncoder(nn.Module):
    """Embed degradation captions with CLIP's frozen text tower, the words that DA-CLIP was trained against.

    Args:
        embed_dim: Length of an embedding.
        text_cfg: As of ``DACLIPEncoder``.
    """

    def __init__(self, embed_dim: int = 512, text_cfg: Mapping | None = None) -> None:
        super().__init__()
        text = configuration(text_cfg, TEXT, 'text_cfg')
        self.context_length = text['context_length']
        self.clip = CLIP(embed_dim, VISION, text, ['text']).requires_grad_(False)

    def forward(self, captions: Sequence[str]) -> Tensor:
        """Return unit vectors, shape (len(captions), embed_dim); raises OptionError without the tokenizer's package."""
        tokens = tokenize(captions, self.context_length).to(self.clip.text_projection.device)
        return F.normalize(self.clip.encode_text(tokens), dim=1)

    def own_part(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pick the text tower out of the weights of DA-CLIP, of a whole release, or of plain CLIP."""
        params = without_prefix(params)
        params = params if 'clip.text_projection' in params else {f'clip.{key}': v for key, v in params.items()}
        return {key: params[key] for key in self.state_dict() if key in params}
