"""Human3.6M's loader, the synthetic motion, and every way in which files can fail to fit."""

import re

import numpy as np
import pytest
from conftest import H36M_SYMMETRY, TAKES, h36m_trees, write_h36m

from common.datasets import load_dataset
from common.datasets.h36m import CAMERAS
from common.datasets.virtual_cameras import surround
from common.errors import FileError, FlagError
from common.geometry.camera import normalise
from common.skeleton import COCO, H36M, H36M16, H36M_OF_32, MPII


def load(folder, keypoints='gt'):
    return load_dataset('h36m', folder, keypoints)


@pytest.fixture
def trees():
    return h36m_trees({'S1': {'Walking': 12, 'Sitting 1': 7, 'SittingDown': 5}, 'S9': {'Walking': 6}})


def test_poses_are_camera_space_and_root_relative(tmp_path, trees):
    positions, detections = trees
    write_h36m(tmp_path, *trees)
    sequences = load(tmp_path).sequences(['S1'])
    take = next(s for s in sequences if (s.action, s.camera) == ('Sitting 1', 2))
    camera = CAMERAS['S1'][2]
    joints = camera.from_world(positions['S1']['Sitting 1'][:, list(H36M_OF_32)])
    np.testing.assert_allclose(take.poses, joints - joints[:, :1], atol=1e-6)
    assert (take.poses[:, 0] == 0).all()
    assert take.poses.dtype == take.keypoints.dtype == np.float32
    # The 2D track is two frames longer than the motion: the tail is cut, the start stays.
    expected = normalise(detections['S1']['Sitting 1'][2][:7], camera.width, camera.height)
    np.testing.assert_allclose(take.keypoints, expected, atol=1e-6)


def test_order_is_subject_then_action_of_the_2d_file_then_camera(tmp_path, trees):
    positions, detections = trees
    detections['S1'] = dict(reversed(detections['S1'].items()))
    write_h36m(tmp_path, positions, detections)
    sequences = load(tmp_path).sequences(['S9', 'S1'])
    assert [(s.subject, s.action, s.camera) for s in sequences] == [
        (subject, action, camera) for subject, actions in (('S9', ['Walking']),
                                                           ('S1', ['SittingDown', 'Sitting 1', 'Walking']))
        for action in actions for camera in range(4)]


@pytest.mark.parametrize('wanted, takes', [
    (('Walking',), {'Walking'}), (('Walk',), {'Walking'}), (('Sitting',), {'Sitting 1'}),  # a whole name is itself
    (('SittingD', 'Walking'), {'SittingDown', 'Walking'}), (None, {'Walking', 'Sitting 1', 'SittingDown'})])
def test_actions_by_name_or_unambiguous_prefix(tmp_path, trees, wanted, takes):
    write_h36m(tmp_path, *trees)
    assert {s.action for s in load(tmp_path).sequences(['S1'], wanted)} == takes


@pytest.mark.parametrize('subjects, actions, message', [
    (['S1'], ['Sit'], 'action Sit is ambiguous: write one of Sitting, SittingDown'),
    (['S1'], ['Jumping'], 'unknown action Jumping; there are Walking, Sitting, SittingDown'),
    (['S9'], ['Sitting'], 'subjects S9 of h36m have no take of action Sitting'),
    (['S9'], ['Sit'], 'action Sit is ambiguous'),  # whoever is selected: a prefix means the same for all
    (['S4'], None, 'unknown subject S4 of h36m; there are S1, S9'),
    ([], None, 'have no sequences'),
])
def test_unknown_subjects_and_actions_are_refused(tmp_path, trees, subjects, actions, message):
    write_h36m(tmp_path, *trees)
    with pytest.raises(FlagError, match=message):
        load(tmp_path).sequences(subjects, actions)


def drop_camera(p, d):
    d['S1']['Walking'].pop()


def shorten_2d(p, d):
    d['S1']['Walking'][3] = d['S1']['Walking'][3][:11]


def nan_3d(p, d):
    p['S1']['Walking'][3, 6, 1] = np.nan


def infinite_2d(p, d):
    d['S1']['Walking'][1][2, 3, 0] = np.inf


def no_subject_2d(p, d):
    del d['S1']


def no_subject_3d(p, d):
    del p['S1']


