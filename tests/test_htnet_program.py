"""HTNet and refinement through the whole program: recipe, tables, files, resuming, processes, refusals."""

import json

import numpy as np
import pytest
import torch
from conftest import h36m_trees, write_h36m
from test_distributed import RECORDER, ROOT, finish, start
from test_resume import assert_same_run, epochs_of

from common import arguments
from common.augment import mirror
from common.datasets import load_dataset
from common.engine.evaluate import TestWindows, predict
from common.engine.update import Recipe, learning_rate
from common.models import build_model
from common.sampler import SequenceStore
from common.skeleton import H36M

SMALL = ['--model', 'htnet', '-cs', '24', '-dep', '1', '--hidden', '16', '-b', '64', '--device', 'cpu']


@pytest.fixture
def flags(h36m_folder, tmp_path):
    def of(name, *more):
        return ['-k', 'gt', '--data', h36m_folder, '-str', 'S1', *SMALL, '-e', '2', '-c', tmp_path / name, '-l',
                tmp_path / f'{name}-log', *more]
    return of


@pytest.fixture(scope='module')
def base(h36m_folder, tmp_path_factory):
    """The checkpoint folder of a trained HTNet; not to be written to."""
    import run_ktpformer
    folder = tmp_path_factory.mktemp('base')
    assert run_ktpformer.main(['-k', 'gt', '--data', str(h36m_folder), '-str', 'S1', *SMALL, '-e', '2', '-c',
                               str(folder / 'c'), '-l', str(folder / 'l')]) == 0
    return folder / 'c'


