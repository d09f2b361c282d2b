"""The whole program: golden tables and epochs, what a run leaves behind, resuming, evaluating, refusing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, h36m_trees, resize_keys, write_h36m
from processes import Process

ROOT = Path(__file__).parents[1]


def metrics_of(log: Path) -> list[dict]:
    """Return the epochs of the newest run folder under a log folder."""
    return [json.loads(line) for line in (sorted(log.iterdir())[-1] / 'metrics.jsonl').read_text().splitlines()]


@pytest.fixture(scope='module')
def public_files(golden, fill, tmp_path_factory):
    """Write {frames: file} as the published program does, with the weights of the golden tables."""
    keys = json.loads((golden / 'ktpformer_keys.json').read_text())
    files = {}
    for frames in (27, 81):
        state = {f'module.{key}': value for key, value in fill(resize_keys(keys, frames, 64, 2)).items()}
        files[frames] = tmp_path_factory.mktemp('public') / f'f{frames}.bin'
        torch.save({'epoch': 3, 'lr': 0.001, 'random_state': np.random.RandomState(1234), 'optimizer': None,
                    'model_pos': state}, files[frames])
    return files


@pytest.mark.parametrize('case', [0, 1, pytest.param(2, marks=pytest.mark.slow)])
def test_tables_equal_the_golden_ones(golden, public_files, run, tmp_path, case):
    expected = json.loads((golden / 'tiny' / 'expected.json').read_text())['evaluate'][case]
    frames = expected['number_of_frames']
    status, out, err = run('-k', expected['keypoints'], '--data', golden / 'tiny', '--evaluate', public_files[frames],
                           '-ste', expected['subjects_test'], '--results', tmp_path / 'r.json')
    assert (status, err) == (0, '')
    results = json.loads((tmp_path / 'r.json').read_text())
    paper = results['protocols']['paper']
    figures = paper['actions'] | {'average': paper['average']}
    assert list(figures) == list(expected['millimetres'])
    for name, row in expected['millimetres'].items():
        assert {metric: figures[name][metric] for metric in row} == pytest.approx(row, abs=0.005), name
    assert results['frames'] == frames
    assert f'average, protocol paper: MPJPE {paper["average"]["mpjpe"]:.2f}' in out


@pytest.mark.parametrize('last', [4, pytest.param(7, marks=pytest.mark.slow)])
def test_training_losses_equal_the_golden_ones(golden, public_files, run, tmp_path, last):
    """Epochs from the published program's file on: its train_loss to 1e-4, its validation figures to 2 %."""
    expected = json.loads((golden / 'tiny' / 'expected.json').read_text())['train']['epochs']
    status, out, _ = run('-k', 'cpn_ft_h36m_dbb', '--data', golden / 'tiny', '-str', 'S1', '-ste', 'S9,S11',
                         '--resume', public_files[27], '-b', 270, '-s', 27, '-lr', 0.001, '--drop-path', 0, '-e', last,
                         '-c', tmp_path / 'c', '-l', tmp_path / 'l', '--device', 'cpu')
    assert status == 0
    assert "the optimizer starts fresh, and the window order at its generator's first draw" in out
    epochs = metrics_of(tmp_path / 'l')
    assert [m['epoch'] for m in epochs] == list(range(4, last + 1))
    for m in epochs:
        want = expected[str(m['epoch'])]
        assert m['train_loss'] == pytest.approx(want['train_loss'], rel=1e-4)
        assert m['valid_mpjpe'] == pytest.approx(want['valid_mpjpe'], rel=0.02)
        assert m['valid_mpjve'] == pytest.approx(want['valid_mpjve'], rel=0.02)
        assert m['lr'] == pytest.approx(0.001 * 0.99 ** (m['epoch'] - 4))


