"""Precision, compilation and recomputation change how a model computes, not what."""

import copy
import ctypes
import json

import pytest
import torch
from conftest import SMALL
from processes import run_alone
from test_ktpformer import relative

from benchmarks.trainer import make_trainer
from common.models import build_model, computing
from common.models.layers import NARROW, SHORT, Block, DropPath, Mlp, attend
from common.models.lifting import predictions
from common.sampler import TestWindows
from common.sequences import Sequence
from common.skeleton import H36M, HUMANEVA15
from common.store import SequenceStore
from common.training.signals import StopRequest

CPU = torch.device('cpu')
CONFIGS = {'ktpformer': {'frames': 9, 'channels': 40, 'depth': 1}, 'htnet': {'channels': 48, 'depth': 1, 'hidden': 64}}


def make(name, skeleton=H36M, drop_path=0.0, dropout=0.0, **config):
    """Make a model none of whose parameters is at a special value."""
    torch.manual_seed(0)
    rates = {'dropout': dropout} if name == 'htnet' else {}
    model = build_model(name, CONFIGS[name] | config, skeleton, skeleton, drop_path, **rates).train()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn_like(p)
    return model


def gradients(model, x, slope):
    """Return the output and every gradient of its product with a slope."""
    out = model(x)
    model.zero_grad()
    (out * slope).sum().backward()
    return out, {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize('name', CONFIGS)
def test_bf16_is_near_fp32_and_stays_inside(name):
    """Tokens alone are bfloat16: keypoints go in and poses come out in float32, weights and gradients are float32."""
    model = make(name)
    x, slope = torch.randn(4, model.frames, 17, 2), torch.randn(4, model.frames, 17, 3)
    expected, exact = gradients(copy.deepcopy(model), x, slope)
    seen = set()
    for module in model.modules():
        if isinstance(module, (Block, DropPath)):
            module.register_forward_hook(lambda module, args, out: seen.add(out.dtype))
    with computing.computing_in(model, 'bf16'):
        got, rounded = gradients(model, x, slope)
    assert seen == {torch.bfloat16}
    assert got.dtype == torch.float32
    assert 1e-5 < relative(got, expected) < 0.03
    flat = {name: torch.cat([g.flatten() for key, g in sorted(given.items()) if not key.endswith('gconv.bias')])
            for name, given in (('exact', exact), ('rounded', rounded))}
    assert {g.dtype for g in rounded.values()} == {torch.float32}
    assert torch.cosine_similarity(flat['exact'], flat['rounded'], dim=0) > 0.995
    with torch.no_grad():
        assert torch.equal(model(x), expected)  # as it was before


def test_tf32_and_bf16_end_with_what_they_were_asked_for():
    model = make('ktpformer')
    before = torch.get_float32_matmul_precision()
    for precision, products, tokens in (('tf32', 'high', None), ('bf16', 'highest', torch.bfloat16)):
        with computing.computing_in(model, precision):
            assert (torch.get_float32_matmul_precision(), model.tokens) == (products, tokens)
    with pytest.raises(ZeroDivisionError), computing.computing_in(model, 'tf32'):
        _ = 1 / 0
    assert torch.get_float32_matmul_precision() == before
    assert model.tokens is None


def test_defaults_follow_the_device():
    cuda = torch.device('cuda')
    assert [computing.training_precision(None, device) for device in (CPU, cuda)] == ['fp32', 'tf32']
    assert [computing.evaluation_precision(None, device) for device in (CPU, cuda)] == ['fp32', 'fp32']


@pytest.mark.parametrize('length', [1, 17, SHORT, SHORT + 1])
@pytest.mark.parametrize('width', [10, NARROW, NARROW + 8])
@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-6), (torch.bfloat16, 0.02)], ids=str)
def test_fused_and_plain_attention_equal_the_formula(length, width, dtype, tolerance):
    """Outputs and gradients, for sizes on both sides of the switch to the fused kernel."""
    qkv = torch.randn(3, 2, 4, length, width, dtype=dtype, requires_grad=True)
    exact = qkv.detach().double().requires_grad_()
    q, k, v = exact
    expected = torch.softmax(q @ k.mT / width ** 0.5, -1) @ v
    got = attend(*qkv)
    assert relative(got, expected) < tolerance
    slope = torch.randn_like(expected)
    assert relative(torch.autograd.grad(got, qkv, slope.to(dtype))[0],
                    torch.autograd.grad(expected, exact, slope)[0]) < 2 * tolerance


def test_attention_over_more_sequences_than_a_grid_holds(monkeypatch):
    monkeypatch.setattr('common.models.layers.GRID_LIMIT', 3)
    q, k, v = torch.randn(3, 8, 2, 5, 4)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(attend(q, k, v), expected)


