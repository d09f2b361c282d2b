"""STCFormer against the golden outputs, against a naive second implementation, and part by part."""

import json
from dataclasses import asdict

import naive_stcformer
import numpy as np
import pytest
import torch
from test_ktpformer import relative
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode

from common.augment import Batch, Mirror, mirror
from common.errors import FileError
from common.losses import mean_mpjpe
from common.models import build_model, computing, layers, load_lifter, model_class, stcformer
from common.models.layers import Mlp, attend, dropped
from common.models.loading import recognise
from common.models.stcformer import CrissCross, part_of
from common.sampler import WindowSampler
from common.sequences import Sequence
from common.skeleton import BODY25, COCO, H36M, H36M16, HUMANEVA15, HUMANEVA20, MPI_INF_3DHP, SKELETONS, correspondence
from common.store import SequenceStore

KINDS = ('stcformer', 'stcformer_3dhp')
OF_CASE = {'stcformer': ('stcformer', H36M), 'stcformer_odd': ('stcformer', H36M),
           'stcformer_3dhp': ('stcformer_3dhp', MPI_INF_3DHP)}
BLOCKS = {'stcformer': 'stcformer.stc_block', 'stcformer_3dhp': 'mlpmixer.mixerblocks'}
SIZES = {'frames': 5, 'channels': 16, 'depth': 2, 'heads': 2}


def goldens_of(folder, case):
    return (np.load(folder / f'{case}.npz'), json.loads((folder / f'{case}.json').read_text()),
            json.loads((folder / f'{case}_keys.json').read_text()))


def sizes_of(expected):
    return {size: value for size, value in expected['config'].items() if size != 'part'}


def golden_model(case, golden, fill):
    """Return a case's model, dropping nothing, with its data and what is expected."""
    kind, body = OF_CASE[case]
    data, expected, keys = goldens_of(golden / 'zoo', case)
    model = build_model(kind, sizes_of(expected), body, body, 0.0, dropout=0.0)
    model.load_state_dict(fill(keys))
    return model, data, expected


@pytest.fixture(scope='module', params=OF_CASE)
def case(request, golden, fill):
    return golden_model(request.param, golden, fill)


def attentions(model):
    return [module for module in model.modules() if isinstance(module, CrissCross)]


@pytest.mark.parametrize('case', OF_CASE)
def test_public_key_names_shapes_and_parts(golden, case):
    kind, body = OF_CASE[case]
    _, expected, keys = goldens_of(golden / 'zoo', case)
    model = build_model(kind, sizes_of(expected), body, body)
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == keys
    assert all(module.part.tolist() == expected['config']['part'] for module in attentions(model))


@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_golden_forward(case, mode):
    """All frames, and the centre of them, which is what the model answers for."""
    model, data, _ = case
    x = torch.from_numpy(data['x'])
    model.train(mode == 'train')
    assert relative(model.every_frame(x), data[f'out_{mode}']) < 2e-6
    centre = (x.shape[1] - 1) // 2
    assert (model.frames, model.answers) == (x.shape[1], range(centre, centre + 1))
    assert model.supervised == range(x.shape[1])
    assert relative(model(x), data[f'out_{mode}'][:, centre:centre + 1]) < 3e-6


def test_golden_loss_and_gradients(case):
    """What has no gradient there, an unused norm, is no parameter here."""
    model, data, expected = case
    model.zero_grad()
    loss = model.train().loss(Batch(torch.from_numpy(data['x']), torch.from_numpy(data['y'])), mean_mpjpe)
    assert loss.item() == pytest.approx(expected['loss']['mpjpe'], rel=1e-6)
    loss.backward()
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters()}
    assert norms == pytest.approx({name: norm for name, norm in expected['grad_norm'].items() if norm is not None},
                                  rel=1e-5)


def in_blocks(weight):
    """Return rows of queries, keys and values in three blocks so that they alternate, as a network would read them."""
    return weight.unflatten(0, (3, -1)).transpose(0, 1).flatten(0, 1)


def side_by_side(weight, heads):
    """Return columns for heads of one way and then of the other in the order of their alternation."""
    return weight.unflatten(1, (2, heads, -1)).transpose(1, 2).flatten(1)


@pytest.mark.parametrize('mistake, moved', [
    ('scale by e', 1.4), ('qkv in blocks', 5.5), ('halves not interleaved', 6.9), ('no part term', 3.7e-4),
    ('other order of parts', 4.9e-4)])