def test_the_recipe_is_the_published_one():
    settings = arguments.fill(arguments.parse(['--model', 'htnet']), 'htnet')
    recipe = Recipe.of(settings)
    assert (recipe.epochs, recipe.windows, recipe.optimizer, recipe.loss, recipe.objective, recipe.root) == \
        (15, 512, 'amsgrad', 'mpjpe', 'plain', 'zero')
    assert (settings['frames'], settings['stride'], settings['seed']) == (1, 1, 1)
    # after each epoch, counted from 1: halved if its number is a multiple of 5, else times 0.95
    rate = 5e-4
    for epoch in range(1, 16):
        assert learning_rate(recipe, recipe.lr, 1, epoch, 0, 100) == pytest.approx(rate)
        rate *= 0.5 if epoch % 5 == 0 else 0.95
    # resumed in epoch 4, the fifth epoch is still the one after which it is halved
    assert learning_rate(recipe, 1.0, 4, 6, 0, 100) == pytest.approx(0.95 * 0.5)
    assert -(-2 * 1_559_752 // recipe.windows) == 6093


def test_the_recipe_of_ktpformer_is_the_published_one():
    recipe = Recipe.of(arguments.fill(arguments.parse(['-s', '128']), 'ktpformer'))
    assert recipe == Recipe(epochs=200, windows=8, lr=8e-5, lr_decay=0.99, weight_decay=0.1, objective='half-square',
                            seed=1234, optimizer='adamw', loss='weighted', root='predicted')


@pytest.mark.parametrize('flag, value', [('--optimizer', 'adamw'), ('--loss', 'weighted'), ('-lrd', 0.5), ('-lr', 0.1),
                                         ('--lr-drop-every', 3), ('--objective', 'half-square'),
                                         ('--root', 'predicted'), ('--dropout', 0.3), ('--drop-path', 0.2),
                                         ('--weight-decay', 0.1)])
def test_flags_override_the_recipe(flag, value):
    args = arguments.parse(['--model', 'htnet', flag, str(value)])
    settings = arguments.fill(args, 'htnet')
    assert value in [settings[name] for name in settings if settings[name] != arguments.fill(
        arguments.parse(['--model', 'htnet']), 'htnet')[name]]


def test_training_and_evaluating(base, h36m_folder, run, tmp_path):
    saved = torch.load(base / 'best.bin', weights_only=True)
    assert saved['model'] == 'htnet'
    assert saved['config'] == {'channels': 24, 'depth': 1, 'heads': 8, 'hidden': 16}
    assert saved['optimizer']['param_groups'][0]['amsgrad']
    assert saved['metrics']['valid_mpjve'] is None
    figures = []
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
        figures.append(results['protocols']['paper']['average']['mpjpe'])
    assert figures[0] == pytest.approx(saved['metrics']['valid_mpjpe'], rel=0.2)


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


def test_refinement_from_base_to_table(base, h36m_folder, flags, run, tmp_path):
    status, out, err = run(*flags('refined', '--refine', '--init', base / 'best.bin', '--results', tmp_path / 'a.json'))
    assert (status, err) == (0, '')
    assert 'with a fresh refinement behind them' in out
    assert 'HTNet with refinement, 1 frame' in out
    assert "reads each camera's focal length and centre, and the true depth of the root joint" in out
    saved = torch.load(tmp_path / 'refined' / 'best.bin', weights_only=True)
    assert saved['config']['refine'] is True
    assert (saved['settings']['lr'], saved['settings']['loss']) == (1e-5, 'refinement')
    assert {key.split('.')[0] for key in saved['model_pos']} == {'base', 'refine'}
    (line,) = [m for m in epochs_of(tmp_path / 'refined-log') if m['epoch'] == saved['metrics']['epoch']]
    assert line['valid_base_mpjpe'] != line['valid_mpjpe']
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
    table = out[out.index('Protocol paper'):].splitlines()
    assert len(table[0].split('|')) == 2
    assert any('predicted' in line and 'refined' in line for line in out.splitlines())
    row = b['refined']['paper']['average']
    assert f'refined average, protocol paper: MPJPE {row["mpjpe"]:.2f}' in out
    with np.load(tmp_path / 'p.npz') as file:
        assert file['refined'].shape == file['truth'].shape
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
    predicted = predict(model, store, TestWindows.of(store, 1))
    at = 0
    with np.load(tmp_path / 'p.npz') as file:
        for s in sequences:
            part = slice(at, at + len(s.poses))
            at += len(s.poses)
            with torch.no_grad():
                refined = model.eval().refine(predicted[part].transpose(0, 1), torch.from_numpy(s.keypoints)[None],
                                              torch.from_numpy(s.intrinsic)[None], torch.from_numpy(s.root_depth)[None])
            refined[:, :, 0] = 0
            np.testing.assert_allclose(file['refined'][part], refined[0], atol=1e-6)


def test_root_depth_and_intrinsic_are_the_camera_s(h36m_folder):
    dataset = load_dataset('h36m', h36m_folder, 'gt')
    (sequence, *_) = dataset.sequences(['S9'])
    camera = dataset.cameras['S9'][0]
    world = dataset.positions['S9'][sequence.action]
    np.testing.assert_allclose(sequence.root_depth, camera.from_world(world)[:, 0, 2], rtol=1e-6)
    assert sequence.root_depth.min() > 2
    np.testing.assert_array_equal(sequence.intrinsic, camera.intrinsic)


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


@pytest.mark.parametrize('more', [(), ('refine',)], ids=['base', 'refined'])
def test_a_resumed_run_equals_an_undisturbed_one(base, flags, run, tmp_path, more):
    """Dropout included: it is drawn from (seed, epoch, step)."""
    more = ['--refine', '--init', base / 'best.bin'] if more else []
    assert run(*flags('whole', *more), '-e', 3)[0] == 0
    assert run(*flags('parts', *more, '-cf', 1), '-e', 1)[0] == 0
    assert run(*flags('parts')[:4], '-str', 'S1', '-c', tmp_path / 'parts', '-l', tmp_path / 'parts-log', '--resume',
               '-e', 3, '--device', 'cpu')[0] == 0
    assert_same_run(tmp_path / 'whole', tmp_path / 'parts')


def test_the_optimizer_of_htnet_skips_a_bad_step_too(flags, refused, monkeypatch, tmp_path):
    from common.engine import train
    weights, gradient = [], train.Trainer.gradient

    def watched(self, batch, epoch, *objective):
        weights.append(torch.cat([p.detach().flatten().clone() for p in self.model.parameters()]))
        loss = gradient(self, batch, epoch, *objective)
        return loss * float('nan') if batch.step == 3 else loss
    monkeypatch.setattr(train.Trainer, 'gradient', watched)
    assert 'training diverged in epoch 1, step 4' in refused(1, *flags('run'))
    assert not torch.equal(weights[2], weights[3])
    assert all(torch.equal(weights[3], later) for later in weights[4:])


@pytest.mark.parametrize('refined', [False, True], ids=['base', 'refined'])
def test_two_processes_are_one_run(base, flags, tmp_path, refined):
    """Drop path is drawn for the whole step; dropout may depend on the rank, so it is off."""
    recorder = tmp_path / 'recorder.py'
    recorder.write_text(RECORDER.format(root=str(ROOT)))
    more = ['--refine', '--init', base / 'best.bin'] if refined else []
    for processes in (1, 2):
        status, _, err = finish(start(processes, recorder, tmp_path / f'{processes}.json',
                                      *flags(f'c{processes}', '--dropout', 0, '-b', 65, '-e', 1, '--results',
                                             tmp_path / f'r{processes}.json', *more)))
        assert status == 0, err
    one, two = (json.loads((tmp_path / f'{n}.json').read_text()) for n in (1, 2))
    assert len(one) == 15  # 960 samples, 65 a step: the last has 50
    if refined:  # the refinement's own dropout of 0.5 is drawn by rank: its losses agree on the average
        assert np.mean(two) == pytest.approx(np.mean(one), rel=0.05)
    else:
        assert two == pytest.approx(one, rel=1e-4)


def test_what_cannot_be(base, trained, h36m_folder, refused, flags, tmp_path):
    data = ['--data', h36m_folder, '-k', 'gt', '-c', tmp_path / 'new', '-l', tmp_path / 'log']
    assert '-f 243: htnet lifts every frame by itself' in refused(2, *data, '--model', 'htnet', '-f', 243)
    assert '-f 243: htnet lifts every frame by itself' in refused(2, *data, '--evaluate', base / 'best.bin', '-f', 243)
    assert '--no-kpa is not for --model htnet' in refused(2, *data, '--model', 'htnet', '--no-kpa')
    assert '--hidden is not for --model ktpformer' in refused(2, *data, '--hidden', 64)
    assert '--dropout is not for --model ktpformer' in refused(2, *data, '--evaluate', trained[0] / 'best.bin',
                                                                 '--dropout', 0.1)
    assert '-cs 50 channels cannot be divided by 3 and then among -num_heads 8' in \
        refused(2, *data, '--model', 'htnet', '-cs', 50)
    assert 'best.bin is a KTPFormer checkpoint, which --model htnet contradicts' in \
        refused(1, *data, '--model', 'htnet', '--evaluate', trained[0] / 'best.bin')
    assert 'best.bin is a HTNet checkpoint, which --model ktpformer contradicts' in \
        refused(1, *data, '--model', 'ktpformer', '--evaluate', base / 'best.bin')
    state = torch.load(trained[0] / 'best.bin')['model_pos']
    torch.save({'model_pos': state, 'epoch': 1, 'lr': 1e-3}, tmp_path / 'public.bin')
    assert 'public.bin is a KTPFormer checkpoint, which --model htnet contradicts' in \
        refused(1, *data, '--model', 'htnet', '--evaluate', tmp_path / 'public.bin')
    torch.save({'encoder.weight': torch.zeros(3)}, tmp_path / 'other.pth')
    assert 'other.pth is not a HTNet checkpoint: pos_embed is missing' in \
        refused(1, *data, '--model', 'htnet', '--evaluate', tmp_path / 'other.pth')
    assert '--refine needs a trained model to stand behind: name its checkpoint with --init FILE' in \
        refused(2, *data, '--model', 'htnet', '--refine')
    assert 'best.bin holds no refinement: train one behind it with --refine --init' in \
        refused(1, *data, '--refine', '--evaluate', base / 'best.bin')
    assert 'neither in' in refused(1, *data, '--refine', '--init', 'none.bin')
    assert '--refine starts from a trained model: say --init' in \
        refused(2, *data, '--refine', '--resume', base / 'last.bin')
    assert 'made with hidden 16, which --hidden 32 contradicts' in \
        refused(1, *data, '--evaluate', base / 'best.bin', '--hidden', 32)
    assert not (tmp_path / 'new').exists()


def test_no_refinement_without_what_it_reads(base, flags, refused, run, monkeypatch, tmp_path):
    """Cameras without intrinsics; keypoints that are not the joints."""
    from dataclasses import replace

    from common.datasets import h36m
    positions, detections = h36m_trees({'S1': {'Walking': 30}, 'S9': {'Walking': 20}})
    cut = {s: {a: [v[:, :16] for v in views] for a, views in takes.items()} for s, takes in detections.items()}
    write_h36m(tmp_path, positions, cut, {'num_joints': 16}, 'sh_ft_h36m')
    assert run(*flags('other'), '--data', tmp_path, '-k', 'sh_ft_h36m', '-ste', 'S9', '-e', 1)[0] == 0
    assert 'a refinement needs a keypoint for each joint, but keypoints are of layout mpii' in \
        refused(2, *flags('no'), '--data', tmp_path, '-k', 'sh_ft_h36m', '-ste', 'S9', '--refine', '--init',
                tmp_path / 'other' / 'best.bin')
    blind = {subject: [replace(camera, intrinsic=None) for camera in cameras]
             for subject, cameras in h36m.CAMERAS.items()}
    monkeypatch.setattr(h36m, 'CAMERAS', blind)
    assert "a refinement needs the cameras' intrinsics, which h36m does not have for S1" in \
        refused(2, *flags('no'), '--refine', '--init', base / 'best.bin')
