"""What holds of every model of the registry: it trains, is evaluated, resumed, shared out and told from the others.

What a model's own tests show of it is not shown again: `SHOWN` says of which models.
"""

import contextlib
import functools
import io
import os
import re
import shlex
import signal

import numpy as np
import pytest
import torch
from processes import run_alone
from test_ktpformer import relative
from test_mpi_inf_3dhp import write_files
from test_resume import assert_same_run, epochs_of

import run_ktpformer
from common.cli.parser import parse
from common.errors import FlagError
from common.models import MODELS, build_model, computing, load_lifter, make_config, model_class, recipe_of
from common.models.computing import compile_model
from common.models.diffusion import Diffusion
from common.skeleton import H36M, H36M16, SKELETONS
from common.training import loop

CPU = ['--device', 'cpu']
SMALL = ['-cs', 16, '-dep', 1, '-b', 64]
FEW = ['-cs', 16, '--hidden', 16, '--window-step', 8, '-b', 14]
BARE = ['-cs', 16, '-dep', 1, '--window-step', 8, '-b', 14]
# Sizes small enough to train in a second, by --model.
SIZES = {
    'ktpformer': ['-f', 9, *SMALL],
    'mixste': ['-f', 9, *SMALL],
    'htnet': ['--hidden', 16, '-cs', 24, '-dep', 1, '-b', 64],
    'videopose3d': ['-f', 9, '-cs', 16, '-b', 64],
    'martinez': SMALL,
    'graformer': SMALL,
    'mgcn': SMALL,
    'mgcn16': SMALL,
    'mhformer': ['-f', 9, *FEW, '-dep', 2],
    'strided': ['-f', 27, *FEW, '-dep', 1],
    'pstmo': ['-f', 9, *FEW, '-dep', 1],
    'pstmo_pretraining': ['-f', 9, *FEW, '-dep', 2],
    'stcformer': ['-f', 9, *BARE],
    'stcformer_3dhp': ['-f', 9, *BARE],
    'dstformer': ['-f', 9, *SMALL],
    'motionagformer': ['-f', 9, *SMALL],
}
# What is no model by itself: the flags that make it, for the aspects that are shown of it too.
AROUND = {'d3dp': ['--model', 'mixste', '--diffusion']}
SIZES['d3dp'] = SIZES['mixste']
# Models of which another test, or d3dp, shows the same.
SHOWN = {
    'resumed': {'ktpformer', 'mixste'},  # test_resume.py
    'two processes': {'ktpformer', 'htnet', 'martinez', 'mgcn', 'mhformer', 'pstmo', 'mixste', 'stcformer'},
    # test_computing.py, test_mhformer.py, test_stcformer.py
    'bf16': {'ktpformer', 'htnet', 'mhformer', 'mixste', 'stcformer'},
    'compiled': {'ktpformer', 'htnet', 'mixste'},  # test_computing.py
    'other data': {'ktpformer'},  # test_mpi_inf_3dhp.py, test_humaneva.py
}

# Of these another model, or d3dp, has nearly all of the code: what they show takes part in the slow tests.
SIBLINGS = {'mixste', 'mgcn16', 'stcformer_3dhp', 'dstformer'}


def each(aspect='', also=()):
    """Return the mark that gives a test every model of which no other one shows an aspect, and some of AROUND."""
    slow = SIBLINGS if aspect else set()
    return pytest.mark.parametrize('name', [
        *(pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in MODELS
          if name not in SHOWN.get(aspect, ())), *also])


def flags_in(folder, data, name, run, *more):
    """Return the flags of a run of 5 steps an epoch or more, in folder / run."""
    return [*AROUND.get(name, ['--model', name]), *SIZES[name], '-k', 'gt', '--data', data, '-str', 'S1', '-ste', 'S9',
            '-a', 'Directions', *CPU, '-c', folder / run, '-l', folder / f'{run}-log', *more]


@pytest.fixture
def flags(h36m_folder, tmp_path):
    return functools.partial(flags_in, tmp_path, h36m_folder)


@pytest.fixture(scope='module')
def trained(h36m_folder, tmp_path_factory):
    """trained(model) -> (checkpoint folder, what was said) of two undisturbed epochs; not to be written to."""
    @functools.cache
    def of(name):
        folder, out = tmp_path_factory.mktemp(name), io.StringIO()
        with contextlib.redirect_stdout(out):
            assert run_ktpformer.main([str(f) for f in flags_in(folder, h36m_folder, name, 'c', '-e', 2)]) == 0
        return folder / 'c', out.getvalue()
    return of


