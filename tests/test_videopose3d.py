"""VideoPose3D against the golden outputs, against a naive second implementation, and part by part."""

import json
import math

import numpy as np
import pytest
import torch
from test_ktpformer import relative
from torch import nn

from common.errors import FileError
from common.models import build_model, layers, load_lifter, videopose3d
from common.models.layers import dropped
from common.models.loading import recognise
from common.models.videopose3d import VideoPose3DConfig
from common.skeleton import COCO, H36M, HUMANEVA15, MPI_INF_3DHP

GOLDENS = ('videopose3d', 'videopose3d_odd', 'videopose3d_dense')


@pytest.fixture(scope='module', params=GOLDENS)
def goldens(golden, request):
    """Return (arrays, figures, key names and shapes) of a golden model."""
    zoo = golden / 'zoo' / request.param
    return (np.load(f'{zoo}.npz'), json.loads(zoo.with_suffix('.json').read_text()),
            json.loads(zoo.with_name(f'{request.param}_keys.json').read_text()))


def sizes_of(figures):
    config = figures['config']
    return {'widths': tuple(config['widths']), **{size: config[size] for size in ('channels', 'causal', 'dense')}}


@pytest.fixture
def golden_model(goldens, fill):
    skeleton = {17: H36M, 15: HUMANEVA15}[goldens[1]['config']['joints']]
    model = build_model('videopose3d', sizes_of(goldens[1]), skeleton, H36M, dropout=0.0)
    model.load_state_dict(fill(goldens[2]))
    return model


def test_public_key_names_and_shapes(goldens, golden_model):
    assert {key: list(value.shape) for key, value in golden_model.state_dict().items()} == goldens[2]
    assert golden_model.frames == goldens[1]['receptive_field']


def test_golden_forward(goldens, golden_model):
    """Of many frames at once, and window by window."""
    golden_model.eval()
    x, expected = torch.from_numpy(goldens[0]['x']), goldens[0]['out_eval']
    assert relative(golden_model(x), expected) < 1e-6
    singles = [golden_model(x[:, k:k + golden_model.frames]) for k in range(expected.shape[1])]
    assert relative(torch.cat(singles, dim=1), expected) < 1e-6


@pytest.mark.parametrize('form', ['chunk', 'window'])
def test_golden_training_step(goldens, golden_model, form):
    """The dilated form on all of x, and the strided form on one window of it."""
    data, figures, shapes = goldens
    if f'{form}_loss' not in figures:
        pytest.skip('a dense model is always trained in the dilated form')
    x, y = torch.from_numpy(data['x']), torch.from_numpy(data['y'])
    at = int(data['window_start']) if form == 'window' else None
    read = x if at is None else x[:, at:at + golden_model.frames]
    out = golden_model.train()(read)
    assert relative(out, data[f'{form}_out_train']) < 2e-6
    loss = (out - (y if at is None else y[:, at:at + 1])).norm(dim=-1).mean()
    assert loss.item() == pytest.approx(figures[f'{form}_loss'], rel=1e-6)
    loss.backward()
    norms = {name: p.grad.norm().item() for name, p in golden_model.named_parameters()}
    assert norms == pytest.approx(figures[f'{form}_grad_norm'], rel=3e-6)
    state, prefix = golden_model.state_dict(), f'after_{form}_step'
    for key in shapes:
        if 'running' in key:
            assert relative(state[key], data[f'{prefix}/{key}']) < 1e-6, key
    assert all(state[key] == data[f'{prefix}/{key}'] for key in shapes if key.endswith('tracked'))
    torch.optim.Adam(golden_model.parameters(), lr=1e-3, amsgrad=True).step()
    assert relative(golden_model.eval()(x), data[f'{form}_out_eval_after_step']) < 5e-6


@pytest.mark.parametrize('sizes, skeleton, layout, count', [
    ({'frames': 27}, H36M, H36M, 8_555_571),
    ({'frames': 81}, H36M, H36M, 12_753_971),
    ({}, H36M, H36M, 16_952_371),
    ({'widths': (3, 3, 3)}, HUMANEVA15, COCO, 8_549_421),
])
def test_parameter_counts_of_the_published_sizes(sizes, skeleton, layout, count):
    with torch.device('meta'):
        model = build_model('videopose3d', sizes, skeleton, layout)
    assert sum(p.numel() for p in model.parameters()) == count


# ---- sizes and files --------------------------------------------------------------------------------------------


def test_config_is_read_from_shapes(goldens, fill):
    _, figures, shapes = goldens
    state, expected = fill(shapes), VideoPose3DConfig(**sizes_of(figures))
    assert recognise(state) == 'videopose3d'
    told = {'causal': expected.causal, 'dense': expected.dense}
    assert VideoPose3DConfig.from_state(state, **told) == expected
    assert videopose3d.VideoPose3D.config_of(state, told) == expected
    assert videopose3d.VideoPose3D.keypoints_of(state) == 17


