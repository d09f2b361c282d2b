"""3d-pose-baseline against the golden outputs, against a naive second implementation, and part by part."""

import json

import naive_single
import numpy as np
import pytest
import torch
from processes import ROOT, run_alone
from test_distributed import RECORDER
from test_ktpformer import relative
from test_program import metrics_of

from common.augment import Batch
from common.datasets import h36m, load_dataset, poses
from common.losses import mean_mpjpe
from common.models import build_model, layers
from common.models.layers import dropped
from common.models.loading import recognise
from common.models.martinez import Martinez, MartinezConfig
from common.skeleton import COCO, H36M, H36M16, HUMANEVA15, MPI_INF_3DHP, MPII

CASES = {'martinez': {'channels': 32, 'depth': 2}, 'martinez_odd': {'channels': 37, 'depth': 3}}
NECK = H36M.joints.index('neck')


def mse(predicted, target):
    return (predicted - target).square().mean()


@pytest.fixture(params=CASES)
def case(request, golden, fill):
    """Return (a model with the golden weights and without dropout, its arrays, its figures, its keys)."""
    arrays = np.load(golden / 'zoo' / f'{request.param}.npz')
    figures, keys = (json.loads((golden / 'zoo' / f'{request.param}{kind}.json').read_text())
                     for kind in ('', '_keys'))
    model = build_model('martinez', CASES[request.param], H36M, H36M, dropout=0.0)
    missing = model.load_state_dict(fill(keys), strict=False)
    assert set(missing.missing_keys) == set(Martinez.measured_keys)
    assert not missing.unexpected_keys
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for kind in ('keypoints', 'poses'):
            getattr(model, f'{kind}_mean').normal_(generator=random)
            getattr(model, f'{kind}_std').uniform_(0.5, 2, generator=random)
    return model, arrays, figures, keys


def batch_of(model, arrays):
    """Return the golden batch in screen coordinates and metres; necks and roots hold what nobody may read."""
    keypoints = model.keypoints_std * torch.from_numpy(arrays['x']).view(-1, 1, 16, 2) + model.keypoints_mean
    poses = model.poses_std * torch.from_numpy(arrays['y']).view(-1, 1, 16, 3) + model.poses_mean
    neck, root = torch.full_like(keypoints[:, :, :1], 1e6), torch.zeros_like(poses[:, :, :1])
    return Batch(torch.cat([keypoints[:, :, :NECK], neck, keypoints[:, :, NECK:]], 2), torch.cat([root, poses], 2))


def test_public_key_names_and_shapes(case):
    model, _, figures, keys = case
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert [shapes.pop(key) for key in Martinez.measured_keys] == [[16, 2], [16, 2], [16, 3], [16, 3]]
    assert shapes == keys
    assert sum(p.numel() for p in model.parameters()) == figures['parameters']


@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_golden_forward(case, mode):
    """In standardised units; the golden model sees and says nothing else."""
    model, arrays, _, _ = case
    out = model.train(mode == 'train')(batch_of(model, arrays).keypoints)
    assert not out[:, :, 0].any()
    standardised = (out[:, 0, 1:] - model.poses_mean) / model.poses_std
    assert relative(standardised.flatten(1), arrays[f'out_{mode}']) < 2e-6
    for key, value in model.state_dict().items():
        if mode == 'train' and 'running' in key:
            assert relative(value, arrays[f'after_one_train_forward/{key}']) < 1e-6, key


def test_golden_loss_and_gradients(case):
    model, arrays, figures, _ = case
    loss = model.train().loss(batch_of(model, arrays), mse)
    assert loss.item() == pytest.approx(figures['loss']['total'], rel=1e-6)
    loss.backward()
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters()}
    vanishing = [norms.pop(name) for name in figures['grad_zero_in_theory']]
    assert norms == pytest.approx(figures['grad_norm'], rel=1e-5)
    assert max(vanishing) < 1e-4


def test_golden_steps(case):
    """Adam with the gradient's norm at most 1; the rate falls every third step, and at the first."""
    model, arrays, figures, _ = case
    optimizer, batch = torch.optim.Adam(model.train().parameters(), 1e-3), batch_of(model, arrays)
    losses, norms = [], []
    for step in range(1, 8):
        if step == 1 or step % 3 == 0:
            optimizer.param_groups[0]['lr'] = 1e-3 * 0.96 ** (step / 3)
        assert optimizer.param_groups[0]['lr'] == pytest.approx(figures['steps']['lr'][step - 1])
        optimizer.zero_grad()
        loss = model.loss(batch, mse)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        losses.append(loss.item())
        optimizer.step()
    assert losses == pytest.approx(figures['steps']['loss'], rel=1e-4)
    assert norms == pytest.approx(figures['steps']['grad_norm_before_clip'], rel=1e-4)


