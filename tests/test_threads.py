"""Threads: as many as the cores that a process may use, which the files of its control groups tell."""

import os

import pytest

from common import threads


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize('membership, files, cores', [
    ('0::/job\n', {'job/cpu.max': '250000 100000\n'}, 2.5),
    ('0::/job\n', {'job/cpu.max': 'max 100000\n'}, None),
    ('0::/pod/job\n', {'pod/job/cpu.max': 'max 100000\n', 'pod/cpu.max': '300000 100000\n'}, 3),
    ('0::/pod/job\n', {'pod/job/cpu.max': '400000 100000\n', 'pod/cpu.max': '150000 100000\n'}, 1.5),
    ('0::/seen/outside/alone\n', {'cpu.max': '200000 100000\n'}, 2),
    ('0::/../../job\n', {}, None),
    ('3:memory:/m\n2:cpu,cpuacct:/docker/1f\n0::/\n',
     {'cpu,cpuacct/cpu.cfs_quota_us': '400000\n', 'cpu,cpuacct/cpu.cfs_period_us': '50000\n'}, 8),
    ('1:cpu:/\n0::/\n', {'cpu/cpu.cfs_quota_us': '-1\n', 'cpu/cpu.cfs_period_us': '100000\n'}, None),
    ('1:cpuset:/\n', {'cpuset/cpu.cfs_quota_us': '100000\n', 'cpuset/cpu.cfs_period_us': '100000\n'}, None),
    ('0::/job\n', {'job/cpu.max': 'half of it\n'}, None),
    ('no group\n\n', {'cpu.max': '0 0\n'}, None),
])
def test_the_least_quota_of_all_groups_counts(tmp_path, membership, files, cores):
    write(tmp_path, {'own': membership} | {f'mounted/{name}': text for name, text in files.items()})
    assert threads.quota(tmp_path / 'own', tmp_path / 'mounted') == cores


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert threads.quota(tmp_path / 'own', tmp_path) is None


@pytest.mark.parametrize('granted, cores', [(None, 4), (0.5, 1), (2.5, 2), (64, 4)])
def test_cores_are_those_that_can_be_kept_busy(monkeypatch, granted, cores):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda process: {0, 1, 6, 7}, raising=False)
    monkeypatch.setattr(threads, 'quota', lambda: granted)
    assert threads.cores() == cores


@pytest.mark.parametrize('granted, said, left', [(2.5, None, '2'), (2.5, '7', '7'), (None, None, None)])
def test_a_quota_limits_threads_that_nobody_asked_for(monkeypatch, granted, said, left):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda process: {0, 1, 6, 7}, raising=False)
    monkeypatch.setattr(threads, 'quota', lambda: granted)
    monkeypatch.setenv('OMP_NUM_THREADS', said or '')
    if said is None:
        monkeypatch.delenv('OMP_NUM_THREADS')
    threads.limit()
    assert os.environ.get('OMP_NUM_THREADS') == left