def test_a_dense_file_that_is_not_said_to_be_dense_has_wider_kernels(golden, fill):
    state = fill(json.loads((golden / 'zoo/videopose3d_dense_keys.json').read_text()))
    assert VideoPose3DConfig.from_state(state).widths == (3, 7, 37)
    state['layers_conv.2.weight'] = torch.zeros(16, 16, 36)
    with pytest.raises(ValueError, match=r'block 2 has a kernel of 36 frames, which no dense model has behind .* 3,3'):
        VideoPose3DConfig.from_state(state, dense=True)


def test_frames_and_widths_tell_each_other():
    assert VideoPose3DConfig() == VideoPose3DConfig(243, 1024, (3, 3, 3, 3, 3), False, False)
    assert VideoPose3DConfig(27).widths == (3, 3, 3)
    assert VideoPose3DConfig(widths=(3, 1, 5, 3)).frames == 45
    assert VideoPose3DConfig(1, widths=(1, 1, 1)).dilations == (1, 1)
    for config in (VideoPose3DConfig(), VideoPose3DConfig(widths=(3, 5), causal=True), VideoPose3DConfig(9)):
        assert VideoPose3DConfig(**vars(config)) == config


@pytest.mark.parametrize('sizes, message', [
    ({'widths': (3, 4)}, 'a width of the convolutions is 4, expected odd numbers'),
    ({'widths': (3, -3)}, 'is -3, expected odd numbers'),
    ({'widths': ('3',)}, 'is 3, expected odd numbers'),
    ({'frames': 28}, '28 frames are no power of 3'),
    ({'frames': -1}, 'frames is -1'),
    ({'frames': 27, 'widths': (3, 3)}, 'not those of the widths 3,3, whose product is 9'),
    ({'channels': 0}, 'channels is 0'),
    ({'widths': (2 ** 53 - 1,) * 900}, 'read more than 10,000 frames'),
    ({'frames': 3 ** 9}, 'read more than 10,000 frames'),
])
def test_sizes_that_cannot_be_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        build_model('videopose3d', sizes, H36M, H36M)


def test_weights_of_something_else_are_refused(golden, fill):
    state = fill(json.loads((golden / 'zoo/videopose3d_keys.json').read_text()))
    scored = state | {'expand_conv.weight': torch.zeros(32, 51, 3)}
    with pytest.raises(ValueError, match=r'reads 51 numbers of a frame, .* a score of each keypoint'):
        VideoPose3DConfig.from_state(scored)
    with pytest.raises(ValueError, match='a width of the convolutions is 4'):
        VideoPose3DConfig.from_state(state | {'layers_conv.2.weight': torch.zeros(32, 32, 4)})
    for missing in ('expand_conv.weight', 'layers_conv.0.weight', 'shrink.weight'):
        with pytest.raises(ValueError, match=f'{missing} is missing'):
            VideoPose3DConfig.from_state({key: value for key, value in state.items() if key != missing})


class OldRandomState:
    """A RandomState as numpy before 1.17 pickled it."""

    def __reduce__(self):
        return vars(np.random)['__RandomState_ctor'], (), np.random.RandomState(4321).get_state()


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('generator', [np.random.RandomState(1234), OldRandomState()], ids=['new', 'old'])
def test_a_public_file_is_read_whatever_lies_beside_its_weights(tmp_path, generator, zipped):
    model = build_model('videopose3d', {'widths': (3, 5), 'channels': 8, 'dense': True, 'causal': True}, H36M, COCO)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, amsgrad=True)
    model(torch.randn(2, 20, 17, 2)).sum().backward()
    optimizer.step()
    torch.save({'epoch': 80, 'lr': 2e-5, 'random_state': generator, 'optimizer': optimizer.state_dict(),
                'model_pos': model.state_dict(), 'model_traj': None, 'random_state_semi': None},
               tmp_path / 'public.bin', _use_new_zipfile_serialization=zipped)
    told = {'causal': True, 'dense': True}
    lifter = load_lifter(tmp_path / 'public.bin', layout=COCO, skeleton=H36M, sizes=told)
    assert (lifter.name, lifter.saved.epoch, lifter.saved.lr) == ('videopose3d', 80, 2e-5)
    assert lifter.config == {'frames': 15, 'channels': 8, 'widths': (3, 5), **told}
    x = torch.randn(1, 20, 17, 2)
    assert torch.equal(lifter.model(x), model.eval()(x))