def test_parameter_count_at_the_published_sizes():
    model = build_model('martinez', {}, H36M, H36M, dropout=0.0)
    assert sum(p.numel() for p in model.parameters()) == 4_291_632


def test_statistics_are_the_published_ones(golden):
    """Of the same frames; x in pixels is a linear function of our x, y but for the height of the picture."""
    sequences = load_dataset('h36m', golden / 'tiny', 'gt').sequences(['S1'])
    model = build_model('martinez', {'channels': 8}, H36M, H36M, dropout=0.0)
    model.measure(*(torch.from_numpy(np.concatenate([getattr(s, kind) for s in sequences]))
                    for kind in ('keypoints', 'poses')))
    published = np.load(golden / 'zoo' / 'martinez_stats.npz')
    np.testing.assert_allclose(model.poses_mean, published['mean_3d_mm'][1:] / 1000, atol=1e-7)
    np.testing.assert_allclose(model.poses_std, published['std_3d_mm'][1:] / 1000, rtol=1e-5)
    mean, std = published['mean_2d_pixels'] / 500, published['std_2d_pixels'] / 500
    np.testing.assert_allclose(model.keypoints_mean[:, 0], mean[:, 0] - 1, atol=1e-6)
    np.testing.assert_allclose(model.keypoints_std[:, 0], std[:, 0], rtol=1e-5)
    np.testing.assert_allclose(model.keypoints_mean[:, 1], mean[:, 1] - 1.001, atol=1e-3)
    np.testing.assert_allclose(model.keypoints_std[:, 1], std[:, 1], atol=1e-3)


def test_statistics_are_those_of_the_population_whatever_its_place():
    """By hand, at the other ends of the layouts; far from 0, where float32 sums would not do."""
    model = build_model('martinez', {'channels': 8}, MPI_INF_3DHP, MPI_INF_3DHP, dropout=0.0)
    random = np.random.default_rng(0)
    keypoints = (100 + random.normal(size=(50, 17, 2))).astype(np.float32)
    poses = (100 + random.normal(size=(50, 17, 3))).astype(np.float32)
    keypoints[:, 3, 1], poses[:, 0, 2] = 0.1, 0.3  # a coordinate that does not move is only centred
    model.measure(torch.from_numpy(keypoints), torch.from_numpy(poses))
    keypoints = np.delete(keypoints, MPI_INF_3DHP.joints.index('neck'), axis=1).astype(float)
    poses = np.delete(poses, MPI_INF_3DHP.joints.index('hip'), axis=1).astype(float)
    for name, values in (('keypoints', keypoints), ('poses', poses)):
        std = values.std(axis=0)
        np.testing.assert_allclose(getattr(model, f'{name}_mean'), values.mean(axis=0), rtol=1e-7)
        np.testing.assert_allclose(getattr(model, f'{name}_std'), np.where(std < 1e-6, 1, std), rtol=1e-6)
    assert model.keypoints_std[3, 1] == model.poses_std[0, 2] == 1
    copy = build_model('martinez', {'channels': 8}, MPI_INF_3DHP, MPI_INF_3DHP, dropout=0.0)
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy.poses_std, model.poses_std)


def random_model(layout=H36M, skeleton=None, rate=0.0, **config):
    """Make a float64 model in training, none of whose weights and statistics is at a special value."""
    model = build_model('martinez', {'channels': 12, **config}, skeleton or layout, layout, dropout=rate).double()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in (*model.parameters(), *(b for b in model.buffers() if b.dtype == torch.float64)):
            p += 0.3 * torch.randn(p.shape, generator=random, dtype=p.dtype).abs()
    return model


def naive_output(model, x, layout, skeleton=None, **how):
    read = [k for k, name in enumerate(layout.joints) if name != 'neck']
    out = naive_single.martinez(model.state_dict(), x.flatten(0, 1)[:, read], (skeleton or layout).root, **how)
    return out.unflatten(0, x.shape[:2])


@pytest.mark.parametrize('layout, skeleton', [
    (H36M, H36M), (HUMANEVA15, HUMANEVA15), (MPI_INF_3DHP, MPI_INF_3DHP), (COCO, H36M), (MPII, H36M), (H36M16, H36M),
    (H36M16, H36M16)], ids=lambda s: s.name)
