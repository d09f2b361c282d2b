"""GraFormer against the golden outputs, against a naive second implementation, and part by part."""

import json

import naive_single
import numpy as np
import pytest
import torch
from test_ktpformer import relative
from test_program import metrics_of

from common.models import build_model, layers
from common.models.graformer import GraFormer, GraFormerConfig, chebyshev
from common.models.layers import dropped
from common.models.loading import recognise
from common.skeleton import COCO, H36M, H36M16, HUMANEVA15, MPI_INF_3DHP, MPII

CASES = {'graformer': ({'channels': 32, 'depth': 2}, H36M16),
         'graformer_odd': ({'channels': 30, 'depth': 3, 'heads': 3}, H36M)}


@pytest.fixture(scope='session')
def filled(golden):
    """filled(shapes): the weights of the golden outputs, whose learned graphs have no negative degrees."""
    def state(shapes):
        namespace = {}
        for path in (golden / 'fill.py', golden / 'zoo' / 'fill_a.py'):
            exec(path.read_text(), namespace)
        return {key: torch.from_numpy(np.array(value))
                for key, value in namespace['fill_a'](namespace['fill'], shapes).items()}
    return state


@pytest.fixture(params=CASES)
def case(request, golden, filled):
    """Return (a model with the golden weights and without dropout, its arrays, its figures, its keys)."""
    arrays = np.load(golden / 'zoo' / f'{request.param}.npz')
    figures, keys = (json.loads((golden / 'zoo' / f'{request.param}{kind}.json').read_text())
                     for kind in ('', '_keys'))
    config, layout = CASES[request.param]
    model = build_model('graformer', config, layout, layout, dropout=0.0)
    model.load_state_dict(filled(keys))
    return model, arrays, figures, keys


def golden_loss(model, arrays):
    """Return the MSE over all numbers."""
    return (model(torch.from_numpy(arrays['x'])[:, None])[:, 0] - torch.from_numpy(arrays['y'])).square().mean()


def test_public_key_names_and_shapes(case):
    model, _, figures, keys = case
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == keys
    assert sum(p.numel() for p in model.parameters()) == figures['parameters']


@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_golden_forward(case, mode):
    """Without the 1e-5 of a node's degree, the output moves by 5e-6 of its largest value."""
    model, arrays, _, _ = case
    x = torch.from_numpy(arrays['x'])[:, None]
    assert relative(model.train(mode == 'train')(x)[:, 0], arrays[f'out_{mode}']) < 2e-6


def test_golden_forward_in_double_precision(case):
    model, arrays, _, _ = case
    x = torch.from_numpy(arrays['x'])[:, None].double()
    # The graph is float32, as it is stored; that of the goldens is too.
    assert relative(model.double()(x)[:, 0], arrays['out_eval_float64']) < 2e-7


def test_golden_loss_and_gradients(case):
    model, arrays, figures, _ = case
    loss = golden_loss(model.train(), arrays)
    assert loss.item() == pytest.approx(figures['loss']['total'], rel=1e-6)
    loss.backward()
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters()}
    vanishing = {name: norms.pop(name) for name in figures['grad_zero_in_theory']}
    assert norms == pytest.approx(figures['grad_norm'], rel=1e-5)
    assert max(vanishing.values()) < 1e-4


def test_golden_steps(case):
    """Adam with the gradient's norm at most 1; the rate falls every third step, and at the first."""
    model, arrays, figures, _ = case
    optimizer = torch.optim.Adam(model.train().parameters(), 1e-3)
    losses, rates, norms = [], [], []
    for step in range(1, 8):
        if step == 1 or step % 3 == 0:
            optimizer.param_groups[0]['lr'] = 1e-3 * 0.9 ** (step / 3)
        optimizer.zero_grad()
        loss = golden_loss(model, arrays)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        losses.append(loss.item())
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
    assert losses == pytest.approx(figures['steps']['loss'], rel=1e-4)
    assert rates == pytest.approx(figures['steps']['lr'])
    assert norms == pytest.approx(figures['steps']['grad_norm_before_clip'], rel=1e-4)


@pytest.mark.parametrize('layout, name', [(H36M16, 'graformer16'), (H36M, 'graformer17')], ids=['16', '17'])
def test_golden_graphs(golden, layout, name):
    graphs = np.load(golden / 'zoo' / 'graphs16.npz')
    polynomials = chebyshev(layout)
    assert relative(polynomials, graphs[f'{name}_chebyshev']) < 2e-7
    np.testing.assert_allclose(np.eye(len(layout)) - polynomials[1].numpy(), graphs[name], atol=1e-7)


