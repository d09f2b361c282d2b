"""Human3.6M's CDF and MATLAB position files to npz by data/prepare_data_h36m.py, and the loader of what it writes."""

import gzip
import resource
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from raw_files import converted, nothing_in, refusal, truncate

from common.datasets import load_dataset
from common.datasets.h36m import CAMERAS
from common.errors import FileError
from common.skeleton import H36M_OF_32
from common.storage.npz import read_npz
from data import conversion as shared
from data import prepare_data_h36m as prepare

cdflib = pytest.importorskip('cdflib')
scipy_io = pytest.importorskip('scipy.io')

SCRIPT = Path(prepare.__file__)


def pose(frames=3, seed=0):
    """Return (1, T, 96) float32 millimetres, about where people stand."""
    return (np.random.default_rng(seed).normal((0, 0, 900), 300, (1, frames, 32, 3))
            .reshape(1, frames, 96).astype(np.float32))


def place(folder, subject, name):
    path = folder / subject / 'MyPoseFeatures' / 'D3_Positions' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write_cdf(path, array, variable='Pose', kind=44, compressed=6):
    """Write a CDF file like Human3.6M's: one variable of one record. Kind 44 is CDF_FLOAT."""
    cdf = cdflib.cdfwrite.CDF(path, cdf_spec={'Compressed': compressed}, delete=path.exists())
    cdf.write_var({'Variable': variable, 'Data_Type': kind, 'Num_Elements': 1 if kind != 51 else 5, 'Rec_Vary': True,
                   'Dim_Sizes': list(np.shape(array)[1:]), 'Compress': compressed}, var_data=array)
    cdf.close()


def write_mat(path, array):
    cell = np.empty((1, 1), dtype=object)
    cell[0, 0] = array
    scipy_io.savemat(path, {'data': cell})


@pytest.fixture
def raw(tmp_path):
    """Write S1 with two takes and S11 with two, of which one is the corrupt one; CDF and MATLAB files."""
    folder = tmp_path / 'raw'
    write_cdf(place(folder, 'S1', 'Directions.cdf'), pose(4, 1))
    write_cdf(place(folder, 'S1', 'TakingPhoto 1.cdf'), pose(1, 2), compressed=0)
    write_mat(place(folder, 'S11', 'WalkingDog.cdf.mat'), pose(5, 3)[0].astype(np.float64))
    write_cdf(place(folder, 'S11', 'Directions 1.cdf'), pose(2, 4))
    write_cdf(place(folder, 'S11', 'Directions.cdf'), pose(2, 5))
    place(folder, 'S11', 'readme.txt').write_text('not a take')
    return folder


def test_positions_names_and_the_dropped_take(raw, tmp_path, capsys):
    out, err = converted(capsys, prepare.main, raw, '--data', tmp_path / 'out', '--force')
    assert err.splitlines()[-1].startswith('warning: takes of S1: 2, expected 30 (and 8 more differences)')
    assert '2 subjects, 4 sequences, 12 frames' in out and 'data_2d_h36m_gt.npz' in out
    members_3d, members_2d = (read_npz(tmp_path / 'out' / f'data_{name}.npz') for name in ('3d_h36m', '2d_h36m_gt'))
    assert list(members_3d) == ['positions_3d'] and list(members_2d) == ['positions_2d', 'metadata']
    assert members_2d['metadata'] == {
        'num_joints': 17, 'keypoints_symmetry': [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]]}
    positions = members_3d['positions_3d']
    assert {subject: sorted(takes) for subject, takes in positions.items()} == {
        'S1': ['Directions', 'Photo 1'], 'S11': ['Directions 1', 'WalkDog']}
    for subject, take, seed in (('S1', 'Directions', 1), ('S1', 'Photo 1', 2), ('S11', 'WalkDog', 3),
                                ('S11', 'Directions 1', 4)):
        motion = positions[subject][take]
        assert motion.dtype == np.float32 and motion.shape[1:] == (32, 3)
        np.testing.assert_array_equal(motion, pose(len(motion), seed).reshape(-1, 32, 3) / np.float32(1000))
        views = members_2d['positions_2d'][subject][take]
        assert isinstance(views, list) and len(views) == 4
        for view, camera in zip(views, CAMERAS[subject], strict=True):
            assert view.dtype == np.float32
            np.testing.assert_allclose(view, camera.project(motion[:, list(H36M_OF_32)].astype(np.float64)), atol=1e-4)