def test_a_run_writes_checkpoints_settings_and_metrics(trained):
    checkpoints, log = trained
    assert sorted(p.name for p in checkpoints.iterdir()) == ['best.bin', 'epoch_1.bin', 'epoch_2.bin', 'last.bin',
                                                             'previous.bin']
    (folder,) = log.iterdir()
    about = json.loads((folder / 'run.json').read_text())
    assert about['command'][:3] == ['run_ktpformer.py', '-k', 'gt']
    assert about['parameters'] == sum(v.numel() for k, v in torch.load(checkpoints / 'last.bin')['model_pos'].items()
                                      if 'running' not in k and 'num_batches' not in k)
    assert about['versions']['torch'] == torch.__version__
    assert about['mean_pose_mpjpe'] > 0
    assert len(about['git']) >= 40
    assert any(p.name.startswith('events.out') for p in folder.iterdir())
    epochs = metrics_of(log)
    assert [m['epoch'] for m in epochs] == [1, 2]
    assert [m['lr'] for m in epochs] == pytest.approx([1e-3, 1e-3 * 0.99])
    for m in epochs:
        assert set(m) == {'epoch', 'lr', 'train_loss', 'valid_mpjpe', 'valid_mpjve', 'seconds', 'frames_per_second'}
        assert all(value > 0 for value in m.values())


def test_a_checkpoint_explains_itself(trained):
    saved = torch.load(trained[0] / 'last.bin', weights_only=True)
    assert saved['model'] == 'ktpformer'
    assert saved['config'] == {'frames': 9, 'channels': 32, 'depth': 1, 'heads': 8, 'kpa': True, 'tpa': True,
                               'confidence': False, 'mlp_ratio': 2.0}
    assert saved['skeleton']['name'] == saved['layout']['name'] == 'h36m'
    assert (saved['dataset'], saved['keypoints'], saved['epoch'], saved['seed']) == ('h36m', 'gt', 2, 1234)
    assert saved['metrics']['epoch'] == 2
    assert saved['optimizer']['state']
    assert saved['versions']['torch'] == torch.__version__


def test_evaluating_a_saved_file_repeats_its_numbers(trained, h36m_folder, run, tmp_path):
    """Model, frames, data set and keypoints come from the file; the closing table of the training run comes back."""
    checkpoints, _ = trained
    status, out, err = run('-c', checkpoints, '--evaluate', 'best.bin', '--data', h36m_folder, '--by-subject',
                           '--protocol', 'exact', '--results', tmp_path / 'r.json')
    assert (status, err) == (0, '')
    results = json.loads((tmp_path / 'r.json').read_text())
    assert list(results) == ['checkpoint', 'model', 'dataset', 'keypoints', 'frames', 'protocols']
    assert (results['dataset'], results['keypoints'], results['frames']) == ('h36m', 'gt', 9)
    assert list(results['protocols']) == ['paper', 'exact']
    for figures in results['protocols'].values():
        assert list(figures['subjects']) == ['S9', 'S11']
        assert list(figures['actions']) == ['Directions', 'Sitting', 'SittingDown']
        for row in (figures['average'], *figures['actions'].values()):
            assert list(row) == ['mpjpe', 'p_mpjpe', 'n_mpjpe', 'mpjve']
    best = torch.load(checkpoints / 'best.bin')['metrics']
    assert 'Protocol exact' in out
    assert 'S11, protocol exact' in out
    assert f'MPJPE {results["protocols"]["paper"]["average"]["mpjpe"]:.2f}' in out
    # pooled over all window frames, the figures by action give back what was logged while training
    windows = {('S9', 'Directions'): 3, ('S9', 'Sitting'): 1, ('S9', 'SittingDown'): 4, ('S11', 'Directions'): 1,
               ('S11', 'Sitting'): 2, ('S11', 'SittingDown'): 2}
    subjects = results['protocols']['paper']['subjects']
    pooled = sum(n * subjects[s]['actions'][a]['mpjpe'] for (s, a), n in windows.items()) / sum(windows.values())
    assert pooled == pytest.approx(best['valid_mpjpe'], rel=1e-6)


