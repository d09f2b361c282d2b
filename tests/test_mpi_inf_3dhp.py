"""MPI-INF-3DHP: from raw files to tables, PCK and AUC by hand, and who may count in them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_convert_3dhp import evaluation, training, write_evaluation, write_training

from common import metrics
from common.augment import mirror
from common.datasets import load_dataset, mpi_inf_3dhp
from common.datasets.synthetic import motion
from common.errors import FileError
from common.evaluation.marked import MARKED, summarise_marked, table_marked, tally_marked
from common.evaluation.sums import predictions_by_frame, validation_figures
from common.models.lifter import Lifter
from common.models.lifting import predictions
from common.sampler import TestWindows
from common.skeleton import H36M, MPI_INF_3DHP, correspondence
from common.storage.npz import write_npz
from common.store import SequenceStore
from data import prepare_data_3dhp

SMALL = ['-d', '3dhp', '-f', '9', '-cs', '16', '-dep', '1', '-b', '90', '-s', '9', '-lr', '1e-3', '--device', 'cpu']
VALID = {'TS1': [0, 3, 4, 5, 20, 39], 'TS5': [0, 1, 2, 30]}


def walk(frames, seed, joints=MPI_INF_3DHP):
    """Return (frames, 17, 3) millimetres in camera axes: a synthetic walk, four metres away."""
    world = motion('Walking', 1.0, frames, np.random.default_rng(seed))
    poses = np.einsum('jk,fkc->fjc', correspondence(joints, H36M), world)
    return 1000 * np.stack([poses[..., 0], 1 - poses[..., 2], 4 + poses[..., 1]], axis=-1)


def screen(poses, name):
    """Project millimetres in camera axes to pixels (F, 17, 2), by the calibration of a test sequence."""
    intrinsics = {'TS1': (1500.172, 1500.832, 1017.387, 1043.032), 'TS5': (1683.983, 1672.594, 939.858, 560.141)}
    fx, fy, cx, cy = intrinsics.get(name, intrinsics['TS1'])
    return poses[..., :2] / poses[..., 2:] * [fx, fy] + [cx, cy]


def write_files(folder, frames=40):
    """Write the two npz files as P-STMO's converter writes them, with activities in TS5."""
    train = {f'S{subject} Seq1': [{str(camera): {'data_2d': screen(p, ''), 'data_3d': p} for camera, p in
                                   ((c, walk(frames, 10 * subject + c)) for c in (0, 1))}, 25] for subject in (1, 2)}
    test = {}
    for name, valid in VALID.items():
        poses = walk(frames, 99)
        test[name] = {'data_2d': screen(poses, name), 'data_3d': poses,
                      'valid': np.isin(np.arange(frames), valid).astype(float)}
    test['TS5']['activity'] = np.array([3.0] * 2 + [7.0] * (frames - 2))
    write_npz(folder / 'data_train_3dhp.npz', data=train)
    write_npz(folder / 'data_test_3dhp.npz', data=test)
    return train, test


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('3dhp')
    write_files(folder)
    return folder


def store_of(folder, subjects=('TS1', 'TS5')):
    sequences = load_dataset('3dhp', folder).sequences(subjects)
    return SequenceStore(sequences, MPI_INF_3DHP, MPI_INF_3DHP, torch.device('cpu'))


class Oracle(Lifter):
    """Knows the pose behind every frame of a store, and of its mirror image, and says it with an offset."""

    def __init__(self, store, frames, offset=(0, 0, 0)):
        super().__init__(SimpleNamespace(frames=frames))
        self.offset = torch.tensor(offset)
        self.seen = torch.cat([store.keypoints, mirror(store.keypoints, store.mirror.keypoints)]).flatten(1)
        self.poses = torch.cat([store.poses, mirror(store.poses, store.mirror.joints)])

    def forward(self, keypoints):
        found = torch.cdist(keypoints.flatten(0, 1).flatten(1).double(), self.seen.double()).argmin(dim=1)
        return self.poses[found].unflatten(0, keypoints.shape[:2]) + self.offset


