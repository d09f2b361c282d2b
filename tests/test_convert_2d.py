"""Detections of videos to npz by data/prepare_data_2d.py: the detectors' files, gaps, names, HumanEva's cuts."""

import io
import pickle
import shutil
import zipfile

import numpy as np
import pytest
from raw_files import converted, nothing_in, refusal, truncate
from test_npz import Evil, rename_numpy_core, write_pickled, zero_d

from common import skeleton
from common.datasets import humaneva as humaneva_set
from common.datasets.poses import keypoint_layout, read_detections
from common.storage.npz import read_npz
from data import prepare_data_2d as prepare
from data import prepare_data_humaneva

scipy_io = pytest.importorskip('scipy.io')

COCO = {'layout_name': 'coco', 'num_joints': 17,
        'keypoints_symmetry': [[1, 3, 5, 7, 9, 11, 13, 15], [2, 4, 6, 8, 10, 12, 14, 16]]}


def person(x, y, joints=17, rows=4):
    """Return (1, rows, K): x, y + the keypoint's number, a logit of 0, a probability; rows 4 and 5 are x + 0.5, y."""
    points = np.zeros((1, rows, joints), np.float32)
    points[0, 0], points[0, 1] = x, y + np.arange(joints)
    if rows == 6:
        points[0, 4], points[0, 5] = x + 0.5, y + np.arange(joints)
    return points


def detections(places, scores=None, **shape):
    """Return (boxes, keypoints), lists of [[], persons] per frame; None has no person, and is [] when all are None."""
    boxes, keypoints = [], []
    for frame, place in enumerate(places):
        persons = [] if place is None else np.concatenate([person(*p, **shape) for p in place])
        score = np.arange(len(persons)) if scores is None else scores[frame]
        boxes.append([[], np.stack([[1, 2, 3, 4, s] for s in score]).astype(np.float32) if len(persons) else []])
        keypoints.append([[], persons])
    return boxes, keypoints


def ragged(items):
    """Return an object array (F, 2), as numpy 1 made from such lists."""
    array = np.empty((len(items), 2), dtype=object)
    for row, item in zip(array, items, strict=True):
        row[0], row[1] = item
    return array


def write(path, places, size=(640, 480), scores=None, **shape):
    path.parent.mkdir(parents=True, exist_ok=True)
    boxes, keypoints = detections(places, scores, **shape)
    metadata = {} if size is None else {'metadata': {'w': size[0], 'h': size[1]}}
    np.savez_compressed(path, boxes=ragged(boxes), keypoints=ragged(keypoints),
                        segments=np.array([None] * len(places)), **metadata)
    return path


def moving(frames, start=0):
    """Return one person per frame, whose x is the number of the frame."""
    return [[(start + frame, 50)] for frame in range(frames)]


@pytest.fixture
def videos(tmp_path):
    """Write a video with gaps at both ends and inside, and with a frame of three persons."""
    folder = tmp_path / 'detections'
    write(folder / 'clip.mp4.npz', [None, [(10, 20)], None, None, [(999, 999), (40, 80), (999, 999)], None],
          (1280, 720), scores=[(), (0.9,), (), (), (0.7, 0.95, 0.8), ()])
    return folder


def test_a_custom_video_becomes_one_interpolated_track(videos, tmp_path, capsys):
    out, err = converted(capsys, prepare.main, videos, '--name', 'mine', '--data', tmp_path)
    assert err == '' and '1 subjects, 1 sequences, 6 frames' in out
    members = read_npz(tmp_path / 'data_2d_custom_mine.npz')
    assert members['metadata'] == {**COCO, 'video_metadata': {'clip.mp4': {'w': 1280, 'h': 720}}}
    assert list(members) == ['positions_2d', 'metadata'] and list(members['positions_2d']) == ['clip.mp4']
    _, layout = read_detections(tmp_path / 'data_2d_custom_mine.npz', keypoint_layout('mine', skeleton.H36M))
    assert layout is skeleton.COCO
    track, = members['positions_2d']['clip.mp4']['custom']
    assert list(members['positions_2d']['clip.mp4']) == ['custom'] and track.dtype == np.float32
    np.testing.assert_allclose(track[..., 0], np.tile(np.array([[10, 10, 20, 30, 40, 40]]).T, 17), rtol=1e-6)
    np.testing.assert_allclose(track[..., 1], np.add.outer([20, 20, 40, 60, 80, 80], np.arange(17)), rtol=1e-6)


