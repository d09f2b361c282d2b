"""KTPFormer against the golden outputs, against a naive second implementation, and part by part."""

import functools
import json
from dataclasses import asdict

import naive
import numpy as np
import pytest
import torch
from conftest import resize_keys

from common.losses import gradient_factor, pose_loss
from common.models import build_model, graph, layers
from common.models.ktpformer import KTPFormerConfig
from common.models.layers import FRAMES, JOINTS, Attention, DropPath
from common.skeleton import COCO, H36M, HUMANEVA15, MPI_INF_3DHP, MPII

GOLDEN_CONFIG = {'frames': 9, 'channels': 32, 'depth': 2}


@pytest.fixture(scope='module')
def goldens(golden):
    return (np.load(golden / 'ktpformer.npz'), json.loads((golden / 'ktpformer.json').read_text()),
            json.loads((golden / 'ktpformer_keys.json').read_text()))


@pytest.fixture
def golden_model(goldens, fill):
    model = build_model('ktpformer', GOLDEN_CONFIG, H36M, H36M)
    model.load_state_dict(fill(goldens[2]))
    return model


def relative(got, expected) -> float:
    got, expected = torch.as_tensor(got).detach().double(), torch.as_tensor(expected).double()
    return ((got - expected).abs().max() / expected.abs().max()).item()


def test_public_key_names_and_shapes(goldens):
    model = build_model('ktpformer', GOLDEN_CONFIG, H36M, H36M)
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == goldens[2]


@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_golden_forward(goldens, golden_model, mode):
    golden_model.train(mode == 'train')
    # Tighter than the goldens' 1e-5: swapping a LayerNorm eps of 1e-6 for 1e-5 moves the output by 4e-6 only.
    assert relative(golden_model(torch.from_numpy(goldens[0]['x'])), goldens[0][f'out_{mode}']) < 2e-6


def test_golden_loss_and_gradients(goldens, golden_model):
    data, expected, _ = goldens
    predicted = golden_model.train()(torch.from_numpy(data['x']))
    parts = pose_loss(predicted, torch.from_numpy(data['y']), torch.tensor(H36M.loss_weights))
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(expected['loss'], rel=1e-5)
    parts['total'].backward()
    factor = gradient_factor(parts['total'], 'half-square')
    norms = {name: (factor * p.grad).norm().item() for name, p in golden_model.named_parameters()}
    golden_norms = expected['grad_norm_with_loss_as_upstream_gradient']
    assert norms.keys() == golden_norms.keys()
    for name, norm in norms.items():
        if name.endswith('gconv.bias'):  # in front of a BatchNorm: zero but for rounding
            assert norm < 1e-4
        else:
            assert norm == pytest.approx(golden_norms[name], rel=1e-5), name


@pytest.mark.parametrize('frames, millions', [(243, 35.21), (27, 34.77)])
def test_parameter_count_at_the_defaults(frames, millions):
    model = build_model('ktpformer', {'frames': frames}, H36M, H36M)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def random_model(skeleton=H36M, layout=None, train=True, drop_path=0.0, seed=0, **config):
    """Make a model in float64 none of whose parameters or statistics is at a special value."""
    model = build_model('ktpformer', {'channels': 16, 'depth': 1, **config}, skeleton, layout or skeleton, drop_path)
    model.double().train(train)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor += 0.1 * torch.randn(tensor.shape, generator=random, dtype=tensor.dtype).abs()
    return model


SKELETON_OF = {15: HUMANEVA15, 16: MPII, 17: MPI_INF_3DHP}


@pytest.mark.parametrize('train', [False, True], ids=['eval', 'train'])
@pytest.mark.parametrize('frames, joints, batch, kpa, tpa', [
    (1, 17, 1, True, True), (1, 15, 3, True, True), (9, 15, 1, True, True), (9, 16, 2, True, True),
    (9, 17, 2, False, True), (9, 17, 2, True, False), (9, 15, 2, False, False), (27, 16, 1, True, True),
    (27, 17, 2, True, True), (243, 17, 1, True, True)])
def test_naive_forward(frames, joints, batch, kpa, tpa, train):
    skeleton = SKELETON_OF[joints]
    model = random_model(skeleton, train=train, frames=frames, kpa=kpa, tpa=tpa)
    x = torch.randn(batch, frames, joints, 2, generator=torch.Generator().manual_seed(1)).double()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = naive.ktpformer(before, x, adjacency_joints=naive.adjacency(joints, skeleton.edges), train=train,
                               kpa=kpa, tpa=tpa)
    assert relative(model(x), expected) < 1e-7  # graph constants are float32 in the model


