"""MPI-INF-3DHP's test: MPJPE, P-MPJPE, PCK and AUC by sequence, activity and scene, and three averages.

Only frames that the data set marks count. Three averages are in use, and papers rarely say which is theirs:
A weighs the sequences with the frame counts of the annotations' older release, as P-STMO and those after it publish;
B is the plain mean of the sequences, as D3DP publishes; C pools all frames that count, which is what the data set's own
script calls "All".

Letters: W windows, A frames taken from a window, N frames that count, J joints, S sequences, M metrics.
"""

from pathlib import Path

import numpy as np
import torch

from common.datasets.mpi_inf_3dhp import ACTIVITIES, NOT_IN_PCK, OLDER_COUNTS, SCENES
from common.distributed import ALONE, World
from common.evaluation.tables import grid, prefix, suspicion, told
from common.metrics import METRICS
from common.sampler import TestWindows
from common.skeleton import Skeleton
from common.storage.files import atomic_path
from common.store import SequenceStore

MARKED = tuple(metric for metric in METRICS if metric.marked)
AVERAGES = {'A': 'A, older counts', 'B': 'B, mean of sequences', 'C': 'C, frames pooled'}


@torch.inference_mode()
def tally_marked(predicted: torch.Tensor, store: SequenceStore, windows: TestWindows, skeleton: Skeleton,
                 world: World = ALONE) -> dict[tuple[str, int], np.ndarray]:
    """Sums over the frames that count: (subject, activity) -> (1 + M,) float64, their number and the sums.

    `predicted` is (W, A, J, 3) metres. Activities are 1 to 7, and 0 where none is annotated.
    """
    counted = [j for j, name in enumerate(skeleton.joints) if name not in NOT_IN_PCK]
    rows = windows.rows[windows.first]  # (N,)
    predicted, target = predicted[windows.first], store.poses[rows]  # (N, J, 3)
    columns = [torch.ones(len(rows), dtype=torch.float64, device=store.device)]
    for metric in MARKED:
        joints = counted if metric.some_joints else slice(None)
        columns.append(metric.function(predicted[:, joints], target[:, joints]).double())
    errors = torch.stack(columns, dim=1)  # (N, 1 + M)
    owner = windows.sequence.repeat_interleave(windows.rows.shape[1])[windows.first.flatten()]
    kinds = len(ACTIVITIES) + 1
    activity = torch.zeros_like(owner) if store.marks is None else store.marks[rows].clamp_min(0)
    sums = torch.zeros(len(store.takes) * kinds, errors.shape[1], dtype=torch.float64, device=store.device)
    sums.index_add_(0, owner * kinds + activity, errors)
    totals = {}
    by_sequence = world.sum(sums).cpu().numpy().reshape(len(store.takes), kinds, -1)
    for (subject, _, _), kinds_of_frames in zip(store.takes, by_sequence, strict=True):
        for kind, total in enumerate(kinds_of_frames):
            totals[subject, kind] = totals.get((subject, kind), 0) + total
    return {key: total for key, total in totals.items() if total[0]}


def summarise_marked(totals: dict[tuple[str, int], np.ndarray]) -> dict:
    """The figures as the results file has them: sequences, activities and scenes by name, averages A, B and C.

    MPJPE and P-MPJPE in millimetres, PCK and AUC in per cent. A is of None where it is not defined, for sequences that
    are not the data set's test sequences.
    """
    sequences, activities, scenes = {}, {}, {}
    for (name, activity), total in totals.items():
        groups = [(sequences, name), (scenes, SCENES.get(name))]
        groups.append((activities, ACTIVITIES[activity - 1] if activity else None))
        for group, key in groups:
            if key is not None:
                group[key] = group.get(key, 0) + total
    activities = {name: activities[name] for name in ACTIVITIES if name in activities}
    values = np.stack([total[1:] / total[0] for total in sequences.values()])  # (S, 4)
    weights = [OLDER_COUNTS.get(name) for name in sequences]
    averages = {'A': None if None in weights else np.average(values, axis=0, weights=weights),
                'B': values.mean(axis=0), 'C': sum(totals.values())[1:] / sum(totals.values())[0]}
    named = {group: {name: _named(total[1:] / total[0]) for name, total in members.items()}
             for group, members in (('sequences', sequences), ('activities', activities), ('scenes', scenes))}
    return named | {'averages': {name: _named(value) for name, value in averages.items()}}


def _named(values: np.ndarray | None) -> dict[str, float | None]:
    if values is None:
        return {metric.name: None for metric in MARKED}
    return {metric.name: float(metric.scale * value) for metric, value in zip(MARKED, values, strict=True)}


def table_marked(summaries: dict[str, dict], target: str) -> str:
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
    """The field's inference_data.mat: sequence -> (3, 17, 1, n) millimetres, root at 0, the n frames that count.

    Args:
        rows: frames as `predictions_by_frame` gives them.

    Raises FileError when it cannot be written.
    """
    from scipy.io import savemat  # slow to import, and nothing else needs it

    arrays = {}
    for subject in dict.fromkeys(rows['subject'].tolist()):
        poses = 1000 * rows['prediction'][rows['subject'] == subject]  # (n, J, 3)
        poses[:, root] = 0
        arrays[subject] = poses.transpose(2, 1, 0)[:, :, None]
    with atomic_path(path) as temporary:
        savemat(temporary, arrays)
