"""DSTformer and MotionAGFormer against the golden outputs, and what these do not show of the parts that both share."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from test_ktpformer import relative
from torch.utils.checkpoint import set_checkpoint_early_stop

from common.augment import Batch, Mirror, mirror
from common.errors import FileError
from common.losses import motion_loss
from common.models import build_model, computing, load_lifter, make_config, model_class, motionagformer, streams
from common.models.layers import FRAMES, JOINTS, Attention, LayerNorm
from common.models.loading import recognise
from common.skeleton import COCO, H36M, HUMANEVA15, MPI_INF_3DHP
from common.training.optimiser import make_criterion
from common.windows import fitting_starts

MODELS = ('dstformer', 'motionagformer')
CASES = ('dstformer', 'dstformer_odd', 'motionagformer', 'motionagformer_odd')
SIZES = {'frames': 9, 'channels': 16, 'depth': 2, 'representation': 24}
PREFIX = 'after_train.'  # of the statistics of batch norms after the training pass


def sizes_of(case, golden):
    return json.loads((golden / 'zoo' / f'{case}.json').read_text())['config']


def filled(case, golden, fill):
    """Return the model of a golden case with its weights."""
    keys = json.loads((golden / 'zoo' / f'{case}_keys.json').read_text())
    model = build_model(case.removesuffix('_odd'), sizes_of(case, golden), H36M, H36M)
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == keys  # the public names
    model.load_state_dict(fill(keys))
    return model


@pytest.fixture(params=CASES)
def case(request, golden, fill):
    """(outputs, figures, model) of a golden case."""
    path = golden / 'zoo' / f'{request.param}.npz'
    return np.load(path), json.loads(path.with_suffix('.json').read_text()), filled(request.param, golden, fill)


def test_golden_forward_loss_gradients_and_statistics(case):
    """In one pass of each kind, so that batch norms count once."""
    data, figures, model = case
    x, y = torch.from_numpy(data['x']), torch.from_numpy(data['y'])
    with torch.no_grad():
        assert relative(model.eval()(x), data['out_eval']) < 2e-6
        assert relative(model.representation(x), data['representation_eval']) < 4e-6
    out = model.train()(x)
    assert relative(out, data['out_train']) < 2e-6
    for key in data.files:
        if key.startswith(PREFIX):
            assert relative(model.state_dict()[key.removeprefix(PREFIX)], data[key]) < 1e-6, key
    loss = motion_loss(out, y - y[:, :, :1])
    assert loss.item() == pytest.approx(figures['loss']['total'], rel=1e-6)
    loss.backward()
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters()}
    assert norms.keys() == figures['grad_norm'].keys()
    least = 1e-6 * max(figures['grad_norm'].values())
    assert norms == {name: pytest.approx(norm, rel=1e-5, abs=least) for name, norm in figures['grad_norm'].items()}


def with_eps(eps):
    def change(model, patch):
        for module in model.modules():
            if isinstance(module, LayerNorm):
                module.eps = eps
    return change


def swapped(model, patch):
    forward = streams.Fusion.forward
    patch.setattr(streams.Fusion, 'forward', lambda self, a, b: forward(self, b, a))


def linked(change):
    def changed(model, patch):
        for module in model.modules():
            if isinstance(module, motionagformer.JointGraph):
                module.graph = motionagformer.normalised(change(motionagformer.links(H36M)))
    return changed


def three_neighbours(model, patch):
    for module in model.modules():
        if isinstance(module, motionagformer.FrameGraph):
            module.neighbours = 3


@pytest.mark.parametrize('name, mistake, moved', [
    ('dstformer', with_eps(1e-5), 1.2e-4), ('dstformer', swapped, 1.9), ('motionagformer', with_eps(1e-6), 8.8e-5),
    ('motionagformer', linked(lambda graph: torch.maximum(graph, graph.T)), 0.19),
    ('motionagformer', linked(lambda graph: graph + torch.eye(17)), 0.44), ('motionagformer', three_neighbours, 0.11),
], ids=['eps', 'fusion swapped', 'eps', 'links both ways', 'self-loops', 'three neighbours'])
def test_a_mistake_moves_the_golden_output(golden, fill, monkeypatch, name, mistake, moved):
    """By as much as the public program's outputs moved."""
    model, data = filled(name, golden, fill).eval(), np.load(golden / 'zoo' / f'{name}.npz')
    mistake(model, monkeypatch)
    with torch.no_grad():
        out = model(torch.from_numpy(data['x'])).numpy()
    assert np.abs(out - data['out_eval']).max() == pytest.approx(moved, rel=0.1)


