"""The rules of the source tree: imports point one way, only the two safe readers unpickle, nothing says .cuda()."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from common.datasets import DATASETS
from common.models import MODELS as MODEL_NAMES

ROOT = Path(__file__).parents[1]
# Where `predicted` is not the name of a prediction but how the root is taken, or the column of an old file.
SAY_PREDICTED = ('common.config', 'common.recipe', 'common.training.loop', 'common.commands.evaluate',
                 'common.evaluation.figures')
FOLDERS = ('common', 'data', 'benchmarks')
FILES = sorted([ROOT / 'run_ktpformer.py', *(path for folder in FOLDERS for path in (ROOT / folder).rglob('*.py'))])
MODULES = [pytest.param(path, id=str(path.relative_to(ROOT))) for path in FILES]

# A module may import from its own layer and those after it.
LAYERS = [
    {'run_ktpformer', 'data', 'benchmarks'},
    {'common.commands', 'common.cli'},
    {'common.training'},
    {'common.evaluation'},
    {'common.drawing'},
    {'common.settings'},
    {'common.config'},
    {'common.config_predict'},
    {'common.datasets', 'common.detectors', 'common.exports', 'common.keypoints', 'common.models'},
    {'common.sampler'},
    {'common.store'},
    {'common.windows', 'common.augment', 'common.metrics', 'common.losses', 'common.sequences', 'common.recipe',
     'common.flag', 'common.noise', 'common.views'},
    {'common.geometry', 'common.skeleton', 'common.storage', 'common.distributed', 'common.errors',
     'common.threads'},
]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def layer_of(module: str) -> int | None:
    if module == 'common':
        return len(LAYERS)
    for index, layer in enumerate(LAYERS):
        if any(module == name or module.startswith(name + '.') for name in layer):
            return index
    return None


def imports_of(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            for alias in node.names:
                full = f'{node.module}.{alias.name}'
                yield (full if layer_of(full) != layer_of(node.module) and layer_of(full) is not None else node.module,
                       alias.name)


@pytest.mark.parametrize('path', MODULES)
def test_imports_point_down(path):
    own = layer_of(name_of(path))
    assert own is not None, f'{path} has no layer: give it one in tests/test_layout.py'
    for module, name in imports_of(path):
        assert name != '*', f'{path}: star import from {module}'
        if module.split('.')[0] in ('common', 'data', 'benchmarks', 'run_ktpformer'):
            assert layer_of(module) >= own, f'{path} imports {module}, a layer above it'


def test_the_command_line_is_parsed_without_torch():
    code = "import sys; from common.cli import parser; parser.parse(['-d', 'cmu']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)


def test_models_see_no_arguments_data_sets_or_process_groups():
    for path in (ROOT / 'common' / 'models').glob('*.py'):
        for module, _ in imports_of(path):
            assert not module.startswith(('common.datasets', 'common.commands', 'common.cli', 'common.training',
                                          'common.evaluation', 'common.distributed', 'torch.distributed')), path


@pytest.mark.parametrize('path', MODULES)
def test_nothing_but_their_registries_knows_models_and_data_sets_by_name(path):
    """No name of a model or data set as a value, no class of a model asked for, outside the packages they live in."""
    own = name_of(path)
    models = set(MODEL_NAMES) | {'refined', 'predicted'}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and own.startswith('common.') and not own.startswith('common.models'):
            known = models - ({'predicted'} if own in SAY_PREDICTED else set())
            assert node.value not in known, f'{path}:{node.lineno} names the model or prediction {node.value}'
            if not own.startswith(('common.datasets', 'common.keypoints', 'common.skeleton')):  # layouts' names
                assert node.value not in DATASETS, f'{path}:{node.lineno} names the data set {node.value}'
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ('isinstance', 'issubclass', 'type'):
            asked = ast.unparse(node)
            assert own.startswith('common.models') or not any(
                word in asked for word in ('Lifter', 'Refined', 'KTPFormer', 'HTNet')), f'{path}:{node.lineno}: {asked}'
    assert 'getattr(args' not in path.read_text(), path


@pytest.mark.parametrize('path', MODULES)
def test_no_unsafe_calls(path):
    """No .cuda(), and unpickling only in the readers that restrict it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            assert node.attr != 'cuda' or ast.unparse(node.value) in ('torch', 'torch.backends'), path
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            safe = any(k.arg == 'weights_only' and ast.unparse(k.value) == 'True' for k in node.keywords)
            assert called != 'torch.load' or safe, path
            assert called not in ('pickle.load', 'pickle.loads', 'eval', 'exec', 'np.load', 'numpy.load'), path
            assert not any(k.arg == 'allow_pickle' and ast.unparse(k.value) != 'False' for k in node.keywords), path
    if 'pickle.Unpickler' in path.read_text():
        assert name_of(path) == 'common.storage.npz'


@pytest.mark.parametrize('path', MODULES)
def test_sizes(path):
    """Files under about 400 lines, functions under about 60."""
    source = path.read_text()
    assert len(source.splitlines()) <= 420
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < 66, f'{path}: {node.name}'


def test_top_level():
    tracked = {'run_ktpformer.py', 'common', 'data', 'checkpoint', 'log', 'requirements.txt', 'README.md', 'tests',
               'benchmarks', 'pyproject.toml', 'LICENSE', '.ci', '.gitignore'}
    assert tracked <= {p.name for p in ROOT.iterdir()}


def test_nothing_refers_to_the_reference_folder():
    for path in (*FILES, ROOT / 'README.md', ROOT / 'requirements.txt'):
        text = path.read_text()
        for word in ('../shared', 'FORMATS', 'MODELS.md', 'DESIGN.md', 'MODELS §'):
            assert word not in text, f'{path} refers to {word}'
