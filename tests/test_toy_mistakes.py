"""Test that a model's mistakes are refused in one line that names them, and that it gets what it may ask for."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import h36m_trees, write_h36m
from test_toys import CPU, SIZES, training
from toys import TOYS
from toys.centre import CentreNet
from toys.hypotheses import Hypotheses
from toys.lens import LensNet

import run_ktpformer
from common.errors import ContractError
from common.models import MODELS, build_model
from common.models.lifter import Lifter
from common.skeleton import H36M


class ReturnsAll(CentreNet):
    """Returns each frame of the window, though it answers for one."""

    def forward(self, keypoints):
        return super().forward(keypoints).expand(-1, self.frames, -1, -1)


class ReturnsOne(Hypotheses):
    """Returns one frame of the window, though it answers for all."""

    loss, lift = Lifter.loss, Lifter.lift

    def forward(self, keypoints):
        return super().forward(keypoints)[:, :1]


class ReturnsOneAtTest(Hypotheses):
    """Trains as it should; one of its predictions has one frame."""

    def lift(self, view, mirror):
        predictions = super().lift(view, mirror)
        return predictions | {'second': predictions['second'][:, :1]}


class ReturnsKeypoints(LensNet):
    """Returns a joint less than there are."""

    def forward(self, keypoints, intrinsic):
        return super().forward(keypoints, intrinsic)[:, :, 1:]


class NeedsWeather(LensNet):
    """Needs what nobody provides."""

    needs = frozenset({'intrinsic', 'weather'})


class AnswersLater(CentreNet):
    """Answers for a frame behind its window."""

    @classmethod
    def window(cls, config):
        return config.frames, range(config.frames, config.frames + 1)


class AnswersEverySecond(Hypotheses):
    """Answers for frames that are not neighbours."""

    @classmethod
    def window(cls, config):
        return config.frames, range(0, config.frames, 2)


class HasSpares(Hypotheses):
    """Has a weight that takes no part in the loss, as some public files do, and one that is not trained."""

    def __init__(self, config, skeleton, layout, **rates):
        super().__init__(config, skeleton, layout, **rates)
        self.spare = torch.nn.Parameter(torch.ones(3))
        self.fixed = torch.nn.Parameter(torch.ones(3), requires_grad=False)


SEEN = []


class ReadsConfidence(Lifter):
    """Lifts keypoints weighed by the detector's confidence."""

    title = 'Toy of confidence'
    Config = LensNet.Config
    needs = frozenset({'confidence'})
    recipe = dataclasses.replace(LensNet.recipe, batch=960)

    def __init__(self, config, skeleton, layout):
        super().__init__(config)
        self.head = torch.nn.Linear(3 * len(layout), 3 * len(skeleton))

    def forward(self, keypoints):
        SEEN.append(keypoints)
        return self.head(keypoints.flatten(2)).unflatten(-1, (-1, 3))


class ReadsTheRoot(ReadsConfidence):
    """Reads where the root is, which no clip tells."""

    needs = frozenset({'root'})

    def forward(self, keypoints, root):
        return super().forward(torch.cat([keypoints, root[..., None, 2:].expand(-1, -1, keypoints.shape[2], 1)], -1))


LIKE = {ReturnsAll: 'centre', ReturnsOne: 'hypotheses', ReturnsOneAtTest: 'hypotheses', ReturnsKeypoints: 'lens',
        NeedsWeather: 'lens', AnswersLater: 'centre', AnswersEverySecond: 'hypotheses', HasSpares: 'hypotheses',
        ReadsConfidence: 'lens', ReadsTheRoot: 'lens'}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """Register the toys, and the models of this file under the names of their classes."""
    for name, place in TOYS.items():
        monkeypatch.setitem(MODELS, name, place)
    for kind in LIKE:
        monkeypatch.setitem(MODELS, kind.__name__, f'{__name__}:{kind.__name__}')
    SEEN.clear()


@pytest.fixture
def flags(h36m_folder, tmp_path):
    """flags(kind, *more) -> those of an epoch of a model of this file, in tmp_path/run."""
    def main(kind, *more, data=h36m_folder, run='run'):
        like = LIKE[kind]
        return training(like, data, tmp_path, run, '--model', kind.__name__, '-e', 1, *more)
    return main


@pytest.mark.parametrize('kind, got, expected', [
    (ReturnsAll, (1, 9, 17, 3), (1, 1, 17, 3)), (ReturnsOne, (1, 1, 17, 3), (1, 9, 17, 3)),
    (ReturnsKeypoints, (2, 1, 16, 3), (2, 1, 17, 3))], ids=lambda value: getattr(value, '__name__', ''))
@pytest.mark.parametrize('more', [[], ['--no-eval']], ids=['validated', 'not validated'])
def test_a_wrong_shape_is_refused_at_the_start(refused, flags, tmp_path, kind, got, expected, more):
    """Before anything is learnt or written: it would be broadcast against the truth."""
    line = refused(1, *flags(kind, *more))
    assert f'{kind.__name__} predicts {got}, expected windows, answers, joints and coordinates {expected}' in line
    assert not list((tmp_path / 'run').glob('*.bin'))


