"""HTNet and refinement through the whole program: recipe, tables, files, resuming, processes, refusals."""

import json
from dataclasses import replace

import naive
import numpy as np
import pytest
import torch
from conftest import h36m_trees, write_h36m
from processes import ROOT, run_alone
from test_distributed import RECORDER
from test_resume import assert_same_run, epochs_of

from common.augment import mirror
from common.cli.parser import parse
from common.datasets import load_dataset
from common.models import build_model, recipe_of
from common.models.lifting import predictions
from common.models.refine import back_project
from common.sampler import TestWindows, WindowSampler
from common.settings import resolve
from common.skeleton import H36M
from common.store import SequenceStore
from common.training.optimiser import learning_rate, make_criterion

SMALL = ['--model', 'htnet', '-cs', '24', '-dep', '1', '--hidden', '16', '-b', '64', '--device', 'cpu']


@pytest.fixture
def flags(h36m_folder, tmp_path):
    def of(name, *more):
        return ['-k', 'gt', '--data', h36m_folder, '-str', 'S1', *SMALL, '-e', '2', '-c', tmp_path / name, '-l',
                tmp_path / f'{name}-log', *more]
    return of


@pytest.fixture(scope='module')
def base(h36m_folder, tmp_path_factory):
    """Return the checkpoint folder of a trained HTNet; not to be written to."""
    import run_ktpformer
    folder = tmp_path_factory.mktemp('base')
    assert run_ktpformer.main(['-k', 'gt', '--data', str(h36m_folder), '-str', 'S1', *SMALL, '-e', '2', '-c',
                               str(folder / 'c'), '-l', str(folder / 'l')]) == 0
    return folder / 'c'


def decided(*flags, model='htnet', answers=1):
    """The configuration of a command line with all settings decided."""
    config = parse([str(flag) for flag in flags])
    return resolve(config, recipe_of(model, {'refine': bool(config.model.refine)}), answers)