@pytest.fixture
def public(tmp_path):
    """public(model) -> a bare state dict with fresh weights, as its public files are."""
    def write(name):
        given = dict(zip(SIZES[name][::2], SIZES[name][1::2], strict=True))
        sizes = {size: given[flag] for size, flag in (('frames', '-f'), ('channels', '-cs')) if flag in given}
        body = SKELETONS.get(recipe_of(name).joints or '', H36M)
        torch.save(build_model(name, sizes, body, body).state_dict(), tmp_path / f'{name}.pth')
        return tmp_path / f'{name}.pth'
    return write


def test_every_model_has_small_sizes_here():
    assert {*MODELS, *AROUND} == set(SIZES)


# ---- training and its table --------------------------------------------------------------------------------------


def check_again(run, out):
    """Run the command that a training ends with: it prints the training's table again."""
    (line,) = (line for line in out.splitlines() if '; again with: ' in line)
    command = shlex.split(line.partition('again with: python run_ktpformer.py')[2])
    status, again, err = run(*command, *CPU)
    assert (status, err) == (0, '')
    # Training reads more files than the test.
    table, repeated = (re.sub(r'(besides .*), from .*', r'\1', said[said.index('evaluated on'):])
                       for said in (out, again))
    assert 'average' in table or 'C, frames pooled' in table
    assert repeated == table


@each('table', also=['d3dp'])
def test_the_command_that_is_printed_prints_the_table_again(trained, run, name):
    check_again(run, trained(name)[1])


@each('other data', also=['d3dp'])
def test_mpi_inf_3dhp_is_trained_and_tested_on(run, tmp_path, name):
    write_files(tmp_path)
    status, out, err = run(*AROUND.get(name, ['--model', name]), *SIZES[name], '-d', '3dhp', '--data', tmp_path,
                           '-str', 'S1', '-ste', 'TS1,TS5', *CPU, '-e', 1, '-c', tmp_path / 'c', '-l', tmp_path / 'l')
    assert (status, err) == (0, '')
    check_again(run, out)


@each('other data')
def test_humaneva_is_lifted_from_detections_of_other_joints(run, humaneva_folder, tmp_path, name):
    """COCO's 17 keypoints to 15 joints."""
    status, out, err = run('--model', name, *SIZES[name], '-d', 'humaneva15', '-k', 'detectron_pt_coco', '--data',
                           humaneva_folder, '-str', 'Train/S1', '-ste', 'Validate/S1', '-a', 'Walking', '--downsample',
                           16, *CPU, '-e', 1, '-c', tmp_path / 'c', '-l', tmp_path / 'l')
    assert (status, err) == (0, '')
    check_again(run, out)


# ---- the same run, however it is run -----------------------------------------------------------------------------


@each('resumed', also=['d3dp'])
def test_a_run_stopped_inside_an_epoch_resumes_exactly(trained, flags, run, monkeypatch, tmp_path, name):
    """In the second epoch, dropout and all: the end is that of the undisturbed run, bit for bit."""
    gradient = loop.Trainer.gradient

    def stopping(self, batch, epoch, *objective):
        if (epoch, batch.number) == (2, 2):
            os.kill(os.getpid(), signal.SIGTERM)
        return gradient(self, batch, epoch, *objective)
    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, 'gradient', stopping)
        status, _, err = run(*flags(name, 'c', '-e', 2))
    assert status == 143, err
    stopped = torch.load(tmp_path / 'c' / 'last.bin')
    assert (stopped['epoch'], stopped['step']) == (1, 3)
    status, _, err = run(*flags(name, 'c', '-e', 2, '--resume'))
    assert (status, err) == (0, '')
    assert_same_run(trained(name)[0], tmp_path / 'c')


def without_draws(name):
    """Return the flags that turn dropout off, which ranks and compiled code draw in ways of their own."""
    model = AROUND.get(name, ['--model', name])[1]
    off = [rate for rate in ('drop_path', 'dropout') if getattr(recipe_of(model), rate) is not None]
    return [part for name in off for part in (f'--{name.replace("_", "-")}', 0)]


def assert_near(one, two, rel):
    assert two == {key: value if value is None else pytest.approx(value, rel=rel) for key, value in one.items()}