def test_a_wrong_shape_is_refused_at_test(refused, run, flags, h36m_folder, tmp_path, monkeypatch):
    kind = ReturnsOneAtTest
    assert f'{kind.__name__} predicts (1, 1, 17, 3), expected windows' in refused(1, *flags(kind))
    monkeypatch.setattr('common.commands.train.check_lifting', lambda model, store: None)
    assert f'{kind.__name__} predicts (32, 1, 17, 3), expected windows' in refused(1, *flags(kind, '--overwrite'))
    assert run(*flags(kind, '--no-eval', '--overwrite'))[0] == 0
    saved = ['-c', tmp_path / 'run', '--evaluate', 'last.bin', '--data', h36m_folder, *CPU]
    for more in ([], ['--causal'], ['--render', '--viz-export', tmp_path / 'a.npy']):
        assert f'{kind.__name__} predicts (' in refused(1, *saved, *more)
    assert not (tmp_path / 'a.npy').exists()


@pytest.mark.parametrize('kind, got', [(ReturnsAll, (64, 9, 17, 3)), (ReturnsOne, (10, 1, 17, 3))],
                         ids=lambda value: getattr(value, '__name__', ''))
def test_a_wrong_shape_is_refused_at_the_loss(refused, flags, monkeypatch, kind, got):
    """Check it also where the look at one window, before training, found nothing."""
    monkeypatch.setattr('common.commands.train.check_lifting', lambda model, store: None)
    assert f'{kind.__name__} predicts {got}' in refused(1, *flags(kind, '--no-eval'))


@pytest.mark.parametrize('kind, words', [
    (NeedsWeather, 'NeedsWeather needs weather, which nobody provides; known are confidence, intrinsic, root, '
                   'root_depth'),
    (AnswersLater, 'AnswersLater answers for range(9, 10), expected consecutive frames of its 9'),
    (AnswersEverySecond, 'AnswersEverySecond answers for range(0, 9, 2), expected consecutive frames of its 9')],
    ids=lambda value: getattr(value, '__name__', ''))
def test_a_contract_that_cannot_be_kept_is_refused(refused, flags, kind, words):
    assert words in refused(1, *flags(kind))
    with pytest.raises(ContractError, match=kind.__name__):
        build_model(kind.__name__, {}, H36M, H36M)


@pytest.mark.parametrize('name, more, words', [
    ('centre', ['-num_heads', 4], '-num_heads is not for --model centre: leave it out'),
    ('centre', ['-dep', 1], '-dep is not for --model centre'), ('lens', ['--hidden', 9], '--hidden is not for'),
    ('hypotheses', ['--no-kpa'], '--no-kpa is not for --model hypotheses'),
    ('centre', ['--drop-path', 0.1], '--drop-path is not for --model centre'),
    ('hypotheses', ['--dropout', 0.1], '--dropout is not for --model hypotheses'),
    ('lens', ['-f', 27], '-f 27: lens reads windows of 1 frame'),
    ('centre', ['-f', 8], '-f 8 -cs 16: 8 frames have none in their middle'),
    ('hypotheses', ['-cs', 15], '-f 9 -cs 15: 15 channels cannot be divided among 2 heads'),
    ('hypotheses', ['-num_heads', 3], '-num_heads 3: 16 channels cannot be divided among 3 heads')])
def test_flags_that_a_model_does_not_have_and_sizes_that_cannot_be(refused, h36m_folder, tmp_path, name, more, words):
    assert words in refused(2, *training(name, h36m_folder, tmp_path, 'run', *more))
    assert not (tmp_path / 'run').exists()


def test_a_checkpoint_is_of_one_model_and_its_sizes(refused, run, h36m_folder, tmp_path, monkeypatch):
    assert run(*training('centre', h36m_folder, tmp_path, 'run', '-e', 1, '--no-eval'))[0] == 0
    saved = ['-c', tmp_path / 'run', '--evaluate', 'last.bin', '--data', h36m_folder, *CPU]
    assert 'is a Toy centre net checkpoint, which --model lens contradicts' in refused(1, *saved, '--model', 'lens')
    assert 'was made with frames 9, which -f 27 contradicts' in refused(1, *saved, '-f', 27)
    assert '-num_heads is not for --model centre' in refused(2, *saved, '-num_heads', 4)
    content = torch.load(tmp_path / 'run' / 'last.bin')
    torch.save(content | {'config': {'frames': 6, 'channels': 16}}, tmp_path / 'broken.bin')
    assert 'broken.bin describes a model that cannot be built: 6 frames have none in their middle' in \
        refused(1, *saved, '--evaluate', tmp_path / 'broken.bin')
    torch.save({'model_pos': content['model_pos'], 'epoch': 1, 'lr': 1e-3}, tmp_path / 'public.bin')
    for how in ([*saved, '--model', 'centre', '--evaluate', tmp_path / 'public.bin'],
                training('centre', h36m_folder, tmp_path, 'new', '--init', tmp_path / 'public.bin')):
        assert 'no public file of Toy centre net can be read' in refused(1, *how)
    monkeypatch.delitem(MODELS, 'centre')
    assert 'is a centre checkpoint, this program builds ktpformer, mixste' in refused(1, *saved)