@pytest.mark.parametrize('protocol', [2, 3, 4])
def test_files_of_numpy_1_are_read(tmp_path, capsys, protocol):
    """The same bytes that numpy 1 wrote, under Python 2 and 3; a video without a person at both ends."""
    boxes, keypoints = map(ragged, detections([None, [(7, 8)], None]))
    (tmp_path / 'in').mkdir()
    with zipfile.ZipFile(tmp_path / 'in' / 'old.avi.npz', 'w') as archive:
        for key, array in (('boxes', boxes), ('keypoints', keypoints), ('metadata', zero_d({'w': 3, 'h': 4}))):
            file = io.BytesIO()
            np.lib.format.write_array_header_1_0(file, {'descr': '|O', 'fortran_order': False, 'shape': array.shape})
            payload = rename_numpy_core(pickle.dumps(array, protocol=protocol), protocol)
            archive.writestr(f'{key}.npy', file.getvalue() + payload)
    converted(capsys, prepare.main, tmp_path / 'in', '--name', 'x', '--data', tmp_path)
    track, = read_npz(tmp_path / 'data_2d_custom_x.npz')['positions_2d']['old.avi']['custom']
    np.testing.assert_array_equal(track, np.tile(person(7, 8)[0, :2].T, (3, 1, 1)))


@pytest.mark.parametrize('layout, joints, symmetry', [
    ('h36m', 17, [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]]),
    ('mpii', 16, [[3, 4, 5, 13, 14, 15], [2, 1, 0, 12, 11, 10]]),
    ('humaneva15', 15, [[2, 3, 4, 8, 9, 10], [5, 6, 7, 11, 12, 13]]),
])
def test_layouts_are_named_and_the_finer_rows_are_used(tmp_path, capsys, layout, joints, symmetry):
    write(tmp_path / 'in' / 'a.npz', moving(2), joints=joints, rows=6)
    converted(capsys, prepare.main, tmp_path / 'in', '--name', 'x', '--layout', layout, '--data', tmp_path)
    members = read_npz(tmp_path / 'data_2d_custom_x.npz')
    assert members['metadata'] == {'layout_name': layout, 'num_joints': joints, 'keypoints_symmetry': symmetry,
                                   'video_metadata': {'a': {'w': 640, 'h': 480}}}
    assert members['positions_2d']['a']['custom'][0][:, 0].tolist() == [[0.5, 50], [1.5, 50]]
    line = refusal(capsys, prepare.main, tmp_path / 'in', '--name', 'y', '--layout',
                   'coco' if joints != 17 else 'mpii', '--data', tmp_path / 'no')
    assert f'frame 0: keypoints is (1, 6, {joints}) numbers, expected (1, rows, ' in line


def test_gaps_are_interpolated_or_repeated():
    track = np.full((5, 2, 2), np.nan, np.float32)
    track[1], track[3] = [[0, 10], [20, 30]], [[4, 10], [10, 30]]
    np.testing.assert_array_equal(prepare.interpolate(track)[:, 0], [[0, 10], [0, 10], [2, 10], [4, 10], [4, 10]])
    np.testing.assert_array_equal(prepare.interpolate(track)[:, 1, 0], [20, 20, 15, 10, 10])
    np.testing.assert_array_equal(prepare.repeat(track)[:, 0, 0], [0, 0, 0, 4, 4])


# ---- Human3.6M --------------------------------------------------------------------------------------------------

H36M_CAMERAS = ('54138969', '55011271', '58860488', '60457274')
H36M_SIZES = ((1000, 1002), (1000, 1000), (1000, 1000), (1000, 1002))


@pytest.fixture
def h36m(tmp_path):
    folder = tmp_path / 'h36m'
    for subject, takes in {'S1': ('Directions 1', 'TakingPhoto'), 'S11': ('Directions', 'Directions 1'),
                           'S2': ('Walking',)}.items():
        for take in takes:
            for index, (camera, size) in enumerate(zip(H36M_CAMERAS, H36M_SIZES, strict=True)):
                write(folder / subject / 'Videos' / f'{take}.{camera}.mp4.npz',
                      [None, *moving(3 + index, 100 * index), None], size if index else None)
    return folder