def test_a_mistake_moves_the_golden_output(golden, fill, mistake, moved):
    """By about the named difference, so that the test above would see it."""
    model, data, _ = golden_model('stcformer', golden, fill)
    with torch.no_grad():
        for module in attentions(model):
            if mistake == 'scale by e':
                module.scale = (32 / 2 / 8) ** -0.5
            elif mistake == 'qkv in blocks':
                for value in (module.qkv.weight, module.qkv.bias):
                    value.copy_(in_blocks(value))
            elif mistake == 'halves not interleaved':
                module.proj.weight.copy_(side_by_side(module.proj.weight, 8))
            elif mistake == 'no part term':
                module.shares = (None, 1e-9)
            else:
                order = stcformer.CrissCross3DHP.parts
                module.part.copy_(torch.tensor([order.index(part_of(name)) for name in H36M.joints]))
        difference = np.abs(model.eval().every_frame(torch.from_numpy(data['x'])).numpy() - data['out_eval']).max()
    assert difference == pytest.approx(moved, rel=0.15)
    assert difference > 10 * 2e-6 * np.abs(data['out_eval']).max()


@pytest.mark.parametrize('kind, sizes, trained, in_the_file', [
    ('stcformer', {}, 4_748_000, 4_748_000), ('stcformer', {'channels': 512, 'frames': 243}, 18_933_184, 18_933_184),
    ('stcformer_3dhp', {}, 4_751_360, 4_754_432)])
def test_parameter_count_of_the_published_models(kind, sizes, trained, in_the_file):
    model = build_model(kind, sizes, H36M, H36M)
    state = model.state_dict()
    assert sum(p.numel() for p in model.parameters()) == trained
    assert sum(value.numel() for value in state.values()) == in_the_file
    found = model_class(kind).config_of(state, {'frames': model.frames})
    assert found == model_class(kind).Config(**sizes)
    assert recognise(state) == kind


@pytest.mark.parametrize('channels, frames, billions', [(256, 27, 2.2), (256, 81, 6.7), (256, 243, 21.2),
                                                        (512, 243, 81.4)])
def test_arithmetic_of_the_published_models(channels, frames, billions):
    """Multiply-adds for one window, products of attention counted, without the local terms."""
    model = build_model('stcformer', {'frames': frames, 'channels': channels}, H36M, H36M).eval().to('meta')
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, frames, 17, 2, device='meta'))
    assert counter.get_total_flops() / 2e9 == pytest.approx(billions, abs=0.06 * billions)


# ---- the naive second implementation -----------------------------------------------------------------------------


def random_model(kind='stcformer', layout=H36M, skeleton=None, drop_path=0.0, dropout=0.0, seed=0, **config):
    """Make a float64 model in training, always the same, none of whose parameters is at a special value."""
    torch.manual_seed(seed)
    model = build_model(kind, SIZES | config, skeleton or layout, layout, drop_path, dropout=dropout).double()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value += 0.1 * torch.randn(value.shape, generator=random, dtype=value.dtype)
    return model


def naive_output(model, x, kind='stcformer', layout=H36M, heads=2, **how):
    to_joints = None if model.correspondence is None else model.correspondence.detach()
    parts = [model_of(kind).parts.index(part_of(name)) for name in layout.joints]
    return naive_stcformer.stcformer(model.state_dict(), x, parts=parts, kind=kind, heads=heads, to_joints=to_joints,
                                     **how)


def model_of(kind):
    return {'stcformer': stcformer.CrissCross, 'stcformer_3dhp': stcformer.CrissCross3DHP}[kind]


LAYOUTS = [(H36M, H36M), (HUMANEVA15, HUMANEVA15), (MPI_INF_3DHP, MPI_INF_3DHP), (COCO, H36M), (COCO, HUMANEVA15)]


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('layout, skeleton', LAYOUTS, ids=lambda s: s.name)
def test_naive_forward_in_every_layout(kind, layout, skeleton):
    """Small inputs, so that a wrong eps of either norm shows, and tables so large that 1e-9 of them does."""
    model = random_model(kind, layout, skeleton).eval()
    with torch.no_grad():
        for module in attentions(model):
            module.emb.weight *= 1e6
    x = 1e-3 * torch.randn(3, 5, len(layout), 2).double()
    expected = naive_output(model, x, kind, layout)
    assert expected.shape == (3, 5, len(skeleton), 3)
    assert relative(model.every_frame(x), expected) < 1e-9
    assert model(x).shape == (3, 1, len(skeleton), 3)


