"""HTNet and the refinement against the golden outputs, against naive second implementations, and part by part."""

import json
import subprocess
import sys
from pathlib import Path

import naive
import naive_htnet
import numpy as np
import pytest
import torch
from test_ktpformer import relative

from common.augment import mirror, mirror_intrinsic
from common.losses import bone_symmetry, refinement_loss
from common.models import build_model, graph, htnet, layers, model_class
from common.models.graph_conv import ModulatedGraphConv
from common.models.layers import DropPath, dropout, dropped
from common.models.loading import recognise
from common.models.refine import Refinement, back_project
from common.recipe import RefinementRecipe
from common.skeleton import COCO, H36M, HUMANEVA15, MPI_INF_3DHP, MPII, Skeleton

ROOT = Path(__file__).parents[1]
GOLDEN_CONFIG = {'channels': 48, 'depth': 2, 'hidden': 64}


@pytest.fixture(scope='module')
def goldens(golden):
    return (np.load(golden / 'htnet.npz'), json.loads((golden / 'htnet.json').read_text()),
            json.loads((golden / 'htnet_keys.json').read_text()))


@pytest.fixture
def golden_model(goldens, fill):
    model = build_model('htnet', GOLDEN_CONFIG, H36M, H36M, 0.0, dropout=0.0)
    model.load_state_dict(fill(goldens[2]))
    return model


def test_public_key_names_and_shapes(goldens):
    model = build_model('htnet', GOLDEN_CONFIG, H36M, H36M)
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == goldens[2]


def test_golden_forward(goldens, golden_model):
    assert relative(golden_model.eval()(torch.from_numpy(goldens[0]['x'])), goldens[0]['out_eval']) < 2e-6


def test_golden_gradients(goldens, golden_model):
    """Without dropout and drop path, in training mode, as the goldens were made."""
    golden_model.train()(torch.from_numpy(goldens[0]['x'])).square().mean().backward()
    expected = goldens[1]['grad_norm_of_mean_square_output']
    norms = {name: p.grad.norm().item() for name, p in golden_model.named_parameters()}
    assert norms.keys() == expected.keys()
    assert norms == pytest.approx(expected, rel=1e-5)


def test_parameter_count_at_the_defaults():
    model = build_model('htnet', {}, H36M, H36M)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(3.05, abs=0.005)


def random_model(layout=H36M, skeleton=None, rate=0.0, seed=0, **config):
    """Make a float64 model in training, none of whose parameters is at a special value.

    They are spread out so that no norm's eps hides behind large variances.
    """
    model = build_model('htnet', {'channels': 48, 'depth': 2, 'hidden': 20, **config}, skeleton or layout, layout,
                        rate, dropout=rate / 2).double()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=random, dtype=p.dtype)
    return model


def naive_output(model, x, layout, scale=None):
    return naive_htnet.htnet(dict(model.state_dict()), x, limbs=[list(limb) for limb in layout.limbs], scale=scale,
                             adjacency_joints=naive.adjacency(len(layout), layout.edges))


@pytest.mark.parametrize('layout', [H36M, HUMANEVA15, MPI_INF_3DHP, COCO, MPII], ids=lambda s: s.name)
@pytest.mark.parametrize('batch, frames', [(1, 1), (3, 2)])
def test_naive_forward(layout, batch, frames):
    """Limb joints by name, at any number of joints and frames; small inputs, so that a wrong eps shows."""
    model = random_model(layout).eval()
    x = 0.01 * torch.randn(batch, frames, len(layout), 2).double()
    # The model's graph is float32, as it is stored.
    assert relative(model(x), naive_output(model, x, layout)) < 1e-7


def test_naive_gradients():
    model = random_model()
    x = torch.randn(3, 1, 17, 2).double()
    ours = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    state = {key: value.detach().clone().requires_grad_() for key, value in model.state_dict().items()}
    out = naive_htnet.htnet(state, x, limbs=naive_htnet.H36M_LIMBS,
                            adjacency_joints=naive.adjacency(17, H36M.edges))
    names = [name for name, _ in model.named_parameters()]
    theirs = torch.autograd.grad(out.square().sum(), [state[name] for name in names])
    for name, a, b in zip(names, ours, theirs, strict=True):
        assert relative(a, b) < 1e-6, name


def test_frames_know_nothing_of_each_other():
    model = random_model().eval()
    x = torch.randn(2, 3, 17, 2).double()
    torch.testing.assert_close(model(x).flatten(0, 1), model(x.flatten(0, 1)[:, None])[:, 0])


