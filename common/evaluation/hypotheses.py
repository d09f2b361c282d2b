"""What is made of several hypotheses of a pose: four figures, of which one reads nothing besides the keypoints.

P-Agg is the mean over hypotheses. J-Agg (JPMA) takes each joint from the hypothesis that is seen nearest to the input
keypoint, for which it reads the camera and where the root truly is. P-Best is the hypothesis with the lowest error, one
for several windows at a time, and J-Best takes each joint from the hypothesis nearest to the truth: both read the
answer. Source: Shan et al. (D3DP), ICCV 2023. Letters: B windows, K iterations, P hypotheses, A frames taken from a
window, J joints.
"""

from typing import NamedTuple

import torch

from common.augment import Batch
from common.geometry.projection import project
from common.metrics import aligned_errors
from common.models.lifter import FRAMES_PER_BATCH, Lifter
from common.models.lifting import sampled
from common.sampler import TestWindows
from common.store import SequenceStore

TOGETHER = 4  # windows for which P-Best takes one hypothesis, as published


class Judged(NamedTuple):
    """What is judged of some windows: poses by name, the headline last, and figures that are not those of the poses.

    Attributes:
        poses: (W, A, J, 3) metres each.
        known: name of a prediction -> name of a metric -> its figures (W, A), in what the metric's function returns.
    """

    poses: dict[str, torch.Tensor]
    known: dict[str, dict[str, torch.Tensor]]


def judge(samples: torch.Tensor, view: Batch, group: torch.Tensor) -> Judged:
    """Make the figures' poses of hypotheses, and their P-MPJPE.

    Each hypothesis is aligned as a whole for P-MPJPE. J-Best then takes the smallest aligned errors, J-Agg those of the
    joints that it chose, P-Best the hypothesis that is best when aligned: none is the P-MPJPE of poses put together.

    Args:
        samples: (B, P, A, J, 3) metres.
        view: with `poses` (B, A, J, 3) and keypoints (B, A, J, 2) of the frames taken, and with `intrinsic` (B, 9) and
            `root` (B, A, 3), or without, and then there is no J-Agg.
        group: (B,) number of the windows among which P-Best takes one hypothesis, from 0.
    """
    truth = view.truth
    errors = (samples - truth[:, None]).norm(dim=-1)  # (B, P, A, J)
    aligned = aligned_errors(samples, truth[:, None].expand_as(samples))
    whole, joint, seen = _best_of(errors, group), errors.argmin(dim=1), by_projection(samples, view)
    windows = torch.arange(len(samples), device=samples.device)
    poses = {'J-Best': _pick(samples, joint), 'P-Best': samples[windows, whole]}
    known = {'J-Best': aligned.amin(dim=1).mean(dim=-1),
             'P-Best': aligned[windows, _best_of(aligned, group)].mean(dim=-1)}
    if seen is not None:
        poses['J-Agg'] = _pick(samples, seen)
        known['J-Agg'] = aligned.gather(1, seen[:, None])[:, 0].mean(dim=-1)
    poses['P-Agg'] = samples.mean(dim=1)
    return Judged(poses, {name: {'p_mpjpe': figures} for name, figures in known.items()})


def by_projection(samples: torch.Tensor, view: Batch) -> torch.Tensor | None:
    """Return for each joint the hypothesis whose projection is nearest to the keypoint: (B, A, J); None without lens.

    Distances are on the screen; of equal ones the first counts, as always at the root. Arguments as `judge` takes them.
    """
    if view.intrinsic is None or view.root is None:
        return None
    projected = project(samples + view.root[:, None, :, None], view.intrinsic)  # (B, P, A, J, 2)
    return (projected - view.keypoints[:, None, ..., :2]).norm(dim=-1).argmin(dim=1)


def _best_of(errors: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """Return the hypothesis (B,) of each window's group with the lowest mean error (B, P, A, J)."""
    by_window = errors.double().mean(dim=(2, 3))  # (B, P), of equally many frames
    groups = int(group[-1]) + 1 if len(group) else 0
    sums = by_window.new_zeros(groups, by_window.shape[1]).index_add_(0, group, by_window)
    return sums.argmin(dim=1)[group]


def _pick(samples: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Return poses (B, A, J, 3) of which each joint is taken from the hypothesis chosen for it, (B, A, J)."""
    return samples.gather(1, chosen[:, None, ..., None].expand(-1, 1, -1, -1, 3))[:, 0]


@torch.inference_mode()
def hypotheses(model: Lifter, store: SequenceStore, windows: TestWindows, root: str, flip: bool, together: int,
               by_iteration: bool = False) -> list[Judged]:
    """Return what is judged of each window after each iteration, or after the last one alone.

    The hypotheses themselves are kept for no longer than a batch, which is made of whole groups.

    Args:
        root, flip: as `predictions` takes them.
        together: windows of a sequence for which P-Best takes one hypothesis.
    """
    model.eval()
    known = model.needs | {need for need in ('intrinsic', 'root') if store.lacks(frozenset({need})) is None}
    if store.keypoints.shape[1] != store.joints:
        known -= {'intrinsic'}  # nothing to compare a projection with
    group = groups(windows.sequence, together)
    places = [Judged({}, {}) for _ in range(model.iterations if by_iteration else 1)]
    for index in _batches(group, max(1, FRAMES_PER_BATCH[store.device.type] // windows.frames // model.hypotheses)):
        samples, seen = sampled(model, store, windows, index, known, root, flip, by_iteration)
        rows = windows.rows[index]
        view = seen._replace(poses=store.truth[rows], root=None if store.roots is None else store.roots[rows],
                             keypoints=seen.keypoints[:, windows.taken.start:windows.taken.stop])
        mine = group[index] - group[index[0]] if len(index) else index
        for place, each in zip(places, samples.unbind(1), strict=True):
            _put(judge(each, view, mine), place, index, len(windows))
    return places


def groups(sequence: torch.Tensor, together: int) -> torch.Tensor:
    """Return the group (W,) of each window, from 0: so many of its sequence (W,), which the last of one may lack."""
    if not len(sequence):
        return sequence
    begins = torch.ones_like(sequence, dtype=torch.bool)
    begins[1:] = sequence[1:] != sequence[:-1]
    order = torch.arange(len(sequence), device=sequence.device)
    within = order - order[begins][begins.cumsum(0) - 1]  # place in the sequence
    return (begins | (within % together == 0)).cumsum(0) - 1


def _batches(group: torch.Tensor, most: int) -> list[torch.Tensor]:
    """Return the windows of each batch: as many whole groups as `most` windows hold, one at least."""
    counts = torch.bincount(group).tolist() if len(group) else []
    batches, begin, end = [], 0, 0
    for count in counts:
        if end > begin and end + count - begin > most:
            batches.append((begin, end))
            begin = end
        end += count
    batches.append((begin, end))
    return [torch.arange(*batch, device=group.device) for batch in batches]


def _put(part: Judged, place: Judged, index: torch.Tensor, count: int) -> None:
    """Copy what is judged of the windows of this index (B,) to its place among all `count`, which is made if need be.

    Kept as they come, the pieces of many batches would lie between what those batches took and gave back, which the
    allocator could then not use again.
    """
    for name, poses in part.poses.items():
        place.poses.setdefault(name, poses.new_empty(count, *poses.shape[1:]))[index] = poses
    for name, metrics in part.known.items():
        for metric, figures in metrics.items():
            there = place.known.setdefault(name, {})
            there.setdefault(metric, figures.new_empty(count, *figures.shape[1:]))[index] = figures
