"""D3DP: its tables, denoiser, training pass and samples against the golden outputs, and part by part."""

import contextlib
import functools
import io
import json
from dataclasses import replace

import naive
import numpy as np
import pytest
import torch
from test_ktpformer import relative

import run_ktpformer
from common.augment import Batch, Mirror, mirror
from common.commands import judging
from common.commands.placing import Lifted
from common.evaluation.hypotheses import _batches, by_projection, groups, hypotheses, judge
from common.geometry import camera
from common.geometry.projection import project
from common.losses import mean_mpjpe
from common.metrics import p_mpjpe
from common.models import build_model, diffusion, load_lifter, recipe_of
from common.models.diffusion import FIGURES, schedule, times
from common.models.lifting import hypotheses_of, lift_hypotheses, lift_store, windows_for
from common.models.loading import LoadedLifter
from common.sequences import Sequence
from common.skeleton import H36M
from common.store import SequenceStore

MIRROR = Mirror(torch.tensor(H36M.mirror), torch.tensor(H36M.mirror))


@pytest.fixture(scope='module', params=['d3dp', 'd3dp_odd'])
def goldens(request, golden):
    folder = golden / 'zoo'
    return (np.load(folder / f'{request.param}.npz'), json.loads((folder / f'{request.param}.json').read_text()),
            json.loads((folder / f'{request.param}_keys.json').read_text()))


def sizes_of(goldens):
    return {name: goldens[1]['config'][name] for name in ('frames', 'channels', 'depth', 'heads')}


@pytest.fixture
def golden_model(goldens, fill):
    model = build_model('mixste', {**sizes_of(goldens), 'diffusion': True}, H36M, H36M, 0.0)
    model.load_state_dict(model.state_dict() | fill(goldens[2]))
    model.hypotheses, model.iterations = (goldens[1]['config'][name] for name in ('hypotheses', 'iterations'))
    return model.eval()


def given_noise(data):
    """Return what draws the noise of the golden outputs, one array after the other."""
    return functools.partial(next, iter(map(torch.from_numpy, [data['start_noise'], *data['step_noise']])))


@torch.no_grad()
def sampled(model, data):
    return model.sample(torch.from_numpy(data['x']), MIRROR, given_noise(data))


def test_public_key_names_and_shapes(goldens):
    state = build_model('mixste', {**sizes_of(goldens), 'diffusion': True}, H36M, H36M).state_dict()
    tables = {key: [list(value.shape), str(value.dtype)] for key, value in state.items() if '.' not in key}
    if 'buffers' in goldens[1]:
        assert tables == goldens[1]['buffers']
    assert {key: list(value.shape) for key, value in state.items() if '.' in key} == goldens[2]


def test_golden_tables(golden):
    """In float64, but for the last bit of a cosine: torch's differs between AVX2 and AVX-512."""
    data, tables = np.load(golden / 'zoo' / 'd3dp.npz'), schedule()
    names = [name for name in data.files if name.startswith('table_')]
    assert len(names) == 7
    for name in names:
        np.testing.assert_allclose(tables[name.removeprefix('table_')].numpy(), data[name], rtol=1e-12, err_msg=name)


def test_golden_times(goldens):
    _, expected, _ = goldens
    pairs = times(expected['config']['iterations'])
    assert [now for now, _ in pairs] + [pairs[-1][1]] == expected['times']


def test_times_of_other_counts():
    assert times(1) == [(999, -1)]
    assert [now for now, _ in times(5)] == [999, 799, 599, 399, 199]
    assert [now for now, _ in times(10)] == list(range(999, 0, -100))
    assert [now for now, _ in times(1000)] == list(range(999, -1, -1))
    assert times(26)[-1] == (37, -1)  # -1 + 1000 / 26 = 37.46


def test_golden_denoiser(goldens, golden_model):
    """At 1e-6: another order of the time embedding's products moves it by 1e-5, within the tolerance of the others."""
    data = goldens[0]
    state = torch.from_numpy(data['denoiser_state'])
    count = state.shape[1]
    seen = torch.cat([torch.from_numpy(data['x']).repeat_interleave(count, 0), state.flatten(0, 1)], dim=-1)
    out = golden_model.pose_estimator(seen, torch.from_numpy(data['t']).repeat_interleave(count))
    assert relative(out.unflatten(0, state.shape[:2]), data['denoiser_out_eval']) < 1e-6


def test_golden_training_pass(goldens, golden_model):
    data, expected, _ = goldens
    x, y, time, noise = (torch.from_numpy(data[name]) for name in ('x', 'y', 't', 'train_noise'))
    assert relative(golden_model.noisy(y, time, noise), data['train_state']) < 1e-7
    golden_model.train()._drawn = (time, noise)
    told = []
    golden_model.pose_estimator.register_forward_hook(lambda module, given, out: told.append(out))
    loss = golden_model.loss(Batch(x, y), mean_mpjpe)
    assert relative(told[0], data['out_train']) < 1e-6
    assert loss.item() == pytest.approx(expected['train_loss'], rel=1e-6)
    loss.backward()
    norms = {name: (loss.detach() * p.grad).norm().item() for name, p in golden_model.named_parameters()}
    assert norms == pytest.approx(expected['grad_norm_with_loss_as_upstream_gradient'], rel=1e-5)


