"""CUDA by construction: the program's own code computes on tensors that say `cuda` and hold no numbers.

torch's fake tensors know shape, dtype and device, and refuse what a card would refuse: two devices in one kernel.
Inside a training step nothing may wait for the card either: no number is read from it, no shape depends on what it
holds, no index comes from the CPU. What no fake shows: the figures, the speed, and sizes that a kernel does not take.

autograd's engine asks the driver for a context before it goes back through a graph, which a CUDA build of torch does
not get where there is no card. So the nodes of the graph are called one by one here, each with what the engine would
give it. Two more things stand in: generators are those of the CPU, and what is read outside of a step is 1 or 0.5.
"""

import contextlib
import itertools
from pathlib import Path

import pytest
import torch
from test_every_model import AROUND, SIBLINGS, SIZES
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from common import commands
from common.commands import judging, train
from common.models import MODELS, build_model
from common.models.lifting import predictions, windows_for
from common.skeleton import H36M
from common.training import loop
from common.training.optimiser import FiniteCheck

aten = torch.ops.aten
CUDA = torch.device('cuda', 0)
# Beside all models and a denoiser: what stands around a model, and what else a step does.
MORE = {
    'refined': ['--model', 'htnet', *SIZES['htnet'], '--refine'],
    'semi-supervised': ['--model', 'videopose3d', *SIZES['videopose3d'], '--unlabelled', 'S11', '--warmup-epochs', 0],
    'virtual views': ['--model', 'htnet', *SIZES['htnet'], '--read-confidence', '--views', 'random', '--input', 'coco',
                      '--noise', 'detector'],
    'recomputed': ['--model', 'mixste', *SIZES['mixste'], '--activation-checkpointing', '--clip', 1, '--ema', 0.9],
}
FLAGS = {name: ['--model', name, *SIZES[name]] for name in MODELS} | {
    name: [*flags, *SIZES[name]] for name, flags in AROUND.items()} | MORE
# What others have nearly all of the code of, and what takes longest.
SHOWN = {*SIBLINGS, 'htnet', 'mhformer', 'strided'}


class Generator(torch.Generator):
    """A generator of the CPU that says it is of another device."""

    def __new__(cls, device='cpu'):
        made = super().__new__(cls)
        made.said = torch.device(device)
        return made

    @property
    def device(self):
        return self.said


def flat(values):
    """Yield values and what lists among them hold."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value


class Watch(TorchDispatchMode):
    """Keep the CPU's tensors real, and refuse inside a step what waits for the card, and what fakes let pass."""

    inside = False

    @contextlib.contextmanager
    def step(self):
        self.inside = True
        yield
        self.inside = False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [*args, *kwargs.values()]
        device = next((value.type for value in given if isinstance(value, torch.device)), 'cpu')
        if not any(isinstance(value, FakeTensor) for value in flat(given)):
            if device == 'cpu':
                with unset_fake_temporarily():
                    return function(*args, **kwargs)
            if function in (aten.to.device, aten.to.dtype_layout):  # as inference mode has it
                return aten._to_copy.default(args[0], dtype=kwargs.get('dtype'), device=CUDA)
        if function in (aten._local_scalar_dense.default, aten.item.default, aten.is_nonzero.default):
            told = self.told(args[0])
            with unset_fake_temporarily():
                return told.item()
        if function in (aten._to_copy.default, aten.to.device, aten.to.dtype_layout) and device == 'cpu' and any(
                isinstance(value, torch.device) for value in given):
            return self.told(args[0])
        if function is aten.bincount.default:
            return args[0].new_ones(max(2, kwargs.get('minlength', 0)), device=self.of_unknown_shape(args[0]))
        if function in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default):
            args = (args[0], self.indices(args[1]), *args[2:])
        return function(*args, **kwargs)

    def told(self, value):
        """Return what stands for the numbers that the card holds: 1, True or 0.5."""
        assert not self.inside, 'a step waits for the card to tell a number'
        with unset_fake_temporarily():
            return torch.full(value.shape, 0.5 if value.is_floating_point() else 1, dtype=value.dtype)

    def of_unknown_shape(self, value):
        assert not self.inside, 'a step waits for the card to tell a shape'
        return value.device

    def indices(self, indices):
        """Return them with what a mask of True gives in the place of each mask."""
        whole = []
        for index in indices:
            assert index is None or index.device == CUDA, 'an index comes from the CPU'
            if index is not None and index.dtype == torch.bool:
                self.of_unknown_shape(index)
                whole += [index.new_zeros(index.numel(), dtype=torch.int64)] * index.ndim
            else:
                whole.append(index)
        return whole