@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_naive_forward(layout, skeleton, mode):
    """Any layout of keypoints and joints, the root anywhere; frames of windows are rows of the batch norms."""
    model = random_model(layout, skeleton).train(mode == 'train')
    x = torch.randn(3, 2, len(layout), 2).double()
    expected = naive_output(model, x, layout, skeleton, training=mode == 'train')
    ours = model(x)
    assert ours.shape == (3, 2, len(skeleton), 3)
    assert not ours[:, :, skeleton.root].any()
    assert relative(ours, expected) < 1e-12


@pytest.mark.parametrize('skeleton', [H36M, MPI_INF_3DHP], ids=lambda s: s.name)
def test_loss_is_the_criterion_over_standardised_joints(skeleton):
    """Any criterion that is a mean over joints; the root of the truth is not looked at."""
    model = random_model(skeleton)
    x, truth = torch.randn(4, 2, 17, 2).double(), torch.randn(4, 2, 17, 3).double()
    others = [j for j in range(17) if j != skeleton.root]
    std = model.poses_std
    error = (model(x) - truth)[:, :, others] / std
    batch = Batch(x, truth)
    torch.testing.assert_close(model.loss(batch, mse), error.square().mean())
    torch.testing.assert_close(model.loss(batch, mean_mpjpe), error.norm(dim=-1).mean())
    model.loss(batch, mean_mpjpe).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())  # though the root's error is exactly 0


def test_places_and_rates_of_dropout(monkeypatch):
    """The masks that ours draws, put into the naive model behind each ReLU, give the same output."""
    model, draws = random_model(rate=0.4, depth=3), []

    def draw(x, rate):
        draws.append(dropped(x, rate))
        assert rate == 0.4
        return draws[-1]
    monkeypatch.setattr(layers, 'dropped', draw)
    x = torch.randn(50, 1, 17, 2).double()
    ours = model(x)
    places = ['w1', *(f'linear_stages.{n}.{layer}' for n in range(3) for layer in ('w1', 'w2'))]
    masks = dict(zip(places, draws, strict=True))

    def scale(place, value):
        mask = masks.pop(place)
        assert 0.3 < mask.double().mean() < 0.5
        return value * ~mask / 0.6
    assert relative(ours, naive_output(model, x, H36M, training=True, scale=scale)) < 1e-12
    assert not masks
    model.eval()
    assert torch.equal(model(x), model(x))
    assert Martinez.recipe.dropout == 0.5


def test_initial_weights():
    torch.manual_seed(0)
    model = build_model('martinez', {'channels': 512}, H36M, H36M, dropout=0.5)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            channels = module.in_features
            weight, bias = module.weight.detach(), module.bias.detach()
            assert weight.std().item() == pytest.approx((2 / channels) ** 0.5, rel=0.03), name
            assert weight.abs().max() > 2.5 * weight.std()  # normal, not uniform
            assert 0.8 * channels ** -0.5 < bias.abs().max() <= channels ** -0.5, name
        elif isinstance(module, torch.nn.BatchNorm1d):
            assert (module.weight == 1).all()
            assert not module.bias.any()
            assert (module.eps, module.momentum) == (1e-5, 0.1)


def test_a_frame_s_pose_depends_on_all_but_its_neck_and_on_nothing_else():
    model = random_model(channels=64).eval()
    x = torch.randn(2, 3, 17, 2).double()
    whole = model(x)
    torch.testing.assert_close(whole.flatten(0, 1), model(x.flatten(0, 1)[:, None])[:, 0])
    for keypoint in range(17):
        moved = x.clone()
        moved[1, 2, keypoint] += 1
        differs = (model(moved) - whole).abs().flatten(2).amax(-1) > 1e-9
        assert differs.tolist() == [[False] * 3, [False, False, keypoint != NECK]]


def test_keypoints_with_and_without_a_neck_are_one_model():
    model, other = random_model(), build_model('martinez', {'channels': 12}, H36M, H36M16, dropout=0.0).double()
    other.load_state_dict(model.state_dict())
    x = torch.randn(2, 1, 17, 2).double()
    without = x[:, :, [k for k in range(17) if k != NECK]]
    assert torch.equal(model.eval()(x), other.eval()(without))


