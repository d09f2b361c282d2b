"""P-STMO against the golden outputs, against a naive second implementation, and part by part: both of its stages."""

import json
from dataclasses import replace

import naive_strided
import numpy as np
import pytest
import torch
from test_ktpformer import relative
from test_strided import (
    SMALL,
    UNUSED,
    check_copies,
    check_gradients,
    check_statistics,
    dropout_places,
    golden_files,
    golden_model,
    random_model,
    recorded,
    replayed,
)

from common.augment import Batch
from common.errors import FileError
from common.losses import mean_mpjpe
from common.models import build_model
from common.models.loading import begin_with, recognise
from common.models.pstmo import PSTMO, PSTMOConfig
from common.models.pstmo_pretraining import PSTMOPretraining, PSTMOPretrainingConfig, draw_masks
from common.skeleton import COCO, H36M, HUMANEVA15, MPI_INF_3DHP
from common.storage import checkpoint

ENCODER_PLACES = ('encoder.bn_1', 'encoder.layers.0.batch_norm1', 'encoder.layers.0.batch_norm2')
KINK = 1e-6


# ---- the second stage, which lifts -------------------------------------------------------------------------------


@pytest.fixture(params=[('pstmo', H36M), ('pstmo_odd', HUMANEVA15)], ids=lambda name: name[0])
def case(request, golden, fill):
    """Return (the arrays, what the json says, a model with the golden weights)."""
    name, skeleton = request.param
    data, expected, keys = golden_files(golden, name)
    return data, expected, golden_model('pstmo', expected, fill(keys), skeleton, H36M)


def below_the_kink(module, args, out):
    """Put values next to the kink of the rectifier below it.

    `pstmo_odd` has one, 4e-7 in float64, whose sign is a matter of rounding: the published program's was negative. Its
    slope, 1 or 0.2, moves gradients in front of it by 9e-4.
    """
    value = out.detach()
    return out - 2 * value * ((value > 0) & (value < KINK))


@pytest.mark.parametrize('name, skeleton', [('pstmo', H36M), ('pstmo_odd', HUMANEVA15)])
def test_public_key_names_and_shapes(golden, fill, name, skeleton):
    _, expected, keys = golden_files(golden, name)
    model = golden_model('pstmo', expected, fill(keys), skeleton, H36M)
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
    model.encoder.layers[0].batch_norm2.register_forward_hook(below_the_kink)
    batch = Batch(torch.from_numpy(data['x']), torch.from_numpy(data['y']))
    loss = model.train().loss(batch, mean_mpjpe)
    assert loss.item() == pytest.approx(expected['loss'], rel=1e-6)
    loss.backward()
    check_gradients(model, expected['grad_norm'])
    check_statistics(model, data)


@pytest.mark.parametrize('frames, depth, parameters', [
    (27, 3, 4_682_598), (81, 3, 5_527_142), (243, 3, 6_482_278), (243, 4, 7_009_382)])
def test_parameter_counts_of_the_published_sizes(frames, depth, parameters):
    model = build_model('pstmo', {'frames': frames, 'depth': depth}, H36M, H36M)
    unused = sum(value.numel() for key, value in model.named_buffers() if key in UNUSED)
    assert unused == 1024
    assert sum(p.numel() for p in model.parameters()) == parameters - unused


@pytest.mark.parametrize('skeleton, layout, strides', [
    (H36M, H36M, (3, 3, 3)), (H36M, COCO, (2, 5, 1, 3)), (HUMANEVA15, COCO, (27,)),
    (MPI_INF_3DHP, MPI_INF_3DHP, (7, 4))], ids=lambda value: getattr(value, 'name', str(value)))
