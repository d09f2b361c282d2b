"""The models beside KTPFormer and HTNet: training steps against plain references, evaluation, and its memory.

    python benchmarks/zoo.py [--parts step windows memory] [--models NAME ...] [--rounds 5] [--seconds 1] [FLAGS]

`step`: training steps of each model at its published sizes, against benchmarks/reference_zoo.py, reference_centre.py
and reference_streams.py, in turns in one process: equal weights, batch, threads and allocator. Both must first have the
same loss and the same length of gradient, without dropout. `windows`: VideoPose3D evaluated by wide windows, as the
program does, and by a window for each frame, as many at once as are fastest here. `memory`: the evaluation of a model
that computes nothing on a test set of Human3.6M's size. FLAGS are sizes, as run_ktpformer.py takes them, such as -cs
64. Prints a line for each comparison, then JSON; ratios are medians over rounds of pairs that ran next to each other.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')  # before torch is imported

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import reference, reference_centre, reference_streams, reference_zoo
from benchmarks.contestant import memory
from benchmarks.trainer import make_trainer
from common.augment import Batch
from common.cli.parser import parse
from common.commands.session import choose_device
from common.evaluation.sums import tally
from common.evaluation.tables import summarise
from common.models import build_model, computing, make_config, model_class, recipe_of
from common.models.lifter import Lifter
from common.models.lifting import FRAMES_PER_BATCH, predictions, windows_for
from common.sampler import TestWindows
from common.sequences import Sequence
from common.skeleton import H36M, H36M16, Skeleton
from common.storage.runlog import versions
from common.store import SequenceStore
from common.training.loop import Trainer, gradients_of
from common.training.optimiser import FiniteCheck

PARTS = ('step', 'windows', 'memory')
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3  # relative
ANSWER_TOLERANCE = 1e-5  # of the largest coordinate
TEST_FRAMES, TEST_TAKES, CAMERAS_OF_A_TAKE = 543_344, 59, 4  # of Human3.6M's test subjects
TEST_WINDOW = 351


# ---- training steps ---------------------------------------------------------------------------------------------


def whole(batch: Batch, store: SequenceStore) -> tuple[Tensor, Tensor]:
    """Return keypoints and poses as they are."""
    return batch.keypoints, batch.truth


def standardised(batch: Batch, store: SequenceStore) -> tuple[Tensor, Tensor]:
    """Return what 3d-pose-baseline's programs load: standardised keypoints without the neck, poses without the root."""
    neck = H36M.joints.index('neck')
    return (reference_zoo.standardised(batch.keypoints.flatten(0, 1), store.keypoints, neck),
            reference_zoo.standardised(batch.truth.flatten(0, 1), store.truth, H36M.root))


@dataclass(frozen=True)
class Case:
    """A model beside its reference.

    Attributes:
        windows: of a step: the recipe's where a CPU takes no more than a second or so for them, else fewer.
        build: (Config, parents of the joints) -> the reference.
        body: the joints. read: what the reference is given of a batch.
    """

    windows: int
    build: Callable[[Any, tuple[int, ...]], nn.Module]
    body: Skeleton = H36M
    read: Callable[[Batch, SequenceStore], tuple[Tensor, Tensor]] = whole


CASES = {
    'videopose3d': Case(64, lambda c, parents: reference_centre.VideoPose3D(len(parents), c.channels, c.widths)),
    'martinez': Case(64, lambda c, parents: reference_zoo.Martinez(32, 48, c.channels, c.depth), read=standardised),
    'graformer': Case(64, lambda c, parents: reference_zoo.GraFormer(parents, c.channels, c.depth, c.heads), H36M16),
    'mgcn': Case(256, lambda c, parents: reference_zoo.ModulatedGCN(parents, c.channels, c.depth, True)),
    'mgcn16': Case(64, lambda c, parents: reference_zoo.ModulatedGCN(parents, c.channels, c.depth, False), H36M16),
    'strided': Case(8, lambda c, parents: reference_centre.StridedTransformer(
        len(parents), c.frames, c.channels, c.depth, c.hidden, c.heads, c.strides)),
    'pstmo': Case(8, lambda c, parents: reference_centre.StridedTransformer(
        len(parents), c.frames, c.channels, c.depth, c.hidden, c.heads, c.strides,
        reference_centre.SpatialEncoder(len(parents), c.channels))),
    'mhformer': Case(1, lambda c, parents: reference_centre.MHFormer(len(parents), c.frames, c.channels, c.depth,
                                                                     c.hidden, c.heads)),
    'stcformer': Case(4, lambda c, parents: reference_centre.STCFormer(c.channels, c.depth, c.heads)),
    'dstformer': Case(1, lambda c, parents: reference_streams.DSTformer(
        len(parents), c.frames, c.channels, c.depth, c.heads, round(c.channels * c.mlp_ratio), c.representation)),
    'motionagformer': Case(1, lambda c, parents: reference_streams.MotionAGFormer(
        len(parents), c.frames, c.channels, c.depth, c.heads, round(c.channels * c.mlp_ratio), c.representation,
        c.neighbours)),
}