def test_a_public_file_that_reads_scores_is_refused_in_one_line(tmp_path, golden, fill):
    state = fill(json.loads((golden / 'zoo/videopose3d_keys.json').read_text()))
    torch.save({'model_pos': state | {'expand_conv.weight': torch.zeros(32, 51, 3)}}, tmp_path / 'd-pt-27.bin')
    with pytest.raises(FileError, match=r'27\.bin is not a VideoPose3D checkpoint: it reads 51 numbers of a frame'):
        load_lifter(tmp_path / 'd-pt-27.bin')


# ---- a second implementation ------------------------------------------------------------------------------------

FORMS = pytest.mark.parametrize('causal, dense, answers', [
    (False, False, 1), (False, False, 4), (True, False, 1), (True, False, 4), (False, True, 1), (True, True, 3)])


def random_model(skeleton=H36M, layout=H36M, rate=0.0, seed=0, **sizes):
    """Make a float64 model in training, none of whose parameters and statistics is at a special value.

    Norms see small variances, so that a wrong eps shows.
    """
    sizes = {'widths': (3, 5, 1, 3), 'channels': 12, **sizes}
    model = build_model('videopose3d', sizes, skeleton, layout, dropout=rate).double()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith('running_var'):
                value.copy_(1e-3 * (1 + torch.rand(value.shape, generator=random)))
            elif value.is_floating_point():
                value += 0.1 * torch.randn(value.shape, generator=random)
    return model


