"""Runs of the program for benchmarks of hours. Each leaves a line of JSON, so that they go on where they stopped."""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
METRICS = ('mpjpe', 'p_mpjpe', 'mpjve')
LOGS, PICTURES = ROOT / 'benchmarks' / 'logs', ROOT / 'benchmarks' / 'pictures'


def program(flags: list[str]) -> tuple[float, float]:
    """Run run_ktpformer.py; return the seconds of its threads together and its peak memory, GB.

    Threads wait passively, and their seconds are those of computing: what else the machine does adds little to them.
    Exits with what the program said where it fails.
    """
    with tempfile.TemporaryFile('w+') as said:
        process = subprocess.Popen([sys.executable, str(ROOT / 'run_ktpformer.py'), *flags], stdout=subprocess.DEVNULL,
                                   stderr=said, env={'OMP_WAIT_POLICY': 'passive', **os.environ})
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(said.read().strip() or f'{" ".join(flags)} ended with {process.returncode}')
        return usage.ru_utime + usage.ru_stime, 1024 * usage.ru_maxrss / 1e9


def average_of(results: Path) -> dict[str, float]:
    """Return the averages of METRICS, by the protocol `exact`, from a file of --results."""
    average = json.loads(results.read_text())['protocols']['exact']['average']
    return {metric: average[metric] for metric in METRICS}


def about() -> dict[str, Any]:
    """Return where, when and of which commit a line is made."""
    commit = subprocess.run(['git', 'describe', '--always', '--dirty'], cwd=ROOT, capture_output=True, text=True,
                            check=False).stdout.strip()
    cpu = [line.partition(':')[2].strip() for line in Path('/proc/cpuinfo').read_text().splitlines()
           if line.startswith('model name')]
    return {'commit': commit, 'machine': cpu[0] if cpu else platform.machine(), 'date': time.strftime('%Y-%m-%d'),
            'threads': os.environ.get('OMP_NUM_THREADS', 'all')}


def read(log: Path) -> list[dict[str, Any]]:
    """Return the lines of a log, none where it is not there."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def add(log: Path, line: dict[str, Any]) -> None:
    """Append a line to a log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, 'a', encoding='utf-8') as file:
        file.write(json.dumps(line) + '\n')


def mean_and_spread(values: Sequence[float], digits: int = 1) -> str:
    """Return the mean ± the standard deviation over seeds, the mean alone of a single one."""
    values = list(values)
    mean = f'{statistics.mean(values):.{digits}f}'
    return f'{mean} ± {statistics.stdev(values):.{digits}f}' if len(values) > 1 else mean
