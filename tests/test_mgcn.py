"""Modulated GCN: both networks and their refinement against the golden outputs and a naive second implementation."""

import json
from types import SimpleNamespace

import naive
import naive_mgcn
import numpy as np
import pytest
import torch
from test_ktpformer import relative

from common.augment import Batch
from common.losses import mean_mpjpe, refinement_loss
from common.models import MODELS, build_model, computing, layers, mgcn, model_class, recipe_of
from common.models.layers import dropped
from common.models.loading import recognise
from common.models.refine import Refined
from common.recipe import RefinementRecipe
from common.skeleton import COCO, H36M, H36M16, HUMANEVA15, MPI_INF_3DHP, MPII

LOSSES = {'mgcn': naive_mgcn.base_loss, 'mgcn16': naive_mgcn.base16_loss}
ADJ2 = 'gconv_input.0.gconv.adj2'
SKELETONS = {'mgcn': H36M, 'mgcn16': H36M16}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def read(folder, name):
    return json.loads((folder / f'{name}.json').read_text())


@pytest.fixture(params=['mgcn', 'mgcn_odd', 'mgcn16', 'mgcn16_odd'])
def case(request, golden, fill):
    """One golden file, and the model with its weights in training mode, without dropout."""
    name = request.param
    kind, zoo = name.removesuffix('_odd'), golden / 'zoo'
    figures, keys = read(zoo, name), read(zoo, f'{name}_keys')
    config = {'channels': figures['config']['hid_dim'], 'depth': figures['config']['num_layers']}
    model = build(kind, **config)
    model.load_state_dict(fill(keys))
    data = {key: torch.from_numpy(value) for key, value in np.load(zoo / f'{name}.npz').items()}
    return SimpleNamespace(kind=kind, config=config, figures=figures, keys=keys, model=model.train(), data=data,
                           x=data['x'][:, None], y=data['y'][:, None])


def build(kind, skeleton=None, layout=None, dropout=0.0, **config):
    rates = {'dropout': dropout} if kind == 'mgcn' else {}
    return build_model(kind, config, skeleton or SKELETONS[kind], layout or skeleton or SKELETONS[kind], **rates)


def random_model(kind, skeleton=None, layout=None, dropout=0.0):
    """Make a small float64 model in training, none of whose parameters and buffers is at a special value."""
    model = build(kind, skeleton, layout, dropout, channels=10, depth=2).double()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                noise = 0.1 * torch.randn(value.shape, generator=random, dtype=value.dtype)
                value += noise.abs() if name.endswith('running_var') else noise
    return model.train()


def naive_output(model, x, skeleton, layout=None, **how):
    layout = layout or skeleton
    out = naive_mgcn.mgcn(dict(model.state_dict()), x.flatten(0, 1), naive.adjacency(len(layout), layout.edges),
                          naive.adjacency(len(skeleton), skeleton.edges), **how)
    return out.unflatten(0, x.shape[:2])


