"""NAFNetLocalExpert: parity with golden outputs, windows, sliding means, any size, gradients; its plain form."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from basicsr_unirestorer.archs.nafnet_expert_arch import NAFNetExpert
from basicsr_unirestorer.archs.nafnet_local_expert_arch import (
    FastLocalPool,
    LocalPool,
    NAFNetLocalExpert,
    sliding_means,
    window_means,
)
from basicsr_unirestorer.errors import OptionError
from tests.benchmarks.plain_nafnet import plain
from tests.parity.golden import Golden, assert_parity, fill

TINY = {'width': 4, 'middle_blk_num': 1, 'enc_blk_nums': [1, 1], 'dec_blk_nums': [1, 1]}
LOCAL = {**TINY, 'train_size': [1, 3, 16, 24]}


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def filled(net: NAFNetExpert) -> NAFNetExpert:
    """Fill a network by the fixtures' weight rule, but with ten times the attention, so that pooling matters."""
    weights = {key: torch.from_numpy(fill(key, tuple(value.shape))) for key, value in net.state_dict().items()}
    net.load_state_dict({key: 10 * v if key.endswith('sca.1.weight') else v for key, v in weights.items()})
    return net.eval()


def windows(net: NAFNetLocalExpert) -> list[tuple[int, int]]:
    """The windows from the finest stage to the coarsest."""
    return [stage[0].sca[0].window for stage in (*net.encoders, net.middle_blks)]


@pytest.mark.parametrize('name', ['nafnetlocal_small', 'nafnetlocal_small_fast'])
def test_outputs_and_intermediates_equal_the_golden_ones(name):
    assert_parity(name, NAFNetLocalExpert)


@pytest.mark.slow
def test_release_outputs_and_intermediates_equal_the_golden_ones():
    assert_parity('nafnetlocal_release', NAFNetLocalExpert)


def test_options_are_read_off_the_weights_except_the_windows():
    golden = Golden('nafnetlocal_small')
    expected = {**golden.config, 'train_size': [1, 3, 256, 256], 'fast_imp': False}
    assert NAFNetLocalExpert.options_of(golden.shapes) == expected
    assert NAFNetLocalExpert.options_of({'intro.weight': (4, 3, 3, 3)}) is None


def test_weights_of_nafnet_fit():
    assert list(NAFNetLocalExpert(**LOCAL).state_dict()) == list(NAFNetExpert(**TINY).state_dict())


def test_windows_of_the_release():
    net = NAFNetLocalExpert(width=4)
    assert windows(net) == [(384, 384), (192, 192), (96, 96), (48, 48), (24, 24)]
    assert [stage[0].sca[0].window[0] for stage in net.decoders] == [48, 96, 192, 384]


