"""Outputs that would destroy something, or cannot be, are refused before the work; what is half-written goes away."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from processes import ROOT, Process

from common.storage.files import atomic_path

EVALUATED = ['--device', 'cpu', '-ste', 'S11']


@pytest.fixture
def place(trained, h36m_folder, tmp_path):
    """A folder with a data set and a trained checkpoint of its own, and the flags that evaluate it there."""
    shutil.copytree(trained[0], tmp_path / 'c')
    shutil.copytree(h36m_folder, tmp_path / 'data')
    return ['-c', tmp_path / 'c', '--data', tmp_path / 'data', '--evaluate', 'best.bin', *EVALUATED]


@pytest.mark.parametrize('flag, target', [
    ('--results', 'c/best.bin'), ('--export-predictions', 'data/data_2d_h36m_gt.npz'),
    ('--export-predictions', 'data/data_3d_h36m.npz'), ('--results', 'data/data_3d_h36m.npz')])
def test_nothing_that_is_read_is_written_over(place, refused, tmp_path, flag, target):
    before = (tmp_path / target).read_bytes()
    assert 'would be written over the ' in refused(1, *place, flag, tmp_path / target)
    os.link(tmp_path / target, tmp_path / 'hard.npz')
    os.symlink(tmp_path / target, tmp_path / 'soft.npz')
    for name in ('hard.npz', 'soft.npz'):
        assert 'would be written over the ' in refused(1, *place, flag, tmp_path / name)
    assert (tmp_path / target).read_bytes() == before


def test_a_run_does_not_write_over_its_own_checkpoints(refused, tmp_path):
    flags = ['-d', 'synthetic', '-c', tmp_path, '-l', tmp_path / 'l', '--results', tmp_path / 'last.bin']
    assert 'of this run' in refused(1, *flags)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('kind', ['pipe', 'null', 'dangling', 'stdout'])
def test_outputs_that_are_no_files_are_told_before_the_work(place, refused, tmp_path, kind):
    os.mkfifo(tmp_path / 'pipe')
    os.symlink(tmp_path / 'none' / 'r.json', tmp_path / 'dangling')
    name = {'null': '/dev/null', 'stdout': '/dev/stdout'}.get(kind, tmp_path / kind)
    assert 'cannot write ' in refused(1, *place, '--results', name)


def test_overwrite_keeps_the_other_run_until_there_is_something_new(trained, h36m_folder, refused, run, tmp_path):
    shutil.copytree(trained[0], tmp_path / 'c')
    before = {path.name: path.read_bytes() for path in (tmp_path / 'c').iterdir()}
    flags = ['-k', 'gt', '--data', h36m_folder, '-str', 'S1', '-f', 9, '-cs', 32, '-dep', 1, '-b', 90, '-s', 9, '-e', 1,
             '-c', tmp_path / 'c', '-l', tmp_path / 'l', '--overwrite', '--device', 'cpu']
    assert 'training diverged' in refused(1, *flags, '-lr', 1e30)
    assert {path.name: path.read_bytes() for path in (tmp_path / 'c').iterdir()} == before
    assert run(*flags, '-lr', 1e-3)[0] == 0
    assert sorted(path.name for path in (tmp_path / 'c').iterdir()) == ['best.bin', 'last.bin']


def test_two_runs_in_one_folder_one_trains_and_the_other_says_who_does(tmp_path):
    flags = ['-d', 'synthetic', '-f', '27', '-cs', '16', '-dep', '1', '-e', '50', '--no-eval', '-c', tmp_path / 'c',
             '-l', tmp_path / 'l', '--device', 'cpu']
    both = [Process(ROOT / 'run_ktpformer.py', *flags) for _ in range(2)]
    while not any(process.ended() for process in both):
        time.sleep(0.1)
    (loser,) = [process for process in both if process.ended()]
    (winner,) = [process for process in both if process is not loser]
    status, _, err = loser.wait()
    assert (status, f'is in use by another run (process {winner.pids[0]} on ' in err) == (1, True), err
    winner.send(signal.SIGTERM)
    assert winner.wait()[0] == 143
    assert not (tmp_path / 'c' / '.lock').exists()


def test_sigterm_outside_training_leaves_nothing_half_written(tmp_path):
    code = ('import sys, time; sys.path.insert(0, sys.argv[1]); import run_ktpformer\n'
            'from pathlib import Path; from common import commands; from common.storage.files import atomic_path\n'
            'def work(config):\n'
            '    with atomic_path(Path(sys.argv[2])) as temporary:\n'
            '        temporary.write_text("half"); print("begun", flush=True); time.sleep(60)\n'
            'commands.run = work\n'
            'sys.exit(run_ktpformer.main(["-d", "synthetic"]))')
    process = subprocess.Popen([sys.executable, '-c', code, str(ROOT), str(tmp_path / 'out.json')], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == 'begun\n'
    assert len(list(tmp_path.iterdir())) == 1
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, 'run_ktpformer.py: error: stopped by SIGTERM\n')
    assert not list(tmp_path.iterdir())


def test_a_killed_process_s_temporary_is_cleared_by_the_next_write(tmp_path):
    code = ('import os, signal, sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n'
            'from common.storage.files import atomic_path\n'
            'with atomic_path(Path(sys.argv[2])): os.kill(os.getpid(), signal.SIGKILL)')
    subprocess.run([sys.executable, '-c', code, str(ROOT), str(tmp_path / 'a.npz')], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith('.a.npz.')
    with atomic_path(tmp_path / 'a.npz') as mine, atomic_path(tmp_path / 'a.npz') as other:  # one at work is let be
        assert not left.exists()
        mine.write_text('1')
        other.write_text('2')
    assert [path.name for path in tmp_path.iterdir()] == ['a.npz']


def test_closed_streams_and_odd_environments_end_in_one_line_or_none(tmp_path):
    script = str(ROOT / 'run_ktpformer.py')
    base = f'{sys.executable} {script} -d synthetic --subset 0.02 -f 9 -cs 16 -dep 1 -e 1 --no-eval --device cpu'
    done = subprocess.run(f'{base} -c {tmp_path}/c -l {tmp_path}/l 2>&- >&- <&-', shell=True, check=False)
    assert done.returncode == 0
    assert (tmp_path / 'c' / 'last.bin').stat().st_size > 1000
    done = subprocess.run(f'{base} -c {tmp_path}/d -l {tmp_path}/l', shell=True, capture_output=True, text=True,
                          env={**os.environ, 'RANK': 'x', 'WORLD_SIZE': '2'}, check=False)
    assert (done.returncode, done.stderr.count('\n'), "RANK='x'" in done.stderr) == (2, 1, True), done.stderr


def test_names_from_files_cannot_break_the_line(h36m_folder, refused, tmp_path):
    from conftest import h36m_trees, write_h36m
    positions, detections = h36m_trees({'S1': {'Walking\nrun_ktpformer.py: error: forged \x1b[31m': 20}})
    write_h36m(tmp_path, positions, detections)
    line = refused(1, '-k', 'gt', '--data', tmp_path, '-str', 'S1', '-ste', 'S1', '-c', tmp_path / 'c')
    assert 'expected text for subjects and actions' in line and '\x1b' not in line


@pytest.mark.parametrize('value, words', [(1e20, 'a coordinate of 1e+20'), (float('nan'), 'NaN or infinite')])
def test_markers_of_what_is_missing_are_told_by_take_frame_and_joint(refused, tmp_path, value, words):
    from conftest import h36m_trees, write_h36m
    positions, detections = h36m_trees({'S1': {'Walking': 20}})
    detections['S1']['Walking'][2][7, 13, 1] = value
    write_h36m(tmp_path, positions, detections)
    line = refused(1, '-k', 'gt', '--data', tmp_path, '-str', 'S1', '-ste', 'S1', '-c', tmp_path / 'c')
    assert words in line and 'S1 Walking camera 2, at joint left_wrist of frame 7' in line
