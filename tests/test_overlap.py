"""--target overlap: each frame is the blended mean of the windows that it lies in, as --predict has it."""

import json
import math

import naive
import numpy as np
import pytest
import torch
from conftest import TAKES, h36m_trees
from processes import run_alone
from test_evaluate import store_of
from test_mpi_inf_3dhp import SMALL as SMALL_3DHP
from test_mpi_inf_3dhp import write_files

from common.datasets import load_dataset
from common.distributed import World
from common.evaluation.sums import predictions_by_frame, tally
from common.evaluation.tables import summarise
from common.models import build_model, load_lifter
from common.models.lifting import blended, predictions, windows_for
from common.skeleton import H36M
from common.storage.npz import read_npz

F = 9
SIDES = (H36M.left, H36M.right)


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return build_model('ktpformer', {'frames': F, 'channels': 16, 'depth': 1}, H36M, H36M).eval()


@pytest.fixture(scope='module')
def sequences(h36m_folder):
    """Return sequences of 21, 9, 30, 5, 18 and 10 frames: longer than, as long as and shorter than a window."""
    return load_dataset('h36m', h36m_folder, 'gt').sequences(['S9', 'S11'])[::4]


def naive_lift(model, keypoints, overlap):
    """Keypoints (T, 17, 2) -> poses (T, 17, 3): window by window, frame by frame, mirrored and averaged."""
    T = len(keypoints)
    sums, weights = np.zeros((T, 17, 3)), np.zeros(T)
    start, covered = 0, 0
    while True:
        start = min(start, max(T - F, 0))
        x = naive.take(keypoints, start, F)
        with torch.no_grad():
            plain, flipped = (model(torch.as_tensor(each)[None])[0].double().numpy()
                              for each in (x, naive.mirror(x, *SIDES)))
        p = (plain + naive.mirror(flipped, *SIDES)) / 2
        for i in range(F):
            if start + i >= T:
                continue
            edge = min(i, F - 1 - i)
            weight = math.sin(math.pi / 2 * min((edge + 0.5) / overlap, 1)) ** 2 if overlap else start + i >= covered
            sums[start + i] += weight * p[i]
            weights[start + i] += weight
        covered = start + F
        if covered >= T:
            return sums / weights[:, None, None]
        start += F - overlap


def lifted(model, store, overlap, root='predicted', flip=True):
    """Return the windows, and the poses (W, A, J, 3) that are judged."""
    windows = windows_for(model, store, 'overlap', overlap)
    return windows, blended(predictions(model, store, windows, root, flip)['predicted'], store, windows)


@pytest.mark.parametrize('overlap', [0, 2, 7])
def test_figures_agree_with_naive_ones(model, sequences, overlap):
    store = store_of(sequences)
    windows, poses = lifted(model, store, overlap)
    expected = [naive_lift(model, s.keypoints, overlap) for s in sequences]
    np.testing.assert_allclose(poses[windows.first], np.concatenate(expected), atol=1e-6)
    by_frame = predictions_by_frame({'predicted': poses}, store, windows)
    np.testing.assert_array_equal(by_frame['frame'], np.concatenate([np.arange(len(s.poses)) for s in sequences]))
    exact = summarise(tally(poses, store, windows), False, 'exact')['exact']['actions']
    pairs = [(s.action.split(' ')[0], 1000 * p, 1000 * s.poses.astype(np.float64))
             for s, p in zip(sequences, expected, strict=True)]
    for action, row in exact.items():
        mine = [(p, y) for name, p, y in pairs if name == action]
        for name, function in (('mpjpe', naive.mpjpe), ('p_mpjpe', naive.p_mpjpe), ('n_mpjpe', naive.n_mpjpe)):
            assert row[name] == pytest.approx(naive.weighted([(function(p, y), len(p)) for p, y in mine]), rel=1e-5)
        velocities = naive.weighted([(naive.mpjve_flat(p, y), len(p) - 1) for p, y in mine])
        assert row['mpjve'] == pytest.approx(velocities, rel=1e-5)


