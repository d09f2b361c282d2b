"""The plain references of the models beside KTPFormer and HTNet, and the benchmark that compares with them."""

import json
import sys

import pytest
import torch

from benchmarks import zoo

CPU = torch.device('cpu')
SMALL = {
    'videopose3d': ['-f', '9', '-cs', '16'], 'martinez': ['-cs', '16'], 'graformer': ['-cs', '16', '-dep', '2'],
    'mgcn': ['-cs', '16', '-dep', '2'], 'mgcn16': ['-cs', '16', '-dep', '2'],
    'strided': ['-f', '27', '-cs', '16', '--hidden', '24', '-dep', '2'],
    'pstmo': ['-f', '27', '-cs', '16', '--hidden', '24', '-dep', '2'],
    'dstformer': ['-f', '9', '-cs', '16', '-dep', '2'], 'motionagformer': ['-f', '9', '-cs', '16', '-dep', '2'],
    'mhformer': ['-f', '45', '-cs', '16', '--hidden', '24', '-dep', '2'],
    'stcformer': ['-f', '9', '-cs', '16', '-dep', '2'],
}


@pytest.mark.parametrize('name', zoo.CASES)
def test_the_reference_computes_the_same(name):
    """Loss and length of the gradient; otherwise the program exits."""
    zoo.check_equal(name, 5, SMALL[name], CPU)


def test_another_loss_is_told(monkeypatch):
    monkeypatch.setattr(zoo.reference_zoo.Martinez, 'loss', lambda self, x, y: 1.001 * (self(x) - y).square().mean())
    with pytest.raises(SystemExit, match=r'martinez: the loss of the program is .*, that of the reference'):
        zoo.check_equal('martinez', 5, SMALL['martinez'], CPU)


def test_steps_and_windows_are_compared_in_turns(monkeypatch, capsys):
    flags = ['--parts', 'step', 'windows', '--models', 'videopose3d', '--rounds', '2', '--seconds', '0', '--windows',
             '3', '--lengths', '30', '20', *SMALL['videopose3d']]
    monkeypatch.setattr(sys, 'argv', ['zoo.py', *flags])
    zoo.main()
    said = capsys.readouterr().out
    results = json.loads(said[said.index('\n{') + 1:])
    for row in (*results['step'], results['windows']):
        assert len(row['ratios']) == 2 and row['ratio'] > 0 and len(row['milliseconds']) == 2


def test_memory_is_that_of_all_test_frames():
    told = zoo.measure_memory(1200)
    assert told['frames'] == 1200 and told['sequences'] == 236
    assert told['before'] <= told['with the data'] <= told['peak'] < 100
