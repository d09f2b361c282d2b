"""VideoPose3D in the whole program: tables and trainings of the published program, on the tiny data set."""

import json

import numpy as np
import pytest
import torch

from common.augment import mirror
from common.models import build_model, load_lifter, make_config
from common.models.lifting import piece
from common.skeleton import H36M
from common.storage import checkpoint

SIZES = {'frames': 27, 'channels': 32}
# How far from the published log two correct programs may be, relative: loss and errors of the first epoch, then those
# of later ones. Without flips, causal or dense, rounding of the starting weights alone moves them as much.
CLOSE, WIDE, LATER = (1e-6, 1e-4), (2e-5, 2e-3), (5e-4, 1e-2)


@pytest.fixture(scope='module')
def published(golden):
    return json.loads((golden / 'zoo/sequence_tiny.json').read_text())


@pytest.fixture
def file_of(fill, tmp_path):
    """file_of(causal, dense) -> a file with the golden weights.

    One as the published program writes it; for a causal or dense model one of this program, which tells that.
    """
    def write(causal=False, dense=False):
        config = vars(make_config('videopose3d', {**SIZES, 'causal': causal, 'dense': dense}))
        model = build_model('videopose3d', config, H36M, H36M)
        content = {'epoch': 3, 'lr': 1e-3, 'optimizer': {}, 'model_pos': fill(
            {key: tuple(value.shape) for key, value in model.state_dict().items()})}
        if not causal and not dense:
            torch.save({**content, 'random_state': np.random.RandomState(1234), 'model_traj': None,
                        'random_state_semi': None}, tmp_path / 'file.bin')
            return tmp_path / 'file.bin'
        checkpoint.save(tmp_path / 'file.bin', {
            **content, 'model': 'videopose3d', 'config': config, 'dataset': 'h36m', 'keypoints': 'gt', 'settings': {},
            'first_epoch': 1, 'metrics': {}, 'best': None, 'step': 0, 'loss_sum': 0.0, 'base_lr': 1e-3, 'lr_since': 1,
            'training_state': None, 'run': '', 'run_id': 'golden', 'skeleton': checkpoint.describe(H36M),
            'layout': checkpoint.describe(H36M)})
        return tmp_path / 'file.bin'
    return write


def tables(case):
    """Return the published rows of a case by subject, None for all of them, and action."""
    rows = case['millimetres']
    return rows if case.get('by_subject') else {None: rows}


@pytest.mark.parametrize('index', range(5))
def test_published_tables(published, golden, file_of, run, tmp_path, index):
    case = [case for case in published['evaluate'] if case['model'] == 'videopose3d'][index]
    causal = case.get('causal', False)
    status, out, err = run('-k', case['keypoints'], '--data', golden / 'tiny', '-ste', 'S9,S11', '--evaluate',
                           file_of(causal), '--results', tmp_path / 'r.json', '--device', 'cpu',
                           *['--by-subject'] * ('by_subject' in case), *['-no-tta'] * (not case.get('flip', True)))
    assert (status, err) == (0, '')
    assert 'VideoPose3D, 27 frames, epoch 3' in out
    table = json.loads((tmp_path / 'r.json').read_text())['protocols']['paper']
    for subject, actions in tables(case).items():
        rows = table if subject is None else table['subjects'][subject]
        for action, figures in actions.items():
            for metric, value in figures.items():
                assert rows['actions'][action][metric] == pytest.approx(value, abs=0.01), (subject, action, metric)


@pytest.mark.parametrize('index, first', [(0, CLOSE), (1, CLOSE), (2, WIDE), (3, WIDE), (4, WIDE)],
                         ids=['plain', 'chunks', 'dense', 'causal', 'no flips'])