# Where each of our drop paths acts, by the naive model's names.
DROP_PATHS = {'lgc.drop_path': 'lgc', 'ipc.drop_conv1': 'ipc.conv1', 'ipc.drop_mlp1': 'ipc.mlp_down_1',
              'ipc.drop_conv2': 'ipc.conv2', 'ipc.drop_mlp2': 'ipc.mlp_down_2', 'gbi.drop_path': 'gbi',
              'drop_mlp': 'mlp'}


def test_granularity_of_dropout_and_drop_path(monkeypatch):
    """The masks that ours draws, put into the naive model at the places they are for, give the same output: a drop path
    is one draw for a frame, dropout one for a value; nothing else is random."""
    model = random_model(rate=0.4)
    masks, elements, draws = {}, [], []

    def record(name):
        def hook(module, args, kwargs, out):
            branch = out - kwargs.get('beside', 0)
            kept = (branch != 0).flatten(2).any(-1)[..., None]  # (B, F, 1)
            torch.testing.assert_close(branch, args[0] * kept[..., None] / (1 - module.rate))
            draws.append(kept)
            masks[name, 'droppath'] = (kept.double() / (1 - module.rate)).flatten(0, 1)[..., None]
        return hook
    for index, block in enumerate(model.Hiremixer.blocks):
        for name, module in block.named_modules():
            if isinstance(module, DropPath):
                hook = record(f'Hiremixer.blocks.{index}.{DROP_PATHS[name]}')
                module.register_forward_hook(hook, with_kwargs=True)

    def draw(x, rate):
        mask = dropped(x, rate)
        elements.append((mask, rate))
        return mask
    monkeypatch.setattr(layers, 'dropped', draw)
    x = torch.randn(5, 2, 17, 2).double()
    ours = model(x)
    places = [f'Hiremixer.blocks.{block}.{place}' for block in range(2) for place in (
        'ipc.mlp_down_1.hidden', 'ipc.mlp_down_1.out', 'ipc.mlp_down_2.hidden', 'ipc.mlp_down_2.out', 'gbi.attn.proj',
        'mlp.hidden', 'mlp.out')]
    for place, (mask, rate) in zip(places, elements, strict=True):
        assert rate == 0.2
        assert 0 < mask.double().mean() < 0.4
        masks[place, 'dropout'] = (~mask).double().flatten(0, 1) / (1 - rate)
    assert len(masks) == 2 * 14
    assert any((kept[:, 0] != kept[:, 1]).any() for kept in draws)  # frames of a window draw by themselves

    def scale(place, kind, value):
        mask = masks.pop((place, kind))
        assert mask.shape == (value.shape if kind == 'dropout' else (len(value), 1, 1))
        return mask * value
    assert relative(ours, naive_output(model, x, H36M, scale)) < 1e-6
    assert not masks


def test_modulation_starts_random_and_refinement_drops_half():
    model = build_model('htnet', {'refine': True}, H36M, H36M)
    modulation = model.base.Hiremixer.blocks[0].lgc.gcn1.M.detach()
    bound = 1.414 * (6 / (17 + 384)) ** 0.5
    assert 0.9 * bound < modulation.abs().max() <= bound
    assert modulation.std() > bound / 2
    assert model.refine.post_refine[2].p == 0.5


@pytest.mark.parametrize('batch, copies, channels', [(1, 3, 8), (1, 40, 8), (4, 3, 8), (4, 1, 2), (1, 3, 4)])
def test_every_path_of_a_graph_convolution_equals_the_naive_one(batch, copies, channels):
    """Few copies of the graph, more than channels, several graphs or few channels: the naive function."""
    torch.manual_seed(0)
    module = ModulatedGraphConv(channels, 12, torch.from_numpy(graph.adjacency(17, H36M.edges)), random_modulation=True)
    with torch.no_grad():
        module.adj2 += 0.1 * torch.randn(17, 17)
    x = torch.randn(batch, 17, copies, channels, requires_grad=True)
    state = {f'g.{name}': value for name, value in module.named_parameters()}
    nodes_last = x.transpose(1, 2).flatten(0, 1)  # (B*K, N, C_in)
    expected = naive.graph_conv(state, 'g', nodes_last, naive.adjacency(17, H36M.edges))
    expected = expected.unflatten(0, (batch, copies)).transpose(1, 2)
    assert relative(module(x), expected) < 1e-6
    wanted = [x, *module.parameters()]
    for a, b in zip(torch.autograd.grad(module(x).square().sum(), wanted),
                    torch.autograd.grad(expected.square().sum(), wanted), strict=True):
        assert relative(a, b) < 1e-5


