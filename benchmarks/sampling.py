"""The cost of sampling hypotheses, against the passes of the denoiser alone, and what it takes of memory.

    python benchmarks/sampling.py [--hypotheses 5] [--iterations 5] [--rounds 7] [--windows 8] [FLAGS]

`passes`: a sampling of P hypotheses in K iterations with mirroring, and 2 P K passes of the denoiser over the same
windows in batches of the same size, in turns in one process. `memory`: the peak of evaluating 4,000 and 20,000 test
windows with a denoiser that computes nothing, in a process each. FLAGS are sizes, as run_ktpformer.py takes them, such
as -f 81 -cs 64. Prints a line for each, then JSON; the ratio is the median over rounds of pairs next to each other.
"""

import argparse
import json
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')  # before torch is imported

import numpy as np
import torch

from benchmarks.contestant import memory
from common.augment import Batch, Mirror
from common.cli.parser import parse
from common.commands.session import choose_device
from common.evaluation.hypotheses import TOGETHER, hypotheses
from common.models import build_model, computing
from common.models.diffusion import Diffusion
from common.models.lifter import FRAMES_PER_BATCH, Lifter
from common.models.lifting import windows_for
from common.sequences import Sequence
from common.skeleton import H36M
from common.storage.runlog import versions
from common.store import SequenceStore


def passes(model: Lifter, count: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of samplings of `count` windows, and of as many passes, and the median of their ratios."""
    device = next(model.parameters()).device
    mirror = Mirror(torch.tensor(H36M.mirror, device=device), torch.tensor(H36M.mirror, device=device))
    view = Batch(torch.randn(count, model.frames, len(H36M), 2, device=device), window=torch.arange(count))
    rows = count * model.hypotheses
    most = max(1, FRAMES_PER_BATCH[device.type] // model.frames)
    batches = -(-rows // most)
    seen = torch.randn(2 * -(-rows // batches), model.frames, len(H36M), 5, device=device)
    told = torch.full((len(seen),), 500, device=device)

    def seconds_of(run: Any) -> float:
        begun = time.perf_counter()
        run()
        if device.type == 'cuda':
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    def plain() -> None:
        for _ in range(batches * model.iterations):
            model.core(seen, told)

    with torch.inference_mode():
        plain()
        pairs = [(seconds_of(lambda: model.sampled(view, mirror)), seconds_of(plain)) for _ in range(rounds)]
    ratios = [sampled / alone for sampled, alone in pairs]
    return {'sampled': [sampled for sampled, _ in pairs], 'passes': [alone for _, alone in pairs],
            'ratio': statistics.median(ratios), 'lowest': min(ratios), 'highest': max(ratios)}


class Nothing(Lifter):
    """A denoiser that takes the noisy pose for the pose."""

    title = 'nothing'

    def __init__(self, frames: int):
        torch.nn.Module.__init__(self)
        self.frames, self.answers = frames, range(frames)
        self.recipe = build_model('mixste', {'frames': 1, 'channels': 8, 'depth': 1}, H36M, H36M).recipe

    def forward(self, x: torch.Tensor, time: torch.Tensor | None = None) -> torch.Tensor:
        """Return the noisy pose (B, F, J, 3) of (B, F, J, 5)."""
        return x[..., 2:]


def peak_of(count: int, frames: int, p: int, k: int) -> float:
    """Return the gigabytes that evaluating so many windows takes at its peak beyond data and program."""
    random = np.random.default_rng(0)
    takes = [Sequence('S9', f'Take {i}', 0, random.normal(size=(10 * frames, 17, 2)).astype(np.float32),
                      random.normal(size=(10 * frames, 17, 3)).astype(np.float32),
                      root=random.normal(size=(10 * frames, 3)).astype(np.float32) + [0, 0, 5],
                      intrinsic=np.array([2, 2, 0, 0, 0, 0, 0, 0, 0], np.float32)) for i in range(count // 10)]
    store = SequenceStore(takes, H36M, H36M, torch.device('cpu'))
    model = Diffusion(Nothing(frames), H36M)
    model.hypotheses, model.iterations = p, k
    windows = windows_for(model, store)
    before = memory(store.device)
    for piece in windows.pieces(store, 1 << 16):
        hypotheses(model, store, piece, 'zero', True, TOGETHER, range(k - 1, k))
    return memory(store.device) - before


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in (('hypotheses', 5), ('iterations', 5), ('rounds', 7), ('windows', 8)):
        parser.add_argument(f'--{name}', type=int, default=usual)
    parser.add_argument('--device', default='auto')
    args, flags = parser.parse_known_args()
    device = choose_device(args.device)
    computing.keep_freed_memory(device)
    sizes = parse(['--model', 'mixste', *flags]).model.sizes()
    model = build_model('mixste', {**sizes, 'diffusion': True}, H36M, H36M).to(device).eval()
    model.hypotheses, model.iterations = args.hypotheses, args.iterations
    result: dict[str, Any] = {'device': str(device), 'threads': torch.get_num_threads(), 'versions': versions(),
                              'frames': model.frames, **vars(args)}
    result['passes'] = passes(model, args.windows, args.rounds)
    print(f'sampling / passes: {result["passes"]["ratio"]:.3f} ({result["passes"]["lowest"]:.3f} to '
          f'{result["passes"]["highest"]:.3f})')
    result['memory'] = {}
    for count in (4_000, 20_000):
        with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
            result['memory'][count] = pool.submit(peak_of, count, model.frames, args.hypotheses,
                                                  args.iterations).result()
        print(f'{count:,} windows: {result["memory"][count]:.3f} GB beyond data and program')
    print(json.dumps(result))


if __name__ == '__main__':
    main()
