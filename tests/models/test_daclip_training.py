"""DA-CLIP in the encoder stage: its controller alone is trained, and an interrupted run ends like one left alone."""

from __future__ import annotations

import pytest
import torch

from basicsr_unirestorer.archs.building import build_encoder
from basicsr_unirestorer.archs.daclip_encoder_arch import DACLIPEncoder
from tests.pipeline_fixtures import assert_same_weights, interrupted_after, latest_weights, stage_options, train

NETWORK = {
    'type': 'DACLIPEncoder',
    'embed_dim': 16,
    'vision_cfg': {'image_size': 32, 'layers': 1, 'width': 64, 'patch_size': 16},
    'text_cfg': {'width': 16, 'heads': 2, 'layers': 1},
    'towers': ['control', 'text'],
}
STEPS = 12


def options(demo, text: dict, **changes) -> dict:
    return stage_options(
        demo,
        'encoder',
        {
            'network_g': NETWORK,
            'network_t': text,
            'datasets.train.gt_size': 32,
            'datasets.train.num_worker_per_gpu': 0,
            'datasets.train.batch_size_per_gpu': 16,
            'train.optim_g.lr': 1e-3,
            'train.total_iter': STEPS,
            'train.scheduler.periods': [STEPS],
            'logger.save_checkpoint_freq': 4,
            'logger.print_freq': 1,
            **changes,
        },
    )


def losses(folder) -> list[float]:
    log = next((folder / 'experiments' / 'demo_encoder').glob('train_*.log')).read_text()
    return [float(line.split('l_caption: ')[1].split()[0]) for line in log.splitlines() if 'l_caption: ' in line]


def test_training_moves_the_controller_alone_and_lowers_the_loss(smoke_demo, tmp_path):
    published = DACLIPEncoder(**{key: value for key, value in NETWORK.items() if key != 'type'}).state_dict()
    torch.save({'state_dict': {f'module.{key}': value for key, value in published.items()}}, tmp_path / 'daclip.pt')
    start = {'path.pretrain_network_g': str(tmp_path / 'daclip.pt')}
    opt = options(smoke_demo, {'type': 'CaptionEncoder', 'embed_dim': 16}, **start)
    assert train(tmp_path, opt) == 0
    found = losses(tmp_path)
    assert sum(found[-3:]) < 0.95 * sum(found[:3])
    weights = tmp_path / 'experiments/demo_encoder/models/net_g_latest.pth'
    encoder = build_encoder({**NETWORK, 'weights': str(weights)})
    for key, value in encoder.state_dict().items():
        silent = '.zero_modules.' in key  # they speak to the image tower, which takes no part
        assert torch.equal(value, published[key]) == (not key.startswith('visual_control.') or silent), key


def test_interrupted_training_ends_like_one_left_alone(smoke_demo, tmp_path):
    """Against the frozen text tower of CLIP, which needs the tokenizer."""
    pytest.importorskip('open_clip')
    text = {'type': 'DACLIPCaptionEncoder', 'embed_dim': 16, 'text_cfg': NETWORK['text_cfg']}
    opt = options(smoke_demo, text)
    alone, stopped = (tmp_path / name for name in ('alone', 'stopped'))
    alone.mkdir()
    stopped.mkdir()
    assert train(alone, opt) == 0
    with interrupted_after(opt['model_type'], 8):
        assert train(stopped, opt) == 130
    assert train(stopped, opt, '--auto_resume') == 0
    assert_same_weights(latest_weights(stopped, 'demo_encoder'), latest_weights(alone, 'demo_encoder'))