def naive_videopose3d(model, x, scale=lambda place, value: value):
    """Lift x (B, T, K, 2), frames first and by sums over single frames, as the text has it."""
    s, widths, count = dict(model.state_dict()), model.widths, x.shape[1] - model.frames + 1
    strided = count == 1 and not model.dense

    def norm(name, value):
        if model.training:
            centre, variance = value.mean((0, 1)), value.var((0, 1), unbiased=False)
        else:
            centre, variance = s[f'{name}.running_mean'], s[f'{name}.running_var']
        return (value - centre) / (variance + 1e-5).sqrt() * s[f'{name}.weight'] + s[f'{name}.bias']

    def over_time(name, value, first, step, taps, apart):
        """Convolve at places first, first + step, ...: the sum of what each of `taps` frames, `apart`, adds."""
        places = range(first, value.shape[1] - (taps - 1) * apart, step)
        return torch.stack([sum(value[:, place + tap * apart] @ s[name][:, :, tap].T for tap in range(taps))
                            for place in places], dim=1)

    def act(place, name, value):
        return scale(place, norm(name, value).clamp(min=0))

    x = act('expand', 'expand_bn', over_time('expand_conv.weight', x.flatten(2), 0, widths[0] if strided else 1,
                                             widths[0], 1))
    dilation = widths[0]
    for block, width in enumerate(widths[1:]):
        name, reach = f'layers_conv.{2 * block}.weight', (width - 1) * dilation
        if strided:
            y = over_time(name, x, 0, width, width, 1)
            beside = [group * width + (width - 1 if model.causal else width // 2) for group in range(y.shape[1])]
        else:
            y = over_time(name, x, 0, 1, *((reach + 1, 1) if model.dense else (width, dilation)))
            beside = [place + (reach if model.causal else reach // 2) for place in range(y.shape[1])]
        y = act(f'{block} first', f'layers_bn.{2 * block}', y)
        y = y @ s[f'layers_conv.{2 * block + 1}.weight'][:, :, 0].T
        x = x[:, beside] + act(f'{block} second', f'layers_bn.{2 * block + 1}', y)
        dilation *= width
    return (x @ s['shrink.weight'][:, :, 0].T + s['shrink.bias']).unflatten(2, (-1, 3))


@FORMS
@pytest.mark.parametrize('training', [True, False])
def test_naive_forward(causal, dense, answers, training):
    model = random_model(HUMANEVA15, COCO, causal=causal, dense=dense).train(training)
    x = 0.1 * torch.randn(3, model.frames + answers - 1, 17, 2).double()
    assert relative(model(x), naive_videopose3d(model, x)) < 1e-12


@FORMS
def test_dropout_acts_after_every_relu_on_single_values(causal, dense, answers, monkeypatch):
    """The masks that ours draws, put into the naive model after each ReLU, give the same output."""
    model = random_model(rate=0.4, causal=causal, dense=dense)
    masks = []

    def draw(x, rate):
        masks.append(dropped(x, rate))
        assert rate == 0.4
        return masks[-1]
    monkeypatch.setattr(layers, 'dropped', draw)
    x = torch.randn(5, model.frames + answers - 1, 17, 2).double()
    ours = model(x)
    assert all(0.2 < mask.double().mean() < 0.6 for mask in masks)
    places = ['expand', *(f'{block} {which}' for block in range(3) for which in ('first', 'second'))]
    kept = dict(zip(places, masks, strict=True))
    assert relative(ours, naive_videopose3d(model, x, lambda place, v: v * ~kept.pop(place).mT / 0.6)) < 1e-12
    assert not kept
    count = len(masks)
    assert not torch.equal(model.eval()(x), ours)
    assert len(masks) == count  # nothing is dropped at test


def test_weights_start_as_published():
    model = build_model('videopose3d', {'frames': 9, 'channels': 64}, H36M, H36M)
    assert model.dropout == videopose3d.VideoPose3D.recipe.dropout == 0.25
    for module in model.modules():
        if isinstance(module, nn.Conv1d):
            bound = 1 / math.sqrt(module.in_channels * module.kernel_size[0])
            assert 0.98 * bound < module.weight.abs().max().item() <= bound
            assert module.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
            assert (module.bias is None) == (module is not model.shrink)
        if isinstance(module, nn.BatchNorm1d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
            assert (module.eps, module.momentum) == (1e-5, 0.1)


def test_momentum_of_the_batch_norms_falls_from_epoch_to_epoch():
    model = random_model()
    x, moved = torch.randn(4, 45, 17, 2).double(), []
    for epoch in (1, 2, 3):
        model.begin_epoch(epoch, 4)
        before = model.expand_bn.running_mean.clone()
        model(x)
        flat = torch.nn.functional.conv1d(x.flatten(2).mT, model.expand_conv.weight, stride=3)
        step = (model.expand_bn.running_mean - before) / (flat.mean((0, 2)) - before)
        moved.append(step.mean().item())
        assert {norm.momentum for norm in (model.expand_bn, *model.layers_bn)} == {model.expand_bn.momentum}
        assert step.std() < 1e-3 * moved[-1]
    assert moved == pytest.approx([0.1, 0.1 * 100 ** -0.25, 0.01])


# ---- windows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('layout, skeleton', [(COCO, H36M), (COCO, HUMANEVA15), (HUMANEVA15, HUMANEVA15),
                                              (MPI_INF_3DHP, MPI_INF_3DHP)], ids=lambda s: s.name)
def test_keypoints_and_joints_of_any_layouts(layout, skeleton):
    model = random_model(skeleton, layout)
    for answers in (1, 3):
        assert model(torch.randn(2, 44 + answers, len(layout), 2).double()).shape == (2, answers, len(skeleton), 3)


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('dense', [False, True])
def test_an_answer_reads_its_window_and_nothing_else(causal, dense):
    model = random_model(causal=causal, dense=dense).eval()
    assert (model.frames, model.answers) == (45, range(44, 45) if causal else range(22, 23))
    frames, answers = model.window_for(6)
    assert (frames, answers) == (50, range(44, 50) if causal else range(22, 28))
    x = torch.randn(1, frames, 17, 2).double().requires_grad_()
    for answer, pose in enumerate(model(x)[0]):
        slope = torch.autograd.grad(pose.square().sum(), x, retain_graph=True)[0][0]
        read = slope.flatten(1).abs().amax(1).nonzero().flatten().tolist()
        assert read == list(range(answer, answer + 45))


def test_many_answers_at_once_are_those_of_single_windows():
    for sizes in ({}, {'causal': True}, {'dense': True}, {'widths': (5,)}, {'widths': (1, 1, 1)}):
        model = random_model(**sizes).eval()
        x = torch.randn(2, model.window_for(4)[0], 17, 2).double()
        singles = [model(x[:, k:k + model.frames]) for k in range(4)]
        torch.testing.assert_close(torch.cat(singles, dim=1), model(x))


def test_the_statistics_of_a_training_step_are_those_of_the_positions_that_are_computed():
    """For one answer the last norms see one position of each window; the dilated form would give other ones."""
    model = random_model()
    seen = []
    for norm in (model.expand_bn, *model.layers_bn):
        norm.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0].shape[2]))
    model(torch.randn(2, 45, 17, 2).double())
    assert seen == [15, 3, 3, 3, 3, 1, 1]
    del seen[:]
    model(torch.randn(2, 46, 17, 2).double())
    assert seen == [44, 32, 32, 32, 32, 2, 2]


def test_wrong_keypoints_are_refused():
    model = random_model()
    for shape in ((2, 44, 17, 2), (2, 45, 16, 2), (2, 45, 17, 3), (45, 17, 2)):
        with pytest.raises(ValueError, match=r'expected keypoints \(B, at least 45 frames, 17, 2\), got \('):
            model(torch.zeros(shape).double())


def test_a_single_frame_is_a_window_too():
    """The ablation of the paper that reads one frame: a convolution of width 1."""
    model = build_model('videopose3d', {'frames': 1, 'channels': 8}, H36M, H36M)
    assert (model.widths, model.answers) == ((1,), range(1))
    assert model.eval()(torch.randn(2, 1, 17, 2)).shape == (2, 1, 17, 3)