def test_the_closing_table_is_that_of_evaluate(h36m_folder, run, tmp_path):
    flags = ['-k', 'gt', '--data', h36m_folder, '-c', tmp_path / 'c']
    status, closing, _ = run(*flags, '-str', 'S1', *SMALL, '-e', 1, '-l', tmp_path / 'l', '--results',
                             tmp_path / 'a.json')
    assert status == 0
    status, again, _ = run(*flags, '--evaluate', 'best.bin', '--results', tmp_path / 'b.json', '--device', 'cpu')
    assert status == 0
    assert closing.split('Protocol')[1] == again.split('Protocol')[1]
    assert json.loads((tmp_path / 'a.json').read_text()) == json.loads((tmp_path / 'b.json').read_text())


def test_exported_predictions_give_the_figures_of_the_table(trained, h36m_folder, run, tmp_path):
    status, _, _ = run('-c', trained[0], '--evaluate', 'last.bin', '--data', h36m_folder, '--export-predictions',
                       tmp_path / 'p.npz', '--results', tmp_path / 'r.json')
    assert status == 0
    with np.load(tmp_path / 'p.npz') as file:  # no pickles in it
        rows = {name: file[name] for name in file.files}
    assert rows['prediction'].shape == rows['truth'].shape == (4 * (21 + 9 + 30 + 5 + 18 + 10), 17, 3)
    assert str(rows['units']) == 'metres'
    assert rows['joints'].tolist()[0] == 'hip'
    errors = 1000 * np.linalg.norm(rows['prediction'] - rows['truth'], axis=-1).mean(-1)
    exact = json.loads((tmp_path / 'r.json').read_text())['protocols']['exact']['actions']
    for action, figures in exact.items():
        mine = [name.split(' ')[0] == action for name in rows['action']]
        assert errors[mine].mean() == pytest.approx(figures['mpjpe'], rel=1e-5)


def test_resuming_continues_epochs_rate_and_best(trained, h36m_folder, run, tmp_path):
    checkpoints, log = trained
    flags = ['--data', h36m_folder, '-c', tmp_path / 'c', '-l', tmp_path / 'l', '--device', 'cpu']
    status, out, _ = run(*flags, '--resume', checkpoints / 'last.bin', '-e', 3)
    assert status == 0
    assert 'continuing' in out
    (epoch,) = metrics_of(tmp_path / 'l')  # in another -c it is a branch with a folder of its own
    assert epoch['epoch'] == 3
    assert epoch['lr'] == pytest.approx(1e-3 * 0.99 ** 2)
    saved = torch.load(tmp_path / 'c' / 'last.bin')
    assert saved['settings']['batch'] == 90  # what the first command said still holds
    assert saved['settings']['subjects_train'] == ('S1',)
    best = min([*metrics_of(log), epoch], key=lambda m: m['valid_mpjpe'])
    assert saved['best']['epoch'] == best['epoch']
    steps = {state['step'].item() for state in saved['optimizer']['state'].values()}
    assert steps == {3 * 12}  # 4 cameras × 15 windows × 2 at ten a step, in three epochs

@pytest.mark.slow  # tests/test_resume.py has fast ones
def test_resumed_run_equals_an_undisturbed_one(h36m_folder, run, tmp_path):
    """Two epochs and one more after resuming leave the weights of three epochs in one go, bit for bit."""
    common = ['-k', 'gt', '--data', h36m_folder, '-str', 'S1', *SMALL, '-l', tmp_path / 'l']
    assert run(*common, '-e', 3, '-c', tmp_path / 'whole')[0] == 0
    assert run(*common, '-e', 2, '-c', tmp_path / 'parts')[0] == 0
    assert run('--data', h36m_folder, '-e', 3, '-c', tmp_path / 'parts', '-r', 'last.bin', '-l', tmp_path / 'l',
               '--device', 'cpu')[0] == 0
    whole, parts = (torch.load(tmp_path / name / 'last.bin') for name in ('whole', 'parts'))
    for key, value in whole['model_pos'].items():
        assert torch.equal(value, parts['model_pos'][key]), key
    assert whole['metrics']['train_loss'] == parts['metrics']['train_loss']


