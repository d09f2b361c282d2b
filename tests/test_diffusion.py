"""D3DP: its tables, denoiser, training pass and samples against the golden outputs, and part by part."""

import functools
import json

import numpy as np
import pytest
import torch
from test_ktpformer import relative

from common.augment import Batch, Mirror
from common.evaluation.hypotheses import _batches, by_projection, groups, judge
from common.geometry.projection import project
from common.losses import mean_mpjpe
from common.metrics import p_mpjpe
from common.models import build_model
from common.models.diffusion import schedule, times
from common.skeleton import H36M

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
    """To the last digit, in float64."""
    data, tables = np.load(golden / 'zoo' / 'd3dp.npz'), schedule()
    names = [name for name in data.files if name.startswith('table_')]
    assert len(names) == 7
    for name in names:
        np.testing.assert_array_equal(tables[name.removeprefix('table_')].numpy(), data[name], err_msg=name)


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