@pytest.mark.parametrize('layout, count', [(H36M16, 654_179), (H36M, 654_344)], ids=['16', '17'])
def test_parameter_count_at_the_published_sizes(layout, count):
    model = build_model('graformer', {}, layout, layout, dropout=0.0)
    assert sum(p.numel() for p in model.parameters()) == count


def random_model(layout=H36M, skeleton=None, rate=0.0, **config):
    """Make a float64 model in training, none of whose parameters is at a special value."""
    model = build_model('graformer', {'channels': 12, 'depth': 2, 'heads': 3, **config}, skeleton or layout, layout,
                        dropout=rate).double()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = 0.1 * torch.randn(p.shape, generator=random, dtype=p.dtype)
            p += noise.abs() if name.endswith('A_hat') else noise
    return model


def naive_output(model, x, layout, skeleton=None, scale=naive_single.unscaled):
    # The model's graphs are float32, as they are stored.
    graphs = (naive_single.chebyshev(len(s), s.edges).float().double() for s in (layout, skeleton or layout))
    return naive_single.graformer(model.state_dict(), x.flatten(0, 1), 3, *graphs, scale).unflatten(0, x.shape[:2])


@pytest.mark.parametrize('layout, skeleton', [
    (H36M, H36M), (HUMANEVA15, HUMANEVA15), (MPI_INF_3DHP, MPI_INF_3DHP), (COCO, H36M), (MPII, HUMANEVA15),
    (H36M, H36M16), (COCO, COCO)], ids=lambda s: s.name)
@pytest.mark.parametrize('batch, frames', [(1, 1), (3, 2)])
def test_naive_forward(layout, skeleton, batch, frames):
    """Any layout of keypoints and joints; small inputs, so that a wrong eps shows."""
    model = random_model(layout, skeleton).eval()
    x = 0.01 * torch.randn(batch, frames, len(layout), 2).double()
    ours = model(x)
    assert ours.shape == (batch, frames, len(skeleton), 3)
    assert relative(ours, naive_output(model, x, layout, skeleton)) < 1e-10


def test_the_eps_of_a_norm_is_added_to_the_deviation():
    """Of tokens that hardly differ from channel to channel, in which the eps is most of the divisor."""
    model = random_model().eval()
    norm = model.atten_layers[0].sublayer[0].norm
    x = 1 + 1e-6 * torch.randn(4, 12).double()
    expected = naive_single.sample_norm({f'n.{key}': value for key, value in norm.state_dict().items()}, 'n', x)
    torch.testing.assert_close(norm(x), expected)


def test_a_node_without_edges_has_a_finite_degree():
    model = random_model().eval()
    graph = model.atten_layers[0].feed_forward
    with torch.no_grad():
        graph.A_hat.zero_()
    x = torch.randn(1, 1, 17, 12).double()
    torch.testing.assert_close(graph(x), graph.gconv2.fc.bias.expand(1, 1, 17, 12))
    with torch.no_grad():
        graph.A_hat[0, 0] = 1e-5
    state = {f'g.{key}': value for key, value in graph.state_dict().items()}
    torch.testing.assert_close(graph(x)[0], naive_single.learned_graph(state, 'g', x[0]))


# Where a layer's dropout acts, in the order of its draws, and its rate over that of the recipe.
PLACES = {'atten_layers.{}.self_attn.weights': 0.4, 'atten_layers.{}.sublayer.0': 1, 'atten_layers.{}.sublayer.1': 1,
          'gconv_layers.{}.gconv1': 0.4, 'gconv_layers.{}.gconv2': 0.4}


def test_places_and_rates_of_dropout(monkeypatch):
    """The masks that ours draws, put into the naive model at the places they are for, give the same output."""
    model, draws = random_model(rate=0.25), []

    def draw(x, rate):
        draws.append((dropped(x, rate), rate))
        return draws[-1][0]
    monkeypatch.setattr(layers, 'dropped', draw)
    x = torch.randn(5, 2, 17, 2).double()
    ours = model(x)
    masks = {}
    for layer in range(2):
        for place, share in PLACES.items():
            mask, rate = draws.pop(0)
            assert rate == pytest.approx(0.25 * share)
            assert mask.double().mean().item() == pytest.approx(rate, abs=0.03)
            masks[place.format(layer)] = (~mask).double() / (1 - rate)
    assert not draws

    def scale(place, value):
        mask = masks.pop(place)
        assert mask.numel() == value.numel()
        return mask.view(value.shape) * value
    assert relative(ours, naive_output(model, x, H36M, scale=scale)) < 1e-10
    assert not masks
    model.eval()
    assert torch.equal(model(x), model(x))


