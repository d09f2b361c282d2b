"""StridedTransformer and P-STMO through the whole program: published tables, training, files, refusals."""

import json

import naive
import numpy as np
import pytest
import torch
from processes import ROOT, run_alone
from test_distributed import RECORDER
from test_htnet_program import decided
from test_ktpformer import relative
from test_resume import assert_same_run

from common.augment import Batch
from common.datasets import load_dataset
from common.errors import FileError
from common.evaluation.sums import tally, validation_figures
from common.losses import mean_mpjpe
from common.metrics import METRICS
from common.models import build_model, load_lifter, recipe_of
from common.models.lifting import predictions, windows_for
from common.models.loading import put_weights
from common.models.pstmo import PSTMO
from common.sampler import WindowSampler
from common.skeleton import COCO, H36M, MPI_INF_3DHP
from common.storage import checkpoint
from common.storage.npz import write_npz
from common.store import SequenceStore
from common.training.optimiser import learning_rate

SIZES = {'strided': {'frames': 27, 'channels': 32, 'hidden': 64, 'depth': 2},
         'pstmo': {'frames': 9, 'channels': 32, 'hidden': 64, 'depth': 2}}
TINY = ['-cs', '16', '-dep', '1', '--hidden', '16', '-b', '64', '--device', 'cpu']
OF_MODEL = {'strided': ['--model', 'strided', '-f', '27'], 'pstmo': ['--model', 'pstmo', '-f', '9']}
MODELS = sorted(SIZES)


@pytest.fixture(scope='module')
def tables(golden):
    """Return {(model, keypoints, refined): {action: figures}} of the published programs."""
    told = json.loads((golden / 'zoo' / 'sequence_tiny.json').read_text())['evaluate']
    return {(case['model'], case['keypoints'], case.get('refined')): case['millimetres'] for case in told}


@pytest.fixture(scope='module')
def states(golden, fill):
    """Return the weights of those tables by model, and those of the refinement."""
    def keys(name):
        return json.loads((golden / f'{name}_keys.json').read_text())
    of_pstmo = {key: [9 if n == 27 else n for n in shape] for key, shape in keys('zoo/pstmo').items()}
    return {'strided': fill(keys('zoo/strided')), 'pstmo': fill(of_pstmo), 'refine': fill(keys('refine'))}


@pytest.fixture(scope='module')
def public(states, tmp_path_factory):
    """Return public files by model: bare state dicts, P-STMO's in a DataParallel."""
    folder = tmp_path_factory.mktemp('public')
    torch.save(states['strided'], folder / 'no_refine_10_4860.pth')
    torch.save({f'module.{key}': value for key, value in states['pstmo'].items()},
               folder / 'PSTMOS_no_refine_28_4306_h36m_cpn.pth')
    return {'strided': folder / 'no_refine_10_4860.pth', 'pstmo': folder / 'PSTMOS_no_refine_28_4306_h36m_cpn.pth'}


def check_table(got, expected):
    """Compare figures by action with a published table; its P-MPJPE by batch mixes takes and is not looked at."""
    assert got.keys() == expected.keys()
    for action, figures in expected.items():
        for metric in {'mpjpe', 'p_mpjpe'} & figures.keys():
            assert got[action][metric] == pytest.approx(figures[metric], abs=0.006), (action, metric)
        # between neighbouring takes the quirk moves up to 0.6 mm
        assert got[action]['p_mpjpe'] == pytest.approx(figures['p_mpjpe_batch_100'], abs=0.6)


