"""Human3.6M's own 3D positions to data_3d_h36m.npz, and their projections to data_2d_h36m_gt.npz.

    python data/prepare_data_h36m.py FOLDER --data DIR

FOLDER holds the archives `Poses_D3_Positions_*.tgz` of http://vision.imar.ro/human3.6m, unpacked, as
`S1/MyPoseFeatures/D3_Positions/Directions 1.cdf` and so on, or the same files saved by MATLAB as `….cdf.mat`. A file
is named after its take, but TakingPhoto is called Photo and WalkingDog WalkDog. S11's `Directions`, whose video is
corrupt, is left out, as everywhere in the field. The 2D is the projection of 17 joints through the four calibrated
cameras, lens distortion included.

The numbers of takes of each subject, and of frames of the field's training and test set, are checked. VideoPose3D
reports the latter: 389,938 for training and 135,836 for testing.

Letter: T frames.
"""

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.datasets.h36m import CAMERAS, FRAMES_TEST, FRAMES_TRAIN, SUBJECTS_TEST, SUBJECTS_TRAIN, TAKES
from common.datasets.virtual_cameras import project_all
from common.errors import FileError
from common.skeleton import H36M, H36M_OF_32
from data import conversion as shared
from data.matlab import read_mat

ACTIONS = ('Directions', 'Discussion', 'Eating', 'Greeting', 'Phoning', 'Photo', 'Posing', 'Purchases', 'Sitting',
           'SittingDown', 'Smoking', 'Waiting', 'WalkDog', 'Walking', 'WalkTogether')
RENAMED = {'TakingPhoto': 'Photo', 'WalkingDog': 'WalkDog'}
CORRUPT = ('S11', 'Directions')
PATTERN = 'S*/MyPoseFeatures/D3_Positions/*'
JOINTS = 32
# The public gt file names no layout.
METADATA = {key: value for key, value in shared.keypoints_metadata(H36M).items() if key != 'layout_name'}
FORM_3D = {'positions_3d': {str: {str: ('frames', JOINTS, 3)}}}
FORM_2D = {'positions_2d': {str: {str: [('frames', len(H36M), 2)] * 4}}, 'metadata': METADATA}


@dataclass(frozen=True)
class Conversion:
    """The content of the files to write.

    Attributes:
        positions: subject -> take -> (T, 32, 3) float32, metres, world space.
        views: subject -> take -> four (T, 17, 2) float32 arrays of pixels.
    """

    positions: dict[str, dict[str, np.ndarray]]
    views: dict[str, dict[str, list[np.ndarray]]]


def take_name(path: Path, stem: str) -> str:
    """Return the field's name of the take in a file with this stem: `Photo 1` for `TakingPhoto 1`.

    Raises FileError for an action that is not one of the fifteen.
    """
    action, space, number = stem.partition(' ')
    action = RENAMED.get(action, action)
    if action not in ACTIONS or bool(space) != number.isdecimal():
        raise FileError(f'{path} is of no known action; move it elsewhere, or name it like "Directions 1"')
    return f'{action}{space}{number}'


def find_files(folder: Path) -> dict[str, dict[str, Path]]:
    """Find the position files; return subject -> take -> file, subjects by number and takes by name.

    Raises FileError where the folder or the files are missing or do not belong there.
    """
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(shared.existing(folder).glob(PATTERN)):
        match = re.fullmatch(r'(.+)\.cdf(\.mat)?', path.name)
        if not match:
            continue
        subject, take = path.relative_to(folder).parts[0], take_name(path, match[1])
        if subject not in CAMERAS:
            raise FileError(f'{path}: the cameras of {subject} are not known, only those of {", ".join(CAMERAS)}')
        if (subject, take) == CORRUPT:
            continue
        takes = found.setdefault(subject, {})
        if take in takes:
            raise FileError(f'{takes[take]} and {path} are both {take} of {subject}; keep one of them')
        takes[take] = path
    if not found:
        raise FileError(f'{folder} holds no {PATTERN}.cdf and no .cdf.mat; unpack Poses_D3_Positions_*.tgz there')
    return {subject: found[subject] for subject in CAMERAS if subject in found}


def read_pose(path: Path) -> np.ndarray:
    """Read a .cdf or .cdf.mat file as (T, 32, 3) float32 world positions in metres. Raises FileError."""
    if path.suffix == '.mat':
        name = 'data'
        cell, = read_mat(path, name)
        if not isinstance(cell, np.ndarray) or cell.dtype != object or cell.shape != (1, 1):
            raise FileError(f'{path}: {name} is not a cell that holds one matrix')
        pose = cell[0, 0]
    else:
        name = 'Pose'
        with shared.reading(path, 'CDF file'), shared.time_bounded(path):
            pose = shared.package('cdflib').CDF(path).varget(name)
        if isinstance(pose, np.ndarray) and pose.ndim == 3 and len(pose) == 1:
            pose = pose[0]
    where = f'{path}: {name}'
    pose = shared.numbers(where, pose, ('frames', 3 * JOINTS))
    return shared.metres(where, pose.reshape(-1, JOINTS, 3))


def convert(folder: Path) -> Conversion:
    """Make the content of both files from the position files under a folder.

    Raises FileError for what is missing or cannot be understood.
    """
    files = find_files(folder)
    positions: dict[str, dict[str, np.ndarray]] = {subject: {} for subject in files}
    views: dict[str, dict[str, list[np.ndarray]]] = {subject: {} for subject in files}
    takes = [(subject, take, path) for subject, paths in files.items() for take, path in paths.items()]
    for subject, take, path in tqdm(takes, desc='takes', unit='take', disable=None):
        motion = positions[subject][take] = read_pose(path)
        views[subject][take] = project_all(motion[:, list(H36M_OF_32)], CAMERAS[subject])
    return Conversion(positions, views)


def work(arguments: argparse.Namespace) -> str:
    """Convert, compare counts and write; return the summary. Raises FileError."""
    conversion = convert(arguments.folder)
    frames = {subject: {take: len(motion) for take, motion in takes.items()}
              for subject, takes in conversion.positions.items()}
    sides = {'training frames': SUBJECTS_TRAIN, 'test frames': SUBJECTS_TEST}
    shared.check_counts(
        {**{f'takes of {subject}': len(takes) for subject, takes in frames.items()},
         **{side: sum(sum(frames.get(subject, {}).values()) for subject in names) for side, names in sides.items()}},
        {**{f'takes of {subject}': known for subject, known in TAKES.items()}, 'training frames': FRAMES_TRAIN,
         'test frames': FRAMES_TEST}, arguments.force)
    return shared.summary(frames, [
        shared.write_checked(arguments.data / 'data_3d_h36m.npz', FORM_3D, positions_3d=conversion.positions),
        shared.write_checked(arguments.data / 'data_2d_h36m_gt.npz', FORM_2D, positions_2d=conversion.views,
                             metadata=METADATA)])


def main(argv: list[str] | None = None) -> int:
    """Run the converter from the command line; return the exit status."""
    parser = shared.make_parser('prepare_data_h36m.py', __doc__.splitlines()[0], f'folder with {PATTERN}.cdf')
    shared.add_force(parser)
    return shared.run(parser, argv, work)


if __name__ == '__main__':
    sys.exit(main())