@pytest.mark.parametrize('name, eps', [('dstformer', 1e-6), ('motionagformer', 1e-5)])
def test_the_last_norm_has_the_published_eps(monkeypatch, name, eps):
    """The goldens do not show it: tokens there are large. Here their variance is about eps."""
    model = random_model(name).eval()
    tokens = eps ** 0.5 * torch.randn(2, 9, 17, 16).double()
    monkeypatch.setattr(type(model), 'streams', lambda self, x: tokens)
    layer = model.pre_logits.fc if name == 'dstformer' else model.rep_logit.fc
    centred = tokens - tokens.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * model.norm.weight + model.norm.bias
    represented = (normed @ layer.weight.T + layer.bias).tanh()
    expected = represented @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(torch.zeros(2, 9, 17, 3).double()), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('name, size, millions, giga', [
    ('dstformer', 'lite', 16.00, 71.0), ('motionagformer', 'xs', 2.24, 1.07),
    *(pytest.param(*row, marks=pytest.mark.slow) for row in (
        ('dstformer', 'full', 42.47, 185.4), ('motionagformer', 's', 4.82, 7.4), ('motionagformer', 'b', 11.72, 56.6),
        ('motionagformer', 'l', 19.01, 91.8)))])
def test_parameters_and_arithmetic_of_the_published_sizes(monkeypatch, name, size, millions, giga):
    """Multiply-adds of a window, all products counted. The readme has 19.00 for l. Nothing is drawn: it takes long."""
    from common.commands.list_models import multiply_adds
    for fresh in ('normal_', 'uniform_', 'kaiming_uniform_'):
        monkeypatch.setattr(torch.nn.init, fresh, lambda tensor, *args, **more: tensor)
    sizes = model_class(name).size_called(size)
    model = build_model(name, sizes, H36M, H36M)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions
    assert multiply_adds(model, 17) * sizes['frames'] / 1e9 == pytest.approx(giga, rel=0.005)
    found = model.config_of(model.state_dict())
    assert found == make_config(name, sizes)
    assert found.heads == 8 and found.representation == 512


def random_model(name, layout=H36M, skeleton=None, **config):
    """Return a float64 model in training, none of whose parameters or statistics is at a special value."""
    torch.manual_seed(0)
    model = build_model(name, SIZES | config, skeleton or layout, layout).double()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                value += 0.3 * torch.randn(value.shape, generator=random, dtype=value.dtype).abs()
                if 'layer_scale' in key:
                    value += 0.5
    return model


# ---- loss and windows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('frames', [1, 2, 7])
def test_the_loss_is_that_of_loops(frames):
    predicted, target = torch.randn(3, frames, 5, 3).double(), torch.randn(3, frames, 5, 3).double()
    position, scaled, velocity = [], [], []
    for p, y in zip(predicted.numpy(), target.numpy(), strict=True):
        for t in range(frames):
            scale = (p[t] * y[t]).sum() / (p[t] * p[t]).sum()
            position += [np.linalg.norm(p[t, j] - y[t, j]) for j in range(5)]
            scaled += [np.linalg.norm(scale * p[t, j] - y[t, j]) for j in range(5)]
            velocity += [np.linalg.norm(p[t, j] - p[t - 1, j] - y[t, j] + y[t - 1, j]) for j in range(5) if t]
    expected = np.mean(position) + 0.5 * np.mean(scaled) + (20 * np.mean(velocity) if frames > 1 else 0)
    assert motion_loss(predicted, target).item() == pytest.approx(expected, rel=1e-12)


def test_the_criterion_is_the_loss():
    model = build_model('dstformer', SIZES, H36M, H36M)
    criterion = make_criterion(model, 'motion', H36M, torch.device('cpu'))
    p, y = torch.randn(2, 9, 17, 3), torch.randn(2, 9, 17, 3)
    assert criterion(p, y) == motion_loss(p, y)
    assert criterion(p[:0].requires_grad_(), y[:0]) == 0