def assert_norms(norms, expected, zero):
    """Gradient norms by name; those that are 0 in theory are small."""
    assert norms.keys() == expected.keys() | set(zero)
    assert {name: norms[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert all(norms[name] < 1e-4 for name in zero)


def test_public_key_names_and_shapes(case):
    assert {key: list(value.shape) for key, value in case.model.state_dict().items()} == case.keys
    assert sum(p.numel() for p in case.model.parameters()) == case.figures['parameters']


def test_golden_outputs(case):
    assert relative(case.model(case.x)[:, 0], case.data['out_train']) < 2e-6
    for key, value in case.data.items():
        if key.startswith('after_one_train_forward/'):
            assert relative(case.model.state_dict()[key.split('/')[1]], value) < 1e-6, key
    tracked = [value for key, value in case.model.state_dict().items() if key.endswith('num_batches_tracked')]
    assert all(count == 8 for count in tracked)


def test_golden_outputs_in_eval_mode(case):
    assert relative(case.model.eval()(case.x)[:, 0], case.data['out_eval']) < 2e-6
    assert relative(case.model.double()(case.x.double())[:, 0], case.data['out_eval_float64']) < 1e-12


def test_golden_loss_and_gradients(case):
    loss = LOSSES[case.kind](case.model(case.x), case.y)
    assert loss.item() == pytest.approx(case.figures['loss']['total'], rel=1e-6)
    loss.backward()
    norms = {name: p.grad.norm().item() for name, p in case.model.named_parameters()}
    assert_norms(norms, case.figures['grad_norm'], case.figures['grad_zero_in_theory'])


@pytest.mark.parametrize('kind, count', [('mgcn', 2_731_840), ('mgcn16', 287_923)])
def test_parameter_counts_of_the_published_sizes(kind, count):
    assert sum(p.numel() for p in build(kind).parameters()) == count


def test_parameter_count_with_refinement():
    model = build('mgcn', refine=True)
    assert sum(p.numel() for p in model.parameters()) == 2_731_840 + 140_322


def test_the_graph_of_16_joints_is_the_golden_one(golden):
    expected = torch.from_numpy(np.load(golden / 'zoo' / 'graphs16.npz')['mgcn16'])
    torch.testing.assert_close(build('mgcn16', channels=4, depth=1).gconv_output.adjacency, expected)
    assert list(H36M16.parents) == naive_mgcn.H36M16_PARENTS


@pytest.mark.parametrize('skeleton, layout', [
    (H36M, H36M), (H36M16, H36M16), (H36M, COCO), (HUMANEVA15, COCO), (MPI_INF_3DHP, MPII), (HUMANEVA15, HUMANEVA15)],
    ids=lambda s: s.name)
@pytest.mark.parametrize('kind', SKELETONS)
def test_naive_forward_and_gradients(kind, skeleton, layout):
    """In training, with inputs so small that a wrong eps of the first norm shows; whatever the layouts."""
    model = random_model(kind, skeleton, layout)
    x = 0.03 * torch.randn(2, 3, len(layout), 2).double()
    state = {key: value.detach().clone().requires_grad_(value.is_floating_point())
             for key, value in model.state_dict().items()}
    running = {}
    expected = naive_mgcn.mgcn(state, x.flatten(0, 1), naive.adjacency(len(layout), layout.edges),
                               naive.adjacency(len(skeleton), skeleton.edges), train=True, running=running)
    ours = model(x)
    assert ours.shape == (2, 3, len(skeleton), 3)
    assert relative(ours.flatten(0, 1), expected) < 1e-6  # the model's graph is float32
    for key, value in running.items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-6, atol=1e-8)
    slope = torch.randn(expected.shape).double()
    names = [name for name, _ in model.named_parameters()]
    mine = torch.autograd.grad((ours.flatten(0, 1) * slope).sum(), list(model.parameters()))
    theirs = torch.autograd.grad((expected * slope).sum(), [state[name] for name in names])
    for name, a, b in zip(names, mine, theirs, strict=True):
        assert (a - b).abs().max() < 1e-6 * max(1, b.abs().max()), name


def test_keypoints_become_joints_before_the_last_layer_alone():
    model = random_model('mgcn', HUMANEVA15, COCO)
    assert model.correspondence.shape == (15, 17)
    assert model.gconv_input[0].gconv.M.shape[0] == 17
    assert model.gconv_output.M.shape[0] == 15
    assert 'correspondence' not in build('mgcn', channels=4, depth=1).state_dict()


@pytest.mark.parametrize('kind', SKELETONS)
def test_frames_know_nothing_of_each_other(kind):
    model = random_model(kind).eval()
    x = torch.randn(2, 3, len(SKELETONS[kind]), 2).double()
    whole = model(x)
    torch.testing.assert_close(whole.flatten(0, 1), model(x.flatten(0, 1)[:, None])[:, 0])
    x[1, 2, 5] += 1
    changed = (model(x) != whole).flatten(2).any(-1)
    assert changed.tolist() == [[False, False, False], [False, False, True]]


def test_joints_are_reached_as_far_as_the_layers_go():
    """Without attention, an answer depends on neighbours along the skeleton alone, one step for each layer."""
    model = build('mgcn16', channels=32, depth=1).double().eval()
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, 'adj2'):
                module.adj2.zero_()
    x = torch.randn(1, 1, 16, 2).double().requires_grad_()
    (reach,) = torch.autograd.grad(model(x)[0, 0, H36M16.joints.index('right_wrist')].sum(), x)
    hops = torch.from_numpy(naive.adjacency(16, H36M16.edges) > 0).double().matrix_power(4)  # itself is a neighbour
    assert torch.equal(reach[0, 0].abs().sum(-1) > 0, hops[H36M16.joints.index('right_wrist')] > 0)
    assert (reach[0, 0, H36M16.joints.index('left_ankle')] == 0).all()


