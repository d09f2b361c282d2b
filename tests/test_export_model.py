"""--export-model: files that give what the model gives, read by onnxruntime and torch where this program is not."""

import contextlib
import dataclasses
import functools
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from processes import ROOT
from test_every_model import SIZES
from toys.lens import LensConfig, LensNet

import run_ktpformer
from common import __version__
from common.cli.parser import parse
from common.errors import DivergedError, FileError, FlagError
from common.models import MODELS, build_model, model_class
from common.models.exported import PACKAGES, check_replaceable, described, export_model
from common.models.lifter import Lifter
from common.models.loading import LoadedLifter, load
from common.models.refine import Refined
from common.recipe import KEYPOINTS
from common.skeleton import COCO, H36M

ONNX, PT2 = '.onnx', '.pt2'
POSES = [name for name in MODELS if model_class(name).recipe.joints != KEYPOINTS]
# The others are slow, and so is a fresh process that imports torch.export.
FAST = [('videopose3d', ONNX)]
FLAGS = {ONNX: [], PT2: ['-no-tta', '--root', 'subtract']}  # with which the files of a kind are made here
# Begin what runs alone: with numpy and its runtime, without this program.
ALONE = '''import importlib.util, json, sys, numpy as np
assert importlib.util.find_spec('common') is None
'''
READ = {
    ONNX: '''import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
lift = lambda keypoints: session.run(None, {'keypoints': keypoints})[0]
about = session.get_modelmeta().custom_metadata_map
assert 'torch' not in sys.modules
''',
    PT2: '''import torch
told = {'pose_lifting.json': ''}
program = torch.export.load(sys.argv[1], extra_files=told).module()
lift = lambda keypoints: program(torch.from_numpy(keypoints)).numpy()
about = json.loads(told['pose_lifting.json'])
''',
}
ANSWER = '''batches = np.load(sys.argv[2])
np.savez(sys.argv[3], about=json.dumps(about), **{name: lift(batches[name]) for name in batches.files})
'''


def needs(suffix):
    for package in PACKAGES[suffix]:
        pytest.importorskip(package, reason=f'--export-model {suffix} needs it')