def test_drop_path_rises_as_published():
    model = build_model('htnet', {'channels': 24, 'hidden': 8}, H36M, H36M, 0.3)
    rates = [{module.rate for module in block.modules() if isinstance(module, DropPath)}
             for block in model.Hiremixer.blocks]
    assert [list(rate) for rate in rates] == [[pytest.approx(rate)] for rate in naive_htnet.drop_path_rates(3)]


def test_dropout_has_its_rate_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(1000, 1001, requires_grad=True)  # a number of values that four does not divide
    y = dropout(x, 0.1)
    assert (y == 0).double().mean().item() == pytest.approx(0.1, abs=1e-3)
    assert y.mean().item() == pytest.approx(1, abs=1e-3)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    neighbours = (y[:, :-1] == 0) & (y[:, 1:] == 0)
    assert neighbours.double().mean().item() == pytest.approx(0.01, abs=1e-3)  # as of independent draws


def test_a_dropped_unit_passes_nothing_in_either_direction():
    torch.manual_seed(0)
    mlp = layers.Mlp(6, 50, 0.5).double().train()
    x = torch.randn(4, 6).double().requires_grad_()
    state = torch.get_rng_state()
    y = mlp(x)
    torch.set_rng_state(state)
    hidden = mlp.fc1(x)
    kept = ~dropped(hidden, 0.5) / 0.5
    expected = mlp.fc2(torch.nn.functional.gelu(hidden) * kept)
    expected = expected * ~dropped(expected, 0.5) / 0.5
    torch.testing.assert_close(y, expected)
    parameters = [x, *mlp.parameters()]
    slope = torch.randn_like(y)
    for a, b in zip(torch.autograd.grad((y * slope).sum(), parameters),
                    torch.autograd.grad((expected * slope).sum(), parameters), strict=True):
        torch.testing.assert_close(a, b)


def test_other_layouts_are_lifted_to_the_skeleton():
    model = random_model(COCO, H36M).eval()
    assert model(torch.randn(2, 1, 17, 2).double()).shape == (2, 1, 17, 3)
    assert model.correspondence.shape == (17, 17)


def test_limbs_are_found_by_name_in_every_layout():
    assert set(H36M.limbs) == {tuple(limb) for limb in naive_htnet.H36M_LIMBS}
    assert HUMANEVA15.limbs == ((11, 12, 13), (8, 9, 10), (5, 6, 7), (2, 3, 4))
    assert MPI_INF_3DHP.limbs == ((8, 9, 10), (11, 12, 13), (2, 3, 4), (5, 6, 7))
    legless = Skeleton('bust', ('hip', 'left_shoulder', 'right_shoulder'), (-1, 0, 0))
    with pytest.raises(ValueError, match='layout bust has no right_hip, which a limb needs'):
        build_model('htnet', {}, legless, legless)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match=r'expected keypoints \(B, F, 17, 2\), got \(2, 17, 2\)'):
        build_model('htnet', GOLDEN_CONFIG, H36M, H36M)(torch.zeros(2, 17, 2))
    for config in ({'channels': 40}, {'channels': 30, 'heads': 4}, {'depth': 0}):
        with pytest.raises(ValueError, match=r'cannot be divided|at least 1'):
            build_model('htnet', config, H36M, H36M)


def test_config_is_read_from_shapes(goldens, fill):
    state = fill(goldens[2])
    assert recognise(state) == 'htnet'
    assert htnet.HTNetConfig.from_state(state) == htnet.HTNetConfig(channels=48, depth=2, heads=8, hidden=64)
    for broken in ({}, {'pos_embed': torch.zeros(3)}, {'pos_embed': torch.zeros(1, 17, 48)}):
        with pytest.raises(ValueError, match=r'is missing|has 1 dimensions'):
            htnet.HTNetConfig.from_state(broken)


