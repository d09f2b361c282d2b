"""STCFormer through the whole program: recipe, what it is trained on, tables, public files, processes, refusals."""

import json

import naive_stcformer
import numpy as np
import pytest
import torch
from processes import run_alone
from test_htnet_program import decided
from test_mhformer_program import as_bytes
from test_mpi_inf_3dhp import write_files
from test_resume import epochs_of

from common.datasets import load_dataset
from common.models import stcformer
from common.skeleton import H36M, MPI_INF_3DHP
from common.storage.npz import read_npz
from common.training.optimiser import learning_rate

SMALL = ['--model', 'stcformer', '-f', '9', '-cs', '16', '-dep', '1', '--device', 'cpu']
PARTS = {'stcformer': naive_stcformer.H36M_PARTS, 'stcformer_3dhp': naive_stcformer.OF_3DHP_PARTS}
HEADS = {'stcformer': 8, 'stcformer_3dhp': 4}


@pytest.fixture
def flags(h36m_folder, tmp_path):
    def of(name, *more):
        return ['-k', 'gt', '--data', h36m_folder, '-str', 'S1', '-ste', 'S9', *SMALL, '-e', '1', '-c', tmp_path / name,
                '-l', tmp_path / f'{name}-log', *more]
    return of


@pytest.fixture
def public(golden, fill, tmp_path):
    """public(model) -> a file as published, with the weights of the golden outputs."""
    def write(kind):
        state = fill(json.loads((golden / 'zoo' / f'{kind}_keys.json').read_text()))
        before, name = {'stcformer': ('', 'no_refine_6_4408.pth'), 'stcformer_3dhp': ('module.', 'p.pth')}[kind]
        torch.save({before + key: value for key, value in state.items()}, tmp_path / name)
        return tmp_path / name
    return write


@pytest.mark.parametrize('kind, windows, step, seed', [('stcformer', 42, 3, 42), ('stcformer_3dhp', 128, None, 1)])
def test_the_recipe_is_the_published_one(kind, windows, step, seed):
    config = decided('--model', kind, model=kind)
    recipe = config.train
    assert (recipe.epochs, recipe.windows, recipe.stride) == (79, windows, 1)
    assert (recipe.window_step, recipe.seed) == (step, seed)
    assert (recipe.optimizer, recipe.loss, recipe.objective, recipe.augment) == ('amsgrad', 'mpjpe', 'plain', True)
    assert (recipe.weight_decay, recipe.clip, recipe.drop_path, recipe.dropout) == (0, None, 0.5, 0.1)
    assert (config.evaluate.root, config.evaluate.flip) == ('zero', True)
    for epoch in (1, 2, 79):
        assert learning_rate(recipe, recipe.lr, 1, epoch, 0, 100) == pytest.approx(1e-3 * 0.96 ** (epoch - 1))
    assert decided('--model', kind, '--window-step', 1, model=kind).train.window_step == 1


@pytest.mark.parametrize('step', [None, 2])
def test_it_learns_from_all_frames_of_the_published_windows(flags, h36m_folder, run, monkeypatch, step):
    """Plain and mirrored, of the step of the recipe or another."""
    seen, expected, order = [], [], np.array(H36M.mirror)

    def recorded(self, batch, criterion):
        assert batch.truth.shape == (len(batch.keypoints), 9, 17, 3)
        seen.extend(zip(batch.keypoints.numpy(), batch.truth.numpy(), strict=True))
        return loss(self, batch, criterion)
    loss = stcformer.STCFormer.loss
    monkeypatch.setattr(stcformer.STCFormer, 'loss', recorded)
    asked = [] if step is None else ['--window-step', step]
    assert run(*flags('a', '-b', 64, '--no-eval', *asked))[0] == 0
    for sequence in load_dataset('h36m', h36m_folder, 'gt').sequences(['S1']):
        for frames in naive_stcformer.training_windows(len(sequence.poses), 9, 3, step or 3):
            plain = sequence.keypoints[frames], sequence.poses[frames]
            expected += [plain, tuple(part[:, order] * np.float32([-1, 1, 1])[:part.shape[-1]] for part in plain)]
    assert sorted(as_bytes(*window) for window in seen) == sorted(as_bytes(*window) for window in expected)


def naive_centres(kind, state, keypoints, targets, body, spacing):
    """Return the predictions of frames of a sequence (T, K, 2): centres, the mean with mirrored ones, the root at 0."""
    frames = [[min(max(t + spacing * (i - 4), 0), len(keypoints) - 1) for i in range(9)] for t in targets]
    order, x = list(body.mirror), torch.from_numpy(keypoints[frames]).double()
    state = {key: value.double() for key, value in state.items()}
    how = {'parts': PARTS[kind], 'kind': kind, 'heads': HEADS[kind]}
    plain = naive_stcformer.stcformer(state, x, **how)[:, 4]
    x[..., 0] *= -1
    mirrored = naive_stcformer.stcformer(state, x[:, :, order], **how)[:, 4, order]
    mirrored[..., 0] *= -1
    poses = (plain + mirrored) / 2
    poses[:, body.root] = 0
    return poses.numpy()


