"""The numbers behind the plots of an evaluation: by action, by joint, over time, and by distance.

Letters: N frames, J joints.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from common.evaluation.tables import Figures, prefix
from common.metrics import METRICS, PCK_THRESHOLD, pck
from common.models.lifter import ONLY

WORST = 4  # sequences shown over time
THRESHOLDS = tuple(range(0, PCK_THRESHOLD + 1, 5))  # millimetres
SHOWN = METRICS[:2]  # of the figures by action: MPJPE and P-MPJPE


def bars(rows: dict[str, dict[str, Figures]], average: dict[str, Figures],
         published: tuple[str, Mapping[str, float]] | None = None) -> dict[str, Any]:
    """Return errors by action (or test sequence), millimetres.

    Args:
        rows: name of a prediction -> row name -> figures by metric.
        average: likewise -> the figures of the average, which becomes the last row.
        published: the source of published P-MPJPE figures, and these by action.

    Returns {'names': row names, 'series': {title: values}, 'published': (its source, values) or None, where NaN stands
    for what was not published}.
    """
    names = [*next(iter(rows.values())), 'average']
    series = {}
    for kind, figures_of in rows.items():
        for metric in SHOWN:
            values = [figures[metric.name] for figures in (*figures_of.values(), average[kind])]
            series[prefix(kind) + metric.title] = values
    source, known_rows = published or ('', {})
    row = [known_rows.get(name, np.nan) for name in names[:-1]]
    known = [value for value in row if np.isfinite(value)]
    # The average of some of the actions is not what was published.
    row.append(float(np.mean(known)) if known and len(known) == len(known_rows) else np.nan)
    return {'names': names, 'series': series, 'published': (source, row) if known else None}


def by_joint(rows: dict[str, np.ndarray], joints: tuple[str, ...]) -> dict[str, Any]:
    """Return each joint's mean error over all frames, millimetres: {'names': joints, 'series': {kind: values}}."""
    return {'names': list(joints), 'series': {kind: errors.mean(axis=0).tolist()
                                              for kind, errors in _errors(rows).items()}}


def worst_sequences(rows: dict[str, np.ndarray]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return the sequences with the highest mean error, the worst first: (name, frames (n,), their errors (n,), mm)."""
    errors = list(_errors(rows).values())[-1].mean(axis=1)  # (N,), of the refinement where there is one
    keys = list(zip(rows['subject'].tolist(), rows['action'].tolist(), rows['camera'].tolist(), strict=True))
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    owner = np.array([numbers[key] for key in keys])
    means = np.bincount(owner, errors) / np.bincount(owner)
    found = []
    for number in np.argsort(-means, kind='stable')[:WORST]:
        subject, action, camera = list(numbers)[number]
        mine = owner == number
        found.append((f'{subject} {action}, camera {camera}: mean {means[number]:.1f} mm', rows['frame'][mine],
                      errors[mine]))
    return found


def pck_curves(rows: dict[str, np.ndarray], joints: list[int]) -> dict[str, Any]:
    """Return the share of these joints nearer to the truth than 0 to 150 mm.

    Returns {'thresholds': mm, 'series': {kind: per cent}}.
    """
    truth = torch.from_numpy(rows['truth'])[:, joints]
    return {'thresholds': list(THRESHOLDS), 'series': {
        kind: (100 * pck(torch.from_numpy(rows[column])[:, joints], truth, THRESHOLDS).mean(dim=0)).tolist()
        for kind, column in columns(rows).items()}}


def columns(rows: dict[str, np.ndarray]) -> dict[str, str]:
    """Return the predictions' names -> their columns: all that is shaped like the truth."""
    headings = [name for name, value in rows.items() if name != 'truth' and value.shape == rows['truth'].shape]
    return {ONLY if heading == 'prediction' else heading: heading for heading in headings}


def _errors(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return kind -> (N, J) distances of predictions from the truth, millimetres."""
    return {kind: 1000 * np.linalg.norm(rows[column].astype(np.float64) - rows['truth'], axis=-1)
            for kind, column in columns(rows).items()}
