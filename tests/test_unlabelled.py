"""--unlabelled in the whole program: windows without 3D that teach, their order, and what is never read."""

import copy
import json
import os
import shutil
import signal
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import TAKES, h36m_trees, write_h36m
from test_resume import assert_same_run

from common.cli.parser import parse
from common.commands.plan import make_plan
from common.commands.session import Session
from common.datasets import h36m, load_dataset
from common.distributed import World
from common.errors import FlagError
from common.geometry import camera
from common.models import build_model, load_lifter
from common.models.lifter import NEEDS
from common.skeleton import H36M
from common.storage.npz import read_npz
from common.training.loop import Trainer

MORE = {'S6': {'Directions': 30, 'Sitting': 25}, 'S7': {'Directions 1': 22}}
BATCH, R = 64, 9
MODEL = ['--model', 'videopose3d', '-f', R, '-cs', 8]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Return a folder with S6 and S7 beside the others, and the 2D of S2 without 3D; not to be written to."""
    folder = tmp_path_factory.mktemp('more')
    positions, detections = h36m_trees(TAKES | MORE)
    write_h36m(folder, positions, detections | {'S2': detections['S7']})
    return folder


def flags_of(name, tmp_path, data, *more):
    """Return the flags of three epochs of 15 steps in tmp_path/name, dropout on."""
    return [*MODEL, *data_of(data), '-b', BATCH, '-e', 3, '-c', tmp_path / name, '-l', tmp_path / f'{name}-log', *more]


def data_of(data):
    return ['-k', 'gt', '--data', data, '-str', 'S1', '-ste', 'S9', '--device', 'cpu']


@pytest.fixture
def flags(folder, tmp_path):
    return lambda name, *more, data=folder: flags_of(name, tmp_path, data, *more)


@pytest.fixture(scope='module')
def whole(folder, tmp_path_factory):
    """Return the checkpoint folder of an undisturbed run with S6 and S7 beside S1; not to be written to."""
    import run_ktpformer
    tmp_path = tmp_path_factory.mktemp('whole')
    assert run_ktpformer.main([str(f) for f in flags_of('run', tmp_path, folder, '--unlabelled', 'S6,S7')]) == 0
    return tmp_path / 'run'


@pytest.fixture
def watched(monkeypatch):
    """Return (epoch, step, a copy of the model before it, its loss) of each step that is trained from now on."""
    seen, gradient = [], Trainer.gradient

    def watch(self, step, epoch, *objective):
        before = copy.deepcopy(self.model)
        loss = gradient(self, step, epoch, *objective)
        seen.append((epoch, step, before, loss.item()))
        return loss
    monkeypatch.setattr(Trainer, 'gradient', watch)
    return seen


def weights_of(folder, name='last.bin'):
    return torch.load(folder / name, weights_only=True)['model_pos']


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


def windows_by_hand(folder, seed=4321):
    """Yield (keypoints, intrinsic) of the unlabelled windows of each step of a run, from the files themselves."""
    tracks = []
    for takes in (read_npz(folder / 'data_2d_h36m_gt.npz')['positions_2d'][subject] for subject in MORE):
        for views in takes.values():
            for lens, pixels in zip(h36m.LENSES, views, strict=True):
                screen = camera.normalise(pixels.astype(np.float32), lens.width, lens.height)
                tracks.append((screen, lens.at((1, 0, 0, 0), (0, 0, 0)).intrinsic))
    windows = [(track, frame, flip) for track, (screen, _) in enumerate(tracks)
               for flip in (False, True) for frame in range(len(screen))]
    random = np.random.RandomState(seed)
    while True:
        order = random.permutation(len(windows))
        for begin in range(0, len(order), BATCH):
            keypoints, lenses = [], []
            for track, frame, flip in (windows[index] for index in order[begin:begin + BATCH]):
                screen, lens = tracks[track]
                read = screen[np.clip(np.arange(frame - R // 2, frame + R // 2 + 1), 0, len(screen) - 1)]
                if flip:
                    read, lens = read[:, list(H36M.mirror)] * [-1, 1], lens * [1, 1, -1, 1, 1, 1, 1, -1, 1]
                keypoints.append(read)
                lenses.append(lens)
            yield np.stack(keypoints), np.stack(lenses)


def loss_by_hand(model, step, beside):
    """Return the terms of a step's loss: poses, roots, and of windows without truth the projection and the bones."""
    count = len(step.batch.keypoints)
    keypoints = step.batch.keypoints
    if beside is not None:
        keypoints = torch.cat([keypoints, torch.tensor(beside[0], dtype=torch.float32)])
    poses, roots = (net.train()(keypoints).detach().double().numpy() for net in (model.base, model.trajectory))
    root = step.batch.root.double().numpy()
    parts = [np.linalg.norm(poses[:count] - step.batch.poses.double().numpy(), axis=-1).mean(),
             (np.linalg.norm(roots[:count, :, 0] - root, axis=-1) / root[..., 2]).mean()]
    if beside is None:
        return parts
    seen, points = beside[0][:, R // 2], (poses + roots)[count:, 0]
    off = [np.linalg.norm(camera.project(where, lens) - on, axis=-1).mean()
           for where, lens, on in zip(points, beside[1], seen, strict=True)]
    bones = [abs(np.linalg.norm(poses[:count, :, a] - poses[:count, :, b], axis=-1).mean()
                 - np.linalg.norm(poses[count:, :, a] - poses[count:, :, b], axis=-1).mean()) for a, b in H36M.edges]
    return [*parts, np.mean(off), np.mean(bones)]


def test_each_step_is_the_published_one(flags, folder, run, watched):
    """Three epochs, step by step: windows and order, whatever passes over the unlabelled ones, and all four terms."""
    status, out, err = run(*flags('run', '--unlabelled', 'S6,S7', '--dropout', 0))
    assert (status, err) == (0, '')
    assert '2D alone: subjects S6,S7, 12 sequences, 326 frames, 652 windows, from epoch 2 on' in out
    assert f'training reads {NEEDS["root"]} of labelled windows and {NEEDS["intrinsic"]} of those of 2D alone' in out
    assert len(watched) == 45
    sizes = set()
    for (epoch, step, model, loss), beside in zip(watched, windows_by_hand(folder), strict=False):
        if epoch == 1:
            assert step.beside is None
            terms = loss_by_hand(model, step, None)
        else:
            assert step.beside.poses is step.beside.root is step.beside.root_depth is None
            np.testing.assert_allclose(step.beside.keypoints, beside[0], atol=1e-6)
            np.testing.assert_allclose(step.beside.intrinsic, beside[1], rtol=1e-6)
            sizes.add(len(beside[0]))
            terms = loss_by_hand(model, step, beside)
            assert min(terms) > 0.01
        assert loss == pytest.approx(sum(terms), rel=1e-4)
    assert sizes == {BATCH, 652 % BATCH}


@pytest.mark.parametrize('warmup, first', [(0, 1), (2, 3), (9, None)])
def test_warm_up_is_counted_in_epochs(flags, run, watched, warmup, first):
    assert run(*flags('run', '--unlabelled', 'S6', '--warmup-epochs', warmup, '--no-eval'))[0] == 0
    joined = {epoch for epoch, step, _, _ in watched if step.beside is not None}
    assert joined == ({*range(first, 4)} if first else set())


def test_another_seed_is_another_order_of_both(flags, folder, run, watched):
    assert run(*flags('run', '--unlabelled', 'S6,S7', '--warmup-epochs', 0, '--seed', 7, '-e', 1, '--no-eval'))[0] == 0
    expected = next(windows_by_hand(folder, seed=7 + 4321 - 1234))
    np.testing.assert_allclose(watched[0][1].beside.keypoints, expected[0], atol=1e-6)


@pytest.mark.parametrize('epoch, step', [(1, 7), (1, 14), (2, 3), (3, 11)])
def test_a_stopped_and_resumed_run_is_the_undisturbed_one(flags, whole, run, monkeypatch, tmp_path, epoch, step):
    """Bit for bit, wherever it stops: in the warm-up, at its end, within a pass over the unlabelled windows."""
    gradient = Trainer.gradient

    def stopping(self, at, number, *objective):
        if (number, at.number) == (epoch, step):
            os.kill(os.getpid(), signal.SIGINT)
        return gradient(self, at, number, *objective)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, 'gradient', stopping)
        assert run(*flags('run', '--unlabelled', 'S6,S7'))[0] == 130
    status, out, _ = run('--resume', *flags('run')[-4:], '--data', flags('run')[flags('run').index('--data') + 1],
                         '--device', 'cpu')
    assert status == 0
    assert 'continuing' in out
    assert_same_run(whole, tmp_path / 'run')


