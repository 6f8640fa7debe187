"""Speed and memory of every expert network at release size, against the same network written down plainly.

Command: python -m tests.benchmarks.networks [--networks nafnetlocal ...] [--sizes 128 256] [--threads 2] [--repeats 5]

Both ways run in turns in one process, eager float32 on a CPU; a ratio above 1 says that ours takes less. Times are the
shortest runs, the ratio is the median over pairs. Memory is the peak of one forward pass beyond the weights, each in a
process of its own. With ``--device cuda`` ours runs as one would run it there: bfloat16 autocast, channels-last,
torch.compile. PSNR compares the two ways' outputs.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

from tests.benchmarks import measure
from tests.parity.golden import FOLDER, fill


@dataclass(frozen=True)
class Case:
    """An expert network: registered class, module of its plain form, fixture whose configuration counts."""

    network: str
    plain: str
    fixture: str | None = None


CASES = {
    'restormer_withbias': Case('RestormerExpert', 'plain_restormer', 'restormer_withbias_release'),
    'restormer_biasfree': Case('RestormerExpert', 'plain_restormer', 'restormer_biasfree_release'),
    'lorarestormer': Case('LoRARestormerExpert', 'plain_restormer', 'lorarestormer_release'),
    'retinexformer': Case('RetinexFormerExpert', 'plain_retinexformer', 'retinexformer_release'),
    'dehazeformer_l': Case('DehazeFormerExpert', 'plain_dehazeformer', 'dehazeformer_l_release'),
    'nafnetlocal': Case('NAFNetLocalExpert', 'plain_nafnet', 'nafnetlocal_release'),
    'nafnet_width32': Case('NAFNetExpert', 'plain_nafnet'),  # with its defaults
}


@dataclass(frozen=True)
class Row:
    """What is measured of one network at one size."""

    network: str
    size: int
    ratio: measure.Ratio
    plain_ms: float
    ours_ms: float
    plain_mib: float
    ours_mib: float
    psnr: float

    def line(self) -> str:
        low, high = self.ratio.low, self.ratio.high
        return (
            f'| {self.network} | {self.size} | **{self.ratio.median:.2f}** | {low:.2f} - {high:.2f} '
            f'| {self.plain_ms:.0f} | {self.ours_ms:.0f} | **{self.plain_mib / self.ours_mib:.2f}** '
            f'| {self.plain_mib:.0f} | {self.ours_mib:.0f} | {self.psnr:.0f} |'
        )


HEADER = """\
| network | size | time ratio | min - max | plain ms | ours ms | memory ratio | plain MiB | ours MiB | PSNR dB |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"""


def fill_weights(net: nn.Module) -> nn.Module:
    """Give every entry of a network its value by the fixtures' rule, which keeps activations sane, and evaluate."""
    kept = ('relative_positions', 'num_batches_tracked')
    weights = {
        key: torch.from_numpy(fill(key, tuple(value.shape)))
        for key, value in net.train().state_dict().items()
        if key.rsplit('.', 1)[-1] not in kept
    }
    net.load_state_dict(weights, strict=False)
    return net.eval().requires_grad_(False)


def build(name: str, plain: bool) -> nn.Module:
    """Build a network of release size, plain or ours; LoRA's factors are merged in ours."""
    from basicsr_unirestorer import register

    register()
    from basicsr_unirestorer.archs.building import make_network
    from basicsr_unirestorer.archs.lora import fuse_lora

    case = CASES[name]
    config = json.loads((FOLDER / f'{case.fixture}.json').read_text())['config'] if case.fixture else {}
    net = fill_weights(make_network({'type': case.network, **config}, name))
    return import_module(f'tests.benchmarks.{case.plain}').plain(net) if plain else fuse_lora(net)


def picture(size: int, device: str = 'cpu') -> Tensor:
    """Return a random picture, (1, 3, size, size), in [0, 1]."""
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)


