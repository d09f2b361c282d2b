"""HumanEva-I, as its MATLAB toolbox exports it, to data_3d_humaneva15.npz and data_2d_humaneva15_gt.npz (or 20).

    python data/prepare_data_humaneva.py FOLDER --data DIR

FOLDER is `converted_15j` or `converted_20j`, made in MATLAB with the toolbox of the data set's owners
(http://humaneva.is.tue.mpg.de): `<split>/<subject>/<Action>_<trial>.mat`, such as `Train/S1/Walking_1.mat`, with
`poses_3d` (T, 15 or 20, 3), millimetres in the world, and `poses_2d` (3, T, 15 or 20, 2), pixels of cameras C1, C2, C3.
A frame whose pose the mocap reader calls invalid is NaN there.

A take is split into runs of frames with and without a pose. All runs are numbered, and those with a pose are stored, as
`Walking 1 chunk0`. The number of frames of each take is checked against its part of the official split; trial 1 of S3's
ThrowCatch, whose stream is damaged, is in neither part.

Letters: T frames of a take, J joints.
"""

import argparse
import re
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.datasets.humaneva import RANGES, SPLITS
from common.errors import FileError
from common.skeleton import HUMANEVA15, HUMANEVA20
from data import conversion as shared
from data.matlab import read_mat

PATTERN = '<split>/<subject>/<Action>_<trial>.mat'
CAMERAS = 3
METADATA = {len(skeleton): shared.keypoints_metadata(skeleton) for skeleton in (HUMANEVA15, HUMANEVA20)}


@dataclass(frozen=True)
class Conversion:
    """The content of the files to write.

    Attributes:
        joints: J, 15 or 20.
        positions: split/subject -> chunk -> (T, J, 3) float32, metres, world space.
        views: split/subject -> chunk -> three (T, J, 2) float32 arrays of pixels.
        lengths: (split/subject, take) -> number of frames, those without a pose included.
    """

    joints: int
    positions: dict[str, dict[str, np.ndarray]]
    views: dict[str, dict[str, list[np.ndarray]]]
    lengths: dict[tuple[str, str], int]


def find_takes(folder: Path) -> dict[tuple[str, str], Path]:
    """Find the takes; return (split/subject, take) -> file, such as ('Train/S1', 'Walking 1'), sorted by name.

    Raises FileError where the folder or the files are missing or a file does not belong there.
    """
    takes = {}
    for path in sorted(shared.existing(folder).rglob('*.mat')):
        place = '/'.join(path.relative_to(folder).parts)
        match = re.fullmatch(rf'(({"|".join(SPLITS)})/S\d+)/([A-Za-z]+)_(\d+)\.mat', place)
        if not match:
            raise FileError(f'{path} is not {PATTERN} of {folder}; say the folder that holds Train and Validate')
        takes[match[1], f'{match[3]} {match[4]}'] = path
    if not takes:
        raise FileError(f'{folder} holds no {PATTERN}; export them with the MATLAB toolbox of HumanEva first')
    return takes


def read_take(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a take: (T, J, 3) millimetres and (3, T, J, 2) pixels, NaN where there is no pose. Raises FileError."""
    poses, views = read_mat(path, 'poses_3d', 'poses_2d')
    shared.numbers(f'{path}: poses_3d', poses, ('frames', 'joints', 3), finite=False)
    if poses.shape[1] not in METADATA:
        raise FileError(f'{path}: poses_3d has {poses.shape[1]} joints, expected {" or ".join(map(str, METADATA))}')
    shared.numbers(f'{path}: poses_2d', views, (CAMERAS, *poses.shape[:2], 2), finite=False)
    return poses, views


def runs(poses: np.ndarray) -> list[tuple[int, int, bool]]:
    """Split the frames of (T, J, 3) into maximal runs with and without a pose: (start, end, True with a pose)."""
    posed = np.isfinite(poses).all(axis=(1, 2))
    borders = [0, *(np.flatnonzero(posed[1:] != posed[:-1]) + 1).tolist(), len(posed)]
    return [(start, end, bool(posed[start])) for start, end in pairwise(borders)]


def convert(folder: Path) -> Conversion:
    """Make the content of both files from the MATLAB files under a folder.

    Raises FileError for what is missing or cannot be understood.
    """
    takes = find_takes(folder)
    joints = 0
    positions: dict[str, dict[str, np.ndarray]] = {}
    views: dict[str, dict[str, list[np.ndarray]]] = {}
    lengths = {}
    for (subject, take), path in tqdm(takes.items(), desc='takes', unit='take', disable=None):
        poses, pixels = read_take(path)
        if poses.shape[1] != (joints := joints or poses.shape[1]):
            raise FileError(f'{path}: poses_3d has {poses.shape[1]} joints, but the files before it {joints}')
        lengths[subject, take] = len(poses)
        for number, (start, end, posed) in enumerate(runs(poses)):
            if posed:
                chunk = f'{take} chunk{number}'
                positions.setdefault(subject, {})[chunk] = shared.metres(f'{path}: poses_3d', poses[start:end])
                views.setdefault(subject, {})[chunk] = [
                    shared.numbers(f'{path}: poses_2d of camera C{camera}', view[start:end].astype(np.float32),
                                   (end - start, joints, 2)) for camera, view in enumerate(pixels, 1)]
    if not positions:
        raise FileError(f'{folder} holds no frame with a pose: export the files again')
    return Conversion(joints, positions, views, lengths)


def work(arguments: argparse.Namespace) -> str:
    """Convert, compare counts and write; return the summary. Raises FileError."""
    conversion = convert(arguments.folder)
    shared.check_counts({f'frames of {subject} {take}': length for (subject, take), length in
                         conversion.lengths.items()},
                        {f'frames of {subject} {take}': end - start for (subject, take), (start, end) in
                         RANGES.items()}, arguments.force)
    joints = conversion.joints
    frames = {subject: {chunk: len(motion) for chunk, motion in chunks.items()}
              for subject, chunks in conversion.positions.items()}
    metadata = METADATA[joints]
    return shared.summary(frames, [
        shared.write_checked(
            arguments.data / f'data_3d_humaneva{joints}.npz', {'positions_3d': {str: {str: ('frames', joints, 3)}}},
            positions_3d=conversion.positions),
        shared.write_checked(
            arguments.data / f'data_2d_humaneva{joints}_gt.npz',
            {'positions_2d': {str: {str: [('frames', joints, 2)] * CAMERAS}}, 'metadata': metadata},
            positions_2d=conversion.views, metadata=metadata)])


def main(argv: list[str] | None = None) -> int:
    """Run the converter from the command line; return the exit status."""
    parser = shared.make_parser('prepare_data_humaneva.py', __doc__.splitlines()[0],
                                f'converted_15j or converted_20j, with {PATTERN}')
    shared.add_force(parser)
    return shared.run(parser, argv, work)


if __name__ == '__main__':
    sys.exit(main())
