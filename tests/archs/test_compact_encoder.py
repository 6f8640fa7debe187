"""CompactDegradationEncoder: shapes, native crops, gradients."""

from __future__ import annotations

import pytest
import torch

from basicsr_unirestorer.archs.compact_encoder_arch import CompactDegradationEncoder, native_crops


def encoder(**changes) -> CompactDegradationEncoder:
    torch.manual_seed(0)
    return CompactDegradationEncoder(
        **{'embed_dim': 16, 'width': 4, 'hidden': 8, 'crop_size': 24, 'num_crops': 3, **changes}
    )


@pytest.mark.parametrize('size', [(1, 1), (1, 40), (5, 7), (24, 24), (31, 90)])
def test_embeds_any_size_as_unit_vectors(size):
    embedding = encoder().embed(torch.rand(2, 3, *size))
    assert embedding.shape == (2, 16)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))


def test_crops_are_pixels_of_the_picture_and_never_resized():
    lq = torch.arange(2 * 30 * 50.0).reshape(2, 1, 30, 50)
    crops = native_crops(lq, 8, 5)
    assert crops.shape == (10, 1, 8, 8)
    for i, crop in enumerate(crops):
        assert crop[0, 0, 1] - crop[0, 0, 0] == 1
        assert crop[0, 1, 0] - crop[0, 0, 0] == 50
        assert (crop[0, 0, 0] >= 1500) == (i >= 5)  # crops of one picture stand together


def test_whole_pictures_are_resized_only_where_asked_for():
    fine = torch.rand(1, 3, 96, 96)  # noise alone, which resizing averages away
    flat = torch.full_like(fine, 0.5)
    native, resized = encoder(), encoder(whole_picture=True)
    resized.load_state_dict(native.state_dict())
    apart = {net: (net.embed(fine) - net.embed(flat)).norm().item() for net in (native, resized)}
    assert apart[resized] < 0.6 * apart[native]
    torch.testing.assert_close(resized.embed(fine), resized(fine))


def test_crops_spread_over_the_picture():
    lq = torch.arange(200.0).expand(1, 1, 200, 200)
    lefts = native_crops(lq, 20, 8)[:, 0, 0, 0]
    assert lefts.min() < 40
    assert lefts.max() > 140
    assert len(lefts.unique()) == 8


def test_embedding_is_the_same_alone_and_in_a_batch():
    net = encoder()
    lq = torch.rand(3, 3, 40, 40)
    torch.testing.assert_close(net.embed(lq)[1:2], net.embed(lq[1:2]), rtol=0, atol=1e-5)


def test_gradient_reaches_every_parameter():
    net = encoder()
    net(torch.rand(4, 3, 24, 24))[:, 0].sum().backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum()]


def test_size_is_a_few_hundred_thousand_parameters():
    assert 2e5 < sum(p.numel() for p in CompactDegradationEncoder().parameters()) < 6e5