@pytest.mark.parametrize('target', ['centre', 'all', 'last'])
@pytest.mark.parametrize('frames', [1, 9, 8, 81])
def test_a_perfect_predictor_scores_zero_and_full_pck(folder, target, frames):
    store = store_of(folder)
    windows = TestWindows.of(store, frames, target=target)
    predicted = predictions(Oracle(store, frames), store, windows, 'zero')['predicted']
    summary = summarise_marked(tally_marked(predicted, store, windows, MPI_INF_3DHP))
    everywhere = [*summary['sequences'].values(), *summary['scenes'].values(), *summary['activities'].values(),
                  *summary['averages'].values()]
    assert len(everywhere) == 2 + 2 + 2 + 3
    for figures in everywhere:
        assert figures['mpjpe'] == pytest.approx(0, abs=1e-3)
        assert figures['p_mpjpe'] == pytest.approx(0, abs=1e-3)
        assert f'{figures["pck"]:.3f} {figures["auc"]:.3f}' == '100.000 96.774'


def test_a_known_offset_gives_known_figures(folder):
    """32.5 mm too deep everywhere; the root is set to 0, so that 16 of 17 joints are off."""
    store = store_of(folder)
    windows = TestWindows.of(store, 9, target='centre')
    oracle = Oracle(store, 9, (0, 0, 0.0325))
    for root, joints in (('zero', 16), ('predicted', 17)):
        predicted = predictions(oracle, store, windows, root)['predicted']
        figures = summarise_marked(tally_marked(predicted, store, windows, MPI_INF_3DHP))['averages']['C']
        assert figures['mpjpe'] == pytest.approx(32.5 * joints / 17, abs=1e-3)
        assert f'{figures["pck"]:.3f} {figures["auc"]:.3f}' == '100.000 77.419'


@pytest.mark.parametrize('error, pck, auc', [(0, 100, 30 / 31), (32.5, 100, 24 / 31), (149.9, 100, 1 / 31),
                                             (150, 0, 0), (150.1, 0, 0), (5, 100, 29 / 31), (4.9, 100, 30 / 31)])
def test_pck_and_auc_of_constant_errors(error, pck, auc):
    """Strictly below a threshold, 31 of them, in float64 so that 150 is 150."""
    target = torch.zeros(4, 14, 3, dtype=torch.float64)
    predicted = target + torch.tensor([0, error / 1000, 0], dtype=torch.float64)
    near = metrics.pck(predicted, target, (metrics.PCK_THRESHOLD, *metrics.AUC_THRESHOLDS))
    assert (100 * near[:, 0]).tolist() == [pck] * 4
    assert near[:, 1:].mean(dim=1).tolist() == pytest.approx([auc] * 4)
    assert len(metrics.AUC_THRESHOLDS) == 31


def test_pelvis_spine_and_head_are_not_in_pck(folder):
    """An error on joints 14, 15 and 16 leaves PCK and AUC alone; MPJPE is 3/17 of it, 2/17 with the root at 0."""
    store = store_of(folder)
    windows = TestWindows.of(store, 1, target='centre')
    for root, joints in (('predicted', 3), ('zero', 2)):
        predicted = store.poses[windows.rows].clone()
        predicted[:, :, 14:, 0] += 0.4
        if root == 'zero':
            predicted[:, :, 14] = 0
        figures = summarise_marked(tally_marked(predicted, store, windows, MPI_INF_3DHP))['averages']['C']
        assert figures['mpjpe'] == pytest.approx(400 * joints / 17, abs=1e-3)
        assert f'{figures["pck"]:.3f} {figures["auc"]:.3f}' == '100.000 96.774'
    for joint in range(14):
        predicted = store.poses[windows.rows].clone()
        predicted[:, :, joint, 0] += 0.4
        figures = summarise_marked(tally_marked(predicted, store, windows, MPI_INF_3DHP))['averages']['C']
        assert figures['pck'] == pytest.approx(100 * 13 / 14)


def added_up(count, **means):
    """Return what `tally_marked` returns of so many frames with these means, 0 for other metrics."""
    return count * np.array([1, *(means.get(metric.name, 0) for metric in MARKED)])