def test_rates_of_the_recipe_are_the_published_ones():
    model = build_model('graformer', {}, H36M16, H36M16, dropout=0.25)
    rates = {name.split('.', 2)[2]: module.dropout for name, module in model.named_modules()
             if hasattr(module, 'dropout') and name}
    assert rates == {'self_attn': pytest.approx(0.1), 'sublayer.0': 0.25, 'sublayer.1': 0.25,
                     'gconv1': pytest.approx(0.1), 'gconv2': pytest.approx(0.1)}


def test_initial_weights():
    """Convolutions normal, biases 0; linear layers as PyTorch makes them, drawn once and copied."""
    torch.manual_seed(0)
    model = build_model('graformer', {}, H36M16, H36M16, dropout=0.0)
    state = model.state_dict()
    for name, value in state.items():
        if 'gconv' in name and value.ndim == 4:
            channels_in, channels_out = value.shape[2:]
            assert value.std().item() == pytest.approx((2 * channels_in * channels_out) ** -0.5, rel=0.1), name
            assert value.mean().abs() < value.std() / 10
            assert value.abs().max() > 2 * value.std()  # normal, not uniform
        elif value.ndim == 3 or name.endswith('b_2'):
            assert not value.any(), name
        elif name.endswith('a_2'):
            assert (value == 1).all()
        elif name.endswith('A_hat'):
            assert torch.equal(value, torch.eye(16))
        elif name.endswith('weight'):
            bound = value.shape[1] ** -0.5
            assert 0.98 * bound < value.abs().max() <= bound, name
            assert value.std().item() == pytest.approx(bound / 3 ** 0.5, rel=0.05)
            assert 0.8 * bound < state[name.replace('weight', 'bias')].abs().max() <= bound
    for n in range(5):
        for kind in ('weight', 'bias'):
            first = state[f'atten_layers.0.self_attn.linears.0.{kind}']
            assert all(torch.equal(state[f'atten_layers.{n}.self_attn.linears.{i}.{kind}'], first) for i in range(4))
            for layer in ('gconv1', 'gconv2'):
                name = f'feed_forward.{layer}.fc.{kind}'
                assert torch.equal(state[f'atten_layers.{n}.{name}'], state[f'atten_layers.0.{name}'])
    convolutions = [value for name, value in state.items() if name.startswith('gconv_layers') and value.ndim == 4]
    assert len({value.sum().item() for value in convolutions}) == 10  # these are drawn one by one
    pointers = [p.data_ptr() for p in model.parameters()]
    assert len(set(pointers)) == len(pointers)  # copied, not shared


def test_a_frame_s_pose_depends_on_all_of_it_and_on_nothing_else():
    model = random_model().eval()
    x = torch.randn(2, 3, 17, 2).double()
    whole = model(x)
    torch.testing.assert_close(whole.flatten(0, 1), model(x.flatten(0, 1)[:, None])[:, 0])
    for keypoint in range(17):
        moved = x.clone()
        moved[1, 2, keypoint] += 1
        changed = (model(moved) != whole).flatten(2).any(-1)
        assert changed.tolist() == [[False] * 3, [False, False, True]]


@pytest.mark.parametrize('layout, skeleton', [(H36M16, H36M16), (COCO, H36M)], ids=lambda s: s.name)
def test_a_fresh_model_does_not_tell_left_from_right(layout, skeleton):
    """Skeletons are symmetric, and no node has a position of its own before its graph is learned."""
    model = build_model('graformer', {'channels': 12, 'depth': 2}, skeleton, layout, dropout=0.0).double().eval()
    x = torch.randn(2, 1, len(layout), 2).double()
    swapped = model(x[:, :, list(layout.mirror)])
    torch.testing.assert_close(swapped, model(x)[:, :, list(skeleton.mirror)])


def test_no_windows_and_recomputed_layers():
    model = random_model()
    assert model(torch.zeros(0, 1, 17, 2).double()).shape == (0, 1, 17, 3)
    x = torch.randn(2, 1, 17, 2).double()
    plain = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    model.recompute = True
    for a, b in zip(plain, torch.autograd.grad(model(x).square().sum(), list(model.parameters())), strict=True):
        torch.testing.assert_close(a, b)


def test_bfloat16_tokens_stay_near():
    model = random_model(channels=24).float().eval()
    x = torch.randn(4, 1, 17, 2)
    exact = model(x)
    model.tokens = torch.bfloat16
    assert model(x).dtype == torch.float32
    assert 0 < relative(model(x), exact) < 0.05