@pytest.mark.parametrize('broken', ['NaN', 'absent', 'short'])
def test_the_3d_of_unlabelled_subjects_is_never_read(flags, folder, whole, run, tmp_path, broken):
    shutil.copytree(folder, tmp_path / 'data')
    positions, detections = (read_npz(folder / name)[member] for name, member in (
        ('data_3d_h36m.npz', 'positions_3d'), ('data_2d_h36m_gt.npz', 'positions_2d')))
    for subject in MORE:
        for take, array in positions[subject].items():
            positions[subject][take] = np.full_like(array, np.nan) if broken == 'NaN' else array[:5]
        if broken == 'absent':
            del positions[subject]
    write_h36m(tmp_path / 'data', positions, detections)
    assert run(*flags('run', '--unlabelled', 'S6,S7', data=tmp_path / 'data'))[0] == 0
    assert_same_run(whole, tmp_path / 'run')


def test_subjects_without_3d_teach(flags, run, watched):
    """S2 has the 2D of S7 here; the lenses are those of all subjects, where its cameras stood is not known."""
    for name in ('S2', 'S7'):
        assert run(*flags(name, '--unlabelled', name, '-a', 'Directions', '--no-eval'))[0] == 0
    half = len(watched) // 2
    assert [loss for *_, loss in watched[:half]] == [loss for *_, loss in watched[half:]]
    assert watched[-1][1].beside is not None