def test_config_is_read_from_shapes(case, fill):
    model, _, _, keys = case
    state = fill(keys)
    assert recognise(state) == 'martinez'
    assert MartinezConfig.from_state(state) == MartinezConfig(len(state['w1.bias']), len(model.linear_stages))
    assert MartinezConfig.from_state(random_model(COCO, H36M).state_dict()) == MartinezConfig(12, 2)
    assert Martinez.keypoints_of(state) == Martinez.keypoints_in(H36M) == Martinez.keypoints_in(H36M16) == 16
    for broken in ({}, {'w1.weight': torch.zeros(3)}, {'w1.weight': torch.zeros(8, 32)}):
        with pytest.raises(ValueError, match=r'is missing|has 1 dimensions'):
            MartinezConfig.from_state(broken)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match=r'expected keypoints \(B, F, 17, 2\), got \(2, 17, 2\)'):
        random_model()(torch.zeros(2, 17, 2))
    for config in ({'channels': 0}, {'depth': 0}):
        with pytest.raises(ValueError, match='expected at least 1'):
            MartinezConfig(**config)


@pytest.fixture
def public_file(golden, fill, tmp_path):
    """Write a file as the published program does, with the golden weights: without statistics, with a NumPy scalar."""
    state = fill(json.loads((golden / 'zoo' / 'martinez_keys.json').read_text()))
    path = tmp_path / 'ckpt_best.pth.tar'
    torch.save({'epoch': 3, 'lr': 1e-3, 'step': 78, 'err': np.float64(1.5), 'state_dict': state, 'optimizer': {}}, path)
    return path


@pytest.fixture(params=['pixels', 'screen'])
def unit(request, monkeypatch):
    """Read keypoints in pixels, which the published program standardises, or in screen coordinates, as ours does."""
    monkeypatch.setattr(h36m, 'SUBJECTS_TRAIN', ('S1',))  # all that the small data set has
    if request.param == 'pixels':
        monkeypatch.setattr(poses, 'normalise', lambda pixels, *size: pixels)
    return request.param


@pytest.mark.parametrize('case', [0, 1], ids=['gt', 'cpn'])
def test_tables_equal_the_golden_ones(golden, public_file, run, tmp_path, unit, case):
    """With statistics of S1 in the 2D that is lifted; over 17 joints, without mirrored keypoints."""
    expected = json.loads((golden / 'zoo' / 'tiny_martinez.json').read_text())['evaluate'][case]
    status, out, err = run('-k', expected['keypoints'], '--data', golden / 'tiny', '--evaluate', public_file, '-ste',
                           expected['subjects_test'], '--results', tmp_path / 'r.json', '--device', 'cpu')
    assert (status, err) == (0, '')
    assert 'the statistics that its file lacks are those of' in out
    assert 'without mirrored keypoints' in out
    paper = json.loads((tmp_path / 'r.json').read_text())['protocols']['paper']
    figures = paper['actions'] | {'average': paper['average']}
    for name, row in expected['millimetres'].items():
        found = {metric: figures[name][metric] for metric in row}
        assert found == pytest.approx(row, abs=0.001 if unit == 'pixels' else 0.1), name


def test_training_losses_equal_the_golden_ones(golden, public_file, run, tmp_path, unit):
    expected = json.loads((golden / 'zoo' / 'tiny_martinez.json').read_text())['train']['epochs']
    status, _, _ = run('--model', 'martinez', '-cs', 32, '-dep', 2, '-k', 'gt', '--data', golden / 'tiny', '-str', 'S1',
                       '-ste', 'S9,S11', '--init', public_file, '--lr-decay-steps', 20, '--dropout', 0, '-e', 3,
                       '-c', tmp_path / 'c', '-l', tmp_path / 'l', '--device', 'cpu')
    assert status == 0
    exact = unit == 'pixels'
    for m in metrics_of(tmp_path / 'l'):
        want = expected[str(m['epoch'])]
        loss = 0.01 if not exact else 1e-5 if m['epoch'] == 1 else 1e-3
        assert m['train_loss'] == pytest.approx(1000 * want['train_loss'], rel=loss)
        assert m['valid_mpjpe'] == pytest.approx(want['valid_mpjpe'], rel=1e-3 if exact else 0.02)
        assert m['lr'] == pytest.approx(want['lr_at_end'])


