"""npz files of a data set with cameras to a pickle of poses in the picture, as MotionBERT and MotionAGFormer read them.

    python data/prepare_data_motion3d.py FOLDER --dataset cmu --keypoints gt --data DIR

FOLDER holds `data_3d_<dataset>.npz` and `data_2d_<dataset>_<keypoints>.npz`; `synthetic` needs no file. DIR receives
`motion3d_<dataset>_<keypoints>.pkl`, which is trained and tested on with -d motion3d -k motion3d_<dataset>_<keypoints>.

A target is where a pinhole without distortion sees the joints, (u, v) in pixels, and z = ρ·(Z − Z_root) with ρ =
(w + 1) / 2000 pixels to a millimetre, w = 2000·f_x / Z_root: the width in pixels of two metres at the depth of the
root. The factor of a frame is 1/ρ. Confidence is the detector's, or 1.

Letters: N frames of one side of the split, T frames of a take.
"""

import argparse
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.datasets import DATASETS, load_dataset
from common.datasets.motion3d import SIZE, SIZES, SOURCE
from common.datasets.motion3d import load as load_picture
from common.datasets.poses import PoseDataset, action_name
from common.errors import FileError, FlagError
from common.geometry.camera import Camera, denormalise
from common.sequences import Sequence
from common.skeleton import H36M
from common.storage.files import atomic_path
from data import conversion as shared

WIDTH = 2000.0  # millimetres, of the square at the depth of the root
CHOICES = [name for name, entry in DATASETS.items() if entry.truth and not entry.split and not entry.one_file]
NEAREST = 0.1  # metres in front of a camera: what is nearer is not seen by it