@torch.no_grad()
def go_back(loss):
    """Do what `loss.backward()` does, node by node."""
    order, begun, stack = [], set(), [(loss.grad_fn, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in begun:
            begun.add(node)
            stack += [(node, True), *((other, False) for other, _ in node.next_functions if other is not None)]
    arrived = {loss.grad_fn: {0: torch.ones_like(loss)}}
    for node in reversed(order):
        if node not in arrived:
            continue
        expected, got = node._input_metadata, arrived.pop(node)
        for index, gradient in got.items():
            like = expected[index]
            assert (gradient.device, gradient.dtype) == (like.device, like.dtype), node
            got[index] = gradient.sum_to_size(like.shape)  # over what was broadcast on the way forward
        if hasattr(node, 'variable'):
            node.variable.grad = got[0] if node.variable.grad is None else node.variable.grad + got[0]
            continue
        call = node if callable(node) else node.apply
        given = call(*(got.get(index) for index in range(len(expected))))
        given = given if isinstance(given, tuple) else (given,)
        for (other, index), gradient in zip(node.next_functions, given, strict=True):
            if other is not None and gradient is not None:
                there = arrived.setdefault(other, {})
                there[index] = there[index] + gradient if index in there else gradient


@pytest.fixture
def watch(monkeypatch):
    """The program with a card that is none; what it watches with."""
    monkeypatch.setattr(torch, 'Generator', Generator)
    monkeypatch.setattr(commands, 'choose_device', lambda name: CUDA)
    kept = {}  # so that what is judged is predicted once

    def once(model, *how):
        if model not in kept:
            kept[model] = predictions(model, *how)
        return kept[model]
    monkeypatch.setattr(train, 'check_lifting', lambda *given: None)
    monkeypatch.setattr(loop, 'predictions', once)
    monkeypatch.setattr(judging, 'predictions', once)
    return Watch()


def check(watch, steps, tested, session, plan, trainer, judges, test, dataset, about):
    """Take steps, judge, and test if asked for: what stands for the dry run that the command line asks for."""
    model = trainer.model.train()
    model.begin_epoch(1, 1)
    finite = FiniteCheck(trainer.optimizer, trainer.device)
    with watch.step():
        for step in itertools.islice(trainer.steps(1, 0), steps):
            loss, _ = trainer.take(step, 1, finite)
    states = [value for state in trainer.optimizer.state.values() for value in state.values()]
    average = list(trainer.average.state.values()) if trainer.average else []
    assert len(states) >= 3 * len(trainer.weights)
    assert {value.device for value in (loss, *loop.gradients_of(model), *states, *average)} == {CUDA}
    figures = loop.judge(trainer, loop.judged_by(trainer, judges), 1)
    assert figures['valid_mpjpe'] is not None
    if not tested:
        return
    judging.set_sampling(plan.config, model)
    windows = windows_for(model, test, judging.target_of(plan.config, dataset, test))
    for sums in judging.add_up(plan.config, model, Path('a file'), test, windows, dataset, False)[0]:
        assert {(total.device, total.dtype) for total in sums.values()} == {(CUDA, torch.float64)}


@pytest.fixture
def run_checked(watch, run, monkeypatch, h36m_folder, tmp_path):
    """run_checked(flags, steps, tested): the program with these flags, and `check` in the place of a dry run."""
    def checked(flags, steps, tested):
        if '--refine' in flags:
            torch.save(build_model('htnet', {'channels': 24, 'depth': 1, 'hidden': 16}, H36M, H36M).state_dict(),
                       tmp_path / 'base.pth')
            flags = [*flags, '--init', tmp_path / 'base.pth']
        calls = []
        monkeypatch.setattr(train, 'dry_run', lambda *given: calls.append(check(watch, steps, tested, *given)))
        with FakeTensorMode(allow_non_fake_inputs=True), watch:
            status, _, err = run(*flags, '-k', 'gt', '--data', h36m_folder, '-str', 'S1', '-ste', 'S9', '-a',
                                 'Directions', '-c', tmp_path / 'c', '-l', tmp_path / 'l', '--dry-run')
        assert (status, err) == (0, '')
        assert len(calls) == 1
    return checked


pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='there is a real card')


@pytest.mark.parametrize('wait', [lambda x: x.sum().item(), lambda x: bool(x.any()), lambda x: x[x > 0],
                                  lambda x: x.cpu(), lambda x: x[torch.tensor([0])]],
                         ids=['number', 'truth', 'mask', 'copy', 'index'])
def test_a_step_that_waits_for_the_card_is_refused(wait):
    with FakeTensorMode(), Watch() as watch, watch.step(), pytest.raises(AssertionError, match=r'card|CPU'):
        wait(torch.ones(3, device=CUDA))


@pytest.mark.parametrize('name', [pytest.param(name, marks=pytest.mark.slow) if name in SHOWN else name
                                  for name in FLAGS])
def test_a_step_and_the_validation_stay_on_the_card(run_checked, monkeypatch, name):
    """But for the way back, for which the gradients are 0. How a test adds up depends on who samples alone."""
    monkeypatch.setattr(torch.Tensor, 'backward', lambda loss: None)
    run_checked(FLAGS[name], 1, tested=name in ('martinez', 'd3dp'))


@pytest.mark.parametrize('name', [name if name == 'videopose3d' else pytest.param(name, marks=pytest.mark.slow)
                                  for name in FLAGS])
def test_the_way_back_and_the_test_stay_on_the_card(run_checked, monkeypatch, name):
    monkeypatch.setattr(torch.Tensor, 'backward', go_back)
    run_checked(FLAGS[name], 2, tested=name != 'videopose3d')