def test_a_fresh_network_of_16_joints_knows_no_sides():
    """Its modulation starts at 1 and the skeleton is the same on both sides, so swapped joints come out swapped."""
    model = build('mgcn16', channels=8, depth=2).eval()
    x, order = torch.randn(2, 3, 16, 2), torch.tensor(H36M16.mirror)
    torch.testing.assert_close(model(x[:, :, order]), model(x)[:, :, order])


@torch.no_grad()
def test_how_weights_start():
    bound = 1.414 * (6 / (17 + 384)) ** 0.5
    for module in build('mgcn', depth=2).modules():
        if hasattr(module, 'adj2') and module.M.shape[1] == 384:
            assert 0.95 * bound < module.M.abs().max() <= bound
            assert module.M.std() == pytest.approx(bound / 3 ** 0.5, rel=0.05)
            assert abs(module.M.mean()) < 0.05 * bound
    for module in build('mgcn16', depth=2).modules():
        if hasattr(module, 'adj2'):
            assert (module.M == 1).all()
            assert torch.equal(module.adj2, torch.full((16, 16), 1e-6))
            assert module.bias.abs().max() <= module.W.shape[2] ** -0.5
            bound = 1.414 * (6 / (module.W.shape[2] * (module.W.shape[1] + 2))) ** 0.5  # fans as torch counts in 3-D
            assert 0.95 * bound < module.W.abs().max() <= bound


def test_looking_at_each_other_starts_as_nothing():
    model = build('mgcn', channels=30, depth=1).train()
    layer = model.non_local
    x = torch.randn(1, 17, 3, 30)
    assert torch.equal(layer(x), x)
    assert (layer.W[1].weight == 0).all()
    assert (layer.W[1].bias == 0).all()
    for part, fan_in in ((layer.g, 30), (layer.theta, 30), (layer.phi, 30), (layer.W[0], 15)):
        for values in (part.weight, part.bias):
            assert 0.7 * fan_in ** -0.5 < values.abs().max() <= fan_in ** -0.5


def test_dropout_comes_after_each_layer_but_the_last(monkeypatch):
    """The masks that ours draws, put into the naive model at these places, give the same output."""
    model, masks = random_model('mgcn', dropout=0.4), []

    def draw(x, rate):
        assert rate == 0.4
        masks.append(dropped(x, rate))
        return masks[-1]
    monkeypatch.setattr(layers, 'dropped', draw)
    x = torch.randn(5, 2, 17, 2).double()
    ours = model(x)
    places = ['gconv_input.0'] + [f'gconv_layers.{i}.gconv{n}' for i in range(2) for n in (1, 2)]
    kept = dict(zip(places, masks, strict=True))
    for mask in masks:
        assert mask.shape == (1, 17, 10, 10)  # single values
        assert 0.3 < mask.double().mean() < 0.5

    def scale(name, value):
        return value * ~kept.pop(name)[0].transpose(0, 1) / 0.6
    # Buffers have moved, but training reads none of them.
    assert relative(ours, naive_output(model, x, H36M, train=True, scale=scale)) < 1e-6
    assert not kept
    assert torch.equal(model.eval()(x), model(x))
    assert len(masks) == 5


