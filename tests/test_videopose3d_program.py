"""VideoPose3D in the whole program: tables and trainings of the published program, on the tiny data set."""

import json

import numpy as np
import pytest
import torch

from common.models import build_model, load_lifter
from common.skeleton import H36M

SIZES = {'frames': 27, 'channels': 32}
# How far from the published log two correct programs may be, relative: loss and errors of the first epoch, then those
# of later ones. Without flips, causal or dense, rounding of the starting weights alone moves them as much.
CLOSE, WIDE, LATER = (1e-6, 1e-4), (2e-5, 2e-3), (5e-4, 1e-2)


@pytest.fixture(scope='module')
def published(golden):
    return json.loads((golden / 'zoo/sequence_tiny.json').read_text())


@pytest.fixture
def public_file(fill, tmp_path):
    """public_file(**sizes) -> a file as the published program writes it, with the golden weights."""
    def write(**sizes):
        model = build_model('videopose3d', SIZES | sizes, H36M, H36M)
        state = fill({key: tuple(value.shape) for key, value in model.state_dict().items()})
        torch.save({'epoch': 3, 'lr': 1e-3, 'random_state': np.random.RandomState(1234), 'optimizer': None,
                    'model_pos': state, 'model_traj': None, 'random_state_semi': None}, tmp_path / 'public.bin')
        return tmp_path / 'public.bin'
    return write


def tables(case):
    """Return the published rows of a case by subject, None for all of them, and action."""
    rows = case['millimetres']
    return rows if case.get('by_subject') else {None: rows}


@pytest.mark.parametrize('index', range(5))
def test_published_tables(published, golden, public_file, run, tmp_path, index):
    case = [case for case in published['evaluate'] if case['model'] == 'videopose3d'][index]
    flags = [flag for name, flag in (('by_subject', '--by-subject'), ('causal', '--causal')) if case.get(name)]
    status, out, err = run('-k', case['keypoints'], '--data', golden / 'tiny', '-ste', 'S9,S11', '--evaluate',
                           public_file(), '--results', tmp_path / 'r.json', '--device', 'cpu', *flags,
                           *['-no-tta'] * (not case.get('flip', True)))
    assert (status, err) == (0, '')
    assert 'VideoPose3D, 27 frames, epoch 3, a public file' in out
    table = json.loads((tmp_path / 'r.json').read_text())['protocols']['paper']
    for subject, actions in tables(case).items():
        rows = table if subject is None else table['subjects'][subject]
        for action, figures in actions.items():
            for metric, value in figures.items():
                assert rows['actions'][action][metric] == pytest.approx(value, abs=0.01), (subject, action, metric)


@pytest.mark.parametrize('index, first', [(0, CLOSE), (1, CLOSE), (2, WIDE), (3, WIDE), (4, WIDE)],
                         ids=['plain', 'chunks', 'dense', 'causal', 'no flips'])
def test_published_training(published, golden, public_file, run, tmp_path, index, first):
    case = published['train'][index]
    form = {name: case.get(name, False) for name in ('causal', 'dense')}
    flags = ['-k', case['keypoints'], '--data', golden / 'tiny', '-ste', 'S9,S11', '--device', 'cpu', '-c',
             tmp_path / 'c']
    status, _, err = run(
        *flags, '-str', 'S1', '--init', public_file(**form), '-s', case['stride'], '-b', case['batch'], '-e',
        case['epochs'], '-lr', case['lr'], '--dropout', 0, '--eval-train', '-no-tta', '-l', tmp_path / 'l',
        *['-no-da'] * (not case['augment']), *[f'--{name}' for name, asked in form.items() if asked])
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