def test_averages_a_b_and_c_of_the_six_column_table():
    """P-STMO's published table by sequence, and the three averages in use."""
    table = {'mpjpe': (21.861064, 35.833573, 29.370178, 34.567434, 36.759233, 38.968150),
             'pck': (99.680171, 96.865079, 98.969509, 97.849462, 96.894410, 96.446793),
             'auc': (82.818626, 73.670848, 77.427096, 74.113440, 72.015461, 71.223432)}
    counts = (603, 540, 506, 558, 276, 392)
    totals = {(f'TS{i + 1}', 0): added_up(count, mpjpe=table['mpjpe'][i] / 1000, pck=table['pck'][i] / 100,
                                          auc=table['auc'][i] / 100) for i, count in enumerate(counts)}
    summary = summarise_marked(totals)
    printed = {name: tuple(f'{figures[key]:.2f}' for key in ('mpjpe', 'pck', 'auc'))
               for name, figures in summary['averages'].items()}
    assert printed == {'A': ('32.17', '97.93', '75.75'), 'B': ('32.89', '97.78', '75.21'),
                       'C': ('32.04', '97.96', '75.84')}
    pooled = (603 * 21.861064 + 540 * 35.833573) / 1143
    assert summary['scenes']['studio, green screen']['mpjpe'] == pytest.approx(pooled)
    assert summary['activities'] == {}


def test_a_table_whose_poses_are_right_but_for_their_place_says_so():
    good, lost = (added_up(50, mpjpe=mpjpe, p_mpjpe=0.04, pck=1, auc=0.8) for mpjpe in (0.05, 0.4))
    assert 'warning' not in table_marked({'predicted': summarise_marked({('TS1', 0): good})}, 'centre')
    said = table_marked({'predicted': summarise_marked({('TS1', 0): lost})}, 'all')
    assert 'warning: MPJPE 400.0 is 10.0 times P-MPJPE' in said


def test_counts_of_the_averages_are_the_known_ones():
    assert sum(mpi_inf_3dhp.OLDER_COUNTS.values()) == 2929
    assert sum(valid for _, valid in prepare_data_3dhp.TEST.values()) == 2875
    assert sum(frames for frames, _ in prepare_data_3dhp.TRAINING.values()) * 8 == 1_052_736


def test_the_loader_gives_root_relative_metres_and_screen_coordinates(folder):
    dataset = load_dataset('3dhp', folder)
    assert dataset.skeleton.root == 14
    train = dataset.sequences(['S1', 'S2'])
    assert [(s.subject, s.action) for s in train] == [
        ('S1', 'Seq1 camera0'), ('S1', 'Seq1 camera1'), ('S2', 'Seq1 camera0'), ('S2', 'Seq1 camera1')]
    truth = walk(40, 10)
    np.testing.assert_allclose(train[0].poses, (truth - truth[:, [14]]) / 1000, atol=1e-5)
    np.testing.assert_allclose(train[0].keypoints, screen(truth, '') / 1024 - 1, atol=1e-5)
    assert train[0].intrinsic is None
    assert train[0].marks is None
    studio, outdoors = dataset.sequences(['TS1', 'TS5'])
    # both axes are divided by the width
    pixels = screen(walk(40, 99), 'TS5')
    np.testing.assert_allclose(outdoors.keypoints[..., 1], pixels[..., 1] / 960 - 1080 / 1920, atol=1e-5)
    assert np.flatnonzero(studio.marks).tolist() == VALID['TS1']
    assert outdoors.marks[VALID['TS5']].tolist() == [3, 3, 7, 7]
    assert set(studio.marks) == {0, -1}
    # what is known of the test cameras projects the poses onto the keypoints, without distortion
    for s in (studio, outdoors):
        camera = dataset.cameras[s.subject][0]
        np.testing.assert_allclose(camera.project(walk(40, 99) / 1000), screen(walk(40, 99), s.subject), atol=0.02)


def test_a_real_frame_is_normalised_as_published():
    """TS5, frame 0, pelvis: (841.303, 489.26) px."""
    from common.geometry.camera import normalise
    camera = mpi_inf_3dhp._test_camera('TS5')
    np.testing.assert_allclose(normalise(np.array([841.303, 489.26]), camera.width, camera.height),
                               (-0.123643, -0.052854), atol=1e-6)