@pytest.mark.parametrize('model', MODELS)
def test_public_files_give_the_published_programs_table(run, golden, public, states, tables, tmp_path, model):
    """With the public file of a refinement behind it, which is the headline."""
    torch.save({f'module.{key}': value for key, value in states['refine'].items()}, tmp_path / 'refine_10_4690.pth')
    status, out, err = run('--data', golden / 'tiny', '-k', 'cpn_ft_h36m_dbb', '-c', public[model].parent, '--evaluate',
                           public[model].name, '--refinement', tmp_path / 'refine_10_4690.pth', '--results',
                           tmp_path / 'r.json', '--device', 'cpu')
    assert status == 0, err
    assert 'a public file (not told by it, and assumed: ' in out
    assert 'predicted root set to 0' in out
    results = json.loads((tmp_path / 'r.json').read_text())
    assert results['headline'] == 'refined'
    for protocol in ('paper', 'exact'):  # each frame counts once in both
        for told, refined in ((results['protocols'], False), (results['refined'], True)):
            check_table(told[protocol]['actions'], tables[model, 'cpn_ft_h36m_dbb', refined])


def tabled(predicted, store, windows):
    """Return millimetres by action, over both subjects."""
    names = [metric.name for metric in METRICS if metric.by_action]
    sums = {}
    for (_, action), total in tally(predicted, store, windows).items():
        sums[action] = sums.get(action, 0) + total[1]
    return {action: {name: 1000 * total / weight for name, (total, weight) in zip(names, table, strict=True)}
            for action, table in sums.items()}


@pytest.mark.parametrize('model', MODELS)
def test_refined_and_plain_predictions_give_the_published_programs_tables(golden, states, tables, model):
    """The refinement reads the flip average, its root where it is predicted, with the keypoints as they are."""
    refined = build_model(model, SIZES[model] | {'refine': True}, H36M, H36M)
    refined.base.load_state_dict(states[model])
    refined.refine.load_state_dict(states['refine'])
    dataset = load_dataset('h36m', golden / 'tiny', 'gt')
    store = SequenceStore(dataset.sequences(['S9', 'S11']), H36M, H36M, torch.device('cpu'))
    windows = windows_for(refined, store)
    predicted = predictions(refined, store, windows, 'zero')
    for name, after in (('predicted', False), ('refined', True)):
        check_table(tabled(predicted[name], store, windows), tables[model, 'gt', after])


def test_3dhp_in_millimetres_gives_the_published_programs_poses(run, golden, states, tmp_path):
    """P-STMO's test program of MPI-INF-3DHP, frames one apart: poses, and MPJPE pooled over the frames that count."""
    golden_data = np.load(golden / 'zoo' / 'pstmo_3dhp.npz')
    names = ('TS1', 'TS5')
    write_npz(tmp_path / 'data_test_3dhp.npz', data={
        name: {part: golden_data[f'{name}/{part}'] for part in ('data_2d', 'data_3d', 'valid')} for name in names})
    torch.save({f'module.{key}': value for key, value in states['pstmo'].items()}, tmp_path / 'p.pth')
    lifter = load_lifter(tmp_path / 'p.pth', layout=MPI_INF_3DHP, skeleton=MPI_INF_3DHP, sizes={'spacing': 1})
    assert lifter.name == 'pstmo' and lifter.model.spacing == 1
    dataset = load_dataset('3dhp', tmp_path, training=False)
    store = SequenceStore(dataset.sequences(names), MPI_INF_3DHP, MPI_INF_3DHP, torch.device('cpu'))
    windows = windows_for(lifter.model, store, target='centre')
    predicted = predictions(lifter.model, store, windows, 'zero')['predicted']
    expected = np.concatenate([golden_data[f'{name}/prediction_mm'] for name in names])
    assert relative(1000 * predicted[:, 0], expected) < 1e-5
    assert validation_figures(predicted, store, windows)['mpjpe'] == pytest.approx(805.66, abs=0.006)
    status, out, err = run('-d', '3dhp', '--data', tmp_path, '-ste', ','.join(names), '-c', tmp_path, '--evaluate',
                           'p.pth', '-tds', '1', '--device', 'cpu')
    assert status == 0, err
    assert '805.66' in next(line for line in out.splitlines() if line.startswith('C, frames pooled'))


# ---- training ----------------------------------------------------------------------------------------------------


