"""The yardstick of the benchmarks computes what the program computes: outputs and gradients, equal weights."""

import json
import subprocess
import sys

import pytest
import torch
from test_ktpformer import relative

from benchmarks import reference, speed
from common.models import build_model, graph
from common.skeleton import H36M


def adjacency():
    return torch.from_numpy(graph.adjacency(len(H36M), H36M.edges))


MODELS = {
    'ktpformer': (lambda: reference.KTPFormer(adjacency(), torch.from_numpy(graph.chain(9)), 48, 2, drop_path=0),
                  {'frames': 9, 'channels': 48, 'depth': 2}, {}),
    'htnet': (lambda: reference.HTNet(adjacency(), 48, 2, 64, drop_path=(0, 0), dropout=0),
              {'channels': 48, 'depth': 2, 'hidden': 64}, {'dropout': 0}),
}


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize('train', [False, True], ids=['eval', 'train'])
def test_the_yardstick_computes_the_same(name, train):
    torch.manual_seed(0)
    make, config, rates = MODELS[name]
    ours, theirs = build_model(name, config, H36M, H36M, 0, **rates), make()
    with torch.no_grad():
        for p in ours.parameters():
            p += 0.05 * torch.randn_like(p)
    theirs.load_state_dict(ours.state_dict())
    frames = ours.frames
    x, slope = torch.randn(3, frames, 17, 2), torch.randn(3, frames, 17, 3)
    outputs = []
    for model in (ours, theirs):
        out = model.train(train)(x)
        (out * slope).sum().backward()
        outputs.append(out)
    assert relative(*outputs) < 2e-6
    gradients = {key: p.grad for key, p in theirs.named_parameters()}
    for key, p in ours.named_parameters():
        if not key.endswith('gconv.bias'):  # zero in front of a batch norm, but for rounding
            assert relative(p.grad, gradients[key]) < 1e-3, key


def test_arithmetic_is_counted_as_published():
    assert speed.multiplications(243, 512, 7) / 1e9 == pytest.approx(153.9, abs=0.05)


@pytest.mark.slow
def test_speed_is_measured_in_turns(tmp_path):
    """Two rounds of a small model: a row for each contestant and work, and a picture."""
    done = subprocess.run(
        [sys.executable, speed.__file__, '--parts', 'step', 'evaluation', 'beside', 'p_mpjpe', '--frames', '9',
         '--windows', '2', '--channels', '128', '--depth', '2', '--contestants', 'fp32', 'bf16+checkpointing', '2xfp32',
         '--rounds', '2', '--plots', str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout[done.stdout.index('\n{') + 1:])
    assert [(row['work'], row['contestant']) for row in results['rows']] == [
        (work, name) for work in ('step', 'evaluation')
        for name in ('reference', 'fp32', 'bf16+checkpointing', '2xfp32')]
    assert all(len(row['ratios']) == 2 and row['seconds'] > 0 for row in results['rows'])
    assert set(results['beside'][0]['parts']) == {'gather_and_flip', 'loss', 'finite_check', 'log'}
    assert (tmp_path / 'cost.png').stat().st_size > 10_000