@pytest.mark.parametrize('name', MODELS)
def test_windows_start_every_third_of_them_while_they_fit(name):
    model = build_model(name, SIZES, H36M, H36M)
    for frames in (2, 3, 9, 27, 243):
        for step in (None, 1, 4, 300):
            for length in (1, frames - 1, frames, frames + 1, frames + 26, 3 * frames, 1383):
                starts, at = [], 0
                while at + frames <= length:
                    starts.append(at)
                    at += step or max(1, frames // 3)
                if length < frames:  # one window, whose two ends repeat as many frames, or one more behind
                    starts = [-((frames - length + 1) // 2)]
                found = model.training_starts(length, frames, step)
                assert found.tolist() == starts and found.dtype == np.int64
    assert fitting_starts(1383, 243, 81)[-1] == 1134  # the last frames are left out
    assert model.mirrored_at_random


# ---- layouts, shapes, sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize('layout, skeleton', [(COCO, H36M), (COCO, HUMANEVA15), (HUMANEVA15, HUMANEVA15),
                                              (MPI_INF_3DHP, MPI_INF_3DHP)], ids=lambda s: s.name)
def test_other_layouts_are_lifted(name, layout, skeleton):
    """Joints are made of keypoints behind the last norm. Each window stands by itself at test, and is seen whole."""
    model = random_model(name, layout, skeleton).eval()
    x = torch.randn(2, 9, len(layout), 3).double().requires_grad_()
    out = model(x)
    assert out.shape == (2, 9, len(skeleton), 3)
    torch.testing.assert_close(torch.cat([model(one[None]) for one in x]), out)
    (slope,) = torch.autograd.grad(out[1, 4].sum(), x)
    assert not slope[0].any() and slope[1].abs().min() > 0
    if layout != skeleton:
        model.correspondence = None
        bare = model(x)
        assert bare.shape == (2, 9, len(layout), 3)
        model.correspondence = torch.nn.Parameter(torch.eye(len(layout)).double())
        torch.testing.assert_close(model(x), bare)


@pytest.mark.parametrize('name', MODELS)
def test_windows_of_other_shapes_are_refused(name):
    model = build_model(name, SIZES, H36M, H36M)
    for shape in ((2, 9, 17, 2), (2, 9, 16, 3), (9, 17, 3)):
        with pytest.raises(ValueError, match=r'keypoints with confidence \(B, F, 17, 3\), got \(' + str(shape[0])):
            model(torch.zeros(shape))
    with pytest.raises(ValueError, match=r'windows of (at most )?9 frames, got 10'):
        model(torch.zeros(2, 10, 17, 3))


@pytest.mark.parametrize('name, config, message', [
    *((name, {size: 0}, f'{size} is 0') for name in MODELS for size in (*SIZES, 'heads')),
    *((name, {'channels': 20}, '20 channels cannot be divided among 8 heads') for name in MODELS),
    ('dstformer', {'frames': 10, 'max_frames': 9}, '10 frames in a window, expected at most the 9'),
    ('motionagformer', {'frames': 1}, 'frames is 1, expected at least 2'),
    ('motionagformer', {'neighbours': 0}, 'neighbours is 0')])
def test_impossible_sizes_are_refused(name, config, message):
    with pytest.raises(ValueError, match=message):
        build_model(name, config, H36M, H36M)


def test_shorter_windows_take_the_first_positions():
    """DSTformer's window is at most as long as it has positions for; MotionAGFormer's is of one length."""
    model = random_model('dstformer').eval()
    x = torch.randn(2, 5, 17, 3).double()
    short = random_model('dstformer', frames=5).eval()
    state = model.state_dict()
    short.load_state_dict(state | {'temp_embed': state['temp_embed'][:, :5]})
    torch.testing.assert_close(model(x), short(x))


@pytest.mark.parametrize('name', MODELS)
def test_mirrored_keypoints_keep_their_confidence(name):
    model, order = random_model(name).eval(), torch.tensor(H36M.mirror)
    x = torch.rand(2, 9, 17, 3).double()
    flipped = x[:, :, order] * torch.tensor([-1.0, 1, 1])
    expected = (model(x) + mirror(model(flipped), order)) / 2
    torch.testing.assert_close(model.lift(Batch(x), Mirror(order, order))['predicted'], expected)


# ---- where they start ----------------------------------------------------------------------------------------------


def test_dstformer_starts_as_published():
    torch.manual_seed(0)
    model = build_model('dstformer', {'channels': 64, 'depth': 1}, H36M, H36M)
    for name, p in model.named_parameters():
        if name.startswith('ts_attn'):
            assert (p == (0.5 if name.endswith('bias') else 0)).all(), name
        elif 'norm' in name:
            assert (p == (1 if name.endswith('weight') else 0)).all(), name
        elif name.endswith('bias'):
            assert not p.any(), name
        else:
            assert p.std().item() == pytest.approx(0.02, rel=0.1) and abs(p.mean().item()) < 2e-3, name


def test_motionagformer_starts_as_published():
    torch.manual_seed(0)
    model = build_model('motionagformer', {'channels': 64, 'depth': 1}, H36M, H36M)
    for name, p in model.named_parameters():
        if 'fusion' in name:
            assert (p == (0.5 if name.endswith('bias') else 0)).all(), name
        elif 'layer_scale' in name:
            assert (p == 1e-5).all(), name
        elif 'norm' in name:
            assert (p == (1 if name.endswith('weight') else 0)).all(), name
        elif name.endswith(('U.weight', 'V.weight')):
            assert p.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.05), name
        elif name == 'pos_embed':
            assert not p.any()
        elif name.endswith('weight'):
            bound = p.shape[1] ** -0.5
            assert 0.8 * bound < p.abs().max() <= bound, name
            assert p.std().item() == pytest.approx(bound / 3 ** 0.5, rel=0.1), name


