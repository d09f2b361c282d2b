"""HumanEva-I: the owners' files through converter, loader and two epochs to figures; what it cannot do is refused."""

import json
import pickle

import numpy as np
import pytest
from test_npz import rename_numpy_core, write_pickled, zero_d

from common.datasets import load_dataset
from common.datasets.humaneva import CAMERAS
from common.errors import FileError, FlagError
from common.geometry.camera import normalise
from common.skeleton import COCO, HUMANEVA15, HUMANEVA20
from common.storage.npz import read_npz, write_npz

SUBJECTS = ['-str', 'Train/S1,Train/S2', '-ste', 'Validate/S1,Validate/S2']
QUICK = ['--downsample', '5', '-cs', '24', '-dep', '1', '-e', '2', '--device', 'cpu']
TINY = ['-f', '27', '-b', '270', '-lr', '1e-3', *QUICK]
HTNET = ['--model', 'htnet', '--hidden', '16', *QUICK]


@pytest.fixture
def folder(humaneva_folder):
    return humaneva_folder


@pytest.mark.parametrize('name, keypoints, skeleton, layout', [
    ('humaneva15', 'gt', HUMANEVA15, HUMANEVA15), ('humaneva15', 'detectron_pt_coco', HUMANEVA15, COCO),
    ('humaneva20', None, HUMANEVA20, HUMANEVA20), ('humaneva20', 'detectron_pt_coco', HUMANEVA20, COCO)])
def test_the_loader_gives_takes_in_chunks_and_camera_space(folder, name, keypoints, skeleton, layout):
    dataset = load_dataset(name, folder, keypoints)
    assert (dataset.skeleton, dataset.layout, dataset.fps) == (skeleton, layout, 60)
    assert sorted(dataset.detections) == ['Train/S1', 'Train/S2', 'Validate/S1', 'Validate/S2']  # none of Unlabeled/
    sequences = dataset.sequences(['Train/S1', 'Validate/S2'], ['Jog'])
    # Jog of S1, [367, 740), and of S2, [5, 398): runs without a pose are numbered too.
    assert [(s.subject, s.action, s.camera, len(s.poses)) for s in sequences] == [
        (subject, f'Jog 1 chunk{chunk}', camera, frames) for subject, ends in (('Train/S1', 373), ('Validate/S2', 393))
        for chunk, frames in ((0, 40), (2, 58), (4, ends - 101)) for camera in range(3)]
    take = next(s for s in sequences if (s.action, s.camera) == ('Jog 1 chunk2', 1))
    world = dataset.positions['Train/S1']['Jog 1 chunk2']
    joints = CAMERAS['Train/S1'][1].from_world(world)
    np.testing.assert_allclose(take.poses, joints - joints[:, :1], atol=1e-6)
    np.testing.assert_allclose(take.root, joints[:, 0], atol=1e-6)
    assert take.intrinsic is None
    seen = dataset.detections['Train/S1']['Jog 1 chunk2'][1]
    np.testing.assert_allclose(take.keypoints, normalise(seen, 640, 480), atol=1e-6)
    np.testing.assert_allclose(take.keypoints * 320 + [320, 240], seen, atol=1e-3)  # y is divided by the width too


@pytest.mark.parametrize('subjects, actions, message', [
    (['S1'], None, 'unknown subject S1 of humaneva15; there are Train/S1'),
    (['Unlabeled/S4'], None, 'unknown subject Unlabeled/S4'),
    (['Train/S1'], ['Combo'], 'unknown action Combo; there are Jog, Walking'),
])
def test_unknown_subjects_and_actions_are_refused(folder, subjects, actions, message):
    with pytest.raises(FlagError, match=message):
        load_dataset('humaneva15', folder, 'detectron_pt_coco').sequences(subjects, actions)


def test_a_subject_without_calibration_is_refused(folder, tmp_path):
    for side in ('3d_humaneva15', '2d_humaneva15_gt'):
        members = read_npz(folder / f'data_{side}.npz')
        tree = members[f'positions_{side[:2]}']
        tree['Train/S4'] = tree['Train/S2']
        write_npz(tmp_path / f'data_{side}.npz', **members)
    with pytest.raises(FileError, match='humaneva15 has no cameras for subject Train/S4'):
        load_dataset('humaneva15', tmp_path).sequences(['Train/S4'])


