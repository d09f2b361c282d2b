"""Modulated GCN through the whole program: recipes, tables, and trainings against those of the published programs."""

import json

import naive_mgcn
import numpy as np
import pytest
import torch
from processes import ROOT, run_alone
from test_distributed import RECORDER
from test_mgcn import SKELETONS, build
from test_resume import assert_same_run, epochs_of

from common import losses
from common.cli.parser import parse
from common.models import load_lifter, recipe_of
from common.models.refine import Refinement
from common.settings import resolve
from common.skeleton import H36M16
from common.storage import checkpoint
from common.training.loop import gradients_of
from common.training.optimiser import learning_rate, make_criterion, make_optimizer

CPN = 'cpn_ft_h36m_dbb'


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope='module')
def files(golden, fill, tmp_path_factory):
    """Public files of both programs, in the forms they have: a bare state dict, and one under `state_dict`."""
    folder = tmp_path_factory.mktemp('public')
    states = {name: fill(read(golden / 'zoo' / f'{name}_keys.json')) for name in ('mgcn', 'mgcn16')}
    torch.save(states['mgcn'], folder / 'mgcn.pth')
    torch.save({'epoch': 6, 'lr': 0.00096, 'step': 146_232, 'state_dict': states['mgcn16'], 'optimizer': {},
                'error': 38.45}, folder / 'mgcn16.pth.tar')
    return {'mgcn': folder / 'mgcn.pth', 'mgcn16': folder / 'mgcn16.pth.tar'}


@pytest.fixture
def expected(golden):
    return {name: read(golden / 'zoo' / f'tiny_{name}.json') for name in ('mgcn', 'mgcn16')}


@pytest.fixture
def training(golden, tmp_path):
    """training(name, *flags): flags of a run from given weights, without dropout, in the order of the goldens."""
    def of(name, *more):
        return ['--data', golden / 'tiny', '-str', 'S1', '-ste', 'S9,S11', '--seed', 1234, '-c', tmp_path / name, '-l',
                tmp_path / f'{name}-log', '--device', 'cpu', *more]
    return of


def assert_tables(paper, wanted):
    figures = paper['actions'] | {'average': paper['average']}
    assert list(figures) == list(wanted)
    for name, row in wanted.items():
        assert {metric: figures[name][metric] for metric in row} == pytest.approx(row, abs=0.005), name


def decided(name, *flags):
    config = parse(['--model', name, *map(str, flags)])
    return resolve(config, recipe_of(name, {'refine': bool(config.model.refine)}), 1)