@pytest.mark.parametrize('config', [{'frames': 1}, {'frames': 27, 'heads': 1},
                                    {'channels': 24, 'heads': 4, 'depth': 1}], ids=str)
@pytest.mark.parametrize('kind', KINDS)
def test_naive_forward_at_other_sizes(kind, config):
    model = random_model(kind, **config)
    x = torch.randn(1, model.frames, 17, 2).double()
    assert relative(model.every_frame(x), naive_output(model, x, kind, heads=config.get('heads', 2))) < 1e-9


@pytest.mark.parametrize('kind', KINDS)
def test_naive_gradients(kind):
    """A row of the table that pads has none."""
    model = random_model(kind)
    x, y = torch.randn(2, 5, 17, 2).double(), torch.randn(2, 5, 17, 3).double()
    state = {key: value.clone().requires_grad_() for key, value in model.state_dict().items()}
    parts = [model_of(kind).parts.index(part_of(name)) for name in H36M.joints]
    predicted = naive_stcformer.stcformer(state, x, parts=parts, kind=kind, heads=2)
    (predicted - y).square().sum(-1).sqrt().mean().backward()
    model.loss(Batch(x, y), mean_mpjpe).backward()
    for name, p in model.named_parameters():
        expected = state[name].grad.clone()
        if '.emb.weight' in name and kind == 'stcformer_3dhp':
            assert expected[0].any()
            expected[0] = 0
        assert relative(p.grad, expected) < 1e-9, name


def test_parts_of_the_body_in_every_layout():
    """By name, left and right apart; what is of the head or has no side is trunk."""
    assert [CrissCross.parts.index(part_of(name)) for name in H36M.joints] == naive_stcformer.H36M_PARTS
    assert [stcformer.CrissCross3DHP.parts.index(part_of(name)) for name in MPI_INF_3DHP.joints] == \
        naive_stcformer.OF_3DHP_PARTS
    assert [part_of(name) for name in COCO.joints[:5]] == ['trunk'] * 5
    for layout in SKELETONS.values():
        for name, other in zip(layout.joints, np.array(layout.joints)[list(layout.mirror)], strict=True):
            assert part_of(other) == ('trunk' if part_of(name) == 'trunk' else
                                      {'l': 'right', 'r': 'left'}[name[0]] + part_of(name)[-4:])
    counted = [sum(part_of(name) == part for name in HUMANEVA20.joints) for part in CrissCross.parts]
    assert counted == [4, 4, 4, 4, 4]
    assert [name for name in BODY25.joints if part_of(name) == 'left_leg'] == [
        'left_hip', 'left_knee', 'left_ankle', 'left_big_toe', 'left_small_toe', 'left_heel']


# ---- what is drawn -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', KINDS)
def test_granularity_and_places_of_dropout_and_the_part_term(monkeypatch, kind):
    """The masks that ours draws, put into the naive model at the places they are for, give the same output: dropout is
    one draw for a value, in the MLPs alone; what is known of parts is all there, twice, or not, in each way by itself.
    """
    model, elements = random_model(kind, drop_path=0.5, dropout=0.4, depth=3), []
    with torch.no_grad():
        for module in attentions(model):
            module.emb.weight *= 1e6

    def recorded(x, rate):
        elements.append((dropped(x, rate), rate))
        return elements[-1][0]
    monkeypatch.setattr(layers, 'dropped', recorded)
    model.begin_step(7, 8, slice(0, 8))
    names, x = naive_stcformer.NAMES[kind], torch.randn(8, 5, 17, 2).double()
    ours = model.every_frame(x)
    places = [f'{BLOCKS[kind]}.{i}.{names["mlp"]}.{place}' for i in range(3) for place in ('hidden', 'out')]
    masks = dict(zip(places, elements, strict=True))
    kept = {f'{BLOCKS[kind]}.{i}.{names["att"]}': dict(zip(('spatial', 'temporal'), module.kept.tolist(), strict=True))
            for i, module in enumerate(attentions(model))}
    assert {factor for ways in kept.values() for factor in ways.values()} == {0.0, 2.0}

    def scale(place, value):
        mask, rate = masks.pop(place)
        assert mask.shape == value.shape and rate == 0.4
        assert mask.double().mean() == pytest.approx(0.4, abs=0.06)
        return value * ~mask / (1 - rate)
    expected = naive_output(model, x, kind, scale=scale, part_scale=lambda name, way: kept[name][way])
    assert relative(ours, expected) < 1e-9
    assert not masks