def test_missing_files_say_where_to_get_them(tmp_path):
    with pytest.raises(FileError, match=r'humaneva20\.npz is missing: ask for HumanEva-I at http.*converted_20j'):
        load_dataset('humaneva20', tmp_path)


@pytest.mark.parametrize('protocol', [2, 3, 4])
def test_files_of_numpy_1_load_alike(folder, tmp_path, protocol):
    for name in ('data_3d_humaneva15', 'data_2d_humaneva15_gt'):
        path = tmp_path / f'{name}.npz'
        for member, tree in list(read_npz(folder / f'{name}.npz').items())[:1]:  # without the metadata, as some are
            tree = {subject: takes for subject, takes in tree.items() if subject.endswith('S2')}
            payload = pickle.dumps(zero_d(tree), protocol=protocol)
            write_pickled(path, rename_numpy_core(payload, protocol), f'{member}.npy')
    new, old = (load_dataset('humaneva15', place).sequences(['Validate/S2']) for place in (folder, tmp_path))
    for a, b in zip(new, old, strict=True):
        np.testing.assert_array_equal(a.poses, b.poses)
        np.testing.assert_array_equal(a.keypoints, b.keypoints)


@pytest.mark.parametrize('name, keypoints, flags', [
    ('humaneva15', 'gt', TINY), ('humaneva20', 'detectron_pt_coco', TINY), ('humaneva15', 'detectron_pt_coco', HTNET),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ('humaneva15', 'detectron_pt_coco', TINY), ('humaneva20', 'gt', TINY), ('humaneva15', 'gt', HTNET),
        ('humaneva20', 'detectron_pt_coco', HTNET))),
], ids=lambda value: '' if isinstance(value, list) else value)
def test_two_epochs_train_and_their_file_repeats_the_figures(folder, run, tmp_path, name, keypoints, flags):
    """Training, its table, and the table again from the file alone, which knows the data set and its subjects."""
    common = ['--data', folder, '-c', tmp_path / 'c', '--by-subject', '--results', tmp_path / 'r.json']
    status, out, err = run('-d', name, '-k', keypoints, *SUBJECTS, '-a', 'Walk,Jog', '-l', tmp_path / 'l', *common,
                           *flags)
    assert (status, err) == (0, '')
    results = json.loads((tmp_path / 'r.json').read_text())
    paper = results['protocols']['paper']
    assert list(paper['subjects']) == ['Validate/S1', 'Validate/S2']
    assert set(paper['actions']) == {'Walking', 'Jog'} and set(paper['subjects']['Validate/S2']['actions']) == {'Jog'}
    for metric in ('mpjpe', 'p_mpjpe', 'n_mpjpe'):
        one, two = (paper['actions'][action][metric] for action in ('Walking', 'Jog'))
        assert paper['average'][metric] == pytest.approx((one + two) / 2)
        assert 0 < paper['average'][metric] < 500
    table = out[out.rindex('Protocol paper'):]
    status, out, err = run('--evaluate', 'best.bin', '--device', 'cpu', *common)
    assert (status, err) == (0, '')
    assert out[out.rindex('Protocol paper'):] == table


def test_htnet_needs_limbs(folder, refused, tmp_path):
    line = refused(2, '-d', 'humaneva20', *SUBJECTS, '--data', folder, '-c', tmp_path / 'c', '-l', tmp_path / 'l',
                   *HTNET)
    assert line.endswith('layout humaneva20 has no right_knee, which a limb needs')
    assert not (tmp_path / 'c').exists()


def test_refinement_needs_intrinsics(folder, run, refused, tmp_path):
    flags = ['-d', 'humaneva15', *SUBJECTS, '--data', folder, '-l', tmp_path / 'l', *HTNET]
    assert run(*flags, '-c', tmp_path / 'c')[0] == 0
    line = refused(2, *flags, '-c', tmp_path / 'd', '--refine', '--init', tmp_path / 'c' / 'best.bin')
    assert "reads each camera's focal length and centre, which humaneva15 does not tell" in line
