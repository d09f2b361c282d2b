"""MPI-INF-3DHP's MATLAB annotations to npz by data/prepare_data_3dhp.py."""

import shutil
import sys

import numpy as np
import pytest
from raw_files import converted, nothing_in, refusal, truncate

from common.skeleton import MPI_INF_3DHP
from common.storage.npz import read_npz
from data import prepare_data_3dhp as prepare

scipy_io = pytest.importorskip('scipy.io')
h5py = pytest.importorskip('h5py')

# The 28 joints of the raw files, as they are called there.
NAMES_28 = ('spine3', 'spine4', 'spine2', 'spine', 'pelvis', 'neck', 'head', 'head_top', 'left_clavicle',
            'left_shoulder', 'left_elbow', 'left_wrist', 'left_hand', 'right_clavicle', 'right_shoulder', 'right_elbow',
            'right_wrist', 'right_hand', 'left_hip', 'left_knee', 'left_ankle', 'left_foot', 'left_toe', 'right_hip',
            'right_knee', 'right_ankle', 'right_foot', 'right_toe')


def training(frames=5, seed=0):
    """Return the variables of annot.mat: cells (14, 1) of one (F, 28 · channels) matrix per camera."""
    random = np.random.default_rng(seed)
    variables = {'cameras': np.arange(14)[None], 'frames': np.arange(frames)[:, None]}
    for name, channels in (('annot2', 2), ('annot3', 3), ('univ_annot3', 3)):
        cell = np.empty((14, 1), dtype=object)
        for camera in range(14):
            cell[camera, 0] = random.uniform(0, 2048, (frames, 28 * channels))
        variables[name] = cell
    return variables


def write_training(folder, name='S1/Seq1', **variables):
    path = folder / name / 'annot.mat'
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy_io.savemat(path, variables)
    return path


def evaluation(frames=6, valid=(0, 1, 1, 0, 0, 1), activity=(1, 1, 2, 2, 7, 7), seed=0):
    """Return the variables of annot_data.mat as MATLAB sees them: (channels, 17, 1, F), (F, 1)."""
    random = np.random.default_rng(seed)
    return {'annot2': random.uniform(0, 1080, (2, 17, 1, frames)), 'annot3': random.normal(0, 900, (3, 17, 1, frames)),
            'univ_annot3': random.normal(0, 900, (3, 17, 1, frames)),
            'valid_frame': np.array(valid, np.float64)[None], 'activity_annotation': np.array(activity, float)[None]}


def write_evaluation(folder, name='TS1', **variables):
    """Write a MATLAB 7.3 file: HDF5 after 512 bytes of MATLAB's own, axes reversed."""
    path = folder / name / 'annot_data.mat'
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, 'w', userblock_size=512) as file:
        for key, value in variables.items():
            file[key] = value.T if not isinstance(value, str) else value
        cells = file.create_dataset('bb_crop', (1, 1), dtype=h5py.ref_dtype)
        cells[0, 0] = file[next(iter(variables))].ref
    with open(path, 'r+b') as file:
        file.write(b'MATLAB 7.3 MAT-file'.ljust(124) + b'\0\2IM')
    return path


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / 'raw'
    write_training(folder, 'S1/Seq1', **training(5, 1))
    write_training(folder, 'S3/Seq2', **training(4, 2))
    write_evaluation(folder, 'mpi_inf_3dhp_test_set/TS5', **evaluation(seed=3))
    return folder


def test_the_17_of_28_are_the_joints_of_the_skeleton():
    ours = {'head': 'head_top', 'thorax': 'neck', 'neck': 'head', 'hip': 'pelvis'}
    assert [NAMES_28[j] for j in prepare.JOINTS_OF_28] == [ours.get(name, name) for name in MPI_INF_3DHP.joints]