def no_action_2d(p, d):
    del d['S1']['Walking']


def no_action_3d(p, d):
    del p['S1']['Sitting 1']


def joints_3d(p, d):
    p['S1']['Walking'] = p['S1']['Walking'][:, :31]


def joints_2d(p, d):
    d['S1']['Walking'][2] = d['S1']['Walking'][2][:, :16]


def no_frames(p, d):
    p['S1']['Walking'] = p['S1']['Walking'][:0]


def text_for_numbers(p, d):
    p['S1']['Walking'] = np.full(p['S1']['Walking'].shape, 'x')


def list_for_dict(p, d):
    p['S1'] = [p['S1']]


def array_for_list(p, d):
    d['S1']['Walking'] = 'nothing'


def scalar_for_list(p, d):
    d['S1']['Walking'] = np.zeros(())


def number_for_subject(p, d):
    p[9] = p.pop('S9')


def number_for_take(p, d):
    d['S1'][3] = d['S1'].pop('Walking')


def too_large(p, d):
    p['S1']['Walking'] = p['S1']['Walking'].astype(np.float64)
    p['S1']['Walking'][0] = 1e300


BROKEN = {
    drop_camera: r'data_2d_h36m_gt.npz has 3 cameras for S1 Walking, but h36m has 4',
    shorten_2d: r'data_2d_h36m_gt.npz has 11 frames for S1 Walking camera 3, but .*data_3d_h36m.npz has 12',
    nan_3d: r'data_3d_h36m.npz holds NaN or infinite coordinates in S1 Walking, at joint ',
    infinite_2d: r'data_2d_h36m_gt.npz holds NaN or infinite coordinates in S1 Walking camera 1',
    no_subject_2d: r'data_2d_h36m_gt.npz has no subject S1, but .*data_3d_h36m.npz has',
    no_subject_3d: r'data_3d_h36m.npz has no subject S1, but .*data_2d_h36m_gt.npz has',
    no_action_2d: r'data_2d_h36m_gt.npz has no action Walking of subject S1',
    no_action_3d: r'data_3d_h36m.npz has no action Sitting 1 of subject S1',
    joints_3d: r'data_3d_h36m.npz: S1 Walking is \(12, 31, 3\), expected \(frames, 32, 3\)',
    joints_2d: r'data_2d_h36m_gt.npz: S1 Walking camera 2 is \(14, 16, 2\), expected \(frames, 17, 2\)',
    no_frames: r'data_3d_h36m.npz: S1 Walking has no frames',
    text_for_numbers: r'data_3d_h36m.npz: S1 Walking is .* expected \(frames, 32, 3\) numbers',
    list_for_dict: r'data_3d_h36m.npz: positions_3d is not a dict of subjects',
    scalar_for_list: r'data_2d_h36m_gt.npz: S1 Walking is ndarray, expected a list of one array per camera',
    number_for_subject: r'data_3d_h36m.npz: positions_3d has the name 9, expected text',
    number_for_take: r'data_2d_h36m_gt.npz: positions_2d has the name 3, expected text',
    too_large: r'data_3d_h36m.npz holds NaN or infinite coordinates in S1 Walking, at joint ',
    array_for_list: r'data_2d_h36m_gt.npz: S1 Walking is str, expected a list of one array per camera',
}


@pytest.mark.parametrize('damage', BROKEN, ids=lambda f: f.__name__)
def test_inconsistent_files_end_in_one_sentence(tmp_path, trees, refused, damage):
    """Each ends the program with status 1 and one sentence naming the file and the place."""
    damage(*trees)
    write_h36m(tmp_path, *trees)
    with pytest.raises(FileError, match=BROKEN[damage]):
        load(tmp_path).sequences(['S1'])
    line = refused(1, '-k', 'gt', '--data', tmp_path, '-str', 'S1', '-ste', 'S9', '-f', '9', '-c', tmp_path / 'c', '-l',
                   tmp_path / 'l')
    assert re.search(BROKEN[damage], line)


