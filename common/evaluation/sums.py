"""Errors added up: per subject and action for the tables, over all frames for validation.

Two protocols. `paper`: every frame of every window counts, so that the overlap of the last window and the padding of
short sequences count again, and velocities run over a sequence's windows laid end to end; published numbers are made
so. `exact`: every real frame counts once, and velocities stay inside a sequence.

Where what is learned are no metres but poses in the picture, a third takes the place of both: `2.5d`. It is `exact`
over windows that lie inside the sequences, without the frames whose error is 0.

Letters: W windows, A frames taken from a window, N = W*A, J joints, S sequences, M metrics.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
import torch

from common.datasets.poses import action_name
from common.distributed import ALONE, World
from common.metrics import METRICS, Metric, mpjpe, mpjve
from common.models.lifter import ONLY
from common.sampler import TestWindows
from common.store import SequenceStore

PROTOCOL_NAMES = ('paper', 'exact')
BY_ACTION = tuple(metric for metric in METRICS if metric.by_action)
FRAMES_AT_ONCE = 1 << 16


@torch.inference_mode()
def validation_figures(predicted: torch.Tensor, store: SequenceStore, windows: TestWindows,
                       world: World = ALONE) -> dict[str, float | None]:
    """Return the two figures logged while training, in millimetres, over all frames of all test windows together.

    MPJPE, and the velocity error inside windows weighted by window frames (None for windows of one frame). Where only
    marked frames count, MPJPE is over each of them once, and there is no velocity error: they need not be neighbours.
    """
    target = store.truth[windows.rows]  # (W, F, J, 3)
    errors = mpjpe(predicted, target).double(), mpjve(predicted, target).double()
    if store.marks is not None:
        errors = errors[0][windows.first], errors[1][:0]
    elif windows.once:
        errors = errors[0][windows.first], errors[1][windows.first[:, 1:] & windows.first[:, :-1]]
    sums = torch.stack([error.sum() for error in errors])
    counts = torch.tensor([error.numel() for error in errors], dtype=torch.float64, device=sums.device)
    sums, counts = world.sum(torch.stack([sums, counts])).tolist()
    return {name: 1000 * total / count if count else None
            for name, total, count in zip(('mpjpe', 'mpjve'), sums, counts, strict=True)}


def tally(predicted: torch.Tensor, store: SequenceStore, windows: TestWindows,
          world: World = ALONE) -> dict[tuple[str, str], np.ndarray]:
    """Add up errors and their weights by subject and action: `by_action` of `sequence_sums`."""
    return by_action(world.sum(sequence_sums(predicted, store, windows)), store)


@torch.inference_mode()
def sequence_sums(predicted: torch.Tensor, store: SequenceStore, windows: TestWindows,
                  known: Mapping[str, torch.Tensor] | None = None) -> torch.Tensor:
    """Add up errors and their weights by sequence: (S, 2 protocols, M metrics, [sum, weight]) float64.

    They are in what the functions of BY_ACTION return. Those of the windows of several processes, or of several sets of
    whole sequences, are added up.

    Args:
        predicted: (W, A, J, 3) metres.
        known: figures (W, A) by name of their metric, which are not those of these poses.
    """
    given = {name: figures.flatten().double() for name, figures in (known or {}).items()}
    taken = windows.rows.shape[1]
    predicted, rows = predicted.flatten(0, 1), windows.rows.flatten()  # (N, J, 3), (N,)
    owner = windows.sequence.repeat_interleave(taken)  # (N,) sequence of each frame
    first = windows.first.flatten()
    errors = given | {metric.name: _frame_errors(predicted, store.truth, rows, metric)
                      for metric in BY_ACTION if metric.per == 'frame' and metric.name not in given}
    # As the published program of that protocol does, which takes a frame of error 0 for one that is not there.
    wrong = torch.ones_like(first) if store.units is None else errors['mpjpe'] > 0
    per_protocol = []
    for exact, kept in ((False, windows.counted.flatten()), (True, first)):
        count = torch.bincount(owner[kept], minlength=len(store.takes)).double()
        columns = []
        for metric in BY_ACTION:
            if metric.per == 'pair':
                columns.append(_pair_sums(predicted[kept], store.truth, rows[kept], owner[kept], count, exact, metric))
            else:
                total = torch.zeros_like(count).index_add_(0, owner[kept], errors[metric.name][kept] * wrong[kept])
                weight = torch.zeros_like(count).index_add_(0, owner[kept], wrong[kept].double())
                columns.append(torch.stack([total, weight], dim=-1))
        per_protocol.append(torch.stack(columns, dim=1))  # (S, M, 2)
    return torch.stack(per_protocol, dim=1)


def by_action(sums: torch.Tensor, store: SequenceStore) -> dict[tuple[str, str], np.ndarray]:
    """Return `sequence_sums` (S, 2, M, 2) by subject and action: (2, M, 2) each. Takes of an action are added up."""
    by_sequence = sums.cpu().numpy()
    totals: dict[tuple[str, str], np.ndarray] = defaultdict(lambda: np.zeros(by_sequence.shape[1:]))
    for (subject, take, _), sums in zip(store.takes, by_sequence, strict=True):
        totals[subject, action_name(take)] += sums
    return dict(totals)


def add_up(totals: Iterable[tuple[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the sum of the totals under each name."""
    sums: dict[str, np.ndarray] = {}
    for name, total in totals:
        sums[name] = sums[name] + total if name in sums else total
    return sums