def test_rates_are_the_published_ones():
    for kind in KINDS:
        recipe = model_class(kind).recipe
        assert (recipe.drop_path, recipe.dropout) == (naive_stcformer.part_rate, naive_stcformer.dropout_rate)
        model = build_model(kind, SIZES, H36M, H36M, recipe.drop_path, dropout=recipe.dropout)
        assert {module.rate for module in attentions(model)} == {0.5}
        assert {module.dropout for module in model.modules() if isinstance(module, Mlp)} == {0.1}


def test_what_is_left_out_of_a_step_is_the_same_in_all_processes():
    """A function of the step's seed: not of the share of its windows, of the calls before, or of torch's own state."""
    model = random_model(drop_path=0.5, depth=3)
    x = torch.randn(7, 5, 17, 2).double()
    seen = []
    for seed in range(40):
        torch.manual_seed(seed)
        model.begin_step(seed, 7, slice(0, 7))
        whole = model.every_frame(x)
        seen.append([module.kept.tolist() for module in attentions(model)])
        if seed < 3:
            parts = []
            for part in (slice(0, 3), slice(3, 3), slice(3, 7)):
                model.begin_step(seed, 7, part)
                parts.append(model.every_frame(x[part]))
            torch.testing.assert_close(torch.cat(parts), whole)
    flags = np.array(seen)  # (steps, blocks, ways)
    assert set(flags.flatten()) == {0, 2} and flags.mean() == pytest.approx(1, abs=0.2)
    assert len({tuple(way) for way in flags.reshape(40, -1).T.tolist()}) == 6  # each way of each block by itself


def test_without_a_step_each_pass_of_training_draws_anew():
    model = random_model(drop_path=0.5)
    x = torch.randn(2, 5, 17, 2).double()
    assert len({model.every_frame(x).sum().item() for _ in range(12)}) > 4
    torch.manual_seed(3)
    first = model.every_frame(x)
    torch.manual_seed(3)
    assert torch.equal(model.every_frame(x), first)


def test_nothing_is_drawn_at_test():
    model = random_model(drop_path=0.5, dropout=0.4)
    model.begin_step(0, 2, slice(0, 2))
    model.eval()
    x = torch.randn(2, 5, 17, 2).double()
    state = torch.get_rng_state()
    assert relative(model.every_frame(x), naive_output(model, x)) < 1e-9
    assert torch.equal(torch.get_rng_state(), state)


def test_a_process_without_windows_has_gradients():
    model = random_model(drop_path=0.5, dropout=0.1)
    out = model.every_frame(torch.zeros(0, 5, 17, 2).double())
    assert out.shape == (0, 5, 17, 3)
    out.sum().backward()
    missing = {name.rpartition('.')[0].rpartition('.')[2] for name, p in model.named_parameters() if p.grad is None}
    assert missing <= {'qkv'}
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


# ---- parts that it shares ------------------------------------------------------------------------------------------


@pytest.mark.parametrize('length, width, dtype', [(9, 4, torch.float64), (50, 4, torch.float64), (9, 64, torch.float64),
                                                  (9, 64, torch.bfloat16)])
def test_attention_by_another_scale(length, width, dtype):
    """By plain products and by the fused kernel."""
    q, k, v = (torch.randn(3, 2, length, width, dtype=dtype) for _ in range(3))
    for scale in (None, 0.1, 0.7):
        factor = width ** -0.5 if scale is None else scale
        expected = (factor * q.double() @ k.double().mT).softmax(-1) @ v.double()
        assert relative(attend(q, k, v, scale=scale), expected) < (1e-12 if dtype is torch.float64 else 0.05)


