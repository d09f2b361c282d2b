"""Windows of a store: shuffled epochs of them for training, all of them in order for tests.

A window reads F frames and answers for A of them, which tile the sequences. Letters: W windows, B windows of a batch,
S sequences.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from common.augment import Batch, generator_of
from common.distributed import ALONE, World
from common.noise import DetectorNoise
from common.store import SequenceStore
from common.views import ANOTHER, VirtualCameras, draw_cameras
from common.windows import chunk_starts, first_cover, fitting_starts, overlapping_starts, test_starts, windows_of


class Step(NamedTuple):
    """One process's part of a training step.

    Attributes:
        number: of the step in its epoch.
        whole, before: windows of the whole step, and those of them before this part.
        beside: windows without truth that teach too; None where there are none.
    """

    number: int
    whole: int
    before: int
    batch: Batch
    beside: Batch | None = None


class WindowSampler:
    """Epochs of shuffled training windows.

    The order is the published one: sequence by sequence all windows, then all of them mirrored, permuted once per epoch
    by a single numpy RandomState that lives as long as the run.
    """

    def __init__(self, store: SequenceStore, frames: int, flip: bool, seed: int, step: int | None = None,
                 answers: range | None = None, needs: frozenset[str] = frozenset(), fewest: int = 1,
                 supervised: range | None = None, spacing: int = 1, truth: bool = True,
                 starts: Callable[..., np.ndarray] = chunk_starts, at_random: bool = False,
                 cameras: VirtualCameras | None = None, noise: DetectorNoise | None = None):
        """Lay the windows out so that the frames they answer for tile each sequence.

        Args:
            frames: F, what a window reads. answers: those of its frames that come out; all of them if None.
            supervised: those of its frames whose truth the loss reads; the answers if None.
            spacing: frames of the video from one frame of a window to the next.
            flip: whether every window comes a second time, mirrored.
            step: frames from window to window, as many as it answers for if None.
            needs: what batches tell besides keypoints and poses, which the store must then know.
            fewest: windows that a step needs at least, which must be no more than a step is asked to have.
            truth: whether batches hold the true poses.
            starts: where answers start, as `Lifter.training_starts`.
            cameras: what sees every window anew whenever it is drawn, in place of the camera of its sequence.
            noise: what the keypoints that are seen, or those of the store, are found by.
            at_random: with `flip`, mirror half of the windows of each epoch, by chance, in place of a second of each.
        """
        self.store, self.frames, self.seed, self.needs, self.fewest = store, frames, seed, needs, fewest
        self.cameras, self.noise = cameras, noise
        self.answers = range(frames) if answers is None else answers
        self.supervised, self.spacing, self.truth = supervised or self.answers, spacing, truth
        sequence, start = windows_of(store.lengths, len(self.answers), partial(starts, step=step))
        table = np.stack([sequence, start - self.answers.start * spacing, np.zeros_like(start)], axis=1)
        self._at_random = flip and at_random
        if flip and not at_random:
            # Mirrored windows follow the plain ones of the same sequence.
            table = np.concatenate([table, table + [0, 0, 1]])
            table = table[np.argsort(table[:, 0] * 2 + table[:, 2], kind='stable')]
        self._table = torch.from_numpy(table).to(store.device)
        self._restart()

    def __len__(self) -> int:
        """Return the number of windows in an epoch."""
        return len(self._table)

    def _restart(self) -> None:
        self._random, self._drawn = np.random.RandomState(self.seed), 0

    def order(self, draw: int) -> np.ndarray:
        """Return the permutation (W,) that is the draw-th of the run, from 0, drawing the earlier ones first."""
        if draw < self._drawn:
            self._restart()
        while True:
            order = self._random.permutation(len(self))
            self._drawn += 1
            if self._drawn > draw:
                return order

    def epoch(self, draw: int, batch: int, share: Callable[[int], tuple[int, int]] = lambda count: (0, count),
              first_step: int = 0) -> Iterator[Step]:
        """Yield the steps of one epoch, the last one of which may be short, or longer by what would be too short.

        Args:
            batch: windows of a step, those of all processes together.
            share: count -> [begin, end), this process's part of a step's windows.
            first_step: the step to begin with.
        """
        table = self._table[torch.from_numpy(self.order(draw)).to(self.store.device)]
        if self._at_random:
            mirrored = np.random.default_rng([self.seed, draw]).integers(0, 2, len(self))
            table[:, 2] = torch.from_numpy(mirrored).to(table)
        steps = self.steps(batch)
        for step in range(first_step, steps):
            windows = table[step * batch:(step + 1) * batch if step + 1 < steps else None]
            begin, end = share(len(windows))
            part = slice(begin, end)
            yield Step(step, len(windows), begin, self._seen(windows[part], (draw, step), len(windows), part))

    def endless(self, batch: int, first_step: int) -> Iterator[Batch]:
        """Yield the windows of the steps of a whole run, epoch after epoch, from a step counted from 0 on.

        Nothing but that number says where they begin, so that a resumed run needs no more to go on.
        """
        draw, within = divmod(first_step, self.steps(batch))
        for later in itertools.count():
            for step in self.epoch(draw + later, batch, first_step=0 if later else within):
                yield step.batch

    def steps(self, batch: int) -> int:
        """Return the number of steps in an epoch."""
        whole, rest = divmod(len(self), batch)
        return max(1, whole + (rest >= self.fewest))

    def gather(self, windows: torch.Tensor) -> Batch:
        """Return the batch of windows given as rows (B, 3) of sequence, start and mirrored or not."""
        store = self.store
        rows = store.frame_index(windows[:, 0], windows[:, 1], self.frames, spacing=self.spacing)
        plain = store.batch(windows[:, 0], rows, self.answers, self.needs, self.supervised if self.truth else None)
        return self._mirrored(plain, windows)

    def _mirrored(self, plain: Batch, windows: torch.Tensor) -> Batch:
        """Return a batch with those of its windows (B, 3) mirrored that are to be."""
        return plain.where(windows[:, 2].bool(), self.store.mirror.batch(plain))

    def _seen(self, windows: torch.Tensor, step: tuple[int, int], whole: int, part: slice) -> Batch:
        """Return the batch of windows (B, 3), seen anew and with a detector's noise where that is asked for.

        What is random is a function of the seed and the step (its epoch and its number) over the whole step, so that
        several processes draw what one would, each for its part of it, and a resumed run what the first would have.
        """
        if self.cameras is None and self.noise is None:
            return self.gather(windows)
        store, device = self.store, self.store.device
        if self.cameras is None:
            batch = self.gather(windows)
        else:
            rows = store.frame_index(windows[:, 0], windows[:, 1], self.frames, spacing=self.spacing)
            cameras = draw_cameras(whole, generator_of(device, self.seed, *step, 1)).part(part)
            joints = self._mixed(self.cameras, store.moving(windows[:, 0], rows),
                                 generator_of(device, self.seed, *step, 3), whole, part)
            seen = self.cameras.see(joints, cameras)
            batch = self._mirrored(self.cameras.batch(seen, self.answers, self.supervised if self.truth else None,
                                                      self.needs), windows)
        if self.noise is None:
            return batch
        errors = self.noise.draw(whole, self.frames, generator_of(device, self.seed, *step, 2)).part(part)
        found = self.noise(batch.keypoints[..., :2], errors)
        return batch._replace(keypoints=found if 'confidence' in self.needs else found[..., :2])

    def _mixed(self, cameras: VirtualCameras, joints: torch.Tensor, generator: torch.Generator, whole: int,
               part: slice) -> torch.Tensor:
        """Return the motions (B, F, J, 3) of the part of a step, some of them with legs of other windows."""
        device = joints.device
        other = self._table[torch.randint(len(self), (whole,), generator=generator, device=device)[part]]
        another = torch.rand(whole, generator=generator, device=device)[part] < ANOTHER
        rows = self.store.frame_index(other[:, 0], other[:, 1], self.frames, spacing=self.spacing)
        mixed = cameras.with_legs_of(self.store.moving(other[:, 0], rows), joints)
        return torch.where(another[:, None, None, None], mixed, joints)


@dataclass(frozen=True)
class TestWindows:
    """Windows of a store in order, on its device, and the frames that are taken from each.

    Attributes:
        frames, answers: what a window reads, and those of its frames that come out of the model.
        taken: those of the answers that are kept: A of them.
        sequence: (W,) the sequence each belongs to.
        start: (W,) the frame of it that each starts at.
        rows: (W, A) the rows of the store that are taken.
        first: (W, A) bool, the taken frames that stand for a real frame the first time; where only marked frames
            count, those among them.
        frame: (W, A) the frames of their sequences that the rows are.
        number: (W,) int64, of the take and of where in it the window lies, whatever other takes are there.
        last: (W,) the frame after which a window reads nothing, replicating that one; None for its sequence's end.
        spacing: frames of the video from one frame of a window to the next.
        once: whether a frame never counts again that a later window covers again.
        overlap: frames that neighbouring windows share, of which each is the blended mean; 0 for none.
    """

    __test__ = False  # not a test, whatever pytest makes of its name

    frames: int
    answers: range
    taken: range
    sequence: torch.Tensor
    start: torch.Tensor
    rows: torch.Tensor
    first: torch.Tensor
    frame: torch.Tensor
    number: torch.Tensor
    last: torch.Tensor | None = None
    spacing: int = 1
    once: bool = False
    overlap: int = 0

    @property
    def counted(self) -> torch.Tensor:
        """Return (W, A) bool, the taken frames that count by the published protocol."""
        return self.first if self.once else torch.ones_like(self.first)

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.sequence)

    @classmethod
    def of(cls, store: SequenceStore, frames: int, world: World = ALONE, target: str = 'all',
           answers: range | None = None, spacing: int = 1, once: bool = False) -> 'TestWindows':
        """Return the test windows of this process's share of the sequences, whole sequences each.

        Args:
            frames, answers: F, and those of them that come out of the model; all if None.
            target: `all`, windows whose answers tile the sequences, of which all are taken; `whole`, those of them that
                lie inside the sequences, so that the rest of each is dropped, and each frame counts once; `centre`, a
                window for each frame that counts, in the middle of its answers; `last`, one for each frame that counts,
                its last answer, which reads nothing that comes after that frame.
            spacing, once: as the attributes.
        """
        answers = range(frames) if answers is None else answers
        begin = np.cumsum([0, *store.lengths[:-1]])
        taken, last = answers, None
        if target in ('all', 'whole'):
            starts, once = (test_starts, once) if target == 'all' else (
                partial(fitting_starts, step=len(answers)), True)
            sequence, start = windows_of(store.lengths, len(answers), starts)
        else:
            counted = np.arange(len(store)) if store.marks is None else np.flatnonzero(store.marks.cpu().numpy())
            sequence = np.searchsorted(begin, counted, side='right') - 1
            start = counted - begin[sequence]
            index = answers[len(answers) // 2] if target == 'centre' else answers[-1]
            taken = range(index, index + 1)
        if target == 'last':
            last = torch.from_numpy(start).to(store.device)
        return cls._taking(store, frames, answers, taken, sequence, start, last, spacing, once).part(store, world)

    @classmethod
    def overlapping(cls, store: SequenceStore, frames: int, overlap: int,
                    answers: range | None = None, spacing: int = 1) -> 'TestWindows':
        """Return windows whose answers share `overlap` frames with the next one's, over each sequence."""
        answers = range(frames) if answers is None else answers
        sequence, start = windows_of(store.lengths, len(answers), partial(overlapping_starts, overlap=overlap))
        windows = cls._taking(store, frames, answers, answers, sequence, start, None, spacing)
        return replace(windows, overlap=overlap)

    @classmethod
    def _taking(cls, store: SequenceStore, frames: int, answers: range, taken: range, sequence: np.ndarray,
                start: np.ndarray, last: torch.Tensor | None, spacing: int, once: bool = False) -> 'TestWindows':
        """Return windows whose taken frames start at frames `start` (W,) of their sequences (W,)."""
        if len(taken) == len(answers):
            covers = first_cover(sequence, start, store.lengths, len(taken))
        else:
            covers = np.ones((len(start), 1), bool)
        begins = np.cumsum([0, *store.lengths[:-1]])
        begin, owner, at, first = (torch.from_numpy(x).to(store.device) for x in (begins, sequence, start, covers))
        rows = store.frame_index(owner, at, len(taken))
        if store.marks is not None:
            first &= store.marks[rows] != 0
        reads_from = at - taken.start * spacing
        number = (store.numbers[owner] << 32) + reads_from + 2 ** 31
        return cls(frames, answers, taken, owner, reads_from, rows, first, rows - begin[owner, None], number, last,
                   spacing, once)

    def part(self, store: SequenceStore, world: World) -> 'TestWindows':
        """Return this process's share of the windows: those of the sequences that begin in its part of all frames."""
        begin = np.cumsum([0, *store.lengths[:-1]])
        mine = torch.from_numpy(begin * world.size // len(store) == world.rank).to(store.device)
        return self if world.size == 1 else self._only(mine[self.sequence])

    def pieces(self, store: SequenceStore, frames: int) -> list['TestWindows']:
        """Return the windows in pieces of whole sequences, with at most so many frames unless one sequence has more."""
        most = max(1, frames // len(self.taken))
        ends, end = [0], 0
        for count in torch.bincount(self.sequence, minlength=len(store.takes)).tolist():
            if end > ends[-1] and end + count - ends[-1] > most:
                ends.append(end)
            end += count
        return [self._only(slice(*piece)) for piece in itertools.pairwise([*ends, end])]

    def head(self, count: int) -> 'TestWindows':
        """Return the first windows alone, so many of them."""
        return self._only(slice(count))

    def one(self, index: int) -> 'TestWindows':
        """Return the window of this index alone."""
        return self._only(slice(index, index + 1))

    def _only(self, only: slice | torch.Tensor) -> 'TestWindows':
        return replace(self, sequence=self.sequence[only], start=self.start[only], rows=self.rows[only],
                       first=self.first[only], frame=self.frame[only], number=self.number[only],
                       last=None if self.last is None else self.last[only])
