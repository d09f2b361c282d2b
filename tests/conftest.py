"""Share among tests: where reference data lies, a small data set in Human3.6M's npz layout, and the program itself."""

import os
import sys
from pathlib import Path

# Before torch is imported, here and in the processes that tests start: threads that wait by spinning slow down those of
# the tests beside them tenfold, and sums are taken in one order.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')
os.environ.setdefault('OMP_NUM_THREADS', '1')

import numpy as np
import pytest
import torch

import run_ktpformer
from common.datasets.h36m import CAMERAS
from common.datasets.synthetic import motion
from common.skeleton import H36M_OF_32
from common.storage.npz import write_npz

SHARED = Path(__file__).parents[2] / 'shared'
H36M_SYMMETRY = [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]]
# A model small enough to train in seconds.
SMALL = ['-f', '9', '-cs', '32', '-dep', '1', '-b', '90', '-s', '9', '-lr', '1e-3', '--device', 'cpu']


@pytest.fixture(autouse=True)
def seeded():
    """Draw the same numbers in a test whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope='session')
def golden():
    """The folder of golden outputs of the published programs."""
    return Path(__file__).parent / 'golden'


@pytest.fixture(scope='session')
def fill(golden):
    """fill(shapes): the deterministic weights of the golden outputs, as a state dict of tensors."""
    namespace = {}
    exec((golden / 'fill.py').read_text(), namespace)

    def state(shapes):
        return {key: torch.from_numpy(np.array(value)) for key, value in namespace['fill'](shapes).items()}
    return state


def resize_keys(keys: dict, frames: int, channels: int, depth: int) -> dict:
    """The golden key list {key: shape} of F=9, C=32, L=2 for other sizes."""
    sizes = {32: channels, 64: 2 * channels, 96: 3 * channels, 9: frames}
    resized = {}
    for key, shape in keys.items():
        shape = tuple(sizes.get(n, n) for n in shape)
        if 'blocks.0.' in key:
            resized |= {key.replace('blocks.0.', f'blocks.{i}.'): shape for i in range(depth)}
        elif 'blocks.1.' not in key:
            resized[key] = shape
    return resized


def h36m_trees(takes: dict, seed: int = 0):
    """3D and 2D trees of npz files: {subject: {take: frames}} -> (positions (T, 32, 3), detections 4 × (T', 17, 2)).

    The 2D tracks are up to 3 frames longer than the motion, as some of the real ones are.
    """
    random = np.random.default_rng(seed)
    positions, detections = {}, {}
    for subject, lengths in takes.items():
        positions[subject], detections[subject] = {}, {}
        for take, frames in lengths.items():
            moved = motion('Walking', 1.0, frames + 3, random)
            full = np.zeros((frames, 32, 3), np.float32)
            full[:, list(H36M_OF_32)] = moved[:frames]
            positions[subject][take] = full
            detections[subject][take] = [
                camera.project(moved[:frames + index]).astype(np.float32)
                for index, camera in enumerate(CAMERAS[subject])
            ]
    return positions, detections


def write_h36m(folder: Path, positions: dict, detections: dict, metadata: dict | None = None, name: str = 'gt'):
    """Write the two npz files of `-d h36m -k name`; metadata None gives what the public files say."""
    if metadata is None:
        metadata = {'layout_name': 'h36m', 'num_joints': 17, 'keypoints_symmetry': H36M_SYMMETRY}
    write_npz(folder / 'data_3d_h36m.npz', positions_3d=positions)
    write_npz(folder / f'data_2d_h36m_{name}.npz', positions_2d=detections, metadata=metadata)


TAKES = {
    'S1': {'Directions': 40, 'Directions 1': 27, 'Sitting': 33, 'SittingDown 1': 20},
    'S9': {'Directions': 21, 'Sitting': 9, 'SittingDown': 30},
    'S11': {'Directions 1': 5, 'Sitting': 18, 'SittingDown': 10},
}


@pytest.fixture(scope='session')
def h36m_folder(tmp_path_factory):
    """A folder with a small data set in the layout of Human3.6M, 2D = projected 3D; not to be written to."""
    folder = tmp_path_factory.mktemp('h36m')
    write_h36m(folder, *h36m_trees(TAKES))
    return folder


@pytest.fixture(scope='session')
def humaneva_folder(tmp_path_factory):
    """npz files of HumanEva-I with 15 and 20 joints and of COCO detections, by the converters; not to be written to."""
    pytest.importorskip('scipy.io')
    from humaneva_files import whole_takes, write_mocap, write_videos

    from data import prepare_data_2d, prepare_data_humaneva
    folder, takes = tmp_path_factory.mktemp('humaneva'), whole_takes()
    write_videos(folder / 'videos', takes)
    for joints in (15, 20):
        write_mocap(folder / f'converted_{joints}j', joints, takes, gaps=(40, 41, 100))
        assert prepare_data_humaneva.main([str(folder / f'converted_{joints}j'), '--data', str(folder),
                                           '--force']) == 0
        assert prepare_data_2d.main([str(folder / 'videos'), '--name', 'detectron_pt_coco', '--dataset',
                                     f'humaneva{joints}', '--mocap', str(folder / f'converted_{joints}j'), '--data',
                                     str(folder)]) == 0
    return folder


@pytest.fixture
def run(capfd, monkeypatch):
    """run(*flags) -> (exit status, stdout, stderr) of the whole program, in this process."""
    monkeypatch.setattr(sys, 'argv', ['run_ktpformer.py'])

    def main(*flags):
        status = run_ktpformer.main([str(flag) for flag in flags])
        out, err = capfd.readouterr()
        return status, out, err
    return main


@pytest.fixture
def refused(run):
    """refused(status, *flags) -> the one line on stderr of a command that must end so, without a traceback."""
    def main(status, *flags):
        got, _, err = run(*flags)
        assert got == status, err
        lines = err.strip().splitlines()
        assert len(lines) == 1, err
        assert lines[0].startswith('run_ktpformer.py: error: ')
        return lines[0]
    return main


@pytest.fixture(scope='session')
def trained(h36m_folder, tmp_path_factory):
    """(checkpoint folder, log folder) of two epochs on `h36m_folder`; not to be written to."""
    folder = tmp_path_factory.mktemp('trained')
    status = run_ktpformer.main(['-k', 'gt', '--data', str(h36m_folder), '-str', 'S1', '-e', '2', '-c',
                                 str(folder / 'checkpoint'), '-l', str(folder / 'log'), '-cf', '1', *SMALL])
    assert status == 0
    return folder / 'checkpoint', folder / 'log'
