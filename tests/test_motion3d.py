"""Poses in the picture: MotionBERT's pickle, what it means, its protocol, and what must not be mixed with it."""

import io
import json
import os
import pickle
import resource
import shutil

import naive_motion3d as naive
import numpy as np
import pytest
import torch
from conftest import write_h36m
from test_npz import Evil, rename_numpy_core

from common.datasets import DATASETS, load_dataset
from common.datasets.h36m import CAMERAS
from common.datasets.motion3d import PUBLISHED, PictureDataset
from common.datasets.synthetic import motion
from common.errors import FileError, FlagError
from common.evaluation.hypotheses import hypotheses
from common.evaluation.sums import mean_pose_mpjpe, tally
from common.evaluation.tables import summarise
from common.keypoints.bones import LIMBS_OF_A_PERSON, length_of_limbs
from common.models import build_model, load_lifter
from common.models.ktpformer import KTPFormer
from common.models.lifter import IN_THE_PICTURE
from common.models.lifting import predictions, usual_target, windows_for
from common.sampler import TestWindows
from common.skeleton import H36M, H36M16
from common.storage.npz import read_npz, read_pickle
from common.store import SequenceStore
from common.windows import fitting_starts
from data import prepare_data_motion3d as prepare

CPU = ['--device', 'cpu']
SMALL = ['-f', 9, '-cs', 16, '-dep', 1, '-b', 45, '-lr', 1e-3, *CPU]
LENS = {'54138969': 0, '55011271': 1}


def frames_of(source, camera, count, action=None, seed=0, factor=True):
    """Return the columns of a sequence, as the published file has them: a walk some metres away."""
    world = motion('Walking', 1.0, count + 1, np.random.default_rng(seed))[:count].astype(np.float64)
    joints = CAMERAS['S9'][LENS.get(camera, 0)].from_world(world)
    z = joints[:, :1, 2:]
    rho = (2000 * 1146 / (1000 * z) + 1) / 2000
    image = np.concatenate([joints[..., :2] / joints[..., 2:] * 1146 + 500, rho * 1000 * (joints[..., 2:] - z)], -1)
    random = np.random.default_rng([seed, 1])
    columns = {'joint_2d': (image[..., :2] + random.normal(0, 2, (count, 17, 2))).astype(np.float32),
               'confidence': random.uniform(0.5, 1, (count, 17, 1)).astype(np.float32),
               'joint3d_image': image.astype(np.float32), 'camera_name': [camera] * count, 'source': [source] * count}
    if factor:
        columns |= {'action': [action] * count, '2.5d_factor': 1 / rho[:, 0, 0],
                    'joints_2.5d_image': (image / rho).astype(np.float32)}
    return columns


def joined(*sequences):
    return {key: [text for s in sequences for text in s[key]] if isinstance(sequences[0][key], list) else
            np.concatenate([s[key] for s in sequences]) for key in sequences[0]}


def content():
    """A file in the published form: 2 sequences to train on, 5 to test on, one of which drifted, one is short."""
    train = joined(frames_of('s_01_act_02_subact_01_ca_01', '54138969', 30, seed=1, factor=False),
                   frames_of('s_05_act_14_subact_02_ca_02', '55011271', 25, seed=2, factor=False))
    test = joined(frames_of('s_09_act_02_subact_01_ca_01', '54138969', 21, 'Directions', 3),
                  frames_of('s_09_act_02_subact_01_ca_02', '55011271', 21, 'Directions', 3),
                  frames_of('s_09_act_05_subact_02_ca_01', '54138969', 12, 'Greeting', 4),
                  frames_of('s_11_act_14_subact_02_ca_02', '55011271', 18, 'Walking', 5),
                  frames_of('s_11_act_16_subact_01_ca_02', '55011271', 5, 'WalkTogether', 6))
    return {'train': train, 'test': test}


