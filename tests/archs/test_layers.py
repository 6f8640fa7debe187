"""Layers that several networks share: strips of a picture, channels mixed and projected at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from basicsr_unirestorer.archs.layers import ChannelNorm, in_strips, mix_channels


def picture(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def blur_of(channels: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)))  # looks two rows up and down


@pytest.mark.parametrize('height', [7, 8, 9, 30])
def test_strips_join_to_the_whole_picture(height):
    blur, x, y = blur_of(2), picture(2, 2, height, 6), picture(2, 2, height, 6) + 1
    with torch.no_grad():
        joined = in_strips(lambda x, y: blur(x) * y, (x, y), halo=2, width=2**20)
        torch.testing.assert_close(joined, blur(x) * y, rtol=0, atol=1e-6)


def test_what_comes_after_sees_every_pixel_once():
    blur, x, seen = blur_of(2), picture(1, 2, 21, 6), []

    def then(strip: Tensor) -> Tensor:
        seen.append(strip)
        return 2 * strip

    with torch.no_grad():
        joined = in_strips(blur, (x,), halo=2, width=2**20, then=then)
        torch.testing.assert_close(joined, 2 * blur(x), rtol=0, atol=1e-6)
        torch.testing.assert_close(torch.cat(seen, dim=2), blur(x), rtol=0, atol=1e-6)
    assert len(seen) == 3


def test_with_gradients_the_whole_picture_is_computed_at_once():
    seen = []
    x = picture(1, 2, 64, 6).requires_grad_()
    in_strips(lambda x: seen.append(x.shape) or x * 2, (x,), halo=0, width=2**20).sum().backward()
    assert seen == [x.shape] and (x.grad == 2).all()


def test_channel_norm_is_the_layer_norm_of_every_pixel():
    norm = ChannelNorm(5)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    x = picture(2, 5, 3, 4)
    for row, column in ((0, 0), (2, 3)):
        pixel = x[:, :, row, column]
        expected = (pixel - pixel.mean(1, keepdim=True)) / (pixel.var(1, keepdim=True, correction=0) + 1e-6).sqrt()
        torch.testing.assert_close(norm(x)[:, :, row, column], expected * norm.weight + norm.bias)


@pytest.mark.parametrize('bias', [None, picture(7)])
def test_mixing_channels_is_attention_then_projection(bias):
    v, weights, project = picture(2, 9, 6), picture(2, 3, 2, 2), picture(7, 6)
    attended = torch.einsum('nhde,nphe->nphd', weights, v.unflatten(-1, (3, 2))).flatten(2)
    expected = attended @ project.T + (0 if bias is None else bias)
    torch.testing.assert_close(mix_channels(v, weights, project, bias), expected)