def test_no_process_and_no_other_sequence_changes_a_frame(model, sequences):
    """Whole sequences are shared out; their order, and which others there are, say nothing of a frame."""
    store = store_of(sequences)
    windows, poses = lifted(model, store, 3)
    whole = poses[windows.first]
    shares = [windows.part(store, World(rank, 3)) for rank in range(3)]
    parts = [blended(predictions(model, store, share)['predicted'], store, share)[share.first] for share in shares]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-6, rtol=0)
    assert sorted(map(len, parts)) != [0, 0, len(whole)]
    pieces = windows.pieces(store, 40)
    parts = [blended(predictions(model, store, piece)['predicted'], store, piece)[piece.first] for piece in pieces]
    assert len(parts) == 4
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-6, rtol=0)
    order = np.random.default_rng(0).permutation(len(sequences))[:-2]
    others = store_of([sequences[index] for index in order])
    windows, poses = lifted(model, others, 3)
    each = dict(zip(order.tolist(), poses[windows.first].split(others.lengths), strict=True))
    for index, mine in enumerate(whole.split(store.lengths)):
        if index in each:
            torch.testing.assert_close(each[index], mine, atol=1e-6, rtol=0)


def test_a_process_without_windows_takes_part(model, sequences):
    store = store_of(sequences[:1])
    windows = windows_for(model, store, 'overlap').part(store, World(1, 2))
    poses = blended(predictions(model, store, windows)['predicted'], store, windows)
    assert poses.shape == (0, F, 17, 3)
    assert [len(piece) for piece in windows.pieces(store, 40)] == [0]


@pytest.mark.parametrize('flags, how', [
    ([], {}), (['--overlap', '5', '--root', 'zero'], {'overlap': 5, 'root': 'zero'})], ids=str)