def test_flaws_outside_the_selection_are_ignored(tmp_path, trees):
    """Subjects that only the 2D file has, broken data that is not selected, metadata without a layout name."""
    positions, detections = trees
    detections['S2'] = {'Walking': [np.full((3, 17, 2), np.nan, np.float32)] * 4}
    positions['S9']['Walking'][0] = np.nan
    write_h36m(tmp_path, positions, detections, {'num_joints': 17, 'keypoints_symmetry': H36M_SYMMETRY})
    assert len(load(tmp_path).sequences(['S1'])) == 12


def test_a_score_behind_x_and_y_is_cut_off(tmp_path, trees):
    positions, detections = trees
    scored = {subject: {take: [np.concatenate([v, np.ones_like(v[..., :1])], axis=-1) for v in views]
                        for take, views in takes.items()} for subject, takes in detections.items()}
    write_h36m(tmp_path, positions, scored, name='gt')
    write_h36m(tmp_path, positions, detections, name='plain')
    for a, b in zip(load(tmp_path).sequences(['S1']), load(tmp_path, 'plain').sequences(['S1']), strict=True):
        np.testing.assert_array_equal(a.keypoints, b.keypoints)


@pytest.mark.parametrize('name, metadata, count, layout', [
    ('cpn_ft_h36m_dbb', {'layout_name': 'h36m', 'num_joints': 17, 'keypoints_symmetry': H36M_SYMMETRY}, 17, H36M),
    ('gt', {'num_joints': 17, 'keypoints_symmetry': H36M_SYMMETRY}, 17, H36M),
    ('gt', {}, 17, H36M),
    ('sh_ft_h36m', {'num_joints': 16, 'keypoints_symmetry': [[3, 4, 5, 13, 14, 15], [0, 1, 2, 10, 11, 12]]}, 16, MPII),
    ('detectron_pt_coco', {'layout_name': 'coco', 'num_joints': 17, 'keypoints_symmetry':
                           [[1, 3, 5, 7, 9, 11, 13, 15], [2, 4, 6, 8, 10, 12, 14, 16]]}, 17, COCO),
    ('detectron_pt_coco', {}, 17, COCO),
])
def test_layouts_of_public_2d_files_are_recognised(tmp_path, trees, name, metadata, count, layout):
    positions, detections = trees
    detections = {subject: {take: [view[:, :count] for view in views] for take, views in takes.items()}
                  for subject, takes in detections.items()}
    write_h36m(tmp_path, positions, detections, metadata, name)
    assert load(tmp_path, name).layout == layout


@pytest.mark.parametrize('metadata, message', [
    ({'layout_name': 'openpose'}, "unknown keypoint layout 'openpose'; known are h36m"),
    ({'layout_name': 'mpii'}, '17 keypoints, but layout mpii has 16'),
    ({'layout_name': ['h36m']}, 'unknown keypoint layout'), ({'keypoints_symmetry': 5}, 'left and right keypoints 5'),
    ({'keypoints_symmetry': [None, None]}, 'left and right keypoints'),
    ({'keypoints_symmetry': [[1, 2, 3], [4, 5, 6]]}, 'left and right keypoints .* are not those of layout h36m'),
])
def test_contradictory_layouts_are_refused(tmp_path, trees, metadata, message):
    write_h36m(tmp_path, *trees, metadata)
    with pytest.raises(FileError, match=message):
        load(tmp_path)


def test_missing_files_say_where_to_get_them(tmp_path, trees):
    with pytest.raises(FileError, match=r'data_3d_h36m\.npz is missing: ask for Human3\.6M at http.*-d synthetic'):
        load(tmp_path)
    write_h36m(tmp_path, *trees)
    with pytest.raises(FileError, match=r'data_2d_h36m_cpn\.npz is missing \(the folder has -k gt\)'):
        load(tmp_path, 'cpn')
    with pytest.raises(FileError, match=r'prepare_data_cmu\.py'):
        load_dataset('cmu', tmp_path)


def test_downsample_takes_every_nth_frame_and_subset_the_middle(tmp_path, trees):
    write_h36m(tmp_path, *trees)
    dataset = load(tmp_path)
    whole = dataset.sequences(['S1'], ['Walking'])[1]
    third = dataset.sequences(['S1'], ['Walking'], downsample=3)[1]
    np.testing.assert_array_equal(third.poses, whole.poses[::3])
    np.testing.assert_array_equal(third.keypoints, whole.keypoints[::3])
    half = dataset.sequences(['S1'], ['Walking'], subset=0.5)[1]
    np.testing.assert_array_equal(half.keypoints, whole.keypoints[3:9])
    assert len(dataset.sequences(['S1'], ['Walking'], subset=1e-9)[0].poses) == 1