def test_frames_that_do_not_count_change_nothing(folder, tmp_path, run):
    """Neither what is true nor what is predicted of them; their 2D is still seen by their neighbours' windows."""
    _, test = write_files(tmp_path)
    assert run(*SMALL, '--data', tmp_path, '-str', 'S1', '-ste', 'TS1,TS5', '-e', 1, '-c', tmp_path / 'c', '-l',
               tmp_path / 'l')[0] == 0

    def figures(target):
        assert run('-d', '3dhp', '--data', tmp_path, '-ste', 'TS1,TS5', '-c', tmp_path / 'c', '--evaluate', 'best.bin',
                   '--results', tmp_path / 'r.json', '--target', target, '--device', 'cpu')[0] == 0
        return json.loads((tmp_path / 'r.json').read_text())['targets'][target]
    before = {target: figures(target) for target in ('centre', 'all')}
    for name in test:
        test[name]['data_3d'][test[name]['valid'] == 0] += 12345
    write_npz(tmp_path / 'data_test_3dhp.npz', data=test)
    assert {target: figures(target) for target in ('centre', 'all')} == before
    test['TS1']['data_2d'][12] += 100  # in the window of no frame that counts: the nearest are 5 and 20, of 9 frames
    write_npz(tmp_path / 'data_test_3dhp.npz', data=test)
    assert figures('centre') == before['centre']
    test['TS1']['data_2d'][8] += 100
    write_npz(tmp_path / 'data_test_3dhp.npz', data=test)
    after = figures('centre')
    assert after['sequences']['TS1'] != before['centre']['sequences']['TS1']
    assert after['sequences']['TS5'] == before['centre']['sequences']['TS5']


def test_centre_windows_by_hand(folder):
    store = store_of(folder)
    windows = TestWindows.of(store, 5, target='centre')
    read = store.frame_index(windows.sequence, windows.start, 5)
    assert read.tolist()[:2] == [[0, 0, 0, 1, 2], [1, 2, 3, 4, 5]]
    assert windows.rows.shape == (10, 1)  # what is kept of each window
    assert read.tolist()[6] == [40, 40, 40, 41, 42]  # the first of TS5: edges are its own
    assert windows.frame[windows.first].tolist() == [*VALID['TS1'], *VALID['TS5']]
    rows = predictions_by_frame({'predicted': store.poses[windows.rows]}, store, windows)
    assert rows['frame'].tolist() == [*VALID['TS1'], *VALID['TS5']]
    assert rows['subject'].tolist() == ['TS1'] * 6 + ['TS5'] * 4
    np.testing.assert_array_equal(rows['prediction'], rows['truth'])


def test_the_logged_figure_is_over_frames_that_count(folder):
    store = store_of(folder)
    windows = TestWindows.of(store, 9)
    predicted = store.poses[windows.rows].clone()
    predicted[~windows.first] += 7  # overlaps and frames that do not count
    predicted[windows.first] += torch.tensor([0, 0, 0.01])
    figures = validation_figures(predicted, store, windows)
    assert figures['mpjpe'] == pytest.approx(10, rel=1e-4)
    assert figures['mpjve'] is None


@pytest.mark.parametrize('model', [['-f', '9', '-dep', '1', '-cs', '16', '-s', '9', '-b', '90'],
                                   ['--model', 'htnet', '-cs', '24', '-dep', '1', '--hidden', '16', '-b', '30']],
                         ids=['ktpformer', 'htnet'])
