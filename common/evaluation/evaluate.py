"""Evaluation: predict every test window with flip augmentation, and add up errors per subject and action.

Two protocols. `paper`: every frame of every window counts, so that the overlap of the last window and the padding of
short sequences count again, and velocities run over a sequence's windows laid end to end; published numbers are made
so. `exact`: every real frame counts once, and velocities stay inside a sequence.

Letters: W windows, F frames of a window, N = W*F, J joints, S sequences.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch

from common import metrics
from common.augment import mirror
from common.datasets import action_name
from common.distributed import ALONE, World
from common.models import Refined
from common.sampler import SequenceStore
from common.windows import centred_starts, first_cover, test_starts, trailing_starts, windows_of

PROTOCOLS = ('paper', 'exact')
METRICS = ('mpjpe', 'p_mpjpe', 'n_mpjpe', 'mpjve')
# Frames in one forward pass, mirrored ones not counted: enough to fill the device, little enough to fit.
FRAMES_PER_BATCH = {'cpu': 1024, 'cuda': 4096}
FRAMES_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class TestWindows:
    """The test windows of a store, in order, on its device.

    Attributes:
        sequence: (W,) the sequence each belongs to.
        start: (W,) the frame of it that each starts at; frames: how many it reads.
        rows: (W, F) the rows of the store it reads. Of windows whose last frame alone is taken, (W, 1), that frame's;
            predictions and what follows have one frame then, too.
        first: (W, F) bool, the window frames that stand for a real frame the first time; where only marked frames
            count, those among them.
        frame: (W, F) the frames of their sequences that the rows are.
    """

    __test__ = False  # not a test, whatever pytest makes of its name

    sequence: torch.Tensor
    start: torch.Tensor
    frames: int
    rows: torch.Tensor
    first: torch.Tensor
    frame: torch.Tensor

    @classmethod
    def of(cls, store: SequenceStore, frames: int, world: World = ALONE, target: str = 'all') -> 'TestWindows':
        """The test windows of F = frames frames of this process's share of the sequences, whole sequences each.

        Args:
            target: `all`, windows back to back of which every frame is taken, `centre`, a window around each frame
                that counts, of which that frame is taken, or `last`, a window that ends at each frame that counts.
        """
        begin = np.cumsum([0, *store.lengths[:-1]])
        if target == 'all':
            sequence, start = windows_of(store.lengths, frames, test_starts)
        else:
            counted = np.arange(len(store)) if store.marks is None else np.flatnonzero(store.marks.cpu().numpy())
            sequence = np.searchsorted(begin, counted, side='right') - 1
            starts_of = centred_starts if target == 'centre' else trailing_starts
            start = starts_of(counted - begin[sequence], frames)
        # A sequence belongs to the rank in whose equal part of all frames it begins.
        mine = (begin * world.size // len(store) == world.rank)[sequence]
        sequence, start = sequence[mine], start[mine]
        if target == 'all':
            first = first_cover(sequence, start, store.lengths, frames)
        elif target == 'centre':
            first = np.zeros((len(start), frames), bool)
            first[:, frames // 2] = True
        else:
            first = np.ones((len(start), 1), bool)
        sequence, start, first, begin = (torch.from_numpy(x).to(store.device) for x in (sequence, start, first, begin))
        # All that each window reads would be as many times the data as it has frames, where only the last is taken.
        rows = store.frame_index(sequence, start + frames - 1, 1) if target == 'last' else \
            store.frame_index(sequence, start, frames)
        if store.marks is not None:
            first &= store.marks[rows] != 0
        return cls(sequence, start, frames, rows, first, rows - begin[sequence, None])


@torch.inference_mode()
def predict(model: torch.nn.Module, store: SequenceStore, windows: TestWindows) -> torch.Tensor:
    """Predictions (W, F, J, 3) in metres: the mean of the plain and the mirrored-and-back prediction."""
    training = model.training
    model.eval()
    count = len(windows.sequence)
    most = max(1, FRAMES_PER_BATCH[store.device.type] // windows.frames)
    batches = max(1, -(-count // most))
    batch = -(-count // batches)
    # All batches of one size, so that a compiled model meets one shape: the last window fills what is left of the last.
    order = torch.arange(batches * batch, device=store.device).clamp(max=count - 1)
    predicted = []
    for index in order.split(max(1, batch)):
        keypoints = store.keypoints[store.frame_index(windows.sequence[index], windows.start[index], windows.frames)]
        both = model(torch.cat([keypoints, mirror(keypoints, store.keypoint_mirror)]))
        plain, mirrored = both[:, -windows.rows.shape[1]:].chunk(2)
        predicted.append((plain + mirror(mirrored, store.joint_mirror)) / 2)
    model.train(training)
    return torch.cat(predicted)[:count]  # (0, F, J, 3) where there was no window: split gives one empty piece then


@torch.inference_mode()
def predictions(model: torch.nn.Module, store: SequenceStore, windows: TestWindows, root: str) -> dict:
    """What is to be judged, by name: `predicted` and, for a model with a refinement, then `refined`; (W, F, J, 3) each.

    The refinement is applied once, to the mean of both predictions as it is, with the keypoints as they were seen.

    Args:
        root: `zero` sets the root joint to 0 in what comes out, `predicted` leaves it.
    """
    predicted = {'predicted': predict(model, store, windows)}
    if isinstance(model, Refined):
        training = model.training
        model.eval()
        batch = max(1, FRAMES_PER_BATCH[store.device.type] // windows.rows.shape[1])
        pieces = (x.split(batch) for x in (predicted['predicted'], windows.rows, windows.sequence))
        predicted['refined'] = torch.cat([
            model.refine(base, store.keypoints[rows], store.intrinsics[sequence], store.root_depths[rows])
            for base, rows, sequence in zip(*pieces, strict=True)])
        model.train(training)
    if root == 'zero':
        for poses in predicted.values():
            poses[:, :, store.root] = 0
    return predicted


@torch.inference_mode()
def validation_figures(predicted: torch.Tensor, store: SequenceStore, windows: TestWindows,
                       world: World = ALONE) -> dict:
    """The two figures logged while training, in millimetres, over all frames of all test windows together.

    MPJPE, and the velocity error inside windows weighted by window frames (None for windows of one frame). Where only
    marked frames count, MPJPE is over each of them once, and there is no velocity error: they need not be neighbours.
    """
    target = store.poses[windows.rows]  # (W, F, J, 3)
    errors = metrics.mpjpe(predicted, target).double(), metrics.mpjve(predicted, target).double()
    if store.marks is not None:
        errors = errors[0][windows.first], errors[1][:0]
    sums = torch.stack([error.sum() for error in errors])
    counts = torch.tensor([error.numel() for error in errors], dtype=torch.float64, device=sums.device)
    sums, counts = world.sum(torch.stack([sums, counts])).tolist()
    return {name: 1000 * total / count if count else None
            for name, total, count in zip(('mpjpe', 'mpjve'), sums, counts, strict=True)}


@torch.inference_mode()
def tally(predicted: torch.Tensor, store: SequenceStore, windows: TestWindows,
          world: World = ALONE) -> dict[tuple[str, str], np.ndarray]:
    """Sums of errors and their weights: (subject, action) -> (2 protocols, 4 metrics, [sum, weight]) float64, metres.

    `predicted` is (W, F, J, 3). Takes of the same action are added up.
    """
    frames = windows.rows.shape[1]
    predicted, rows = predicted.flatten(0, 1), windows.rows.flatten()  # (N, J, 3), (N,)
    owner = windows.sequence.repeat_interleave(frames)  # (N,) sequence of each frame
    first = windows.first.flatten()
    errors = torch.stack([_frame_errors(predicted, store.poses, rows, metric)
                          for metric in (metrics.mpjpe, metrics.p_mpjpe, metrics.n_mpjpe)], dim=1)  # (N, 3) float64
    per_protocol = []
    for exact, kept in ((False, torch.ones_like(first)), (True, first)):
        sums = torch.zeros(len(store.takes), len(METRICS), 2, dtype=torch.float64, device=store.device)
        sums[:, :3, 0].index_add_(0, owner[kept], errors[kept])
        count = torch.bincount(owner[kept], minlength=len(store.takes)).double()
        sums[:, :3, 1] = count[:, None]
        sums[:, 3] = _velocity_sums(predicted[kept], store.poses, rows[kept], owner[kept], count, exact)
        per_protocol.append(sums)
    by_sequence = world.sum(torch.stack(per_protocol, dim=1)).cpu().numpy()  # (S, 2, 4, 2)
    totals = defaultdict(lambda: np.zeros(by_sequence.shape[1:]))
    for (subject, take, _), sums in zip(store.takes, by_sequence, strict=True):
        totals[subject, action_name(take)] += sums
    return dict(totals)


def _frame_errors(predicted, poses, rows, metric) -> torch.Tensor:
    """(N,) float64 errors of predictions (N, J, 3) against the store's poses at rows (N,), a piece at a time."""
    pieces = zip(predicted.split(FRAMES_AT_ONCE), rows.split(FRAMES_AT_ONCE), strict=True)
    return torch.cat([metric(p, poses[r]).double() for p, r in pieces])