def test_golden_samples(goldens, golden_model):
    assert relative(sampled(golden_model, goldens[0]), goldens[0]['sampled']) < 5e-6


# ---- figures -----------------------------------------------------------------------------------------------------


def judged(goldens, iteration):
    """Return what is judged of the golden samples after an iteration, by groups of two windows."""
    data = goldens[0]
    samples = torch.from_numpy(data['sampled'][:, iteration]).clone()
    samples[..., H36M.root, :] = 0
    truth = torch.from_numpy(data['y']).clone()
    view = Batch(torch.from_numpy(data['x']), truth, torch.from_numpy(data['camera']).expand(len(truth), -1),
                 root=torch.from_numpy(data['root'])[:, :, 0])
    together = goldens[1]['config']['windows_per_batch']
    return judge(samples, view, torch.arange(len(truth)) // together), samples, view


def test_golden_choices_by_projection(goldens):
    """Exactly: the nearest two candidates are 9e-5 apart."""
    for iteration in range(goldens[1]['config']['iterations']):
        _, samples, view = judged(goldens, iteration)
        np.testing.assert_array_equal(by_projection(samples, view).numpy(), goldens[0]['chosen'][:, iteration])
        projected = project(samples + view.root[:, None, :, None], view.intrinsic)
        assert relative(projected, goldens[0]['reprojected'][:, iteration]) < 1e-6


def test_golden_figures(goldens):
    """All four after each iteration, MPJPE and P-MPJPE, to 0.001 mm; P-Best for two windows at a time."""
    _, expected, _ = goldens
    names = {'J_Best': 'J-Best', 'P_Best': 'P-Best', 'J_Agg': 'J-Agg', 'P_Agg': 'P-Agg'}
    for iteration in range(expected['config']['iterations']):
        (poses, known), _, view = judged(goldens, iteration)
        assert list(poses)[-1] == 'P-Agg' and set(poses) == set(names.values())
        for theirs, ours in names.items():
            mean = 1000 * mean_mpjpe(poses[ours], view.poses).item()
            assert mean == pytest.approx(expected['figures_mm_by_step'][theirs][iteration], abs=1e-3)
            aligned = known.get(ours, {}).get('p_mpjpe')
            aligned = p_mpjpe(poses[ours], view.poses) if aligned is None else aligned
            assert 1000 * aligned.mean().item() == pytest.approx(
                expected['figures_p_mpjpe_mm_by_step'][theirs][iteration], abs=1e-3)


def naive_figures(samples, truth, group):
    """Return MPJPE of J-Best, P-Best and P-Agg of (B, P, A, J, 3), frame by frame and joint by joint."""
    samples, truth = samples.numpy(), truth.numpy()
    windows, hypotheses, frames, joints = samples.shape[:4]
    distance = np.array([[[[np.sqrt(((samples[b, p, f, j] - truth[b, f, j]) ** 2).sum()) for j in range(joints)]
                           for f in range(frames)] for p in range(hypotheses)] for b in range(windows)])
    best = []
    for number in sorted(set(group.tolist())):
        mine = [b for b in range(windows) if group[b] == number]
        chosen = min(range(hypotheses), key=lambda p, mine=mine: sum(distance[b, p].sum() for b in mine))
        best += [distance[b, chosen].mean() for b in mine]
    mean = np.sqrt(((samples.mean(1) - truth) ** 2).sum(-1)).mean()
    return {'J-Best': distance.min(1).mean(), 'P-Best': np.mean(best), 'P-Agg': mean}


def test_figures_against_a_naive_implementation():
    torch.manual_seed(3)
    samples, truth = torch.randn(5, 4, 3, 6, 3), torch.randn(5, 3, 6, 3)
    group = torch.tensor([0, 0, 0, 1, 1])
    poses, _ = judge(samples, Batch(torch.zeros(5, 3, 6, 2), truth), group)
    assert 'J-Agg' not in poses  # no camera
    expected = naive_figures(samples, truth, group)
    assert {name: mean_mpjpe(each, truth).item() for name, each in poses.items()} == pytest.approx(expected, rel=1e-6)
    assert expected['J-Best'] < expected['P-Best']


def test_groups_are_cut_at_sequences_and_batches_between_groups():
    sequence = torch.tensor([0] * 5 + [2] * 4 + [3])
    group = groups(sequence, 2)
    assert group.tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4, 5]
    assert groups(sequence, 1).tolist() == list(range(10))
    assert groups(sequence[:0], 2).tolist() == []
    assert [index.tolist() for index in _batches(group, 3)] == [[0, 1], [2, 3, 4], [5, 6], [7, 8, 9]]
    assert [index.tolist() for index in _batches(group, 1)] == [[0, 1], [2, 3], [4], [5, 6], [7, 8], [9]]
    assert [index.tolist() for index in _batches(group[:0], 3)] == [[]]