@pytest.mark.parametrize('flag', ['', '--annot3'])
def test_raw_files_are_converted_trained_and_evaluated(tmp_path, run, capfd, model, flag):
    """annot.mat and annot_data.mat in their real layouts -> converter -> loader -> two epochs -> tables and files."""
    for name, seed in (('S1/Seq1', 1), ('S2/Seq2', 2)):
        write_training(tmp_path / 'raw', name, **training(12, seed))
    for name, seed in (('TS1', 3), ('TS6', 4)):
        write_evaluation(tmp_path / 'raw', name, **evaluation(seed=seed))
    flags = [str(tmp_path / 'raw'), '--data', str(tmp_path), '--force']
    assert prepare_data_3dhp.main(flags + [flag] * bool(flag)) == 0
    capfd.readouterr()
    data = ['-d', '3dhp', '-k', 'gt_ori' if flag else 'gt', '--data', tmp_path, '-c', tmp_path / 'c', '--device', 'cpu']
    status, out, err = run(*data, *model, '-str', 'S1,S2', '-ste', 'TS1,TS6', '-e', 2, '-l', tmp_path / 'l', '-lr',
                           1e-3, '--results', tmp_path / 'a.json')
    assert (status, err) == (0, '')
    assert 'Target centre, mm and %' in out
    assert '12 frames, 6 of which count; predicted root set to 0' in out
    (folder,) = (tmp_path / 'l').iterdir()
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    assert all(m['valid_mpjpe'] > 0 and m['valid_mpjve'] is None for m in lines)
    # the test file alone is enough to evaluate; the table is the closing one
    (tmp_path / f'data_train_3dhp{"_ori" * bool(flag)}.npz').unlink()
    status, again, _ = run(*data, '--evaluate', 'best.bin', '--results', tmp_path / 'b.json', '--export-predictions',
                           tmp_path / 'inference_data.mat')
    assert status == 0
    assert out.split('Target')[1] == again.split('Target')[1]
    results = json.loads((tmp_path / 'b.json').read_text())
    assert list(results['targets']) == ['centre']
    summary = results['targets']['centre']
    assert list(summary) == ['sequences', 'activities', 'scenes', 'averages']
    assert list(summary['sequences']) == ['TS1', 'TS6']
    assert list(summary['activities']) == ['Standing/Walking', 'Exercising', 'Miscellaneous']
    assert list(summary['averages']) == ['A', 'B', 'C']
    for group in summary.values():
        for figures in group.values():
            assert list(figures) == ['mpjpe', 'p_mpjpe', 'pck', 'auc']
    both = summary['sequences']
    for figure in ('mpjpe', 'pck', 'auc'):
        a, b = (both[name][figure] for name in ('TS1', 'TS6'))
        assert summary['averages']['A'][figure] == pytest.approx((603 * a + 452 * b) / 1055)
        assert summary['averages']['B'][figure] == pytest.approx((a + b) / 2)
    # the exported file, read as the test script reads it: MPJPE by hand
    from scipy.io import loadmat
    exported = loadmat(tmp_path / 'inference_data.mat')
    for name in ('TS1', 'TS6'):
        assert exported[name].shape == (3, 17, 1, 3)
        assert not exported[name][:, 14].any()
        raw = evaluation(seed={'TS1': 3, 'TS6': 4}[name])
        truth = raw['annot3' if flag else 'univ_annot3'][..., 0, :]  # (3, 17, F)
        truth = (truth - truth[:, [14]])[..., raw['valid_frame'][0] == 1]
        errors = np.linalg.norm(exported[name][:, :, 0] - truth, axis=0)  # (17, n)
        assert errors.mean() == pytest.approx(both[name]['mpjpe'], rel=1e-5)
        counted = errors[:14]
        assert 100 * np.mean(counted < 150) == pytest.approx(both[name]['pck'])
        auc = 100 * np.mean([np.mean(counted < t) for t in range(0, 151, 5)])
        assert auc == pytest.approx(both[name]['auc'])


def test_numpy_1_pickles_load_alike(tmp_path, folder):
    """The files of other programs are pickled by numpy 1."""
    import test_npz
    train, test = write_files(tmp_path)
    for name, data in (('train', train), ('test', test)):
        wrapped = np.empty((), dtype=object)
        wrapped[()] = data
        payload = test_npz.pickle.dumps(wrapped, protocol=3).replace(b'numpy._core.', b'numpy.core.')
        test_npz.write_pickled(tmp_path / f'data_{name}_3dhp.npz', payload, member='data.npy')
    ours, theirs = (load_dataset('3dhp', f).sequences(['S1', 'TS1', 'TS5']) for f in (folder, tmp_path))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.poses, b.poses)
        np.testing.assert_array_equal(a.keypoints, b.keypoints)


