"""--check-data: sound data pass, each check finds its fault, and each run ends with OK or a list."""

from dataclasses import replace
from pathlib import Path

import keypoint_files
import numpy as np
import pytest
from conftest import SHARED, h36m_trees, write_h36m
from test_predict import clip

from common.commands import check_data
from common.commands.check_data import count_problems, views_of
from common.datasets import h36m, load_dataset, plausibility
from common.datasets.plausibility import BODY, handedness, problems_of
from common.skeleton import COCO, H36M, H36M16, H36M_OF_32
from common.storage.npz import read_npz, write_npz

TAKES = {'Walking': 60, 'Walking 1': 50}
SIDES = {'train': ('S1', 'S5', 'S6', 'S7', 'S8'), 'test': ('S9', 'S11')}


@pytest.fixture
def trees(monkeypatch):
    """Pretend that Human3.6M has only two takes of each subject, and return a whole copy of that."""
    monkeypatch.setattr(h36m, 'TAKES', dict.fromkeys(h36m.TAKES, 2))
    monkeypatch.setattr(h36m, 'FRAMES_TRAIN', 5 * 110)
    monkeypatch.setattr(h36m, 'FRAMES_TEST', 2 * 110)
    return h36m_trees({subject: TAKES for side in SIDES.values() for subject in side})


@pytest.fixture
def problems(run, tmp_path):
    """problems(*flags) -> the numbered sentences of --check-data, [] after OK."""
    def check(*flags):
        status, out, err = run('--check-data', '--data', tmp_path, *flags)
        lines = out.strip().splitlines()
        if status == 0:
            assert (lines[-1], err) == ('OK', '')
            return []
        assert status == 1, err
        listed = [line.split('. ', 1) for line in lines if line.split('. ')[0].isdigit()]
        assert [number for number, _ in listed] == [str(n + 1) for n in range(len(listed))]
        assert lines[-1] == '. '.join(listed[-1])  # nothing follows the list
        assert f'error: {len(listed)} problem' in err and len(err.strip().splitlines()) == 1
        return [sentence for _, sentence in listed]
    return check


def test_a_whole_copy_is_ok(trees, tmp_path, problems, run):
    write_h36m(tmp_path, *trees)
    assert problems('-k', 'gt') == []
    out = run('--check-data', '--data', tmp_path, '-k', 'gt')[1]
    assert '9 of 9 known counts agree' in out and 'actions: Walking' in out
    assert f'{"S11":>14} {2:>6} {4:>8} {110:>9}' in out


def no_3d(folder, p, d):
    write_h36m(folder, p, d)
    (folder / 'data_3d_h36m.npz').unlink()


def other_keypoints(folder, p, d):
    write_h36m(folder, p, d, name='cpn')


def broken(folder, p, d):
    write_h36m(folder, p, d)
    (folder / 'data_2d_h36m_gt.npz').write_bytes(b'nothing')


def no_subject(folder, p, d):
    del p['S8'], d['S8']
    write_h36m(folder, p, d)


def one_sided_subject(folder, p, d):
    del d['S9']
    write_h36m(folder, p, d)


def fewer_frames(folder, p, d):
    p['S5']['Walking'] = p['S5']['Walking'][:-1]
    write_h36m(folder, p, d)


def one_take_more(folder, p, d):
    p['S11']['Walking 2'], d['S11']['Walking 2'] = p['S11']['Walking'], d['S11']['Walking']
    write_h36m(folder, p, d)


def shorter_2d(folder, p, d):
    d['S5']['Walking'][2] = d['S5']['Walking'][2][:59]
    write_h36m(folder, p, d)


def not_finite(folder, p, d):
    d['S5']['Walking'][2][7] = np.nan
    write_h36m(folder, p, d)


def no_confidence(folder, p, d):
    write_h36m(folder, p, each(d, lambda views: [np.concatenate([view, np.full((*view.shape[:2], 1), 37.5)], -1)
                                                for view in views]))


def millimetres(folder, p, d):
    write_h36m(folder, each(p, lambda joints: 1000 * joints), d)