def test_public_file_resumes_with_a_given_rate(public_files, h36m_folder, run, tmp_path):
    status, out, _ = run('-k', 'gt', '--data', h36m_folder, '-str', 'S1', '--resume', public_files[27], '-e', 4, '-c',
                         tmp_path / 'c', '-l', tmp_path / 'l', '-lr', '5e-4', '--device', 'cpu')
    assert status == 0
    assert 'is a public file: its weights are taken, at epoch 3, lr 0.0005' in out
    assert metrics_of(tmp_path / 'l')[0]['lr'] == 5e-4


def test_no_eval_looks_at_no_test_subject(tmp_path, run):
    """No test subject is even in the files, and there is neither a best.bin nor a table."""
    write_h36m(tmp_path, *h36m_trees({'S1': {'Walking': 30}}))
    status, out, _ = run('-k', 'gt', '--data', tmp_path, '-str', 'S1', '--no-eval', '-e', 2, *SMALL,
                         '-c', tmp_path / 'c', '-l', tmp_path / 'l')
    assert status == 0
    assert 'Protocol' not in out
    assert sorted(p.name for p in (tmp_path / 'c').iterdir()) == ['last.bin', 'previous.bin']
    for m in metrics_of(tmp_path / 'l'):
        assert m['valid_mpjpe'] is m['valid_mpjve'] is None


@pytest.mark.parametrize('flags', [['--no-kpa'], ['--no-tpa'], ['--no-kpa', '--no-tpa'], ['-no-da'],
                                   ['--objective', 'plain'], ['-a', 'Directions', '--downsample', '2'],
                                   ['--subset', '0.5'], ['-num_heads', '4']], ids=' '.join)
def test_every_variation_trains_and_evaluates(h36m_folder, run, tmp_path, flags):
    common = ['-k', 'gt', '--data', h36m_folder, '-c', tmp_path / 'c']
    assert run(*common, '-str', 'S1', *SMALL, '-e', 1, '-l', tmp_path / 'l', *flags)[0] == 0
    assert run(*common, '--evaluate', 'best.bin')[0] == 0


@pytest.mark.parametrize('name, joints', [('detectron_pt_coco', 17), ('sh_ft_h36m', 16)])
def test_detections_of_other_layouts_train_and_evaluate(tmp_path, run, refused, name, joints):
    positions, detections = h36m_trees({'S1': {'Walking': 30}, 'S9': {'Walking': 20}})
    cut = {s: {a: [v[:, :joints] for v in views] for a, views in takes.items()} for s, takes in detections.items()}
    write_h36m(tmp_path, positions, detections)
    write_h36m(tmp_path, positions, cut, {'num_joints': joints}, name)
    common = ['--data', tmp_path, '-ste', 'S9', '-c', tmp_path / 'c']
    assert run(*common, '-str', 'S1', *SMALL, '-k', name, '-e', 1, '-l', tmp_path / 'l')[0] == 0
    assert run(*common, '--evaluate', 'best.bin')[0] == 0
    layout = 'coco' if joints == 17 else 'mpii'
    line = refused(1, *common, '-k', 'gt', '--evaluate', 'best.bin')
    assert f'best.bin was made for keypoints of layout {layout}, but' in line
    assert 'data_2d_h36m_gt.npz has layout h36m' in line


def test_other_keypoints_of_the_same_layout_are_allowed_and_named(trained, tmp_path, run):
    write_h36m(tmp_path, *h36m_trees({'S9': {'Walking': 20}}), name='cpn')
    status, out, _ = run('-c', trained[0], '--evaluate', 'best.bin', '--data', tmp_path, '-k', 'cpn', '-ste', 'S9')
    assert status == 0
    assert 'trained on h36m, keypoints gt; computing in fp32\nevaluated on h36m, keypoints cpn, subjects S9' in out