@pytest.mark.parametrize('name', CONFIGS)
@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_recomputing_blocks_changes_nothing(name, precision):
    """Outputs, gradients, running statistics and drops are those of a step that keeps everything."""
    results = []
    for recompute in (False, True):
        model = make(name, drop_path=0.5, dropout=0.3)
        calls = []
        for module in model.modules():
            if isinstance(module, DropPath):
                module.register_forward_hook(lambda module, args, out, calls=calls: calls.append(module))
        if recompute:
            computing.recompute_blocks(model)
        x, slope = torch.randn(4, model.frames, 17, 2), torch.randn(4, model.frames, 17, 3)
        with computing.computing_in(model, precision):
            torch.manual_seed(1)
            out, grads = gradients(model, x, slope)
        buffers = {key: value.clone() for key, value in model.state_dict().items() if 'running' in key}
        results.append((out, grads, buffers, len(calls)))
    kept, recomputed = results
    assert recomputed[3] > kept[3]
    torch.testing.assert_close(kept[:3], recomputed[:3], rtol=0, atol=0)


@pytest.mark.parametrize('name, skeleton, batch, config', [
    pytest.param('ktpformer', HUMANEVA15, 1, {'frames': 1, 'channels': 24}, marks=pytest.mark.slow),
    pytest.param('ktpformer', H36M, 2, {}, marks=pytest.mark.slow),
    pytest.param('htnet', H36M, 3, {}, marks=pytest.mark.slow)], ids=['odd', 'usual', 'htnet'])
def test_compiled_and_eager_agree(name, skeleton, batch, config):
    """In float64, where they differ by far less than by what a wrong formula would."""
    model = make(name, skeleton, **config).double()
    x, slope = torch.randn(2, batch, model.frames, len(skeleton), 3).double()
    x = x[..., :2]
    expected, exact = gradients(copy.deepcopy(model), x, slope)
    names = list(model.state_dict())
    computing.compile_model(model, CPU)
    got, grads = gradients(model, x, slope)
    assert list(model.state_dict()) == names
    assert relative(got, expected) < 1e-10
    for key, gradient in grads.items():
        if not key.endswith('gconv.bias'):  # zero in front of a batch norm, but for rounding
            assert relative(gradient, exact[key]) < 1e-7, key


def small_trainer(*flags):
    """Make a trainer on 7 windows of 9 frames, three a step, so that the last step is short."""
    torch.manual_seed(0)
    take = Sequence('S1', 'Walking', 0, torch.randn(63, 17, 2).numpy(), torch.randn(63, 17, 3).numpy())
    store = SequenceStore([take], H36M, H36M, CPU)
    return make_trainer(['-f', '9', '-cs', '16', '-dep', '1', '-b', '27', '-s', '9', '-no-da', *flags], store, H36M)


@pytest.mark.slow
@pytest.mark.parametrize('flags', [('--precision', 'bf16'), (), ('--activation-checkpointing',)], ids=str)
def test_nothing_is_compiled_after_the_first_epoch(flags):
    """Dynamo's graphs are counted, whatever compiles them."""
    trainer, graphs = small_trainer(*flags), []
    if '--activation-checkpointing' in flags:
        computing.recompute_blocks(trainer.model)

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward
    torch._dynamo.reset()
    trainer.model.compile(dynamic=False, backend=count)
    windows = TestWindows.of(trainer.sampler.store, 9)
    counts = []
    with StopRequest() as stop:
        for epoch in (1, 2):
            trainer.at.step, trainer.at.epoch = 0, epoch - 1
            trainer.epoch(epoch, lambda: None, stop)
            predictions(trainer.model, trainer.sampler.store, windows, 'predicted')
            counts.append(len(graphs))
    assert counts[0] == 3  # whole steps, the short one, evaluation: each in one graph, without a break
    assert counts[1] == counts[0]


@pytest.mark.parametrize('recompute', [False, True])
def test_dropout_does_not_break_the_graph(recompute):
    """HTNet in training, dropout by our own draws, is one graph."""
    model, graphs = make('htnet', drop_path=0.1, dropout=0.1), []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward
    if recompute:
        computing.recompute_blocks(model)
    torch._dynamo.reset()
    model.compile(dynamic=False, backend=count)
    model(torch.randn(2, 1, 17, 2)).sum().backward()
    assert len(graphs) == 1


@pytest.mark.parametrize('name, config', [
    ('ktpformer', {'channels': 8, 'heads': 2}), ('ktpformer', {'channels': 4, 'heads': 2}),
    ('htnet', {'channels': 12, 'heads': 4})], ids=str)
@pytest.mark.parametrize('windows', [0, 2])
def test_narrow_models_and_empty_batches_have_gradients_in_bf16(name, config, windows):
    """A process may have no window of a step; every parameter has a gradient all the same."""
    model = make(name, **config)
    with computing.computing_in(model, 'bf16'):
        out, grads = gradients(model, torch.randn(windows, model.frames, 17, 2), torch.tensor(1.0))
    assert out.shape == (windows, model.frames, 17, 3)
    assert all(g is not None and g.isfinite().all() for g in grads.values())


@pytest.mark.slow
def test_a_compiled_run_computes_what_an_eager_one_does(monkeypatch):
    """The trainer's steps, drops included, with Dynamo's graphs run as they are."""
    losses = {}
    for compiled in (False, True):
        trainer = small_trainer()
        if compiled:
            torch._dynamo.reset()
            trainer.model.compile(dynamic=False, backend='eager')
        losses[compiled] = [trainer.gradient(batch, 1).item() for batch in trainer.sampler.epoch(0, 3)]
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)