def swapped_3d(folder, p, d):
    order = np.arange(32)
    order[list(H36M_OF_32)] = np.array(H36M_OF_32)[list(H36M.mirror)]
    write_h36m(folder, each(p, lambda joints: joints[:, order]), d)


def swapped_legs(folder, p, d):
    order = np.arange(32)
    order[[1, 2, 3, 6, 7, 8]] = [6, 7, 8, 1, 2, 3]
    write_h36m(folder, each(p, lambda joints: joints[:, order]), d)


def mirrored_world(folder, p, d):
    write_h36m(folder, each(p, lambda joints: joints * np.array([-1, 1, 1], np.float32)), d)


def other_order(folder, p, d):
    write_h36m(folder, each(p, lambda joints: np.roll(joints, 1, axis=1)), d)


def upside_down(folder, p, d):
    write_h36m(folder, each(p, lambda joints: joints * np.array([1, -1, -1], np.float32)), d)


def normalised(folder, p, d):
    write_h36m(folder, p, each(d, lambda views: [view / 500 - 1 for view in views]))


def other_size(folder, p, d):
    write_h36m(folder, p, each(d, lambda views: [3 * view for view in views]))


def swapped_2d(folder, p, d):
    write_h36m(folder, p, each(d, lambda views: [view[:, H36M.mirror] for view in views]))


def other_order_2d(folder, p, d):
    write_h36m(folder, p, d, {'layout_name': 'coco'})


def other_take(folder, p, d):
    d['S6']['Walking 1'] = [view[:53] for view in d['S6']['Walking']]
    write_h36m(folder, p, d)


def other_cameras(folder, p, d):
    write_h36m(folder, p, each(d, lambda views: [views[1], views[0], views[3], views[2]]))


def each(tree, change):
    return {subject: {take: change(value) for take, value in takes.items()} for subject, takes in tree.items()}


FAULTS = {
    no_3d: 'data_3d_h36m.npz is missing: ask for Human3.6M at http://vision.imar.ro/human3.6m and run data/',
    other_keypoints: 'data_2d_h36m_gt.npz is missing (the folder has -k cpn): ask',
    broken: 'data_2d_h36m_gt.npz is not a readable npz file',
    shorter_2d: 'has 59 frames for S5 Walking camera 2, but',
    not_finite: 'data_2d_h36m_gt.npz holds NaN or infinite coordinates in S5 Walking camera 2',
    no_confidence: 'has third numbers of keypoints from 37.5 to 37.5, expected confidence from 0 to 1',
    fewer_frames: 'frames of the training subjects over 4 cameras: 2,196, of a whole copy 2,200',
    one_take_more: 'takes of S11: 3, of a whole copy 2; frames of the test subjects over 4 cameras: 1,120, of',
    millimetres: "bones are 990 times as long as a person's, expected metres: the 3D is in millimetres (and of 6 ",
    swapped_3d: 'S1: knees bend backwards and elbows forwards (-0.',
    mirrored_world: 'left and right are swapped, or the world is a mirror image (and of 6 more subjects)',
    swapped_legs: 'the left shoulder is on the side of the right hip',
    other_order: 'the joints may be in another order',
    upside_down: 'the head is below the ankles in 100% of the frames',
    normalised: 'the keypoints are normalised, expected pixels (and of 6 more subjects)',
    other_size: 'of the keypoints lie outside the picture of 1000 × 1002 pixels',
    swapped_2d: 'left and right of the keypoints are swapped',
    other_order_2d: 'of other takes or cameras, or in another order',
    other_take: 'S6: the keypoints of 4 of 8 views are not where the 3D is projected to',
    other_cameras: 'S1: the keypoints of 8 of 8 views are not where the 3D is projected to',
}


@pytest.mark.parametrize('fault', FAULTS, ids=lambda f: f.__name__)
def test_each_fault_is_found_and_nothing_else(trees, tmp_path, problems, fault):
    fault(tmp_path, *trees)
    (problem,) = problems('-k', 'gt')
    assert FAULTS[fault] in problem
    assert len(problem) < 420


