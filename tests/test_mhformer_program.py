"""MHFormer through the whole program: recipe, published tables, what it is trained on, files, processes, refusals."""

import json

import numpy as np
import pytest
import torch
from processes import ROOT, run_alone
from test_distributed import RECORDER
from test_htnet_program import decided
from test_resume import epochs_of

from common.datasets import load_dataset
from common.models import mhformer
from common.skeleton import H36M
from common.training.optimiser import learning_rate

SMALL = ['--model', 'mhformer', '-f', '9', '-cs', '16', '-dep', '2', '--hidden', '16', '--device', 'cpu']


@pytest.fixture
def flags(h36m_folder, tmp_path):
    def of(name, *more):
        return ['-k', 'gt', '--data', h36m_folder, '-str', 'S1', '-ste', 'S9', *SMALL, '-e', '1', '-c', tmp_path / name,
                '-l', tmp_path / f'{name}-log', *more]
    return of


def test_the_recipe_is_the_published_one():
    config = decided('--model', 'mhformer', model='mhformer')
    recipe = config.train
    assert (recipe.epochs, recipe.windows, recipe.stride, recipe.seed) == (19, 128, 1, 1)
    assert (recipe.optimizer, recipe.loss, recipe.objective, recipe.augment) == ('amsgrad', 'mpjpe', 'plain', True)
    assert (recipe.weight_decay, recipe.clip, recipe.drop_path, recipe.dropout) == (0, None, 0.2, 0.1)
    assert (config.evaluate.root, config.evaluate.flip) == ('zero', True)
    # after each epoch, counted from 1: halved if its number is a multiple of 5, else times 0.95
    rate = 1e-3
    for epoch in range(1, 20):
        assert learning_rate(recipe, recipe.lr, 1, epoch, 0, 100) == pytest.approx(rate)
        rate *= 0.5 if epoch % 5 == 0 else 0.95


@pytest.mark.slow  # like that of StridedTransformer, whose table is a fast test
@pytest.mark.parametrize('keypoints', ['cpn_ft_h36m_dbb', 'gt'])
def test_tables_of_the_published_program(golden, fill, run, tmp_path, keypoints):
    """On a public file, which says by itself what it is; figures to the last printed digit."""
    torch.save(fill(json.loads((golden / 'zoo' / 'mhformer_keys.json').read_text())), tmp_path / 'model_3_4590.pth')
    status, out, _ = run('-k', keypoints, '--data', golden / 'tiny', '-ste', 'S9,S11', '--evaluate',
                         tmp_path / 'model_3_4590.pth', '--results', tmp_path / 'r.json', '--device', 'cpu')
    assert status == 0
    assert 'MHFormer, 27 frames' in out and 'a public file' in out and 'predicted root set to 0' in out
    published = json.loads((golden / 'zoo' / 'sequence_tiny.json').read_text())['evaluate']
    (expected,) = (case['millimetres'] for case in published
                   if (case['model'], case['keypoints']) == ('mhformer', keypoints))
    protocols = json.loads((tmp_path / 'r.json').read_text())['protocols']
    for protocol in ('paper', 'exact'):
        actions = protocols[protocol]['actions']
        assert actions.keys() == expected.keys()
        for action, row in expected.items():
            for metric in actions[action].keys() & row.keys():
                assert actions[action][metric] == pytest.approx(row[metric], abs=0.006), (action, metric)
    assert all('mpjpe' in row for row in expected.values())