def test_the_recipes_are_the_published_ones():
    config = decided('--model', 'strided', model='strided')
    recipe = config.train
    assert (recipe.epochs, recipe.windows, recipe.stride, recipe.optimizer, recipe.loss, recipe.objective) == \
        (20, 256, 1, 'amsgrad', 'mpjpe', 'plain')
    assert (recipe.seed, recipe.weight_decay, recipe.dropout, recipe.drop_path, config.evaluate.root) == \
        (1, 0, 0.1, None, 'zero')
    assert (recipe.augment, recipe.select, config.evaluate.flip, config.data.joints) == (True, 'best', True, None)
    rate = 1e-3
    for epoch in range(1, 21):
        assert learning_rate(recipe, recipe.lr, 1, epoch, 0, 100) == pytest.approx(rate)
        rate *= 0.5 if epoch % 5 == 0 else 0.95
    config = decided('--model', 'pstmo', model='pstmo')
    assert (config.train.epochs, config.train.windows, config.train.lr, config.evaluate.root) == (79, 160, 7e-4, 'zero')
    assert learning_rate(config.train, 7e-4, 1, 79, 0, 100) == pytest.approx(7e-4 * 0.97 ** 78)


@pytest.mark.parametrize('model', MODELS)
def test_a_refinement_is_trained_on_the_centre_alone(model):
    config = decided('--model', model, '--refine', '--init', 'x', model=model)
    assert (config.train.lr, config.train.loss, config.train.epochs) == (1e-5, 'refinement',
                                                                         recipe_of(model).epochs)
    refined = build_model(model, SIZES[model] | {'refine': True}, H36M, H36M, dropout=0.0).eval()
    frames = refined.frames
    lens = torch.tensor([1.1, 1.1, 0.0, 0.0, 0, 0, 0, 0, 0]).expand(3, 9)
    batch = Batch(torch.randn(3, frames, 17, 2), torch.randn(3, 1, 17, 3), lens, torch.full((3, 1), 4.0))
    assert refined.supervised in (None, refined.answers) and len(refined.answers) == 1
    expected = (refined.refined(refined(batch.keypoints), batch) - batch.truth).norm(dim=-1).mean()
    torch.testing.assert_close(refined.loss(batch, mean_mpjpe), expected)


def test_windows_and_their_truth_are_spaced_and_clamped(h36m_folder):
    """A window around each frame, mirrored ones after plain ones; all of its frames are supervised."""
    sequences = load_dataset('h36m', h36m_folder, 'gt').sequences(['S1'])[:5]
    store = SequenceStore(sequences, H36M, H36M, torch.device('cpu'))
    model = build_model('pstmo', {**SIZES['pstmo'], 'spacing': 3}, H36M, H36M)
    sampler = WindowSampler(store, model.frames, True, 1234, None, model.answers, model.needs, model.fewest,
                            model.supervised, model.spacing)
    lengths = [len(s.keypoints) for s in sequences]
    windows = [(s, t, flip) for s, count in enumerate(lengths) for flip in (False, True) for t in range(count)]
    order = iter([windows[i] for i in naive.epoch_order(len(windows), 0)])
    for step in sampler.epoch(0, 160):
        for x, y in zip(step.batch.keypoints, step.batch.truth, strict=True):
            index, target, flip = next(order)
            frames = [min(max(target + 3 * (k - 4), 0), lengths[index] - 1) for k in range(9)]
            for got, whole in ((x, sequences[index].keypoints), (y, sequences[index].poses)):
                expected = whole[frames]
                if flip:
                    expected = expected[:, list(H36M.mirror)] * ([-1] + [1] * (whole.shape[2] - 1))
                np.testing.assert_array_equal(got, expected.astype(np.float32))


@pytest.fixture(scope='module', params=MODELS)
def trained(request, h36m_folder, tmp_path_factory):
    """Return (the model's name, the checkpoint folder of two epochs of it); not to be written to."""
    import run_ktpformer
    folder = tmp_path_factory.mktemp(request.param)
    assert run_ktpformer.main([*map(str, flags_of(request.param, h36m_folder, folder)), '-e', '2']) == 0
    return request.param, folder / 'c'