def test_h36m_videos_become_renamed_takes_of_four_cameras(h36m, tmp_path, capsys):
    refusal(capsys, prepare.main, h36m, '--name', 'x', '--dataset', 'h36m', '--data', tmp_path / 'no',
            says='takes of S1: 2, expected 30 (and 6 more differences)')
    assert nothing_in(tmp_path / 'no')
    out, _ = converted(capsys, prepare.main, h36m, '--name', 'x', '--dataset', 'h36m', '--data', tmp_path, '--force')
    assert '3 subjects, 4 sequences, 20 frames' in out
    members = read_npz(tmp_path / 'data_2d_h36m_x.npz')
    assert members['metadata'] == COCO
    assert {subject: list(takes) for subject, takes in members['positions_2d'].items()} == {
        'S1': ['Directions 1', 'Photo'], 'S2': ['Walking'], 'S11': ['Directions 1']}
    for index, track in enumerate(members['positions_2d']['S1']['Photo']):
        first = 100 * index
        assert track[:, 0, 0].tolist() == [first, *range(first, first + 3 + index), first + 2 + index]


def in_h36m(name, action):
    return lambda folder: action(folder / 'S1' / 'Videos' / name)


@pytest.mark.parametrize('change, sentence', [
    (in_h36m('TakingPhoto.55011271.mp4.npz', lambda path: path.unlink()),
     'has no file for Photo of S1, camera 55011271'),
    (in_h36m('TakingPhoto.55011271.mp4.npz', lambda path: path.rename(path.with_name('TakingPhoto.1.mp4.npz'))),
     'TakingPhoto.1.mp4.npz is not named like S1/Directions 1.54138969.mp4.npz, with a camera of'),
    (in_h36m('_ALL.55011271.mp4.npz', lambda path: write(path, moving(2))), 'is of no known action'),
    (in_h36m('TakingPhoto.55011271.mp4.npz', lambda path: write(path, moving(2), (1000, 1002))),
     'is of a video of (1000, 1002) pixels, expected (1000, 1000)'),
    (in_h36m('more/TakingPhoto.55011271.mp4.npz', lambda path: write(path, moving(2))), 'are the same video'),
    (lambda folder: write(folder / 'Walking.54138969.mp4.npz', moving(2)), 'is not named like'),
    (lambda folder: shutil.rmtree(folder) or folder.mkdir(), 'holds no file named like'),
])
def test_h36m_files_that_do_not_belong_are_refused(h36m, tmp_path, capsys, change, sentence):
    change(h36m)
    refusal(capsys, prepare.main, h36m, '--name', 'x', '--dataset', 'h36m', '--data', tmp_path / 'out', '--force',
            says=sentence)
    assert nothing_in(tmp_path / 'out')


# ---- HumanEva ---------------------------------------------------------------------------------------------------


@pytest.fixture
def humaneva(tmp_path):
    """Write S1's Jog 1, whose x is the frame, a video without mocap, and both parts of the mocap of Jog."""
    for camera in (1, 2, 3):
        write(tmp_path / 'videos' / 'S1' / 'Image_Data' / f'Jog_1_(C{camera}).avi.npz', moving(800, 1000 * camera))
        write(tmp_path / 'videos' / 'S4' / f'Box_2_(C{camera}).avi.npz', moving(3), None)
    for split, frames in (('Train', 373), ('Validate', 362)):
        poses = np.ones((frames, 15, 3))
        poses[10:12] = np.nan
        path = tmp_path / 'converted_15j' / split / 'S1' / 'Jog_1.mat'
        path.parent.mkdir(parents=True)
        scipy_io.savemat(path, {'poses_3d': poses, 'poses_2d': np.ones((3, frames, 15, 2))})
    return ('--name', 'x', '--dataset', 'humaneva15', '--mocap', tmp_path / 'converted_15j')


