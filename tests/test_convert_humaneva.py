"""HumanEva's MATLAB exports to npz by data/prepare_data_humaneva.py."""

import numpy as np
import pytest
from raw_files import converted, nothing_in, refusal, truncate

from common.storage.npz import read_npz
from data import prepare_data_humaneva as prepare

scipy_io = pytest.importorskip('scipy.io')


def take(frames, joints=15, missing=(), seed=0):
    """Return {poses_3d (T, J, 3) mm, poses_2d (3, T, J, 2) px}; frames of `missing` have no pose."""
    random = np.random.default_rng(seed)
    poses, views = random.normal(900, 300, (frames, joints, 3)), random.uniform(0, 480, (3, frames, joints, 2))
    for frame in missing:
        poses[frame, frame % joints, frame % 3] = np.nan  # one coordinate is enough
        views[:, frame] = np.nan
    return {'poses_3d': poses, 'poses_2d': views}


def place(folder, name):
    path = folder / f'{name}.mat'
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write(folder, name, **variables):
    scipy_io.savemat(place(folder, name), variables, do_compression=True)


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / 'converted_15j'
    write(folder, 'Train/S1/Walking_1', **take(10, missing=(0, 4, 5), seed=1))
    write(folder, 'Train/S2/Jog_1', **take(6, seed=2))
    write(folder, 'Validate/S1/Walking_1', **take(5, missing=(4,), seed=3))
    return folder


@pytest.mark.parametrize('joints, metadata', [
    (15, {'layout_name': 'humaneva15', 'num_joints': 15,
          'keypoints_symmetry': [[2, 3, 4, 8, 9, 10], [5, 6, 7, 11, 12, 13]]}),
    (20, {'layout_name': 'humaneva20', 'num_joints': 20,
          'keypoints_symmetry': [[3, 4, 5, 6, 11, 12, 13, 14], [7, 8, 9, 10, 15, 16, 17, 18]]}),
])
def test_runs_with_a_pose_become_numbered_chunks(tmp_path, capsys, joints, metadata):
    folder = tmp_path / 'converted'
    source = {'Train/S1/Walking_1': take(10, joints, (0, 4, 5), 1), 'Train/S2/Jog_1': take(6, joints, seed=2),
              'Validate/S1/Walking_1': take(5, joints, (4,), 3), 'Validate/S3/Box_1': take(2, joints, (0, 1))}
    for name, variables in source.items():
        write(folder, name, **variables)
    out, err = converted(capsys, prepare.main, folder, '--data', tmp_path, '--force')
    assert 'warning: frames of Train/S1 Walking 1: 10, expected 613 (and 27 more differences)' in err
    assert '3 subjects, 4 sequences, 17 frames' in out
    members = read_npz(tmp_path / f'data_2d_humaneva{joints}_gt.npz')
    assert members['metadata'] == metadata
    views, poses = members['positions_2d'], read_npz(tmp_path / f'data_3d_humaneva{joints}.npz')['positions_3d']
    # All runs are numbered, those with a pose are there.
    chunks = {('Train/S1', 'Walking 1 chunk1'): ('Train/S1/Walking_1', 1, 4),
              ('Train/S1', 'Walking 1 chunk3'): ('Train/S1/Walking_1', 6, 10),
              ('Train/S2', 'Jog 1 chunk0'): ('Train/S2/Jog_1', 0, 6),
              ('Validate/S1', 'Walking 1 chunk0'): ('Validate/S1/Walking_1', 0, 4)}
    assert [(subject, chunk) for tree in (poses, views) for subject in tree for chunk in tree[subject]] == 2 * list(
        chunks)
    for (subject, chunk), (name, start, end) in chunks.items():
        motion, tracks = poses[subject][chunk], views[subject][chunk]
        assert motion.dtype == np.float32 and isinstance(tracks, list) and len(tracks) == 3
        np.testing.assert_array_equal(motion, (source[name]['poses_3d'][start:end] / 1000).astype(np.float32))
        for track, expected in zip(tracks, source[name]['poses_2d'], strict=True):
            assert track.dtype == np.float32
            np.testing.assert_array_equal(track, expected[start:end].astype(np.float32))


@pytest.mark.parametrize('posed, expected', [
    ('1', [(0, 1, True)]), ('0', [(0, 1, False)]), ('111', [(0, 3, True)]),
    ('0110', [(0, 1, False), (1, 3, True), (3, 4, False)]), ('10', [(0, 1, True), (1, 2, False)]),
])
def test_runs_are_split_where_poses_begin_and_end(posed, expected):
    poses = np.ones((len(posed), 15, 3))
    poses[[c == '0' for c in posed], 3, 1] = np.inf
    assert prepare.runs(poses) == expected