def test_published_training(published, golden, file_of, run, tmp_path, index, first):
    case = published['train'][index]
    form = {name: case.get(name, False) for name in ('causal', 'dense')}
    flags = ['-k', case['keypoints'], '--data', golden / 'tiny', '-ste', 'S9,S11', '--device', 'cpu', '-c',
             tmp_path / 'c']
    status, _, err = run(
        *flags, '-str', 'S1', '--init', file_of(**form), '-s', case['stride'], '-b', case['batch'], '-e',
        case['epochs'], '-lr', case['lr'], '--dropout', 0, '--eval-train', '-no-tta', '-l', tmp_path / 'l',
        *['-no-da'] * (not case['augment']))
    assert (status, err) == (0, '')
    (log,) = (tmp_path / 'l').glob('*/metrics.jsonl')
    epochs = [line for line in map(json.loads, log.read_text().splitlines()) if 'train_loss' in line]
    assert len(epochs) == case['epochs']
    for number, (epoch, (loss, on_training, on_test)) in enumerate(zip(epochs, case['log'], strict=True)):
        near, far = LATER if number else first
        assert epoch['train_loss'] == pytest.approx(loss, rel=near)
        assert epoch['train_mpjpe'] == pytest.approx(on_training, rel=far)
        assert epoch['valid_mpjpe'] == pytest.approx(on_test, rel=far)
    assert run(*flags, '--evaluate', 'last.bin', '--results', tmp_path / 'r.json', '--test-time-augmentation')[0] == 0
    average = json.loads((tmp_path / 'r.json').read_text())['protocols']['paper']['average']
    assert [average[metric] for metric in ('mpjpe', 'p_mpjpe', 'n_mpjpe', 'mpjve')] == pytest.approx(
        case['average'], abs=2)
    saved = load_lifter(tmp_path / 'c' / 'last.bin')
    assert saved.config == {'frames': 27, 'channels': 32, 'widths': (3, 3, 3), **form}


@pytest.mark.parametrize('causal', [False, True])
def test_a_clip_is_lifted_at_once_as_frame_by_frame(file_of, causal):
    """Edges are replicated, both ends or the left alone; a causal model reads nothing that comes later."""
    lifter = load_lifter(file_of(causal))
    clip = np.random.default_rng(0).normal(size=(40, 17, 2)).astype(np.float32)
    lifted = lifter.lift_clip(clip)
    order = torch.tensor(H36M.mirror)
    for frame in (0, 5, 39):
        start = frame - (26 if causal else 13)
        window = torch.from_numpy(clip[np.clip(np.arange(start, start + 27), 0, 39)])[None]
        with torch.inference_mode():
            pose = (lifter.model(window) + mirror(lifter.model(mirror(window, order)), order)) / 2
        np.testing.assert_allclose(lifted[frame], pose[0, 0], atol=1e-5)
    if causal:
        np.testing.assert_allclose(lifter.lift_clip(clip[:20]), lifted[:20], atol=1e-5)


def test_a_resumed_run_equals_an_undisturbed_one(golden, run, tmp_path):
    """The momentum of the batch norms goes on where it was."""
    flags = ['-k', 'gt', '--data', golden / 'tiny', '-str', 'S1', '-ste', 'S9', '--device', 'cpu']
    fresh = [*flags, '--model', 'videopose3d', '-f', 9, '-cs', 8, '-b', 512, '-e', 3]
    assert run(*fresh, '-c', tmp_path / 'whole', '-l', tmp_path / 'l')[0] == 0
    assert run(*fresh, '-c', tmp_path / 'parts', '-l', tmp_path / 'm', '-cf', 1)[0] == 0
    assert run(*flags, '-c', tmp_path / 'parts', '-l', tmp_path / 'm', '--resume', 'epoch_2.bin')[0] == 0
    whole, parts = (torch.load(tmp_path / name / 'last.bin', weights_only=True) for name in ('whole', 'parts'))
    assert whole['epoch'] == parts['epoch'] == 3
    for key, value in whole['model_pos'].items():
        assert torch.equal(value, parts['model_pos'][key]), key


@pytest.mark.parametrize('lengths, size', [([1100, 900], 1100), ([40], 40), ([2000], 2000), ([6000, 50], 1216)])
def test_long_sequences_are_lifted_in_pieces_of_the_least_work(lengths, size):
    """The last piece overlaps the one before: pieces of 1024 would read 3798 frames of the first two sequences."""
    model = build_model('videopose3d', {'frames': 243, 'channels': 4}, H36M, H36M)

    def frames_read(count):
        return sum(-(-length // count) * (count + 242) for length in lengths)
    assert piece(model, lengths) == size
    assert frames_read(size) <= min(frames_read(min(count, max(lengths))) for count in range(64, 2049, 64))
