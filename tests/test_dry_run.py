"""--dry-run: its counts are those of the run, its estimates near what the run takes, and nothing is written."""

import json
import re
import shutil
import statistics

import numpy as np
import pytest
import torch
from conftest import SMALL, h36m_trees, write_h36m

from common.cli.parser import parse
from common.commands import train
from common.commands.dry_run import in_words
from common.commands.session import Session
from common.distributed import World
from common.errors import FlagError
from common.sampler import TestWindows
from common.sequences import Sequence
from common.skeleton import H36M
from common.store import SequenceStore
from common.training import cost
from common.training.loop import Trainer

SECONDS = r'([\d.e-]+) s'


def tree(*folders):
    """Return the files and folders below these, with their size and time of change."""
    return {path: (path.lstat().st_size, path.lstat().st_mtime_ns) for folder in folders for path in folder.rglob('*')}


@pytest.fixture(scope='module')
def here(tmp_path_factory):
    return tmp_path_factory.mktemp('here')


@pytest.fixture(scope='module')
def flags(h36m_folder, here):
    return ['-k', 'gt', '--data', h36m_folder, '-str', 'S1', '-c', here / 'c', '-l', here / 'l', *SMALL]


def test_nothing_is_written_and_the_run_is_as_was_told(flags, here, run, trained, h36m_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(here)
    before = tree(here, h36m_folder)
    status, out, err = run(*flags, '-e', 7, '-cf', 2, '--results', 'r.json', '--export-training-curves', '--dry-run')
    assert (status, err) == (0, '')
    assert tree(here, h36m_folder) == before
    saved = torch.load(trained[0] / 'last.bin', weights_only=True)
    steps = int(saved['optimizer']['state'][0]['step']) // saved['epoch']
    assert f'for {steps} steps of 10 windows' in out
    assert 'the run takes ' in out and '7 epochs of ' in out and 'for the closing table' in out
    (size,) = re.findall(r'a checkpoint has ([\d.]+) MB; 6 are kept .* and 3 of -cf 2\)', out)
    assert float(size) * 2 ** 20 == pytest.approx((trained[0] / 'last.bin').stat().st_size, rel=0.02)
    training, validation = map(float, re.search(f'an epoch takes {SECONDS} .* {SECONDS} for validation', out).groups())
    assert run(*flags, '-e', 3, '-c', tmp_path / 'c', '-l', tmp_path / 'l')[0] == 0
    (folder,) = (tmp_path / 'l').iterdir()
    took = [json.loads(line)['seconds'] for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    assert 1 / 3 < (training + validation) / statistics.median(took) < 3


def test_a_resumed_run_is_told_what_is_left_of_it(flags, run, trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / 'c')
    before = tree(tmp_path)
    resumed = [*flags, '-c', tmp_path / 'c', '--resume', '--dry-run']
    out = run(*resumed, '-e', 5, '--window-step', 3)[1]
    assert ': 3 epochs of ' in out and re.search(r'--window-step 9 makes 120 of \d{3} an epoch', out)
    status, out, _ = run(*resumed, '-e', 2)
    assert status == 0 and 'would only print its closing table' in out and 'measured' not in out
    assert tree(tmp_path) == before


def test_what_a_run_refuses_a_dry_run_refuses(flags, here, refused, tmp_path, trained):
    positions, detections = h36m_trees({'S1': {'Walking': 20}})
    detections['S1']['Walking'][2][7, 13, 1] = np.nan
    write_h36m(tmp_path, positions, detections)
    broken = [*flags, '--data', tmp_path, '-ste', 'S1']
    assert 'at joint left_wrist of frame 7' in refused(1, *broken, '--dry-run')
    assert "holds another run's last.bin" in refused(1, *flags, '-c', trained[0], '--dry-run')
    assert 'diverged in epoch 1' in refused(1, *flags, '-lr', 1e30, '--dry-run')
    (tmp_path / 'file').touch()
    assert 'file is no folder' in refused(1, *flags, '-l', tmp_path / 'file' / 'l', '--dry-run')
    assert '--dry-run is not for --evaluate' in refused(2, '--evaluate', 'x.bin', '--dry-run')
    assert not list(here.iterdir())


def test_it_runs_in_one_process(flags, here):
    two = Session(parse([*map(str, flags), '--dry-run']), torch.device('cpu'), World(0, 2), print)
    with pytest.raises(FlagError, match='--dry-run runs in one process: start it without torchrun'):
        train.run(two)
    assert not list(here.iterdir())


@pytest.mark.parametrize('room, fits', [
    (lambda model, step: step.whole < 4, 'as tried, it does with -b 18 (another training, with steps of 2 windows, '),
    (lambda model, step: model.recompute or step.whole < 6,
     'as tried, it does with --activation-checkpointing (the same numbers, '),
    (lambda model, step: False, 'nothing that was tried does: take a smaller -f or -cs, or --subset')])
def test_a_step_that_does_not_fit_is_told_with_what_does(flags, here, refused, monkeypatch, room, fits):
    """Where memory really ends, libraries below torch may crash; the error is the one that its allocator raises."""
    usual = Trainer.gradient

    def gradient(trainer, step, *which):
        if not room(trainer.model, step):
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 "
                               "bytes. Error code 12 (Cannot allocate memory)")
        return usual(trainer, step, *which)
    monkeypatch.setattr(Trainer, 'gradient', gradient)
    line = refused(2, *flags, '--dry-run')
    assert 'a step of 10 windows does not fit in memory' in line and fits in line
    assert ('--activation-checkpointing' in line and ', or with -b 45 ' in line) == ('the same numbers' in fits)
    assert not list(here.iterdir())


def test_windows_are_all_timed_where_that_is_quick_and_a_share_of_them_where_not(monkeypatch):
    take = Sequence('S1', 'Walking', 0, np.zeros((8192, 17, 2), np.float32), np.zeros((8192, 17, 3), np.float32))
    windows = TestWindows.of(SequenceStore([take], H36M, H36M, torch.device('cpu')), 8)
    now, met = [0.0], []

    def work(some):  # a second a window
        met.append(len(some))
        now[0] += len(some)
    monkeypatch.setattr(cost.time, 'perf_counter', lambda: now[0])
    device = torch.device('cpu')
    assert cost.time_windows(work, windows, device, limit=400) == cost.WindowCost(1024.0, 384, 1024)
    assert met == [128, 128, 384]  # windows of 8 frames go through the model in batches of 128
    assert cost.time_windows(work, windows, device, limit=2000) == cost.WindowCost(1024.0, 1024, 1024)
    assert cost.time_windows(work, windows, device, limit=1) == cost.WindowCost(1024.0, 128, 1024)
    assert cost.time_windows(work, windows.head(0), device) == cost.WindowCost(0.0, 0, 0)


@pytest.mark.parametrize('seconds, words', [
    (0.01234, '0.0123 s'), (99.4, '99.4 s'), (100, '1 min 40 s'), (7199.6, '120 min 0 s'), (7200, '2 h 0 min'),
    (86_400, '24 h 0 min'), (172_800, '2 days 0 h'), (1e6, '11 days 14 h')])
def test_times_in_words(seconds, words):
    assert in_words(seconds) == words