@pytest.mark.parametrize('training', [False, True])
def test_naive_forward(skeleton, layout, strides, training):
    model = random_model('pstmo', skeleton, layout, strides=strides).train(training)
    x = 0.01 * torch.randn(3, 27, len(layout), 2).double()
    expected = naive_strided.lifted(dict(model.state_dict()), x, strides, naive_strided.spatial_encoder, training)
    for ours, theirs in zip(model(x, every=True), expected, strict=True):
        assert relative(ours, theirs) < 1e-11
    assert model(x).shape == (3, 1, len(skeleton), 3)


def test_dropout_is_drawn_where_it_is_published(monkeypatch):
    """The masks that ours draws, put into the naive model at the places they are for, give the same output."""
    model, drawn = random_model('pstmo', H36M, H36M, rate=0.2), recorded(monkeypatch)
    x = torch.randn(3, 27, 17, 2).double()
    _, ours = model(x, every=True)
    assert {rate for _, rate in drawn} == {0.2}
    drop, left = replayed(drawn, [*ENCODER_PLACES, *dropout_places(SMALL['depth'], 3)])
    _, expected = naive_strided.lifted(dict(model.state_dict()), x, (3, 3, 3), naive_strided.spatial_encoder, True,
                                       drop)
    assert relative(ours, expected) < 1e-11
    assert not left


def test_weights_start_as_published():
    torch.manual_seed(0)
    check_copies(build_model('pstmo', {**SMALL, 'channels': 64}, H36M, H36M))


def test_public_files_of_3dhp_are_in_millimetres(golden, fill):
    state = fill(golden_files(golden, 'pstmo')[2])
    assert PSTMO.from_public(state, H36M) is state
    model = build_model('pstmo', {**SMALL, 'channels': 32, 'hidden': 64}, MPI_INF_3DHP, MPI_INF_3DHP).eval()
    x = torch.randn(2, 27, 17, 2)
    outputs = []
    for weights in (state, PSTMO.from_public(state, MPI_INF_3DHP)):
        model.load_state_dict(weights)
        outputs.append(model(x, every=True))
    for millimetres, metres in zip(*outputs, strict=True):
        assert relative(1000 * metres, millimetres.detach()) < 1e-6


def test_config_is_read_from_shapes(golden, fill):
    state = fill(golden_files(golden, 'pstmo')[2])
    assert recognise(state) == 'pstmo'
    assert PSTMOConfig.from_state(state) == PSTMOConfig(27, 32, 2, 64, (3, 3, 3), 8, 2)
    assert PSTMO.keypoints_of(state) == 17
    odd = PSTMOConfig.from_state(fill(golden_files(golden, 'pstmo_odd')[2]))
    assert replace(odd, spacing=1) == PSTMOConfig(81, 40, 1, 56, spacing=1)
    assert [PSTMOConfig(frames).strides for frames in (9, 27, 81, 243, 351)] == [
        (1, 3, 3), (3, 3, 3), (3,) * 4, (3,) * 5, (3, 9, 13)]
    for broken in ({}, fill(golden_files(golden, 'strided')[2]), fill(golden_files(golden, 'pstmo_pretrain')[2])):
        with pytest.raises(ValueError, match='is missing'):
            PSTMOConfig.from_state(broken)
    with pytest.raises(ValueError, match='spacing is 0, expected at least 1'):
        PSTMOConfig(spacing=0)


# ---- the first stage, which tells what is hidden -----------------------------------------------------------------


@pytest.fixture(params=['pstmo_pretrain', 'pstmo_pretrain_odd'])
def first_stage(request, golden, fill):
    """Return (the arrays as tensors, what the json says, key names and shapes, a model with the golden weights)."""
    data, expected, keys = golden_files(golden, request.param)
    sizes = {size: expected['config'][size] for size in ('frames', 'channels', 'hidden', 'depth')}
    model = PSTMOPretraining(PSTMOPretrainingConfig(**sizes), H36M, H36M, dropout=0.0)
    model.load_state_dict(fill(keys))
    return {key: torch.from_numpy(np.array(data[key])) for key in data}, expected, keys, model