def test_what_each_figure_reads():
    model = build_model('mixste', {'frames': 3, 'channels': 8, 'depth': 1, 'diffusion': True}, H36M, H36M)
    assert {name: model.reads(name) for name in FIGURES} == {
        'J-Best': {'answer'}, 'P-Best': {'answer'}, 'J-Agg': {'intrinsic', 'distortion', 'root'}, 'P-Agg': frozenset()}
    assert list(FIGURES)[-1] == 'P-Agg'


# ---- sampling ----------------------------------------------------------------------------------------------------


def small(name='mixste', **sizes):
    """Return a small denoiser at work, whose weights are not all near 0."""
    torch.manual_seed(1)
    model = build_model(name, {'frames': 3, 'channels': 8, 'depth': 1, 'diffusion': True, **sizes}, H36M, H36M)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    model.hypotheses, model.iterations = 3, 2
    return model.eval()


@torch.no_grad()
def sampled_of(model, numbers, keypoints):
    return model.sampled(Batch(keypoints, window=torch.tensor(numbers)), MIRROR, every=True)


@pytest.mark.parametrize('name', ['mixste', 'ktpformer'])
def test_a_window_is_sampled_alike_in_whatever_batch_it_comes(name, monkeypatch):
    """Noise is a function of the window and the hypothesis; how many fit into a pass changes rounding alone."""
    model, keypoints = small(name), torch.randn(4, 3, 17, 2)
    together = sampled_of(model, [5, 9, 11, 2 ** 40], keypoints)
    assert together.shape == (4, 2, 3, 3, 17, 3)
    alone = torch.cat([sampled_of(model, [number], keypoints[i:i + 1]) for i, number in
                       enumerate([5, 9, 11, 2 ** 40])])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)
    monkeypatch.setitem(diffusion.FRAMES_PER_BATCH, 'cpu', 5)  # a hypothesis at a time
    torch.testing.assert_close(sampled_of(model, [5, 9, 11, 2 ** 40], keypoints), together, rtol=1e-5, atol=1e-5)
    monkeypatch.undo()
    other = sampled_of(model, [6, 9, 11, 2 ** 40], keypoints)
    assert not torch.allclose(other[0], together[0]) and torch.allclose(other[1:], together[1:], atol=1e-5)
    model.hypotheses = 2
    torch.testing.assert_close(sampled_of(model, [5, 9, 11, 2 ** 40], keypoints), together[:, :, :2], rtol=1e-5,
                               atol=1e-5)  # fewer of them are the first ones


def test_no_window_is_sampled_too():
    assert sampled_of(small(), [], torch.zeros(0, 3, 17, 2)).shape == (0, 2, 3, 3, 17, 3)


def test_a_sampling_takes_as_many_passes_as_hypotheses_iterations_and_mirrors():
    model, windows = small(), []
    model.pose_estimator.register_forward_hook(lambda module, given, out: windows.append(len(given[0])))
    sampled_of(model, [0, 1], torch.randn(2, 3, 17, 2))
    assert sum(windows) == 2 * 3 * 2 * 2  # windows, hypotheses, iterations, plain and mirrored
    windows.clear()
    with torch.no_grad():
        model.sampled(Batch(torch.randn(2, 3, 17, 2)), None)
    assert sum(windows) == 2 * 3 * 2


def test_samples_of_mirrored_keypoints_are_the_mirrored_samples():
    """Where noise is mirrored too, as flips inside each iteration make it."""
    model, keypoints = small(), torch.randn(2, 3, 17, 2)
    noise = [torch.randn(2, 3, 3, 17, 3) for _ in range(2)]
    with torch.no_grad():
        plain = model.sample(keypoints, MIRROR, functools.partial(next, iter(noise)))
        other = model.sample(mirror(keypoints, MIRROR.keypoints), MIRROR,
                             functools.partial(next, iter([MIRROR.poses(each) for each in noise])))
    torch.testing.assert_close(MIRROR.poses(other), plain, rtol=1e-4, atol=1e-5)


def test_the_headline_is_the_mean_of_the_last_hypotheses():
    model, view = small(), Batch(torch.randn(2, 3, 17, 2), window=torch.tensor([3, 4]))
    with torch.no_grad():
        (name, poses), = model.lift(view, MIRROR).items()
        expected = model.sampled(view, MIRROR, every=True)[:, -1].mean(1)
    assert name == 'P-Agg' and torch.equal(poses, expected)