def write(folder, tree=None, name='m', protocol=4):
    (folder / f'{name}.pkl').write_bytes(pickle.dumps(content() if tree is None else tree, protocol=protocol))
    return folder


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with `m.pkl`; not to be written to."""
    return write(tmp_path_factory.mktemp('motion3d'))


@pytest.fixture(scope='module')
def dataset(folder):
    return load_dataset('motion3d', folder, 'm')


def store_of(sequences):
    return SequenceStore(sequences, H36M, H36M, torch.device('cpu'))


# ---- the file ----------------------------------------------------------------------------------------------------


def test_what_is_in_the_file_by_hand(tmp_path):
    """One joint of one frame, in the two heights of pictures."""
    tree = content()
    for key in ('train', 'test'):
        tree[key]['joint3d_image'] = np.zeros_like(tree[key]['joint3d_image'])
        tree[key]['joint_2d'] = np.zeros_like(tree[key]['joint_2d'])
    test = tree['test']
    for row in (0, 21):  # the first frames of a camera of 1002 rows, and one of 1000
        test['joint3d_image'][row, 0] = [400, 300, 0]
        test['joint3d_image'][row, 3] = [650, 551, -100]
        test['joint_2d'][row, 3] = [750, 250]
        test['2.5d_factor'][row] = 4.0
        test['joints_2.5d_image'][row] = test['joint3d_image'][row] * 4.0
    first, second, *_ = load_dataset('motion3d', write(tmp_path, tree), 'm').sequences(['S9'])
    assert first.poses[0, 3].tolist() == pytest.approx([0.5, 0.502, -0.2])
    assert second.poses[0, 3].tolist() == first.poses[0, 3].tolist()  # the height of the picture cancels
    assert (first.poses[:, 0] == 0).all()
    assert first.keypoints[0, 3].tolist() == pytest.approx([0.5, -0.502])
    assert second.keypoints[0, 3].tolist() == pytest.approx([0.5, -0.5])
    assert first.units[0] == pytest.approx(2.0)  # half of 1000 pixels, each 4 mm
    assert first.metres[0, 3].tolist() == pytest.approx([1.0, 1.004, -0.4])
    np.testing.assert_allclose(first.poses[0] * first.units[0], first.metres[0], atol=1e-6)


def test_sequences_are_cut_where_the_source_or_the_camera_changes(dataset):
    assert (dataset.subjects_train, dataset.subjects_test) == (('S1', 'S5'), ('S9', 'S11'))
    found = [(s.subject, s.action, s.camera, len(s.poses)) for s in dataset.sequences(['S1', 'S5', 'S9', 'S11'])]
    assert found == [('S1', 'Directions 1', 0, 30), ('S5', 'Walking 2', 1, 25), ('S9', 'Directions 1', 0, 21),
                     ('S9', 'Directions 1', 1, 21), ('S11', 'Walking 2', 1, 18), ('S11', 'WalkTogether 1', 1, 5)]
    assert dataset.left_out == 's_09_act_05_subact_02, whose 3D drifted, as in the published test'
    train, test = dataset.sequences(['S1'])[0], dataset.sequences(['S9'])[0]
    assert train.units is None and train.metres is None
    assert train.poses.dtype == test.metres.dtype == test.units.dtype == np.float32
    assert test.confidence.shape == (21, 17)
    camera = dataset.cameras['S9'][1]
    assert (camera.width, camera.height) == (1000, 1000)


def changed(tree, **columns):
    for name, change in columns.items():
        side, _, key = name.partition('__')
        key = {'factor': '2.5d_factor', 'scaled': 'joints_2.5d_image'}.get(key, key)
        tree[side][key] = change(tree[side][key])
    return tree


@pytest.mark.parametrize('change', [
    {'test__confidence': lambda c: c[..., 0], 'train__confidence': lambda c: c[..., 0]},
    {'test__source': np.array, 'test__camera_name': lambda c: np.array(c, dtype=object)},
    {'test__camera_name': lambda c: [int(name) for name in c], 'train__camera_name': tuple},
    {'test__factor': list}, {'test__factor': lambda f: f[:, None].astype(np.float32)},
    {'test__joint_2d': lambda j: j.astype(np.float64)}, {'test__joint3d_image': np.asfortranarray},
    {'test__scaled': lambda j: j.astype('>f4')}], ids=lambda c: ','.join(c))
def test_other_kinds_of_columns_mean_the_same(dataset, tmp_path, change):
    other = load_dataset('motion3d', write(tmp_path, changed(content(), **change)), 'm')
    for one, two in zip(dataset.sequences(['S9', 'S11']), other.sequences(['S9', 'S11']), strict=True):
        assert (one.subject, one.action, one.camera) == (two.subject, two.action, two.camera)
        for name in ('keypoints', 'poses', 'confidence', 'units', 'metres'):
            np.testing.assert_allclose(getattr(one, name), getattr(two, name), rtol=1e-6)


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
@pytest.mark.parametrize('numpy_major', [1, 2])
def test_pickles_of_both_numpys_are_read(tmp_path, protocol, numpy_major):
    tree = {side: {name: column[:3] for name, column in columns.items()} for side, columns in content().items()}
    payload = pickle.dumps(tree, protocol=protocol)
    if numpy_major == 1 and protocol < 4:  # those of later protocols are of test_npz.py
        payload = rename_numpy_core(payload, protocol)
    (tmp_path / 'm.pkl').write_bytes(payload)
    assert len(load_dataset('motion3d', tmp_path, 'm').sequences(['S9'])[0].poses) == 3


def without(side, *names):
    tree = content()
    for name in names:
        del tree[side][name]
    return tree


def test_what_a_file_may_lack(tmp_path, dataset):
    """Confidence, actions, which sources tell by number too, and the truth, which targets and factors give."""
    bare = load_dataset('motion3d', write(tmp_path, without('test', 'confidence', 'action', 'joints_2.5d_image')), 'm')
    for one, two in zip(dataset.sequences(['S9', 'S11']), bare.sequences(['S9', 'S11']), strict=True):
        assert two.confidence is None
        assert one.action == two.action
        np.testing.assert_allclose(one.metres, two.metres, atol=2e-6)


@pytest.mark.parametrize('tree, message', [
    (without('train', 'source'), 'm.pkl: train source is not there, expected a text for each of its 55 frames'),
    (without('test', '2.5d_factor'), 'm.pkl: test has no 2.5d_factor'),
    (without('test', 'joint_2d'), 'm.pkl: test has no joint_2d'),
    ({'train': {}}, 'm.pkl is not a dict with train and test'), ([1, 2], 'm.pkl is not a dict'),
    (changed(content(), test__joint_2d=lambda j: j[:, :16]), r'test joint_2d is \(77, 16, 2\), expected \(frames, 17'),
    (changed(content(), test__joint3d_image=lambda j: j[:-1]), r'joint3d_image is \(76, 17, 3\), expected \(77, 17, 3'),
    (changed(content(), test__action=lambda a: a[:-1]), 'test action is of 76, expected a text for each of its 77'),
    (changed(content(), test__source=lambda a: [*a[:-1], 7.5]), 'test source holds 7.5, expected text'),
    (changed(content(), test__source=lambda a: [*a[:-1], 'S9 Walking']), "source 'S9 Walking', expected one like s_09"),
    (changed(content(), test__factor=lambda f: -f), 'test 2.5d_factor holds a number that is not above 0'),
    (changed(content(), test__factor=lambda f: f * np.nan), 'holds a number that is not above 0'),
    (changed(content(), train__confidence=lambda c: [None] * 55), r'train confidence is list, expected \(55, 17\)'),
    (changed(content(), train__joint_2d=lambda j: j.astype(object)), r'joint_2d is \(55, 17, 2\)'),
    (changed(content(), train__source=lambda s: [x.replace('s_01', 's_09') for x in s]),
     "'S9' is in train and in test, with other frames"),
])
def test_files_of_another_form_are_told_in_one_sentence(tmp_path, tree, message):
    with pytest.raises(FileError, match=message) as told:
        load_dataset('motion3d', write(tmp_path, tree), 'm')
    assert '\n' not in str(told.value)


def test_numbers_that_are_not_finite_are_told_where_they_are(tmp_path):
    tree = content()
    tree['test']['joint3d_image'][22, 5] = np.nan
    found = load_dataset('motion3d', write(tmp_path, tree), 'm')
    where = 'S9 Directions 1 camera 1, at joint left_knee of frame 1'
    with pytest.raises(FileError, match=f'NaN or infinite coordinates in {where}'):
        found.sequences(['S9'])


@pytest.mark.parametrize('protocol', [2, 4, 5])
def test_a_hostile_pickle_is_refused_by_name_and_never_run(tmp_path, refused, protocol):
    mark = tmp_path / 'mark'
    tree = content()
    tree['test']['action'] = Evil(os.system, f'touch {mark}')
    write(tmp_path, tree, protocol=protocol)
    line = refused(1, '-d', 'motion3d', '-k', 'm', '--data', tmp_path, '-c', tmp_path / 'c', *SMALL)
    assert 'm.pkl is refused: its pickle asks for posix.system, which no data file needs; nothing in it was' in line
    assert not mark.exists()


def test_damage_ends_in_one_sentence(tmp_path, folder):
    """Cut short, longer, or with any byte another one: FileError or data, and no other exception."""
    tree = {side: {name: column[:3] for name, column in columns.items()} for side, columns in content().items()}
    whole = pickle.dumps(tree, protocol=4)
    random = np.random.default_rng(0)
    damaged = [whole[:len(whole) // 2], whole[:-1], whole + b'x', b'', b'<html>', b'PK\3\4']
    for _ in range(150):
        copy = bytearray(whole)
        for place in random.integers(0, 1500, 2):  # the rest is numbers of arrays
            copy[place] = random.integers(256)
        damaged.append(bytes(copy))
    for index, payload in enumerate(damaged):
        (tmp_path / 'm.pkl').write_bytes(payload)
        told = None
        try:
            load_dataset('motion3d', tmp_path, 'm').sequences(['S9'])
        except (FileError, FlagError) as error:
            told = str(error)
        assert '\n' not in (told or '')
        assert told or index > 5


def test_an_array_larger_than_its_file_is_refused_without_the_memory(tmp_path):
    claimed = (b'(dVtrain\n(dVjoint_2d\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS"b"\ntR(I1\n'
               b'(I900000000\nI17\nI2\ntcnumpy\ndtype\n(S"f4"\nI0\nI1\ntR(I3\nS"<"\nNNNI-1\nI-1\nI0\ntbI00\nS"xxxx"\ntbss.')
    long_bytes = b'\x80\x04\x8e' + (2**40).to_bytes(8, 'little') + b'ab.'
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for payload in (claimed, long_bytes):
        (tmp_path / 'm.pkl').write_bytes(payload)
        with pytest.raises(FileError, match=r'm\.pkl is not a readable pickle'):
            read_pickle(tmp_path / 'm.pkl')
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def test_a_missing_file_is_told_with_what_there_is(folder, refused, tmp_path):
    line = refused(1, '-d', 'motion3d', '--data', folder)
    assert f'{PUBLISHED}.pkl is missing (the folder has -k m): take MotionBERT' in line
    (tmp_path / 'slices').mkdir()
    line = refused(1, '-d', 'motion3d', '-k', 'slices', '--data', tmp_path)
    assert 'slices is a folder of slices, which tell neither action nor scale and are not read: take the file' in line


def test_check_data_looks_at_people_and_keypoints(run, folder, tmp_path):
    status, out, err = run('-d', 'motion3d', '-k', 'm', '--data', folder, '--check-data')
    assert (status, err) == (0, '') and out.endswith('OK\n'), out
    tree = changed(content(), test__joint_2d=lambda j: j[:, H36M.mirror])
    status, out, _ = run('-d', 'motion3d', '-k', 'm', '--data', write(tmp_path, tree), '--check-data')
    assert status == 1
    assert 'left and right of the keypoints are swapped' in out
    tree = changed(content(), test__factor=lambda f: f / 1000)
    status, out, _ = run('-d', 'motion3d', '-k', 'm', '--data', write(tmp_path, tree), '--check-data')
    assert status == 1
    assert "bones are 0.00099 times as long as a person's, expected metres" in out


def test_a_body_without_the_neck(dataset):
    less = dataset.without('neck', H36M16, replacing=H36M)
    assert isinstance(less, PictureDataset)
    whole, (cut, *_) = dataset.sequences(['S9'])[0], less.sequences(['S9'])
    kept = [j for j, name in enumerate(H36M.joints) if name != 'neck']
    for name in ('keypoints', 'poses', 'metres', 'confidence'):
        np.testing.assert_array_equal(getattr(cut, name), getattr(whole, name)[:, kept])


def test_downsample_keeps_factors_and_truth_beside_their_frames(dataset):
    whole, less = dataset.sequences(['S9'])[0], dataset.sequences(['S9'], downsample=4)[0]
    for name in ('keypoints', 'poses', 'metres', 'units', 'confidence'):
        np.testing.assert_array_equal(getattr(less, name), getattr(whole, name)[::4])


# ---- windows and figures -----------------------------------------------------------------------------------------


def test_what_is_left_at_the_end_is_dropped():
    assert fitting_starts(1383, 243, 243).tolist() == [0, 243, 486, 729, 972]
    assert 1383 - 5 * 243 == 168
    assert fitting_starts(243, 243, 243).tolist() == [0]
    assert fitting_starts(100, 243, 243).tolist() == [-72]


def test_windows_lie_inside_their_sequences_and_each_frame_counts_once(dataset):
    store = store_of(dataset.sequences(['S9', 'S11']))  # 21, 21, 18 and 5 frames
    windows = TestWindows.of(store, 9, target=usual_target(store))
    assert windows.sequence.tolist() == [0, 0, 1, 1, 2, 2, 3]
    assert windows.start.tolist() == [0, 9, 0, 9, 0, 9, -2]
    assert torch.equal(windows.counted, windows.first)
    counted = windows.rows[windows.first].tolist()
    assert len(counted) == len(set(counted)) == 18 + 18 + 18 + 5
    assert windows.rows[-1].tolist() == [60, 60, 60, 61, 62, 63, 64, 64, 64]  # its ends repeated, not counted
    assert windows.first[-1].tolist() == [False] * 2 + [True] * 5 + [False] * 2


def test_a_model_of_one_answer_is_tested_on_every_frame(dataset):
    store = store_of(dataset.sequences(['S9', 'S11']))
    for name, sizes in (('videopose3d', {'widths': (3, 3), 'channels': 8}), ('martinez', {'channels': 8})):
        windows = windows_for(build_model(name, sizes, H36M, H36M), store, usual_target(store))
        assert windows.rows[windows.first].tolist() == list(range(65))


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(3)
    return build_model('ktpformer', {'frames': 9, 'channels': 16, 'depth': 1}, H36M, H36M).eval()


def test_the_table_is_the_naive_one(dataset, model):
    store = store_of(dataset.sequences(['S9', 'S11']))
    windows = windows_for(model, store, usual_target(store))
    predicted = predictions(model, store, windows, root='zero')['predicted']
    figures = summarise(tally(predicted, store, windows), False, '2.5d')
    assert list(figures) == ['2.5d']
    expected = naive.table(model, content()['test'], 9)
    got = figures['2.5d']['actions'] | {'average': figures['2.5d']['average']}
    assert got.keys() == expected.keys() == {'Directions', 'Walking', 'WalkTogether', 'average'}
    for action, (mpjpe, p_mpjpe) in expected.items():
        assert got[action]['mpjpe'] == pytest.approx(mpjpe, rel=1e-5)
        assert got[action]['p_mpjpe'] == pytest.approx(p_mpjpe, rel=1e-5)


def test_a_frame_without_an_error_does_not_count(dataset):
    """Three frames of 18 are predicted exactly: the mean is over the other 15, as in the published program."""
    store = store_of(dataset.sequences(['S11'])[:1])
    windows = TestWindows.of(store, 9, target='whole')
    truth = store.truth[windows.rows]
    predicted = truth + torch.tensor([0.03, 0, 0.04])
    predicted[1, 2:5] = truth[1, 2:5]
    row = summarise(tally(predicted, store, windows), False, '2.5d')['2.5d']['actions']['Walking']
    assert row['mpjpe'] == pytest.approx(50, rel=1e-4)
    exact = truth.clone()
    assert summarise(tally(exact, store, windows), False, '2.5d')['2.5d']['actions']['Walking']['mpjpe'] is None


def test_the_mean_pose_is_scaled_as_predictions_are(dataset):
    train, test = store_of(dataset.sequences(['S1', 'S5'])), store_of(dataset.sequences(['S9', 'S11']))
    mean = np.mean([frame for s in dataset.sequences(['S1', 'S5']) for frame in s.poses], axis=0)
    errors = [np.linalg.norm(unit * mean - true, axis=-1).mean()
              for s in dataset.sequences(['S9', 'S11']) for unit, true in zip(s.units, s.metres, strict=True)]
    baseline = mean_pose_mpjpe(train, test)
    assert baseline == pytest.approx(1000 * np.mean(errors), rel=1e-4)
    assert 50 < baseline < 500  # a person's, not thousandths of a picture


# ---- the program -------------------------------------------------------------------------------------------------


def test_hypotheses_are_chosen_and_judged_in_metres(dataset):
    """Of one hypothesis all figures are those of its poses, which `predictions` gives in metres too."""
    torch.manual_seed(5)
    sampling = build_model('mixste', {'frames': 9, 'channels': 16, 'depth': 1, 'diffusion': True}, H36M, H36M).eval()
    sampling.hypotheses = sampling.iterations = 1
    store = store_of(dataset.sequences(['S9', 'S11']))
    windows = windows_for(sampling, store, usual_target(store))
    (judged,) = hypotheses(sampling, store, windows, 'zero', True, 1, range(1))
    plain = list(predictions(sampling, store, windows, 'zero').values())[-1]
    assert judged.poses.keys() == {'J-Best', 'P-Best', 'P-Agg'}  # no lens and no root, so no J-Agg
    for poses in judged.poses.values():
        torch.testing.assert_close(poses, plain)
    assert 0.2 < plain.norm(dim=-1).mean() < 20


@pytest.fixture(scope='module')
def trained(folder, tmp_path_factory):
    """(folder of checkpoints, what was said) of an epoch; not to be written to."""
    import contextlib

    import run_ktpformer
    where, out = tmp_path_factory.mktemp('trained'), io.StringIO()
    with contextlib.redirect_stdout(out):
        assert run_ktpformer.main([str(flag) for flag in (
            '-d', 'motion3d', '-k', 'm', '--data', folder, '-e', 1, '-c', where / 'c', '-l', where / 'l', *SMALL)]) == 0
    return where / 'c', out.getvalue()


def test_training_ends_with_the_table_that_evaluation_prints(trained, folder, run, tmp_path, dataset):
    results, exported = tmp_path / 'r.json', tmp_path / 'p.npz'
    status, out, err = run('-c', trained[0], '--data', folder, '--evaluate', 'best.bin', '--results', results,
                           '--export-predictions', exported, '--by-subject', *CPU)
    assert (status, err) == (0, '')
    said = trained[1]
    table = said[said.index('evaluated on'):]
    assert 'Protocol 2.5d, mm' in table and 'protocol paper' not in said + out
    assert 'predicted root set to 0' in table
    assert 'predicted: besides the keypoints it reads the true depth of the root joint in every frame, from ' in table
    assert 'left out: s_09_act_05_subact_02, whose 3D drifted' in table
    assert '6 frames at the ends of sequences, where no whole window fits, are left out' in table
    assert 'their scale in figures in mm is the true depth of the root joint in every frame. train_loss is in' in said
    head, _, rest = table.partition('\n\n')
    assert head in out and rest.strip() in out
    written = json.loads(results.read_text())
    assert list(written['protocols']) == ['2.5d']
    assert written['reads'] == {'predicted': 'the true depth of the root joint in every frame'}
    expected = naive.table(load_lifter(trained[0] / 'best.bin').model, content()['test'], 9)
    assert written['protocols']['2.5d']['average']['mpjpe'] == pytest.approx(expected['average'][0], rel=1e-5)
    members = read_npz(exported)
    assert members['prediction'].shape == members['truth'].shape == (59, 17, 3)
    pooled = 1000 * np.linalg.norm(members['prediction'] - members['truth'], axis=-1).mean()
    logged = float(said.partition('valid_mpjpe ')[2].split()[0])
    assert pooled == pytest.approx(logged, abs=0.006)
    baseline = mean_pose_mpjpe(store_of(dataset.sequences(['S1', 'S5'])), store_of(dataset.sequences(['S9', 'S11'])))
    assert f'predicting the mean training pose gives {baseline:.1f} mm' in said


def test_what_the_file_cannot_tell_is_refused(folder, refused, trained, tmp_path):
    """Training frames have no factor: nothing can be said of them in millimetres."""
    data = ['-d', 'motion3d', '-k', 'm', '--data', folder, '-c', tmp_path / 'c', '-l', tmp_path / 'l', *CPU]
    flags = [*data, *SMALL]
    told = 'does not tell how many millimetres a pixel is (2.5d_factor) for all of S1'
    assert told in refused(2, *flags, '--eval-train')
    assert told in refused(2, *flags, '--subjects-valid', 'S1')
    assert told in refused(2, '-c', trained[0], '--data', folder, '--evaluate', 'best.bin', '-ste', 'S1', *CPU)
    line = refused(2, *data, '--refine', '--init', htnet_file(tmp_path))
    assert "reads each camera's focal length and centre, which motion3d does not tell for S1" in line
    assert 'has no test of keypoints' in refused(2, *data, '--model', 'pstmo_pretraining')


def htnet_file(tmp_path):
    """A public file of a small HTNet."""
    small = build_model('htnet', {'channels': 24, 'depth': 1, 'hidden': 16}, H36M, H36M)
    torch.save(small.state_dict(), tmp_path / 'htnet.pth')
    return tmp_path / 'htnet.pth'


@pytest.mark.parametrize('protocol', ['paper', 'exact'])
def test_no_other_protocol_is_shown(trained, folder, refused, protocol):
    line = refused(2, '-c', trained[0], '--data', folder, '--evaluate', 'best.bin', '--protocol', protocol, *CPU)
    assert f'--protocol {protocol}: -d motion3d is tested by 2.5d alone, as the true depth of the root gives' in line


def test_the_protocol_is_of_no_other_data_set(refused, h36m_folder, tmp_path):
    line = refused(2, '-k', 'gt', '--data', h36m_folder, '--protocol', '2.5d', *SMALL, '-c', tmp_path / 'c')
    assert '--protocol 2.5d is for -d motion3d: h36m tells no pose in the picture and no factor to its size; ' \
        'data/prepare_data_motion3d.py makes such a file' in line
    assert {name for name, entry in DATASETS.items() if entry.protocol} == IN_THE_PICTURE


@pytest.fixture
def public(monkeypatch, model, tmp_path):
    """A public file of a model whose public files predict poses in the picture."""
    monkeypatch.setattr(KTPFormer, 'public_data', 'motion3d')
    torch.save(model.state_dict(), tmp_path / 'public.pth')
    return tmp_path / 'public.pth'


def test_a_file_of_poses_in_the_picture_is_not_tested_in_metres(public, trained, refused, h36m_folder, folder, run):
    told = 'predicts poses in units of the picture, as motion3d has them, and h36m has metres: say -d motion3d with'
    for path in (public, trained[0] / 'best.bin'):
        assert f'{path} {told}' in refused(1, '-d', 'h36m', '-k', 'gt', '--data', h36m_folder, '--evaluate', path, *CPU)
        assert told in refused(1, '-d', 'h36m', '-k', 'gt', '--data', h36m_folder, '--evaluate', path, '--render',
                               '--viz-export', 'x.npy', *CPU)
    assert told in refused(1, '-d', 'h36m', '-k', 'gt', '--data', h36m_folder, '-c', trained[0], '--resume', '-e', 2,
                           *CPU)
    status, out, _ = run('-d', 'motion3d', '-k', 'm', '--data', folder, '--evaluate', public, *CPU)
    assert status == 0 and 'Protocol 2.5d' in out


def test_a_file_of_metres_is_not_tested_on_poses_in_the_picture(refused, folder, model, tmp_path, run, h36m_folder):
    torch.save(model.state_dict(), tmp_path / 'public.pth')
    line = refused(1, '-d', 'motion3d', '-k', 'm', '--data', folder, '--evaluate', tmp_path / 'public.pth', *CPU)
    assert 'public.pth predicts metres, and motion3d has poses in units of the picture: say -d h36m' in line
    assert run('-k', 'gt', '--data', h36m_folder, *SMALL, '-str', 'S1', '-e', 1, '--no-eval', '-c', tmp_path / 'c',
               '-l', tmp_path / 'l')[0] == 0
    line = refused(1, '-d', 'motion3d', '-k', 'm', '--data', folder, '-c', tmp_path / 'c', '--evaluate', 'last.bin',
                   *CPU)
    assert 'last.bin predicts metres, and motion3d has poses' in line


# ---- without a scale ---------------------------------------------------------------------------------------------


def limbs(poses):
    return length_of_limbs(poses, H36M).mean()


def test_predictions_of_ones_own_keypoints_have_the_size_of_an_average_person(public, run, dataset, tmp_path):
    view = dataset.views['S9']['Directions 1'][0]
    np.save(tmp_path / 'in.npy', view.keypoints)
    status, out, err = run('--evaluate', public, '--predict', tmp_path / 'in.npy', '--image-size', 1000, 1002,
                           '--output', tmp_path / 'out.npz', '--csv', tmp_path / 'out.csv', *CPU)
    assert (status, err) == (0, '')
    assert 'size: the model predicts poses in the picture, which have none; the whole clip is scaled to a person of ' \
        'average size, 1.70 m tall' in out
    members = read_npz(tmp_path / 'out.npz')
    assert str(members['units']) == 'metres'
    assert 'scaled to a person of average size' in str(members['scale'])
    assert limbs(members['poses']) == pytest.approx(LIMBS_OF_A_PERSON, rel=1e-5)
    assert 2.7 < LIMBS_OF_A_PERSON < 2.9
    lifted = load_lifter(public).lift_clip(view.keypoints, size=(1000, 1002))
    assert limbs(lifted) == pytest.approx(LIMBS_OF_A_PERSON, rel=1e-5)


def test_predictions_in_metres_are_left_as_they_are(model, run, dataset, tmp_path):
    torch.save(model.state_dict(), tmp_path / 'public.pth')
    np.save(tmp_path / 'in.npy', dataset.views['S9']['Directions 1'][0].keypoints)
    status, out, _ = run('--evaluate', tmp_path / 'public.pth', '--predict', tmp_path / 'in.npy', '--image-size', 1000,
                         1002, '--output', tmp_path / 'out.npz', *CPU)
    assert status == 0 and 'size: ' not in out
    assert 'scale' not in read_npz(tmp_path / 'out.npz')


def test_a_sequence_is_drawn_in_metres_with_its_factor_or_without(trained, folder, run, tmp_path, dataset):
    draw = ['-c', trained[0], '--data', folder, '--evaluate', 'best.bin', '--render', '--viz-export',
            tmp_path / 'x.npy', '--viz-output', tmp_path / 'x.png', '--viz-limit', 3, *CPU]
    status, out, err = run(*draw)
    assert (status, err) == (0, '')
    (line,) = (line for line in out.splitlines() if 'MPJPE over these frames' in line)
    poses, true = np.load(tmp_path / 'x.npy'), dataset.sequences(['S9'])[0].metres
    assert poses.shape == (21, 17, 3)  # also the frames that the test drops
    assert float(line.split(': ')[1].split()[0]) == pytest.approx(
        1000 * np.linalg.norm(poses - true, axis=-1).mean(), abs=0.006)
    status, out, err = run(*draw, '--viz-subject', 'S1')
    assert (status, err) == (0, '')
    assert 'scaled to a person of average size' in out and 'MPJPE' not in out
    assert limbs(np.load(tmp_path / 'x.npy')) == pytest.approx(LIMBS_OF_A_PERSON, rel=1e-5)


# ---- the converter -----------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def converted(h36m_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp('converted')
    assert prepare.main([str(h36m_folder), '-k', 'gt', '--data', str(folder)]) == 0
    return folder


def test_the_converter_follows_the_published_formulas(converted, h36m_folder):
    """Written again with loops, in pixels and millimetres, from the npz files' positions."""
    tree = read_pickle(converted / 'motion3d_h36m_gt.pkl')
    original = load_dataset('h36m', h36m_folder, 'gt')
    assert {name: type(column) for name, column in tree['test'].items()} == {
        'joint_2d': np.ndarray, 'confidence': np.ndarray, 'joint3d_image': np.ndarray, 'camera_name': list,
        'source': list, 'action': list, '2.5d_factor': np.ndarray, 'joints_2.5d_image': np.ndarray}
    test = tree['test']
    rows = [row for row, source in enumerate(test['source']) if source == 's_S9_act_SittingDown_subact__ca_04']
    assert len(rows) == 30 and {test['camera_name'][row] for row in rows} == {'60457274'}
    camera = original.cameras['S9'][3]
    positions = camera.from_world(original.positions['S9']['SittingDown'].astype(np.float64))
    fx, fy, cx, cy = 1145.5113525390625, 1144.77392578125, 514.9682006835938, 501.88201904296875
    for frame, row in enumerate(rows):
        z_root = 1000 * positions[frame, 0, 2]
        rho = (2000 * fx / z_root + 1) / 2000
        assert test['2.5d_factor'][row] == pytest.approx(1 / rho, rel=1e-6)
        for joint, (x, y, z) in enumerate(positions[frame]):
            expected = [fx * x / z + cx, fy * y / z + cy, rho * (1000 * z - z_root)]
            assert test['joint3d_image'][row, joint].tolist() == pytest.approx(expected, abs=2e-3)
            assert test['joints_2.5d_image'][row, joint].tolist() == pytest.approx(
                [value / rho for value in expected], abs=1e-2)
    assert (test['confidence'] == 1).all() and test['confidence'].shape[1:] == (17, 1)