def target_of(joints: np.ndarray, root: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Return the target (T, J, 3) in pixels, and the factor (T,) in millimetres to a pixel, float64.

    Args:
        joints: (T, J, 3) metres relative to the root, in the camera's axes. root: (T, 3) metres, likewise.
    """
    focal, centre = np.asarray(camera.intrinsic, np.float64)[:4].reshape(2, 2)
    placed = joints.astype(np.float64) + root.astype(np.float64)[:, None]
    pixels = denormalise(placed[..., :2] / placed[..., 2:] * focal + centre, camera.width, camera.height)
    depth = 1000 * root[:, 2].astype(np.float64)
    ratio = (WIDTH * focal[0] * camera.width / 2 / depth + 1) / WIDTH
    return np.concatenate([pixels, 1000 * ratio[:, None, None] * joints[..., 2:]], axis=-1), 1 / ratio


def names_of(dataset: PoseDataset, subject: str) -> list[str]:
    """Return the names of a subject's cameras, by which a reader knows the size of their pictures.

    They are Human3.6M's where the pictures have the sizes of Human3.6M's. Raises FileError for other sizes.
    """
    sizes = [(camera.width, camera.height) for camera in dataset.cameras[subject]]
    if sizes == list(SIZES.values()):
        return list(SIZES)
    if any(size != SIZE for size in sizes):
        raise FileError(f'{dataset.source_3d}: subject {subject} has cameras with pictures of '
                        f'{", ".join(f"{w}x{h}" for w, h in sizes)}, and the form has no place for sizes: it needs '
                        f'those of Human3.6M, or {SIZE[0]}x{SIZE[1]} for all')
    return [f'camera{index}' for index in range(len(sizes))]


def source_of(sequence: Sequence) -> str:
    """Return what tells a sequence from the others, such as s_S9_act_Greeting_subact_1_ca_01. Raises FileError."""
    action = action_name(sequence.action)
    take = sequence.action.removeprefix(action).strip().replace(' ', '.')
    source = f's_{sequence.subject}_act_{action}_subact_{take}_ca_{sequence.camera + 1:02d}'
    match = SOURCE.fullmatch(source)
    if match is None or match.groups()[:3] != (sequence.subject, action, take) or action.isdecimal() or ' ' in source:
        raise FileError(f'{sequence.subject} {sequence.action} has a name that the form cannot hold: rename it')
    return source


def side_of(dataset: PoseDataset, subjects: tuple[str, ...]) -> dict[str, Any]:
    """Return one side of the split as the file has it. Raises FileError for what cannot be seen in a picture."""
    columns: dict[str, list[Any]] = {name: [] for name in (
        'joint_2d', 'confidence', 'joint3d_image', 'camera_name', 'source', 'action', '2.5d_factor',
        'joints_2.5d_image')}
    for sequence in dataset.sequences(subjects):
        for name, column in columns_of(dataset, sequence):
            columns[name].append(column)
    return {name: [text for column in parts for text in column] if isinstance(parts[0], list) else
            np.concatenate(parts) for name, parts in columns.items()}


def columns_of(dataset: PoseDataset, sequence: Sequence) -> Iterator[tuple[str, Any]]:
    """Yield the columns of one sequence by name: arrays (T, …) float32, and lists of T texts. Raises FileError."""
    where = f'{sequence.subject} {sequence.action} camera {sequence.camera}'
    camera = dataset.cameras[sequence.subject][sequence.camera]
    if sequence.poses is None or sequence.root is None or sequence.intrinsic is None:
        raise FileError(f'{where} is not seen by a calibrated camera: {dataset.name} cannot be converted')
    if ((sequence.poses + sequence.root[:, None])[..., 2] < NEAREST).any():
        raise FileError(f'{where}: a joint is less than {NEAREST} m in front of the camera, which does not see it')
    image, factor = target_of(sequence.poses, sequence.root, camera)
    count, name = len(image), names_of(dataset, sequence.subject)[sequence.camera]
    confidence = sequence.confidence
    yield 'joint_2d', denormalise(sequence.keypoints, camera.width, camera.height)
    yield 'confidence', (np.ones((count, len(H36M)), np.float32) if confidence is None else confidence)[..., None]
    yield 'joint3d_image', image.astype(np.float32)
    yield 'camera_name', [name] * count
    yield 'source', [source_of(sequence)] * count
    yield 'action', [action_name(sequence.action)] * count
    yield '2.5d_factor', factor.astype(np.float32)
    yield 'joints_2.5d_image', (image * factor[:, None, None]).astype(np.float32)


def convert(name: str, folder: Path, keypoints: str | None) -> tuple[dict[str, dict[str, Any]], PoseDataset]:
    """Return the content of the file, and the data set that it is made of.

    Raises FileError for files that are missing, broken, or of other joints than Human3.6M's 17; FlagError for keypoints
    that the data set does not have.
    """
    dataset = load_dataset(name, folder, keypoints)
    if dataset.skeleton != H36M or dataset.layout != H36M:
        odd = dataset.skeleton if dataset.skeleton != H36M else dataset.layout
        raise FileError(f'{dataset.source_2d} and {dataset.source_3d} have joints of layout {odd.name}, and the form '
                        f"is for Human3.6M's 17 joints and keypoints: choose other --keypoints, or another data set")
    sides = {'train': dataset.subjects_train, 'test': dataset.subjects_test}
    for side, subjects in sides.items():
        sides[side] = tuple(subject for subject in subjects if subject in dataset.positions)
        if not sides[side]:
            raise FileError(f'{dataset.source_3d} has none of the {side} subjects {",".join(subjects)}')
    return {side: side_of(dataset, subjects) for side, subjects in sides.items()}, dataset


def write(content: dict[str, dict[str, Any]], path: Path) -> Path:
    """Write the pickle, read it back, and return its path.

    Raises FileError when it cannot be written or read; an older file of that name is then kept.
    """
    shared.make_folder(path.parent)
    with atomic_path(path) as temporary:
        with open(temporary, 'wb') as file:
            pickle.dump(content, file, protocol=4)
        try:
            back = load_picture(temporary.parent, temporary.name.removesuffix('.pkl'))
            back.sequences(tuple(dict.fromkeys((*back.subjects_train, *back.subjects_test))))
        except (FileError, FlagError) as error:
            raise FileError(f'{path} was not written: read back, {error}') from None
    return path


def work(arguments: argparse.Namespace) -> str:
    """Convert and write; return the summary. Raises FileError and FlagError."""
    keypoints = arguments.keypoints or DATASETS[arguments.dataset].keypoints
    content, dataset = convert(arguments.dataset, arguments.folder, keypoints)
    path = write(content, arguments.data / f'motion3d_{dataset.name}_{dataset.keypoints}.pkl')
    lines = [f'{side}: {len(columns["action"]):,} frames, {len(dict.fromkeys(columns["source"])):,} sequences, '
             f'{len(dict.fromkeys(columns["action"])):,} actions' for side, columns in content.items()]
    return '\n'.join([*lines, shared.wrote([path]), f'to use it: -d motion3d -k {path.stem} --data {path.parent}'])


def main(argv: list[str] | None = None) -> int:
    """Run the converter from the command line; return the exit status."""
    parser = shared.make_parser('prepare_data_motion3d.py', __doc__.splitlines()[0], 'folder of the npz files')
    parser.add_argument('-d', '--dataset', choices=CHOICES, default='h36m', help='(default: h36m)')
    parser.add_argument('-k', '--keypoints', metavar='NAME', help='2D keypoints: data_2d_<dataset>_NAME.npz (default: '
                        'what the data set is mostly used with)')
    return shared.run(parser, argv, work)


if __name__ == '__main__':
    sys.exit(main())
