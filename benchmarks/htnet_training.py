"""Training throughput of HTNet against the reference: the field's model, with a DataLoader of per-frame samples.

    python benchmarks/htnet_training.py [--batch 512] [--steps 4] [--rounds 5] [--workers 0]

Both train the default model in fp32 with equal weights, batch, loss, optimizer and dropout, on the same data, taking
turns in one process. Prints JSON: milliseconds a step, frames a second and their ratio, medians over rounds.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')  # before torch is imported

from benchmarks import reference
from benchmarks.trainer import make_trainer
from common.commands.session import choose_device
from common.datasets import load_dataset
from common.models import graph
from common.skeleton import H36M
from common.storage.runlog import versions
from common.store import SequenceStore


def main() -> None:
    """Run all rounds and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--batch', type=int, default=512, help='frames of a step')
    parser.add_argument('--steps', type=int, default=4, help='steps of a round')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--workers', type=int, default=0, help='of the DataLoader')
    args = parser.parse_args()
    device = choose_device('auto')
    dataset = load_dataset('synthetic', Path(), 'gt')
    sequences = dataset.sequences(dataset.subjects_train)
    trainer = make_trainer(['--model', 'htnet', '-b', str(args.batch)], SequenceStore(sequences, H36M, H36M, device),
                           H36M)
    model = reference.HTNet(torch.from_numpy(graph.adjacency(len(H36M), H36M.edges))).to(device).train()
    model.load_state_dict(trainer.model.state_dict())
    optimizer = reference.make_optimizer(model)
    samples = [(i, frame, mirrored) for i, sequence in enumerate(sequences) for mirrored in (False, True)
               for frame in range(len(sequence.poses))]
    loader = reference.make_loader(reference.PerFrameSamples(sequences, samples, H36M.left, H36M.right), args.batch,
                                   args.workers)
    batches = endless(trainer)

    def ours():
        for _ in range(args.steps):
            trainer.gradient(next(batches), 1)
            trainer.optimizer.step()

    works = {'reference': lambda: reference.train_steps(model, loader, optimizer, args.steps), 'ours': ours}
    seconds = {name: [] for name in works}
    for round_ in range(args.rounds + 1):
        for name, work in works.items():
            begun = time.perf_counter()
            work()
            if device.type == 'cuda':
                torch.cuda.synchronize()
            if round_:  # the first one warms up
                seconds[name].append((time.perf_counter() - begun) / args.steps)
    ratios = [a / b for a, b in zip(seconds['reference'], seconds['ours'], strict=True)]
    print(json.dumps({
        'device': str(device), 'threads': torch.get_num_threads(), 'versions': versions(), 'batch': args.batch,
        'milliseconds_a_step': {name: round(1000 * statistics.median(s), 1) for name, s in seconds.items()},
        'frames_a_second': {name: round(args.batch / statistics.median(s)) for name, s in seconds.items()},
        'ratio': round(statistics.median(ratios), 2), 'ratios': [round(r, 2) for r in ratios]}, indent=1))


def endless(trainer):
    """Yield batches, epoch after epoch."""
    draw = 0
    while True:
        yield from trainer.sampler.epoch(draw, trainer.recipe.windows)
        draw += 1


if __name__ == '__main__':
    main()
