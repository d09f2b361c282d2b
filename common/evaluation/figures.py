"""What the plots of an evaluation show, as numbers: by action, by joint, over time, and by distance.

Letters: N frames, J joints.
"""

import numpy as np
import torch

from common import metrics
from common.evaluation.evaluate import METRICS
from common.evaluation.tables import TITLES

# P-MPJPE by action as published, by data set and keypoints: what bars are held against.
PUBLISHED = {('h36m', 'cpn_ft_h36m_dbb'): ('KTPFormer, 243 frames, published P-MPJPE', {
    'Directions': 30.1, 'Discussion': 32.3, 'Eating': 29.6, 'Greeting': 30.8, 'Phoning': 32.3, 'Photo': 37.3,
    'Posing': 30.0, 'Purchases': 30.2, 'Sitting': 41.0, 'SittingDown': 45.3, 'Smoking': 33.6, 'Waiting': 29.9,
    'WalkDog': 31.4, 'Walking': 21.5, 'WalkTogether': 22.6})}
WORST = 4  # sequences shown over time
THRESHOLDS = tuple(range(0, metrics.PCK_THRESHOLD + 1, 5))  # millimetres
SHOWN = METRICS[:2]  # of the figures by action: MPJPE and P-MPJPE


def bars(summaries: dict[str, dict], average: dict[str, dict], dataset: str, keypoints: str) -> dict:
    """Errors by action (or test sequence), millimetres: {'names': row names, 'series': {title: values}, 'published':
    (its source, values) or None, where NaN stands for what was not published}.

    Args:
        summaries: `predicted` and, where there is one, `refined` -> row name -> figures by metric.
        average: likewise -> the figures of the average, which becomes the last row.
    """
    names = [*summaries['predicted'], 'average']
    series = {}
    for kind, rows in summaries.items():
        for metric in SHOWN:
            values = [figures[metric] for figures in (*rows.values(), average[kind])]
            series['refined ' * (kind == 'refined') + TITLES[metric]] = values
    source, published = PUBLISHED.get((dataset, keypoints), (None, {}))
    row = [published.get(name, np.nan) for name in names[:-1]]
    known = [value for value in row if np.isfinite(value)]
    # The average of some of the actions is not what was published.
    row.append(float(np.mean(known)) if known and len(known) == len(published) else np.nan)
    return {'names': names, 'series': series, 'published': (source, row) if known else None}


def by_joint(rows: dict[str, np.ndarray], joints: tuple[str, ...]) -> dict:
    """Mean error of each joint over all frames, millimetres: {'names': joints, 'series': {kind: values}}."""
    return {'names': list(joints), 'series': {kind: errors.mean(axis=0).tolist()
                                              for kind, errors in _errors(rows).items()}}


def worst_sequences(rows: dict[str, np.ndarray]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """The sequences with the highest mean error, the worst first: (name, frames (n,), error of each in millimetres)."""
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


def pck_curves(rows: dict[str, np.ndarray], joints: list[int]) -> dict:
    """Share of these joints nearer to the truth than 0 to 150 mm: {'thresholds': mm, 'series': {kind: per cent}}."""
    truth = torch.from_numpy(rows['truth'])[:, joints]
    return {'thresholds': list(THRESHOLDS), 'series': {
        kind: (100 * metrics.pck(torch.from_numpy(rows[column])[:, joints], truth, THRESHOLDS).mean(dim=0)).tolist()
        for kind, column in _columns(rows).items()}}


def _columns(rows: dict[str, np.ndarray]) -> dict[str, str]:
    """What is judged -> the column of it."""
    return {'predicted': 'prediction'} | ({'refined': 'refined'} if 'refined' in rows else {})


def _errors(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """kind -> (N, J) distances of predictions from the truth, millimetres."""
    return {kind: 1000 * np.linalg.norm(rows[column].astype(np.float64) - rows['truth'], axis=-1)
            for kind, column in _columns(rows).items()}