def test_an_mlp_without_biases(monkeypatch):
    """Values and gradients, with dropout and without."""
    torch.manual_seed(0)
    mlp = Mlp(6, 24, 0.5, bias=False).double()
    assert {name for name, _ in mlp.named_parameters()} == {'fc1.weight', 'fc2.weight'}
    x, masks = torch.randn(4, 6).double(), []
    monkeypatch.setattr(layers, 'dropped', lambda x, rate: masks.append(dropped(x, rate)) or masks[-1])
    for train in (False, True):
        results = []
        mlp.train(train)
        for ours in (True, False):
            weights = mlp.fc1.weight.detach().clone(), mlp.fc2.weight.detach().clone()
            if ours:
                out, weights = mlp(x), (mlp.fc1.weight, mlp.fc2.weight)
            else:
                weights = [weight.requires_grad_() for weight in weights]
                factors = [2 * ~mask for mask in masks] if train else [1, 1]
                hidden = torch.nn.functional.gelu(x @ weights[0].T) * factors[0]
                out = hidden @ weights[1].T * factors[1]
            results.append((out, *torch.autograd.grad(out.square().sum(), weights)))
        torch.testing.assert_close(results[0], results[1])
    assert len(masks) == 2


# ---- where it starts, what it depends on ---------------------------------------------------------------------------


@pytest.mark.parametrize('kind', KINDS)
def test_weights_start_as_published(kind):
    """Tables normal, but for a row that pads; norms at 1 and 0; all else as PyTorch makes it."""
    torch.manual_seed(0)
    model = build_model(kind, {'channels': 64, 'depth': 3}, H36M, H36M)
    tables = torch.cat([module.emb.weight for module in attentions(model)]).detach()
    assert [module.emb.weight[0].any().item() for module in attentions(model)] == [kind == 'stcformer'] * 3
    assert tables.std().item() == pytest.approx(1, abs=0.15)
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            bound = module.weight[0].numel() ** -0.5
            for value in module.parameters(recurse=False):
                assert 0.5 * bound < value.abs().max() <= bound, name
        elif isinstance(module, (torch.nn.LayerNorm, stcformer.UnusedNorm)):
            assert (module.weight == 1).all() and (module.bias == 0).all(), name
            assert getattr(module, 'eps', 1e-5) == 1e-5  # which the goldens do not show of the norm of the MLP


def test_a_window_knows_nothing_of_the_others_and_all_of_itself():
    model = random_model().eval()
    x = torch.randn(3, 5, 17, 2).double().requires_grad_()
    out = model(x)
    torch.testing.assert_close(torch.cat([model(one[None]) for one in x]), out)
    (slope,) = torch.autograd.grad(out[1].sum(), x)
    assert not slope[[0, 2]].any()
    assert slope[1].abs().min() > 0


def test_lifting_is_the_mean_of_plain_and_mirrored_back_centres():
    model = random_model().eval()
    x, order = torch.randn(2, 5, 17, 2).double(), torch.tensor(H36M.mirror)
    expected = (model.every_frame(x) + mirror(model.every_frame(mirror(x, order)), order))[:, 2:3] / 2
    torch.testing.assert_close(model.lift(Batch(x), Mirror(order, order))['predicted'], expected)


def test_keypoints_of_another_layout_become_joints_by_name_at_first():
    model = build_model('stcformer', SIZES, H36M, COCO)
    torch.testing.assert_close(model.correspondence.detach(), torch.from_numpy(correspondence(H36M, COCO)))


# ---- training windows ----------------------------------------------------------------------------------------------


def windows_of_a_sequence(length, frames, spacing, step):
    """Return which frames each training window reads, and those of the truth, by the program's own sampler."""
    numbers = np.arange(length, dtype=np.float32)[:, None, None]
    sequence = Sequence('S1', 'Walk', 0, np.tile(numbers, (1, 17, 2)), np.tile(numbers, (1, 17, 3)))
    store = SequenceStore([sequence], H36M, H36M, torch.device('cpu'))
    model = build_model('stcformer', SIZES | {'frames': frames, 'spacing': spacing}, H36M, H36M)
    sampler = WindowSampler(store, model.frames, False, 1, step, model.answers, supervised=model.supervised,
                            spacing=model.spacing, starts=model.training_starts)
    batch = sampler.gather(sampler._table)
    assert torch.equal(batch.keypoints[..., 0, 0], batch.truth[..., 0, 0])
    return batch.keypoints[..., 0, 0].int().tolist()