# Mistakes, and how far they move samples of the small case (about) and must at least.
MISTAKES = {'excess from the clamped state': 0.06, 'no noise': 0.55, 'rounded times': 0.34, 'no clamp': 1.1,
            'keypoints not mirrored': 0.57}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_the_golden_samples_would_show_mistakes(golden, fill, monkeypatch, mistake):
    folder = golden / 'zoo'
    data, config = np.load(folder / 'd3dp.npz'), json.loads((folder / 'd3dp.json').read_text())['config']
    model = build_model('mixste', {**{size: config[size] for size in ('frames', 'channels', 'depth', 'heads')},
                                   'diffusion': True}, H36M, H36M, 0.0).eval()
    model.load_state_dict(model.state_dict() | fill(json.loads((folder / 'd3dp_keys.json').read_text())))
    model.hypotheses, model.iterations = config['hypotheses'], config['iterations']
    noise, whole = given_noise(data), model.denoised
    if mistake == 'excess from the clamped state':
        def clamping(keypoints, x, *more):
            poses = whole(keypoints, x, *more)
            x.clamp_(-1.1, 1.1)
            return poses
        monkeypatch.setattr(model, 'denoised', clamping)
    elif mistake == 'no noise':
        begun, draws = noise, iter([True])

        def noise():
            first = begun()
            return first if next(draws, False) else torch.zeros_like(first)
    elif mistake == 'rounded times':
        monkeypatch.setattr(diffusion, 'times', lambda count: [(999, 666), (666, 332), (332, -1)])
    elif mistake == 'no clamp':
        monkeypatch.setattr(diffusion, 'REACH', 1e9)
    else:
        monkeypatch.setattr(diffusion, 'mirrored_as', lambda x, order: x)
    with torch.no_grad():
        samples = model.sample(torch.from_numpy(data['x']), MIRROR, noise)
    moved = (samples - torch.from_numpy(data['sampled'])).abs().max().item()
    assert moved > MISTAKES[mistake] / 3


def test_the_golden_figures_would_show_mistakes(golden):
    """One window at a time by 1.2 mm, the root kept by 92 mm, no distortion by 0.3 mm, in some iteration."""
    folder = golden / 'zoo'
    goldens = np.load(folder / 'd3dp.npz'), json.loads((folder / 'd3dp.json').read_text())
    off = {'P-Best': [], 'P-Agg': [], 'J-Agg': []}
    for iteration in range(goldens[1]['config']['iterations']):
        (poses, _), samples, view = judged(goldens, iteration)
        pinhole = view.intrinsic.clone()
        pinhole[:, 4:] = 0
        group = torch.arange(3)
        with_root = torch.from_numpy(goldens[0]['sampled'][:, iteration])
        for name, wrong in (('P-Best', judge(samples, view, group)), ('P-Agg', judge(with_root, view, group)),
                            ('J-Agg', judge(samples, view._replace(intrinsic=pinhole), group))):
            off[name].append(1000 * abs(mean_mpjpe(wrong.poses[name], view.poses)
                                        - mean_mpjpe(poses[name], view.poses)).item())
    assert max(off['P-Best']) > 0.5 and max(off['P-Agg']) > 50 and max(off['J-Agg']) > 0.1


# ---- training ----------------------------------------------------------------------------------------------------


def test_times_and_noise_of_a_step_are_those_of_its_windows_in_any_process():
    model, step = small(), (123, 5)
    model.begin_step(*step, slice(0, 5))
    time, noise = model._drawn
    assert time.shape == (5,) and noise.shape == (5, 3, 17, 3)
    model.begin_step(*step, slice(2, 4))
    assert torch.equal(model._drawn[0], time[2:4]) and torch.equal(model._drawn[1], noise[2:4])
    model.begin_step(124, 5, slice(0, 5))
    assert not torch.equal(model._drawn[1], noise)
    times_drawn = torch.cat([(model.begin_step(seed, 50, slice(0, 50)), model._drawn[0])[1] for seed in range(40)])
    assert times_drawn.min() < 10 and times_drawn.max() > 989 and abs(times_drawn.float().mean() - 499.5) < 30


def test_the_loss_is_that_of_a_noisy_pose_told_at_its_time():
    """By hand, of one window."""
    model = small().train()
    x, y = torch.randn(1, 3, 17, 2), torch.randn(1, 3, 17, 3)
    time, noise = torch.tensor([400]), torch.randn(1, 3, 17, 3)
    model._drawn = (time, noise)
    kept = model.alphas_cumprod[400].item()
    state = (kept ** 0.5 * y + (1 - kept) ** 0.5 * noise).clamp(-1.1, 1.1)
    told = model.pose_estimator(torch.cat([x, state], -1), time)
    assert model.loss(Batch(x, y), mean_mpjpe).item() == pytest.approx((told - y).norm(dim=-1).mean().item(), rel=1e-6)


def test_published_recipe_and_sizes():
    recipe = recipe_of('mixste', {'diffusion': True})
    assert (recipe.lr, recipe.lr_decay, recipe.epochs, recipe.weight_decay, recipe.loss, recipe.objective,
            recipe.root) == (6e-5, 0.993, 400, 0.1, 'mpjpe', 'half-square', 'zero')
    assert recipe.batch // min(243, recipe.stride_limit) == 4
    assert recipe_of('ktpformer', {'diffusion': True}).lr == 6e-5
    with torch.device('meta'):
        model = build_model('mixste', {}, H36M, H36M, noisy=True)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == 34.84


# ---- files -------------------------------------------------------------------------------------------------------