def test_unlabelled_subjects_are_no_training_subjects(folder, run, tmp_path):
    """The default ones are those that are left; here S1, S5 and S8, of which the files have S1."""
    positions, detections = h36m_trees({subject: {'Directions': 12} for subject in ('S1', 'S5', 'S6', 'S7', 'S8')})
    write_h36m(tmp_path, positions, detections)
    status, out, _ = run(*MODEL, '-k', 'gt', '--data', tmp_path, '-e', 1, '--no-eval', '--device', 'cpu', '-c',
                         tmp_path / 'c', '-l', tmp_path / 'l', '--unlabelled', 'S6,S7')
    assert status == 0
    assert 'training: subjects S1,S5,S8,' in out


# ---- what becomes of the checkpoint -----------------------------------------------------------------------------


@pytest.fixture
def base_alone(whole, tmp_path):
    """Return a file with the weights of the lifter alone, as the published program writes it."""
    state = {key.removeprefix('base.'): value for key, value in weights_of(whole).items() if key.startswith('base.')}
    torch.save({'epoch': 3, 'lr': 1e-3, 'model_pos': state}, tmp_path / 'alone.bin')
    return tmp_path / 'alone.bin'


def test_evaluation_is_that_of_the_lifter_alone(whole, folder, base_alone, run, tmp_path):
    """It reads nothing besides the keypoints, and says so: no intrinsics, no root."""
    results = []
    for file in (whole / 'last.bin', base_alone):
        status, out, err = run('-k', 'gt', '--data', folder, '-ste', 'S9,S11', '--device', 'cpu', '--evaluate', file,
                               '--results', tmp_path / 'r.json', '-c', tmp_path)
        assert (status, err) == (0, '')
        assert 'besides the keypoints' not in out
        results.append(json.loads((tmp_path / 'r.json').read_text()))
    assert 'reads' not in results[0]
    assert results[0]['protocols'] == results[1]['protocols']
    model = load_lifter(whole / 'last.bin').model
    assert (model.needs, model.reads('predicted')) == (frozenset(), frozenset())
    assert (model.needs_to_learn, model.needs_beside) == ({'root'}, {'intrinsic'})