def alone(folder, script, *argv):
    """Run a script in a process of its own that finds this program nowhere."""
    done = subprocess.run([sys.executable, '-I', '-c', ALONE + script, *map(str, argv)], cwd=folder, text=True,
                          capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def public_file(folder, name, **more):
    """Write a bare state dict of a small model, none of whose weights is as it began."""
    body = model_class(name).body()
    model = build_model(name, {**parse(['--model', name, *map(str, SIZES[name])]).model.sizes(), **more}, body, body)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    torch.save(model.state_dict(), folder / f'{name}.pth')
    return folder / f'{name}.pth'


def by_hand(lifter, keypoints, flip, root):
    """Lift windows (B, F, K, 2 or 3) with the mirror and the root in plain words: (B, A, J, 3)."""
    def mirrored(points, names):
        swapped = [names.index(name.replace('left', 'RIGHT').replace('right', 'left').lower()) for name in names]
        return torch.cat([-points[..., swapped, :1], points[..., swapped, 1:]], dim=-1)
    with torch.no_grad():
        poses = lifter.model(keypoints)
        if flip:
            other = lifter.model(mirrored(keypoints, lifter.layout.joints))
            poses = (poses + mirrored(other, lifter.skeleton.joints)) / 2
    at = lifter.skeleton.joints.index('hip')
    if root == 'subtract':
        poses = poses - poses[:, :, [at]]
    if root == 'zero':
        poses[:, :, at] = 0
    return poses.numpy()


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """written(model, suffix) -> (its public file, the exported one); not to be written to."""
    @functools.cache
    def of(name, suffix):
        needs(suffix)
        folder, out, err = tmp_path_factory.mktemp(name), io.StringIO(), io.StringIO()
        source, path = public_file(folder, name), folder / f'lifter{suffix}'
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            assert run_ktpformer.main(['--evaluate', str(source), '--export-model', str(path), *FLAGS[suffix]]) == 0
        assert err.getvalue() == '' and f'{path}: reads keypoints (batch, ' in out.getvalue()
        assert 'read again, it gives what the model gives to' in out.getvalue()
        assert set(folder.iterdir()) == {path, source}
        return source, path
    return of


@pytest.mark.parametrize('name, suffix', [
    pytest.param(name, suffix, marks=[] if (name, suffix) in FAST else pytest.mark.slow)
    for name in POSES for suffix in PACKAGES])
def test_a_file_gives_what_the_model_gives_without_this_program(written, tmp_path, name, suffix):
    (source, path), recipe = written(name, suffix), model_class(name).recipe
    flip, root = (False, 'subtract') if FLAGS[suffix] else (recipe.flip, recipe.root)
    lifter = load(source, torch.device('cpu'))
    values = 3 if 'confidence' in lifter.model.needs else 2
    batches = {str(count): 2 * np.random.default_rng(count).random(
        (count, lifter.model.frames, len(lifter.layout), values), np.float32) - 1 for count in (1, 3, 64)}
    np.savez(tmp_path / 'in.npz', **batches)
    alone(tmp_path, READ[suffix] + ANSWER, path, tmp_path / 'in.npz', tmp_path / 'out.npz')
    answers = np.load(tmp_path / 'out.npz')
    for count, keypoints in batches.items():
        expected = by_hand(lifter, torch.from_numpy(keypoints), flip, root)
        assert answers[count].dtype == np.float32 and answers[count].shape == expected.shape
        assert np.abs(answers[count] - expected).max() <= 1e-5 * max(1, np.abs(expected).max())
    check_description(json.loads(str(answers['about'])), lifter, suffix, flip, root)


def check_description(about, lifter, suffix, flip, root):
    if suffix == ONNX:  # whose properties are texts
        texts = ('program', 'model', 'checkpoint', 'layout', 'skeleton', 'normalisation', 'root_is', 'unit', 'axes')
        about = {key: value if key in texts else json.loads(value) for key, value in about.items()}
    model, answers = lifter.model, lifter.model.answers
    assert about['program'] == f'pose-lifting {__version__}' and about['model'] == lifter.name
    assert (about['frames'], about['spacing']) == (model.frames, model.spacing)
    assert about['answers'] == [answers[0], answers[-1] + 1]
    assert (about['layout'], about['keypoints']) == (lifter.layout.name, list(lifter.layout.joints))
    assert (about['skeleton'], about['joints']) == (lifter.skeleton.name, list(lifter.skeleton.joints))
    assert about['parents'] == list(lifter.skeleton.parents) and about['joints'][about['root']] == 'hip'
    assert about['root_is'] == {'zero': 'set to 0', 'predicted': 'as predicted',
                                'subtract': 'subtracted from all joints'}[root]
    assert about['flip'] is flip
    assert about['values'] == ['x', 'y', 'confidence'][:2 + ('confidence' in model.needs)]
    assert about['unit'] == ('of the picture, of no known size' if type(model).public_data else 'metres')


@pytest.mark.parametrize('name', ['videopose3d', pytest.param('mixste', marks=pytest.mark.slow),
                                  pytest.param('pstmo', marks=pytest.mark.slow)])
def test_the_example_of_the_page_lifts_a_clip(written, tmp_path, name):
    """By windows back to back, as the program does, but for a last one that the program lets end with the clip."""
    source, path = written(name, ONNX)
    shutil.copy(path, tmp_path / 'lifter.onnx')
    pixels = np.random.default_rng(0).uniform(0, 1000, (40, len(H36M), 2))
    np.save(tmp_path / 'keypoints.npy', pixels)
    page = (Path(__file__).parents[1] / 'docs' / 'export.md').read_text()
    (example,) = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
    assert '(1920, 1080)' in example
    alone(tmp_path, example + "assert 'torch' not in sys.modules; np.save('poses.npy', poses)")
    poses = np.load(tmp_path / 'poses.npy')
    lifter = load(source, torch.device('cpu'))
    expected = lifter.lift_clip(pixels, size=(1920, 1080), overlap=0)
    whole = len(pixels) // len(lifter.model.answers) * len(lifter.model.answers)
    assert poses.shape == expected.shape
    assert np.abs(poses - expected)[:whole].max() < 1e-5 * max(1, np.abs(expected).max())


# ---- what is refused, without a file left ------------------------------------------------------------------------


@pytest.fixture
def left_nothing(tmp_path):
    """Hold a test to leaving no file of these kinds, whole or in part."""
    yield
    assert not [path for path in tmp_path.iterdir() if path.suffix in PACKAGES]


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    frames: int = 3


class Toy(Lifter):
    """Puts keypoints at depth 1; what else it does, its tests say."""

    title, Config, recipe = 'Toy', ToyConfig, LensNet.recipe

    def __init__(self):
        super().__init__(ToyConfig())
        self.depth = torch.nn.Parameter(torch.ones(1))

    def forward(self, keypoints):
        return torch.cat([keypoints, self.depth.expand(*keypoints.shape[:3], 1)], dim=-1)


class Lying(Toy):
    """Is traced as another model than it is."""

    def forward(self, keypoints):
        return super().forward(keypoints) * (1.0001 if torch.compiler.is_exporting() else 1)


class OfOneSize(Toy):
    """Takes no other number of windows than it was traced with."""

    def forward(self, keypoints):
        return super().forward(keypoints).reshape(len(keypoints), 3, -1, 3)


class Deciding(Toy):
    """Does one thing or the other by the values that it reads."""

    def forward(self, keypoints):
        return super().forward(keypoints) * (2 if keypoints.mean() > 0 else 1)


def loaded(model, layout=H36M):
    saved = SimpleNamespace(path=Path('toy.bin'), public=False, dataset='h36m')
    return LoadedLifter(model.eval(), 'toy', {}, layout, H36M, {}, '', saved)


def exported(path, model, layout=H36M):
    return export_model(path, loaded(model, layout), 'zero', True)


def test_a_toy_is_exported(tmp_path):
    about, difference = exported(tmp_path / 'toy.pt2', Toy())
    assert about == described(tmp_path / 'toy.pt2') and difference == 0


@pytest.mark.usefixtures('left_nothing')
@pytest.mark.parametrize('suffix', [PT2, pytest.param(ONNX, marks=pytest.mark.slow)])
def test_a_graph_that_differs_from_its_model_is_not_written(tmp_path, suffix):
    """By 0.1 mm of a metre."""
    needs(suffix)
    with pytest.raises(FileError, match=r'is not written: for 1 windows its graph and the model differ by 0\.0001'):
        exported(tmp_path / f'toy{suffix}', Lying())


@pytest.mark.usefixtures('left_nothing')
def test_a_file_that_cannot_be_read_again_is_not_written(tmp_path, monkeypatch):
    def read(path):
        raise RuntimeError('Unsupported model IR version')
    monkeypatch.setattr('common.models.exported.read_pt2', read)
    with pytest.raises(FileError, match=r'toy\.pt2 is not written: what would run it cannot read it \(Unsupported'):
        exported(tmp_path / 'toy.pt2', Toy())


@pytest.mark.usefixtures('left_nothing')
@pytest.mark.parametrize('model, why', [(OfOneSize, 'Constraints violated'), (Deciding, 'data-dependent')])
def test_a_model_that_torch_cannot_follow_is_refused(tmp_path, model, why):
    with pytest.raises(FlagError, match=rf'Toy cannot be traced by torch\.export \(.*{why}') as told:
        exported(tmp_path / 'toy.pt2', model())
    assert '\n' not in str(told.value)


@pytest.mark.skipif(sys.platform == 'win32', reason='Windows has no limit on the size of files')
@pytest.mark.slow
def test_a_full_disk_is_one_line(tmp_path):
    """torch's own writer would abort the process."""
    command = f'ulimit -f 200; {sys.executable} run_ktpformer.py --export-model {tmp_path / "a.pt2"}'
    done = subprocess.run(['bash', '-c', command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count('\n') == 1 and 'Traceback' not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures('left_nothing')
def test_diverged_weights_are_refused(tmp_path):
    model = Toy()
    torch.nn.init.constant_(model.depth, float('nan'))
    with pytest.raises(DivergedError, match=r'toy\.bin predicts NaN'):
        exported(tmp_path / 'toy.pt2', model)


@pytest.mark.usefixtures('left_nothing')
@pytest.mark.parametrize('model', [lambda: LensNet(LensConfig(), H36M, H36M), lambda: Refined(Toy(), H36M, H36M)])
def test_a_model_that_reads_more_than_keypoints_is_refused(tmp_path, model):
    with pytest.raises(FlagError, match=r"reads each camera's focal length and centre.*, and the graph is given"):
        exported(tmp_path / 'toy.pt2', model())


@pytest.mark.usefixtures('left_nothing')
def test_a_diffusion_is_refused(refused, tmp_path):
    source = public_file(tmp_path, 'mixste', diffusion=True)
    line = refused(2, '--evaluate', source, '--export-model', tmp_path / 'a.pt2')
    assert 'MixSTE in D3DP draws noise anew for each window' in line and 'without --diffusion' in line


@pytest.mark.usefixtures('left_nothing')
def test_what_tells_hidden_keypoints_is_refused(refused, tmp_path):
    source = public_file(tmp_path, 'pstmo_pretraining')
    line = refused(1, '--evaluate', source, '--export-model', tmp_path / 'a.pt2')
    assert 'tells keypoints in the picture, and no poses' in line


@pytest.mark.usefixtures('left_nothing')
@pytest.mark.parametrize('missing', PACKAGES[ONNX])
def test_missing_packages_are_named_with_the_line_for_pip(refused, tmp_path, monkeypatch, missing):
    needs(ONNX)
    monkeypatch.setitem(sys.modules, missing, None)
    line = refused(1, '--export-model', tmp_path / 'a.onnx')
    assert line.endswith(f'a.onnx needs {missing}: pip install onnx onnxscript onnxruntime')


@pytest.mark.parametrize('suffix', PACKAGES)
@pytest.mark.parametrize('content', [b'', b'text', b'\x08\x07\x12\x05other'])
def test_somebody_else_s_file_is_left_alone(refused, tmp_path, suffix, content):
    needs(suffix)
    path = tmp_path / f'detector{suffix}'
    path.write_bytes(content)
    assert f'{path} is there already, and --export-model did not write it' in refused(1, '--export-model', path)
    assert path.read_bytes() == content


def test_another_program_of_torch_is_left_alone_and_one_of_ours_is_not(tmp_path):
    program, path = torch.export.export(torch.nn.ReLU(), (torch.ones(2),)), tmp_path / 'a.pt2'
    torch.export.save(program, path)
    with pytest.raises(FileError, match='did not write it'):
        check_replaceable(path)
    for value in ('1', '[]', '{"program": 1}'):
        torch.export.save(program, path, extra_files={'pose_lifting.json': value})
        with pytest.raises(FileError, match='did not write it'):
            check_replaceable(path)
    for _ in range(2):
        exported(path, Toy())
        check_replaceable(path)


@pytest.mark.usefixtures('left_nothing')
@pytest.mark.parametrize('flags, status, why', [
    (['--export-model', 'a.bin'], 2, 'expected a name that ends in .onnx or .pt2'),
    (['--export-model', 'none/a.pt2'], 1, 'none is missing or read-only'),
    (['--export-model', 'a.pt2', '-c', 'checkpoint'], 2, '-c is the folder of a checkpoint'),
    (['--export-model', 'a.pt2', '--predict', 'a.npz'], 2, '--export-model and --predict exclude each other'),
    (['--export-model', 'a.pt2', '--device', 'cpu'], 2, '--device is not for --export-model'),
    (['--export-model', 'a.pt2', '--output', 'a.npz'], 2, '--output is for --predict'),
    (['--export-model', 'a.pt2', '--evaluate', 'a.pt2'], 2, '--export-model a.pt2 is also --evaluate'),
    (['--export-model', 'a.pt2', '--causal'], 1, 'was made with causal False'),
    (['--export-model', 'a.pt2', '-d', 'h36m'], 2, '-d is for public files'),
])
def test_flags_that_cannot_be(refused, flags, status, why):
    assert why in refused(status, *flags)


def test_keypoints_of_a_public_file_are_those_of_the_flags(run, refused, tmp_path):
    """And --causal is a size of the model, or nothing that a graph could have."""
    source, path = public_file(tmp_path, 'videopose3d'), tmp_path / 'a.pt2'
    flags = ['--evaluate', source, '-d', 'h36m', '-k', 'detectron_pt_coco', '--causal', '--export-model', path]
    assert run(*flags)[0] == 0
    about = described(path)
    assert (about['layout'], about['skeleton'], about['answers']) == (COCO.name, H36M.name, [8, 9])
    other = public_file(tmp_path, 'martinez')
    assert '--causal is not for --model martinez' in refused(2, '--evaluate', other, '--causal', '--export-model',
                                                             tmp_path / 'b.pt2')