def completed(model, data):
    """Return what the model makes of a golden input, in the order of the golden output."""
    hidden = data['temporal_mask']
    order = torch.cat([(~hidden).nonzero()[:, 0], hidden.nonzero()[:, 0]])
    assert torch.equal(data['x'][:, order], data['target'])
    return model.complete(data['x'], hidden, data['spatial_mask'])[:, order]


def test_first_stage_key_names_and_shapes(first_stage):
    _, _, keys, model = first_stage
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == keys


def test_first_stage_golden_forward_step_and_gradients(first_stage):
    data, expected, _, model = first_stage
    assert relative(completed(model.eval(), data), data['out_eval']) < 2e-6
    optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-4, amsgrad=True)
    out = completed(model, data)
    assert relative(out, data['out_train']) < 2e-6
    loss = (out - data['target']).norm(dim=-1).mean()
    assert loss.item() == pytest.approx(expected['loss'], rel=1e-6)
    loss.backward()
    check_gradients(model, expected['grad_norm'])
    check_statistics(model, data)
    optimizer.step()
    assert relative(completed(model, data), data['out_train_after_step']) < 1e-4


@pytest.mark.parametrize('depth, parameters', [(3, 2_656_036), (4, 3_315_620)])
def test_first_stage_parameter_counts(depth, parameters):
    model = PSTMOPretraining(PSTMOPretrainingConfig(depth=depth), H36M, H36M)
    unused = sum(value.numel() for key, value in model.named_buffers() if '.model.norm.' in key)
    assert unused == 2 * (256 + 128)
    assert sum(p.numel() for p in model.parameters()) == parameters - unused


def small_first_stage(rate=0.0, layout=H36M, **more):
    torch.manual_seed(0)
    config = PSTMOPretrainingConfig(**(SMALL | more))
    return PSTMOPretraining(config, layout, layout, rate).double()


@pytest.mark.parametrize('training', [False, True])
def test_naive_first_stage_and_its_dropout(monkeypatch, training):
    """At a rate, with the masks that ours draws; the encoder sees hidden frames too."""
    model, drawn = small_first_stage(0.2, COCO).train(training), recorded(monkeypatch)
    x = torch.randn(3, 27, 17, 2).double()
    masks = draw_masks(27, 21, 17, 2)
    ours = model.complete(x, *masks)
    places = [*ENCODER_PLACES, *dropout_places(2, 0), *dropout_places(1, 0, 'Transformer_dec')] if training else []
    drop, left = replayed(drawn, places)
    order = torch.cat([(~masks[0]).nonzero()[:, 0], masks[0].nonzero()[:, 0]])  # of the published decoder's tokens
    for place in left:
        if place.startswith('Transformer_dec'):
            left[place] = left[place][..., order, :]
            left[place] = left[place][..., order] if place.endswith('weights') else left[place]
    expected = naive_strided.completed(dict(model.state_dict()), x, *masks, training,
                                       drop if training else naive_strided.kept)
    assert relative(ours[:, order], expected) < 1e-11
    assert not left


def test_masks_hide_as_many_as_they_should():
    frames, points = draw_masks(243, 194, 17, 3)
    assert frames.sum() == 194
    assert (points.sum(dim=1) == 3).all()
    assert not points[:, -1].any()
    assert points[:, :-1].any(dim=0).all()
    assert (points != points[0]).any()  # each frame draws by itself
    assert PSTMOPretrainingConfig(27).hidden_frames == 21
    assert PSTMOPretrainingConfig(15, masked_frames=0.6).hidden_frames == 9
    for sure in (0, 4, 8):
        assert draw_masks(9, 1, 17, 2, sure=sure)[0].nonzero().tolist() == [[sure]]
    none, points = draw_masks(9, 0, 17, 0, sure=4)
    assert not none.any() and not points.any()