def test_a_public_file_is_recognised_and_read(tmp_path, goldens, fill):
    """Of d3dp with its tables, of the odd case without those that are never used."""
    state = fill(goldens[2])
    tables = schedule() if 'buffers' in goldens[1] else {'betas': schedule()['betas']}
    torch.save({'epoch': 7, 'lr': 1e-5, 'optimizer': {}, 'model_pos':
                {f'module.{key}': value for key, value in (state | tables).items()}}, tmp_path / 'public.bin')
    lifter = load_lifter(tmp_path / 'public.bin')
    assert lifter.name == 'mixste' and lifter.config['diffusion'] is True
    assert {name: lifter.config[name] for name in sizes_of(goldens)} == sizes_of(goldens)
    assert (lifter.model.hypotheses, lifter.model.iterations) == (5, 5)
    lifter.model.hypotheses, lifter.model.iterations = (goldens[1]['config'][name] for name in
                                                        ('hypotheses', 'iterations'))
    assert relative(sampled(lifter.model, goldens[0]), goldens[0]['sampled']) < 5e-6
    assert lifter.lift_clip(np.random.default_rng(0).normal(size=(12, 17, 2))).shape == (12, 17, 3)


def test_the_schedule_of_a_file_is_the_one_that_it_is_sampled_by(tmp_path, goldens, fill):
    tables = {name: table / 2 for name, table in schedule().items()}
    torch.save(fill(goldens[2]) | tables, tmp_path / 'other.pth')
    model = load_lifter(tmp_path / 'other.pth').model
    assert torch.equal(model.alphas_cumprod, tables['alphas_cumprod'])


def test_inspect_says_that_a_file_is_a_denoiser(run, tmp_path, goldens, fill):
    torch.save(fill(goldens[2]) | schedule(), tmp_path / 'public.pth')
    status, out, _ = run('--inspect', 'public.pth', '-c', tmp_path)
    assert status == 0 and 'model      mixste' in out and "'diffusion': True" in out
    assert f'parameters {sum(int(np.prod(shape)) for shape in goldens[2].values()):,}' in out


# ---- the program -------------------------------------------------------------------------------------------------

TINY = ['--model', 'mixste', '-f', 9, '-cs', 16, '-dep', 1, '-b', 64, '--device', 'cpu']
H36M_FLAGS = ['-k', 'gt', '-str', 'S1', '-ste', 'S9', '-a', 'Directions']


@pytest.fixture(scope='module')
def trained(h36m_folder, tmp_path_factory):
    """The folder of a D3DP of two epochs, and what was said; not to be written to."""
    folder, out = tmp_path_factory.mktemp('d3dp'), io.StringIO()
    flags = [*TINY, '--diffusion', *H36M_FLAGS, '--data', h36m_folder, '-e', 2, '-c', folder / 'c', '-l', folder / 'l',
             '--hypotheses', 3, '--iterations', 2, '--by-iteration', '--results', folder / 'r.json',
             '--export-predictions', folder / 'p.npz']
    with contextlib.redirect_stdout(out):
        assert run_ktpformer.main([str(flag) for flag in flags]) == 0
    return folder, out.getvalue()


def test_the_four_figures_stand_beside_what_they_read(trained):
    folder, out = trained
    results = json.loads((folder / 'r.json').read_text())
    assert results['predictions'] == ['P-Agg', 'J-Best', 'P-Best', 'J-Agg'] and results['headline'] == 'P-Agg'
    assert (results['hypotheses'], results['iterations'], results['windows_per_choice']) == (3, 2, 4)
    assert set(results['reads']) == {'J-Best', 'P-Best', 'J-Agg'}
    assert 'true pose' in results['reads']['J-Best'] and 'true position of the root' in results['reads']['J-Agg']
    for name, words in results['reads'].items():
        assert f'{name}: besides the keypoints it reads {words}' in out
    figures = {name: (results if name != 'P-Agg' else {name: results['protocols']})[name]['paper']['average']
               for name in FIGURES}
    for metric in ('mpjpe', 'p_mpjpe'):
        assert figures['J-Best'][metric] <= figures['J-Agg'][metric]
        assert figures['J-Best'][metric] <= figures['P-Best'][metric]
    by_iteration = results['by_iteration']['paper']
    assert set(by_iteration) == set(FIGURES)
    assert by_iteration['P-Agg'][1]['mpjpe'] == pytest.approx(figures['P-Agg']['mpjpe'])
    assert by_iteration['P-Agg'][0] != by_iteration['P-Agg'][1]
    assert 'P-Best takes one of them for 4 windows of a sequence, 36 frames' in out
    rows = np.load(folder / 'p.npz')
    assert {name for name in rows.files if rows[name].shape == rows['truth'].shape} == {*FIGURES, 'truth'}