def test_predict_and_render_use_the_lifter(whole, folder, base_alone, run, tmp_path):
    pixels = np.asarray(read_npz(folder / 'data_2d_h36m_gt.npz')['positions_2d']['S9']['Directions'][0])
    np.save(tmp_path / 'in.npy', pixels)
    poses = []
    for file in (whole / 'last.bin', base_alone):
        status, out, err = run('--evaluate', file, '--predict', tmp_path / 'in.npy', '--output', tmp_path / 'out.npz',
                               '--image-size', 1000, 1002, '--layout', 'h36m', '--device', 'cpu', '-c', tmp_path)
        assert (status, err) == (0, '')
        assert 'left out' not in out
        poses.append(read_npz(tmp_path / 'out.npz')['poses'])
    np.testing.assert_array_equal(*poses)
    assert run('-k', 'gt', '--data', folder, '--device', 'cpu', '-c', whole, '--evaluate', 'last.bin', '--render',
               '--viz-output', tmp_path / 'film.png')[0] == 0
    assert (tmp_path / 'film.png').is_file()
    status, out, _ = run('-c', whole, '--inspect', 'last.bin')
    assert status == 0
    assert "'trajectory': True" in out


def test_init_takes_the_weights_that_have_a_place(flags, whole, base_alone, run, tmp_path):
    """Both networks of such a run; the lifter of another one, with a fresh one for the root; the lifter of such a run.

    At a rate of nearly nothing.
    """
    before = weights_of(whole)
    still = ['-lr', 1e-9, '-e', 1, '--warmup-epochs', 0, '--unlabelled', 'S6']
    assert run(*flags('both', '--init', whole / 'last.bin', *still))[0] == 0
    assert run(*flags('fresh', '--init', base_alone, *still))[0] == 0
    assert run(*flags('alone', '--init', whole / 'last.bin', *still[:4]))[0] == 0
    both, fresh, alone = (weights_of(tmp_path / name) for name in ('both', 'fresh', 'alone'))
    assert both.keys() == fresh.keys() == before.keys()
    for key, value in before.items():
        if 'running' in key or 'num_batches' in key:
            continue
        torch.testing.assert_close(both[key], value, atol=1e-6, rtol=0)
        if key.startswith('base.'):
            torch.testing.assert_close(fresh[key], value, atol=1e-6, rtol=0)
            torch.testing.assert_close(alone[key.removeprefix('base.')], value, atol=1e-6, rtol=0)
    assert (fresh['trajectory.expand_conv.weight'] - before['trajectory.expand_conv.weight']).abs().max() > 0.01
    assert not any(key.startswith('trajectory.') for key in alone)
    assert 'trajectory' not in torch.load(tmp_path / 'alone' / 'last.bin', weights_only=True)['config']


# ---- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('more, message', [
    (['--unlabelled', 'S1'], '--unlabelled S1 is a training subject too'),
    (['--unlabelled', 'S6,S9'], '--unlabelled S9 is a test subject too'),
    (['--unlabelled', 'S6', '--subjects-valid', 'S6'], '--unlabelled S6 is a validation subject too'),
    (['--unlabelled', 'S5'], 'data_2d_h36m_gt.npz has no subject S5; there are S1, S9, S11, S6, S7, S2'),
    (['--unlabelled', 'S6', '-a', 'SittingDown'], 'subject S6 of h36m has no take of actions SittingDown'),
    (['--warmup-epochs', '2'], '--warmup-epochs needs --unlabelled'),
    (['--unlabelled', 'S6', '--refine', '--init', 'x.bin'], '--unlabelled and --refine exclude each other'),
])
def test_subjects_and_flags_that_cannot_be_are_refused(flags, refused, more, message):
    assert message in refused(2, *flags('run', *more))


def test_models_that_cannot_learn_so_are_refused(flags, refused):
    assert '--unlabelled is not for --model htnet: leave it out' in \
        refused(2, '--model', 'htnet', *flags('run', '--unlabelled', 'S6')[6:])
    with pytest.raises(ValueError, match='windows without truth cannot teach HTNet'):
        build_model('htnet', {'trajectory': True}, H36M, H36M)
    with pytest.raises(ValueError, match='cannot have a refinement and training by windows without truth around it'):
        build_model('videopose3d', {'trajectory': True, 'refine': True}, H36M, H36M)


def test_all_training_subjects_without_labels_are_refused(folder, refused, tmp_path):
    assert '--unlabelled and --subjects-valid leave no training subject' in refused(
        2, *MODEL, '-k', 'gt', '--data', folder, '--no-eval', '--device', 'cpu', '-c', tmp_path / 'c', '-l',
        tmp_path / 'l', '--unlabelled', 'S1,S5,S6,S7,S8')