def flags_of(model, data, folder, *more):
    return ['-k', 'gt', '--data', data, '-str', 'S1', '-a', 'Directions', *OF_MODEL[model], *TINY, '-c', folder / 'c',
            '-l', folder / 'c-log', *more]


def test_a_training_can_be_evaluated_resumed_and_lifts_clips(run, trained, h36m_folder, tmp_path):
    model, folder = trained
    last = checkpoint.load(folder / 'last.bin')
    assert last.config == {'pstmo': {'frames': 9, 'strides': (1, 3, 3), 'spacing': 2},
                           'strided': {'frames': 27, 'strides': (3, 3, 3)}}[model] | {
        'channels': 16, 'depth': 1, 'hidden': 16, 'heads': 8}
    status, _, err = run('-k', 'gt', '--data', h36m_folder, '-c', folder, '--evaluate', 'last.bin', '--device', 'cpu',
                           '-a', 'Directions', '--results', tmp_path / 'r.json')
    assert status == 0, err
    got = json.loads((tmp_path / 'r.json').read_text())['protocols']
    paper, exact = (got[protocol]['average']['mpjpe'] for protocol in ('paper', 'exact'))
    assert paper == pytest.approx(exact, rel=1e-6)
    assert exact == pytest.approx(last.stored['metrics']['valid_mpjpe'], rel=1e-5)
    # A window around each frame, edges replicated, plain and mirrored.
    lifter = load_lifter(folder / 'last.bin')
    clip = load_dataset('h36m', h36m_folder, 'gt').sequences(['S9'], ['Directions'])[0].keypoints
    poses = lifter.lift_clip(clip, root='predicted')
    spacing, pad = lifter.model.spacing, lifter.model.answers.start
    rows = np.clip(np.arange(len(clip))[:, None] + spacing * (np.arange(lifter.model.frames) - pad), 0, len(clip) - 1)
    sides = list(H36M.mirror)
    with torch.no_grad():
        plain = lifter.model(torch.from_numpy(clip[rows]))[:, 0].numpy()
        mirrored = lifter.model(torch.from_numpy((clip[rows][:, :, sides] * [-1, 1]).astype(np.float32)))[:, 0].numpy()
    assert relative(poses, (plain + mirrored[:, sides] * [-1, 1, 1]) / 2) < 1e-5


def test_a_training_that_was_cut_is_the_same(trained, h36m_folder, tmp_path):
    import run_ktpformer
    model, folder = trained
    for epochs in ('1', '2'):
        more = ['--resume', 'last.bin'] if epochs == '2' else []
        assert run_ktpformer.main([*map(str, flags_of(model, h36m_folder, tmp_path)), '-e', epochs, *more]) == 0
    assert_same_run(folder, tmp_path / 'c')


@pytest.mark.slow
def test_two_processes_are_one_run(h36m_folder, tmp_path):
    """Dropout depends on the rank, so it is off. The last step has two windows, one for each."""
    recorder = tmp_path / 'recorder.py'
    recorder.write_text(RECORDER.format(root=str(ROOT)))
    for processes in (1, 2):
        status, _, err = run_alone(
            recorder, tmp_path / f'{processes}.json', *flags_of('pstmo', h36m_folder, tmp_path / str(processes)),
            '--dropout', 0, '-b', 89, '-lr', 1e-4, '-e', 1, '--no-eval', ranks=processes)
        assert status == 0, err
    one, two = (json.loads((tmp_path / f'{n}.json').read_text()) for n in (1, 2))
    assert len(one) == 7  # 536 windows
    assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize('model', MODELS)
def test_live_footage_is_refused(refused, public, golden, model):
    line = refused(2, '--data', golden / 'tiny', '-k', 'gt', '-c', public[model].parent, '--evaluate',
                   public[model].name, '--causal', '--device', 'cpu')
    frames = SIZES[model]['frames']
    assert f'answers for frame {(frames + 1) // 2} of the {frames} that it reads' in line