def test_a_checkpoint_holds_its_statistics(golden, run, refused, tmp_path, public_file):
    """It is evaluated and goes on with those of its training, whatever the data say now; a public file cannot."""
    data = ['-k', 'gt', '--data', golden / 'tiny', '-ste', 'S9', '--device', 'cpu']
    trained = tmp_path / 'S1' / 'last.bin'

    def train(subject, *more):
        return run(*data, '-str', subject, '-c', tmp_path / subject, '-l', tmp_path / 'l', '-e', 1, *more)[0]
    assert train('S1', '--model', 'martinez', '-cs', 16, '--results', tmp_path / 'a.json') == 0
    assert run(*data, '--evaluate', trained, '--results', tmp_path / 'b.json')[0] == 0
    a, b = (json.loads((tmp_path / f'{name}.json').read_text())['protocols'] for name in 'ab')
    assert a['paper']['actions'] == b['paper']['actions']
    before = torch.load(trained)['model_pos']
    assert train('S11', '--init', trained) == 0
    after = torch.load(tmp_path / 'S11' / 'last.bin')['model_pos']
    for key in Martinez.measured_keys:
        assert not torch.equal(before[key], torch.zeros_like(before[key]))
        assert torch.equal(before[key], after[key])
    np.save(tmp_path / 'clip.npy', np.random.default_rng(0).normal(500, 100, (9, 17, 2)))
    predict = ['--predict', tmp_path / 'clip.npy', '--layout', 'h36m', '--image-size', 1000, 1000, '--as-is',
               '--output', tmp_path / 'out.npz']
    assert 'lacks the statistics of its training data' in refused(1, '--evaluate', public_file, *predict)
    assert run('--evaluate', trained, *predict, '--device', 'cpu')[0] == 0
    with np.load(tmp_path / 'out.npz') as file:
        assert np.isfinite(file['poses']).all()


def test_a_public_file_is_refined_with_statistics_of_the_training_frames(golden, run, tmp_path, public_file):
    status, _, _ = run('-k', 'gt', '--data', golden / 'tiny', '-str', 'S1', '-ste', 'S11', '--refine', '--init',
                       public_file, '-e', 1, '-c', tmp_path / 'c', '-l', tmp_path / 'l', '--device', 'cpu')
    assert status == 0
    state = torch.load(tmp_path / 'c' / 'last.bin')['model_pos']
    published = np.load(golden / 'zoo' / 'martinez_stats.npz')
    np.testing.assert_allclose(state['base.poses_std'], published['std_3d_mm'][1:] / 1000, rtol=1e-5)


@pytest.mark.slow
def test_two_processes_are_one_run(golden, tmp_path):
    """Batch norms and the loss are those of the whole step, 1,636 frames among which the last step has 4."""
    recorder = tmp_path / 'recorder.py'
    recorder.write_text(RECORDER.format(root=str(ROOT)))
    for processes in (1, 2):
        status, _, err = run_alone(
            recorder, tmp_path / f'{processes}.json', '--model', 'martinez', '-cs', 16, '-k', 'gt', '--data',
            golden / 'tiny', '-str', 'S1', '-ste', 'S9', '--dropout', 0, '-b', 136, '-e', 1, '-c',
            tmp_path / f'c{processes}', '-l', tmp_path / 'l', '--device', 'cpu', ranks=processes)
        assert status == 0, err
    one, two = (json.loads((tmp_path / f'{n}.json').read_text()) for n in (1, 2))
    assert len(one) == 13
    assert two == pytest.approx(one, rel=1e-4)


def test_the_recipe_is_the_published_one():
    recipe = Martinez.recipe
    assert (recipe.optimizer, recipe.lr, recipe.lr_decay, recipe.lr_decay_steps, recipe.clip) == \
        ('adam', 1e-3, 0.96, 100_000, 1)
    assert (recipe.loss, recipe.l1_share, recipe.objective, recipe.root, recipe.joints) == \
        ('mse', 0, 'plain', 'zero', None)
    assert (recipe.epochs, recipe.batch, recipe.weight_decay, recipe.augment, recipe.flip) == (200, 64, 0, False, False)


def test_a_public_file_with_nothing_left_to_train_is_tested(golden, public_file, run, tmp_path):
    """Its file, unlike ours, lacks the statistics of the training data."""
    status, out, err = run('--model', 'martinez', '-k', 'gt', '--data', golden / 'tiny', '-str', 'S1', '-ste', 'S9',
                           '--resume', public_file, '-e', 3, '-c', tmp_path / 'c', '-l', tmp_path / 'l', '--device',
                           'cpu')
    assert (status, err) == (0, '')
    assert 'nothing is left to train up to -e 3' in out and 'evaluated on h36m, keypoints gt, subjects S9' in out