def test_the_recipe_is_the_published_one():
    config = decided('--model', 'htnet')
    recipe = config.train
    assert (recipe.epochs, recipe.windows, recipe.optimizer, recipe.loss, recipe.objective, config.evaluate.root) == \
        (15, 512, 'amsgrad', 'mpjpe', 'plain', 'zero')
    assert (recipe.stride, recipe.seed) == (1, 1)
    # after each epoch, counted from 1: halved if its number is a multiple of 5, else times 0.95
    rate = 5e-4
    for epoch in range(1, 16):
        assert learning_rate(recipe, recipe.lr, 1, epoch, 0, 100) == pytest.approx(rate)
        rate *= 0.5 if epoch % 5 == 0 else 0.95
    # resumed in epoch 4, the fifth epoch is still the one after which it is halved
    assert learning_rate(recipe, 1.0, 4, 6, 0, 100) == pytest.approx(0.95 * 0.5)
    assert -(-2 * 1_559_752 // recipe.windows) == 6093
    assert (recipe.lr, recipe.lr_decay, recipe.lr_drop_every, recipe.weight_decay) == (5e-4, 0.95, 5, 0)
    assert (recipe.drop_path, recipe.dropout) == (0.3, 0.1)
    refining = decided('--refine', '--init', 'x')
    assert refining.train == replace(recipe, lr=1e-5, loss='refinement', init='x')
    assert refining.evaluate.root == 'zero'
    refining = decided('--refine', '--init', 'x', model='ktpformer')
    assert (refining.train.lr, refining.train.loss, refining.train.objective, refining.evaluate.root) == \
        (1e-5, 'refinement', 'plain', 'zero')


def test_the_rates_of_the_flags_reach_the_modules():
    config = decided('--model', 'htnet', '--dropout', 0.25, '--drop-path', 0.21, '-dep', 2)
    model = build_model('htnet', config.model.sizes(), H36M, H36M, drop_path=config.train.drop_path,
                        dropout=config.train.dropout)
    rates = {type(module).__name__: [] for module in model.modules()}
    for module in model.modules():
        rates[type(module).__name__].append(getattr(module, 'rate', getattr(module, 'dropout', None)))
    assert set(rates['Mlp']) == set(rates['Attention']) == {0.25}
    assert sorted(set(rates['DropPath'])) == pytest.approx([0.07, 0.21])


@pytest.mark.parametrize('kind', ['mpjpe', 'weighted'])
def test_each_loss_is_the_one_it_is_called(kind):
    torch.manual_seed(0)
    recipe = decided('--model', 'htnet', '--loss', kind).train
    predicted, target = torch.randn(2, 3, 4, 17, 3).unbind()
    loss = make_criterion(torch.nn.Module(), recipe.loss, H36M, torch.device('cpu'))(predicted, target)
    weights = naive.h36m_weights() if kind == 'weighted' else [1] * 17
    expected = naive.loss_parts(predicted, target, weights)['total' if kind == 'weighted' else 'weighted_mpjpe']
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_batches_tell_the_camera_and_depth_of_each_window():
    """Exact 2D of lenses without distortion: the poses are their own back-projections, mirrored ones too."""
    dataset = load_dataset('synthetic', None)
    random, sequences = np.random.default_rng(0), []
    for s in dataset.sequences(['S1', 'S2'])[::5]:
        lens = np.append(random.uniform(0.8, 1.2, 2), [*random.uniform(-0.2, 0.2, 2), 0, 0, 0, 0, 0])
        absolute = s.poses + [0, 0, 1] * s.root[:, 2][:, None, None] + [0.3, 0.2, 0]
        keypoints = absolute[..., :2] / absolute[..., 2:] * lens[:2] + lens[2:4]
        sequences.append(replace(s, keypoints=keypoints.astype(np.float32), intrinsic=lens.astype(np.float32)))
    store = SequenceStore(sequences, H36M, H36M, torch.device('cpu'))
    for frames in (1, 9):
        sampler = WindowSampler(store, frames, flip=True, seed=0, needs=frozenset({'intrinsic', 'root_depth'}))
        for step in sampler.epoch(0, 500):
            batch = step.batch
            ours = back_project(batch.poses, batch.keypoints, batch.intrinsic, batch.root_depth, 0)
            torch.testing.assert_close(ours, batch.poses, atol=2e-5, rtol=0)


def test_the_recipe_of_ktpformer_is_the_published_one():
    config = decided('-s', 128, model='ktpformer', answers=243)
    recipe = config.train
    assert (recipe.epochs, recipe.windows, recipe.lr, recipe.lr_decay, recipe.lr_drop_every, recipe.weight_decay) == \
        (200, 8, 8e-5, 0.99, 0, 0.1)
    assert (recipe.objective, recipe.seed, recipe.optimizer, recipe.loss, config.evaluate.root) == \
        ('half-square', 1234, 'adamw', 'weighted', 'predicted')
    assert (recipe.drop_path, recipe.dropout) == (0.1, None)
    assert decided(model='ktpformer', answers=243).train.stride == 128


@pytest.mark.parametrize('flag, value', [('--optimizer', 'adamw'), ('--loss', 'weighted'), ('-lrd', 0.5), ('-lr', 0.1),
                                         ('--lr-drop-every', 3), ('--objective', 'half-square'),
                                         ('--root', 'predicted'), ('--dropout', 0.3), ('--drop-path', 0.2),
                                         ('--weight-decay', 0.1)])
def test_flags_override_the_recipe(flag, value):
    settings, published = (decided('--model', 'htnet', *flags).settings() for flags in ((flag, value), ()))
    assert [settings[name] for name in settings if settings[name] != published[name]] == [value]


def pooled(protocols):
    """Return MPJPE over all test frames of `h36m_folder`, from the figures by action."""
    frames = {'Directions': 21 + 5, 'Sitting': 9 + 18, 'SittingDown': 30 + 10}
    actions = protocols['paper']['actions']
    return sum(n * actions[name]['mpjpe'] for name, n in frames.items()) / sum(frames.values())


def test_a_trained_htnet_is_evaluated_from_its_file(base, h36m_folder, run, tmp_path):
    saved = torch.load(base / 'best.bin', weights_only=True)
    assert saved['model'] == 'htnet'
    assert saved['config'] == {'channels': 24, 'depth': 1, 'heads': 8, 'hidden': 16, 'confidence': False}
    assert saved['optimizer']['param_groups'][0]['amsgrad']
    assert saved['metrics']['valid_mpjve'] is None
    for name in ('best.bin', 'last.bin'):
        status, out, err = run('-c', base, '--evaluate', name, '--data', h36m_folder, '--by-subject', '--results',
                               tmp_path / 'r.json', '--device', 'cpu')
        assert (status, err) == (0, '')
        assert 'HTNet, 1 frame,' in out
        assert 'predicted root set to 0' in out
        results = json.loads((tmp_path / 'r.json').read_text())
        assert (results['model'], results['frames']) == ('htnet', 1)
        assert list(results['protocols']['exact']['subjects']) == ['S9', 'S11']
        paper, exact = (results['protocols'][p]['actions'] for p in ('paper', 'exact'))
        for action in paper:  # windows of one frame neither overlap nor are padded
            assert paper[action]['mpjpe'] == exact[action]['mpjpe']
    assert pooled(results['protocols']) == pytest.approx(torch.load(base / 'last.bin')['metrics']['valid_mpjpe'],
                                                         rel=1e-6)


@pytest.mark.parametrize('root', ['zero', 'predicted'])
def test_a_bare_state_dict_scores_the_mean_error_of_its_frames(golden, fill, run, tmp_path, root):
    """Loop over frames, here: predict each, and its mirror image, with the model alone; errors by hand."""
    keys = json.loads((golden / 'htnet_keys.json').read_text())
    state = fill(keys)
    torch.save(state, tmp_path / 'htnet.pth')
    status, out, _ = run('-k', 'gt', '--data', golden / 'tiny', '-ste', 'S9,S11', '--evaluate', tmp_path / 'htnet.pth',
                         '--results', tmp_path / 'r.json', *['--root', root] * (root == 'predicted'))
    assert status == 0
    assert 'a public file' in out
    model = build_model('htnet', {'channels': 48, 'depth': 2, 'hidden': 64}, H36M, H36M).eval()
    model.load_state_dict(state)
    order, errors = torch.tensor(H36M.mirror), {}
    for sequence in load_dataset('h36m', golden / 'tiny', 'gt').sequences(['S9', 'S11']):
        keypoints = torch.from_numpy(sequence.keypoints)[:, None]  # (T, 1, 17, 2)
        with torch.no_grad():
            predicted = (model(keypoints) + mirror(model(mirror(keypoints, order)), order)) / 2
        predicted = predicted[:, 0].numpy()
        if root == 'zero':
            predicted[:, 0] = 0
        per_frame = np.linalg.norm(predicted - sequence.poses, axis=-1).mean(axis=-1)
        errors.setdefault(sequence.action.split(' ')[0], []).append(1000 * per_frame)
    results = json.loads((tmp_path / 'r.json').read_text())['protocols']
    for protocol in ('paper', 'exact'):
        assert results[protocol]['actions'].keys() == errors.keys()
        for action, parts in errors.items():
            mean = np.concatenate(parts).mean()
            assert results[protocol]['actions'][action]['mpjpe'] == pytest.approx(mean, rel=1e-5)


def test_refinement_trains_from_a_base_and_is_evaluated(base, h36m_folder, flags, run, tmp_path):
    status, out, err = run(*flags('refined', '--refine', '--init', base / 'best.bin', '--results', tmp_path / 'a.json'))
    assert (status, err) == (0, '')
    assert 'with a fresh refinement behind them' in out
    assert 'besides the keypoints, HTNet with refinement reads' in out
    assert 'HTNet with refinement, 1 frame' in out
    assert "reads each camera's focal length and centre, and the true depth of the root joint" in out
    saved = torch.load(tmp_path / 'refined' / 'best.bin', weights_only=True)
    assert saved['config']['refine'] is True
    assert (saved['settings']['lr'], saved['settings']['loss']) == (1e-5, 'refinement')
    assert {key.split('.')[0] for key in saved['model_pos']} == {'base', 'refine'}
    (line,) = [m for m in epochs_of(tmp_path / 'refined-log') if m['epoch'] == saved['metrics']['epoch']]
    assert line == {name: value for name, value in saved['metrics'].items() if name in line}
    # evaluated again, without any flag of the model's: the same figures with and without the refinement
    status, out, _ = run('-c', tmp_path / 'refined', '--evaluate', 'best.bin', '--data', h36m_folder, '--by-subject',
                         '--results', tmp_path / 'b.json', '--export-predictions', tmp_path / 'p.npz', '--device',
                         'cpu')
    assert status == 0
    a, b = (json.loads((tmp_path / name).read_text()) for name in ('a.json', 'b.json'))
    for kind in ('protocols', 'refined'):
        for protocol in ('paper', 'exact'):
            assert a[kind][protocol]['actions'] == b[kind][protocol]['actions']
            assert list(b[kind][protocol]) == ['actions', 'average', 'subjects']
    assert pooled(b['refined']) == pytest.approx(line['valid_mpjpe'], rel=1e-6)
    assert pooled(b['protocols']) == pytest.approx(line['valid_predicted_mpjpe'], rel=1e-6)
    table = out[out.index('Protocol paper'):].splitlines()
    assert len(table[0].split('|')) == 2
    assert any('predicted' in line and 'refined' in line for line in out.splitlines())
    row = b['refined']['paper']['average']
    assert f'refined average, protocol paper: MPJPE {row["mpjpe"]:.2f}' in out
    with np.load(tmp_path / 'p.npz') as file:
        assert file['refined'].shape == file['truth'].shape
        assert 'true depth of the root' in str(file['reads'])
        np.testing.assert_array_equal(file['refined'][:, 0], 0)
        errors = 1000 * np.linalg.norm(file['refined'] - file['truth'], axis=-1).mean(-1)
        mean = errors[np.char.startswith(file['action'], 'SittingDown')].mean()
        assert mean == pytest.approx(b['refined']['exact']['actions']['SittingDown']['mpjpe'], rel=1e-5)


def test_refinement_is_applied_once_to_the_mean_of_both_predictions(base, h36m_folder, run, tmp_path, flags):
    """Against the formula, from the checkpoint's parts: base as it comes (root included) in, root zeroed at the end."""
    assert run(*flags('refined', '--refine', '--init', base / 'best.bin', '-e', 1, '--export-predictions',
                      tmp_path / 'p.npz', '-ste', 'S9'))[0] == 0
    saved = torch.load(tmp_path / 'refined' / 'best.bin', weights_only=True)
    model = build_model('htnet', saved['config'], H36M, H36M)
    model.load_state_dict(saved['model_pos'])
    sequences = load_dataset('h36m', h36m_folder, 'gt').sequences(['S9'])
    store = SequenceStore(sequences, H36M, H36M, torch.device('cpu'))
    predicted = predictions(model.without_truth(), store, TestWindows.of(store, 1))['predicted']
    at = 0
    with np.load(tmp_path / 'p.npz') as file:
        for s in sequences:
            part = slice(at, at + len(s.poses))
            at += len(s.poses)
            with torch.no_grad():
                depth = torch.from_numpy(s.root[:, 2].copy())
                refined = model.eval().refine(predicted[part].transpose(0, 1), torch.from_numpy(s.keypoints)[None],
                                              torch.from_numpy(s.intrinsic)[None], depth[None])
            refined[:, :, 0] = 0
            np.testing.assert_allclose(file['refined'][part], refined[0], atol=1e-6)


def test_root_depth_and_intrinsic_are_the_camera_s(h36m_folder):
    dataset = load_dataset('h36m', h36m_folder, 'gt')
    (sequence, *_) = dataset.sequences(['S9'])
    camera = dataset.cameras['S9'][0]
    world = dataset.positions['S9'][sequence.action]
    np.testing.assert_allclose(sequence.root[:, 2], camera.from_world(world)[:, 0, 2], rtol=1e-6)
    assert sequence.root[:, 2].min() > 2
    np.testing.assert_array_equal(sequence.intrinsic, camera.intrinsic)


def test_a_refined_file_can_be_started_from(base, flags, run, refused, tmp_path):
    """Base and refinement are taken on; a refinement's loss and an optimizer's state are not to be changed."""
    assert run(*flags('a', '--refine', '--init', base / 'best.bin'), '-e', 1)[0] == 0
    assert run(*flags('b', '--init', tmp_path / 'a' / 'last.bin', '-lr', 1e-12), '-e', 1)[0] == 0
    a, b = (torch.load(tmp_path / name / 'last.bin') for name in 'ab')
    assert b['settings']['loss'] == 'refinement'
    for key, value in a['model_pos'].items():
        torch.testing.assert_close(b['model_pos'][key], value, atol=1e-7, rtol=0)
    for how in ('--init', '--resume'):
        assert 'a refinement has a loss of its own' in \
            refused(2, *flags('c', how, tmp_path / 'a' / 'last.bin', '--loss', 'mpjpe'))
    assert 'holds the state of amsgrad; say --init to start another' in \
        refused(2, *flags('c', '--resume', tmp_path / 'a' / 'last.bin', '--optimizer', 'adamw'))
    assert '-lrd is for a rate that decays' in refused(2, *flags('c', '--schedule', 'cosine', '-lrd', 0.5))
    broken = torch.load(base / 'best.bin')
    torch.save(broken | {'config': broken['config'] | {'heads': 7}}, tmp_path / 'broken.bin')
    assert 'broken.bin describes a model that cannot be built' in \
        refused(1, *flags('c', '--refine', '--init', tmp_path / 'broken.bin'))
    assert not (tmp_path / 'c').exists()
    assert '--overwrite would delete' in \
        refused(1, *flags('a', '--overwrite', '--refine', '--init', tmp_path / 'a' / 'best.bin'))
    assert (tmp_path / 'a' / 'best.bin').exists()


def test_another_root_picks_the_best_epoch_anew(flags, run):
    assert run(*flags('a'), '-e', 1)[0] == 0
    assert 'root has changed: the best epoch is picked anew' in run(*flags('a', '--resume', '--root', 'predicted'))[1]


def test_heads_of_a_public_file_are_what_the_flag_says(golden, fill, run, tmp_path):
    torch.save(fill(json.loads((golden / 'htnet_keys.json').read_text())), tmp_path / 'htnet.pth')
    tables = [run('-k', 'gt', '--data', golden / 'tiny', '-ste', 'S11', '--evaluate', tmp_path / 'htnet.pth', *heads)[1]
              for heads in ((), ('-num_heads', 8), ('-num_heads', 4))]
    assert tables[0] == tables[1] != tables[2]


def test_ktpformer_can_be_refined(trained, h36m_folder, run, tmp_path):
    status, out, _ = run('-k', 'gt', '--data', h36m_folder, '-str', 'S1', '-b', 90, '--refine', '--init',
                         trained[0] / 'best.bin', '-e', 1, '-c', tmp_path / 'c', '-l', tmp_path / 'l', '--device',
                         'cpu')
    assert status == 0
    assert 'KTPFormer with refinement, 9 frames' in out
    status, out, _ = run('--data', h36m_folder, '-c', tmp_path / 'c', '--evaluate', 'best.bin', '--device', 'cpu')
    assert status == 0
    assert 'refined average, protocol exact' in out
    assert run('-c', tmp_path / 'c', '--inspect', 'best.bin')[0] == 0


@pytest.mark.parametrize('more', [pytest.param((), marks=pytest.mark.slow), ('refine',)], ids=['base', 'refined'])
def test_a_resumed_run_equals_an_undisturbed_one(base, flags, run, tmp_path, more):
    """Dropout included: it is drawn from (seed, epoch, step)."""
    more = ['--refine', '--init', base / 'best.bin'] if more else []
    assert run(*flags('whole', *more), '-e', 3)[0] == 0
    assert run(*flags('parts', *more, '-cf', 1), '-e', 1)[0] == 0
    assert run(*flags('parts')[:4], '-str', 'S1', '-c', tmp_path / 'parts', '-l', tmp_path / 'parts-log', '--resume',
               '-e', 3, '--device', 'cpu')[0] == 0
    assert_same_run(tmp_path / 'whole', tmp_path / 'parts')


def test_the_optimizer_of_htnet_skips_a_bad_step_too(flags, refused, monkeypatch, tmp_path):
    from common.training import loop as train
    weights, gradient = [], train.Trainer.gradient

    def watched(self, batch, epoch, *objective):
        weights.append(torch.cat([p.detach().flatten().clone() for p in self.model.parameters()]))
        loss = gradient(self, batch, epoch, *objective)
        return loss * float('nan') if batch.number == 3 else loss
    monkeypatch.setattr(train.Trainer, 'gradient', watched)
    assert 'training diverged in epoch 1, step 4' in refused(1, *flags('run'))
    assert not torch.equal(weights[2], weights[3])
    assert all(torch.equal(weights[3], later) for later in weights[4:])


@pytest.mark.parametrize('refined', [pytest.param(False, marks=pytest.mark.slow), True], ids=['base', 'refined'])
def test_two_processes_are_one_run(base, flags, tmp_path, refined):
    """Drop path is drawn for the whole step; dropout may depend on the rank, so it is off."""
    recorder = tmp_path / 'recorder.py'
    recorder.write_text(RECORDER.format(root=str(ROOT)))
    more = ['--refine', '--init', base / 'best.bin'] if refined else []
    for processes in (1, 2):
        status, _, err = run_alone(
            recorder, tmp_path / f'{processes}.json',
            *flags(f'c{processes}', '--dropout', 0, '-b', 137, '-e', 1, '--results', tmp_path / f'r{processes}.json',
                   *more), ranks=processes)
        assert status == 0, err
    one, two = (json.loads((tmp_path / f'{n}.json').read_text()) for n in (1, 2))
    assert len(one) == 8  # 960 samples, 137 a step: the last step has one, which one rank takes
    if refined:  # the refinement's own dropout of 0.5 is drawn by rank: its losses agree on the average
        assert np.mean(two) == pytest.approx(np.mean(one), rel=0.05)
    else:
        assert two == pytest.approx(one, rel=1e-4)


def test_flags_and_files_that_contradict_the_model_are_refused(base, trained, h36m_folder, refused, flags, tmp_path):
    read = ['--data', h36m_folder, '-k', 'gt', '-c', tmp_path / 'new']
    data = [*read, '-l', tmp_path / 'log']
    assert '-f 243: htnet reads windows of 1 frame' in refused(2, *data, '--model', 'htnet', '-f', 243)
    assert '-f 243: htnet reads windows of 1 frame' in refused(2, *read, '--evaluate', base / 'best.bin', '-f', 243)
    assert '--no-kpa is not for --model htnet' in refused(2, *data, '--model', 'htnet', '--no-kpa')
    assert '--hidden is not for --model ktpformer' in refused(2, *data, '--hidden', 64)
    assert '--dropout is not for --model ktpformer' in refused(2, *data, '--init', trained[0] / 'best.bin',
                                                                 '--dropout', 0.1)
    assert '--dropout is not for --evaluate' in refused(2, *read, '--evaluate', base / 'best.bin', '--dropout', 0.1)
    assert '-cs 50: 50 channels cannot be divided by 3 and then among 8 heads' in \
        refused(2, *data, '--model', 'htnet', '-cs', 50)
    assert 'best.bin is a KTPFormer checkpoint, which --model htnet contradicts' in \
        refused(1, *read, '--model', 'htnet', '--evaluate', trained[0] / 'best.bin')
    assert 'best.bin is a HTNet checkpoint, which --model ktpformer contradicts' in \
        refused(1, *read, '--model', 'ktpformer', '--evaluate', base / 'best.bin')
    state = torch.load(trained[0] / 'best.bin')['model_pos']
    torch.save({'model_pos': state, 'epoch': 1, 'lr': 1e-3}, tmp_path / 'public.bin')
    assert 'public.bin is a KTPFormer checkpoint, which --model htnet contradicts' in \
        refused(1, *read, '--model', 'htnet', '--evaluate', tmp_path / 'public.bin')
    torch.save({'encoder.weight': torch.zeros(3)}, tmp_path / 'other.pth')
    assert 'other.pth is not a HTNet checkpoint: pos_embed is missing' in \
        refused(1, *read, '--model', 'htnet', '--evaluate', tmp_path / 'other.pth')
    assert '--refine needs a trained model to stand behind: name its checkpoint with --init FILE' in \
        refused(2, *data, '--model', 'htnet', '--refine')
    assert 'best.bin holds no refinement: train one behind it with --refine --init' in \
        refused(1, *read, '--refine', '--evaluate', base / 'best.bin')
    assert 'neither in' in refused(1, *data, '--refine', '--init', 'none.bin')
    assert '--refine starts from a trained model: say --init' in \
        refused(2, *data, '--refine', '--resume', base / 'last.bin')
    assert 'made with hidden 16, which --hidden 32 contradicts' in \
        refused(1, *read, '--evaluate', base / 'best.bin', '--hidden', 32)
    assert not (tmp_path / 'new').exists()


def test_refinement_without_what_it_reads_is_refused(base, flags, refused, run, monkeypatch, tmp_path):
    """Cameras without intrinsics; keypoints that are not the joints."""
    from common.datasets import h36m
    positions, detections = h36m_trees({'S1': {'Walking': 30}, 'S9': {'Walking': 20}})
    cut = {s: {a: [v[:, :16] for v in views] for a, views in takes.items()} for s, takes in detections.items()}
    write_h36m(tmp_path, positions, cut, {'num_joints': 16}, 'sh_ft_h36m')
    assert run(*flags('other'), '--data', tmp_path, '-k', 'sh_ft_h36m', '-ste', 'S9', '-e', 1)[0] == 0
    assert 'a refinement needs a keypoint for each joint, not mpii for h36m' in \
        refused(2, *flags('no'), '--data', tmp_path, '-k', 'sh_ft_h36m', '-ste', 'S9', '--refine', '--init',
                tmp_path / 'other' / 'best.bin')
    blind = {subject: [replace(camera, intrinsic=None) for camera in cameras]
             for subject, cameras in h36m.CAMERAS.items()}
    monkeypatch.setattr(h36m, 'CAMERAS', blind)
    assert "reads each camera's focal length and centre, which h36m does not tell for S1" in \
        refused(2, *flags('no'), '--refine', '--init', base / 'best.bin')