@pytest.mark.parametrize('flags, suffix, variable', [((), '', 'univ_annot3'), (('--annot3',), '_ori', 'annot3')])
def test_written_arrays_equal_the_annotations(raw, tmp_path, capsys, flags, suffix, variable):
    out, err = converted(capsys, prepare.main, raw, '--data', tmp_path / 'out', '--force', *flags)
    # 16 + 6 sequences, and the valid frames of six; none of them is as it should be.
    assert err.splitlines()[-1].startswith('warning: frames of S1 Seq1: 5, expected 6416 (and 27 more differences)')
    assert f'3D from {variable}' in out and '2 training sequences, 72 poses; 1 test sequences, 3 valid frames' in out
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        f'data_test_3dhp{suffix}.npz', f'data_train_3dhp{suffix}.npz']
    members = read_npz(tmp_path / 'out' / f'data_train_3dhp{suffix}.npz')
    assert list(members) == ['data'] and list(members['data']) == ['S1 Seq1', 'S3 Seq2']
    for (cameras, fps), frames, seed, rate in zip(members['data'].values(), (5, 4), (1, 2), (25, 50), strict=True):
        assert type(fps) is int and fps == rate
        assert list(cameras) == ['0', '1', '2', '4', '5', '6', '7', '8']
        source = training(frames, seed)
        for camera, arrays in cameras.items():
            assert list(arrays) == ['data_2d', 'data_3d']
            for key, name, channels in (('data_2d', 'annot2', 2), ('data_3d', variable, 3)):
                assert arrays[key].dtype == np.float64
                matrix = source[name][int(camera), 0]
                for joint, index in enumerate([7, 5, 14, 15, 16, 9, 10, 11, 23, 24, 25, 18, 19, 20, 4, 3, 6]):
                    np.testing.assert_array_equal(arrays[key][:, joint],
                                                  matrix[:, channels * index:channels * (index + 1)])
    test = read_npz(tmp_path / 'out' / f'data_test_3dhp{suffix}.npz')['data']
    assert list(test) == ['TS5'] and list(test['TS5']) == ['data_2d', 'data_3d', 'valid', 'activity']
    source = evaluation(seed=3)
    for key, name in (('data_2d', 'annot2'), ('data_3d', variable)):
        assert test['TS5'][key].dtype == np.float64
        np.testing.assert_array_equal(test['TS5'][key], np.moveaxis(source[name][:, :, 0], (2, 1), (0, 1)))
    assert test['TS5']['valid'].tolist() == [0, 1, 1, 0, 0, 1] and test['TS5']['valid'].dtype == np.float64
    assert test['TS5']['activity'].tolist() == [1, 1, 2, 2, 7, 7]