def forward(net: nn.Module, lq: Tensor) -> Callable[[], Tensor]:
    """Return one inference of a network, waited for, as a function."""

    def run() -> Tensor:
        with torch.inference_mode():
            out = net(lq)
        if lq.is_cuda:
            torch.cuda.synchronize()
        return out

    return run


def prepare(name: str, plain: bool, size: int, threads: int) -> Callable[[], Tensor]:
    """Make a network ready for one measured inference; a small picture before it loads the libraries."""
    torch.set_num_threads(threads)
    net = build(name, plain)
    forward(net, picture(32))()
    return forward(net, picture(size))


def psnr(first: Tensor, second: Tensor) -> float:
    """Return the PSNR of one output against the other, in dB; infinite where they are equal."""
    return -10 * (first.double() - second.double()).square().mean().log10().item()


def row(name: str, size: int, runs: tuple[Callable, Callable], peaks: tuple[float, float], repeats: int) -> Row:
    """Time the plain way and ours; ``peaks`` are their bytes."""
    plain, ours = runs
    error = psnr(plain(), ours())
    pairs = measure.alternate(plain, ours, repeats)
    plain_ms, ours_ms = (1000 * min(times) for times in zip(*pairs, strict=True))
    plain_mib, ours_mib = (peak / 2**20 for peak in peaks)
    return Row(name, size, measure.ratio(pairs), plain_ms, ours_ms, plain_mib, ours_mib, error)


def on_cpu(name: str, sizes: list[int], threads: int, repeats: int) -> Iterator[Row]:
    """Measure one network in float32, eager."""
    torch.set_num_threads(threads)
    nets = build(name, plain=True), build(name, plain=False)
    for size in sizes:
        peaks = tuple(measure.peak_memory(prepare, name, plain, size, threads) for plain in (True, False))
        yield row(name, size, tuple(forward(net, picture(size)) for net in nets), peaks, repeats)


def on_cuda(name: str, sizes: list[int], repeats: int) -> Iterator[Row]:
    """Measure one network: plain in float32, ours in bfloat16 autocast, channels-last and compiled."""
    plain = build(name, plain=True).cuda()
    ours = torch.compile(build(name, plain=False).cuda().to(memory_format=torch.channels_last), dynamic=False)
    for size in sizes:
        lq = picture(size, 'cuda')
        runs = forward(plain, lq), torch.autocast('cuda', torch.bfloat16)(forward(ours, lq))
        yield row(name, size, runs, tuple(cuda_peak(run) for run in runs), repeats)


def cuda_peak(run: Callable[[], Tensor]) -> int:
    """Return the bytes that a function needs on the device at its peak, beyond what is there before."""
    run()  # compiles, and lets libraries choose their algorithms
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return torch.cuda.max_memory_allocated() - before


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--networks', nargs='+', choices=CASES, default=list(CASES), metavar='NAME', help=', '.join(CASES)
    )
    parser.add_argument('--sizes', nargs='+', type=int, default=[128, 256], help='sides of the picture')
    parser.add_argument('--threads', type=int, default=2, help='on a CPU')
    parser.add_argument('--repeats', type=int, default=5, help='pairs of runs')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--json', type=Path, metavar='FILE', help='where to write the numbers')
    args = parser.parse_args()
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: PyTorch sees no CUDA device here; leave the option out to measure on the CPU.')
    where = torch.cuda.get_device_name() if args.device == 'cuda' else f'{platform.machine()}, {args.threads} threads'
    print(f'{where}, PyTorch {torch.__version__}\n\n{HEADER}', flush=True)
    rows = []
    for name in args.networks:
        measured = (
            on_cuda(name, args.sizes, args.repeats)
            if args.device == 'cuda'
            else on_cpu(name, args.sizes, args.threads, args.repeats)
        )
        for found in measured:
            print(found.line(), flush=True)
            rows.append({**asdict(found), 'ratio': found.ratio._asdict()})
    if args.json:
        args.json.write_text(json.dumps({'where': where, 'torch': torch.__version__, 'rows': rows}, indent=1) + '\n')


if __name__ == '__main__':
    main()