@pytest.mark.parametrize('break_it, message', [
    (lambda test: test['TS1'].pop('valid'), 'TS1 valid is not a number for each of its 40 frames'),
    (lambda test: test['TS1'].update(valid=np.zeros(40)), 'TS1 has no valid frame'),
    (lambda test: test['TS1'].update(valid=np.full(40, 2.0)), 'TS1 valid holds other numbers than 0, 1'),
    (lambda test: test['TS5'].update(activity=np.full(40, 9.0)), 'TS5 activity holds other numbers than 1, 2'),
    (lambda test: test['TS5'].update(activity=np.full(39, 1.0)), 'TS5 activity is not a number for each'),
    (lambda test: test['TS5'].pop('data_2d'), 'TS5 TS5 has no data_2d'),
    (lambda test: test.update(TS5=3), 'TS5 TS5 has no data_2d'),
    (lambda test: test['TS1'].update(data_3d=np.zeros((40, 28, 3))), 'TS1 TS1 data_3d is (40, 28, 3), expected'),
    (lambda test: test['TS1'].update(data_2d=np.zeros((30, 17, 2))), '30 frames for TS1 TS1 camera 0'),
    (lambda test: test['TS1'].update(data_3d=np.full((40, 17, 3), np.nan)), 'holds NaN or infinite coordinates'),
    (lambda test: test.update({5: test['TS1']}), 'a sequence is called 5, expected text'),
], ids=lambda x: x[:30] if isinstance(x, str) else '')
def test_broken_files_are_refused_by_place(tmp_path, refused, break_it, message):
    _, test = write_files(tmp_path)
    break_it(test)
    write_npz(tmp_path / 'data_test_3dhp.npz', data=test)
    line = refused(1, *SMALL, '--data', tmp_path, '-str', 'S1', '-ste', 'TS1,TS5', '-c', tmp_path / 'c', '-l',
                   tmp_path / 'l')
    assert message in line
    assert not (tmp_path / 'c').exists()


def test_flags_and_files_that_do_not_fit_3dhp_are_refused(tmp_path, refused, folder):
    data = [*SMALL, '--data', folder, '-c', tmp_path / 'c', '-l', tmp_path / 'l']
    assert '-d 3dhp has no keypoints cpn; there are gt, gt_ori' in refused(2, *data, '-k', 'cpn')
    assert '--protocol means nothing for -d 3dhp' in refused(2, *data, '--protocol', 'exact')
    assert '--by-subject means nothing for -d 3dhp' in refused(2, *data, '--by-subject')
    assert '--target means nothing for -d synthetic' in refused(2, '-d', 'synthetic', '--target', 'all')
    assert 'unknown subject S9 of 3dhp; there are S1, S2, TS1, TS5' in refused(2, *data, '-str', 'S9')
    assert 'data_train_3dhp_ori.npz is missing: ask for MPI-INF-3DHP at' in refused(1, *data, '-k', 'gt_ori')
    write_npz(tmp_path / 'data_train_3dhp.npz', positions_3d={})
    write_npz(tmp_path / 'data_test_3dhp.npz', data={'S1': 3})
    assert 'data_train_3dhp.npz holds no dict `data`' in refused(1, *data, '--data', tmp_path)
    write_npz(tmp_path / 'data_train_3dhp.npz', data={'S1 Seq1': {'0': 3}})
    assert 'S1 Seq1 is not a pair of cameras and frames per second' in refused(1, *data, '--data', tmp_path)


