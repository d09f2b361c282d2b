"""MPI-INF-3DHP's test: MPJPE, P-MPJPE, PCK and AUC by sequence, activity and scene, and three averages.

Only frames that the data set marks count. Three averages are in use, and papers rarely say which is theirs:
A weighs the sequences with the frame counts of the annotations' older release, as P-STMO and those after it publish;
B is the plain mean of the sequences, as D3DP publishes; C pools all frames that count, which is what the data set's own
script calls "All".

Letters: W windows, A frames taken from a window, N frames that count, J joints, S sequences, M metrics.
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from common.datasets.mpi_inf_3dhp import ACTIVITIES, NOT_IN_PCK, OLDER_COUNTS, SCENES
from common.distributed import ALONE, World
from common.evaluation.figures import columns as figures_columns
from common.evaluation.sums import add_up
from common.evaluation.tables import Figures, grid, prefix, suspicion, told
from common.metrics import METRICS
from common.sampler import TestWindows
from common.skeleton import Skeleton
from common.storage.files import atomic_path
from common.store import SequenceStore

MARKED = tuple(metric for metric in METRICS if metric.marked)
AVERAGES = {'A': 'A, older counts', 'B': 'B, mean of sequences', 'C': 'C, frames pooled'}


def tally_marked(predicted: torch.Tensor, store: SequenceStore, windows: TestWindows, skeleton: Skeleton,
                 world: World = ALONE) -> dict[tuple[str, int], np.ndarray]:
    """Add up the errors of the frames that count by subject and activity: `by_activity` of `marked_sums`."""
    return by_activity(world.sum(marked_sums(predicted, store, windows, skeleton)), store)


@torch.inference_mode()
def marked_sums(predicted: torch.Tensor, store: SequenceStore, windows: TestWindows, skeleton: Skeleton,
                known: Mapping[str, torch.Tensor] | None = None) -> torch.Tensor:
    """Add up the errors of the frames that count: (S, 8, 1 + M) float64, their number and the sums, by activity.

    Activities are 1 to 7, and 0 where none is annotated. Arguments as `sums.sequence_sums` takes them.
    """
    rows = windows.rows[windows.first]  # (N,)
    given = {name: figures[windows.first].double() for name, figures in (known or {}).items()}
    errors = _errors(predicted[windows.first], store.truth[rows], skeleton, given)  # (N, M)
    values = torch.cat([torch.ones_like(errors[:, :1]), errors], dim=1)  # (N, 1 + M)
    owner = windows.sequence.repeat_interleave(windows.rows.shape[1])[windows.first.flatten()]
    activity = torch.zeros_like(owner) if store.marks is None else store.marks[rows].clamp_min(0)
    kinds = len(ACTIVITIES) + 1
    sums = torch.zeros(len(store.takes) * kinds, values.shape[1], dtype=torch.float64, device=store.device)
    sums.index_add_(0, owner * kinds + activity, values)
    return sums.view(len(store.takes), kinds, -1)


def by_activity(sums: torch.Tensor, store: SequenceStore) -> dict[tuple[str, int], np.ndarray]:
    """Return `marked_sums` (S, 8, 1 + M) by subject and activity, (1 + M,) each, where a frame counts."""
    by_take = sums.cpu().numpy()
    totals: dict[tuple[str, int], np.ndarray] = defaultdict(lambda: np.zeros(by_take.shape[2]))
    for (subject, _, _), by_activity in zip(store.takes, by_take, strict=True):
        for kind, total in enumerate(by_activity):
            totals[subject, kind] += total
    return {key: total for key, total in totals.items() if total[0]}


def _errors(predicted: torch.Tensor, target: torch.Tensor, skeleton: Skeleton,
            given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the metrics (N, M), float64, of N poses, (N, J, 3) metres twice, or those `given` by name, (N,) each."""
    counted = [j for j, name in enumerate(skeleton.joints) if name not in NOT_IN_PCK]
    columns = []
    for metric in MARKED:
        joints = counted if metric.some_joints else slice(None)
        columns.append(given[metric.name] if metric.name in given else
                       metric.function(predicted[:, joints], target[:, joints]).double())
    return torch.stack(columns, dim=1)


