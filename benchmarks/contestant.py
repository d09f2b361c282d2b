"""One side of a comparison of speed, in its own process: benchmarks/speed.py starts several, which take turns.

    python benchmarks/contestant.py reference|ours [FLAGS OF run_ktpformer.py] [--windows N]

Reads lines of work from standard input, `step`, `evaluation` or `parts`. Does each once and answers with a line of
JSON: seconds, and the peak of memory since the start in GB, less the memory held before there was a model. Under
torchrun the processes share the work and the first one answers. Letters: B windows, F frames, J joints.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')  # before torch is imported

import numpy as np
import torch

from benchmarks import reference
from benchmarks.trainer import make_trainer
from common import distributed
from common.augment import mirror
from common.commands.session import choose_device
from common.losses import pose_loss
from common.models import graph
from common.models.computing import computing_in
from common.models.lifting import predictions
from common.sampler import TestWindows
from common.sequences import Sequence
from common.skeleton import H36M
from common.storage.runlog import Progress
from common.store import SequenceStore
from common.training.optimiser import FiniteCheck


def main() -> None:
    """Make the contestant, report that it is ready, and do the work that standard input asks for until it ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('side', choices=('reference', 'ours'))
    parser.add_argument('-f', '--frames', type=int, default=243, help='of a window')
    parser.add_argument('--windows', type=int, default=1, help='of a step')
    args, flags = parser.parse_known_args()
    device = choose_device('auto')
    before = memory(device)
    flags += ['-f', str(args.frames), '-b', str(args.windows), '-s', '1']
    with distributed.join(device.type) as world:
        side = {'reference': Reference, 'ours': Ours}[args.side]
        trainer = make_trainer(flags, random_store(args.windows * args.frames, device), H36M, world, side is Ours)
        works = side(trainer).works()
        del trainer  # frees its memory; the reference does not need it
        answer(world, {'ready': True})
        while line := world.told(sys.stdin.readline() if world.first else None).strip():
            begun = time.perf_counter()
            said = works[line]() or {}
            if device.type == 'cuda':
                torch.cuda.synchronize()
            answer(world, {'seconds': time.perf_counter() - begun, 'gigabytes': memory(device) - before, **said})


def answer(world: distributed.World, said: dict) -> None:
    """Write a line for the process that asked."""
    if world.first:
        print(json.dumps(said), flush=True)


def memory(device: torch.device) -> float:
    """Return the peak memory so far, GB."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path('/proc/self/status').read_text()  # ru_maxrss would begin with the peak of the process that started it
    return 1024 * int(status.split('VmHWM:')[1].split()[0]) / 1e9


def random_store(frames: int, device: torch.device) -> SequenceStore:
    """Make one random sequence of twice the frames of a step."""
    random = np.random.default_rng(0)
    take = Sequence('S1', 'Walking', 0, *(random.normal(size=(2 * frames, 17, n)).astype(np.float32) for n in (2, 3)))
    return SequenceStore([take], H36M, H36M, device)


class Ours:
    """The program's own training step and evaluation."""

    def __init__(self, trainer):
        self.trainer, self.store = trainer, trainer.sampler.store
        self.check = FiniteCheck(trainer.optimizer, self.store.device)
        self.draw, self.batches = 0, iter(())

    def works(self) -> dict[str, Callable]:
        """Return the kinds of work by name."""
        return {'step': self.step, 'evaluation': self.evaluation, 'parts': self.parts}

    def step(self) -> None:
        """Make one step as in an epoch: gather, forward, backward, finite check, update."""
        trainer = self.trainer
        step = next(self.batches, None)
        if step is None:
            self.draw += 1
            self.batches = trainer.sampler.epoch(self.draw, trainer.recipe.windows, trainer.world.share)
            step = next(self.batches)
        loss = trainer.gradient(step, 1)
        self.check.look(loss, [p.grad for p in trainer.model.parameters()], 0)
        trainer.optimizer.step()

    def evaluation(self) -> None:
        """Predict all windows, mirrored and not."""
        windows = TestWindows.of(self.store, self.trainer.sampler.frames)
        with computing_in(self.trainer.model, self.trainer.judged_in):
            predictions(self.trainer.model, self.store, windows)

    def parts(self) -> dict[str, float]:
        """Return the median seconds of a step's parts beside the model: gather and flip, loss, finite check, log."""
        trainer, recipe = self.trainer, self.trainer.recipe
        batch = next(trainer.sampler.epoch(0, recipe.windows)).batch
        predicted = torch.randn_like(batch.poses, requires_grad=True)
        for p in trainer.model.parameters():
            p.grad = torch.zeros_like(p)
        gradients = [p.grad for p in trainer.model.parameters()]
        bar = Progress('', 1, True)

        def log():
            bar.step(1, predicted)
            self.check.failed_step()  # in every step, while a run asks only every fiftieth
        works = {'gather_and_flip': lambda: next(trainer.sampler.epoch(0, recipe.windows)),
                 'loss': lambda: trainer.criterion(predicted, batch.poses).backward(),
                 'finite_check': lambda: self.check.look(torch.zeros((), device=self.store.device), gradients, 0),
                 'log': log}
        return {'parts': {name: median(work, self.store.device) for name, work in works.items()}}


class Reference:
    """The reference with the same weights, batch, loss and recipe, trained and evaluated as usual in the field."""

    def __init__(self, trainer):
        model, self.store, self.frames = trainer.model, trainer.sampler.store, trainer.sampler.frames
        self.windows = trainer.recipe.windows
        self.model = reference.KTPFormer(torch.from_numpy(graph.adjacency(len(H36M), H36M.edges)),
                                         torch.from_numpy(graph.chain(self.frames)), model.head[1].in_features,
                                         len(model.STEblocks)).to(self.store.device).train()
        self.model.load_state_dict(model.state_dict())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=8e-5, weight_decay=0.1)
        self.weights = torch.tensor(H36M.loss_weights, device=self.store.device)

    def works(self) -> dict[str, Callable]:
        """Return the kinds of work by name."""
        return {'step': self.step, 'evaluation': self.evaluation}

    def step(self) -> None:
        """Make one step, then read the loss."""
        piece = slice(self.windows * self.frames)
        keypoints, poses = (x[piece].unflatten(0, (-1, self.frames)) for x in (self.store.keypoints, self.store.poses))
        self.optimizer.zero_grad()
        loss = pose_loss(self.model(keypoints), poses, self.weights)['total']
        loss.backward(loss.detach())
        self.optimizer.step()
        loss.item()

    @torch.no_grad()
    def evaluation(self) -> None:
        """Predict all windows, then all of them mirrored."""
        self.model.eval()
        keypoints = self.store.keypoints.unflatten(0, (-1, self.frames))
        mirrored = self.model(mirror(keypoints, self.store.mirror.keypoints))
        _ = (self.model(keypoints) + self.store.mirror.poses(mirrored)) / 2
        self.model.train()


def median(work: Callable, device: torch.device, rounds: int = 20) -> float:
    """Return the median seconds of the work, the time on the device included, without the first round."""
    seconds = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        work()
        if device.type == 'cuda':
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:])


if __name__ == '__main__':
    main()
