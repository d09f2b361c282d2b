"""--causal with --evaluate: the last frame of the window that ends at it, nothing that comes later."""

import json

import numpy as np
import pytest
import torch

from common import metrics
from common.augment import mirror
from common.datasets import load_dataset
from common.models import build_model
from common.models.lifting import predictions
from common.sampler import TestWindows
from common.skeleton import H36M
from common.store import SequenceStore


@pytest.fixture(scope='module')
def store(h36m_folder):
    sequences = load_dataset('h36m', h36m_folder, 'gt').sequences(['S11'])
    return SequenceStore(sequences, H36M, H36M, torch.device('cpu'))


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    config = {'frames': 9, 'channels': 32, 'depth': 1, 'heads': 4, 'kpa': True, 'tpa': True}
    return build_model('ktpformer', config, H36M, H36M).eval()


def test_every_frame_comes_from_the_window_that_ends_at_it(store, model):
    windows = TestWindows.of(store, 9, target='last')
    assert windows.rows.shape == (len(store), 1)
    assert windows.rows[:, 0].tolist() == list(range(len(store)))
    assert windows.first.all()
    predicted = predictions(model, store, windows)['predicted']
    assert predicted.shape == (len(store), 1, 17, 3)
    begin = 0
    for length in store.lengths[:6]:
        for end in {0, 1, length - 1}:
            rows = begin + torch.arange(end - 8, end + 1).clamp(min=0)
            keypoints = store.keypoints[rows][None]
            with torch.inference_mode():
                plain = model(keypoints)[0, -1]
                back = mirror(model(mirror(keypoints, store.mirror.keypoints))[0, -1], store.mirror.joints)
            torch.testing.assert_close(predicted[begin + end, 0], (plain + back) / 2, atol=1e-5, rtol=1e-4)
            assert windows.frame[begin + end, 0] == end
        begin += length


def test_ranks_share_the_windows(store):
    class Rank:
        size = 3

        def __init__(self, rank):
            self.rank = rank
    parts = [TestWindows.of(store, 9, Rank(rank), 'last').rows for rank in range(3)]
    assert torch.cat(parts)[:, 0].tolist() == list(range(len(store)))


def test_causal_evaluation_counts_each_frame_once_and_prints_latency(run, trained, h36m_folder, tmp_path):
    flags = ['-c', trained[0], '--evaluate', 'best.bin', '--data', h36m_folder, '-ste', 'S11', '--device', 'cpu']
    status, out, err = run(*flags, '--causal', '--subset', 0.5, '--results', tmp_path / 'r.json',
                           '--export-predictions', tmp_path / 'p.npz')
    assert (status, err) == (0, '')
    assert 'causal: each frame is the last of the window it comes from' in out
    assert 'latency on cpu, one frame at a time over 200 frames: median' in out
    results = json.loads((tmp_path / 'r.json').read_text())
    assert results['causal'] is True
    # Every frame counts once, so that both protocols see the same frames.
    assert results['protocols']['paper']['average']['mpjpe'] == \
        pytest.approx(results['protocols']['exact']['average']['mpjpe'])
    with np.load(tmp_path / 'p.npz') as exported:
        errors = metrics.mpjpe(torch.from_numpy(exported['prediction']), torch.from_numpy(exported['truth']))
        by_action = [float(errors[exported['action'] == take].mean()) for take in np.unique(exported['action'])]
        assert len(by_action) == 3
        assert results['protocols']['exact']['average']['mpjpe'] == pytest.approx(1000 * np.mean(by_action), rel=1e-5)
    assert 'latency' not in run(*flags)[1]
