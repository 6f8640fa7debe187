"""The names that option files, bundles and other people's code rely on: none may vanish or change unnoticed."""

from __future__ import annotations

EXPERTS = {
    'RestormerExpert',
    'LoRARestormerExpert',
    'RetinexFormerExpert',
    'DehazeFormerExpert',
    'NAFNetExpert',
    'NAFNetLocalExpert',
}
ENCODERS = {'CompactDegradationEncoder', 'CaptionEncoder', 'DACLIPEncoder', 'DACLIPCaptionEncoder'}
ARCHS = {'UniRestorer', 'UniRestorerRouter'} | EXPERTS | ENCODERS
DATASETS = {'MixedDegradationLMDBDataset', 'RoutingSamplesDataset'}
LOSSES = {'DegradationGranularityLoss', 'LoadBalancingLoss', 'CaptionContrastiveLoss'}
MODELS = {'DegradationEncoderModel', 'UniRestorerExpertsModel', 'UniRestorerRoutingModel', 'UniRestorerModel'}


def test_registered_names_are_the_published_ones(registered):
    from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, MODEL_REGISTRY

    for registry, names in (
        (ARCH_REGISTRY, ARCHS),
        (DATASET_REGISTRY, DATASETS),
        (LOSS_REGISTRY, LOSSES),
        (MODEL_REGISTRY, MODELS),
    ):
        ours = {name for name, thing in registry if thing.__module__.startswith('basicsr_unirestorer.')}
        assert ours == names
