"""StridedTransformer against the golden outputs, against a naive second implementation, and part by part."""

import json
from dataclasses import replace

import naive_strided
import numpy as np
import pytest
import torch
from test_ktpformer import relative

from common.augment import Batch, Mirror
from common.losses import mean_mpjpe
from common.models import build_model, layers
from common.models.loading import recognise
from common.models.strided import StridedTransformerConfig
from common.skeleton import COCO, H36M, H36M16, HUMANEVA15, MPI_INF_3DHP

STATISTICS = 'after_step/'
SMALL = {'frames': 27, 'channels': 16, 'hidden': 20, 'depth': 2}
UNUSED = {f'{stack}.model.norm.{part}' for stack in ('Transformer', 'Transformer_reduce') for part in ('a_2', 'b_2')}


def golden_files(golden, name):
    """Return (the arrays, what the json says, key names and shapes) of a golden output."""
    read = [json.loads((golden / 'zoo' / f'{name}{end}.json').read_text()) for end in ('', '_keys')]
    return np.load(golden / 'zoo' / f'{name}.npz'), *read


def golden_model(kind, expected, state, skeleton, layout):
    """Build the model that a golden output was made with, without dropout."""
    sizes = {size: expected['config'][size] for size in ('frames', 'channels', 'hidden', 'depth')}
    model = build_model(kind, {**sizes, 'strides': tuple(expected['config']['strides'])}, skeleton, layout, dropout=0.0)
    model.load_state_dict(state)
    return model


def check_gradients(model, expected):
    """Compare the norms of all gradients; those that are 0 in theory are small."""
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters()}
    largest = max(norms.values())
    golden = {name: norm for name, norm in expected.items() if norm is not None}
    assert norms.keys() == golden.keys()
    vanishing = {name for name, norm in golden.items() if norm < 1e-6}
    assert {name: norms[name] for name in norms.keys() - vanishing} == pytest.approx(
        {name: golden[name] for name in golden.keys() - vanishing}, rel=3e-5)
    assert max(norms[name] for name in vanishing) < 1e-6 * largest
    assert vanishing >= {name for name in norms if name.endswith('linears.1.bias')}  # of keys


def check_statistics(model, data):
    """Compare the buffers of batch norms after one pass in training."""
    state = model.state_dict()
    keys = [key for key in data if key.startswith(STATISTICS)]
    assert len(keys) >= 3 * 3
    for key in keys:
        assert relative(state[key.removeprefix(STATISTICS)], data[key]) < 2e-6, key


def random_model(kind, skeleton, layout, rate=0.0, seed=0, **sizes):
    """Make a float64 model in training, none of whose parameters or statistics is at a special value."""
    model = build_model(kind, SMALL | sizes, skeleton, layout, dropout=rate).double()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                noise = 0.2 * torch.randn(value.shape, generator=random, dtype=value.dtype)
                value += noise.abs() if name.endswith('running_var') else noise
    return model


@pytest.fixture(params=[('strided', H36M), ('strided_odd', H36M16)], ids=lambda name: name[0])
def case(request, golden, fill):
    """Return (the arrays, what the json says, a model with the golden weights)."""
    name, layout = request.param
    data, expected, keys = golden_files(golden, name)
    return data, expected, golden_model('strided', expected, fill(keys), layout, layout)


@pytest.mark.parametrize('name, layout', [('strided', H36M), ('strided_odd', H36M16)])
def test_public_key_names_and_shapes(golden, fill, name, layout):
    _, expected, keys = golden_files(golden, name)
    model = golden_model('strided', expected, fill(keys), layout, layout)
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == keys
    assert {key for key, _ in model.named_buffers() if key in UNUSED} == UNUSED


@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_golden_forward(case, mode):
    data, _, model = case
    x = torch.from_numpy(data['x'])
    every, centre = model.train(mode == 'train')(x, every=True)
    assert relative(every, data[f'out_all_{mode}']) < 2e-6
    assert relative(centre, data[f'out_{mode}']) < 2e-6
    if mode == 'eval':
        assert torch.equal(model(x), centre)


