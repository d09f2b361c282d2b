"""Both test protocols against the naive ones, and what must hold whatever the model."""

import re

import naive
import numpy as np
import pytest
import torch
from conftest import TAKES, h36m_trees, write_h36m

from common.datasets import load_dataset
from common.evaluation.sums import (
    mean_pose_mpjpe,
    predictions_by_frame,
    tally,
    validation_figures,
)
from common.evaluation.tables import summarise, suspicion, table
from common.models import build_model
from common.models.lifting import predictions
from common.sampler import TestWindows
from common.sequences import Sequence
from common.skeleton import COCO, H36M
from common.store import SequenceStore


def store_of(sequences, layout=H36M):
    return SequenceStore(sequences, layout, H36M, torch.device('cpu'))


@pytest.fixture(scope='module')
def sequences(h36m_folder):
    return load_dataset('h36m', h36m_folder, 'gt').sequences(['S9', 'S11'])


def figures(predicted, store, windows, by_subject=False):
    return summarise(tally(predicted, store, windows), by_subject)


def assert_same_figures(got, expected):
    assert got.keys() == expected.keys()
    for name, row in expected.items():
        for metric, value in row.items():
            assert got[name][metric] == (value if value is None else pytest.approx(value, rel=1e-5)), (name, metric)


@pytest.mark.parametrize('frames', [1, 4, 9, 27])
def test_both_protocols_and_the_logged_figures_agree_with_the_naive_ones(sequences, frames):
    torch.manual_seed(0)
    model = build_model('ktpformer', {'frames': frames, 'channels': 16, 'depth': 1}, H36M, H36M).eval()
    store = store_of(sequences)
    windows = TestWindows.of(store, frames)
    predicted = predictions(model, store, windows)['predicted']
    plain = [{'action': s.action, 'keypoints': s.keypoints, 'poses': s.poses} for s in sequences]
    sides = (frames, H36M.left, H36M.right, H36M.left, H36M.right)
    expected = naive.evaluate(model, plain, *sides)
    got = figures(predicted, store, windows)
    for protocol in ('paper', 'exact'):
        assert_same_figures(got[protocol]['actions'] | {'average': got[protocol]['average']}, expected[protocol])
    mpjpe, mpjve = naive.validation_figures(model, plain, *sides)
    logged = validation_figures(predicted, store, windows)
    assert logged['mpjpe'] == pytest.approx(mpjpe, rel=1e-5)
    assert logged['mpjve'] == (None if frames == 1 else pytest.approx(mpjve, rel=1e-5))


def test_prediction_averages_the_mirrored_one_each_side_by_its_own_lists():
    """With COCO keypoints in and H3.6M joints out, the input flips by the one's sides and the output by the other's."""
    random = np.random.default_rng(0)
    sequence = Sequence('S9', 'Walking', 0, random.normal(size=(9, 17, 2)).astype(np.float32),
                        random.normal(size=(9, 17, 3)).astype(np.float32))
    torch.manual_seed(0)
    model = build_model('ktpformer', {'frames': 9, 'channels': 16, 'depth': 1}, H36M, COCO).eval()
    store = store_of([sequence], COCO)
    with torch.no_grad():
        plain = model(torch.from_numpy(sequence.keypoints)[None])[0].numpy()
        mirrored = naive.mirror(sequence.keypoints, COCO.left, COCO.right)
        back = naive.mirror(model(torch.from_numpy(mirrored)[None])[0].numpy(), H36M.left, H36M.right)
    predicted = predictions(model, store, TestWindows.of(store, 9))['predicted']
    np.testing.assert_allclose(predicted[0], (plain + back) / 2, atol=1e-6)


def test_without_mirrored_keypoints_the_plain_prediction_comes_out():
    random = np.random.default_rng(0)
    sequence = Sequence('S9', 'Walking', 0, random.normal(size=(9, 17, 2)).astype(np.float32),
                        random.normal(size=(9, 17, 3)).astype(np.float32))
    torch.manual_seed(0)
    model = build_model('ktpformer', {'frames': 9, 'channels': 16, 'depth': 1}, H36M, H36M).eval()
    store = store_of([sequence])
    with torch.no_grad():
        plain = model(torch.from_numpy(sequence.keypoints)[None])
    windows = TestWindows.of(store, 9)
    for root in ('predicted', 'zero', 'subtract'):
        expected = plain.clone()
        if root == 'subtract':
            expected = plain - plain[:, :, :1]
        elif root == 'zero':
            expected[:, :, 0] = 0
        predicted = predictions(model, store, windows, root, flip=False)['predicted']
        torch.testing.assert_close(predicted, expected, atol=1e-6, rtol=0)
    assert not predicted[0, :, 0].any()
    assert (predictions(model, store, windows)['predicted'] - plain).abs().max() > 1e-3


