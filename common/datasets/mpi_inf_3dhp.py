"""MPI-INF-3DHP in the npz layout of P-STMO, as data/prepare_data_3dhp.py makes it.

Training: eight actors, two sequences each, seen by eight cameras. Test: six sequences, of which only some frames count
(`valid`). 2D is ground truth. 3D is in each camera's own axes, so that each camera's view of a sequence is a take of
its own, with the camera at the origin. Source: Mehta et al., "Monocular 3D Human Pose Estimation In The Wild Using
Improved CNN Supervision", 3DV 2017; its test set's calibration for the intrinsics.

Letters: F frames, J joints (17).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.datasets.poses import Count, PoseDataset, as_frames
from common.errors import FileError
from common.geometry.camera import Camera, pinhole_intrinsic
from common.skeleton import MPI_INF_3DHP
from common.storage.npz import read_npz

KEYPOINTS = ('gt', 'gt_ori')  # of people scaled to one height, and of people in their own size
SUBJECTS_TRAIN = tuple(f'S{n}' for n in range(1, 9))
SUBJECTS_TEST = tuple(f'TS{n}' for n in range(1, 7))
# training sequence -> frames used, frames per second
TRAINING = {
    'S1 Seq1': (6416, 25), 'S1 Seq2': (12430, 50), 'S2 Seq1': (6502, 25), 'S2 Seq2': (6081, 25),
    'S3 Seq1': (12488, 50), 'S3 Seq2': (12283, 50), 'S4 Seq1': (6171, 25), 'S4 Seq2': (6675, 25),
    'S5 Seq1': (12820, 50), 'S5 Seq2': (12312, 50), 'S6 Seq1': (6188, 25), 'S6 Seq2': (6145, 25),
    'S7 Seq1': (6239, 25), 'S7 Seq2': (6320, 25), 'S8 Seq1': (6468, 25), 'S8 Seq2': (6054, 25),
}
# test sequence -> frames, frames that count
TEST = {'TS1': (6151, 603), 'TS2': (6080, 540), 'TS3': (5838, 506), 'TS4': (6007, 558), 'TS5': (320, 276),
        'TS6': (492, 392)}
CAMERAS = (0, 1, 2, 4, 5, 6, 7, 8)  # those used of the fourteen
FPS = 25  # of the test sequences and most of training; the rest has 50, and by custom is not resampled
SIDE = 2048  # pixels; only the two outdoor sequences have pictures of another size
OUTDOORS = ('TS5', 'TS6')
IDENTITY = np.array([1, 0, 0, 0], np.float32)
# (sensor, focal length and offset of the centre in millimetres; height over width of a pixel)
_STUDIO = (10, 10), 7.32506, (-0.0322884, 0.0929296), 1.00044
_OUTSIDE = (10, 5.625), 8.770747185, (-0.104908645, 0.104899704), 0.993236423
SCENES = {'TS1': 'studio, green screen', 'TS2': 'studio, green screen', 'TS3': 'studio, no green screen',
          'TS4': 'studio, no green screen', 'TS5': 'outdoors', 'TS6': 'outdoors'}
ACTIVITIES = ('Standing/Walking', 'Exercising', 'Sitting', 'Reaching/Crouching', 'On The Floor', 'Sports',
              'Miscellaneous')
# Test frames that count in an older release of the annotations. P-STMO's published averages are weighted by them.
OLDER_COUNTS = {'TS1': 603, 'TS2': 540, 'TS3': 505, 'TS4': 553, 'TS5': 276, 'TS6': 452}
# Joints that PCK and AUC leave out, by this program's names: the pelvis, spine and head of the data set.
NOT_IN_PCK = ('hip', 'spine', 'neck')


def paths(folder: Path, keypoints: str) -> tuple[Path, Path]:
    """Return the paths of the training and the test file."""
    suffix = keypoints.removeprefix('gt')
    return folder / f'data_train_3dhp{suffix}.npz', folder / f'data_test_3dhp{suffix}.npz'


def load(folder: Path, keypoints: str, training: bool = True) -> PoseDataset:
    """Read `data_train_3dhp.npz`, unless `training` is False, and `data_test_3dhp.npz` of a folder.

    Raises FileError for a file that is missing, broken or of another form.
    """
    path_train, path_test = paths(folder, keypoints)
    positions: dict[str, dict] = {}
    detections: dict[str, dict] = {}
    cameras: dict[str, list[Camera]] = {}
    rates: dict[str, dict[str, float]] = {}
    marks = {}
    source = f'{path_train} with {path_test.name}' if training else str(path_test)
    if training:
        for subject, take, data, rate in _training_views(path_train):
            rates.setdefault(subject, {})[take] = rate
            cameras.setdefault(subject, [Camera(IDENTITY, np.zeros(3, np.float32), SIDE, SIDE)])
            _add(path_train, subject, take, data, positions, detections)
    for name, data in _members(path_test).items():
        cameras[name] = [_test_camera(name)]
        _add(path_test, name, name, data, positions, detections)
        marks[name] = {name: _marks(path_test, name, data, len(positions[name][name]))}
    return PoseDataset(
        name='3dhp', keypoints=keypoints, skeleton=MPI_INF_3DHP, layout=MPI_INF_3DHP, fps=FPS, positions=positions,
        detections=detections, cameras=cameras, subjects_train=SUBJECTS_TRAIN, subjects_test=SUBJECTS_TEST,
        source_3d=source, source_2d=source, rates=rates, marks=marks, upright=False)


def counts(dataset: PoseDataset) -> list[Count]:
    """Count the frames of each sequence over its cameras, and the test frames that are valid."""
    frames: dict[str, int] = {}
    counted: dict[str, int] = {}
    for subject, takes in dataset.positions.items():
        for take, motion in takes.items():
            name = subject if subject == take else f'{subject} {take.split(" ")[0]}'
            frames[name] = frames.get(name, 0) + len(motion)
            if take in dataset.marks.get(subject, {}):
                counted[name] = int((dataset.marks[subject][take] != 0).sum())
    known = {name: count * len(CAMERAS) for name, (count, _) in TRAINING.items()} | {
        name: count for name, (count, _) in TEST.items()}
    return [*(Count(f'frames of {name}', frames.get(name, 0), known.get(name, 0)) for name in {**known, **frames}),
            *(Count(f'valid frames of {name}', counted.get(name, 0), count) for name, (_, count) in TEST.items())]


def _members(path: Path) -> dict:
    """Read the dict `data` of either file. Raises FileError."""
    members = read_npz(path)
    if not isinstance(members.get('data'), dict):
        raise FileError(f'{path} holds no dict `data`: make it with data/prepare_data_3dhp.py')
    for name in members['data']:
        if not isinstance(name, str):
            raise FileError(f'{path}: a sequence is called {name!r}, expected text')
    return members['data']


def _training_views(path: Path) -> Iterator[tuple[str, str, Any, float]]:
    """Yield (subject, take, data, frames per second) of every camera of every training sequence. Raises FileError."""
    for name, sequence in _members(path).items():
        subject, _, take = name.partition(' ')
        pair = isinstance(sequence, (list, tuple)) and len(sequence) == 2
        if not take or not pair or not isinstance(sequence[0], dict) or not _is_rate(sequence[1]):
            raise FileError(f'{path}: {name} is not a pair of cameras and frames per second')
        for camera, data in sequence[0].items():
            yield subject, f'{take} camera{camera}', data, float(sequence[1])


def _is_rate(value: Any) -> bool:
    return np.ndim(value) == 0 and np.asarray(value).dtype.kind in 'iuf' and 0 < value < np.inf


def _add(path: Path, subject: str, take: str, data: Any, positions: dict, detections: dict) -> None:
    """Add the view of one camera (3D in millimetres in its axes, 2D in pixels) to both dicts. Raises FileError."""
    where = f'{subject} {take}'
    for name in ('data_2d', 'data_3d'):
        if not isinstance(data, dict) or name not in data:
            raise FileError(f'{path}: {where} has no {name}')
    joints = len(MPI_INF_3DHP)
    millimetres = as_frames(path, f'{where} data_3d', data['data_3d'], joints, 3)
    positions.setdefault(subject, {})[take] = millimetres / np.float32(1000)
    detections.setdefault(subject, {})[take] = [as_frames(path, f'{where} data_2d', data['data_2d'], joints, 2)]


def _test_camera(name: str) -> Camera:
    """Return the camera of a test sequence, without lens distortion, which the published 2D does not have."""
    width, height = (1920, 1080) if name in OUTDOORS else (SIDE, SIDE)
    sensor, focal, offset, aspect = _OUTSIDE if name in OUTDOORS else _STUDIO
    fx = focal * width / sensor[0]
    centre = (width / 2 + offset[0] * width / sensor[0], height / 2 + offset[1] * height / sensor[1])
    intrinsic = pinhole_intrinsic((fx, fx * aspect), centre, (0, 0, 0), (0, 0), width, height)
    return Camera(IDENTITY, np.zeros(3, np.float32), width, height, intrinsic)


def _marks(path: Path, name: str, data: dict, frames: int) -> np.ndarray:
    """Return (F,) int64: 0 for frames that do not count, else the activity, 1 to 7, or -1 where it is not annotated.

    Raises FileError.
    """
    columns = {}
    for key, allowed in (('valid', (0, 1)), ('activity', range(1, len(ACTIVITIES) + 1))):
        column = data.get(key)
        if column is None and key == 'activity':
            continue  # files of other programs lack it
        if not isinstance(column, np.ndarray) or column.size != frames or column.dtype.kind not in 'fiub':
            raise FileError(f'{path}: {name} {key} is not a number for each of its {frames} frames')
        if not np.isin(column, allowed).all():
            raise FileError(f'{path}: {name} {key} holds other numbers than {", ".join(map(str, allowed))}')
        columns[key] = column.reshape(-1).astype(np.int64)
    if not columns['valid'].any():
        raise FileError(f'{path}: {name} has no valid frame')
    return columns['valid'] * columns.get('activity', -1)