def _frame_errors(predicted: torch.Tensor, poses: torch.Tensor, rows: torch.Tensor, metric: Metric) -> torch.Tensor:
    """Return the (N,) float64 errors of predictions (N, J, 3) against the store's poses at rows (N,)."""
    pieces = zip(predicted.split(FRAMES_AT_ONCE), rows.split(FRAMES_AT_ONCE), strict=True)
    return torch.cat([metric.function(p, poses[r]).double() for p, r in pieces])


def _pair_sums(predicted: torch.Tensor, poses: torch.Tensor, rows: torch.Tensor, owner: torch.Tensor,
               count: torch.Tensor, exact: bool, metric: Metric) -> torch.Tensor:
    """Return the (S, 2) sum and weight of an error over consecutive frames of the same sequence.

    Args:
        predicted: (N, J, 3). poses: the store's. rows, owner: (N,) of the store, and the sequence of each frame.
        count: (S,) frames of each sequence.

    Paper: a sequence's mean over its pairs, weighted by its frames. Exact: pairs are counted as they are.
    """
    sums = torch.zeros(len(count), 2, dtype=torch.float64, device=count.device)
    if len(rows) < 2:
        return sums
    same = owner[1:] == owner[:-1]
    pieces = zip(range(0, len(rows) - 1, FRAMES_AT_ONCE), same.split(FRAMES_AT_ONCE), strict=True)
    for begin, inside in pieces:
        piece = slice(begin, begin + len(inside) + 1)
        error = metric.function(predicted[piece], poses[rows[piece]]).double()[inside]
        sums[:, 0].index_add_(0, owner[piece][1:][inside], error)
    pairs = torch.bincount(owner[1:][same], minlength=len(count)).double()
    sums[:, 1] = pairs if exact else torch.where(pairs > 0, count, 0)
    if not exact:
        sums[:, 0] *= count / pairs.clamp_min(1)
    return sums


@torch.inference_mode()
def mean_pose_mpjpe(train: SequenceStore, test: SequenceStore) -> float:
    """Return the MPJPE, millimetres, of predicting the mean training pose for every test frame: what to stay under."""
    mean = train.learned.mean(dim=0, dtype=torch.float64).float()
    counted = slice(None) if test.marks is None else test.marks != 0
    predicted = mean if test.units is None else mean * test.units[counted, None, None]
    return 1000 * mpjpe(predicted, test.truth[counted]).double().mean().item()


def predictions_by_frame(predicted: dict[str, torch.Tensor], store: SequenceStore,
                         windows: TestWindows) -> dict[str, np.ndarray]:
    """Return every real frame of these windows that counts, once.

    Predictions under their names, the one of a model that makes no other as `prediction`, and `truth`: (N, J, 3)
    metres; `subject`, `action`, `camera` and `frame` (N,).
    """
    first = windows.first.flatten()
    owner = windows.sequence.repeat_interleave(windows.rows.shape[1])[first].cpu().numpy()
    subjects, actions, cameras = (np.array([take[part] for take in store.takes])[owner] for part in range(3))
    headings = ['prediction' if name == ONLY else name for name in predicted]
    poses = {heading: tensor.flatten(0, 1)[first].cpu().numpy()
             for heading, tensor in zip(headings, predicted.values(), strict=True)}
    return {
        **poses, 'truth': store.truth[windows.rows.flatten()[first]].cpu().numpy(),
        'subject': subjects, 'action': actions, 'camera': cameras,
        'frame': windows.frame.flatten()[first].cpu().numpy(),
    }


def join_shares(shares: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the ranks' frames in their order, which is that of the sequences."""
    return {name: np.concatenate([share[name] for share in shares if len(share['frame'])]) for name in shares[0]}