@pytest.mark.parametrize('name', MODELS)
def test_nothing_is_dropped_and_nothing_shared(name):
    model = random_model(name)
    x = torch.randn(2, 9, 17, 3).double()
    torch.testing.assert_close(model(x), model(x), rtol=0, atol=0)
    assert model.recipe.drop_path is None and model.recipe.dropout is None
    tensors = [*model.parameters(), *(b for key, b in model.named_buffers() if 'graph.' not in key)]
    assert len({t.data_ptr() for t in tensors}) == len(tensors)
    attentions = {module.over: module.qkv.bias is None for module in model.modules() if isinstance(module, Attention)}
    assert attentions == dict.fromkeys((JOINTS, FRAMES), name == 'motionagformer')


# ---- how they compute ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', MODELS)
def test_bf16_is_near_fp32_and_stays_inside(name, monkeypatch):
    """With one graph over frames in both: near ties are decided otherwise between rounded tokens."""
    graph = motionagformer.normalised(torch.eye(9) + torch.eye(9).roll(1, 0))
    monkeypatch.setattr(motionagformer, 'nearest', lambda x, count: graph.to(x.dtype))
    model = random_model(name, channels=32).float().train()
    x, y = torch.randn(4, 9, 17, 3), torch.randn(4, 9, 17, 3)
    seen, results = set(), []
    for precision in ('fp32', 'bf16'):
        model.zero_grad()
        with computing.computing_in(model, precision):
            out = model(x)
            motion_loss(out, y).backward()
        assert {p.grad.dtype for p in model.parameters()} == {out.dtype} == {torch.float32}
        results.append((out.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])))
        for module in model.modules():
            if isinstance(module, (Attention, streams.Fusion, motionagformer.Block, motionagformer.GraphMixer)):
                module.register_forward_hook(lambda module, args, out: seen.add(out.dtype))
    (exact, slopes), (rounded, rounded_slopes) = results
    assert seen == {torch.bfloat16}
    assert 1e-5 < relative(rounded, exact) < 0.05
    assert torch.cosine_similarity(slopes, rounded_slopes, dim=0) > 0.99
    assert all(b.dtype == torch.float32 for b in model.buffers() if b.is_floating_point())