def test_frames_are_cut_to_the_table_and_known_counts_pass(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(prepare, 'TRAINING', {'S1 Seq1': (6, 25), 'S2 Seq1': (8, 25)})
    monkeypatch.setattr(prepare, 'TEST', {'TS1': (6, 3)})
    write_training(tmp_path / 'raw', 'S1/Seq1', **training(9))
    write_training(tmp_path / 'raw', 'S2/Seq1', **training(8))
    write_evaluation(tmp_path / 'raw', 'TS1', **evaluation())
    _, err = converted(capsys, prepare.main, tmp_path / 'raw', '--data', tmp_path)
    assert err == ''
    train = read_npz(tmp_path / 'data_train_3dhp.npz')['data']
    assert [{array.shape[0] for arrays in cameras.values() for array in arrays.values()}
            for cameras, _ in train.values()] == [{6}, {8}]
    np.testing.assert_array_equal(train['S1 Seq1'][0]['0']['data_2d'][:, 14],
                                  training(9)['annot2'][0, 0][:6, 8:10])
    write_training(tmp_path / 'raw', 'S2/Seq1', **training(7))
    refusal(capsys, prepare.main, tmp_path / 'raw', '--data', tmp_path / 'no',
            says='frames of S2 Seq1: 7, expected 8: ')
    write_training(tmp_path / 'raw', 'S2/Seq1', **training(8))
    write_evaluation(tmp_path / 'raw', 'TS1', **evaluation(valid=(0, 0, 0, 0, 1, 1)))
    refusal(capsys, prepare.main, tmp_path / 'raw', '--data', tmp_path / 'no',
            says='valid frames of TS1: 2, expected 3: ')
    assert nothing_in(tmp_path / 'no')


def test_the_table_adds_up_to_published_totals():
    assert len(prepare.TRAINING) == 16 and sum(frames for frames, _ in prepare.TRAINING.values()) == 131_592
    assert [sum(column) for column in zip(*prepare.TEST.values(), strict=True)] == [24_888, 2875]


def test_annotations_of_test_sequences_alone_need_force(raw, tmp_path, capsys):
    shutil.rmtree(raw / 'S1')
    shutil.rmtree(raw / 'S3')
    refusal(capsys, prepare.main, raw, '--data', tmp_path / 'out', says='frames of S1 Seq1: none, expected 6416')
    converted(capsys, prepare.main, raw, '--data', tmp_path / 'out', '--force')
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['data_test_3dhp.npz']


def cells(name, value, camera=4):
    """Replace one camera's cell of annot.mat."""
    def change(folder):
        variables = training()
        variables[name][camera, 0] = value
        write_training(folder, **variables)
    return change


def train_with(**variables):
    return lambda folder: write_training(folder, **{**training(), **variables})


def changed(**variables):
    return lambda folder: write_evaluation(folder, **{**evaluation(), **variables})


@pytest.mark.parametrize('change, sentence', [
    (lambda folder: truncate(folder / 'S1/Seq1/annot.mat'), 'annot.mat is not a readable MATLAB file'),
    (lambda folder: truncate(write_evaluation(folder, **evaluation())),
     'annot_data.mat is not a readable MATLAB 7.3 file'),
    (lambda folder: write_evaluation(folder, **evaluation()).write_bytes(b'x' * 999), 'not a readable MATLAB 7.3 file'),
    (lambda folder: shutil.copy(folder / 'S1/Seq1/annot.mat', write_evaluation(folder, **evaluation())),
     'annot_data.mat is not a readable MATLAB 7.3 file'),
    (lambda folder: shutil.copy(write_evaluation(folder, **evaluation()), folder / 'S1/Seq1/annot.mat'),
     'annot.mat is a MATLAB 7.3 file'),
    (lambda folder: write_training(folder, annot2=training()['annot2']), 'has no variable univ_annot3'),
    (lambda folder: write_training(folder, 'S9/Seq1', **training()), 'there is no sequence S9 Seq1'),
    (lambda folder: write_training(folder / 'more', **training()), 'are both S1 Seq1'),
    (train_with(cameras=np.arange(1, 15)), 'cameras are not numbered 0 to 13'),
    (train_with(cameras='fourteen'), 'cameras are not numbered'),
    (train_with(annot2=np.zeros((14, 56))), 'annot2 is not a cell of 14 matrices'),
    (train_with(univ_annot3=training()['annot3'][:8]), 'univ_annot3 is not a cell of 14 matrices'),
    (cells('annot2', np.zeros((0, 0))), 'annot2 of camera 4 is (0, 0) numbers, expected (frames, 56)'),
    (cells('annot2', np.ones((56, 5))), 'annot2 of camera 4 is (56, 5) numbers, expected (frames, 56)'),
    (cells('univ_annot3', 'text'), 'univ_annot3 of camera 4 is text'),
    (cells('univ_annot3', np.ones((4, 84))), 'cameras of 4 and of 5 frames do not fit'),
    (cells('univ_annot3', np.full((5, 84), np.nan)), 'univ_annot3 of camera 4 holds NaN'),
    (lambda folder: write_evaluation(folder, annot2=evaluation()['annot2']), 'has no variable univ_annot3'),
    (changed(annot2=evaluation()['annot2'].T), 'annot2 is (2, 17, 1, 6) numbers, expected (frames, 1, 17, 2)'),
    (changed(annot2=evaluation()['annot2'][:, :16]), 'annot2 is (6, 1, 16, 2) numbers'),
    (changed(annot2=np.zeros((2, 17, 1, 0))), 'annot2 is (0, 1, 17, 2) numbers'),
    (changed(univ_annot3=evaluation(5)['annot3']), 'univ_annot3 is (5, 1, 17, 3) numbers, expected (6, 1, 17, 3)'),
    (changed(univ_annot3='poses'), 'univ_annot3 is no numbers'),
    (changed(valid_frame=np.full((1, 6), 2.0)), 'valid_frame holds other numbers than 0, 1'),
    (changed(activity_annotation=np.zeros((1, 6))), 'activity_annotation holds other numbers than 1, 2, 3'),
])
def test_broken_files_end_in_one_line_and_nothing_is_written(raw, tmp_path, capsys, change, sentence):
    change(raw)
    assert str(raw) in refusal(capsys, prepare.main, raw, '--data', tmp_path / 'out', '--force', says=sentence)
    assert nothing_in(tmp_path / 'out')


def test_camera_numbers_in_a_cell_are_read(raw, tmp_path, capsys):
    cell = np.empty((1, 14), dtype=object)
    for camera in range(14):
        cell[0, camera] = np.array([[camera]])
    train_with(cameras=cell)(raw)
    converted(capsys, prepare.main, raw, '--data', tmp_path, '--force')


def test_folders_without_annotations_are_refused(tmp_path, capsys):
    refusal(capsys, prepare.main, tmp_path / 'none', '--force', says='there is no folder')
    refusal(capsys, prepare.main, tmp_path, '--force', says='holds no S*/Seq*/annot.mat and no TS*/annot_data.mat')


def test_a_file_that_reads_back_differently_is_not_kept(raw, tmp_path, capsys, monkeypatch):
    """The check of the written file: an older file stays, a new one does not come."""
    monkeypatch.setitem(prepare.FORM_TEST['data'][str], 'valid', ('frames', 1))
    refusal(capsys, prepare.main, raw, '--data', tmp_path / 'out', '--force',
            says=('data_test_3dhp.npz was not written: read back, its data TS5 valid is (6,) numbers',))
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['data_train_3dhp.npz']


def test_a_missing_package_is_named(raw, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'h5py', None)
    refusal(capsys, prepare.main, raw, says=('h5py is not installed', 'pip install -r data/requirements.txt'))