@pytest.mark.parametrize('frames, joints, batch, channels, kpa, tpa', [
    (9, 17, 2, 16, True, True), (9, 17, 2, 16, False, False), (1, 17, 2, 16, True, True), (9, 15, 1, 40, True, True),
    (1, 15, 1, 72, True, True)])
def test_naive_gradients_and_statistics(frames, joints, batch, channels, kpa, tpa):
    skeleton = SKELETON_OF[joints] if joints != 17 else H36M
    model = random_model(skeleton, frames=frames, channels=channels, kpa=kpa, tpa=tpa)
    x, y = torch.randn(batch, frames, joints, 2).double(), torch.randn(batch, frames, joints, 3).double()
    state = {key: value.clone().requires_grad_(value.is_floating_point() and 'running' not in key)
             for key, value in model.state_dict().items()}
    running = {}
    predicted = naive.ktpformer(state, x, adjacency_joints=naive.adjacency(joints, skeleton.edges), train=True, kpa=kpa,
                                tpa=tpa, running=running)
    naive.loss_parts(predicted, y, skeleton.loss_weights)['total'].backward()
    pose_loss(model(x), y, torch.tensor(skeleton.loss_weights))['total'].backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, state[name].grad, rtol=1e-5, atol=1e-7, msg=name)
    for name, value in running.items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-6, atol=1e-7, msg=name)


def test_drop_path_draws_once_per_frame_or_track_for_attention_and_mlp_apart():
    """With the masks that our modules drew, the naive model, which asks for each by name, gives our output."""
    model = random_model(frames=9, drop_path=0.5, depth=2)
    drawn = {}

    def record(name):
        def hook(module, args, kwargs, out):
            branch = out - kwargs['beside']
            kept = (branch != 0).any(-1, keepdim=True)  # (B, F, J, 1)
            torch.testing.assert_close(branch, args[0] * kept / (1 - module.rate))
            drawn[name] = (module, kept)
        return hook
    for name, module in model.named_modules():
        if isinstance(module, DropPath) and module.rate:
            module.register_forward_hook(record(name.replace('drop_', '')), with_kwargs=True)
    x = torch.randn(3, 9, 17, 2).double()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    ours = model(x)

    def mask(name, where, shape):
        if name not in drawn:
            assert name.startswith(('kpattention', 'tpattention'))  # their rate is 0
            return torch.ones(shape)
        module, kept = drawn[name]
        axis = 2 if where == 'frames-of-window' else 1
        assert (kept == kept.select(axis, 0).unsqueeze(axis)).all()  # one value along the axis attention runs over
        return kept.select(axis, 0).unsqueeze(axis).double() / (1 - module.rate)
    expected = naive.ktpformer(state, x, adjacency_joints=naive.adjacency(17, H36M.edges), train=True, drop_path=mask)
    assert relative(ours, expected) < 1e-7
    rates = {name: module.rate for name, (module, _) in drawn.items()}
    assert rates == {f'{kind}.{i}.{part}': rate for kind in ('STEblocks', 'TTEblocks') for part in ('attn', 'mlp')
                     for i, rate in ((0, 0.25), (1, 0.5))}
    flat = [kept.flatten().tolist() for _, kept in drawn.values()]
    assert all(a != b for i, a in enumerate(flat) for b in flat[:i])  # every place draws its own


def test_drop_path_keeps_the_mean_and_is_off_at_test():
    drop = DropPath(0.3, JOINTS)
    x = torch.ones(200, 200, 2, 3)
    torch.manual_seed(0)
    assert drop(x).mean().item() == pytest.approx(1, abs=0.02)
    assert drop.eval()(x) is x


def test_without_priors_no_prior_is_left():
    names = build_model('ktpformer', {'frames': 9, 'channels': 16, 'depth': 1, 'kpa': False, 'tpa': False}, H36M,
                        H36M).state_dict()
    assert not [name for name in names if 'gconv' in name or '.bn.' in name]
    assert names['kpattention.attn.kpa.weight'].shape == (16, 2)


@pytest.mark.parametrize('layout', [COCO, MPII], ids=lambda s: s.name)
def test_other_layouts_are_lifted_to_the_skeleton(layout):
    """Tokens are keypoints up to the last norm; the map by names stands before the head."""
    model = random_model(H36M, layout, train=False, frames=9)
    assert model.state_dict()['correspondence'].shape == (17, len(layout))
    x = torch.randn(2, 9, len(layout), 2).double()
    assert model(x).shape == (2, 9, 17, 3)
    per_keypoint = {k: v for k, v in model.state_dict().items() if k != 'correspondence'}
    identity_head = per_keypoint | {'head.1.weight': torch.randn(3, 16).double()}
    tokens = torch.stack([  # the naive model's tokens before its head, one channel triple at a time
        naive_tokens(identity_head, x, layout, c) for c in range(16)], dim=-1)
    mixed = torch.einsum('jk,bfkc->bfjc', model.state_dict()['correspondence'], tokens)
    expected = naive.linear(per_keypoint, 'head.1', naive.layer_norm(per_keypoint, 'head.0', mixed, 1e-5))
    assert relative(model(x), expected) < 1e-6