def test_a_missing_subject_is_reported_for_each_file(trees, tmp_path, problems):
    one_sided_subject(tmp_path, *trees)
    assert problems('-k', 'gt') == [f'{tmp_path}/data_2d_h36m_gt.npz has no subject S9']
    no_subject(tmp_path, *h36m_trees({subject: TAKES for side in SIDES.values() for subject in side}))
    assert problems('-k', 'gt') == [
        f'{tmp_path}/data_3d_h36m.npz has no subject S8', f'{tmp_path}/data_2d_h36m_gt.npz has no subject S8',
        'takes of S8: none, of a whole copy 2; frames of the training subjects over 4 cameras: 1,760, of a whole copy '
        '2,200']


def test_missing_files_are_reported_with_their_origin(problems):
    for name, where in (('humaneva15', 'http://humaneva.is.tue.mpg.de'), ('cmu', 'http://mocap.cs.cmu.edu')):
        found = problems('-d', name)
        assert len(found) == 2 and all('is missing' in sentence and where in sentence for sentence in found)


@pytest.mark.parametrize('keypoints', ['gt', 'noisy'])
def test_synthetic_is_ok(problems, keypoints):
    assert problems('-d', 'synthetic', '-k', keypoints) == []


@pytest.mark.parametrize('name, keypoints', [(f'humaneva{joints}', keypoints) for joints in (15, 20)
                                             for keypoints in ('gt', 'detectron_pt_coco')])
def test_part_of_humaneva_passes_except_for_absent_subjects_and_takes(humaneva_folder, problems, name, keypoints):
    """Two takes of S1 and one of S2, without the lenses of the cameras: what is there is people, seen from there."""
    *subjects, counts = problems('-d', name, '-k', keypoints, '--data', humaneva_folder)
    assert [sentence.split(' has ')[1] for sentence in subjects] == ['no subject Train/S3, Validate/S3'] * 2
    assert counts.startswith('frames of Train/S1 ThrowCatch 1: none, of a whole copy at most 472; ')
    assert counts.endswith('; and 19 more that differ')


def test_a_whole_copy_of_humaneva_is_ok(tmp_path, problems, capfd):
    """All takes of the three subjects in their full length, converted without --force."""
    pytest.importorskip('scipy.io')
    from humaneva_files import whole_takes, write_mocap

    from common.datasets.humaneva import TRAINING
    from data import prepare_data_humaneva
    write_mocap(tmp_path / 'converted_15j', 15, whole_takes(TRAINING), gaps=(7, 200))
    assert prepare_data_humaneva.main([str(tmp_path / 'converted_15j'), '--data', str(tmp_path)]) == 0
    capfd.readouterr()
    assert problems('-d', 'humaneva15') == []


@pytest.mark.parametrize('change, sentence', [
    (lambda views: [view[:, BODY.mirror] for view in views], 'left and right of the keypoints are swapped'),
    (lambda views: [views[1], views[0], views[2]], 'not where the 3D is projected to'),
    (lambda views: [view[::-1] for view in views], 'not where the 3D is projected to'),
])
def test_lenses_of_humaneva_are_fitted_per_camera(humaneva_folder, tmp_path, problems, change, sentence):
    """Which lens a camera has is found from where people are in its pictures; what no lens explains is wrong."""
    members = read_npz(humaneva_folder / 'data_2d_humaneva15_gt.npz')
    write_npz(tmp_path / 'data_2d_humaneva15_gt.npz', metadata=members['metadata'],
              positions_2d=each(members['positions_2d'], change))
    write_npz(tmp_path / 'data_3d_humaneva15.npz', **read_npz(humaneva_folder / 'data_3d_humaneva15.npz'))
    assert sentence in problems('-d', 'humaneva15')[-1]


def test_counts_must_equal_or_stay_below_the_known_ones():
    count = h36m.Count
    assert count_problems([count('a', 2, 2), count('b', 1, 2, at_most=True)]) == []
    assert count_problems([count('a', 1, 2), count('b', 3, 2, at_most=True), count('c', 0, 2, at_most=True)]) == [
        'a: 1, of a whole copy 2; b: 3, of a whole copy at most 2; c: none, of a whole copy at most 2']