def test_the_table_does_not_depend_on_how_windows_are_batched(trained, run, h36m_folder, monkeypatch, tmp_path):
    """Nor on the pieces that the test is made in, which keep memory from growing with it."""
    folder, _ = trained
    flags = ['-c', folder / 'c', '--data', h36m_folder, '--device', 'cpu', '--hypotheses', 3, '--iterations', 2,
             '--evaluate', 'best.bin', '--results', tmp_path / 'again.json']
    held = []
    whole = judging.hypotheses.hypotheses

    def watched(model, store, windows, *more):
        held.append(len(windows))
        return whole(model, store, windows, *more)
    monkeypatch.setattr(judging.hypotheses, 'hypotheses', watched)
    monkeypatch.setattr(judging, 'FRAMES_AT_ONCE', 1)
    monkeypatch.setitem(diffusion.FRAMES_PER_BATCH, 'cpu', 20)
    assert run(*flags)[0] == 0
    assert len(held) > 1  # a sequence at a time
    again, before = (json.loads(path.read_text()) for path in (tmp_path / 'again.json', folder / 'r.json'))
    for protocol in ('paper', 'exact'):
        assert again['protocols'][protocol]['average'] == pytest.approx(before['protocols'][protocol]['average'],
                                                                        rel=1e-4)
        assert again['P-Best'][protocol]['average'] == pytest.approx(before['P-Best'][protocol]['average'], rel=1e-4)


def test_predictions_have_a_spread(trained, run, h36m_folder, tmp_path):
    folder, _ = trained
    clip = np.random.default_rng(2).normal(500, 100, (20, 17, 2))
    np.save(tmp_path / 'clip.npy', clip)
    status, out, err = run('-c', folder / 'c', '--evaluate', 'best.bin', '--predict', tmp_path / 'clip.npy', '--layout',
                           'h36m', '--image-size', 1000, 1000, '--output', tmp_path / 'out.npz', '--hypotheses', 4,
                           '--iterations', 2, '--as-is', '--device', 'cpu', '--render', '--viz-output',
                           tmp_path / 'out.png')
    assert (status, err) == (0, '')
    assert 'P-Agg of 4 hypotheses after 2 iterations: the mean, with their spread' in out
    written = np.load(tmp_path / 'out.npz')
    assert written['spread'].shape == (20, 17) and (written['spread'][:, 0] == 0).all()
    assert (written['spread'][:, 1:] > 0).all()


def test_spread_by_hand():
    """Two hypotheses 6 mm apart along z have a standard deviation of 6 / √2 mm; one has none."""
    hypotheses = np.zeros((2, 1, 17, 3), np.float32)
    hypotheses[1, 0, 3, 2] = 0.006
    lifted = Lifted(None, H36M, H36M, hypotheses.mean(0), np.full((1, 17, 3), 5, np.float32), '', None, hypotheses)
    assert lifted.spread[0, 3] == pytest.approx(0.006 / 2 ** 0.5) and lifted.spread[0, 2] == 0
    assert replace(lifted, hypotheses=None).spread is None
    assert replace(lifted, hypotheses=hypotheses[:1]).spread is None
    world = lifted.hypotheses_in_world()
    np.testing.assert_allclose(world.mean(0), lifted.world, atol=1e-6)
    assert np.linalg.norm(world[1, 0, 3] - world[0, 0, 3]) == pytest.approx(0.006, rel=1e-3)


def test_hypotheses_are_for_a_diffusion(run, refused, h36m_folder, trained, tmp_path):
    flags = ['--data', h36m_folder, *H36M_FLAGS, '-c', tmp_path / 'c', '-l', tmp_path / 'l']
    plain = [*TINY, *flags, '-e', 1]
    line = refused(2, *plain, '--hypotheses', 3)
    assert '--hypotheses is for a model that was trained with --diffusion, and mixste makes one prediction' in line
    line = refused(2, *flags, '--model', 'htnet', '--diffusion')
    assert '--diffusion is not for --model htnet' in line and line.endswith('take ktpformer or mixste')
    assert run(*plain)[0] == 0
    evaluate = ['--data', h36m_folder, '-c', tmp_path / 'c', '--evaluate', 'last.bin', '--device', 'cpu']
    assert '--iterations is for a model' in refused(2, *evaluate, '--iterations', 2)
    assert 'is no denoiser: leave --diffusion out' in refused(1, *evaluate, '--diffusion')
    other = ['--data', h36m_folder, *H36M_FLAGS, '-c', tmp_path / 'other', '-l', tmp_path / 'l']
    assert 'is no denoiser, whose first layer reads more' in refused(2, *other, '--diffusion', '--init',
                                                                    tmp_path / 'c' / 'last.bin')
    assert '--refine stands behind a model that makes one prediction' in refused(
        2, *other, '--refine', '--init', trained[0] / 'c' / 'last.bin')


def test_a_denoiser_needs_a_keypoint_for_each_joint(refused, humaneva_folder, tmp_path):
    line = refused(2, *TINY, '--diffusion', '-d', 'humaneva15', '-k', 'detectron_pt_coco', '--data', humaneva_folder,
                   '-str', 'Train/S1', '-ste', 'Validate/S1', '-c', tmp_path / 'c', '-l', tmp_path / 'l')
    assert 'a denoiser reads a noisy joint beside each keypoint, which needs a keypoint for each joint, not coco' in \
        line