@pytest.mark.parametrize('length', [1, 2, 7, 300, 301, 302])
@pytest.mark.parametrize('frames, spacing, step', [(27, 3, 3), (27, 3, 1), (27, 3, 2), (27, 1, 3), (9, 2, 5), (1, 1, 3),
                                                   (243, 2, 3)])
def test_training_windows_are_the_published_ones(length, frames, spacing, step):
    """Where the published program breaks, with both ends outside, past each end its frame is repeated."""
    expected = naive_stcformer.training_windows(length, frames, spacing, step)
    assert windows_of_a_sequence(length, frames, spacing, step) == expected
    assert len(expected) == -(-length // step)


def test_published_training_windows_see_a_third_of_the_frames():
    """With the frames of a window as far apart as windows are; half a window of neighbours lies before the sequence."""
    windows = windows_of_a_sequence(300, 27, 3, None)
    assert len({frame for window in windows for frame in window}) == 102
    starts = build_model('stcformer', SIZES | {'frames': 27}, H36M, H36M).training_starts(300, 1)
    assert (starts[0], starts[-1], len(starts)) == (-11, 286, 100)
    for step in (1, 2):
        assert len({frame for window in windows_of_a_sequence(300, 27, 3, step) for frame in window}) == 300
    assert len({frame for window in windows_of_a_sequence(300, 27, 2, 3) for frame in window}) == 300


def test_windows_of_3dhp_lie_around_every_frame():
    model = build_model('stcformer_3dhp', SIZES, MPI_INF_3DHP, MPI_INF_3DHP)
    assert model.training_starts(7, 1).tolist() == list(range(7)) and model.spacing == 1
    assert model_class('stcformer_3dhp').recipe.window_step is None


# ---- how it computes -----------------------------------------------------------------------------------------------


def test_bf16_and_recomputing():
    """Rounding stays small, reaches no weight; recomputed blocks give the same, dropout and all."""
    x, y, results = torch.randn(2, 5, 17, 2), torch.randn(2, 5, 17, 3), {}
    for precision, recompute in (('fp32', False), ('fp32', True), ('bf16', False), ('bf16', True)):
        model, calls = random_model(drop_path=0.5, dropout=0.3).float(), []
        if recompute:
            computing.recompute_blocks(model)
        block = model.get_submodule(BLOCKS['stcformer'])[0]
        block.register_forward_hook(lambda module, args, out, calls=calls: calls.append(out.dtype))
        with computing.computing_in(model, precision), set_checkpoint_early_stop(False):  # whole blocks, to be counted
            torch.manual_seed(1)
            loss = model.loss(Batch(x, y), mean_mpjpe)
            loss.backward()
        results[precision, recompute] = loss, torch.cat([p.grad.flatten() for p in model.parameters()])
        assert set(calls) == {torch.bfloat16 if precision == 'bf16' else torch.float32}
        assert len(calls) == (2 if recompute else 1)
    for precision in ('fp32', 'bf16'):
        torch.testing.assert_close(results[precision, True], results[precision, False], rtol=0, atol=0)
    (exact, slopes), (rounded, rounded_slopes) = results['fp32', False], results['bf16', False]
    assert slopes.dtype == rounded_slopes.dtype == torch.float32
    assert 1e-6 < relative(rounded, exact) < 0.03
    assert torch.cosine_similarity(slopes, rounded_slopes, dim=0) > 0.99


@pytest.mark.slow
def test_the_loss_of_training_is_compiled_in_one_graph():
    """Without a break, and once for all draws of the part term."""
    model, graphs = random_model(drop_path=0.5, dropout=0.1, depth=1).float(), []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward
    torch._dynamo.reset()
    model.compile(dynamic=False, backend=count)
    for seed in range(3):
        model.begin_step(seed, 2, slice(0, 2))
        model.loss(Batch(torch.randn(2, 5, 17, 2), torch.randn(2, 5, 17, 3)), mean_mpjpe)
    assert len(graphs) == 1


# ---- sizes and files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('config, message', [
    ({'frames': 26}, '26 frames have none in their middle: take an odd number'),
    ({'frames': 0}, 'frames is 0, expected at least 1'), ({'spacing': -1}, 'spacing is -1, expected at least 1'),
    ({'channels': 24}, 'half of 24 channels cannot be divided among 8 heads'), ({'depth': 0}, 'depth is 0'),
    ({'heads': 0}, 'heads is 0')])
def test_impossible_sizes_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        build_model('stcformer', config, H36M, H36M)