@pytest.mark.parametrize('other', ['--evaluate', '--resume', '--init', '--inspect'])
def test_check_data_excludes_every_other_command(refused, other):
    assert '--check-data and ' + other in refused(2, '--check-data', other, 'x.bin')


@pytest.fixture(scope='module')
def cmu(tmp_path_factory):
    """Return the folder of the converted clips; the test is skipped where there are none."""
    if not (SHARED / 'mocap').is_dir():
        pytest.skip(f'no motion capture at {SHARED}')
    from data import prepare_data_cmu
    folder = tmp_path_factory.mktemp('cmu')
    assert prepare_data_cmu.main([str(SHARED / 'mocap'), '--data', str(folder)]) == 0
    return folder


@pytest.mark.parametrize('keypoints', ['gt', 'noisy'])
def test_real_motion_is_ok(cmu, problems, keypoints):
    assert problems('-d', 'cmu', '-k', keypoints, '--data', cmu) == []


def test_real_motion_mirrored_or_seen_wrongly_is_not(cmu):
    """For each of 20 people: the mirrored world, swapped names, swapped keypoints, a picture turned upside down."""
    dataset = load_dataset('cmu', cmu, 'noisy')
    for subject in dataset.positions:
        own = views_of(dataset, subject)
        assert problems_of(own) == {}
        for change in (lambda v: v.joints * [-1, 1, 1], lambda v: v.joints[:, BODY.mirror]):
            wrong = [replace(view, joints=change(view)) for view in own]
            assert list(problems_of(wrong)) == ['left and right']
            assert handedness(wrong[0].joints) == pytest.approx(-handedness(own[0].joints))
        for pixels in (lambda v: v.pixels[:, BODY.mirror], lambda v: v.size - v.pixels):
            wrong = [replace(view, pixels=pixels(view)) for view in own]
            assert list(problems_of(wrong)) == ['2D on the projected 3D']


def test_keypoints_of_another_take_of_real_motion_are_found(cmu):
    """Each of ten takes of one person with the keypoints of each other that is long enough."""
    dataset = load_dataset('cmu', cmu, 'noisy')
    lengths, tracks = ({take: f(of) for take, of in tree['02'].items()} for f, tree in (
        (len, dataset.positions), (list, dataset.detections)))
    pairs = [(take, other) for take, frames in lengths.items() for other in lengths
             if take != other and lengths[other] >= frames]
    assert len(pairs) == 45
    for take, other in pairs:
        wrong = replace(dataset, detections={'02': tracks | {take: tracks[other]}})
        assert take in problems_of(views_of(wrong, '02')).get('2D on the projected 3D', ''), (take, other)


def test_golden_data_pass_except_for_absent_subjects(golden, problems):
    for keypoints in ('gt', 'cpn_ft_h36m_dbb'):
        found = problems('-k', keypoints, '--data', golden / 'tiny')
        assert len(found) == 3
        assert all('has no subject S5, S6, S7, S8' in sentence for sentence in found[:2])
        assert found[2].startswith('takes of S1: 6, of a whole copy 30; ')


def test_detectors_layouts_become_the_body():
    points = np.arange(17 * 2.0).reshape(1, 17, 2)
    body = plausibility.to_body(points, COCO)
    np.testing.assert_array_equal(body[0, BODY.joints.index('left_wrist')], points[0, 9])
    np.testing.assert_array_equal(body[0, BODY.joints.index('hip')], points[0, 11:13].mean(axis=0))


def test_checks_do_not_import_models():
    for path in (Path(check_data.__file__), Path(plausibility.__file__)):
        assert 'common.models' not in path.read_text()


@pytest.mark.parametrize('change, sentence', [
    (lambda pixels: pixels, None),
    (lambda pixels: pixels / 1000, 'expected pixels: multiply them back'),
    (lambda pixels: pixels + [900, 0], 'outside of a picture of 1000×1002: correct w and h in video_metadata'),
    (lambda pixels: np.where(np.arange(17)[:, None] == 3, np.nan, pixels), 'lacks 30 of 510 keypoints'),
    (lambda pixels: pixels[:, ::-1], 'bones of impossible relative lengths for layout h36m')])
