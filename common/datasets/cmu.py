"""CMU motion capture seen by virtual cameras, from the npz files that data/prepare_data_cmu.py makes.

Since no real camera filmed it, `data_3d_cmu.npz` holds its own `cameras` and `metadata` (fps, subjects_train,
subjects_test) beside `positions_3d`.
"""

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

import numpy as np

from common.datasets.poses import PoseDataset, keypoint_layout, read_detections, read_positions
from common.errors import FileError
from common.geometry.camera import MOST_PIXELS, Camera
from common.skeleton import H36M
from common.storage.files import shown

NUMBERS = {'orientation': 4, 'translation': 3, 'intrinsic': 9}  # the vectors of a camera and their lengths


def load(folder: Path, keypoints: str) -> PoseDataset:
    """Read `data_3d_cmu.npz` and `data_2d_cmu_<keypoints>.npz` of a folder.

    Raises FileError for a file that is missing, broken or of another form.
    """
    path_3d, path_2d = folder / 'data_3d_cmu.npz', folder / f'data_2d_cmu_{keypoints}.npz'
    positions, members = read_positions(path_3d, len(H36M))
    detections, layout = read_detections(path_2d, keypoint_layout(keypoints, H36M))
    try:
        cameras = _cameras(members.get('cameras'), positions)
        fps, train, test = _metadata(members.get('metadata'), positions)
    except ValueError as error:
        raise FileError(f'{path_3d}: {error}; make it again with data/prepare_data_cmu.py') from None
    return PoseDataset(
        name='cmu', keypoints=keypoints, skeleton=H36M, layout=layout, fps=fps, positions=positions,
        detections=detections, cameras=cameras, subjects_train=train, subjects_test=test,
        source_3d=str(path_3d), source_2d=str(path_2d))


def _cameras(tree: Any, subjects: Collection[str]) -> dict[str, list[Camera]]:
    """Return the cameras of every subject. Raises ValueError where some are missing or of another form."""
    if not isinstance(tree, dict):
        raise ValueError('cameras is not there, or not a dict of subjects')
    cameras = {}
    for subject in subjects:
        entries = tree.get(subject)
        if not isinstance(entries, (list, tuple)) or not entries:
            raise ValueError(f'cameras of subject {subject} are missing, or not a list')
        cameras[subject] = [_camera(entry, f'camera {k} of subject {subject}') for k, entry in enumerate(entries)]
    return cameras


def _camera(entry: Any, where: str) -> Camera:
    entry = entry if isinstance(entry, dict) else {}
    vectors = {name: _vector(entry.get(name), count, f'{where}: {name}') for name, count in NUMBERS.items()}
    if abs(np.linalg.norm(vectors['orientation']) - 1) > 1e-3:
        raise ValueError(f'{where}: orientation is not a unit quaternion')
    sides = {}
    for name in ('width', 'height'):
        sides[name] = entry.get(name)
        if isinstance(sides[name], bool) or not isinstance(sides[name], (int, np.integer)) or not (
                0 < sides[name] <= MOST_PIXELS):
            raise ValueError(f'{where}: {name} is {shown(sides[name], 20)}, expected pixels, up to {MOST_PIXELS:,}')
    return Camera(**vectors, width=int(sides['width']), height=int(sides['height']))


def _vector(values: Any, count: int, name: str) -> np.ndarray:
    try:
        vector = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        vector = np.empty(0, np.float32)
    if vector.shape != (count,) or not np.isfinite(vector).all():
        raise ValueError(f'{name} is not {count} finite numbers')
    return vector


def _metadata(metadata: Any, subjects: Collection[str]) -> tuple[float, tuple[str, ...], tuple[str, ...]]:
    """Return (fps, subjects_train, subjects_test). Raises ValueError where one is missing or of another form."""
    metadata = metadata if isinstance(metadata, dict) else {}
    fps = metadata.get('fps')
    if isinstance(fps, bool) or not isinstance(fps, (int, float, np.number)) or not 0 < fps < math.inf:
        raise ValueError(f'metadata says fps {str(fps)[:20]!r}, expected frames per second')
    return cast(float, fps), _names(metadata, 'subjects_train', subjects), _names(metadata, 'subjects_test', subjects)


def _names(metadata: dict, name: str, subjects: Collection[str]) -> tuple[str, ...]:
    side = metadata.get(name)
    if not isinstance(side, (list, tuple)) or not side or not all(isinstance(s, str) for s in side):
        raise ValueError(f'metadata has no {name}, or not as a list of names')
    unknown = [subject for subject in side if subject not in subjects]
    if unknown:
        raise ValueError(f'{name} names {unknown[0]}, which positions_3d has not')
    return tuple(side)