def windows_by_hand(folder, frames):
    """Return the bytes of keypoints and poses of every window around a frame of S1, plain and mirrored, sorted."""
    windows, order = [], np.array(H36M.mirror)
    for sequence in load_dataset('h36m', folder, 'gt').sequences(['S1']):
        length = len(sequence.poses)
        for centre in range(length):
            index = [min(max(centre + offset, 0), length - 1) for offset in range(-(frames // 2), frames // 2 + 1)]
            plain = sequence.keypoints[index], sequence.poses[index]
            windows += [plain, tuple(part[:, order] * np.float32([-1, 1, 1])[:part.shape[-1]] for part in plain)]
    return sorted(as_bytes(*window) for window in windows)


def as_bytes(keypoints, poses):
    return ((keypoints + np.float32(0)).tobytes(), (poses + np.float32(0)).tobytes())  # + 0 makes 0 of -0


def test_it_learns_from_all_frames_of_windows_around_each_frame(flags, h36m_folder, run, monkeypatch, tmp_path):
    """Edges of the truth are replicated, too; an epoch is judged on the centres alone."""
    seen, judged_loss = [], []

    def recorded(self, batch, criterion):
        loss = criterion(self(batch.keypoints, every=True), batch.truth)
        assert batch.truth.shape == (len(batch.keypoints), 9, 17, 3)
        seen.extend(zip(batch.keypoints.numpy(), batch.truth.numpy(), strict=True))
        judged_loss.append((len(seen), loss.item()))
        return loss
    monkeypatch.setattr(mhformer.MHFormer, 'loss', recorded)
    assert run(*flags('a', '-b', 64, '--results', tmp_path / 'a.json'))[0] == 0
    assert sorted(as_bytes(*window) for window in seen) == windows_by_hand(h36m_folder, 9)
    (line,) = epochs_of(tmp_path / 'a-log')
    counts = np.diff([0, *(count for count, _ in judged_loss)])
    assert set(counts[:-1]) == {64}
    mean = np.average([loss for _, loss in judged_loss], weights=counts)
    assert line['train_loss'] == pytest.approx(1000 * mean, rel=1e-5)
    assert line['valid_mpjve'] is None
    actions = json.loads((tmp_path / 'a.json').read_text())['protocols']['exact']['actions']
    weights = {'Directions': 21, 'Sitting': 9, 'SittingDown': 30}
    pooled = sum(weights[action] * row['mpjpe'] for action, row in actions.items()) / sum(weights.values())
    assert line['valid_mpjpe'] == pytest.approx(pooled, rel=1e-6)
    status, out, _ = run('-c', tmp_path / 'a', '--evaluate', 'best.bin', '--data', h36m_folder, '--device', 'cpu',
                         '--results', tmp_path / 'b.json')
    assert status == 0
    assert 'MHFormer, 9 frames' in out
    assert json.loads((tmp_path / 'b.json').read_text())['protocols']['exact']['actions'] == actions


@pytest.mark.slow
def test_two_processes_drop_what_one_does(flags, tmp_path):
    """Seven windows a step, shared as three and four; batch norms over both. Dropout is each process's own, and off."""
    recorder = tmp_path / 'recorder.py'
    recorder.write_text(RECORDER.format(root=str(ROOT)))
    for processes in (1, 2):
        status, _, err = run_alone(recorder, tmp_path / f'{processes}.json', *flags(
            f'c{processes}', '-b', 7, '--window-step', 4, '--drop-path', '0.5', '--dropout', '0', '-lr', '1e-5',
            '--no-eval'), ranks=processes)
        assert status == 0, err
    one, two = (json.loads((tmp_path / f'{n}.json').read_text()) for n in (1, 2))
    assert len(one) > 30
    assert two == pytest.approx(one, rel=1e-5)
    a, b = (torch.load(tmp_path / f'c{n}' / 'last.bin')['model_pos'] for n in (1, 2))
    assert a.keys() == b.keys()


def test_a_refinement_behind_it_reads_the_centre(flags, run, tmp_path):
    assert run(*flags('a', '-b', 64, '--window-step', 8, '--no-eval'))[0] == 0
    given = [*flags('b', '-b', 64, '--window-step', 8)[:6], '--device', 'cpu', '-e', 1, '-c', tmp_path / 'b', '-l',
             tmp_path / 'b-log', '--refine', '--init', tmp_path / 'a' / 'last.bin', '-b', 64, '--window-step', 8]
    status, out, err = run(*given)
    assert (status, err) == (0, '')
    assert 'MHFormer with refinement, 9 frames' in out
    (line,) = epochs_of(tmp_path / 'b-log')
    assert line['valid_predicted_mpjpe'] > 0


def test_sizes_that_cannot_be_are_told_in_a_line(flags, refused):
    assert 'expected an odd multiple of 9, for 9 heads and a centre: take 81 or 99' in \
        refused(2, *flags('a', '-f', '90'))
    assert '20 channels cannot be divided among 8 heads' in refused(2, *flags('a', '-cs', '20'))