def _velocity_sums(predicted, poses, rows, owner, count, exact: bool) -> torch.Tensor:
    """(S, 2) sum and weight of the velocity error over consecutive frames of the same sequence.

    Paper: a sequence's mean over its pairs, weighted by its frames. Exact: pairs are counted as they are.
    """
    sums = torch.zeros(len(count), 2, dtype=torch.float64, device=count.device)
    if len(rows) < 2:
        return sums
    same = owner[1:] == owner[:-1]
    pieces = zip(range(0, len(rows) - 1, FRAMES_AT_ONCE), same.split(FRAMES_AT_ONCE), strict=True)
    for begin, inside in pieces:
        piece = slice(begin, begin + len(inside) + 1)
        error = metrics.mpjve(predicted[piece], poses[rows[piece]]).double()[inside]
        sums[:, 0].index_add_(0, owner[piece][1:][inside], error)
    pairs = torch.bincount(owner[1:][same], minlength=len(count)).double()
    sums[:, 1] = pairs if exact else torch.where(pairs > 0, count, 0)
    if not exact:
        sums[:, 0] *= count / pairs.clamp_min(1)
    return sums


@torch.inference_mode()
def mean_pose_mpjpe(train: SequenceStore, test: SequenceStore) -> float:
    """What predicting the mean training pose for every test frame would score: the baseline to stay under, mm."""
    mean = train.poses.mean(dim=0, dtype=torch.float64).float()
    counted = test.poses if test.marks is None else test.poses[test.marks != 0]
    return 1000 * metrics.mpjpe(mean, counted).double().mean().item()


def predictions_by_frame(predicted: dict[str, torch.Tensor], store: SequenceStore,
                         windows: TestWindows) -> dict[str, np.ndarray]:
    """Every real frame of these windows that counts, once: prediction, where there is one refined, and truth (N, J, 3)
    metres; subject, action, camera and frame (N,)."""
    first = windows.first.flatten()
    owner = windows.sequence.repeat_interleave(windows.rows.shape[1])[first].cpu().numpy()
    subjects, actions, cameras = (np.array([take[part] for take in store.takes])[owner] for part in range(3))
    poses = {name: tensor.flatten(0, 1)[first].cpu().numpy() for name, tensor in predicted.items()}
    return {
        'prediction': poses.pop('predicted'), **poses,
        'truth': store.poses[windows.rows.flatten()[first]].cpu().numpy(),
        'subject': subjects, 'action': actions, 'camera': cameras,
        'frame': windows.frame.flatten()[first].cpu().numpy(),
    }


def join_shares(shares: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The ranks' frames, in their order, which is that of the sequences."""
    return {name: np.concatenate([share[name] for share in shares if len(share['frame'])]) for name in shares[0]}