class Ours:
    """The program's own training step on the first batch of an epoch, gathered anew each time."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.check = FiniteCheck(trainer.optimizer, trainer.device)

    def gradient(self) -> Tensor:
        """Return the loss of the batch, and leave its gradients in the weights."""
        return self.trainer.gradient(next(self.trainer.sampler.epoch(0, self.trainer.recipe.windows)), 1)

    def step(self) -> None:
        """Take a step as in an epoch: gather, forward, backward, finite check, clip, update."""
        loss, gradients = self.gradient(), gradients_of(self.trainer.model)
        self.check.look(loss, gradients, 0)
        self.trainer._update(gradients, self.trainer.recipe.lr)


class Theirs:
    """The reference's step on the same batch, which lies ready for it."""

    def __init__(self, case: Case, config: Any, trainer: Trainer):
        recipe, sampler = trainer.recipe, trainer.sampler
        self.model = case.build(config, case.body.parents).to(trainer.device).train()
        missing, _ = self.model.load_state_dict(trainer.model.state_dict(), strict=False)
        if missing:
            sys.exit(f'{trainer.model.title} has no {missing[0]}, which its reference has')
        kind = torch.optim.AdamW if recipe.optimizer == 'adamw' else torch.optim.Adam
        self.optimizer = kind(self.model.parameters(), recipe.lr, weight_decay=recipe.weight_decay,
                              amsgrad=recipe.optimizer == 'amsgrad')
        self.clip = recipe.clip
        self.batch = case.read(next(sampler.epoch(0, recipe.windows)).batch, sampler.store)

    def gradient(self) -> Tensor:
        """Return the loss of the batch, and leave its gradients in the weights."""
        self.optimizer.zero_grad()
        loss = self.model.loss(*self.batch)
        loss.backward()
        return loss

    def step(self) -> None:
        """Take a step, then read the loss."""
        loss = self.gradient()
        if self.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        loss.item()

    def keep_all(self) -> None:
        """Drop nothing from now on."""
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            elif isinstance(module, reference.DropPath):
                module.rate = 0.0


def make_sides(name: str, windows: int, flags: list[str], device: torch.device) -> tuple[Ours, Theirs]:
    """Return the program's side and the reference's, with the same weights and batch."""
    case = CASES[name]
    config = make_config(name, parse(flags).model.sizes())
    window, answers = model_class(name).window(config)
    flags = ['--model', name, '-b', str(windows * len(answers)), '-s', str(len(answers)), *flags]
    frames = (windows + 1) * len(answers) + 2 * window
    trainer = make_trainer(flags, random_store([('S1', 'Walking', 0)], [frames], case.body, device), case.body)
    if trainer.model.measured:
        trainer.model.measure(trainer.sampler.store.keypoints, trainer.sampler.store.learned)
    return Ours(trainer), Theirs(case, config, trainer)


def check_equal(name: str, windows: int, flags: list[str], device: torch.device) -> None:
    """Exit, saying by how much, unless both sides have the same loss and length of gradient without dropout."""
    rates = [part for rate in ('dropout', 'drop_path') if getattr(recipe_of(name), rate) is not None
             for part in (f'--{rate.replace("_", "-")}', '0')]
    ours, theirs = make_sides(name, windows, [*flags, *rates], device)
    theirs.keep_all()
    with torch.no_grad():
        for weight in ours.trainer.model.parameters():
            weight += 0.01 * torch.randn_like(weight)  # what starts at 0 or 1 would hide mistakes
    theirs.model.load_state_dict(ours.trainer.model.state_dict(), strict=False)
    losses = ours.gradient().item(), theirs.gradient().item()
    norms = [torch.stack([gradient.norm() for gradient in gradients_of(model)]).norm().item()
             for model in (ours.trainer.model, theirs.model)]
    for what, (mine, its), most in (('loss', losses, LOSS_TOLERANCE), ('gradient', norms, GRADIENT_TOLERANCE)):
        if not abs(mine - its) <= most * abs(its):
            sys.exit(f'{name}: the {what} of the program is {mine}, that of the reference {its}')