def test_a_users_own_videos_are_checked(run, tmp_path, change, sentence):
    pixels = change(clip(30)[1])
    keypoint_files.custom(tmp_path / 'data_2d_custom_mine.npz', pixels, layout='h36m',
                          symmetry=[H36M.left, H36M.right])
    status, out, _ = run('-d', 'custom', '-k', 'mine', '--data', tmp_path, '--check-data')
    assert 'clip.mp4      1        1        30' in out
    assert (status == 0 and out.rstrip().endswith('OK')) if sentence is None else (status == 1 and sentence in out)


def test_files_of_sixteen_and_of_seventeen_joints_say_what_to_do(refused, run, tmp_path):
    positions, detections = h36m_trees({'S1': {'Walking': 30}, 'S9': {'Walking': 30}})
    flags = ['-d', 'h36m', '-k', 'gt', '--data', tmp_path, '--check-data']
    sides = [H36M16.left, H36M16.right]
    keep = [joint for joint, name in enumerate(H36M.joints) if name != 'neck']
    fewer = {subject: {take: [view[:, keep] for view in views] for take, views in takes.items()}
             for subject, takes in detections.items()}
    write_h36m(tmp_path, positions, fewer)
    write_npz(tmp_path / 'data_2d_h36m_gt.npz', positions_2d=fewer, metadata={'layout_name': 'h36m'})
    assert 'without the neck' in run(*flags)[1]
    assert 'set layout_name to h36m16 in its metadata' in run(*flags)[1]
    # SemGCN's files do not name their layout; their left and right are not MPII's
    for metadata in ({'num_joints': 16, 'keypoints_symmetry': sides},
                     {'layout_name': 'h36m16', 'keypoints_symmetry': sides}):
        write_npz(tmp_path / 'data_2d_h36m_gt.npz', positions_2d=fewer, metadata=metadata)
        assert 'keypoints of layout h36m16' in run(*flags)[1]  # and so it does
    write_npz(tmp_path / 'data_3d_h36m.npz', positions_3d={
        subject: {take: array[:, list(H36M_OF_32)] for take, array in takes.items()}
        for subject, takes in positions.items()})
    assert 'has 17 joints, expected all 32 of Human3.6M: make the file with data/prepare_data_h36m.py' in run(*flags)[1]


@pytest.mark.parametrize('frames, sentence', [(20, 'or cut the 3D at the end'), (200, 'of different frame rates')])
def test_sides_of_different_lengths_say_what_to_do(run, tmp_path, frames, sentence):
    positions, _ = h36m_trees({'S1': {'Walking': 30}, 'S9': {'Walking': 30}})
    _, detections = h36m_trees({'S1': {'Walking': frames}, 'S9': {'Walking': frames}})
    write_h36m(tmp_path, positions, detections)
    assert sentence in run('-d', 'h36m', '-k', 'gt', '--data', tmp_path, '--check-data')[1]


@pytest.mark.parametrize('lens', [True, False], ids=['known', 'fitted'])
def test_missing_3d_filled_with_zeros_is_found(trees, tmp_path, lens):
    """In camera axes, as MPI-INF-3DHP's, where a zero is the camera itself and projects nowhere."""
    write_h36m(tmp_path, *trees)
    views = views_of(load_dataset('h36m', tmp_path, 'gt'), 'S1')
    views = [replace(view, intrinsic=view.intrinsic if lens else None) for view in views]
    assert problems_of(views) == {}
    views[0].joints[7] = 0
    assert list(problems_of(views)) == ['depth']
    assert 'joints lie in or behind the camera in 1 of ' in problems_of(views)['depth']


def test_custom_videos_need_the_name_of_their_keypoints(refused):
    assert '-d custom has no usual keypoints: say which 2D file is read with -k NAME' in refused(
        2, '-d', 'custom', '--check-data')
