"""Two Gloo processes are one run: the same losses, figures and files as one process with the same global batch."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import SMALL
from processes import ROOT, Process, free_port, run_alone
from test_resume import assert_same_run

# Runs the program and writes down the loss of every step.
RECORDER = """
import json, os, sys
sys.path.insert(0, {root!r})
import run_ktpformer
from common.training import loop as train
losses, gradient = [], train.Trainer.gradient
def recorded(self, batch, epoch, *objective):
    loss = gradient(self, batch, epoch, *objective)
    losses.append(loss.item())
    return loss
train.Trainer.gradient = recorded
status = run_ktpformer.main(sys.argv[2:])
if os.environ.get('RANK', '0') == '0':
    json.dump(losses, open(sys.argv[1], 'w'))
sys.exit(status)
"""


def launch(processes: int, *flags, node=('--standalone',)) -> subprocess.Popen:
    """Run the program under torchrun, as in the README, or as one node of several."""
    command = [sys.executable, '-m', 'torch.distributed.run', *node, f'--nproc_per_node={processes}',
               'run_ktpformer.py', *map(str, flags)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture
def flags(h36m_folder, tmp_path):
    """Return flags of a run with seven windows a step, which two processes share as three and four.

    The last of its 18 steps has only one.
    """
    def of(name, *more):
        return ['-k', 'gt', '--data', h36m_folder, '-str', 'S1', *SMALL, '-b', '63', '--drop-path', '0.3', '-e', '2',
                '-c', tmp_path / name, '-l', tmp_path / f'{name}-log', *more]
    return of


@pytest.mark.parametrize('objective', ['half-square', pytest.param('plain', marks=pytest.mark.slow)])
def test_two_processes_are_one_run(flags, tmp_path, objective):
    recorder = tmp_path / 'recorder.py'
    recorder.write_text(RECORDER.format(root=str(ROOT)))
    for processes in (1, 2):
        # A small rate: how fast rounding grows from step to step depends on it, what the shares add up to does not.
        status, _, err = run_alone(
            recorder, tmp_path / f'{processes}.json',
            *flags(f'c{processes}', '--objective', objective, '-lr', '1e-4', '--results', tmp_path /
                   f'r{processes}.json', '--export-predictions', tmp_path / f'p{processes}.npz'), ranks=processes)
        assert status == 0, err
    one, two = (json.loads((tmp_path / f'{n}.json').read_text()) for n in (1, 2))
    assert len(one) == 36
    assert two[:20] == pytest.approx(one[:20], rel=1e-4)
    # the names are those of one process; the file says nothing of how many made it
    a, b = (torch.load(tmp_path / f'c{n}' / 'last.bin')['model_pos'] for n in (1, 2))
    assert a.keys() == b.keys()
    counts = [key for key in a if key.endswith('num_batches_tracked')]
    assert counts and all(torch.equal(a[key], b[key]) for key in counts)


BATCH_NORM = """
import sys
sys.path.insert(0, {root!r})
import torch
from torch import nn
from common import distributed

with distributed.join('cpu') as world:
    # Unequal shares, and a rank without rows; positions of a convolution.
    for shares, shape in ([(0, 5), (5, 12)], (12, 4)), ([(0, 0), (0, 12)], (12, 4)), ([(0, 5), (5, 12)], (12, 4, 3)):
        torch.manual_seed(0)
        x, slope = torch.randn(shape).double() * 3 + 100, torch.randn(shape).double()
        norms = [nn.BatchNorm1d(4).double() for _ in range(2)]
        norms[1].load_state_dict(norms[0].state_dict())
        distributed.make_batch_norms_global(nn.Sequential(norms[1]))
        begin, end = shares[world.rank]
        whole, part = x.clone().requires_grad_(), x[begin:end].clone().requires_grad_()
        expected, got = norms[0](whole), norms[1](part)
        (expected * slope).sum().backward()
        (got * slope[begin:end]).sum().backward()
        world.sum_gradients(norms[1])
        torch.testing.assert_close(got, expected[begin:end])
        torch.testing.assert_close(part.grad, whole.grad[begin:end], atol=1e-9, rtol=1e-6)
        for name, p in norms[0].named_parameters():
            torch.testing.assert_close(dict(norms[1].named_parameters())[name].grad, p.grad, msg=name)
        assert norms[0].state_dict().keys() == norms[1].state_dict().keys()
        for name, value in norms[0].state_dict().items():
            torch.testing.assert_close(norms[1].state_dict()[name], value)
        norms[1].eval()
        assert torch.isfinite(norms[1](x)).all()