def test_projection_by_hand(tmp_path, capsys):
    """The point (100, 200, 1000) mm, worked out once by hand for three cameras, distortion included."""
    array = np.tile(np.float32([100, 200, 1000]), (1, 1, 32))
    for subject in ('S1', 'S9', 'S11'):
        write_cdf(place(tmp_path, subject, 'Walking.cdf'), array)
    converted(capsys, prepare.main, tmp_path, '--data', tmp_path / 'out', '--force')
    tree = read_npz(tmp_path / 'out' / 'data_2d_h36m_gt.npz')['positions_2d']
    for subject, camera, pixel in (('S1', 0, (437.799, 426.699)), ('S9', 1, (544.955, 384.970)),
                                   ('S11', 3, (495.018, 346.283))):
        np.testing.assert_allclose(tree[subject]['Walking'][camera], np.tile(pixel, (1, 17, 1)), atol=1e-3)


def test_the_loader_reads_the_converted_files(raw, tmp_path, capsys):
    write_cdf(place(raw, 'S9', 'Sitting.cdf'), pose(6))
    converted(capsys, prepare.main, raw, '--data', tmp_path, '--force')
    dataset = load_dataset('h36m', tmp_path, 'gt')
    assert sum(len(sequence.poses) for sequence in dataset.sequences(('S1', 'S9', 'S11'))) == 4 * (5 + 6 + 7)


def test_known_counts_pass_without_force(tmp_path, capsys, monkeypatch):
    """Thirty takes of every subject, S11's corrupt one among them, and the frames of both sides."""
    takes = {f'{action}{number}': pose(1) for action in prepare.ACTIONS for number in ('', ' 1')}
    monkeypatch.setattr(prepare, 'read_pose', lambda path: pose(1).reshape(1, 32, 3) / 1000)
    for subject in CAMERAS:
        for take in takes:
            place(tmp_path, subject, f'{take}.cdf').touch()
    refusal(capsys, prepare.main, tmp_path, '--data', tmp_path / 'out',
            says=('training frames: 150, expected 389938 (and 1 more difference)', '--force'))
    assert nothing_in(tmp_path / 'out')
    left = {True: [389_938 - 149 * 2500] + [2500] * 149, False: [135_836 - 58 * 2300] + [2300] * 58}
    assert all(count > 0 for lengths in left.values() for count in lengths)

    def read(path):
        frames = left[path.parts[-4] in prepare.SUBJECTS_TRAIN].pop()
        return np.broadcast_to(np.float32(1), (frames, 32, 3))
    monkeypatch.setattr(prepare, 'read_pose', read)
    monkeypatch.setattr(prepare, 'project_all', lambda motion, cameras: [])
    monkeypatch.setattr(prepare.shared, 'write_checked', lambda path, form, **members: path)
    out, err = converted(capsys, prepare.main, tmp_path)
    assert err == '' and '7 subjects, 209 sequences, 525774 frames' in out


def damaged(change):
    return lambda folder: change(place(folder, 'S1', 'Directions.cdf'))