def test_what_the_converter_writes_comes_back(converted, h36m_folder, run):
    """Takes, cameras and keypoints are those of the npz files; depths are exact."""
    original = load_dataset('h36m', h36m_folder, 'gt')
    picture = load_dataset('motion3d', converted, 'motion3d_h36m_gt')
    subjects = [subject for subject in original.subjects_train if subject in original.positions]
    assert (list(picture.subjects_train), picture.subjects_test) == (subjects, original.subjects_test)
    for one, two in zip(original.sequences([*subjects, 'S9', 'S11']), picture.sequences([*subjects, 'S9', 'S11']),
                        strict=True):
        assert (one.subject, one.action, one.camera) == (two.subject, two.action, two.camera)
        np.testing.assert_allclose(one.keypoints, two.keypoints, atol=1e-6)
        np.testing.assert_allclose(two.poses * two.units[:, None, None], two.metres, atol=2e-6)
        np.testing.assert_allclose(one.poses[..., 2], two.metres[..., 2], atol=2e-6)
    status, out, _ = run('-d', 'motion3d', '-k', 'motion3d_h36m_gt', '--data', converted, *SMALL, '-e', 1,
                         '--eval-train', '-c', converted / 'c', '-l', converted / 'l')
    assert status == 0 and ' train_mpjpe ' in out  # its training frames have factors too