def test_two_models_share_nothing_and_importing_does_nothing(tmp_path):
    a, b = (build_model('htnet', config, H36M, H36M) for config in (GOLDEN_CONFIG, {'channels': 24, 'hidden': 8}))
    assert a(torch.zeros(1, 1, 17, 2)).shape == b(torch.zeros(1, 1, 17, 2)).shape
    pointers = {t.data_ptr() for t in (*a.parameters(), *a.buffers())}
    assert not pointers & {t.data_ptr() for t in (*b.parameters(), *b.buffers())}
    # Parsers cannot be made, and torch's generator and defaults are as they were.
    code = ('import argparse, torch; argparse.ArgumentParser = None; before = torch.get_rng_state()\n'
            'import common.models.htnet, common.models.ktpformer, common.models.refine, common.models.priors\n'
            'assert torch.equal(before, torch.get_rng_state()) and torch.get_default_dtype() == torch.float32\n'
            'assert torch.is_grad_enabled()')
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def refinement(golden, fill):
    """Return (a Refinement with the golden weights, its input, its expected output)."""
    data = np.load(golden / 'refine.npz')
    module = Refinement(17, 0)
    module.load_state_dict(fill(json.loads((golden / 'refine_keys.json').read_text())))
    depth = data['ground_truth_with_root_trajectory'][:, :, 0, 2]
    asked = [torch.from_numpy(x) for x in (data['predicted'], data['keypoints_2d'], data['camera'], depth)]
    return module, asked, data


def test_golden_back_projection_and_refinement(refinement):
    module, asked, data = refinement
    assert relative(back_project(*asked, root=0), data['back_projected']) < 1e-6
    assert relative(module.eval()(*asked), data['refined']) < 1e-6


def test_naive_refinement_with_another_root(refinement):
    module, asked, _ = refinement
    state = {key: value.double() for key, value in module.state_dict().items()}
    asked = [x.double() for x in asked]
    for root in (0, 14):
        module.root = root
        expected = naive_htnet.refine_trained(state, *asked, root=root)
        assert relative(module.double().eval()(*asked), expected) < 1e-9


def test_back_projection_lands_on_the_keypoints():
    """And mirrored people before a mirrored camera are the mirror image."""
    random = np.random.default_rng(0)
    intrinsic = torch.tensor(random.uniform(0.5, 1.5, (4, 9)))
    points = torch.tensor(random.normal(size=(4, 2, 17, 3)) * 0.3 + [0, 0, 5])
    keypoints = (points[..., :2] / points[..., 2:] * intrinsic[:, None, None, :2] + intrinsic[:, None, None, 2:4])
    predicted = points - points[:, :, :1]
    predicted[..., :2] = 0
    predicted[:, :, 0] = 7  # the predicted root's depth is not looked at
    depth = points[:, :, 0, 2]
    ours = back_project(predicted, keypoints, intrinsic, depth, root=0)
    torch.testing.assert_close(ours, points - points[:, :, :1])
    order = torch.tensor(H36M.mirror)
    mirrored = back_project(mirror(predicted, order), mirror(keypoints, order), mirror_intrinsic(intrinsic), depth, 0)
    torch.testing.assert_close(mirrored, mirror(ours, order))
    torch.testing.assert_close(mirror_intrinsic(intrinsic), naive_htnet.mirror_camera(intrinsic))


def test_refinement_loss_equals_the_naive_one():
    torch.manual_seed(0)
    base, refined, target = torch.randn(3, 5, 2, 17, 3).double().unbind()
    pairs = torch.tensor(H36M.bone_pairs)
    assert sorted(H36M.bone_pairs) == sorted(naive_htnet.H36M_BONE_PAIRS)
    expected = naive_htnet.bone_symmetry(refined, naive_htnet.H36M_BONE_PAIRS)
    torch.testing.assert_close(bone_symmetry(refined, pairs), expected)
    torch.testing.assert_close(refinement_loss(base, refined, target, pairs, RefinementRecipe()),
                               naive_htnet.refinement_loss(base, refined, target))
    torch.testing.assert_close(bone_symmetry(mirror(refined, torch.tensor(H36M.mirror)), pairs), expected)


@pytest.mark.parametrize('name, sizes', [('htnet', {'channels': 30, 'heads': 5, 'depth': 1, 'hidden': 8}),
                                         ('ktpformer', {'channels': 12, 'heads': 3, 'depth': 1, 'frames': 3})])
def test_heads_other_than_the_usual_ones_are_no_fault_of_a_checkpoint(name, sizes):
    """A file does not tell the heads; that 8 of them could not be is then no reason to refuse it."""
    state = build_model(name, sizes, H36M, H36M).state_dict()
    config = model_class(name).config_of(state)
    assert (config.channels, config.channels % config.heads) == (sizes['channels'], 0)