@pytest.mark.parametrize('change, sentence', [
    (damaged(truncate), 'Directions.cdf is not a readable CDF file'),
    (damaged(lambda path: path.write_bytes(b'')), 'Directions.cdf is not a readable CDF file'),
    (damaged(lambda path: path.write_text('<html>')), 'Directions.cdf is not a readable CDF file'),
    (damaged(lambda path: write_cdf(path, pose(), 'Angles')), ('Directions.cdf is not', 'Pose')),
    (damaged(lambda path: write_cdf(path, pose().reshape(1, 3, 32, 3))), ('Pose is', 'expected (frames, 96) numbers')),
    (damaged(lambda path: write_cdf(path, pose().transpose(0, 2, 1))), 'is (96, 3) numbers, expected (frames, 96)'),
    (damaged(lambda path: write_cdf(path, np.concatenate([pose(), pose()]))), 'Pose is (2, 3, 96) numbers, expected'),
    (damaged(lambda path: write_cdf(path, pose() * np.float32(np.nan))), 'Pose holds NaN or infinite numbers'),
    (damaged(lambda path: write_cdf(path, np.array(['abcde']), kind=51)), 'expected (frames, 96) numbers'),
    (damaged(lambda path: path.rename(path.with_name('Dancing.cdf'))), 'Dancing.cdf is of no known action'),
    (damaged(lambda path: path.rename(path.with_name('Walking one.cdf'))), 'Walking one.cdf is of no known action'),
    (lambda folder: write_cdf(place(folder, 'S2', 'Walking.cdf'), pose()), 'the cameras of S2 are not known'),
    (lambda folder: write_mat(place(folder, 'S1', 'Directions.cdf.mat'), pose()[0]), 'are both Directions of S1'),
    (lambda folder: write_mat(place(folder, 'S1', 'Eating.cdf.mat'), np.zeros((0, 0))), 'data is (0, 0) numbers'),
    (lambda folder: write_mat(place(folder, 'S1', 'Eating.cdf.mat'), 'text'), 'data is text, expected'),
    (lambda folder: write_mat(place(folder, 'S1', 'Eating.cdf.mat'), pose()[0] * 1j), 'data is complex numbers'),
    (lambda folder: scipy_io.savemat(place(folder, 'S1', 'Eating.cdf.mat'), {'data': pose()[0]}), 'is not a cell'),
    (lambda folder: scipy_io.savemat(place(folder, 'S1', 'Eating.cdf.mat'), {'d': 1}), 'has no variable data'),
    (lambda folder: truncate(place(folder, 'S11', 'WalkingDog.cdf.mat')), 'is not a readable MATLAB file'),
    (lambda folder: place(folder, 'S1', 'Eating.cdf.mat').mkdir(), 'is not a readable MATLAB file'),
])
def test_broken_files_end_in_one_line_and_nothing_is_written(raw, tmp_path, capsys, change, sentence):
    change(raw)
    assert str(raw) in refusal(capsys, prepare.main, raw, '--data', tmp_path / 'out', '--force', says=sentence)
    assert nothing_in(tmp_path / 'out')


def test_missing_empty_and_unwritable_folders_are_refused(raw, tmp_path, capsys):
    refusal(capsys, prepare.main, tmp_path / 'none', says='there is no folder')
    (tmp_path / 'empty').mkdir()
    refusal(capsys, prepare.main, tmp_path / 'empty', '--force', says='empty holds no S*')
    (tmp_path / 'file').touch()
    for out in (tmp_path / 'file', tmp_path / 'file' / 'below'):
        refusal(capsys, prepare.main, raw, '--data', out, '--force', says='cannot make the folder')
    assert prepare.main([]) == 2 and capsys.readouterr().err.count('\n') == 1


def test_a_missing_package_is_named(raw, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'cdflib', None)
    refusal(capsys, prepare.main, raw, says=('cdflib is not installed', 'pip install -r data/requirements.txt'))


def test_runs_from_anywhere(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, 'raw'], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, '')
    assert done.stderr == 'prepare_data_h36m.py: error: there is no folder raw\n'


def test_a_bomb_is_refused_before_it_fills_the_memory(raw, tmp_path, capsys, monkeypatch):
    """Compressed zeros that would be twice what may be taken, in a file that is compressed as a whole."""
    monkeypatch.setattr(shared, 'MOST_MEMORY', 2**28)
    packed = 32 * gzip.compress(bytes(2**24), 9)
    header = struct.pack('>qiqqi', 32 + len(packed), 10, 40 + len(packed), 2**29, 0)
    parameters = struct.pack('>qiiiii', 28, 11, 5, 0, 1, 9)
    bomb = place(raw, 'S1', 'Directions.cdf')
    bomb.write_bytes(bytes.fromhex('cdf30001cccc0001') + header + packed + parameters)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusal(capsys, prepare.main, raw, '--data', tmp_path / 'out', '--force',
            says=('Directions.cdf asks for more memory than there is',))
    assert nothing_in(tmp_path / 'out')
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18 + 2**16  # KiB
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


def test_a_reader_that_goes_round_in_circles_is_stopped(tmp_path):
    """Damaged links between the records of a CDF file can lead back to where they came from."""
    def go_round():
        with shared.time_bounded(tmp_path / 'a.cdf', 1):
            while True:
                pass
    begun = time.monotonic()
    with pytest.raises(FileError, match=r'a\.cdf takes more than 1 s to read.*fetch or make it again'):
        go_round()
    assert time.monotonic() - begun < 5
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