def compare_steps(name: str, args: argparse.Namespace, flags: list[str], device: torch.device) -> dict:
    """Measure training steps of both sides in turns, as many a turn as the reference makes in --seconds."""
    windows = args.windows or CASES[name].windows
    check_equal(name, windows, flags, device)
    ours, theirs = make_sides(name, windows, flags, device)
    for side in (ours, theirs):
        side.step()  # warms up: the optimizer's state exists from here on
    repeats = max(1, round(args.seconds / timed(theirs.step, device)))
    row = alternate({'reference': theirs.step, 'ours': ours.step}, args.rounds, repeats, device)
    return {'model': name, 'windows': windows, 'frames': ours.trainer.model.frames, 'steps a turn': repeats, **row}


# ---- evaluation -------------------------------------------------------------------------------------------------


def compare_windows(args: argparse.Namespace, flags: list[str], device: torch.device) -> dict:
    """Measure VideoPose3D's evaluation with flips by a window for each frame, and by wide windows."""
    torch.manual_seed(0)
    sizes = parse(['--model', 'videopose3d', *flags]).model.sizes()
    model = build_model('videopose3d', sizes, H36M, H36M).to(device)
    computing.set_up(model, device, compiled=False)
    store = random_store([('S9', f'Walking {n}', 0) for n in range(len(args.lengths))], args.lengths, H36M, device)
    wide, narrow = windows_for(model, store), TestWindows.of(store, model.frames, answers=model.answers)

    def by_frame() -> Tensor:
        with patch.dict(FRAMES_PER_BATCH, {device.type: args.batch * model.frames}):
            return answers_of(model, store, narrow)

    def by_piece() -> Tensor:
        return answers_of(model, store, wide)
    first, second = by_frame(), by_piece()
    if not (first - second).abs().max() <= ANSWER_TOLERANCE * first.abs().max():
        sys.exit(f'the two ways differ by {(first - second).abs().max()} of {first.abs().max()}')
    row = alternate({'a window a frame': by_frame, 'wide windows': by_piece}, args.rounds, 1, device)
    return {'model': 'videopose3d', 'frames': model.frames, 'lengths': args.lengths, **row}


def answers_of(model: Lifter, store: SequenceStore, windows: TestWindows) -> Tensor:
    """Return the model's only prediction of each frame, (frames, J, 3)."""
    predicted, = predictions(model, store, windows).values()
    return predicted[windows.first]