def test_without_a_lens_there_is_no_choice_by_projection(run, humaneva_folder, tmp_path):
    """Which is said; the other three figures stand, and nothing takes its place."""
    status, out, err = run(*TINY, '--diffusion', '-d', 'humaneva15', '-k', 'gt', '--data', humaneva_folder, '-str',
                           'Train/S1', '-ste', 'Validate/S1', '-a', 'Walking', '--downsample', 16, '-e', 1,
                           '--hypotheses', 2, '--iterations', 1, '-c', tmp_path / 'c', '-l', tmp_path / 'l',
                           '--results', tmp_path / 'r.json')
    assert (status, err) == (0, '')
    assert "no J-Agg: it reads each lens's distortion, and each camera's focal length and centre, and the true" in out
    assert json.loads((tmp_path / 'r.json').read_text())['predictions'] == ['P-Agg', 'J-Best', 'P-Best']


# ---- the engine --------------------------------------------------------------------------------------------------


def made_up_store():
    """Two sequences, of 7 and 3 frames, before distorting lenses."""
    random, takes = np.random.default_rng(4), []
    for number, frames in enumerate((7, 3)):
        root = random.normal(0, 0.5, (frames, 3)) + [0, 0, 5]
        poses = random.normal(0, 0.4, (frames, 17, 3))
        poses[:, 0] = 0
        intrinsic = np.array([2.3, 2.2, 0.02, 0.03, -0.2, 0.24, -0.002, -0.0009, -0.0014], np.float32)
        takes.append(Sequence('S9', f'Take {number}', 0, random.normal(0, 0.3, (frames, 17, 2)).astype(np.float32),
                              poses.astype(np.float32), root.astype(np.float32), intrinsic))
    return SequenceStore(takes, H36M, H36M, torch.device('cpu')), takes


def naive_samples(model, take, start, number, flip):
    """Return the hypotheses (P, F, J, 3) of one window, mirrored by hand in each iteration."""
    rows = np.clip(np.arange(start, start + model.frames), 0, len(take.keypoints) - 1)
    noise = model._noise_of([number])
    x, seen = noise()[0].numpy(), take.keypoints[rows]

    def told(keypoints, state, now):
        inputs = np.concatenate([np.broadcast_to(keypoints, (len(state), *keypoints.shape)), state], -1)
        with torch.no_grad():
            return model.pose_estimator(torch.from_numpy(inputs.astype(np.float32)), torch.full((len(state),),
                                                                                                now)).numpy()
    alphas = model.alphas_cumprod.numpy()
    for now, then in times(model.iterations):
        state = np.clip(x, -1.1, 1.1)
        poses = told(seen, state, now)
        if flip:
            back = naive.mirror(told(naive.mirror(seen, H36M.left, H36M.right),
                                     naive.mirror(state, H36M.left, H36M.right), now), H36M.left, H36M.right)
            poses = (poses + back) / 2
        poses = np.clip(poses, -1.1, 1.1)
        if then >= 0:
            a, b = alphas[now], alphas[then]
            epsilon = (x / a ** 0.5 - poses) / (1 / a - 1) ** 0.5
            variance = (1 - a / b) * (1 - b) / (1 - a)
            x = poses * b ** 0.5 + (1 - b - variance) ** 0.5 * epsilon + variance ** 0.5 * noise()[0].numpy()
    return poses, rows


@pytest.mark.parametrize('flip', [True, False])
@pytest.mark.parametrize('target, root', [('all', 'zero'), ('last', 'zero'), ('centre', 'predicted'),
                                          ('all', 'subtract')])