"""


def test_global_batch_norm_is_batch_norm_of_all_rows(tmp_path):
    """Output, gradients of rows and parameters, running statistics and names, for unequal shares and an empty one."""
    script = tmp_path / 'batch_norm.py'
    script.write_text(BATCH_NORM.format(root=str(ROOT)))
    status, _, err = run_alone(script, ranks=2)
    assert status == 0, err


def test_evaluation_is_the_same_in_any_number_of_processes(trained, h36m_folder, tmp_path):
    """Figures to 1e-6, every frame once: three processes share ten sequences of unequal length, or five one action."""
    results = {}
    for processes in (1, 2, 3):
        status, out, err = run_alone('run_ktpformer.py', '-c', trained[0], '--evaluate', 'best.bin', '--data',
                                     h36m_folder, '--by-subject', '--results', tmp_path / 'r.json',
                                     '--export-predictions', tmp_path / f'p{processes}.npz', '--device', 'cpu',
                                     ranks=processes)
        assert status == 0, err
        assert out.count('average, protocol exact') == 1  # only the first process speaks
        results[processes] = json.loads((tmp_path / 'r.json').read_text())['protocols']
    for processes in (2, 3):
        for protocol, expected in results[1].items():
            got = results[processes][protocol]
            for subject in ('S9', 'S11'):
                for action, figures in expected['subjects'][subject]['actions'].items():
                    assert got['subjects'][subject]['actions'][action] == pytest.approx(figures, rel=1e-6)
        with np.load(tmp_path / 'p1.npz') as one, np.load(tmp_path / f'p{processes}.npz') as many:
            for name in one.files:
                if one[name].dtype.kind == 'f':
                    np.testing.assert_allclose(many[name], one[name], atol=1e-5)
                else:
                    np.testing.assert_array_equal(many[name], one[name])


def test_killed_and_resumed_with_two_processes(flags, tmp_path):
    """Two to two bit for bit; the result then goes on with one process."""
    more = ('--save-every-steps', '4', '--no-eval')
    assert run_alone('run_ktpformer.py', *flags('whole', *more), ranks=2)[0] == 0
    process = Process('run_ktpformer.py', *flags('parts', *more), ranks=2)
    while not (tmp_path / 'parts' / 'last.bin').exists():
        time.sleep(0.005)
    process.send(signal.SIGKILL)
    process.wait()
    status, _, err = run_alone('run_ktpformer.py', *flags('parts', *more), '--resume', ranks=2)
    assert status == 0, err
    whole, parts = (torch.load(tmp_path / n / 'last.bin') for n in ('whole', 'parts'))
    whole['best'] = parts['best'] = {'epoch': 0}  # --no-eval
    for name, content in (('whole', whole), ('parts', parts)):
        torch.save(content, tmp_path / name / 'last.bin')
    assert_same_run(tmp_path / 'whole', tmp_path / 'parts')
    whole['best'] = None
    torch.save(whole, tmp_path / 'whole' / 'last.bin')
    status, out, err = run_alone('run_ktpformer.py', *flags('whole'), '-e', '3', '--resume')
    assert status == 0, err
    assert 'continuing' in out


@pytest.mark.slow
def test_sigterm_stops_all_processes_at_one_step(flags, tmp_path):
    process = launch(2, *flags('run', '-e', '50'))
    while not (tmp_path / 'run' / 'last.bin').exists():
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert 'stopped by SIGTERM' in err
    assert 'Error' not in err.split('stopped by SIGTERM')[0]
    assert torch.load(tmp_path / 'run' / 'last.bin', weights_only=True)['epoch'] >= 1


@pytest.mark.slow
def test_two_nodes_and_then_another_number(flags, tmp_path):
    """As the Slurm job of docs/training.md starts them: a launcher on each node, of one process and of two.

    The result is that of one process, is written by the first node alone, and goes on with a single node.
    """
    port = free_port()

    def nodes(*flags):
        return [launch(processes, *flags, node=('--nnodes=2', f'--node-rank={rank}', '--master-addr=127.0.0.1',
                                                f'--master-port={port}')) for rank, processes in enumerate((1, 2))]
    started = nodes(*flags('nodes', '-lr', '1e-4'))
    said = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert 'protocol exact' in said[0][0]
    assert said[1][0] == ''
    assert run_alone('run_ktpformer.py', *flags('one', '-lr', '1e-4'))[0] == 0
    many, one = (torch.load(tmp_path / name / 'last.bin') for name in ('nodes', 'one'))
    assert many['epoch'] == one['epoch'] == 2
    assert many['best']['valid_mpjpe'] == pytest.approx(one['best']['valid_mpjpe'], rel=5e-3)
    process = launch(2, *flags('nodes'), '-e', '3', '--resume')
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert 'continuing' in out
    assert torch.load(tmp_path / 'nodes' / 'last.bin')['epoch'] == 3


def test_an_error_of_all_processes_is_printed_once(flags, tmp_path):
    process = launch(2, *flags('run'), '--data', tmp_path / 'none')
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert err.count('data_3d_h36m.npz is missing') == 1
    status, _, err = run_alone('run_ktpformer.py', *flags('run'), '-b', '9', ranks=2)
    assert status == 2
    said = 'a step of 1 windows cannot be shared by 2 processes'
    assert (err.count(f'error: {said}'), err.count(f'error: rank 1: {said}')) == (1, 0)


def test_one_nccl_process(trained, h36m_folder, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip('needs a CUDA device')
    process = launch(1, '-k', 'gt', '--data', h36m_folder, '-str', 'S1', *SMALL[:-2], '-e', '1', '-c', tmp_path / 'c',
                     '-l', tmp_path / 'l')
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