def test_fixture_has_the_real_files_quirks(h36m_folder):
    dataset = load(h36m_folder)
    assert {len(v) for v in dataset.detections['S1']['Directions']} == {40, 41, 42, 43}
    assert list(dataset.positions) == list(TAKES)


def test_synthetic_needs_no_folder_and_is_the_same_each_time(tmp_path):
    a, b = (load_dataset('synthetic', tmp_path / 'none') for _ in range(2))
    for x, y in zip(a.sequences(['S5']), b.sequences(['S5']), strict=True):
        np.testing.assert_array_equal(x.poses, y.poses)
        np.testing.assert_array_equal(x.keypoints, y.keypoints)
    with pytest.raises(FlagError, match='-d synthetic has no keypoints cpn; there are gt, noisy'):
        load_dataset('synthetic', tmp_path, 'cpn')


def test_synthetic_motion_is_a_body(tmp_path):
    """Bones keep their length, feet stand on the floor, left is on the left of where the knees bend to, all in view."""
    dataset = load_dataset('synthetic', tmp_path)
    joint = {name: i for i, name in enumerate(H36M.joints)}
    for subject, takes in dataset.positions.items():
        for take, motion in takes.items():
            bones = np.stack([np.linalg.norm(motion[:, j] - motion[:, p], axis=-1) for j, p in H36M.edges])
            assert np.ptp(bones, axis=1).max() < 1e-4
            assert abs(motion[..., 2].min()) < 1e-5
            assert np.abs(np.diff(motion, axis=0)).max() < 0.08  # metres in 20 ms
            up, across = np.array([0, 0, 1.0]), motion[:, joint['left_hip']] - motion[:, joint['right_hip']]
            forward = np.cross(across, up)
            for side in ('left', 'right'):
                hip, knee, ankle = (motion[:, joint[f'{side}_{part}']] for part in ('hip', 'knee', 'ankle'))
                bend = ((knee - (hip + ankle) / 2) * forward).sum(-1)
                assert bend.min() > -1e-6
            for camera, view in zip(dataset.cameras[subject], dataset.detections[subject][take], strict=True):
                assert (view > 0).all() and (view < [camera.width, camera.height]).all()


def test_noisy_keypoints_are_gt_plus_five_pixels(tmp_path):
    gt, noisy = (load_dataset('synthetic', tmp_path, name) for name in ('gt', 'noisy'))
    difference = noisy.detections['S1']['Walking'][0] - gt.detections['S1']['Walking'][0]
    assert difference.std() == pytest.approx(5, rel=0.05)
    np.testing.assert_array_equal(gt.positions['S1']['Walking'], noisy.positions['S1']['Walking'])


def test_cameras_around_nan_positions_are_refused():
    with pytest.raises(ValueError, match='NaN or infinite'):
        surround([np.full((2, 17, 3), np.nan)])


@pytest.mark.parametrize('keypoints', [17, 16])
def test_the_body_without_the_neck(tmp_path, keypoints):
    """The neck goes from poses and keypoints, of files with and without it; nothing else moves."""
    positions, detections = h36m_trees({'S1': {'Walking': 20}})
    kept = [joint for joint in range(17) if joint != 9]
    metadata = None
    if keypoints == 16:
        detections = {'S1': {'Walking': [view[:, kept] for view in detections['S1']['Walking']]}}
        metadata = {'keypoints_symmetry': [list(H36M16.left), list(H36M16.right)]}
    write_h36m(tmp_path, positions, detections, metadata)
    whole = load_dataset('h36m', tmp_path, 'gt')
    body = whole.without('neck', H36M16, replacing=H36M)
    assert (body.skeleton, body.layout) == (H36M16, H36M16)
    for few, all_of in zip(body.sequences(['S1']), whole.sequences(['S1']), strict=True):
        np.testing.assert_array_equal(few.poses, all_of.poses[:, kept])
        np.testing.assert_array_equal(few.keypoints, all_of.keypoints[:, kept] if keypoints == 17
                                      else all_of.keypoints)