@pytest.fixture(scope='module')
def bf16_run(h36m_folder, tmp_path_factory):
    """Return (checkpoint folder, log folder) of an epoch in bf16 with recomputation."""
    import run_ktpformer
    folder = tmp_path_factory.mktemp('bf16')
    status = run_ktpformer.main(['-k', 'gt', '--data', str(h36m_folder), '-str', 'S1', '-e', '1', '-c',
                                 str(folder / 'checkpoint'), '-l', str(folder / 'log'), '--precision', 'bf16',
                                 '--activation-checkpointing', *SMALL])
    assert status == 0
    return folder / 'checkpoint', folder / 'log'


def test_a_run_in_bf16_is_stored_in_float32_and_resumed_in_bf16(run, bf16_run, h36m_folder):
    folder, log = bf16_run
    stored = torch.load(folder / 'last.bin', weights_only=True)
    state = [*stored['model_pos'].values(), *(v for s in stored['optimizer']['state'].values() for v in s.values())]
    assert {value.dtype for value in state} == {torch.float32, torch.int64}
    status, out, _ = run('--data', h36m_folder, '--resume', '-e', 2, '-c', folder, '-l', log, '--device', 'cpu',
                         '--no-activation-checkpointing')
    assert status == 0
    assert 'computing in bf16' in out
    assert 'blocks computed again' not in out


def test_evaluation_is_fp32_unless_asked(run, bf16_run, h36m_folder, tmp_path):
    figures = {}
    for precision in (None, 'fp32', 'bf16'):
        flags = ['--precision', precision] if precision else []
        status, out, err = run('--data', h36m_folder, '-c', bf16_run[0], '--evaluate', 'best.bin', '--device', 'cpu',
                               '--results', tmp_path / 'results.json', *flags)
        assert status == 0, err
        assert f'computing in {precision or "fp32"}' in out
        results = json.loads((tmp_path / 'results.json').read_text())
        figures[precision] = results['protocols']['paper']['average']['mpjpe']
    assert figures[None] == figures['fp32'] != figures['bf16']
    assert figures['bf16'] == pytest.approx(figures['fp32'], rel=0.01)


def test_what_the_device_cannot_compute_is_refused(refused, run, bf16_run, h36m_folder, monkeypatch, tmp_path):
    where = ['--data', h36m_folder, '-c', tmp_path / 'c', '-l', tmp_path / 'l']
    assert 'on a CPU say --precision fp32 or bf16' in refused(2, '-k', 'gt', *where, *SMALL, '--precision', 'tf32')
    assert 'on a CPU say --precision fp32 or bf16' in refused(
        2, '--data', h36m_folder, '-c', bf16_run[0], '--evaluate', 'best.bin', '--device', 'cpu', '--precision', 'tf32')
    assert not (tmp_path / 'c').exists()
    assert '--compile is not for --render' in refused(
        2, '--data', h36m_folder, '-c', bf16_run[0], '--evaluate', 'best.bin', '--compile', '--render', '--viz-output',
        'x.gif')
    monkeypatch.setattr(torch, 'compile', _no_compiler)
    assert '--compile needs a C++ compiler' in refused(2, '--data', h36m_folder, '-c', bf16_run[0], '--evaluate',
                                                       'best.bin', '--device', 'cpu', '--compile')


def _no_compiler(*args, **kwargs):
    raise RuntimeError('g++ was not found')


def test_an_mlp_keeps_its_widest_tensor_once():
    """Plain autograd saves both the input and the output of the GELU."""
    torch.manual_seed(0)
    mlp = Mlp(6, 12).double()
    x = torch.randn(5, 4, 3, 6, dtype=torch.float64, requires_grad=True)
    slope = torch.randn_like(x)

    def kept_and_slopes(forward):
        kept = {}
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
            out = forward(x)
        slopes = torch.autograd.grad(out, [x, *mlp.parameters()], slope)
        return sum(t.numel() == 2 * x.numel() for t in kept.values()), [out, *slopes]

    wide, got = kept_and_slopes(mlp)
    plain_wide, expected = kept_and_slopes(lambda x: mlp.fc2(torch.nn.functional.gelu(mlp.fc1(x))))
    assert (wide, plain_wide) == (1, 2)
    assert all(relative(a, b) < 1e-12 for a, b in zip(got, expected, strict=True))


FAULTS = """
import resource, sys
import torch
from common.models import computing

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20)  # 64 MB, gone at once: 16,384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == 'kept':
    computing.keep_freed_memory(torch.device('cpu'))
print(min(faults() for _ in range(6)))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), 'mallopt'), reason='needs the allocator of glibc')
def test_memory_of_tensors_that_are_gone_is_used_again(tmp_path):
    script = tmp_path / 'faults.py'
    script.write_text(FAULTS)
    pages = {}
    for how in ('given back', 'kept'):
        status, out, err = run_alone(script, how)
        assert status == 0, err
        pages[how] = int(out)
    assert pages['kept'] < 1000 < pages['given back']
