"""MPI-INF-3DHP's annotations to data_train_3dhp.npz and data_test_3dhp.npz, in the layout of P-STMO.

    python data/prepare_data_3dhp.py FOLDER --data DIR

FOLDER holds, itself or in folders of its own, the training annotations `S1/Seq1/annot.mat` … `S8/Seq2/annot.mat` and
the test annotations `TS1/annot_data.mat` … `TS6/annot_data.mat` of http://vcai.mpi-inf.mpg.de/3dhp-dataset.

Each file holds one dict `data`. Training: "S1 Seq1" -> [camera -> {data_2d, data_3d}, frames per second], with eight of
the fourteen cameras, called "0", "1", "2", "4", "5", "6", "7" and "8", 17 of the 28 joints, and as many frames as the
field uses. Test: "TS1" -> {data_2d, data_3d, valid, activity}: `valid` is 1 for the frames that count; `activity`, 1 to
7, gives the rows by activity, and other readers ignore it. 2D is in pixels, 3D in millimetres in the camera's axes, and
arrays keep their types of the raw files.

The 3D is `univ_annot3`, people scaled to one height. With --annot3 it is `annot3`, people in their own size, and the
files are called data_train_3dhp_ori.npz and data_test_3dhp_ori.npz, as in D3DP; errors on the two are not comparable.

The numbers of frames of each sequence, and of test frames that count, are checked. For TS1 to TS4 the former are from
memory and the latter derived from published tables; an older release of the annotations has other numbers.

Letter: F frames.
"""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.datasets.mpi_inf_3dhp import CAMERAS, TEST, TRAINING
from common.errors import FileError
from common.skeleton import MPI_INF_3DHP
from data import conversion as shared
from data.matlab import read_mat, read_mat73

ALL_CAMERAS = 14
ALL_JOINTS = 28
# Indices of the 17 joints of MPI_INF_3DHP, in its order, among the 28. The test files hold only the 17.
JOINTS_OF_28 = (7, 5, 14, 15, 16, 9, 10, 11, 23, 24, 25, 18, 19, 20, 4, 3, 6)
PATTERNS = ('S*/Seq*/annot.mat', 'TS*/annot_data.mat')
POSES = {'data_2d': ('frames', len(MPI_INF_3DHP), 2), 'data_3d': ('frames', len(MPI_INF_3DHP), 3)}
FORM_TRAIN = {'data': {str: [{str(camera): POSES for camera in CAMERAS}, int]}}
FORM_TEST = {'data': {str: {**POSES, 'valid': ('frames',), 'activity': ('frames',)}}}


@dataclass(frozen=True)
class Conversion:
    """The content of the files to write: the dicts `data` of the training and of the test file."""

    train: dict[str, list]
    test: dict[str, dict[str, np.ndarray]]


def find_sequences(folder: Path, pattern: str, known: Iterable[str]) -> dict[str, Path]:
    """Find the files of a pattern in a folder or one below it; return sequence -> file, in the order of `known`.

    Raises FileError where the folder is missing, a sequence is not known or occurs twice.
    """
    found: dict[str, Path] = {}
    for path in sorted([*shared.existing(folder).glob(pattern), *folder.glob(f'*/{pattern}')]):
        name = ' '.join(path.parts[-1 - pattern.count('/'):-1])
        if name not in known:
            raise FileError(f'{path}: there is no sequence {name}, only {", ".join(known)}')
        if name in found:
            raise FileError(f'{found[name]} and {path} are both {name}; keep one of them')
        found[name] = path
    return {name: found[name] for name in known if name in found}


def read_training(path: Path, variable: str, most: int) -> dict[str, dict[str, np.ndarray]]:
    """Read camera -> {data_2d: (F, 17, 2) pixels, data_3d: (F, 17, 3) millimetres} of a training sequence.

    Args:
        variable: the name of the 3D annotations to read.
        most: frames to read at most.

    Raises FileError for a file that is broken or of another form.
    """
    pixels, poses, cameras = read_mat(path, 'annot2', variable, 'cameras')
    if _flat(cameras) != list(range(ALL_CAMERAS)):
        raise FileError(f'{path}: cameras are not numbered 0 to {ALL_CAMERAS - 1}')
    return {str(camera): {'data_2d': _joints(f'{path}: annot2', pixels, camera, 2, most),
                          'data_3d': _joints(f'{path}: {variable}', poses, camera, 3, most)} for camera in CAMERAS}


def _flat(cameras: Any) -> list:
    """Return the numbers of an array, or of a cell of numbers, in a list."""
    if isinstance(cameras, np.ndarray) and cameras.dtype == object:
        return [item for cell in cameras.ravel() for item in np.ravel(cell).tolist()]
    return np.ravel(cameras).tolist()


