"""`pip install .`: what is packed, the console command, and the notebook."""

import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from processes import run_alone

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())
SETUPTOOLS = PROJECT['tool']['setuptools']


def files_of(*folders):
    found = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard', *folders], cwd=ROOT, capture_output=True,
                           text=True, check=True)
    return [Path(name) for name in found.stdout.splitlines()]


def test_every_file_of_common_is_in_a_package():
    renamed = SETUPTOOLS['package-dir']
    assert renamed == {'common.shipped_files': 'checkpoint'}
    for path in files_of('common'):
        package = '.'.join(path.parts[:-1])
        assert package in SETUPTOOLS['packages'], path
        patterns = [*SETUPTOOLS['package-data'].get(package, []), '*.py']
        assert any(fnmatch(path.name, pattern) for pattern in patterns), path
    for package in set(SETUPTOOLS['packages']) - set(renamed):
        assert (ROOT / package.replace('.', '/')).is_dir()
    assert (ROOT / 'checkpoint' / SETUPTOOLS['package-data']['common.shipped_files'][0]).is_file()


def test_a_package_needs_what_requirements_have_and_no_older():
    required = dict(re.findall(r'^([a-z0-9-]+)>=([0-9.]+)', (ROOT / 'requirements.txt').read_text(), re.MULTILINE))
    extras = [need for needs in PROJECT['project']['optional-dependencies'].values() for need in needs]
    for need in [*PROJECT['project']['dependencies'], *extras]:
        name, _, version = need.partition('>=')
        assert required.get(name, version) == version or name in ('rtmlib', 'onnxruntime'), need
    assert {'rtmlib', 'onnxruntime', *required} >= {need.partition('>=')[0] for need in extras}


def test_version_is_said_once():
    from common import __version__
    assert run_alone(ROOT / 'run_ktpformer.py', '--version') == (0, f'pose-lifting {__version__}\n', '')
    assert f'\nversion: {__version__}\n' in (ROOT / 'CITATION.cff').read_text()


@pytest.mark.slow
def test_an_installed_command_lifts_a_video_anywhere(tmp_path):
    for path in files_of():  # setuptools leaves a folder where it builds
        (tmp_path / 'source' / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / 'source' / path)
    subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--target', tmp_path / 'site', '.'],
                   cwd=tmp_path / 'source', check=True)
    clip = tmp_path / 'clip.mp4'
    clip.write_bytes((ROOT / 'data' / 'demo' / 'balance.mp4').read_bytes())
    environment = {**os.environ, 'PYTHONPATH': str(tmp_path / 'site')}
    done = subprocess.run([tmp_path / 'site' / 'bin' / 'pose-lifting', '--predict', clip, '--viz-output', 'clip.html'],
                          cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / 'site' / 'common' / 'shipped_files' / 'lifter.bin') in done.stdout
    with np.load(tmp_path / 'clip.npz') as lifted:
        assert lifted['poses'].shape == (100, 17, 3)
    assert (tmp_path / 'clip.html').stat().st_size > 10_000


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    notebook = json.loads((ROOT / 'docs' / 'lift.ipynb').read_text())
    code = '\n\n'.join(''.join(cell['source']) for cell in notebook['cells'] if cell['cell_type'] == 'code')
    code += '\n\nassert poses.shape == (100, 17, 3)\n'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT / 'docs', capture_output=True, text=True, check=False,
                          env={**os.environ, 'MPLBACKEND': 'agg', 'PYTHONPATH': str(ROOT)})
    assert done.returncode == 0, done.stderr