def test_the_engine_against_a_naive_one(target, root, flip):
    """Windows, noise, mirrors, root, the frames taken, groups and figures, window by window in numpy."""
    model, (store, takes) = small(), made_up_store()
    windows = windows_for(model, store, target)
    (result,) = hypotheses(model, store, windows, root, flip, 2)
    every, where = [], []
    for index in range(len(windows)):
        sequence, start = int(windows.sequence[index]), int(windows.start[index])
        take = takes[sequence]
        ends = start + 3 if target == 'last' else 10 ** 6
        cut = replace(take, keypoints=take.keypoints[:ends])
        poses, rows = naive_samples(model, cut, start, int(windows.number[index]), flip)
        taken = {'all': [0, 1, 2], 'last': [2], 'centre': [1]}[target]
        poses, rows = poses[:, taken], rows[taken]
        if root == 'subtract':
            poses = poses - poses[:, :, :1]
        elif root == 'zero':
            poses[:, :, 0] = 0
        every.append(poses)
        where.append((sequence, rows))
    group = []
    for sequence, _ in where:
        before = [g for g, (other, _) in zip(group, where, strict=False) if other == sequence]
        group.append((sequence, len(before) // 2))
    for index, (sequence, rows) in enumerate(where):
        take, samples = takes[sequence], every[index]
        truth = take.poses[rows]
        error = np.linalg.norm(samples - truth, axis=-1)  # (P, A, J)
        frame, joint = np.arange(len(rows))[:, None], np.arange(17)
        np.testing.assert_allclose(result.poses['P-Agg'][index], samples.mean(0), atol=2e-5)
        np.testing.assert_allclose(result.poses['J-Best'][index], samples[error.argmin(0), frame, joint], atol=2e-5)
        mine = [i for i, g in enumerate(group) if g == group[index]]
        totals = [sum(np.linalg.norm(every[i][p] - takes[sequence].poses[where[i][1]], axis=-1).mean() for i in mine)
                  for p in range(3)]
        np.testing.assert_allclose(result.poses['P-Best'][index], samples[int(np.argmin(totals))], atol=2e-5)
        seen = camera.project(samples.astype(np.float64) + take.root[rows][:, None], take.intrinsic)
        nearest = np.linalg.norm(seen - take.keypoints[rows], axis=-1).argmin(0)
        np.testing.assert_allclose(result.poses['J-Agg'][index], samples[nearest, frame, joint], atol=2e-5)


def test_a_take_is_sampled_alike_whatever_else_is_tested():
    model, (store, takes) = small(), made_up_store()
    alone = SequenceStore(takes[1:], H36M, H36M, torch.device('cpu'))
    (both,), (one,) = (hypotheses(model, each, windows_for(model, each), 'zero', True, 4) for each in (store, alone))
    torch.testing.assert_close(both.poses['P-Agg'][-1], one.poses['P-Agg'][0])


def test_no_two_streams_of_noise_are_the_same():
    """Of takes, places in them and hypotheses: small numbers in each word, zeros at every end."""
    model = small()
    model.hypotheses = 3
    drawn = [model._noise_of([(take << 32) + start])()[0, p] for take in (0, 1, 2) for start in (0, 1, 2)
             for p in range(3)]
    assert all(not torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


@pytest.mark.parametrize('overlap', [0, 1, 2])
def test_the_spread_does_not_depend_on_how_windows_overlap(overlap):
    """Of a clip that stands still, as large everywhere as in windows that share nothing. Means blend."""
    model = small()
    model.hypotheses = 60
    store = SequenceStore([Sequence('', '', 0, np.full((30, 17, 2), 0.1, np.float32), None)], H36M, H36M,
                          torch.device('cpu'))
    lifter = LoadedLifter(model, 'mixste', {}, H36M, H36M, {}, '', None)
    mean, each, _ = lift_hypotheses(lifter, store, 'zero', overlap, flip=False)
    assert mean.shape == (30, 17, 3) and each.shape == (60, 30, 17, 3)
    np.testing.assert_allclose(each.mean(0), mean, atol=1e-5)
    np.testing.assert_allclose(lift_store(lifter, store, 'zero', overlap, flip=False)[0]['P-Agg'], mean, atol=1e-5)
    spread = np.sqrt(np.square(each - mean).sum(-1).sum(0) / 59)[:, 1:].mean(1)
    apart = hypotheses_of(model, store, windows_for(model, store), 'zero', False)
    expected = apart.std(dim=1).square().sum(-1).sqrt()[..., 1:].mean(dim=(0, 2)).numpy()  # by place in the window
    assert spread.min() > 0.85 * expected.min() and spread.max() < 1.15 * expected.max()


def test_what_is_kept_of_hypotheses_is_what_is_taken():
    model, (store, _) = small(), made_up_store()
    model.iterations = 4
    kept = hypotheses_of(model, store, windows_for(model, store, 'last'), 'zero', True)
    assert kept.untyped_storage().nbytes() == 4 * 10 * 3 * 17 * 3  # windows, hypotheses, joints, coordinates


def test_a_public_file_lifts_ones_own_keypoints(run, fill, golden, tmp_path):
    torch.save(fill(json.loads((golden / 'zoo' / 'd3dp_keys.json').read_text())), tmp_path / 'public.pth')
    np.save(tmp_path / 'clip.npy', np.random.default_rng(2).normal(500, 100, (20, 17, 2)))
    status, out, err = run('--evaluate', tmp_path / 'public.pth', '--predict', tmp_path / 'clip.npy', '--layout',
                           'h36m', '--image-size', 1000, 1000, '--output', tmp_path / 'out.npz', '--as-is',
                           '--hypotheses', 1, '--iterations', 1, '--device', 'cpu')
    assert (status, err) == (0, '')
    assert 'P-Agg of 1 hypothesis after 1 iteration: the only one' in out
    assert 'spread' not in np.load(tmp_path / 'out.npz').files


def test_rendering_samples_as_asked(trained, run, h36m_folder, tmp_path):
    status, out, err = run('-c', trained[0] / 'c', '--data', h36m_folder, '--evaluate', 'best.bin', '--render',
                           '--hypotheses', 2, '--iterations', 1, '--viz-export', tmp_path / 'a.npy', '--device', 'cpu')
    assert (status, err) == (0, '')
    assert 'the mean of 2 hypotheses after 1 iteration' in out