def test_windows_follow_the_padded_training_picture_in_whole_numbers():
    # 17 and 33 pixels are padded to 20 and 36; 1.5 times the picture is 25 and 49 pixels
    net = NAFNetLocalExpert(**TINY, train_size=[1, 3, 17, 33], fast_imp=True)
    assert windows(net) == [
        (20 * 25 // 17, 36 * 49 // 33),
        (10 * 25 // 17, 18 * 49 // 33),
        (5 * 25 // 17, 9 * 49 // 33),
    ]
    assert [stage[0].sca[0].max_steps for stage in net.encoders] == [(5, 5), (2, 2)]
    assert net.middle_blks[0].sca[0].max_steps == (1, 1)


def test_construction_draws_nothing_beyond_the_weights_and_leaves_the_mode():
    states = []
    for build in (lambda: NAFNetExpert(**TINY), lambda: NAFNetLocalExpert(**LOCAL)):
        torch.manual_seed(0)
        assert build().training
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.parametrize('train_size', [[], [256, 256], [1, 3, 0, 256], [1, 3, 256, -8], [1, 3, 64.0, 64], 256, '1333'])
def test_a_training_size_that_is_none_is_refused(train_size):
    with pytest.raises(OptionError, match='train_size is .*give four positive whole numbers'):
        NAFNetLocalExpert(**TINY, train_size=train_size)


def test_the_shape_of_a_tensor_is_a_training_size():
    assert windows(NAFNetLocalExpert(**TINY, train_size=torch.empty(1, 3, 8, 8).shape))[0] == (12, 12)


@pytest.mark.parametrize('width', [1, 2, 5, 11, 12, 40])
@pytest.mark.parametrize('dim', [0, 1, 2])
def test_sliding_means_equal_the_means_of_all_runs(width, dim):
    x = noise(12, 12, 12, dtype=torch.float64)
    expected = x.unfold(dim, min(width, 12), 1).mean(-1)
    torch.testing.assert_close(sliding_means(x, width, dim), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_sliding_means_of_half_precision_are_summed_in_single(dtype):
    x = noise(2000, dtype=dtype)
    expected = x.double().unfold(0, 300, 1).mean(-1)
    means = sliding_means(x, 300, 0)
    assert means.dtype == torch.float32 and (means - expected).abs().max() < 1e-5


def test_window_means_of_a_large_bright_picture_stay_accurate():
    """Sums from the picture's corner, in float32, are off by 1e-4 here."""
    x = 0.9 + 0.1 * noise(1, 1, 1500, 1500)
    expected = F.avg_pool2d(F.avg_pool2d(x.double(), (1, 48), 1), (48, 1), 1)
    assert (window_means(x, (48, 48)) - expected).abs().max() < 2e-6


@pytest.mark.parametrize('window', [(3, 3), (4, 5), (9, 2), (2, 9), (50, 3), (3, 50)])
def test_a_pixel_gets_the_mean_of_the_nearest_window_inside(window):
    x = noise(2, 3, 12, 17, dtype=torch.float64)
    pooled = LocalPool(window)(x).expand_as(x)
    rows, columns = min(window[0], 12), min(window[1], 17)
    for row, column in ((0, 0), (5, 7), (11, 16), (2, 15)):
        top = min(max(row - (12 - (12 - rows + 1)) // 2, 0), 12 - rows)
        left = min(max(column - (17 - (17 - columns + 1)) // 2, 0), 17 - columns)
        expected = x[..., top : top + rows, left : left + columns].mean((-2, -1))
        torch.testing.assert_close(pooled[..., row, column], expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize('pool', [LocalPool((12, 17)), FastLocalPool((12, 17), (5, 5))])
def test_a_picture_inside_the_window_has_one_mean(pool):
    x = noise(2, 3, 12, 17)
    torch.testing.assert_close(pool(x), x.mean((2, 3), keepdim=True))


@pytest.mark.parametrize('size', [(1, 30), (30, 1), (2, 60), (7, 13), (25, 40)])
@pytest.mark.parametrize('most', [1, 2, 5])
def test_fast_pooling_keeps_any_size_and_a_constant(size, most):
    x = torch.full((1, 2, *size), 0.7)
    pooled = FastLocalPool((8, 8), (most, most))(x)
    torch.testing.assert_close(pooled.expand_as(x), x)


@pytest.mark.parametrize('fast', [False, True])
@pytest.mark.parametrize('size', [(1, 1), (7, 9), (8, 8), (33, 50), (8, 200)])
def test_keeps_any_size_and_treats_pictures_of_a_batch_alone(size, fast):
    net = filled(NAFNetLocalExpert(**LOCAL, fast_imp=fast))
    lq = noise(2, 3, *size)
    with torch.no_grad():
        out = net(lq)
        torch.testing.assert_close(out[1:], net(lq[1:]), rtol=0, atol=1e-6)
    assert out.shape == lq.shape


def test_a_picture_inside_the_windows_comes_out_as_from_nafnet():
    lq = noise(1, 3, 24, 36)  # 1.5 times the training picture
    local, whole = filled(NAFNetLocalExpert(**LOCAL)), filled(NAFNetExpert(**TINY))
    with torch.no_grad():
        torch.testing.assert_close(local(lq), whole(lq), rtol=0, atol=1e-6)
        larger = noise(1, 3, 32, 48)
        assert (local(larger) - whole(larger)).abs().max() > 1e-4


@pytest.mark.parametrize('fast', [False, True])
def test_training_pools_as_evaluation_does(fast):
    net, lq = filled(NAFNetLocalExpert(**LOCAL, fast_imp=fast)), noise(1, 3, 40, 56)
    with torch.no_grad():
        assert torch.equal(net.train()(lq), net.eval()(lq))


@pytest.mark.parametrize('fast', [False, True])
def test_gradient_reaches_every_parameter(fast):
    net = filled(NAFNetLocalExpert(**LOCAL, fast_imp=fast))
    net(noise(1, 3, 40, 56)).square().sum().backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum()]


def test_the_gradient_of_the_pooling_is_right():
    x = noise(1, 2, 6, 10, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(LocalPool((4, 3)), x)
    assert torch.autograd.gradcheck(FastLocalPool((4, 4), (2, 2)), x)


@pytest.mark.parametrize('fast', [False, True])
def test_bfloat16_stays_close(fast):
    net, lq = filled(NAFNetLocalExpert(**LOCAL, fast_imp=fast)), noise(1, 3, 48, 64)
    with torch.no_grad():
        expected = net(lq)
        with torch.autocast('cpu', torch.bfloat16):
            error = (net(lq) - expected).square().mean()
        assert -10 * error.log10() > 50
        assert net.bfloat16()(lq.bfloat16()).dtype == torch.bfloat16


def test_tiles_are_nearer_the_whole_picture_than_with_global_pooling():
    lq = noise(1, 3, 96, 144) * torch.linspace(0.1, 1, 144)
    errors = []
    for net in (filled(NAFNetLocalExpert(**LOCAL)), filled(NAFNetExpert(**TINY))):
        with torch.no_grad():
            error = (net(lq[..., 16:80, 32:112]) - net(lq)[..., 16:80, 32:112]).abs()
        errors.append([error[..., 24:40, 32:48].max(), error.max()])  # in the tile's middle, anywhere
    (middle, anywhere), (middle_global, _) = errors
    assert middle < middle_global / 10
    assert anywhere > 1e-4 and NAFNetLocalExpert.facts.tiles == 'approximate'


def test_weights_are_assigned_to_a_network_without_memory():
    source = filled(NAFNetLocalExpert(**LOCAL))
    with torch.device('meta'):
        net = NAFNetLocalExpert(**LOCAL)
    net.load_state_dict(source.state_dict(), assign=True)
    lq = noise(1, 3, 40, 56)
    with torch.no_grad():
        assert torch.equal(net.eval()(lq), source(lq))


@pytest.mark.parametrize('options', [{}, {'train_size': [1, 3, 16, 24]}])
@pytest.mark.parametrize('size', [(1, 1), (33, 50), (24, 96), (96, 24)])
def test_the_plain_form_computes_the_same(options, size):
    net = filled((NAFNetLocalExpert if options else NAFNetExpert)(**TINY, **options))
    lq, copy = noise(2, 3, *size), plain(net)
    with torch.no_grad():
        torch.testing.assert_close(copy(lq), net(lq), rtol=0, atol=1e-5)
    assert not copy.facts.channels_last and net.facts.channels_last
    assert 'forward' not in vars(net.encoders[0][0]) and copy.intro.weight.data_ptr() != net.intro.weight.data_ptr()