def _joints(where: str, cell: Any, camera: int, channels: int, most: int) -> np.ndarray:
    """Return a camera's joints (F, 17, channels) from a cell of one (F, 28 · channels) matrix per camera."""
    if not isinstance(cell, np.ndarray) or cell.dtype != object or cell.size != ALL_CAMERAS:
        raise FileError(f'{where} is not a cell of {ALL_CAMERAS} matrices, one per camera')
    where = f'{where} of camera {camera}'
    matrix = shared.numbers(where, cell.ravel()[camera], ('frames', ALL_JOINTS * channels), finite=False)
    joints = matrix[:most].reshape(-1, ALL_JOINTS, channels)[:, list(JOINTS_OF_28)]
    return shared.numbers(where, joints, joints.shape)  # frames and joints that are left out need not be finite


def read_test(path: Path, variable: str) -> dict[str, np.ndarray]:
    """Read data_2d (F, 17, 2) pixels, data_3d (F, 17, 3) millimetres, valid (F,) and activity (F,) of a test sequence.

    Args:
        variable: the name of the 3D annotations to read.

    Raises FileError for a file that is broken or of another form.
    """
    names = ('annot2', variable, 'valid_frame', 'activity_annotation')
    pixels, poses, valid, activity = read_mat73(path, *names)
    shared.numbers(f'{path}: annot2', pixels, ('frames', 1, len(MPI_INF_3DHP), 2))
    shared.numbers(f'{path}: {variable}', poses, (len(pixels), 1, len(MPI_INF_3DHP), 3))
    for name, array, values in ((names[2], valid, (0, 1)), (names[3], activity, (1, 2, 3, 4, 5, 6, 7))):
        shared.numbers(f'{path}: {name}', array, (len(pixels), 1))
        if not np.isin(array, values).all():
            raise FileError(f'{path}: {name} holds other numbers than {", ".join(map(str, values))}')
    return {'data_2d': pixels[:, 0], 'data_3d': poses[:, 0], 'valid': valid[:, 0], 'activity': activity[:, 0]}


def convert(folder: Path, variable: str = 'univ_annot3') -> Conversion:
    """Make the content of both files from the annotations under a folder.

    Args:
        variable: the name of the 3D annotations to read.

    Raises FileError for what is missing or cannot be understood.
    """
    train, test = (find_sequences(folder, pattern, known)
                   for pattern, known in zip(PATTERNS, (TRAINING, TEST), strict=True))
    if not train and not test:
        raise FileError(f'{folder} holds no {" and no ".join(PATTERNS)}: say the folder that holds S1 and TS1')
    with tqdm(total=len(train) + len(test), desc='sequences', unit='sequence', disable=None) as progress:
        data = Conversion({}, {})
        for name, path in train.items():
            frames, fps = TRAINING[name]
            cameras = read_training(path, variable, frames)
            lengths = {len(array) for camera in cameras.values() for array in camera.values()}
            if len(lengths) > 1:
                raise FileError(f'{path}: cameras of {min(lengths)} and of {max(lengths)} frames do not fit')
            data.train[name] = [cameras, fps]
            progress.update()
        for name, path in test.items():
            data.test[name] = read_test(path, variable)
            progress.update()
    return data


def work(arguments: argparse.Namespace) -> str:
    """Convert, compare counts and write; return the summary. Raises FileError."""
    variable, suffix = ('annot3', '_ori') if arguments.annot3 else ('univ_annot3', '')
    data = convert(arguments.folder, variable)
    train = {name: len(cameras[str(CAMERAS[0])]['data_2d']) for name, (cameras, _) in data.train.items()}
    test = {name: len(arrays['valid']) for name, arrays in data.test.items()}
    valid = {name: int(arrays['valid'].sum()) for name, arrays in data.test.items()}
    shared.check_counts(
        {**{f'frames of {name}': count for name, count in (train | test).items()},
         **{f'valid frames of {name}': count for name, count in valid.items()}},
        {**{f'frames of {name}': count for name, (count, _) in (TRAINING | TEST).items()},
         **{f'valid frames of {name}': count for name, (_, count) in TEST.items()}}, arguments.force)
    paths, lines = [], [f'3D from {variable}']
    if train:
        paths.append(shared.write_checked(arguments.data / f'data_train_3dhp{suffix}.npz', FORM_TRAIN, data=data.train))
        lines += [f'{name:>9} {count:6} frames of {len(CAMERAS)} cameras at {data.train[name][1]} a second'
                  for name, count in train.items()]
    if test:
        paths.append(shared.write_checked(arguments.data / f'data_test_3dhp{suffix}.npz', FORM_TEST, data=data.test))
        lines += [f'{name:>9} {count:6} frames, {valid[name]} valid' for name, count in test.items()]
    lines.append(f'{len(train)} training sequences, {sum(train.values()) * len(CAMERAS)} poses; '
                 f'{len(test)} test sequences, {sum(valid.values())} valid frames')
    return '\n'.join([*lines, shared.wrote(paths)])


def main(argv: list[str] | None = None) -> int:
    """Run the converter from the command line; return the exit status."""
    parser = shared.make_parser('prepare_data_3dhp.py', __doc__.splitlines()[0],
                                f'folder with {" and ".join(PATTERNS)}')
    parser.add_argument('--annot3', action='store_true',
                        help='people in their own size, to data_train_3dhp_ori.npz and data_test_3dhp_ori.npz')
    shared.add_force(parser)
    return shared.run(parser, argv, work)


if __name__ == '__main__':
    sys.exit(main())