def test_check_data_compares_counts_and_fits_each_lens(folder, tmp_path, run, monkeypatch):
    """Counts are those of a whole copy; lenses differ between the cameras of a subject, and each is fitted."""
    status, out, _ = run('-d', '3dhp', '--data', folder, '--check-data')
    assert status == 1
    assert '0 of 28 known counts agree' in out
    problems = [line for line in out.splitlines() if line[:1].isdigit()]
    assert len(problems) == 2
    assert 'has no subject S3, S4, S5, S6, S7, S8, TS2, TS3, TS4, TS6' in problems[0]
    assert 'frames of S1 Seq1: 80, of a whole copy 51,328' in problems[1]
    train, test = write_files(tmp_path)
    for name, known in (('SUBJECTS_TRAIN', ('S1', 'S2')), ('SUBJECTS_TEST', ('TS1', 'TS5')), ('CAMERAS', (0, 1)),
                        ('TRAINING', {'S1 Seq1': (40, 25), 'S2 Seq1': (40, 25)}),
                        ('TEST', {'TS1': (40, 6), 'TS5': (40, 4)})):
        monkeypatch.setattr(mpi_inf_3dhp, name, known)
    train['S1 Seq1'][0]['1']['data_2d'] = 0.7 * train['S1 Seq1'][0]['1']['data_2d'] + 90
    write_npz(tmp_path / 'data_train_3dhp.npz', data=train)
    status, out, _ = run('-d', '3dhp', '--data', tmp_path, '--check-data')
    assert (status, out.splitlines()[-1]) == (0, 'OK'), out
    assert '6 of 6 known counts agree' in out
    swapped = test['TS5']['data_2d'][:, list(MPI_INF_3DHP.mirror)]
    write_npz(tmp_path / 'data_test_3dhp.npz', data=test | {'TS5': test['TS5'] | {'data_2d': swapped}})
    status, out, _ = run('-d', '3dhp', '--data', tmp_path, '--check-data')
    assert status == 1
    assert '1. TS5: ' in out


def test_test_subjects_without_a_frame_that_counts_are_refused(tmp_path, refused):
    """And a refinement, which would read lenses that nobody knows."""
    _, test = write_files(tmp_path)
    test['TS1']['valid'] = (np.arange(40) == 3).astype(float)
    write_npz(tmp_path / 'data_test_3dhp.npz', data=test)
    flags = [*SMALL, '--data', tmp_path, '-str', 'S1', '-ste', 'TS1,TS5', '-c', tmp_path / 'c', '-l', tmp_path / 'l']
    assert 'no frame of TS1 that counts is left: change --downsample or --subset' in \
        refused(2, *flags, '--downsample', 2)


def test_training_subjects_can_be_evaluated_and_refinement_is_refused(folder, tmp_path, run, refused):
    flags = [*SMALL, '--data', folder, '-str', 'S1', '-ste', 'S2', '-e', 1, '-c', tmp_path / 'c', '-l', tmp_path / 'l']
    status, closing, _ = run(*flags)
    assert status == 0
    status, again, _ = run('-c', tmp_path / 'c', '--data', folder, '--evaluate', 'best.bin', '--device', 'cpu')
    assert status == 0
    assert closing.split('Target')[1] == again.split('Target')[1]
    assert "reads each camera's focal length and centre, which 3dhp does not tell for S1" in \
        refused(2, *flags, '--refine', '--init', tmp_path / 'c' / 'best.bin', '-c', tmp_path / 'd')


def test_a_film_of_a_training_sequence_has_its_own_rate(tmp_path, run):
    """Windows are not resampled, by custom; what is shown plays at the speed of life."""
    train, _ = write_files(tmp_path)
    train['S2 Seq1'][1] = 50
    write_npz(tmp_path / 'data_train_3dhp.npz', data=train)
    assert load_dataset('3dhp', tmp_path).rates == {
        subject: {f'Seq1 camera{camera}': fps for camera in (0, 1)} for subject, fps in (('S1', 25), ('S2', 50))}
    assert run(*SMALL, '--data', tmp_path, '-str', 'S1', '-e', 1, '--no-eval', '-c', tmp_path / 'c', '-l',
               tmp_path / 'l')[0] == 0
    for subject, milliseconds in (('S1', 40), ('S2', 20)):
        film = tmp_path / f'{subject}.gif'
        status, _, err = run('-c', tmp_path / 'c', '--data', tmp_path, '--evaluate', 'last.bin', '--device', 'cpu',
                             '--render', '--viz-subject', subject, '--viz-output', film, '--viz-size', 1)
        assert (status, err) == (0, '')
        with Image.open(film) as shown:
            assert shown.info['duration'] == milliseconds


@pytest.mark.parametrize('rate', [None, 0, 'fast', [25]])
def test_a_sequence_without_a_rate_is_refused(tmp_path, rate):
    train, _ = write_files(tmp_path)
    train['S2 Seq1'][1] = rate
    write_npz(tmp_path / 'data_train_3dhp.npz', data=train)
    with pytest.raises(FileError, match='S2 Seq1 is not a pair of cameras and frames per second'):
        load_dataset('3dhp', tmp_path)