def test_a_perfect_prediction_scores_zero_and_a_shifted_one_its_shift(sequences):
    store = store_of(sequences)
    windows = TestWindows.of(store, 9)
    truth = store.poses[windows.rows]
    for protocol in figures(truth, store, windows).values():
        assert max(protocol['average'].values()) < 1e-4
    for protocol in figures(truth + torch.tensor([0.003, 0, 0.004]), store, windows).values():
        average = protocol['average']
        assert average['mpjpe'] == pytest.approx(5, rel=1e-4)
        assert average['p_mpjpe'] < 1e-3  # a shift is aligned away
        assert average['mpjve'] < 1e-3  # and has no velocity


def test_averages_by_hand():
    """Two takes of one action and one of another: frame-weighted within an action, plain mean over actions."""
    def take(action, frames):
        return Sequence('S9', action, 0, np.zeros((frames, 17, 2), np.float32), np.zeros((frames, 17, 3), np.float32))
    store = store_of([take('Walking', 2), take('Walking 1', 6), take('Sitting', 4)])
    windows = TestWindows.of(store, 2)
    errors = torch.tensor([1.0, 2, 2, 2, 5, 5])  # metres, a window each
    predicted = torch.zeros(6, 2, 17, 3)
    predicted[..., 0] = errors[:, None, None]
    got = figures(predicted, store, windows)
    assert got['paper']['actions']['Walking']['mpjpe'] == pytest.approx(1000 * (2 * 1 + 6 * 2) / 8)
    assert got['paper']['average']['mpjpe'] == pytest.approx(1000 * (1.75 + 5) / 2)
    assert got == figures(predicted, store, windows)


def test_overlap_counts_twice_on_paper_and_once_exactly():
    """Three frames in windows of two: 0 1 | 1 2. The first window that covers frame 1 speaks for it."""
    poses = np.zeros((3, 17, 3), np.float32)
    store = store_of([Sequence('S9', 'Walking', 0, np.zeros((3, 17, 2), np.float32), poses)])
    windows = TestWindows.of(store, 2)
    predicted = torch.zeros(2, 2, 17, 3)
    predicted[..., 0] = torch.tensor([[0.001, 0.002], [0.004, 0.008]])[..., None]
    got = figures(predicted, store, windows)
    assert got['paper']['average']['mpjpe'] == pytest.approx((1 + 2 + 4 + 8) / 4)
    assert got['exact']['average']['mpjpe'] == pytest.approx((1 + 2 + 8) / 3)
    assert got['paper']['average']['mpjve'] == pytest.approx((1 + 2 + 4) / 3)  # target stands still but between windows
    assert got['exact']['average']['mpjve'] == pytest.approx((1 + 6) / 2)


def test_a_velocity_over_no_pairs_is_null():
    take = Sequence('S9', 'Walking', 0, np.zeros((1, 17, 2), np.float32), np.zeros((1, 17, 3), np.float32))
    store = store_of([take])
    windows = TestWindows.of(store, 1)
    got = figures(torch.ones(1, 1, 17, 3), store, windows)
    for protocol in got.values():
        assert protocol['average']['mpjve'] is None
        assert protocol['average']['mpjpe'] is not None
    assert ' -' in table({'predicted': got}, 'exact')


def test_by_subject_tables_add_up(sequences):
    store = store_of(sequences)
    windows = TestWindows.of(store, 9)
    predicted = torch.randn(*windows.rows.shape, 17, 3, generator=torch.Generator().manual_seed(0))
    got = figures(predicted, store, windows, by_subject=True)
    for subject in ('S9', 'S11'):
        alone = [s for s in sequences if s.subject == subject]
        of_subject = store_of(alone)
        windows_alone = TestWindows.of(of_subject, 9)
        mine = predicted[[store.takes[i][0] == subject for i in windows.sequence.tolist()]]
        expected = figures(mine, of_subject, windows_alone)['paper']
        assert_same_figures(got['paper']['subjects'][subject]['actions'], expected['actions'])
        assert got['paper']['subjects'][subject]['average'] == pytest.approx(expected['average'])


