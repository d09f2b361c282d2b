"""The cost of a run beside its training steps: finite check, checkpoints and log of every epoch.

    python benchmarks/bookkeeping.py [--frames 27] [--channels 512] [--depth 7] [--rounds 5]

Computes their share of a Human3.6M epoch from the step time measured on this device. Prints JSON.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')  # before torch is imported

from benchmarks.trainer import make_trainer
from common.commands.session import choose_device
from common.sequences import Sequence
from common.skeleton import H36M
from common.storage import checkpoint
from common.storage.runlog import RunLog, versions
from common.store import SequenceStore
from common.training.optimiser import CHECK_EVERY, FiniteCheck

H36M_FRAMES = 1_559_752  # training frames over four cameras


def main() -> None:
    """Run all measurements and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--frames', type=int, default=27, help='frames of a window')
    parser.add_argument('--channels', type=int, default=512)
    parser.add_argument('--depth', type=int, default=7)
    parser.add_argument('--rounds', type=int, default=5)
    args = parser.parse_args()
    device = choose_device('auto')
    random = np.random.default_rng(0)
    windows = 1024 // min(args.frames, 128)
    take = Sequence('S1', 'Walking', 0, random.normal(size=(windows * args.frames, 17, 2)).astype(np.float32),
                    random.normal(size=(windows * args.frames, 17, 3)).astype(np.float32))
    config = {'frames': args.frames, 'channels': args.channels, 'depth': args.depth}
    flags = ['-f', str(args.frames), '-cs', str(args.channels), '-dep', str(args.depth)]
    trainer = make_trainer(flags, SequenceStore([take], H36M, H36M, device), H36M)
    model, optimizer, sampler = trainer.model, trainer.optimizer, trainer.sampler
    batch = next(sampler.epoch(0, windows))
    check = FiniteCheck(optimizer, device)

    def step():
        trainer.gradient(batch, 1)
        optimizer.step()

    def look():
        check.look(torch.ones((), device=device), [p.grad for p in model.parameters()], 0)

    step()  # the optimizer's state now exists, as in every checkpoint
    with tempfile.TemporaryDirectory() as folder:
        log = RunLog.fresh(Path(folder) / 'log', {})
        content = {'config': config, **trainer.content()}
        seconds = {
            'step': median(step, args.rounds, device),
            'finite_check': median(look, args.rounds * 4, device),
            'reading_it': median(check.failed_step, args.rounds * 4, device),
            'save_last_and_best': median(lambda: checkpoint.save_last(Path(folder), content, ['best.bin']), args.rounds,
                                         device),
            'log_line': median(lambda: log.epoch({'epoch': 1, 'lr': 1.0, 'train_loss': 1.0}), args.rounds, device),
        }
        log.close()
    steps = -(-2 * H36M_FRAMES // args.frames // windows)
    extra = (steps * seconds['finite_check'] + steps / CHECK_EVERY * seconds['reading_it']
             + seconds['save_last_and_best'] + seconds['log_line'])
    print(json.dumps({'device': str(device), 'threads': torch.get_num_threads(), 'versions': versions(), **config,
                      'windows_a_step': windows, 'steps_an_epoch': steps, 'seconds': seconds,
                      'share_of_epoch': extra / (extra + steps * seconds['step'])}, indent=1))


def median(work, rounds: int, device: torch.device) -> float:
    """Return the median seconds of some rounds of the work, the time on the device included."""
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        if device.type == 'cuda':
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return round(statistics.median(times), 6)


if __name__ == '__main__':
    main()