def test_frames_without_published_strides_are_refused(refused, h36m_folder, tmp_path):
    line = refused(2, '-k', 'gt', '--data', h36m_folder, '-str', 'S1', '--model', 'strided', '-f', '81', '-cs', '16',
                   '-c', tmp_path / 'c', '-l', tmp_path / 'l', '--device', 'cpu')
    assert 'no strides are published for 81 frames' in line


def test_strides_may_be_told(run, h36m_folder, tmp_path):
    """In training, and for a public file of as many frames."""
    assert run('-k', 'gt', '--data', h36m_folder, '-str', 'S1', '-a', 'Directions', '--model', 'strided', '-f', '15',
               '--strides', '5,3', *TINY, '-e', '1', '-c', tmp_path / 'c', '-l', tmp_path / 'l', '--no-eval')[0] == 0
    own = checkpoint.load(tmp_path / 'c' / 'last.bin')
    assert tuple(own.config['strides']) == (5, 3)
    torch.save(dict(own.state), tmp_path / 'no_refine.pth')
    clip = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 17, 2)).astype(np.float32)
    poses = [load_lifter(path, **how).lift_clip(clip, root='zero') for path, how in (
        (tmp_path / 'c' / 'last.bin', {}), (tmp_path / 'no_refine.pth', {'sizes': {'strides': (5, 3)}}))]
    np.testing.assert_array_equal(*poses)
    with pytest.raises(FileError, match='no strides are published for 15 frames'):
        load_lifter(tmp_path / 'no_refine.pth')


def test_a_public_file_of_3dhp_is_scaled_when_it_is_put_into_a_model(states, tmp_path):
    torch.save(states['pstmo'], tmp_path / 'p.pth')
    model = build_model('pstmo', SIZES['pstmo'], MPI_INF_3DHP, MPI_INF_3DHP)
    assert put_weights(model, checkpoint.load(tmp_path / 'p.pth'), MPI_INF_3DHP)
    for key, value in PSTMO.from_public(states['pstmo'], MPI_INF_3DHP).items():
        assert torch.equal(model.state_dict()[key], value), key


# ---- P-STMO's first stage ----------------------------------------------------------------------------------------


def test_the_first_stage_learns_keypoints_and_the_second_begins_with_it(run, humaneva_folder, tmp_path):
    """COCO's keypoints to HumanEva's 15 joints, so that nothing of the one can pass for the other."""
    common = ['-d', 'humaneva15', '-k', 'detectron_pt_coco', '--data', humaneva_folder, '-a', 'Walking', *TINY, '-f',
              '9', '-l', tmp_path / 'l', '-str', 'Train/S1', '-ste', 'Validate/S1', '--downsample', '5']
    common[common.index('-dep') + 1] = '2'
    status, out, err = run(*common, '--model', 'pstmo_pretraining', '-c', tmp_path / 'first', '-e', '1', '--results',
                           tmp_path / 'r.json')
    assert status == 0, err
    assert 'in thousandths of half the width: not millimetres' in out
    first = checkpoint.load(tmp_path / 'first' / 'last.bin')
    assert first.skeleton == first.layout == COCO
    # What epochs are judged on: the centre's keypoints, from windows that hide it.
    dataset = load_dataset('humaneva15', humaneva_folder, 'detectron_pt_coco').flattened()
    sequences = dataset.sequences(['Validate/S1'], ['Walking'], downsample=5)
    store = SequenceStore(sequences, COCO, COCO, torch.device('cpu'))
    assert torch.equal(store.truth[..., :2], store.keypoints) and not store.truth[..., 2].any()
    model = load_lifter(tmp_path / 'first' / 'last.bin').model
    windows = windows_for(model, store)
    told = predictions(model, store, windows)['predicted'][:, 0]
    error = 1000 * (told[..., :2] - store.keypoints).norm(dim=-1).mean()
    assert error.item() == pytest.approx(first.stored['metrics']['valid_mpjpe'], rel=1e-4)
    # At a rate of next to nothing, the second stage still has what it began with.
    status, out, err = run(*common, '--model', 'pstmo', '-c', tmp_path / 'second', '-e', '1', '-lr', '1e-12', '--init',
                           tmp_path / 'first' / 'last.bin', '--no-eval')
    assert status == 0, err
    assert 'starting from a part of' in out
    second = checkpoint.load(tmp_path / 'second' / 'last.bin')
    assert (second.model, second.config['depth'], second.config['spacing']) == ('pstmo', 2, 2)
    assert second.skeleton.name == 'humaneva15'
    begun = [key for key in second.state if key.startswith(('encoder.', 'Transformer.'))
             and 'running' not in key and 'num_batches' not in key]
    assert len(begun) > 30
    for key in begun:
        torch.testing.assert_close(second.state[key], first.state[key], atol=1e-8, rtol=0)