@each('two processes', also=['d3dp'])
def test_two_processes_are_one_run(flags, run, tmp_path, name):
    """In unequal shares. Rounding grows with the rate, which is small; what the shares add up to does not."""
    more = ['-e', 1, '-b', 89, '-lr', 1e-6, *without_draws(name)]
    assert run(*flags(name, 'one', *more))[0] == 0
    status, _, err = run_alone('run_ktpformer.py', *flags(name, 'two', *more), ranks=2)
    assert status == 0, err
    (one,), (two,) = (epochs_of(tmp_path / f'{run}-log') for run in ('one', 'two'))
    assert_near(one, two, rel=1e-4)
    a, b = (torch.load(tmp_path / run / 'last.bin')['model_pos'] for run in ('one', 'two'))
    assert a.keys() == b.keys()
    assert all(torch.equal(value, b[key]) for key, value in a.items() if key.endswith('num_batches_tracked'))


@each('bf16', also=['d3dp'])
def test_tokens_in_bf16_give_nearly_the_same(trained, flags, run, tmp_path, name):
    """Weights and optimizer stay float32."""
    status, out, err = run(*flags(name, 'c', '-e', 1, '--precision', 'bf16', '--activation-checkpointing', '--no-eval'))
    assert (status, err) == (0, '')
    assert 'computing in bf16' in out
    (rounded,), exact = epochs_of(tmp_path / 'c-log'), epochs_of(trained(name)[0].parent / 'c-log')[0]
    assert rounded['train_loss'] != exact['train_loss']
    assert rounded['train_loss'] == pytest.approx(exact['train_loss'], rel=0.02)
    stored = torch.load(tmp_path / 'c' / 'last.bin')
    weights = [value for key, value in stored['model_pos'].items() if key not in Diffusion.constant_keys]
    kept = [*weights, *(v for s in stored['optimizer']['state'].values() for v in s.values())]
    assert {value.dtype for value in kept if value.is_floating_point()} == {torch.float32}