def summarise_marked(totals: dict[tuple[str, int], np.ndarray]) -> dict[str, dict[str, Figures]]:
    """Return the figures as the results file has them: sequences, activities and scenes by name, averages A, B and C.

    MPJPE and P-MPJPE in millimetres, PCK and AUC in per cent. A is of None where it is not defined, for sequences that
    are not the data set's test sequences.
    """
    sequences = add_up((name, total) for (name, _), total in totals.items())
    activities = add_up((ACTIVITIES[kind - 1], total) for (_, kind), total in totals.items() if kind)
    scenes = add_up((SCENES[name], total) for (name, _), total in totals.items() if name in SCENES)
    in_order = {name: activities[name] for name in ACTIVITIES if name in activities}
    pooled = add_up(('C', total) for total in totals.values())['C']
    figures = {group: {name: _figures(_mean(total)) for name, total in members.items()} for group, members in
               (('sequences', sequences), ('activities', in_order), ('scenes', scenes))}
    return figures | {'averages': _averages(sequences, pooled)}


def _averages(sequences: dict[str, np.ndarray], pooled: np.ndarray) -> dict[str, Figures]:
    """Return the averages A, B and C.

    Args:
        sequences: total (1 + M,) of each. pooled: of all frames that count.
    """
    means = np.stack([_mean(total) for total in sequences.values()])  # (S, M)
    weights = [OLDER_COUNTS[name] for name in sequences if name in OLDER_COUNTS]
    weighted = np.average(means, axis=0, weights=weights) if len(weights) == len(sequences) else None
    return {'A': _figures(weighted), 'B': _figures(means.mean(axis=0)), 'C': _figures(_mean(pooled))}


def _mean(total: np.ndarray) -> np.ndarray:
    """Return the means (M,) of a total (1 + M,): the number of frames, then the sums over them."""
    return total[1:] / total[0]


def _figures(means: np.ndarray | None) -> Figures:
    """Return means (M,) by name of their metric and in its unit; figures of None where there are no means."""
    if means is None:
        return {metric.name: None for metric in MARKED}
    return {metric.name: float(metric.scale * mean) for metric, mean in zip(MARKED, means, strict=True)}


def table_marked(summaries: dict[str, dict[str, dict[str, Figures]]], target: str) -> str:
    """Return the table of one target: sequences, scenes, activities, averages; it closes with average C, the headline.

    Args:
        summaries: name of a prediction -> its figures as `summarise_marked` lays them out; they stand side by side.
    """
    blocks = {name: [*(list(summary[group].items()) for group in ('sequences', 'scenes', 'activities')),
                     [(AVERAGES[average], figures) for average, figures in summary['averages'].items()]]
              for name, summary in summaries.items()}
    lines = [grid(f'Target {target}, mm and %', MARKED, blocks)]
    for name, summary in summaries.items():
        headline = summary['averages']['C']
        lines.append(f'{prefix(name)}average C, target {target}: {told(MARKED, headline)}')
        if doubt := suspicion(headline):
            lines.append(doubt)
    return '\n'.join(lines)


def write_inference_data(path: Path, rows: dict[str, np.ndarray], root: int) -> None:
    """Write the field's inference_data.mat: sequence -> (3, 17, 1, n) millimetres, the n frames that count.

    Args:
        rows: frames as `predictions_by_frame` gives them.
        root: index of the joint that is moved to 0.

    Raises FileError when it cannot be written.
    """
    from scipy.io import savemat  # slow to import, and nothing else needs it

    headline = list(figures_columns(rows).values())[-1]
    arrays = {}
    for subject in dict.fromkeys(rows['subject'].tolist()):
        poses = 1000 * rows[headline][rows['subject'] == subject]  # (n, J, 3)
        poses[:, root] = 0
        arrays[subject] = poses.transpose(2, 1, 0)[:, :, None]
    with atomic_path(path) as temporary:
        savemat(temporary, arrays)