class Stub(Lifter):
    """A model that computes nothing: the centre keypoints of its window, at depth 0."""

    title = 'Stub'

    @classmethod
    def window(cls, config: int) -> tuple[int, range]:
        """Return the frames of a window, which the config is, and its centre as the one that comes out."""
        return config, range(config // 2, config // 2 + 1)

    def forward(self, keypoints: Tensor) -> Tensor:
        """Lift keypoints (B, F, J, 2) -> (B, 1, J, 3)."""
        return nn.functional.pad(keypoints[:, self.answers.start:self.answers.stop], (0, 1))


def measure_memory(frames: int) -> dict:
    """Evaluate the stub on so many frames in takes as of Human3.6M's test; return peak memory in GB, and seconds."""
    device = torch.device('cpu')
    before = memory(device)
    random = np.random.default_rng(0)
    shares = random.uniform(1, 6, TEST_TAKES)  # the shortest takes are a sixth as long as the longest
    ends = np.round(shares.cumsum() / shares.sum() * (frames // CAMERAS_OF_A_TAKE)).astype(int)
    lengths = np.repeat(np.diff(ends, prepend=0), CAMERAS_OF_A_TAKE).tolist()
    takes = [(('S9', 'S11')[take % 2], f'Action{take // 4} {take // 2 % 2}', camera)
             for take in range(TEST_TAKES) for camera in range(CAMERAS_OF_A_TAKE)]
    begun = time.perf_counter()
    model = Stub(TEST_WINDOW)
    computing.set_up(model, device, compiled=False)
    store = random_store(takes, lengths, H36M, device)
    held = memory(device)
    windows = windows_for(model, store)
    for poses in predictions(model, store, windows, root='zero').values():
        summarise(tally(poses, store, windows), by_subject=False)
    return {'frames': len(store), 'sequences': len(store.takes), 'window': model.frames, 'before': before,
            'with the data': held, 'peak': memory(device), 'seconds': time.perf_counter() - begun}


# ---- both -------------------------------------------------------------------------------------------------------


def random_store(takes: list[tuple[str, str, int]], lengths: list[int], body: Skeleton,
                 device: torch.device) -> SequenceStore:
    """Return random sequences of these (subject, action, camera) and lengths."""
    random = np.random.default_rng(0)

    def values(length: int, width: int) -> np.ndarray:
        return 0.3 * random.standard_normal((length, len(body), width), np.float32)
    return SequenceStore([Sequence(*take, values(length, 2), values(length, 3))
                          for take, length in zip(takes, lengths, strict=True)], body, body, device)


def timed(work: Callable[[], Any], device: torch.device, repeats: int = 1) -> float:
    """Return the seconds that the work takes, the time on the device included, in the mean over repeats."""
    begun = time.perf_counter()
    for _ in range(repeats):
        work()
    if device.type == 'cuda':
        torch.cuda.synchronize()
    return (time.perf_counter() - begun) / repeats


def alternate(works: dict[str, Callable[[], Any]], rounds: int, repeats: int, device: torch.device) -> dict:
    """Have two works done in turns; return median milliseconds by name, and the ratio of the first to the second."""
    turns = [[timed(work, device, repeats) for work in works.values()] for _ in range(rounds)]
    ratios = [round(first / second, 3) for first, second in turns]
    return {'milliseconds': {name: round(1000 * statistics.median(seconds), 1)
                             for name, seconds in zip(works, zip(*turns, strict=True), strict=True)},
            'ratio': statistics.median(ratios), 'ratios': ratios}


def describe(part: str, row: dict) -> str:
    """Return a comparison in a line."""
    times = ', '.join(f'{name} {milliseconds:,.1f} ms' for name, milliseconds in row['milliseconds'].items())
    sizes = f'F={row["frames"]:<4}' + (f' B={row["windows"]:<4}' if 'windows' in row else '')
    return (f'{part:8} {row["model"]:12} {sizes} {times}: {row["ratio"]:.2f}x '
            f'({min(row["ratios"]):.2f} to {max(row["ratios"]):.2f})')


def main() -> None:
    """Run the parts and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--parts', nargs='+', default=PARTS, choices=PARTS)
    parser.add_argument('--models', nargs='+', default=list(CASES), choices=CASES, help='of the part step')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--seconds', type=float, default=1, help='of steps in each turn of the part step')
    parser.add_argument('--windows', type=int, help='of a step (default: by model)')
    parser.add_argument('--lengths', type=int, nargs='+', default=[2000], help='sequences of the part windows')
    parser.add_argument('--batch', type=int, default=64, help='windows at once where each frame has its own')
    parser.add_argument('--test-frames', type=int, default=TEST_FRAMES, help='of the part memory')
    args, flags = parser.parse_known_args()
    device = choose_device('auto')
    results = {'device': str(device), 'threads': torch.get_num_threads(), 'versions': versions(), 'command': sys.argv}
    for name in args.models if 'step' in args.parts else ():
        row = compare_steps(name, args, flags, device)
        results.setdefault('step', []).append(row)
        print(describe('step', row), flush=True)
    if 'windows' in args.parts:
        results['windows'] = compare_windows(args, flags, device)
        print(describe('windows', results['windows']), flush=True)
    if 'memory' in args.parts:
        # In a process of its own, whose peak is nobody else's.
        with ProcessPoolExecutor(1, get_context('spawn')) as pool:
            told = results['memory'] = pool.submit(measure_memory, args.test_frames).result()
        print(f'memory   {told["frames"]:,} windows of {told["window"]} frames: peak {told["peak"]:.2f} GB, '
              f'{told["before"]:.2f} of it before there were data, in {told["seconds"]:.0f} s', flush=True)
    print(json.dumps(results, indent=1))


if __name__ == '__main__':
    main()