def test_results_do_not_depend_on_how_windows_are_batched(sequences, monkeypatch):
    torch.manual_seed(0)
    model = build_model('ktpformer', {'frames': 9, 'channels': 16, 'depth': 1}, H36M, H36M)
    store = store_of(sequences)
    windows = TestWindows.of(store, 9)
    whole = predictions(model, store, windows)['predicted']
    expected = figures(whole, store, windows)
    monkeypatch.setattr('common.models.lifting.FRAMES_PER_BATCH', {'cpu': 1})
    monkeypatch.setattr('common.evaluation.sums.FRAMES_AT_ONCE', 7)
    torch.testing.assert_close(predictions(model, store, windows)['predicted'], whole)
    for protocol, protocol_figures in figures(whole, store, windows).items():
        assert protocol_figures['average'] == pytest.approx(expected[protocol]['average'])
    assert model.training  # as it was before


def test_mean_pose_baseline_by_hand(sequences):
    train, test = sequences[:8], sequences[8:]
    mean = np.concatenate([s.poses for s in train]).mean(axis=0)
    errors = np.concatenate([np.linalg.norm(s.poses - mean, axis=-1).mean(axis=-1) for s in test])
    assert mean_pose_mpjpe(store_of(train), store_of(test)) == pytest.approx(1000 * errors.mean(), rel=1e-5)


def test_exported_frames_are_every_real_frame_once(tmp_path):
    write_h36m(tmp_path, *h36m_trees(TAKES))
    sequences = load_dataset('h36m', tmp_path, 'gt').sequences(['S9', 'S11'])
    store = store_of(sequences)
    windows = TestWindows.of(store, 9)
    predicted = store.poses[windows.rows] + 1
    rows = predictions_by_frame({'predicted': predicted}, store, windows)
    assert len(rows['frame']) == sum(len(s.poses) for s in sequences)
    at = 0
    for s in sequences:
        piece = slice(at, at + len(s.poses))
        at += len(s.poses)
        np.testing.assert_array_equal(rows['truth'][piece], s.poses)
        np.testing.assert_array_equal(rows['prediction'][piece], s.poses + 1)
        assert rows['frame'][piece].tolist() == list(range(len(s.poses)))
        for name in ('subject', 'action', 'camera'):
            assert set(rows[name][piece].tolist()) == {getattr(s, name)}


@pytest.mark.parametrize('figures, cause', [
    ({'mpjpe': 40.1, 'p_mpjpe': 31.9, 'n_mpjpe': 39.0}, None), ({'mpjpe': 201.3, 'p_mpjpe': 93.0}, None),
    ({'mpjpe': 90.0, 'p_mpjpe': 10.0}, None), ({'mpjpe': 300.0, 'p_mpjpe': 100.1}, None),
    ({'mpjpe': None, 'p_mpjpe': None}, None),
    ({'mpjpe': 5e5, 'p_mpjpe': 40.0, 'n_mpjpe': 45.0}, 'units are likely wrong'),
    ({'mpjpe': 400.0, 'p_mpjpe': 40.0, 'n_mpjpe': 380.0}, 'MPJPE 400.0 is 10.0 times .* 40.0 mm: .* the root joint'),
    ({'mpjpe': 400.0, 'p_mpjpe': 40.0}, 'left and right are swapped'),
    ({'mpjpe': 400.0, 'p_mpjpe': 0.0}, 'is 400000.0 times'),
])
def test_implausible_figures_are_called_out_with_their_cause(figures, cause):
    line = suspicion(figures)
    assert (line is None) == (cause is None)
    assert line is None or (re.search(cause, line) and line.startswith('warning: '))


def test_predictions_in_other_units_are_called_out(trained, h36m_folder, run, tmp_path):
    """By --evaluate too, once, on standard output; the same model as it is gives no warning."""
    saved = torch.load(trained[0] / 'best.bin', weights_only=True)
    for name in ('head.1.weight', 'head.1.bias'):
        saved['model_pos'][name] *= 1000
    del saved['digest']
    torch.save(saved, tmp_path / 'scaled.bin')
    for file, warnings in ((trained[0] / 'best.bin', 0), (tmp_path / 'scaled.bin', 1)):
        status, out, err = run('--evaluate', file, '--data', h36m_folder, '--device', 'cpu')
        assert (status, err) == (0, '')
        assert out.count('warning: MPJPE') == warnings