def test_a_take_is_evaluated_as_predict_lifts_it(trained, h36m_folder, run, tmp_path, flags, how):
    status, out, err = run('-c', trained[0], '--evaluate', 'best.bin', '--data', h36m_folder, '--target', 'overlap',
                           '--results', tmp_path / 'r.json', '--export-predictions', tmp_path / 'e.npz', '--by-subject',
                           *flags)
    assert (status, err) == (0, '')
    overlap = how.get('overlap', F // 4)
    assert f'windows answer for 9 frames and overlap by {overlap}: each frame is their blended mean' in out
    assert f'Protocol exact, overlap {overlap}, mm' in out and f'S9, protocol exact, overlap {overlap}, mm' in out
    assert 'average, protocol exact' in out and 'paper' not in out
    results, exported = json.loads((tmp_path / 'r.json').read_text()), read_npz(tmp_path / 'e.npz')
    assert (results['overlap'], list(results['protocols']), exported['overlap']) == (overlap, ['exact'], overlap)
    lifter, (_, detections) = load_lifter(trained[0] / 'best.bin'), h36m_trees(TAKES)
    for subject, action in (('S9', 'SittingDown'), ('S11', 'Directions 1'), ('S11', 'Sitting')):
        pixels = detections[subject][action][2][:TAKES[subject][action]]
        mine = (exported['subject'] == subject) & (exported['action'] == action) & (exported['camera'] == 2)
        poses = lifter.lift_clip(pixels, size=(1000, 1000), **how)
        np.testing.assert_allclose(exported['prediction'][mine], poses, atol=1e-5)


def test_passes_are_told(trained, h36m_folder, run):
    """By hand: of 21, 9, 30, 5, 18, 10 frames 3+1+4+1+2+2 windows tile, 4+1+6+1+3+2 overlap by 4; four cameras."""
    out = run('-c', trained[0], '--evaluate', 'best.bin', '--data', h36m_folder, '--target', 'overlap', '--overlap',
              4)[1]
    assert f'at {17 / 13:.2f} times the passes of windows back to back' in out


@pytest.mark.slow
def test_two_processes_give_the_same_figures(trained, h36m_folder, tmp_path):
    results = []
    for ranks in (1, 2):
        status, out, err = run_alone('run_ktpformer.py', '-c', trained[0], '--evaluate', 'best.bin', '--data',
                                     h36m_folder, '--target', 'overlap', '--results', tmp_path / 'r.json', '--device',
                                     'cpu', ranks=ranks)
        assert status == 0, err
        assert out.count('times the passes') == 1  # only the first process speaks
        results.append(json.loads((tmp_path / 'r.json').read_text())['protocols']['exact']['average'])
    assert results[1] == pytest.approx(results[0], rel=1e-6)


def test_marked_frames_count_once(run, tmp_path):
    write_files(tmp_path)
    status, out, err = run('--data', tmp_path, *SMALL_3DHP, '-e', 1, '-str', 'S1', '-ste', 'TS1,TS5', '-c',
                           tmp_path / 'c', '-l', tmp_path / 'l', '--target', 'overlap', '--results',
                           tmp_path / 'r.json', '--export-predictions', tmp_path / 'e.npz')
    assert (status, err) == (0, '')
    assert 'Target overlap 2, mm and %' in out and 'average C, target overlap 2: MPJPE' in out
    results, exported = json.loads((tmp_path / 'r.json').read_text()), read_npz(tmp_path / 'e.npz')
    assert (results['overlap'], list(results['targets'])) == (2, ['overlap'])
    errors = np.linalg.norm(exported['prediction'] - exported['truth'], axis=-1)
    assert exported['frame'].tolist() == [0, 3, 4, 5, 20, 39, 0, 1, 2, 30]
    assert results['targets']['overlap']['averages']['C']['mpjpe'] == pytest.approx(1000 * errors.mean(), rel=1e-5)


@pytest.mark.parametrize('flags, words', [
    (['--target', 'overlap', '--overlap', '9'], '--overlap 9: windows answer for 9 frames and must share fewer'),
    (['--overlap', '2'], '--overlap needs --target overlap'),
    (['--target', 'all', '--overlap', '2'], '--overlap needs --target overlap'),
    (['--target', 'overlap', '--causal'], '--target and --causal exclude each other'),
    (['--target', 'overlap', '--protocol', 'paper'], '--protocol paper counts each of them: leave --protocol out'),
    (['--target', 'all'], '--target means nothing for -d h36m'),
], ids=' '.join)
def test_what_cannot_be_is_refused(trained, h36m_folder, refused, flags, words):
    assert words in refused(2, '-c', trained[0], '--evaluate', 'best.bin', '--data', h36m_folder, *flags)


@pytest.mark.parametrize('flags, words', [
    (['--model', 'htnet', '-cs', 48, '-dep', 1], 'HTNet answers for each frame from one window around it'),
    (['--model', 'videopose3d', '-f', 9, '-cs', 8], 'VideoPose3D answers for each frame from one window around it'),
    (['--diffusion', '-f', 9, '-cs', 16, '-dep', 1], 'makes several hypotheses, and those of two windows'),
], ids=str)
def test_models_without_windows_to_average_are_told_before_the_training(h36m_folder, refused, tmp_path, flags, words):
    line = refused(2, '-k', 'gt', '--data', h36m_folder, '-str', 'S1', '-c', tmp_path / 'c', '-l', tmp_path / 'l',
                   '--target', 'overlap', '--device', 'cpu', *flags)
    assert line.startswith('run_ktpformer.py: error: --target overlap: ') and words in line
    assert not (tmp_path / 'l').exists()


def test_poses_in_the_picture_have_windows_of_their_own(refused, tmp_path):
    (tmp_path / 'h36m_sh_conf_cam_source_final.pkl').touch()
    line = refused(2, '-d', 'motion3d', '--data', tmp_path, '-c', tmp_path / 'c', '-l', tmp_path / 'l', '--target',
                   'overlap')
    assert '--target overlap: -d motion3d is tested on the windows that 2.5d has: leave it out' in line