def test_keypoints_that_are_not_the_joints_are_refused(flags, folder, refused, tmp_path):
    write_h36m(tmp_path, *h36m_trees({'S1': {'Directions': 12}, 'S6': {'Directions': 12}, 'S9': {'Directions': 12}}),
               metadata={'layout_name': 'coco', 'num_joints': 17, 'keypoints_symmetry': [
                   [1, 3, 5, 7, 9, 11, 13, 15], [2, 4, 6, 8, 10, 12, 14, 16]]})
    assert 'need a keypoint for each joint to compare it with, not coco for h36m' in \
        refused(2, *flags('run', '--unlabelled', 'S6', data=tmp_path))


def test_cameras_that_nobody_knows_are_refused(flags, refused, monkeypatch):
    """Of the unlabelled subjects alone: labelled ones need none."""
    monkeypatch.setitem(h36m.CAMERAS, 'S6', [replace(lens, intrinsic=None) for lens in h36m.CAMERAS['S6']])
    assert f'VideoPose3D reads {NEEDS["intrinsic"]}, which h36m does not tell for S6,S7' in \
        refused(2, *flags('run', '--unlabelled', 'S6,S7'))


@pytest.mark.parametrize('change, message', [
    (lambda views: views.pop(), 'has 3 cameras for S6 Directions, but h36m has 4'),
    (lambda views: views[1].__setitem__((3, 4), np.nan), 'NaN or infinite coordinates in S6 Directions camera 1'),
])
def test_broken_2d_of_unlabelled_subjects_is_refused(flags, refused, tmp_path, change, message):
    positions, detections = h36m_trees(TAKES | MORE)
    change(detections['S6']['Directions'])
    write_h36m(tmp_path, positions, detections)
    assert message in refused(1, *flags('run', '--unlabelled', 'S6', data=tmp_path))


class Two(World):
    """Two processes of which the other one agrees to everything."""

    def told(self, value):
        return value


def test_several_processes_are_refused(flags):
    config = parse([str(flag) for flag in flags('run', '--unlabelled', 'S6')])
    with pytest.raises(FlagError, match='--unlabelled runs in one process: start it without torchrun'):
        make_plan(Session(config, torch.device('cpu'), Two(0, 2), print))


def test_a_resumed_run_cannot_become_or_cease_to_be_one(flags, whole, refused, run, tmp_path):
    assert run(*flags('plain', '-e', 1, '--no-eval'))[0] == 0
    last = tmp_path / 'plain' / 'last.bin'
    assert f'--unlabelled begins from a trained model: say --init {last}, not --resume' in \
        refused(2, *flags('plain', '--unlabelled', 'S6', '--resume', last))
    assert 'name those of -d synthetic with --unlabelled' in \
        refused(2, '-d', 'synthetic', '--resume', whole / 'last.bin', '-c', tmp_path / 'other', '-l', tmp_path / 'l')
    stored = torch.load(last, weights_only=True)
    stored['settings']['unlabelled'] = ('S6',)
    torch.save(stored, last)
    assert "its setting unlabelled is ('S6',), which contradicts its config" in refused(1, *flags('plain'), '--resume')


def test_other_unlabelled_subjects_cannot_finish_an_epoch(flags, whole, refused, tmp_path):
    stored = torch.load(whole / 'last.bin', weights_only=True)
    (tmp_path / 'run').mkdir()
    torch.save(stored | {'epoch': 1, 'step': 5}, tmp_path / 'run' / 'last.bin')
    resumed = partial(refused, 2, *flags('run'), '--resume')
    assert 'at step 5: unlabelled cannot change before it ends' in resumed('--unlabelled', 'S6')
    assert 'at step 5: warmup_epochs cannot change before it ends' in resumed('--warmup-epochs', 0)


def test_2d_alone_is_told_from_sequences(folder):
    """Whole tracks, longer than the motion where they are, of subjects in the order that is asked for."""
    data = load_dataset('h36m', folder, 'gt')
    found = data.unlabelled(['S2', 'S6'], ['Sitting', 'Directions'], downsample=2)
    assert [(s.subject, s.action, s.camera) for s in found] == [
        (subject, take, view) for subject, take in (('S2', 'Directions 1'), ('S6', 'Directions'), ('S6', 'Sitting'))
        for view in range(4)]
    assert all(s.poses is s.root is s.marks is None for s in found)
    assert [len(s.keypoints) for s in found[:4]] == [11, 12, 12, 13]