def test_weights_that_take_no_part_stay_as_they_are(run, flags, h36m_folder, tmp_path):
    """Trained, resumed and evaluated; without weight decay both spares keep their values."""
    assert run(*flags(HasSpares, '-cf', 1))[0] == 0
    status, out, err = run(*flags(HasSpares, '-e', 2, '--resume'))
    assert (status, err) == (0, '')
    assert 'continuing' in out
    saved = torch.load(tmp_path / 'run' / 'last.bin')
    assert saved['epoch'] == 2
    for name in ('spare', 'fixed'):
        assert torch.equal(saved['model_pos'][name], torch.ones(3))


def write_scored(folder, scores):
    """Write the small Human3.6M with a third column, the scores of the 17 keypoints."""
    positions, detections = h36m_trees({'S1': {'Walking': 30}, 'S9': {'Walking': 20}})
    scored = {subject: {take: [np.concatenate([view, np.broadcast_to(scores[:, None], (len(view), 17, 1))], axis=-1)
                               for view in views] for take, views in takes.items()}
              for subject, takes in detections.items()}
    write_h36m(folder, positions, scored)


def test_confidence_comes_beside_the_keypoints(run, flags, tmp_path):
    """The third column of the 2D file, swapped with its keypoints in mirrored windows, in training and at test."""
    scores = np.linspace(0.1, 0.9, 17, dtype=np.float32)
    write_scored(tmp_path, scores)
    status, out, err = run(*flags(ReadsConfidence, data=tmp_path))
    assert (status, err) == (0, '')
    assert 'tells no confidence' not in out
    assert "reads the detector's confidence in each keypoint" in out
    swapped = scores[list(H36M.mirror)]
    plain = mirrored = 0
    for keypoints in SEEN:
        assert keypoints.shape[1:] == (1, 17, 3)
        for row in keypoints[:, 0, :, 2].numpy():
            plain, mirrored = plain + np.array_equal(row, scores), mirrored + np.array_equal(row, swapped)
    assert plain == mirrored == sum(len(keypoints) for keypoints in SEEN) / 2
    # A model that does not ask for it sees two columns of the same file.
    assert run(*training('centre', tmp_path, tmp_path, 'plain', '-e', 1))[0] == 0


def test_confidence_is_1_and_said_to_be_where_no_file_tells_any(run, flags, h36m_folder, tmp_path):
    status, out, err = run(*flags(ReadsConfidence, '--results', tmp_path / 'r.json'))
    assert (status, err) == (0, '')
    assert 'tells no confidence: it is 1 for each keypoint' in out
    assert SEEN and all((keypoints[..., 2] == 1).all() for keypoints in SEEN)
    assert json.loads((tmp_path / 'r.json').read_text())['reads'] == {
        'predicted': "the detector's confidence in each keypoint"}
    SEEN.clear()
    random = np.random.default_rng(0)
    pixels = (random.uniform(100, 900, (1, 17, 3)) + random.normal(size=(5, 17, 3))).astype(np.float32)
    pixels[..., 2] = 0.75
    np.save(tmp_path / 'clip.npy', pixels)
    status, _, err = run('-c', tmp_path / 'run', '--evaluate', 'best.bin', '--predict', tmp_path / 'clip.npy',
                         '--layout', 'h36m', '--output', tmp_path / 'out.npz', '--image-size', 1000, 1000, '--as-is',
                         *CPU)
    assert (status, err) == (0, '')
    assert SEEN and all((keypoints[..., 2] == 0.75).all() for keypoints in SEEN)


def test_what_only_the_truth_tells_is_not_there_for_a_clip(run, refused, flags, tmp_path):
    status, out, err = run(*flags(ReadsTheRoot))
    assert (status, err) == (0, '')
    assert 'predicted: besides the keypoints it reads the true position of the root joint in every frame' in out
    np.save(tmp_path / 'clip.npy', np.random.default_rng(0).uniform(100, 900, (5, 17, 2)).astype(np.float32))
    assert 'reads the true position of the root joint in every frame, which keypoints alone do not tell' in \
        refused(1, '-c', tmp_path / 'run', '--evaluate', 'best.bin', '--predict', tmp_path / 'clip.npy', '--layout',
                'h36m', '--output', tmp_path / 'out.npz', '--image-size', 1000, 1000, '--as-is', *CPU)


def test_the_program_without_toys_does_not_know_them(capfd):
    assert SIZES.keys() == TOYS.keys()
    with pytest.MonkeyPatch.context() as patch:
        for name in TOYS:
            patch.delitem(MODELS, name)
        assert run_ktpformer.main(['--model', 'centre']) == 2
    assert "invalid choice: 'centre'" in capfd.readouterr().err