def test_dropout_is_that_of_the_recipe_unless_it_is_said():
    assert recipe_of('mgcn').dropout == model_class('mgcn')(mgcn.ModulatedGCNConfig(4, 1), H36M, H36M) \
        .gconv_input[0].dropout == 0.2
    assert recipe_of('mgcn16').dropout is None
    assert {getattr(module, 'dropout', 0.0) for module in build('mgcn16').modules()} == {0.0}


def test_gradients_are_right_whatever_the_memory_looks_like():
    """Where a BatchNorm2d of torch 2.13 and 2.14 fails on a CPU: against finite differences, strided inputs too."""
    layer = random_model('mgcn').non_local
    for x in (torch.randn(1, 17, 3, 10), torch.randn(3, 17, 1, 10).permute(2, 1, 0, 3)):
        assert torch.autograd.gradcheck(layer, x.double().requires_grad_(), atol=1e-6)
    assert not [module for module in build('mgcn').modules() if isinstance(module, torch.nn.BatchNorm2d)]


@pytest.mark.parametrize('kind', SKELETONS)
def test_tokens_of_fewer_bits_stay_inside(kind):
    model = build(kind, channels=32, depth=2)
    x, seen = torch.randn(8, 1, len(SKELETONS[kind]), 2), set()
    exact = model(x)
    for layer in model.gconv_layers:
        layer.register_forward_hook(lambda module, args, out: seen.add(out.dtype))
    with computing.computing_in(model, 'bf16'):
        rounded = model(x)
    assert seen == {torch.bfloat16}
    assert rounded.dtype == torch.float32
    assert 1e-5 < relative(rounded, exact) < 0.05


# ---- public files -----------------------------------------------------------------------------------------------


def test_sizes_are_read_from_shapes(case, fill):
    state = fill(case.keys)
    assert recognise(state) == case.kind
    assert model_class(case.kind).Config.from_state(state) == model_class(case.kind).Config(**case.config)
    assert model_class(case.kind).keypoints_of(state) == len(SKELETONS[case.kind])
    last = 'gconv_layers.1.gconv2.bn.weight'
    assert recognise({key: value for key, value in state.items() if key != last}) == case.kind


def test_each_public_file_is_of_one_model(golden, fill):
    """Whatever order the models have: SemGCN's, which has the same names but for M and adj2, is neither's."""
    for path in sorted(golden.rglob('*_keys.json')):
        state = fill(read(path.parent, path.stem))
        fitting = [name for name in MODELS if (kind := model_class(name)).public_keys
                   and all(key in state for key in kind.public_keys)
                   and not any(key in state for key in kind.absent_keys)]
        assert len(fitting) < 2, path
        assert fitting == ([path.name.split('_')[0]] if path.name.startswith('mgcn') else fitting), path
    semgcn = {key: value for key, value in fill(read(golden / 'zoo', 'mgcn_keys')).items()
              if not key.endswith(('.M', '.adj2'))}
    assert recognise(semgcn) is None


def test_other_weights_and_sizes_are_refused():
    for kind in SKELETONS:
        config = model_class(kind).Config
        for broken, message in (
                ({}, 'gconv_input.0.gconv.adj2 is missing'),
                ({ADJ2: torch.zeros(3)}, 'has 1 dimensions, expected 2'),
                ({ADJ2: torch.zeros(16, 16)}, 'gconv_input.0.gconv.W is missing'),
                ({ADJ2: torch.zeros(16, 16), 'gconv_input.0.gconv.W': torch.zeros(2, 2, 8)},
                 'depth is 0, expected at least 1')):
            with pytest.raises(ValueError, match=message):
                config.from_state(broken)
        for sizes in ({'channels': 0}, {'depth': 0}, {'frames': 27}):
            with pytest.raises(ValueError, match=r'at least 1|no such sizes'):
                build(kind, **sizes)
    with pytest.raises(ValueError, match='channels is 1, expected at least 2'):
        build('mgcn', channels=1)
    with pytest.raises(ValueError, match=r'expected keypoints \(B, F, 17, 2\), got \(2, 17, 2\)'):
        build('mgcn', channels=4)(torch.zeros(2, 17, 2))
    with pytest.raises(ValueError, match=r'expected keypoints \(B, F, 16, 2\), got \(1, 1, 17, 2\)'):
        build('mgcn16', channels=4)(torch.zeros(1, 1, 17, 2))