@pytest.mark.slow
@each('compiled', also=['d3dp'])
def test_a_compiled_run_is_the_eager_one(flags, run, tmp_path, name):
    for how in ('eager', 'compiled'):
        status, _, err = run(*flags(name, how, '-e', 1, '-lr', 1e-6, *without_draws(name)),
                             *['--compile'] * (how == 'compiled'))
        assert status == 0, err  # torch may speak of CUDA there
    (one,), (two,) = (epochs_of(tmp_path / f'{how}-log') for how in ('eager', 'compiled'))
    assert_near(one, two, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('name', MODELS)
def test_compiled_code_lifts_as_the_model_does(name):
    """Forward on the CPU, by the code that torch's compiler writes in C++."""
    sizes = parse([str(flag) for flag in ['--model', name, *SIZES[name]]]).model.sizes()
    body = model_class(name).body()
    model = build_model(name, sizes, body, body).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn_like(p)  # some begin at 0, and their outputs too
        keypoints = torch.rand(4, model.frames, len(body), 3 if 'confidence' in model.needs else 2) - 0.5
        expected = model(keypoints)
        try:
            compile_model(model, torch.device('cpu'))
        except FlagError as error:
            pytest.skip(str(error))
        assert relative(model(keypoints), expected) < 1e-5


# ---- what is refused ---------------------------------------------------------------------------------------------


@each()
def test_a_file_is_not_another_model_s(trained, public, refused, h36m_folder, name):
    """Neither one of ours nor a public one, which is recognised by its keys."""
    names = list(MODELS)
    other = names[names.index(name) - 1]
    for path in (trained(name)[0] / 'last.bin', public(name)):
        line = refused(1, '-k', 'gt', '--data', h36m_folder, '--model', other, '--evaluate', path, *CPU)
        assert f'{path} is a {model_class(name).title} checkpoint, which --model {other} contradicts' in line


@each()
def test_causal_is_refused_where_windows_do_not_end_with_their_answer(trained, flags, refused, h36m_folder, name):
    """In training, for a model that cannot be told to; with a trained file, which was not told to."""
    sizes = torch.load(trained(name)[0] / 'last.bin')['config']
    frames, answers = model_class(name).window(make_config(name, sizes))
    evaluate = ['-k', 'gt', '--data', h36m_folder, '-c', trained(name)[0], '--evaluate', 'last.bin', '--model', name,
                '--causal', *CPU]
    if 'causal' in sizes:
        assert 'was made with causal False, which --causal contradicts' in refused(1, *evaluate)
        return
    assert f'--causal is not for --model {name}: leave it out' in refused(2, *flags(name, 'c', '--causal'))
    if answers.stop < frames:
        assert f'answers for frame {answers.stop} of the {frames} that it reads' in refused(2, *evaluate)


@pytest.mark.parametrize('name', ['graformer', 'mgcn16'])
def test_a_file_of_16_joints_does_not_take_17_keypoints(trained, public, refused, h36m_folder, name):
    flags = ['-k', 'gt', '--data', h36m_folder, '--joints', 'h36m', *CPU]
    line = refused(1, *flags, '--evaluate', public(name))
    assert f'{name}.pth takes 16 keypoints, but ' in line and line.endswith('has 17 (layout h36m)')
    own = trained(name)[0] / 'last.bin'
    assert 'last.bin' in refused(1, *flags, '--evaluate', own)
    for path in (public(name), own):
        with pytest.raises(ValueError, match=r'17, 2'):
            load_lifter(path).lift_clip(np.zeros((9, 17, 2), np.float32))


def test_a_file_of_17_joints_does_not_take_16_keypoints(public, refused, h36m_folder):
    line = refused(1, '-k', 'gt', '--data', h36m_folder, '--joints', H36M16.name, *CPU, '--evaluate', public('mgcn'))
    assert 'mgcn.pth takes 17 keypoints, but ' in line and line.endswith('has 16 (layout h36m16)')


def test_a_first_stage_is_not_evaluated_as_a_model_of_poses(public, run, refused, h36m_folder):
    """Its own figures are not called millimetres."""
    flags = ['-k', 'gt', '--data', h36m_folder, '-ste', 'S9', *CPU, '--evaluate', public('pstmo_pretraining')]
    assert 'is a P-STMO, first stage checkpoint, which --model pstmo contradicts' in \
        refused(1, *flags, '--model', 'pstmo')
    assert 'is a P-STMO, first stage, which tells keypoints that are hidden, and no poses: begin a model' in \
        refused(1, *flags)
    status, out, _ = run(*flags, '--model', 'pstmo_pretraining')
    assert status == 0
    assert out.rstrip().endswith('thousandths of half the width')
    assert ' mm' not in out


@pytest.mark.parametrize('more', [['--evaluate'], ['--refine', '-str', 'S1', '--init']], ids=['evaluate', 'init'])
def test_a_refinement_without_its_base_is_refused(refused, h36m_folder, tmp_path, more):
    refined = build_model('mgcn', {'channels': 16, 'depth': 1, 'refine': True}, H36M, H36M).refine
    torch.save(refined.state_dict(), tmp_path / 'refine.pth')
    line = refused(1, '-k', 'gt', '--data', h36m_folder, *CPU, *more, tmp_path / 'refine.pth')
    assert 'refine.pth is a refinement, without the model that it stands behind: name it with --refinement' in line


@pytest.mark.parametrize('name', MODELS)
def test_a_file_fits_its_model_however_many_heads_that_has(name):
    """A public file does not tell them, and the usual 8 may not divide the channels."""
    kind = model_class(name)
    fields = kind.Config.__dataclass_fields__
    if 'heads' not in fields:
        pytest.skip('it has no heads')
    given = {'channels': 36, 'heads': 3, 'depth': 2, 'frames': 27 if name == 'strided' else 9, 'hidden': 12}
    config = make_config(name, {size: value for size, value in given.items() if size in fields})
    state = build_model(name, vars(config), kind.body(), kind.body()).state_dict()
    found = kind.config_of(state, {size: getattr(config, size) for size in kind.Config.not_in_a_file})
    assert {size: value for size, value in vars(found).items() if size not in kind.Config.not_in_a_file} == {
        size: value for size, value in vars(config).items() if size not in kind.Config.not_in_a_file}


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')  # of the compiler's own workings
@each('graphs', also=['d3dp'])
def test_a_training_step_runs_compiled_code(flags, run, monkeypatch, name):
    """Calls of a method, which are not calls of the module, would run as they are written."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward
    monkeypatch.setattr(computing, 'compile_model', lambda model, device: model.compile(backend=backend))
    status, _, err = run(*flags(name, 'c', '-e', 1, '--compile', '--no-eval'))
    assert status == 0, err
    assert graphs