def test_humaneva_videos_are_cut_to_their_part_of_the_split(humaneva, tmp_path, capsys):
    """Jog of S1: frames 367 to 739 train, 5 to 366 are validated on; sync 51, 51, 50, so 50, 50, 49 frames later."""
    _, err = converted(capsys, prepare.main, tmp_path / 'videos', *humaneva, '--data', tmp_path)
    assert err == ''
    members = read_npz(tmp_path / 'data_2d_humaneva15_x.npz')
    assert members['metadata'] == COCO
    ranges = {(subject, chunk): [(int(track[0, 0, 0]), int(track[-1, 0, 0])) for track in tracks]
              for subject, chunks in members['positions_2d'].items() for chunk, tracks in chunks.items()}
    assert ranges == {
        ('Train/S1', 'Jog 1 chunk0'): [(1417, 1426), (2417, 2426), (3416, 3425)],
        ('Unlabeled/Train/S1', 'Jog 1 chunk1'): [(1427, 1428), (2427, 2428), (3426, 3427)],
        ('Train/S1', 'Jog 1 chunk2'): [(1429, 1789), (2429, 2789), (3428, 3788)],
        ('Validate/S1', 'Jog 1 chunk0'): [(1055, 1064), (2055, 2064), (3054, 3063)],
        ('Unlabeled/Validate/S1', 'Jog 1 chunk1'): [(1065, 1066), (2065, 2066), (3064, 3065)],
        ('Validate/S1', 'Jog 1 chunk2'): [(1067, 1416), (2067, 2416), (3066, 3415)],
        ('Unlabeled/S4', 'Box 2'): [(0, 2)] * 3,
    }
    converted(capsys, prepare_data_humaneva.main, tmp_path / 'converted_15j', '--data', tmp_path, '--force')
    gt = read_npz(tmp_path / 'data_2d_humaneva15_gt.npz')['positions_2d']
    for subject, chunks in gt.items():  # the chunks of both are the same
        assert {c: [len(track) for track in tracks] for c, tracks in chunks.items()} == {
            c: [len(track) for track in tracks] for c, tracks in members['positions_2d'][subject].items()}
    assert prepare.SYNC.keys() == humaneva_set.TRAINING.keys()
    for subject, takes in prepare.SYNC.items():
        assert takes.keys() == humaneva_set.TRAINING[subject].keys()


def jog(split, frames=373, joints=15):
    def change(folder):
        scipy_io.savemat(folder / f'converted_15j/{split}/S1/Jog_1.mat', {
            'poses_3d': np.ones((frames, joints, 3)), 'poses_2d': np.ones((3, frames, joints, 2))})
    return change


@pytest.mark.parametrize('change, sentence', [
    (jog('Train', 372), 'Jog_1.mat has 372 frames, expected 373: the video cannot be cut'),
    (jog('Train', 373, 20), 'Jog_1.mat has 20 joints, expected those of --dataset humaneva15'),
    (lambda folder: write(folder / 'videos/S1/Image_Data/Jog_1_(C2).avi.npz', moving(789)),
     'has 789 frames, but Train/S1 Jog 1 ends at 790'),
    (lambda folder: write(folder / 'videos/S1/Image_Data/Jog_1_(C2).avi.npz', moving(800), (1280, 720)),
     'of (1280, 720) pixels, expected (640, 480)'),
    (lambda folder: write(folder / 'videos/S1/Image_Data/Jog_1_(BW1).avi.npz', moving(9)),
     'is not named like S1/Walking_1_(C1).avi.npz, with a camera of C1, C2, C3'),
    (lambda folder: shutil.rmtree(folder / 'converted_15j'), 'there is no folder'),
])
def test_humaneva_files_that_do_not_fit_are_refused(humaneva, tmp_path, capsys, change, sentence):
    change(tmp_path)
    refusal(capsys, prepare.main, tmp_path / 'videos', *humaneva, '--data', tmp_path / 'out', '--force', says=sentence)
    assert nothing_in(tmp_path / 'out')


def test_humaneva_videos_without_their_mocap_are_refused_unless_forced(humaneva, tmp_path, capsys):
    """Videos without their mocap or mocap without its videos: refused, unless forced."""
    (tmp_path / 'converted_15j/Validate/S1/Jog_1.mat').unlink()
    refusal(capsys, prepare.main, tmp_path / 'videos', *humaneva, '--data', tmp_path / 'out',
            says='videos of Validate/S1 Jog 1: 1, expected none: ')
    jog('Validate', 362)(tmp_path)
    shutil.rmtree(tmp_path / 'videos' / 'S1')
    refusal(capsys, prepare.main, tmp_path / 'videos', *humaneva, '--data', tmp_path / 'out',
            says='videos of Train/S1 Jog 1: none, expected 1 (and 1 more difference): ')
    assert nothing_in(tmp_path / 'out')
    converted(capsys, prepare.main, tmp_path / 'videos', *humaneva, '--data', tmp_path / 'out', '--force')


# ---- broken files, flags ----------------------------------------------------------------------------------------


def members(**changed):
    """Change members of clip.mp4.npz; None removes one."""
    def change(path):
        boxes, keypoints = detections(moving(2))
        content = {'boxes': ragged(boxes), 'keypoints': ragged(keypoints), 'metadata': {'w': 4, 'h': 3}, **changed}
        np.savez(path, **{key: value for key, value in content.items() if value is not None})
    return change