def test_golden_loss_gradients_and_statistics(case):
    data, expected, model = case
    batch = Batch(torch.from_numpy(data['x']), torch.from_numpy(data['y']))
    loss = model.train().loss(batch, mean_mpjpe)
    assert loss.item() == pytest.approx(expected['loss'], rel=1e-6)
    loss.backward()
    check_gradients(model, expected['grad_norm'])
    check_statistics(model, data)


def test_the_loss_is_of_all_frames_and_of_the_centre(case):
    data, expected, model = case
    x, y = torch.from_numpy(data['x']), torch.from_numpy(data['y'])
    parts = []

    def criterion(predicted, target):
        assert predicted.shape == target.shape
        parts.append(mean_mpjpe(predicted, target).item())
        return mean_mpjpe(predicted, target)
    model.train().loss(Batch(x, y), criterion)
    assert parts == pytest.approx([expected['loss_all'], expected['loss_centre']], rel=1e-6)
    assert model.supervised == range(expected['config']['frames'])
    assert model.answers == range((model.frames - 1) // 2, (model.frames - 1) // 2 + 1)


@pytest.mark.parametrize('frames, parameters', [(27, 4_014_438), (351, 4_346_214)])
def test_parameter_counts_of_the_published_sizes(frames, parameters):
    model = build_model('strided', {'frames': frames}, H36M, H36M)
    unused = sum(value.numel() for key, value in model.named_buffers() if key in UNUSED)
    assert unused == 1024
    assert sum(p.numel() for p in model.parameters()) == parameters - unused


@pytest.mark.parametrize('skeleton, layout, strides', [
    (H36M, H36M, (3, 3, 3)), (H36M, COCO, (2, 5, 1, 3)), (HUMANEVA15, HUMANEVA15, (27,)),
    (MPI_INF_3DHP, MPI_INF_3DHP, (7, 4))], ids=lambda value: getattr(value, 'name', str(value)))
@pytest.mark.parametrize('training', [False, True])
def test_naive_forward(skeleton, layout, strides, training):
    """Any strides, blocks before which there is no position, any ends; small inputs, so that an eps shows."""
    model = random_model('strided', skeleton, layout, strides=strides).train(training)
    x = 0.01 * torch.randn(3, 27, len(layout), 2).double()
    expected = naive_strided.lifted(dict(model.state_dict()), x, strides, naive_strided.strided_encoder, training)
    for ours, theirs in zip(model(x, every=True), expected, strict=True):
        assert relative(ours, theirs) < 1e-11
    assert model(x).shape == (3, 1, len(skeleton), 3)


def test_the_norm_adds_its_eps_to_the_deviation_over_one_channel_less():
    model = random_model('strided', H36M, H36M)
    norm = model.Transformer.model.layers[0].sublayer[0].norm
    x = 1e-5 * torch.randn(4, 16).double()
    expected = naive_strided.sample_norm({f'n.{key}': value for key, value in norm.state_dict().items()}, 'n', x)
    assert relative(norm(x), expected) < 1e-11


def dropout_places(depth, narrowing, stack='Transformer'):
    """Yield where dropout stands in transformers of these numbers of blocks, in the order of the forward pass."""
    for name, blocks in ((stack, depth), ('Transformer_reduce', narrowing)):
        for index in range(blocks):
            block = f'{name}.model.layers.{index}'
            yield from (f'{block}.self_attn.weights', f'{block}.attention', f'{block}.feed_forward.hidden',
                        f'{block}.feed_forward')


def recorded(monkeypatch):
    """Return a list that fills with the masks that dropout draws, and their rates."""
    drawn, draw = [], layers.dropped

    def draw_and_keep(x, rate):
        drawn.append((draw(x, rate), rate))
        return drawn[-1][0]
    monkeypatch.setattr(layers, 'dropped', draw_and_keep)
    return drawn


def replayed(drawn, places):
    """Return `drop` for a naive model: the masks drawn at these places, each to be used once."""
    masks = {place: (~mask).double() / (1 - rate) for place, (mask, rate) in zip(places, drawn, strict=True)}
    assert len(masks) == len(drawn)

    def drop(place, value):
        mask = masks.pop(place)
        mask = mask.mT if place.startswith('encoder') else mask  # whose channels come before its frames
        assert mask.shape == value.shape
        return mask * value
    return drop, masks


def test_dropout_is_drawn_where_it_is_published(monkeypatch):
    """The masks that ours draws, put into the naive model at the places they are for, give the same output."""
    model, drawn = random_model('strided', H36M, H36M, rate=0.2), recorded(monkeypatch)
    x = torch.randn(3, 27, 17, 2).double()
    _, ours = model(x, every=True)
    assert [rate for _, rate in drawn] == [0.5] + [0.2] * (len(drawn) - 1)
    assert all(abs(mask.double().mean() - rate) < 0.1 for mask, rate in drawn)
    drop, left = replayed(drawn, ['encoder', *dropout_places(SMALL['depth'], 3)])
    _, expected = naive_strided.lifted(dict(model.state_dict()), x, (3, 3, 3), naive_strided.strided_encoder, True,
                                       drop)
    assert relative(ours, expected) < 1e-11
    assert not left
    assert not recorded(monkeypatch) and torch.equal(model.eval()(x), model(x))


def test_the_encoder_drops_a_quarter_by_default():
    assert build_model('strided', SMALL, H36M, H36M).encoder_rate == 0.25
    with pytest.raises(ValueError, match=r'dropout is 0\.4, expected less than 0\.4'):
        build_model('strided', SMALL, H36M, H36M, dropout=0.4)


def check_copies(model):
    """At the start the four products of an attention are equal, and so are all blocks, and all strided attentions."""
    for stack in (model.Transformer, model.Transformer_reduce):
        first = stack.model.layers[0].self_attn.linears[0].state_dict()
        for block in stack.model.layers:
            for linear in block.self_attn.linears:
                assert all(torch.equal(value, first[key]) for key, value in linear.state_dict().items())
        bound = first['weight'].shape[1] ** -0.5
        assert 0.95 * bound < first['weight'].abs().max() <= bound
    of_frames, narrowing = (stack.model.layers for stack in (model.Transformer, model.Transformer_reduce))
    assert not torch.equal(of_frames[0].self_attn.linears[0].weight, narrowing[0].self_attn.linears[0].weight)
    for key, value in of_frames[0].state_dict().items():
        assert torch.equal(of_frames[1].state_dict()[key], value), key
    for part in ('w_1', 'w_2'):
        weights = [getattr(block.feed_forward, part).weight for block in narrowing]
        assert not torch.equal(weights[0], weights[1])
        bound = weights[0][0].numel() ** -0.5
        assert 0.95 * bound < weights[0].abs().max() <= bound
    pointers = [p.data_ptr() for p in model.parameters()]
    assert len(set(pointers)) == len(pointers)  # equal, not the same: they part in training
    tables = [model.Transformer.pos_embedding, *(model.Transformer_reduce.model.get_parameter(f'pos_embedding_{n}')
                                                 for n in (1, 2, 3))]
    assert all(abs(table.std() - 1) < 0.1 and abs(table.mean()) < 0.1 for table in tables)


def test_weights_start_as_published():
    torch.manual_seed(0)
    check_copies(build_model('strided', {**SMALL, 'channels': 64}, H36M, H36M))


def test_positions_that_no_block_reads_are_not_trained():
    model = build_model('strided', {**SMALL, 'strides': (9, 3)}, H36M, H36M, dropout=0.0)
    model.loss(Batch(torch.randn(2, 27, 17, 2), torch.randn(2, 27, 17, 3)), mean_mpjpe).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert 'Transformer_reduce.model.pos_embedding_3' in model.state_dict()


def test_an_answer_reads_each_frame_of_its_own_window():
    model = random_model('strided', H36M, H36M).eval()
    x = torch.randn(2, 27, 17, 2).double().requires_grad_()
    out = model(x)
    slope, = torch.autograd.grad(out[0].sum(), x)
    assert (slope[0].abs().amax(dim=(1, 2)) > 0).all()
    assert not slope[1].any()
    assert relative(model(x[1:]), out[1:]) < 1e-12


def test_a_step_needs_two_windows():
    model = build_model('strided', SMALL, H36M, H36M)
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        model.train()(torch.randn(1, 27, 17, 2), every=True)
    assert model.fewest == 2


def test_mirrored_people_are_mirrored():
    model = random_model('strided', H36M, H36M).eval()
    mirror = Mirror(torch.tensor(H36M.mirror), torch.tensor(H36M.mirror))
    view = Batch(torch.randn(2, 27, 17, 2).double())
    plain, mirrored = (list(model.lift(seen, mirror).values())[-1] for seen in (view, mirror.batch(view)))
    assert relative(mirror.poses(mirrored), plain) < 1e-12


def test_tokens_may_be_bfloat16():
    torch.manual_seed(0)
    model = build_model('strided', SMALL, H36M, H36M, dropout=0.0)
    x = torch.randn(2, 27, 17, 2)
    exact = model(x)
    model.tokens = torch.bfloat16
    assert model(x).dtype == torch.float32
    assert 1e-6 < relative(model(x), exact) < 0.05
    model.recompute = True
    model.loss(Batch(x, torch.zeros(2, 27, 17, 3)), mean_mpjpe).backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_config_is_read_from_shapes(golden, fill):
    state = fill(golden_files(golden, 'strided')[2])
    assert recognise(state) == 'strided'
    found = StridedTransformerConfig.from_state(state)
    assert found == StridedTransformerConfig(27, 32, 2, 64)
    assert found.strides == (3, 3, 3)
    assert build_model('strided', SMALL, H36M, H36M).keypoints_of(state) == 17
    odd = StridedTransformerConfig.from_state(fill(golden_files(golden, 'strided_odd')[2]))
    assert replace(odd, strides=(5, 3, 3)) == StridedTransformerConfig(45, 40, 1, 56, (5, 3, 3))
    with pytest.raises(ValueError, match='no strides are published for 45 frames'):
        build_model('strided', vars(odd), H36M16, H36M16)
    for broken in ({}, fill(golden_files(golden, 'pstmo')[2]), state | {'Transformer.pos_embedding': torch.zeros(3)}):
        with pytest.raises(ValueError, match=r'is missing|has 1 dimensions'):
            StridedTransformerConfig.from_state(broken)


@pytest.mark.parametrize('config, told', [
    ({'frames': 28}, '28 frames have none in their middle'), ({'channels': 20}, '20 channels cannot be divided among'),
    ({'strides': (3, 3)}, 'strides 3,3 leave more than one of 27 frames'), ({'strides': (0, 27)}, 'a stride is 0'),
    ({'strides': (28,)}, 'a stride is 28'), ({'strides': (1.5, 27)}, 'a stride is 1.5'), ({'depth': 0}, 'at least 1'),
    ({'frames': 81}, r'no strides are published for 81 frames: .*27: 3,3,3; 351: 3,9,13')])
def test_sizes_that_cannot_be_are_refused(config, told):
    with pytest.raises(ValueError, match=told):
        build_model('strided', SMALL | config, H36M, H36M)


def test_wrong_keypoints_are_refused():
    model = build_model('strided', SMALL, H36M, H36M)
    for shape in ((2, 27, 17, 3), (2, 9, 17, 2), (2, 27, 16, 2)):
        with pytest.raises(ValueError, match=r'expected keypoints \(B, 27, 17, 2\), got'):
            model(torch.zeros(shape))