def test_config_is_read_from_shapes(case, filled):
    model, _, _, keys = case
    state = filled(keys)
    channels = len(state['gconv_input.bias'].flatten())
    assert recognise(state) == 'graformer'
    # Heads do not show in shapes: the usual four, or those of them that divide the channels.
    heads = 4 if channels == 32 else 2
    assert GraFormerConfig.from_state(state) == GraFormerConfig(channels, len(model.atten_layers), heads)
    assert type(model).keypoints_of(state) == model.keypoints
    graph = 'atten_layers.0.feed_forward.A_hat'
    for broken in ({}, {graph: torch.zeros(16)}, {graph: torch.zeros(16, 16)},
                   {graph: torch.zeros(16, 16), 'gconv_input.weight': torch.zeros(2, 2, 128)}):
        with pytest.raises(ValueError, match=r'is missing|has \d dimensions, expected'):
            GraFormerConfig.from_state(broken)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match=r'expected keypoints \(B, F, 17, 2\), got \(2, 17, 2\)'):
        random_model()(torch.zeros(2, 17, 2))
    for config in ({'channels': 30}, {'depth': 0}, {'heads': 0}, {'channels': 1, 'heads': 1}):
        with pytest.raises(ValueError, match=r'cannot be divided|at least 1|no standard deviation'):
            GraFormerConfig(**config)


@pytest.fixture
def public_file(golden, filled, tmp_path):
    """Write a file as the published program does, with the golden weights."""
    state = filled(json.loads((golden / 'zoo' / 'graformer_keys.json').read_text()))
    path = tmp_path / 'ckpt_best.pth.tar'
    torch.save({'epoch': 3, 'lr': 1e-3, 'step': 78, 'state_dict': state, 'optimizer': {}, 'error': 1.5}, path)
    return path


@pytest.mark.parametrize('case', [0, 1], ids=['gt', 'cpn'])
@pytest.mark.parametrize('root, figures', [(None, 'millimetres'), ('subtract', 'millimetres_root_subtracted')])
def test_tables_equal_the_golden_ones(golden, public_file, run, tmp_path, case, root, figures):
    """Over 16 joints, without mirrored keypoints, root set to 0, as the recipe says; or the root subtracted."""
    expected = json.loads((golden / 'zoo' / 'tiny_graformer.json').read_text())['evaluate'][case]
    status, out, _ = run('-k', expected['keypoints'], '--data', golden / 'tiny', '--evaluate', public_file, '-ste',
                         expected['subjects_test'], '--results', tmp_path / 'r.json', '--device', 'cpu',
                         *['--root', root] * (root is not None))
    assert status == 0
    assert 'without mirrored keypoints' in out
    paper = json.loads((tmp_path / 'r.json').read_text())['protocols']['paper']
    for name, row in expected[figures].items():
        found = paper['average'] if name == 'average' else paper['actions'][name]
        assert {metric: found[metric] for metric in row} == pytest.approx(row, abs=0.001), name


def test_training_losses_equal_the_golden_ones(golden, public_file, run, tmp_path):
    expected = json.loads((golden / 'zoo' / 'tiny_graformer.json').read_text())['train']['epochs']
    status, _, _ = run('--model', 'graformer', '-cs', 32, '-dep', 2, '-k', 'gt', '--data', golden / 'tiny', '-str',
                       'S1', '-ste', 'S9,S11', '--init', public_file, '--lr-decay-steps', 20, '--dropout', 0, '-e', 3,
                       '-c', tmp_path / 'c', '-l', tmp_path / 'l', '--device', 'cpu')
    assert status == 0
    for m in metrics_of(tmp_path / 'l'):
        want = expected[str(m['epoch'])]
        assert m['train_loss'] == pytest.approx(1000 * want['train_loss'], rel=1e-5 if m['epoch'] == 1 else 1e-3)
        assert m['valid_mpjpe'] == pytest.approx(want['valid_mpjpe'], rel=0.02 if m['epoch'] > 1 else 1e-3)
        assert m['lr'] == pytest.approx(want['lr_at_end'])


def test_the_recipe_is_the_published_one():
    recipe = GraFormer.recipe
    assert (recipe.optimizer, recipe.lr, recipe.lr_decay, recipe.lr_decay_steps, recipe.clip) == \
        ('adam', 1e-3, 0.9, 50_000, 1)
    assert (recipe.loss, recipe.l1_share, recipe.objective, recipe.root, recipe.joints) == \
        ('mse', 0, 'plain', 'zero', 'h36m16')
    assert (recipe.epochs, recipe.batch, recipe.weight_decay, recipe.augment, recipe.flip) == (100, 64, 0, False, False)
    assert -(-1_559_752 // recipe.batch) == 24_372