def test_what_the_converter_cannot_make_is_told_in_one_line(tmp_path, h36m_folder, capfd):
    from conftest import h36m_trees
    positions, detections = h36m_trees({'S1': {'Walking': 5}, 'S9': {'Walking': 5}})

    def line(*flags):
        assert prepare.main([str(flag) for flag in flags]) == 1
        (told,) = capfd.readouterr().err.strip().splitlines()
        return told
    write_h36m(tmp_path, positions, detections, {'layout_name': 'coco'}, name='coco')
    assert 'have joints of layout coco, and the form is for Human3.6M' in line(tmp_path, '-k', 'coco', '--data',
                                                                               tmp_path)
    assert 'data_3d_h36m.npz is missing' in line(tmp_path / 'none', '-k', 'gt', '--data', tmp_path)
    behind = {s: {take: -array - 20 for take, array in takes.items()} for s, takes in positions.items()}
    write_h36m(tmp_path, behind, detections)
    assert 'is less than 0.1 m in front of the camera' in line(tmp_path, '-k', 'gt', '--data', tmp_path)
    assert not list(tmp_path.glob('*.pkl'))


def test_how_far_the_target_lies_from_the_camera_s_pose_in_real_motion(tmp_path):
    """On a walk and a jump: some 15 mm, in x and y alone, and thighs change their length."""
    from test_cmu_motion import MOCAP
    from test_cmu_motion import prepare as cmu
    if not MOCAP.is_dir():
        pytest.skip(f'the real motion is not at {MOCAP}')
    (tmp_path / 'raw').mkdir()
    for name in ('02.asf', '02_01.amc.gz', '02_04.amc.gz'):
        shutil.copy(MOCAP / name, tmp_path / 'raw' / name)
    assert cmu.main([str(tmp_path / 'raw'), '--data', str(tmp_path)]) == 0
    assert prepare.main([str(tmp_path), '-d', 'cmu', '-k', 'gt', '--data', str(tmp_path)]) == 0
    original = load_dataset('cmu', tmp_path, 'gt').sequences(['02'])
    picture = load_dataset('motion3d', tmp_path, 'motion3d_cmu_gt').sequences(['02'])
    apart = np.concatenate([two.metres - one.poses for one, two in zip(original, picture, strict=True)])
    assert 10 < 1000 * np.linalg.norm(apart, axis=-1).mean() < 20
    assert 1000 * np.abs(apart[..., 2]).max() < 0.1