# ---- refinement -------------------------------------------------------------------------------------------------


@pytest.fixture
def refined(golden, fill):
    """Return (a refined model with the golden weights, without dropout; its batch; the golden data and figures)."""
    zoo = golden / 'zoo'
    data = {key: torch.from_numpy(value) for key, value in np.load(zoo / 'mgcn_refined.npz').items()}
    model = build('mgcn', refine=True, channels=32, depth=2).train()
    model.base.load_state_dict(fill(read(zoo, 'mgcn_keys')))
    model.refine.load_state_dict(fill(read(golden, 'refine_keys')))
    model.refine.post_refine[2].p = 0.0
    batch = Batch(data['x'][:, None], data['y'][:, None], data['camera'], data['root'][:, None, 2])
    return SimpleNamespace(model=model, batch=batch, data=data, figures=read(zoo, 'mgcn_refined'))


def test_golden_refinement_with_the_published_signed_symmetry(refined):
    """The published term takes no absolute value, so that both signs cancel: 0.77 where the bones differ by 6.48."""
    base = refined.model.read(refined.batch)
    poses = refined.model.refined(base, refined.batch)
    assert relative(base[:, 0], refined.data['base']) < 2e-6
    assert relative(poses[:, 0], refined.data['refined']) < 2e-6
    parts, target = refined.figures['loss'], refined.data['y']
    signed, absolute = (naive_mgcn.symmetry(poses[:, 0], kind) for kind in (True, False))
    assert signed.item() == pytest.approx(parts['symmetry_signed'], rel=1e-5)
    assert absolute.item() == pytest.approx(parts['symmetry_absolute_not_used'], rel=1e-5)
    total = naive_mgcn.base_loss(base[:, 0], target) + (poses[:, 0] - target).norm(dim=-1).mean() + 0.01 * signed
    assert total.item() == pytest.approx(parts['total'], rel=1e-6)
    total.backward()
    norms = {name: p.grad.norm().item() for name, p in refined.model.named_parameters()}
    assert_norms(norms, refined.figures['grad_norm'], refined.figures['grad_zero_in_theory'])


def test_the_loss_of_a_refined_model_is_the_published_one_but_for_the_sign(refined):
    def criterion(predicted, target):
        return naive_mgcn.base_loss(predicted[:, 0], target[:, 0])
    parts = refined.figures['loss']
    expected = parts['total'] + 0.01 * (parts['symmetry_absolute_not_used'] - parts['symmetry_signed'])
    assert refined.model.loss(refined.batch, criterion).item() == pytest.approx(expected, rel=1e-6)


def test_a_model_says_how_its_refinement_is_trained(refined):
    """Without base and symmetry the MPJPE of the refined poses is left, whose gradients reach the base too."""
    class Alone(mgcn.ModulatedGCN):
        refinement = RefinementRecipe(base=0, symmetry=0)

    def never(predicted, target):
        raise AssertionError('the base has no term')
    alone = Refined(Alone(mgcn.ModulatedGCNConfig(32, 2), H36M, H36M, 0.0), H36M, H36M).train()
    alone.load_state_dict(refined.model.state_dict())
    alone.refine.post_refine[2].p = 0.0
    loss = alone.loss(refined.batch, never)
    assert loss.item() == pytest.approx(refined.figures['loss']['mpjpe_refined'], rel=1e-6)
    loss.backward()
    assert alone.base.gconv_output.W.grad.norm() > 0.1
    halves = RefinementRecipe(base=0.5, symmetry=2.0)
    base, poses = refined.data['base'][:, None], refined.data['refined'][:, None]
    total = refinement_loss(base, poses, refined.batch.truth, torch.tensor(H36M.bone_pairs), halves, mean_mpjpe)
    parts = refined.figures['loss']
    assert total.item() == pytest.approx(0.5 * parts['mpjpe_base'] + parts['mpjpe_refined']
                                         + 2 * parts['symmetry_absolute_not_used'], rel=1e-5)