def test_recipes_are_the_published_ones():
    config = decided('mgcn')
    recipe = config.train
    assert (recipe.epochs, recipe.windows, recipe.optimizer, recipe.lr, recipe.loss, recipe.l1_share) == \
        (30, 256, 'amsgrad', 5e-3, 'mpjpe', 0.01)
    assert (recipe.dropout, recipe.drop_path, recipe.weight_decay, recipe.clip, recipe.augment, recipe.seed) == \
        (0.2, None, 0, None, True, 1)
    assert (config.evaluate.root, config.evaluate.flip, config.data.joints) == ('zero', True, None)
    rates = [learning_rate(recipe, recipe.lr, 1, epoch, 5, 12_186) for epoch in range(1, 13)]
    assert rates == pytest.approx([5e-3] * 4 + [5e-3 * 0.9] * 4 + [5e-3 * 0.81] * 4)
    assert -(-2 * 1_559_752 // recipe.windows) == 12_186
    config = decided('mgcn16')
    recipe = config.train
    assert (recipe.epochs, recipe.windows, recipe.optimizer, recipe.lr, recipe.loss, recipe.l1_share) == \
        (50, 64, 'adam', 1e-3, 'mse', 0.1)
    assert (recipe.dropout, recipe.drop_path, recipe.weight_decay, recipe.clip, recipe.augment) == \
        (None, None, 0, 1, False)
    assert (config.evaluate.root, config.evaluate.flip, config.data.joints) == ('zero', False, 'h36m16')
    steps = -(-1_559_752 // recipe.windows)
    assert 6 * steps == 146_232
    assert learning_rate(recipe, recipe.lr, 1, 6, steps - 1, steps) == pytest.approx(0.00096)  # as its file says


@pytest.mark.parametrize('name', ['mgcn', 'mgcn16'])
def test_golden_steps(golden, fill, name):
    """Seven updates by the program's own criterion, optimizer, clipping and rates."""
    zoo = golden / 'zoo'
    figures, keys = read(zoo / f'{name}.json')['steps'], read(zoo / f'{name}_keys.json')
    recipe = decided(name, *['--lr-decay-steps', 3] * (name == 'mgcn16')).train
    model = build(name, channels=32, depth=2).train()
    model.load_state_dict(fill(keys))
    data = np.load(zoo / f'{name}.npz')
    x, y = (torch.from_numpy(data[part])[:, None] for part in 'xy')
    criterion = make_criterion(model, recipe.loss, SKELETONS[name], torch.device('cpu'), recipe.l1_share)
    optimizer = make_optimizer(model, recipe)
    for step, (loss, rate, norm) in enumerate(zip(*figures.values(), strict=True)):
        optimizer.zero_grad()
        ours = criterion(model(x), y)
        ours.backward()
        assert ours.item() == pytest.approx(loss, rel=1e-4)
        gradients = gradients_of(model)
        total = torch.stack(torch._foreach_norm(gradients)).norm()
        assert total.item() == pytest.approx(norm, rel=1e-4)
        if recipe.clip:
            torch._foreach_mul_(gradients, (recipe.clip / (total + 1e-6)).clamp(max=1))
        optimizer.param_groups[0]['lr'] = learning_rate(recipe, recipe.lr, 1, 1, step, 100)
        assert optimizer.param_groups[0]['lr'] == pytest.approx(rate)
        optimizer.step()


@pytest.mark.parametrize('root', ['zero', 'subtract'])
@pytest.mark.parametrize('keypoints', ['gt', CPN])
@pytest.mark.parametrize('name', ['mgcn', 'mgcn16'])
def test_tables_of_public_files_are_the_golden_ones(golden, files, expected, run, tmp_path, name, keypoints, root):
    (wanted,) = [case for case in expected[name]['evaluate'] if case['keypoints'] == keypoints]
    status, out, err = run('-k', keypoints, '--data', golden / 'tiny', '-ste', 'S9,S11', '--evaluate', files[name],
                           '--results', tmp_path / 'r.json', *['--root', root] * (root == 'subtract'))
    assert status == 0, err
    assert 'a public file' in out
    results = read(tmp_path / 'r.json')
    assert results['model'] == name
    assert_tables(results['protocols']['paper'],
                  wanted['millimetres' if root == 'zero' else 'millimetres_root_subtracted'])


def test_a_public_file_of_16_joints_is_loaded_for_its_body(files):
    lifter = load_lifter(files['mgcn16'])
    assert (lifter.name, lifter.layout, lifter.skeleton) == ('mgcn16', H36M16, H36M16)
    assert lifter.lift_clip(np.zeros((5, 16, 2), np.float32)).shape == (5, 16, 3)


def test_a_training_of_16_joints_is_the_published_one(files, expected, training, run, tmp_path):
    status, _, err = run(*training('c', '-k', 'gt', '--init', files['mgcn16'], '-e', 3, '--lr-decay-steps', 20))
    assert status == 0, err
    wanted = expected['mgcn16']['train']['epochs']
    for m in epochs_of(tmp_path / 'c-log'):
        figures = wanted[str(m['epoch'])]
        assert m['train_loss'] / 1000 == pytest.approx(figures['train_loss'], rel=1e-5 if m['epoch'] == 1 else 1e-3)
        assert m['lr'] == pytest.approx(figures['lr_at_end'])
        assert m['valid_mpjpe'] == pytest.approx(figures['valid_mpjpe'], rel=0.02)


def by_action(run, golden, path, result):
    """Return the results of a checkpoint on the tiny data, whose mean over actions the 17-joint program logs."""
    status, _, err = run('-k', CPN, '--data', golden / 'tiny', '-ste', 'S9,S11', '-c', path.parent, '--evaluate',
                         path.name, '--results', result, '--device', 'cpu')
    assert status == 0, err
    return read(result)


def test_a_training_of_17_joints_is_the_published_one(golden, files, expected, training, run, tmp_path):
    status, _, err = run(*training('c', '-k', CPN, '--init', files['mgcn'], '-e', 3, '--dropout', 0, '--lr-drop-every',
                                   2, '-cf', 1))
    assert status == 0, err
    wanted = expected['mgcn']['train']['epochs']
    for m in epochs_of(tmp_path / 'c-log'):
        epoch = m['epoch']
        figures = wanted[str(epoch)]
        assert m['train_loss'] / 1000 == pytest.approx(figures['train_loss'], rel=3e-5 if epoch == 1 else 1e-3)
        assert m['lr'] == pytest.approx(figures['lr'])
        found = by_action(run, golden, tmp_path / 'c' / f'epoch_{epoch}.bin', tmp_path / 'r.json')['protocols']['paper']
        for metric in ('mpjpe', 'p_mpjpe'):
            assert found['average'][metric] == pytest.approx(figures[f'valid_{metric}'],
                                                             rel=0.08 if epoch == 1 else 0.02)


@pytest.fixture
def refined_file(golden, fill, files, training, run, tmp_path):
    """A checkpoint of base and refinement with the weights of the goldens."""
    assert run(*training('seed', '-k', CPN, '--refine', '--init', files['mgcn'], '-e', 1, '-lr', 1e-30))[0] == 0
    content = torch.load(tmp_path / 'seed' / 'last.bin')
    parts = {'base': torch.load(files['mgcn']), 'refine': fill(read(golden / 'refine_keys.json'))}
    content['model_pos'] = {f'{part}.{key}': value for part, state in parts.items() for key, value in state.items()}
    checkpoint.save(tmp_path / 'refined.bin', {key: value for key, value in content.items()
                                               if key not in ('format', checkpoint.DIGEST)})
    return tmp_path / 'refined.bin'


def test_tables_of_a_refined_model_are_the_golden_ones(golden, refined_file, expected, run, tmp_path):
    (wanted,) = [case for case in expected['mgcn']['evaluate'] if case['keypoints'] == CPN]
    results = by_action(run, golden, refined_file, tmp_path / 'r.json')
    assert_tables(results['protocols']['paper'], wanted['millimetres'])
    assert_tables(results['refined']['paper'], wanted['millimetres_refined'])


def signed_symmetry(poses, pairs):
    """The published term, whose signs cancel, in the shape of ours."""
    return naive_mgcn.symmetry(poses.flatten(0, 1), signed=True)


def test_a_training_with_refinement_is_the_published_one_but_for_the_sign(golden, refined_file, expected, training, run,
                                                                          monkeypatch, tmp_path):
    """With the published sign put in the place of ours, and without dropout in the refinement."""
    make = Refinement.__init__

    def without_dropout(self, *sizes):
        make(self, *sizes)
        self.post_refine[2].p = 0.0
    monkeypatch.setattr(Refinement, '__init__', without_dropout)
    monkeypatch.setattr(losses, 'bone_symmetry', signed_symmetry)
    status, _, err = run(*training('c', '-k', CPN, '--init', refined_file, '-e', 3, '--dropout', 0, '-lr', 1e-3, '-cf',
                                   1))
    assert status == 0, err
    wanted = expected['mgcn']['train_with_refinement']['epochs']
    for m in epochs_of(tmp_path / 'c-log'):
        epoch = m['epoch']
        figures = wanted[str(epoch)]
        assert m['train_loss'] / 1000 == pytest.approx(figures['train_loss'], rel=1e-5 if epoch == 1 else 1e-3)
        found = by_action(run, golden, tmp_path / 'c' / f'epoch_{epoch}.bin', tmp_path / 'r.json')
        for kind, suffix in (('protocols', ''), ('refined', '_refined')):
            for metric in ('mpjpe', 'p_mpjpe'):
                assert found[kind]['paper']['average'][metric] == pytest.approx(
                    figures[f'valid_{metric}{suffix}'], rel=0.08 if epoch == 1 else 0.02), (epoch, kind, metric)


# ---- as every model ---------------------------------------------------------------------------------------------


@pytest.fixture
def small(h36m_folder, tmp_path):
    """small(model, name, *flags): flags of a short run from fresh weights."""
    def of(model, name, *more):
        return ['--model', model, '-cs', 12, '-dep', 1, '-k', 'gt', '--data', h36m_folder, '-str', 'S1', '-c',
                tmp_path / name, '-l', tmp_path / f'{name}-log', '--device', 'cpu', *more]
    return of


@pytest.mark.parametrize('model', ['mgcn', 'mgcn16'])
def test_a_resumed_run_equals_an_undisturbed_one(small, run, tmp_path, model):
    """Dropout, drops of the rate by epochs and decays by steps included."""
    more = ['-b', 64, *(['--lr-decay-steps', 7] if model == 'mgcn16' else ['--lr-drop-every', 2])]
    assert run(*small(model, 'whole', *more, '-e', 3))[0] == 0
    assert run(*small(model, 'parts', *more, '-e', 1, '-cf', 1))[0] == 0
    assert run(*small(model, 'parts')[6:], '--resume', '-e', 3)[0] == 0
    assert_same_run(tmp_path / 'whole', tmp_path / 'parts')


@pytest.mark.slow
def test_two_processes_are_one_run(small, tmp_path):
    """Norms see the frames of both, and of one where the other has none in the last step; dropout is by rank."""
    recorder = tmp_path / 'recorder.py'
    recorder.write_text(RECORDER.format(root=str(ROOT)))
    for processes in (1, 2):
        status, _, err = run_alone(recorder, tmp_path / f'{processes}.json', *small(
            'mgcn', f'c{processes}', '--dropout', 0, '-b', 137, '-e', 1, '-lr', 1e-4), ranks=processes)
        assert status == 0, err
    one, two = (read(tmp_path / f'{n}.json') for n in (1, 2))
    assert len(one) == 8  # 960 samples: the last step has one, which one rank takes
    assert two == pytest.approx(one, rel=1e-4)


def test_the_network_of_16_joints_takes_the_body_that_there_is(run, humaneva_folder, tmp_path):
    """HumanEva's 15 joints from COCO's 17 keypoints."""
    status, _, err = run('--model', 'mgcn16', '-cs', 12, '-dep', 1, '-d', 'humaneva15', '-k', 'detectron_pt_coco',
                         '--data', humaneva_folder, '-str', 'Train/S1', '-ste', 'Validate/S1', '--downsample', 5, '-e',
                         1, '-c', tmp_path / 'c', '-l', tmp_path / 'l', '--device', 'cpu')
    assert status == 0, err
    saved = torch.load(tmp_path / 'c' / 'best.bin')
    assert saved['model_pos']['correspondence'].shape == (15, 17)
    assert (saved['layout']['name'], saved['skeleton']['name']) == ('coco', 'humaneva15')