def test_frames_are_as_far_apart_as_published_unless_told():
    for sizes, spacing in (({}, 3), ({'frames': 81}, 3), ({'frames': 243}, 2), ({'frames': 243, 'spacing': 3}, 3),
                           ({'spacing': 1}, 1)):
        assert build_model('stcformer', sizes | {'depth': 1}, H36M, H36M).spacing == spacing
    assert model_class('stcformer_3dhp').Config() == model_class('stcformer_3dhp').Config(81, 256, 6, 4, 1)


def test_other_windows_are_refused():
    model = build_model('stcformer', SIZES, H36M, H36M)
    for shape in ((2, 7, 17, 2), (2, 5, 16, 2), (2, 5, 17, 3), (5, 17, 2)):
        with pytest.raises(ValueError, match=r'expected keypoints \(B, 5, 17, 2\), got \(' + f'{shape[0]}, {shape[1]}'):
            model(torch.zeros(shape))


@pytest.mark.parametrize('case', OF_CASE)
def test_config_is_read_from_shapes(golden, fill, case):
    """Heads by the width of a table; frames and how far they are apart are told, or as usual."""
    kind, _ = OF_CASE[case]
    _, expected, keys = goldens_of(golden / 'zoo', case)
    state, model = fill(keys), model_class(kind)
    assert recognise(state) == kind and model.keypoints_of(state) == 0
    sizes, usual = sizes_of(expected), model.Config()
    assert asdict(model.config_of(state)) == sizes | {'frames': usual.frames, 'spacing': usual.spacing}
    assert asdict(model.config_of(state, {'frames': 243})) == sizes | {
        'frames': 243, 'spacing': 2 if kind == 'stcformer' else 1}
    assert model.config_of(state, {'frames': 9, 'spacing': 5}).spacing == 5
    table = f'{BLOCKS[kind]}.0.{model.Config.table}'
    for key, value, message in ((table, None, 'is missing'), ('pose_emb.weight', torch.ones(3), 'expected 2'),
                                (table, torch.zeros(5, 7), 'cannot be divided into heads of 7')):
        broken = {name: other for name, other in state.items() if name != key} | ({} if value is None else {key: value})
        with pytest.raises(ValueError, match=message):
            model.config_of(broken)


def test_a_public_file_is_loaded_as_it_is(golden, fill, tmp_path):
    """It does not tell its frames, nor how many keypoints it takes. A file that fits in part is refused."""
    model, data, expected = golden_model('stcformer', golden, fill)
    state = model.state_dict()
    torch.save(state, tmp_path / 'no_refine_6_4408.pth')
    lifter = load_lifter(tmp_path / 'no_refine_6_4408.pth', sizes={'frames': 9})
    assert (lifter.name, lifter.config) == ('stcformer', sizes_of(expected) | {'spacing': 3})
    assert lifter.skeleton == lifter.layout == H36M
    with torch.no_grad():
        assert relative(lifter.model.every_frame(torch.from_numpy(data['x'])), data['out_eval']) < 2e-6
    assert load_lifter(tmp_path / 'no_refine_6_4408.pth').model.frames == 27
    assert load_lifter(tmp_path / 'no_refine_6_4408.pth', layout=H36M16, skeleton=H36M16).model.keypoints == 16
    torch.save({key: value for key, value in state.items() if 'proj.bias' not in key}, tmp_path / 'part.pth')
    with pytest.raises(FileError, match=r'proj\.bias'):
        load_lifter(tmp_path / 'part.pth')


def test_a_public_file_of_3dhp_is_loaded_in_metres(golden, fill, tmp_path):
    """With the prefix of several GPUs, and as what it was published for; no --model or -d tells it."""
    model, data, expected = golden_model('stcformer_3dhp', golden, fill)
    torch.save({f'module.{key}': value for key, value in model.state_dict().items()}, tmp_path / 'p.pth')
    lifter = load_lifter(tmp_path / 'p.pth', sizes={'frames': 9})
    assert (lifter.name, lifter.config) == ('stcformer_3dhp', sizes_of(expected) | {'spacing': 1})
    assert lifter.skeleton == lifter.layout == MPI_INF_3DHP
    with torch.no_grad():
        poses = lifter.model.every_frame(torch.from_numpy(data['x']))
    assert relative(1000 * poses, data['out_eval']) < 2e-6