def test_a_first_stage_lifts_no_poses_and_other_models_do_not_begin_with_it(refused, states, golden, fill, tmp_path):
    keys = json.loads((golden / 'zoo' / 'pstmo_pretrain_keys.json').read_text())
    torch.save(fill(keys), tmp_path / 'pretrain.pth')
    line = refused(1, '-c', tmp_path, '--evaluate', 'pretrain.pth', '--predict', 'clip.npy', '--image-size', 1000, 1000,
                   '--output', tmp_path / 'p.npz')
    assert 'pretrain.pth tells keypoints in the picture, and no poses' in line
    line = refused(1, '--data', golden / 'tiny', '-k', 'gt', '-str', 'S1', '--model', 'strided', '--init',
                   tmp_path / 'pretrain.pth', '-c', tmp_path / 'c', '-l', tmp_path / 'l')
    assert 'is a P-STMO, first stage checkpoint, which --model strided contradicts' in line


@pytest.mark.parametrize('model, joints, sentence', [
    ('pstmo_pretraining', 'h36m', 'tells keypoints that are hidden, and no poses'),
    ('pstmo', 'keypoints', 'lifts to poses')])
def test_poses_and_keypoints_are_not_taken_for_each_other(refused, model, joints, sentence):
    line = refused(2, '-d', 'synthetic', '--model', model, '--joints', joints)
    assert f'--joints {joints}: {model} {sentence}; leave the flag out' in line


def test_a_first_stage_is_told_in_its_own_unit_and_never_drawn(run, refused, tmp_path):
    flags = ['-d', 'synthetic', '--subset', 0.02, '-a', 'Walking', '-c', tmp_path / 'c', '--device', 'cpu']
    status, out, err = run(*flags, '--model', 'pstmo_pretraining', '-f', 9, '-tds', 1, '-cs', 16, '--hidden', 16,
                           '-dep', 2, '-e', 1, '-l', tmp_path / 'l')
    assert (status, err) == (0, '')
    assert 'figures are of keypoints in the picture, in thousandths of half the width: not millimetres' in out
    table = out[out.index('Protocol paper'):]
    assert table.startswith('Protocol paper, thousandths of half the width')
    assert 'MPJVE' in table and ' mm' not in table and 'warning' not in table
    saved = ['-d', 'synthetic', '-c', tmp_path / 'c', '--evaluate', 'best.bin', '--model', 'pstmo_pretraining',
             '--device', 'cpu']
    for drawn in (['--render', '--viz-output', tmp_path / 'a.gif'], ['--plots', tmp_path / 'plots']):
        assert 'tells keypoints in the picture, and no poses that could be drawn' in refused(1, *saved, *drawn)
    assert '--refine stands behind a model of poses' in refused(
        2, *flags, '--refine', '--init', 'best.bin', '-e', 1, '--overwrite')
    assert not (tmp_path / 'a.gif').exists() and not (tmp_path / 'plots').exists()