def test_first_stage_draws_masks_in_training_and_keeps_them_at_test():
    model = small_first_stage(masked_keypoints=3)
    x = torch.randn(2, 27, 17, 2).double()
    assert model(x).shape == (2, 1, 17, 3)
    assert not model(x)[..., 2].any()
    assert (model(x) != model(x)).any()
    state = torch.get_rng_state()
    assert torch.equal(model.eval()(x), model(x))
    assert torch.equal(torch.get_rng_state(), state)
    other = x.clone()
    other[:, 13] += 1  # the centre is hidden, and shows in no statistic of a batch at test
    assert torch.equal(model(other), model(x))
    other[:] += 1
    assert (model(other) != model(x)).any()


def test_first_stage_loss_reads_no_pose():
    model = small_first_stage().train()
    x = torch.randn(2, 27, 17, 2).double()
    torch.manual_seed(3)
    loss = model.loss(Batch(x), mean_mpjpe)
    torch.manual_seed(3)
    expected = (model.complete(x, *draw_masks(27, 21, 17, 2)) - x).norm(dim=-1).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_first_stage_weights_start_as_published():
    torch.manual_seed(0)
    model = PSTMOPretraining(PSTMOPretrainingConfig(27, 256, 3, 64), H36M, H36M)
    for stack in (model.Transformer, model.Transformer_dec):
        first, second = (block.state_dict() for block in stack.model.layers[:2]) if stack is model.Transformer else (
            stack.model.layers[index].state_dict() for index in range(2))
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert torch.equal(first['self_attn.linears.0.weight'], first['self_attn.linears.3.weight'])
    for token in (model.mask_token, model.dec_pos_embedding, model.Transformer.pos_embedding):
        assert abs(token.std() - 1) < 0.2
    assert model.spatial_mask_token.any()


def test_the_second_stage_begins_with_the_first(tmp_path):
    model = small_first_stage().float()
    torch.save({f'module.{key}': value for key, value in model.state_dict().items()}, tmp_path / 'pretrain_1.pth')
    lifter = build_model('pstmo', SMALL, HUMANEVA15, H36M)
    fresh = {key: value.clone() for key, value in lifter.state_dict().items()}
    begin_with(lifter, checkpoint.load(tmp_path / 'pretrain_1.pth'), 'pstmo_pretraining')
    first = model.state_dict()
    for key, value in lifter.state_dict().items():
        taken = key.startswith(('encoder.', 'Transformer.'))
        assert torch.equal(value, first[key] if taken else fresh[key]), key
    wider = build_model('pstmo', SMALL | {'channels': 24}, HUMANEVA15, H36M)
    with pytest.raises(FileError, match=r'does not fit|encoder|shape'):
        begin_with(wider, checkpoint.load(tmp_path / 'pretrain_1.pth'), 'pstmo_pretraining')


def test_first_stage_config_is_read_from_shapes(golden, fill):
    state = fill(json.loads((golden / 'zoo' / 'pstmo_pretrain_keys.json').read_text()))
    assert recognise(state) == 'pstmo_pretraining'
    assert PSTMOPretrainingConfig.from_state(state) == PSTMOPretrainingConfig(27, 32, 3, 64)
    assert PSTMOPretraining.keypoints_of(state) == 17
    for broken in ({}, fill(golden_files(golden, 'pstmo')[2])):
        with pytest.raises(ValueError, match='is missing'):
            PSTMOPretrainingConfig.from_state(broken)


@pytest.mark.parametrize('config, told', [
    ({'frames': 10}, '10 frames have none in their middle'),
    ({'channels': 24}, '24 channels cannot be halved and then divided among 8'), ({'depth': 1}, 'expected at least 2'),
    ({'masked_frames': 1.0}, 'masked_frames is 1.0'), ({'masked_keypoints': -1}, 'masked_keypoints is -1'),
    ({'masked_keypoints': 17}, 'masked_keypoints is 17, expected at most 16')])
def test_first_stages_that_cannot_be_are_refused(config, told):
    with pytest.raises(ValueError, match=told):
        small_first_stage(**config)