def naive_tokens(state, x, layout, channel):
    """Return a channel of the tokens that reach the head, read through a head that passes one channel."""
    keep = torch.zeros(3, 16).double()
    keep[0, channel] = 1
    passing = state | {'head.1.weight': keep, 'head.1.bias': torch.zeros(3).double()}
    original, naive.layer_norm = naive.layer_norm, lambda s, name, y, eps: \
        y if name == 'head.0' else original(s, name, y, eps)
    try:
        return naive.ktpformer(passing, x, adjacency_joints=naive.adjacency(len(layout), layout.edges))[..., 0]
    finally:
        naive.layer_norm = original


def test_equal_layouts_have_no_map():
    assert build_model('ktpformer', GOLDEN_CONFIG, H36M, H36M).correspondence is None


@pytest.mark.parametrize('over', [JOINTS, FRAMES])
def test_attention_moves_no_token(monkeypatch, over):
    """Queries, keys and values reach the product as views of their projections."""
    seen, original = [], layers.attend
    monkeypatch.setattr(layers, 'attend', lambda *qkv: (seen.extend(qkv), original(*qkv))[1])
    Attention(16, 4, over)(torch.randn(2, 5, 7, 16))
    assert len(seen) == 3
    assert all(part._base is not None for part in seen)


def test_block_is_the_vision_transformer_block():
    """timm's ViT block on folded tokens is an independent witness for ours."""
    try:
        from timm.models.vision_transformer import Block as TimmBlock
    except (ImportError, RuntimeError) as error:  # a torchvision that does not match torch breaks timm's import
        pytest.skip(f'timm cannot be imported here: {error}')
    model = build_model('ktpformer', GOLDEN_CONFIG, H36M, H36M).eval()
    x = torch.randn(2, 9, 17, 32)
    norm = functools.partial(torch.nn.LayerNorm, eps=1e-6)
    for ours, fold, unfold in ((model.STEblocks[0], lambda t: t.flatten(0, 1), lambda t: t.view(2, 9, 17, 32)),
                               (model.TTEblocks[0], lambda t: t.transpose(1, 2).flatten(0, 1),
                                lambda t: t.view(2, 17, 9, 32).transpose(1, 2))):
        theirs = TimmBlock(32, 8, mlp_ratio=2, qkv_bias=True, norm_layer=norm)
        theirs.load_state_dict(ours.state_dict())
        assert relative(ours(x), unfold(theirs.eval()(fold(x)))) < 1e-6


def test_wrong_sizes_are_refused():
    model = build_model('ktpformer', GOLDEN_CONFIG, H36M, H36M)
    with pytest.raises(ValueError, match=r'expected keypoints \(B, 9, 17, 2\), got \(2, 10, 17, 2\)'):
        model(torch.zeros(2, 10, 17, 2))
    with pytest.raises(ValueError, match='30 channels cannot be divided among 8 heads'):
        build_model('ktpformer', {**GOLDEN_CONFIG, 'channels': 30}, H36M, H36M)


def test_config_is_read_from_shapes(goldens, fill):
    state = fill(resize_keys(goldens[2], 27, 64, 3))
    config = asdict(KTPFormerConfig.from_state(state))
    assert config == {'frames': 27, 'channels': 64, 'depth': 3, 'heads': 8, 'mlp_ratio': 2.0, 'kpa': True, 'tpa': True,
                      'confidence': False}
    build_model('ktpformer', config, H36M, H36M).load_state_dict(state)
    with pytest.raises(ValueError, match='is missing'):
        KTPFormerConfig.from_state({'head.weight': torch.zeros(3)})


def test_two_models_share_nothing():
    a, b = (build_model('ktpformer', GOLDEN_CONFIG, H36M, H36M) for _ in range(2))
    pointers = {t.data_ptr() for t in (*a.parameters(), *a.buffers())}
    assert not pointers & {t.data_ptr() for t in (*b.parameters(), *b.buffers())}
    assert torch.equal(a.kpattention.attn.kpa.gconv.adjacency, torch.from_numpy(graph.adjacency(17, H36M.edges)))
