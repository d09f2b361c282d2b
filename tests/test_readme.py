"""Every command of the README is parsed by the real parser; the slow test runs those that need no outside data."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.cli import parser as arguments

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()


def commands() -> list[str]:
    blocks = re.findall(r'```sh\n(.*?)```', README, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip() and not line.startswith('#')]


def program_lines() -> list[list[str]]:
    """The flags of every command that runs the program."""
    parts = [part.strip() for line in commands() for part in line.split('&&')]
    return [shlex.split(part.split('run_ktpformer.py', 1)[1]) for part in parts if 'run_ktpformer.py' in part]


def test_there_are_commands():
    assert len(program_lines()) >= 8


@pytest.mark.parametrize('flags', program_lines(), ids=' '.join)
def test_commands_parse(flags):
    arguments.parse(flags)


def test_every_flag_is_in_the_readme_and_no_other():
    known = {option for action in arguments.make_parser()._actions for option in action.option_strings}
    table = README.split('## Flags')[1].split('### The two')[0]
    named = set(re.findall(r'(?<![\w-])--?[a-z][\w-]*', table)) - {'--help'}
    assert named <= known
    for action in arguments.make_parser()._actions:
        assert '--help' in action.option_strings or named & set(action.option_strings), action.option_strings


def test_no_placeholder_is_left_and_every_file_named_exists():
    assert '@@' not in README
    for name in re.findall(r'`((?:benchmarks|data|common|tests)/[\w./]+\.(?:py|md))`', README):
        assert (ROOT / name).exists(), name


START_EACH = """
import runpy, sys
path = sys.path[1:]
for script in sys.argv[1:]:
    sys.argv, sys.path = [script, '--help'], [script.rpartition('/')[0], *path]
    for name in [name for name in sys.modules if name.split('.')[0] in ('benchmarks', 'common', 'data')]:
        del sys.modules[name]
    try:
        runpy.run_path(script, run_name='__main__')
    except SystemExit as stop:
        assert not stop.code, script
"""


def test_benchmarks_start(tmp_path):
    """Each by its path, from another folder; one process for all of them, as torch takes seconds to import."""
    scripts = sorted(str(path) for path in (ROOT / 'benchmarks').glob('*.py'))
    done = subprocess.run([sys.executable, '-c', START_EACH, *scripts], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('usage: ') == len(scripts) - 2  # a yardstick and a part have nothing to say


def test_setup_commands_are_what_ci_runs():
    ci = (ROOT / '.ci' / 'run').read_text()
    assert '.venv/bin/pip install -q -r requirements.txt' in ci
    assert all('.venv/bin/pip install -q -r requirements.txt' in line for line in commands()[:2])
    assert '.venv/bin/pytest' in ci


@pytest.mark.slow
def test_the_start_command_runs_word_for_word(tmp_path):
    """The first command of the README on a clean copy of what git tracks."""
    clone = tmp_path / 'clone'
    subprocess.run(['git', 'clone', '-q', str(ROOT), str(clone)], check=True)
    environment = {k: v for k, v in os.environ.items() if k != 'VIRTUAL_ENV'}
    done = subprocess.run(commands()[0], shell=True, cwd=clone, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert 'average, protocol paper: MPJPE' in done.stdout
    shutil.rmtree(clone / '.venv')