def test_a_public_file_is_tested_on_the_centres_of_windows_with_gaps(h36m_folder, public, run, tmp_path):
    """Around every frame; what the file does not tell is told."""
    file = public('stcformer')
    status, out, err = run('-k', 'gt', '--data', h36m_folder, '-ste', 'S9', '-f', 9, '-tds', 2, '--evaluate', file,
                           '--results', tmp_path / 'r.json', '--device', 'cpu')
    assert (status, err) == (0, '')
    assert 'STCFormer, 9 frames' in out and 'predicted root set to 0' in out
    assert 'a public file (not told by it, and assumed: frames 9, spacing 2)' in out
    errors = {}
    for sequence in load_dataset('h36m', h36m_folder, 'gt').sequences(['S9']):
        every = range(len(sequence.poses))
        predicted = naive_centres('stcformer', torch.load(file), sequence.keypoints, every, H36M, 2)
        action = sequence.action.split(' ')[0]
        errors.setdefault(action, []).append(1000 * np.linalg.norm(predicted - sequence.poses, axis=-1))
    for protocol in json.loads((tmp_path / 'r.json').read_text())['protocols'].values():
        assert {action: row['mpjpe'] for action, row in protocol['actions'].items()} == {
            action: pytest.approx(np.concatenate(parts).mean(), rel=1e-5) for action, parts in errors.items()}


def test_a_public_file_of_3dhp_is_tested_in_millimetres(public, run, tmp_path):
    """On the frames that count, without gaps."""
    write_files(tmp_path)
    file = public('stcformer_3dhp')
    status, out, err = run('-d', '3dhp', '--data', tmp_path, '-ste', 'TS1,TS5', '-f', 9, '--evaluate', file, '--device',
                           'cpu')
    assert (status, err) == (0, '')
    assert 'STCFormer for MPI-INF-3DHP, 9 frames, a public file (not told by it, and assumed: frames 9, spa' in out
    state, errors = {key.removeprefix('module.'): value for key, value in torch.load(file).items()}, []
    for sequence in load_dataset('3dhp', tmp_path, training=False).sequences(('TS1', 'TS5')):
        counted = np.flatnonzero(sequence.marks)
        predicted = naive_centres('stcformer_3dhp', state, sequence.keypoints, counted, MPI_INF_3DHP, 1)
        errors.append(np.linalg.norm(predicted - 1000 * sequence.poses[counted], axis=-1))
    line = next(line for line in out.splitlines() if line.startswith('C, frames pooled'))
    assert f'{np.concatenate(errors).mean():.2f}' in line


def test_a_clip_is_lifted_to_the_joints_of_the_publication(public, run, tmp_path):
    """By a file of MPI-INF-3DHP, although nothing says so beside its keys."""
    np.save(tmp_path / 'clip.npy', 300 + 100 * np.random.default_rng(0).random((12, 17, 2)))
    flags = ['--predict', tmp_path / 'clip.npy', '--layout', '3dhp', '--image-size', 1000, 1000, '--output',
             tmp_path / 'out.npz', '--device', 'cpu', '-f', 9, '--as-is']
    status, out, err = run('--evaluate', public('stcformer_3dhp'), *flags)
    assert status == 0, err
    assert 'keypoints of layout 3dhp, joints of 3dhp' in out
    assert tuple(read_npz(tmp_path / 'out.npz')['joints']) == MPI_INF_3DHP.joints


def test_inspecting_tells_what_is_assumed(public, run):
    status, out, _ = run('--inspect', public('stcformer'))
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert (status, lines['model'], lines['keypoints']) == (0, 'stcformer', 'any number')
    assert lines['frames'] == 'not in the shapes, 27 is assumed' and lines['spacing'].endswith('3 is assumed')


def test_frames_and_gaps_are_kept_in_a_checkpoint(flags, h36m_folder, run, refused, tmp_path):
    """Heads, which weights tell, are compared with them; frames and gaps are taken as stored."""
    assert run(*flags('a', '-f', 5, '-tds', 4, '-b', 64, '--window-step', 20, '--no-eval'))[0] == 0
    stored = torch.load(tmp_path / 'a' / 'last.bin')
    assert stored['config'] == {'frames': 5, 'channels': 16, 'depth': 1, 'heads': 8, 'spacing': 4}
    evaluate = ['-k', 'gt', '--data', h36m_folder, '-ste', 'S9', '--device', 'cpu', '--evaluate']
    status, out, _ = run(*evaluate, tmp_path / 'a' / 'last.bin')
    assert status == 0 and 'STCFormer, 5 frames' in out
    assert 'was made with spacing 4, which -tds 3 contradicts' in refused(1, *evaluate, tmp_path / 'a' / 'last.bin',
                                                                          '-tds', 3)
    stored['config']['heads'] = 4
    torch.save(stored, tmp_path / 'b.bin')
    assert 'heads 4, where they have 8' in refused(1, *evaluate, tmp_path / 'b.bin')


def test_two_processes_leave_out_what_one_does(flags, run, tmp_path):
    """Seven windows a step, shared as three and four. Dropout is each process's own, and off.

    What is known of parts shows in the loss too little. In the table it does: without it, a step has no gradient there.
    """
    more = ['-b', 7, '--window-step', 6, '--dropout', '0', '-lr', '1e-4', '--no-eval']
    status, _, err = run(*flags('one', *more))
    assert status == 0, err
    status, _, err = run_alone('run_ktpformer.py', *flags('two', *more), ranks=2)
    assert status == 0, err
    (one,), (two,) = (epochs_of(tmp_path / f'{name}-log') for name in ('one', 'two'))
    assert two['train_loss'] == pytest.approx(one['train_loss'], rel=1e-5)
    a, b = (torch.load(tmp_path / name / 'last.bin')['model_pos'] for name in ('one', 'two'))
    table = 'stcformer.stc_block.0.stc_att.emb.weight'
    assert (b[table] - a[table]).abs().max() < 1e-5  # a step moves it by up to 1e-4


def test_sizes_that_cannot_be_are_told_in_a_line(flags, refused):
    assert '-f 26 -cs 16 -dep 1: 26 frames have none in their middle: take an odd number' in \
        refused(2, *flags('a', '-f', '26'))
    assert 'half of 24 channels cannot be divided among 8 heads' in refused(2, *flags('a', '-cs', '24'))