@pytest.mark.parametrize('name', MODELS)
def test_recomputing_blocks_changes_nothing(name):
    """Attention is computed twice, and no batch norm is."""
    results = []
    for recompute in (False, True):
        model, calls = random_model(name), {'attention': 0, 'graph': 0}

        def count(kind, calls=calls):
            def called(module, args, out):
                calls[kind] += 1
            return called
        for module in model.modules():
            if isinstance(module, (Attention, motionagformer.GraphMixer)):
                module.register_forward_hook(count('attention' if isinstance(module, Attention) else 'graph'))
        if recompute:
            computing.recompute_blocks(model)
        torch.manual_seed(1)
        x, y = torch.randn(2, 9, 17, 3).double(), torch.randn(2, 9, 17, 3).double()
        with set_checkpoint_early_stop(False):
            loss = motion_loss(model(x), y)
            loss.backward()
        results.append((loss, [p.grad for p in model.parameters()], dict(model.named_buffers()), calls))
    kept, again = results
    torch.testing.assert_close(kept[:3], again[:3], rtol=0, atol=0)
    assert again[3] == {'attention': 2 * kept[3]['attention'], 'graph': kept[3]['graph']}


# ---- files ---------------------------------------------------------------------------------------------------------


def write_public(name, path, state):
    """Write a file as the published program does, from DataParallel, with numpy scalars beside the weights."""
    weights = {f'module.{key}': value for key, value in state.items()}
    beside = {'epoch': 89, 'lr': 2e-4, 'optimizer': {'state': {}, 'param_groups': []}}
    if name == 'dstformer':
        torch.save(beside | {'model_pos': weights, 'min_loss': np.float64(37.2)}, path)
    else:
        torch.save(beside | {'model': weights, 'min_mpjpe': np.float32(38.4), 'wandb_id': 'abc'}, path)


@pytest.mark.parametrize('case', CASES)
def test_a_public_file_is_recognised_and_loaded_as_it_is(case, golden, fill, tmp_path):
    name, model = case.removesuffix('_odd'), filled(case, golden, fill)
    write_public(name, tmp_path / 'public.bin', model.state_dict())
    lifter = load_lifter(tmp_path / 'public.bin')
    sizes = sizes_of(case, golden)
    if name == 'dstformer':
        sizes['frames'] = sizes['max_frames']
    assert (lifter.name, lifter.config) == (name, sizes)
    data = np.load(golden / 'zoo' / f'{case}.npz')
    with torch.no_grad():
        assert relative(lifter.model(torch.from_numpy(data['x'])), data['out_eval']) < 2e-6
    assert lifter.model.public_data == 'motion3d'
    assert build_model('ktpformer', {'frames': 3, 'channels': 16, 'depth': 1}, H36M, H36M).public_data is None


def test_files_that_have_keys_in_common_are_told_apart():
    for name in (*MODELS, 'htnet'):
        state = build_model(name, {} if name == 'htnet' else SIZES, H36M, H36M).state_dict()
        assert 'pos_embed' in state
        assert recognise(state) == name


@pytest.mark.parametrize('name, lacking', [
    ('dstformer', 'pre_logits.fc.weight'), ('dstformer', 'blocks_st.0.mlp_s.fc1.weight'),
    ('motionagformer', 'layers.0.graph_temporal.mixer.batch_norm.weight'), ('motionagformer', 'rep_logit.fc.weight'),
    ('motionagformer', 'layers.0.att_spatial.mlp.fc1.weight')])
def test_a_file_without_a_weight_is_refused(name, lacking, tmp_path):
    state = build_model(name, SIZES, H36M, H36M).state_dict()
    del state[lacking]
    torch.save(state, tmp_path / 'part.bin')
    with pytest.raises(FileError, match=f'is not a {model_class(name).title} checkpoint: {lacking} is missing'):
        load_lifter(tmp_path / 'part.bin')


@pytest.mark.parametrize('name', MODELS)
def test_keypoints_of_a_file_are_counted(name, tmp_path):
    model = build_model(name, SIZES, HUMANEVA15, HUMANEVA15)
    torch.save(model.state_dict(), tmp_path / 'small.bin')
    with pytest.raises(FileError, match='takes 15 keypoints, but layout h36m has 17'):
        load_lifter(tmp_path / 'small.bin')
    lifter = load_lifter(tmp_path / 'small.bin', layout=HUMANEVA15, skeleton=HUMANEVA15, sizes={'heads': 4})
    assert asdict(make_config(name, lifter.config))['heads'] == 4