def test_known_counts_pass_without_force(tmp_path, capsys):
    """The whole of both parts of the split passes; one frame less or one take more does not."""
    random = np.random.default_rng(0)
    assert len(prepare.RANGES) == 28 and sum(end - start for start, end in prepare.RANGES.values()) == 6444 + 6302
    for (subject, name), (start, end) in prepare.RANGES.items():
        shape = (end - start, 15)
        scipy_io.savemat(place(tmp_path / 'raw', f'{subject}/{name.replace(" ", "_")}'),
                         {'poses_3d': np.zeros((*shape, 3), np.float32) + random.integers(9),
                          'poses_2d': np.zeros((3, *shape, 2), np.float32)})
    out, err = converted(capsys, prepare.main, tmp_path / 'raw', '--data', tmp_path / 'out')
    assert err == '' and '6 subjects, 28 sequences, 12746 frames' in out
    positions = read_npz(tmp_path / 'out' / 'data_3d_humaneva15.npz')['positions_3d']
    assert {subject: len(chunks) for subject, chunks in positions.items()} == {
        f'{split}/{subject}': count for split in prepare.SPLITS for subject, count in (('S1', 5), ('S2', 5), ('S3', 4))}
    write(tmp_path / 'raw', 'Train/S3/ThrowCatch_1', **take(534))
    refusal(capsys, prepare.main, tmp_path / 'raw', '--data', tmp_path / 'no',
            says='frames of Train/S3 ThrowCatch 1: 534, expected none: ')
    (tmp_path / 'raw/Train/S3/ThrowCatch_1.mat').unlink()
    write(tmp_path / 'raw', 'Validate/S2/Jog_1', **take(392))
    refusal(capsys, prepare.main, tmp_path / 'raw', '--data', tmp_path / 'no',
            says='frames of Validate/S2 Jog 1: 392, expected 393: ')
    assert nothing_in(tmp_path / 'no')


WALKING = 'Train/S1/Walking_1'


def variable(name, value):
    return lambda folder: write(folder, WALKING, **{**take(10), name: value})


@pytest.mark.parametrize('change, sentence', [
    (lambda folder: truncate(place(folder, WALKING)), 'Walking_1.mat is not a readable MATLAB file'),
    (lambda folder: place(folder, WALKING).write_bytes(b''), 'Walking_1.mat is not a readable MATLAB file'),
    (lambda folder: place(folder, WALKING).write_bytes(b'MATLAB 7.3 MAT-file'.ljust(124) + b'\0\2IM' + bytes(400)),
     'is a MATLAB 7.3 file, expected version 5 to 7: save it with -v7'),
    (lambda folder: write(folder, WALKING, poses_3d=np.ones((5, 15, 3))), 'has no variable poses_2d'),
    (lambda folder: write(folder, 'Train/S2/Jog_1', **take(5, 20)), '20 joints, but the files before it 15'),
    (lambda folder: write(folder, WALKING, **take(5, 17)), '17 joints, expected 15 or 20'),
    (lambda folder: write(folder, 'Train/Walking_1', **take(5)), 'say the folder that holds Train and Validate'),
    (lambda folder: write(folder, 'Train/S1/Walking', **take(5)), 'is not <split>/<subject>/<Action>_<trial>.mat'),
    (variable('poses_3d', np.ones((15, 3, 10))), ('poses_3d is (15, 3, 10)', 'expected (frames, joints, 3)')),
    (variable('poses_3d', np.ones((0, 15, 3))), 'poses_3d is (0, 15, 3) numbers'),
    (variable('poses_3d', 'walking'), 'poses_3d is text'),
    (variable('poses_3d', [[np.zeros((0, 0)), 'x']]), 'poses_3d is (1, 2) objects'),
    (variable('poses_3d', np.full((10, 15, 3), 1e300)), 'poses_3d holds NaN or infinite'),
    (variable('poses_2d', np.ones((3, 9, 15, 2))), 'poses_2d is (3, 9, 15, 2) numbers, expected (3, 10, 15, 2)'),
    (variable('poses_2d', np.ones((10, 15, 2, 3))), 'poses_2d is (10, 15, 2, 3) numbers'),
    (variable('poses_2d', np.full((3, 10, 15, 2), np.nan)), 'poses_2d of camera C1 holds NaN'),
])
def test_broken_files_end_in_one_line_and_nothing_is_written(raw, tmp_path, capsys, change, sentence):
    change(raw)
    assert str(raw) in refusal(capsys, prepare.main, raw, '--data', tmp_path / 'out', '--force', says=sentence)
    assert nothing_in(tmp_path / 'out')


def test_folders_without_poses_are_refused(tmp_path, capsys):
    refusal(capsys, prepare.main, tmp_path / 'none', '--force', says='there is no folder')
    refusal(capsys, prepare.main, tmp_path, '--force', says='export them with the MATLAB toolbox')
    write(tmp_path, 'Train/S1/Walking_1', **take(3, missing=range(3)))
    refusal(capsys, prepare.main, tmp_path, '--data', tmp_path / 'out', '--force', says='holds no frame with a pose')
    assert nothing_in(tmp_path / 'out')