@pytest.mark.slow
def test_synthetic_runs_without_any_file(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = run('-d', 'synthetic', *SMALL, '-e', 1, '-b', 900, '-str', 'S1', '-ste', 'S5')
    assert (status, err) == (0, '')
    assert 'average, protocol exact: MPJPE' in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ['checkpoint', 'log']


@pytest.mark.parametrize('flags, message', [
    (['-f', '0'], 'argument -f/--number-of-frames: expected a whole number of at least 1 up to 10000, got 0'),
    (['-b', '0'], 'argument -b/--batch: expected a whole number of at least 1, got 0'),
    (['-b', '2.5'], 'expected a whole number'), (['-lr', '-1'], 'expected a number above 0'),
    (['-lr', 'nan'], 'expected a number'), (['-e', 'x'], 'expected a whole number of at least 1, got x'),
    (['--drop-path', '1'], 'expected a number of at least 0 up to 0.99'), (['--subset', '0'], 'above 0 up to 1'),
    (['-d', 'synthetic', '-cs', '100'], '-cs 100: 100 channels cannot be divided among 8 heads'),
    (['-d', 'synthetic', '-cs', '32', '-num_heads', '5'], '32 channels cannot be divided among 5 heads'),
    (['-str', 'S1,,S2'], 'expected different names'),
    (['-d', 'coco'], "invalid choice: 'coco'"), (['--objective', 'x'], 'invalid choice'),
    (['-lr1e-3'], 'leave a space, -lr 1e-3'), (['-kgt'], 'leave a space, -k gt'),
    (['--evaluate', 'best.bin', '-causal'], '-causal: there is no such flag; did you mean --causal?'),
    (['-compile'], 'did you mean --compile?'), (['-evaluate', 'best.bin'], 'did you mean --evaluate?'),
    (['--evaluate', ''], 'expected a name, got an empty text'),
    (['-str', 'S1,S1'], 'expected different names'), (['-d', 'synthetic', '-c', ''], 'got an empty text'),
    (['--evaluate', 'a', '--resume', 'b'], 'exclude each other'),
    (['--evaluate', 'a', '--no-eval'], '--no-eval is not for'),
    (['--no-eval', '--results', 'r.json'], '--results needs the evaluation that --no-eval leaves out'),
    (['-d', 'synthetic', '--export-predictions', 'x.mat'], 'expected a name that ends in .npz'),
    (['--frames', '9'], 'unrecognized'),
    (['-d', 'synthetic', '-k', 'cpn'], '-d synthetic has no keypoints cpn; there are gt, noisy'),
    (['-d', 'synthetic', '-a', 'Jumping'], 'unknown action Jumping; there are Walking, Waving'),
    (['-d', 'synthetic', '-a', 'Wa'], 'action Wa is ambiguous: write one of Walking, Waving'),
    (['-d', 'synthetic', '-ste', 'S99'], 'unknown subject S99 of synthetic; there are S1, S2'),
    (['--device', 'cuda', '-d', 'synthetic'], 'there is no CUDA device here'),
], ids=lambda x: ' '.join(x) if isinstance(x, list) else '')
def test_contradicting_flags_are_refused(refused, flags, message, tmp_path, monkeypatch):
    if '--device' in flags and torch.cuda.is_available():
        pytest.skip('there is a CUDA device here')
    monkeypatch.chdir(tmp_path)
    assert message in refused(2, *flags)


def test_unfit_checkpoints_and_folders_are_refused(refused, trained, h36m_folder, tmp_path, public_files):
    """Checkpoints and folders; test_datasets.py has the data files."""
    c = trained[0]
    data = ['--data', h36m_folder, '-k', 'gt']
    assert f'none.bin is neither in {c}' in refused(1, *data, '-c', c, '--evaluate', 'none.bin')
    assert 'made with frames 9, which -f 27 contradicts' in \
        refused(1, *data, '-c', c, '--evaluate', 'best.bin', '-f', 27)
    assert 'made with tpa True, which --no-tpa contradicts' in \
        refused(1, *data, '-c', c, '--evaluate', 'best.bin', '--no-tpa')
    assert 'made with frames 27, which -f 243 contradicts' in \
        refused(1, *data, '--evaluate', public_files[27], '-f', 243)
    torch.save({'encoder.weight': torch.zeros(3)}, tmp_path / 'other.pth')
    assert 'other.pth is not a KTPFormer checkpoint: tpattention.attn.Temporal_pos_embed is missing' in \
        refused(1, *data, '--evaluate', tmp_path / 'other.pth')
    saved = torch.load(c / 'best.bin')
    torch.save(saved | {'model': 'htnet'}, tmp_path / 'htnet.bin')
    assert "its setting model is 'ktpformer', expected htnet" in refused(1, *data, '--evaluate', tmp_path / 'htnet.bin')
    torch.save(saved | {'model': 'other'}, tmp_path / 'unknown.bin')
    assert 'is a other checkpoint, this program builds ktpformer, mixste' in \
        refused(1, *data, '--evaluate', tmp_path / 'unknown.bin')
    saved['model_pos'].pop('head.0.bias')
    del saved['digest']
    torch.save(saved, tmp_path / 'part.bin')
    assert 'does not fit KTPFormer: head.0.bias is missing' in refused(1, *data, '--evaluate', tmp_path / 'part.bin')
    assert 'cannot write' in \
        refused(1, *data, '-c', c, '--evaluate', 'best.bin', '--results', tmp_path / 'no' / 'r.json')
    assert "holds another run's last.bin" in refused(1, *data, *SMALL, '-str', 'S1', '-c', c)
    (tmp_path / 'file').touch()
    assert 'cannot use the checkpoint folder' in refused(1, *data, *SMALL, '-str', 'S1', '-c', tmp_path / 'file')
    assert 'it is a folder' in refused(1, *data, '-c', c, '--evaluate', 'best.bin', '--results', tmp_path)
    assert 'describes a model that cannot be built: 64 channels cannot be divided among 5 heads' in \
        refused(1, *data, '--evaluate', public_files[27], '-num_heads', 5)
    for damage in ({'epoch': 'x'}, {'optimizer': None}, {'settings': []}, {'config': {}}, {'config': {'heads': 0}},
                   {'optimizer': {'state': {}, 'param_groups': []}}):
        torch.save(torch.load(c / 'last.bin') | damage, tmp_path / 'd.bin')
        assert 'd.bin' in refused(1, *data, '-c', tmp_path / 'new', '-r', tmp_path / 'd.bin', '-str', 'S1', '-e', 3)


def test_overwrite_starts_over(trained, h36m_folder, run, tmp_path):
    shutil.copytree(trained[0], tmp_path / 'c')
    assert run('-k', 'gt', '--data', h36m_folder, *SMALL, '-str', 'S1', '-e', 1, '--no-eval', '-c', tmp_path / 'c',
               '-l', tmp_path / 'l', '--overwrite')[0] == 0
    assert torch.load(tmp_path / 'c' / 'last.bin')['epoch'] == 1
    assert not (tmp_path / 'c' / 'best.bin').exists()  # it would have been the other run's


def test_resuming_elsewhere_takes_the_best_epoch_along(trained, h36m_folder, run, tmp_path):
    """And no other run's: a best.bin that is not of the resumed run's best epoch is not taken for it."""
    checkpoints, _ = trained
    flags = ['--data', h36m_folder, '-e', 2, '-l', tmp_path / 'l', '--device', 'cpu']
    status, out, _ = run(*flags, '-r', checkpoints / 'last.bin', '-c', tmp_path / 'new')
    assert status == 0
    assert 'nothing is left to train up to -e 2' in out
    best = torch.load(checkpoints / 'best.bin')['epoch']
    assert torch.load(tmp_path / 'new' / 'best.bin')['epoch'] == best
    (tmp_path / 'other').mkdir()
    foreign = torch.load(checkpoints / 'best.bin')
    torch.save(foreign | {'run_id': 'another', 'epoch': 77}, tmp_path / 'other' / 'best.bin')
    status, out, _ = run(*flags, '-r', checkpoints / 'last.bin', '-c', tmp_path / 'other')
    assert status == 1
    status, out, _ = run(*flags, '-r', checkpoints / 'last.bin', '-c', tmp_path / 'other', '--overwrite')
    assert status == 0
    assert f'best on the test subjects, epoch {best}' in out
    assert torch.load(tmp_path / 'other' / 'best.bin')['epoch'] == best


def test_a_run_killed_between_its_two_files_does_not_lose_its_best(trained, h36m_folder, run, tmp_path):
    """best.bin may be one epoch ahead of last.bin; the epoch is then trained again, and is the best again."""
    shutil.copytree(trained[0], tmp_path / 'c')
    best = torch.load(tmp_path / 'c' / 'best.bin')['epoch']
    assert best == 2
    shutil.copyfile(tmp_path / 'c' / 'epoch_1.bin', tmp_path / 'c' / 'last.bin')
    assert run('--data', h36m_folder, '-e', 2, '-l', tmp_path / 'l', '-c', tmp_path / 'c', '-r', 'last.bin', '--device',
               'cpu')[0] == 0
    again, before = (torch.load(folder / 'best.bin') for folder in (tmp_path / 'c', trained[0]))
    assert again['metrics']['valid_mpjpe'] == before['metrics']['valid_mpjpe']


def test_evaluation_repeats_the_selection_of_the_run(h36m_folder, run, tmp_path):
    """Test subjects, actions and downsampling come from the file unless given."""
    flags = ['--data', h36m_folder, '-c', tmp_path / 'c']
    status, closing, _ = run(*flags, '-k', 'gt', *SMALL, '-str', 'S1', '-ste', 'S9', '-a', 'Sitting', '--downsample', 2,
                             '-e', 1, '-l', tmp_path / 'l')
    assert status == 0
    _, again, _ = run(*flags, '--evaluate', 'best.bin', '--device', 'cpu')
    assert closing.split('Protocol')[1] == again.split('Protocol')[1]


def test_divergence_ends_in_one_line_and_saves_nothing(refused, h36m_folder, tmp_path):
    line = refused(1, '-k', 'gt', '--data', h36m_folder, *SMALL, '-str', 'S1', '-e', 3, '-lr', '1e30', '-c',
                   tmp_path / 'c', '-l', tmp_path / 'l')
    assert 'training diverged in epoch 1' in line
    assert not list((tmp_path / 'c').iterdir())


def test_weights_that_are_not_finite_are_named(trained, refused, h36m_folder, tmp_path):
    saved = torch.load(trained[0] / 'best.bin')
    saved['model_pos']['head.1.bias'].fill_(float('nan'))
    del saved['digest']  # which would tell that they are not the weights that were saved
    torch.save(saved, tmp_path / 'nan.bin')
    assert 'nan.bin predicts NaN or infinite coordinates' in \
        refused(1, '--data', h36m_folder, '--evaluate', tmp_path / 'nan.bin')


def test_a_reader_that_goes_away_leaves_no_traceback(tmp_path):
    command = f'{sys.executable} run_ktpformer.py --help | head -1'
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ''
    command = f'{sys.executable} run_ktpformer.py --evaluate none.bin -c {tmp_path} > /dev/full'
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert 'Traceback' not in done.stderr


def test_hostile_npz_runs_nothing(refused, tmp_path):
    import test_npz
    mark = tmp_path / 'mark'
    write_h36m(tmp_path, *h36m_trees({'S1': {'Walking': 9}}))
    payload = test_npz.pickle.dumps({'S1': test_npz.Evil(os.system, f'touch {mark}')})
    test_npz.write_pickled(tmp_path / 'data_3d_h36m.npz', payload)
    assert 'data_3d_h36m.npz is refused: its pickle asks for posix.system' in \
        refused(1, '-k', 'gt', '--data', tmp_path, '-c', tmp_path / 'c', '-l', tmp_path / 'l')
    assert not mark.exists()
    assert not (tmp_path / 'l').exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_cuda_evaluates_to_the_same_figures(trained, h36m_folder, run, tmp_path):
    for device in ('cpu', 'cuda'):
        assert run('-c', trained[0], '--evaluate', 'best.bin', '--data', h36m_folder, '--device', device, '--results',
                   tmp_path / f'{device}.json')[0] == 0
    cpu, cuda = (json.loads((tmp_path / f'{d}.json').read_text())['protocols'] for d in ('cpu', 'cuda'))
    for protocol in cpu:
        assert cuda[protocol]['average'] == pytest.approx(cpu[protocol]['average'], rel=1e-4)


def test_help_and_bad_flags_need_no_torch():
    """They answer at once: torch is not imported."""
    code = ('import sys, run_ktpformer; s = run_ktpformer.main(sys.argv[1:]); '
            'assert "torch" not in sys.modules and "numpy" not in sys.modules; sys.exit(s)')
    for flags, status in ((['--help'], 0), (['-f', '0'], 2)):
        done = subprocess.run([sys.executable, '-c', code, *flags], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == status, done.stderr


def test_the_program_starts_without_the_compiler_and_within_a_quota(h36m_folder, tmp_path):
    """Training and evaluation: importing torch's compiler takes two seconds. The quota of cores here is 1."""
    code = ('import json, sys, run_ktpformer\n'
            'from common import threads\n'
            'threads.quota = lambda: 1\n'
            'for flags in json.loads(sys.argv[1]):\n'
            '    assert run_ktpformer.main(flags) == 0\n'
            'assert not {"torch._dynamo", "torch._inductor", "matplotlib", "sympy"} & set(sys.modules)\n'
            'assert sys.modules["torch"].get_num_threads() == 1')
    own = ['-k', 'gt', '--data', h36m_folder, '-ste', 'S9', '-c', tmp_path / 'c']
    train = [*own, '-str', 'S1', *SMALL, '-l', tmp_path / 'l', '--no-eval']
    commands = [[*train, '-e', 1], [*train, '-e', 2, '--resume'], [*own, '--device', 'cpu', '--evaluate', 'last.bin']]
    done = subprocess.run([sys.executable, '-c', code, json.dumps([[str(f) for f in flags] for flags in commands])],
                          cwd=ROOT, capture_output=True, text=True,
                          env={name: value for name, value in os.environ.items() if name != 'OMP_NUM_THREADS'})
    assert done.returncode == 0, done.stderr


def test_interrupted_training_says_so_and_keeps_the_last_epoch(h36m_folder, tmp_path):
    flags = ['-k', 'gt', '--data', str(h36m_folder), '-str', 'S1', *SMALL, '-c', str(tmp_path / 'c'), '-l',
             str(tmp_path / 'l')]
    process = Process('run_ktpformer.py', *flags)
    while not (tmp_path / 'c' / 'last.bin').exists() and not process.ended():
        time.sleep(0.05)
    process.send(signal.SIGINT)
    status, _, err = process.wait()
    assert status == 130
    assert err.strip() == (f'run_ktpformer.py: error: stopped by SIGINT; {tmp_path}/c/last.bin holds every step so '
                           f'far, continue with --resume')
    torch.load(tmp_path / 'c' / 'last.bin', weights_only=True)
