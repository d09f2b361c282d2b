"""The documentation against the program: commands parse, files and links exist; the slow tests run commands."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from common.cli import parser as arguments
from common.models import MODELS, build_model
from common.skeleton import COCO, HUMANEVA15

ROOT = Path(__file__).parents[1]
README = ROOT / 'README.md'
PAGES = [README, *sorted((ROOT / 'docs').glob('*.md'))]


def commands(*pages: Path) -> list[str]:
    """The lines of every sh block of these pages, without comments."""
    blocks = [block for page in pages for block in re.findall(r'```sh\n(.*?)```', page.read_text(), re.DOTALL)]
    return [line for block in blocks for line in block.splitlines() if line.strip() and not line.startswith('#')]


def script_lines(script: str) -> list[list[str]]:
    """The arguments of every documented command that runs a script whose path ends so, without that path."""
    parts = [part.strip() for line in commands(*PAGES) for part in line.split('&&')]
    return [shlex.split(part.split(script, 1)[1]) for part in parts if script in part]


def test_there_are_commands():
    assert len(PAGES) >= 7
    assert len(script_lines('run_ktpformer.py')) >= 30


@pytest.mark.parametrize('flags', script_lines('run_ktpformer.py'), ids=' '.join)
def test_commands_parse(flags):
    arguments.parse(flags)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_no_placeholder_is_left_and_every_file_named_exists(page):
    text = page.read_text()
    assert '@@' not in text
    assert not re.search(r'\.\./shared|FORMATS|MODELS\.md|DESIGN\.md', text)
    for name in re.findall(r'`((?:benchmarks|data|common|tests)/[\w./]+\.(?:py|md))`', text):
        assert 'NAME' in name or (ROOT / name).exists(), name
    for name in re.findall(r'\bpython ((?:benchmarks|data)/\w+\.py)', text):
        assert (ROOT / name).exists(), name


def test_the_tree_in_architecture_names_every_module():
    """Each in the lines of its folder, as `name.py` or `name`; and every file that is named there exists."""
    page = (ROOT / 'docs' / 'architecture.md').read_text()
    tree = re.search(r'^common/\n((?:  .+\n)+)', page, re.MULTILINE).group(1)
    lines = {}
    for entry in re.split(r'^  (?! )', tree, flags=re.MULTILINE)[1:]:
        folder = re.match(r'(\w+)/', entry)
        lines.setdefault(folder.group(1) if folder else '', []).append(entry)
    modules = [path for path in (ROOT / 'common').rglob('*.py') if path.stem != '__init__']
    for path in modules:
        folder = '/'.join(path.relative_to(ROOT / 'common').parts[:-1])
        assert re.search(rf'\b{path.stem}\b', ' '.join(lines.get(folder, ()))), \
            f'name {path.relative_to(ROOT)} in the tree of docs/architecture.md, in the lines of {folder or "common"}/'
    gone = set(re.findall(r'\b(?!__init__)\w+\.py\b', tree)) - {path.name for path in modules}
    assert not gone, f'the tree of docs/architecture.md names {", ".join(sorted(gone))}: take out what is gone'


def test_the_example_of_a_model_in_architecture_is_one(tmp_path, monkeypatch):
    """As a file and a line of the registry; it lifts keypoints of one layout to joints of another."""
    page = (ROOT / 'docs' / 'architecture.md').read_text()
    (source,) = re.findall(r' {3}```python\n(.*?) {3}```', page, re.DOTALL)
    (tmp_path / 'mine_of_the_page.py').write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(MODELS, 'mine', 'mine_of_the_page:Mine')
    model = build_model('mine', {'frames': 9}, HUMANEVA15, COCO)
    assert model(torch.zeros(2, 9, len(COCO), 2)).shape == (2, 9, len(HUMANEVA15), 3)


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 160


def test_the_page_on_architecture_is_short():
    assert len((ROOT / 'docs' / 'architecture.md').read_text().splitlines()) < 240


def without_code(text: str) -> str:
    return re.sub(r'```.*?```', '', text, flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r'^#+ (.+)$', without_code(page.read_text()), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', [*PAGES, ROOT / 'CONTRIBUTING.md', ROOT / 'CHANGELOG.md'], ids=lambda page: page.name)
def test_relative_links_point_to_files_and_headings_that_exist(page):
    for link in re.findall(r'\]\(([^)\s]+)\)', without_code(page.read_text())):
        if re.match(r'[a-z]+:', link):
            continue
        name, _, heading = link.partition('#')
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


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
    assert done.stdout.count('usage: ') == len(scripts) - 6  # four yardsticks and two parts have nothing to say


def test_setup_commands_are_what_ci_runs():
    ci = (ROOT / '.ci' / 'run').read_text()
    assert '.venv/bin/pip install -q -r requirements.txt' in ci
    assert all('.venv/bin/pip install -q -r requirements.txt' in line for line in commands(README)[:3])
    assert '.venv/bin/pytest' in ci


@pytest.mark.slow
@pytest.mark.parametrize('number, said', [(0, 'wrote balance.gif: 100 frames'), (1, 'average, protocol paper: MPJPE')])
def test_the_start_commands_run_word_for_word(tmp_path, number, said):
    """The first two commands of the README, each on a clean copy of what git tracks."""
    clone = tmp_path / 'clone'
    subprocess.run(['git', 'clone', '-q', str(ROOT), str(clone)], check=True)
    outside = {k: v for k, v in os.environ.items() if k != 'VIRTUAL_ENV'}
    done = subprocess.run(commands(README)[number], shell=True, cwd=clone, capture_output=True, text=True, env=outside)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    shutil.rmtree(clone / '.venv')


def shortened(flags: list[str]) -> list[str]:
    """A documented command in its shortest form: training for one epoch on a tenth of the data; others as they are."""
    if {'--evaluate', '--check-data', '--inspect', '--resume'} & set(flags):
        return flags
    return [*flags, '-e', '1', '--subset', '0.1']  # the last of a flag given twice counts


def needs_no_data(flags: list[str]) -> bool:
    return 'synthetic' in flags and flags[flags.index('synthetic') - 1] == '-d'


@pytest.mark.slow
def test_documented_commands_that_need_no_data_run(tmp_path):
    """In one folder, those that train first, as the others name their checkpoints; in their order otherwise."""
    lines = [flags for flags in script_lines('run_ktpformer.py') if needs_no_data(flags)]
    assert len(lines) >= 7
    for flags in sorted(lines, key=lambda flags: '--evaluate' in flags):
        done = subprocess.run([sys.executable, ROOT / 'run_ktpformer.py', *shortened(flags)], cwd=tmp_path,
                              capture_output=True, text=True)
        assert done.returncode == 0, f'{shlex.join(flags)}: {done.stderr}'
        for flag in ('--results', '--export-predictions', '--plots', '--viz-output', '--viz-export'):
            if flag in flags:
                assert (tmp_path / flags[flags.index(flag) + 1]).exists(), f'{shlex.join(flags)}: {flag}'