BOX, POINTS = np.ones((1, 5)), np.ones((1, 4, 17))


@pytest.mark.parametrize('change, sentence', [
    (truncate, 'clip.mp4.npz is not a readable npz file'),
    (lambda path: path.write_bytes(b''), 'clip.mp4.npz is not a readable npz file'),
    (lambda path: write_pickled(path, pickle.dumps(Evil(print, 'ran')), 'boxes.npy'),
     'is refused: its pickle asks for builtins.print'),
    (members(boxes=None), 'has no list boxes'),
    (members(keypoints=np.array(3)), 'has no list keypoints'),
    (members(keypoints={'a': 1}), 'has no list keypoints'),
    (members(boxes=ragged([[[], BOX]])), 'has boxes of 1 frames, but keypoints of 2'),
    (members(boxes=np.arange(2)), 'frame 0 has no item 1'),
    (members(boxes=ragged([[[], BOX[:, :4]]] * 2)), 'frame 0: boxes is (1, 4) numbers, expected (persons, 5)'),
    (members(boxes=ragged([[[], BOX], [[], BOX * np.nan]])), 'frame 1: boxes holds NaN'),
    (members(boxes=ragged([[[], BOX.astype(str)]] * 2)), 'frame 0: boxes is (1, 5) text'),
    (members(boxes=ragged([[[], []]] * 2)), 'frame 0: boxes is tuple'),
    (members(keypoints=ragged([[[], np.ones((2, 4, 17))]] * 2)), 'frame 0: keypoints is (2, 4, 17) numbers'),
    (members(keypoints=ragged([[[], np.ones((1, 17, 4))]] * 2)), 'expected (1, rows, 17) numbers'),
    (members(keypoints=ragged([[[], POINTS[:, :1]]] * 2)), 'x and y is (1, 17) numbers, expected (2, 17)'),
    (members(keypoints=ragged([[[], POINTS * np.inf]] * 2)), 'x and y holds NaN or infinite'),
    (members(boxes=ragged([[[], []]] * 2), keypoints=ragged([[[], []]] * 2)), 'no person in any of its 2 frames'),
    (members(boxes=np.zeros((0, 2)), keypoints=np.zeros((0, 2))), 'no person in any of its 0 frames'),
    (members(metadata=None), 'metadata does not tell w and h'),
    (members(metadata={'w': 640}), 'metadata does not tell w and h'),
    (members(metadata={'w': '640', 'h': '480'}), 'metadata does not tell w and h'),
    (members(metadata=[640, 480]), 'metadata does not tell w and h'),
])
def test_broken_files_end_in_one_line_and_nothing_is_written(videos, tmp_path, capsys, change, sentence):
    change(videos / 'clip.mp4.npz')
    assert 'clip.mp4.npz' in refusal(capsys, prepare.main, videos, '--name', 'x', '--data', tmp_path / 'out',
                                     says=sentence)
    assert nothing_in(tmp_path / 'out')


def test_missing_empty_and_unwritable_folders_are_refused(videos, tmp_path, capsys):
    refusal(capsys, prepare.main, tmp_path / 'none', '--name', 'x', says='there is no folder')
    (tmp_path / 'empty').mkdir()
    refusal(capsys, prepare.main, tmp_path / 'empty', '--name', 'x', says='holds no <video>.npz')
    (tmp_path / 'data_2d_custom_x.npz').mkdir()
    refusal(capsys, prepare.main, videos, '--name', 'x', '--data', tmp_path, says='it is not a regular file')
    refusal(capsys, prepare.main, videos, '--name', 'x', '--data', '/proc/self', says='cannot ')


@pytest.mark.parametrize('flags, sentence', [
    ((), 'the following arguments are required: --name'),
    (('--name', '../up'), 'is part of a file name'),
    (('--name', ''), 'is part of a file name'),
    (('--name', 'x', '--force'), '--force: how many custom videos there are is not known'),
    (('--name', 'x', '--mocap', 'm'), '--dataset custom takes no --mocap'),
    (('--name', 'x', '--dataset', 'humaneva15'), '--dataset humaneva15 needs --mocap DIR'),
    (('--name', 'x', '--dataset', 'cmu'), 'invalid choice'),
    (('--name', 'x', '--layout', 'dance'), 'invalid choice'),
])
def test_contradicting_flags_are_refused(videos, capsys, flags, sentence):
    refusal(capsys, prepare.main, videos, *flags, status=2, says=sentence)
