"""DSTformer and MotionAGFormer through the whole program: recipe, sizes by name, training windows, public files."""

import json

import numpy as np
import pytest
import torch
from test_htnet_program import decided
from test_motion3d import write
from test_resume import epochs_of

from common.cli.parser import parse
from common.commands.list_models import describe
from common.datasets import load_dataset
from common.models import MODELS, build_model, model_class, recipe_of, streams
from common.settings import resolve
from common.skeleton import H36M
from common.training.optimiser import learning_rate

SMALL = ['-f', '9', '-cs', '16', '-dep', '1', '--device', 'cpu']


@pytest.fixture
def flags(h36m_folder, tmp_path):
    def of(model, name, *more):
        return ['--model', model, '-k', 'gt', '--data', h36m_folder, '-str', 'S1', '-ste', 'S9', '-e', '1', '-c',
                tmp_path / name, '-l', tmp_path / f'{name}-log', *(more or SMALL)]
    return of


@pytest.mark.parametrize('model, windows, lr, epochs', [('dstformer', 32, 2e-4, 120), ('motionagformer', 16, 5e-4, 60)])
def test_the_recipe_is_the_published_one(model, windows, lr, epochs):
    config = decided('--model', model, model=model, answers=243)
    recipe = config.train
    assert (recipe.windows, recipe.batch, recipe.stride) == (windows, windows * 243, 243)
    assert (recipe.epochs, recipe.seed, recipe.window_step, recipe.augment) == (epochs, 0, None, True)
    assert (recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.loss) == ('adamw', lr, 0.01, 'motion')
    assert (recipe.objective, recipe.clip, recipe.l1_share) == ('plain', None, 0)
    assert (config.evaluate.root, config.evaluate.flip) == ('zero', True)
    assert learning_rate(recipe, recipe.lr, 1, 11, 5, 100) == pytest.approx(lr * 0.99 ** 10)


@pytest.mark.parametrize('model, windows', [('dstformer', 32), ('motionagformer', 16)])
def test_a_step_has_as_many_windows_of_any_length(model, windows):
    for frames in (27, 81, 500):
        recipe = decided('--model', model, '-f', frames, model=model, answers=frames).train
        assert (recipe.windows, recipe.stride) == (windows, min(frames, 243))
    assert decided('--model', model, '-s', 10, model=model, answers=27).train.batch == 10 * windows
    assert decided('--model', model, '-b', 54, model=model, answers=27).train.windows == 2
    resumed = resolve(parse(['--resume', 'x.bin']), recipe_of(model), 27, {'batch': 54, 'stride': 27})
    assert resumed.train.windows == 2
    assert decided('--model', 'ktpformer', model='ktpformer', answers=27).train.batch == 1024


# ---- sizes by name -------------------------------------------------------------------------------------------------


def test_a_size_is_stored_as_what_it_is(flags, run, refused, tmp_path):
    """Flags of sizes beside it win. With a checkpoint it is compared, as they are."""
    status, out, err = run(*flags('motionagformer', 'a', '--size', 'xs', '-f', '9', '-dep', '1', '--device', 'cpu',
                                  '-a', 'Directions', '--window-step', '20'))
    assert (status, err) == (0, '')
    assert 'MotionAGFormer, 9 frames' in out and '16 a step' in out
    stored = torch.load(tmp_path / 'a' / 'last.bin')
    assert stored['config'] == {'frames': 9, 'channels': 64, 'depth': 1, 'heads': 8, 'mlp_ratio': 4.0,
                                'representation': 512, 'neighbours': 2}
    again = ['-c', tmp_path / 'a', '--data', flags('', '')[5], '--device', 'cpu', '--evaluate', 'last.bin', '--size']
    assert run(*again, 'xs', '-f', '9', '-dep', '1')[0] == 0
    assert 'last.bin was made with frames 9, which --size xs contradicts' in refused(1, *again, 'xs')
    assert 'was made with channels 64, which --size b contradicts' in refused(1, *again, 'b', '-f', '9')
    assert '--size huge: MotionAGFormer has no published size huge: it has xs, s, b, l' in refused(2, *again, 'huge')


@pytest.mark.parametrize('name', MODELS)
def test_a_size_that_a_model_does_not_have_is_refused(name, refused):
    named = getattr(model_class(name).Config, 'named', {})
    line = refused(2, '--model', name, '-d', 'synthetic', '--size', 'q', '--device', 'cpu')
    has = f'it has {", ".join(named)}' if named else 'its sizes have no names'
    assert line.endswith(f'--size q: {model_class(name).title} has no published size q: {has}')


def test_the_default_is_one_of_the_named_sizes():
    for name, default in (('dstformer', 'full'), ('motionagformer', 'b')):
        kind = model_class(name)
        assert kind.Config() == kind.Config(**kind.size_called(default))
    assert 'published sizes (--size): xs, s, b, l' in describe('motionagformer')


# ---- training ------------------------------------------------------------------------------------------------------


def windows_by_hand(folder, frames, step):
    """Return {bytes of a window's keypoints and truth, mirrored: those as they are} of each window of S1 that fits."""
    windows, order = {}, np.array(H36M.mirror)
    for sequence in load_dataset('h36m', folder, 'gt').sequences(['S1']):
        length, at = len(sequence.poses), 0
        while at + frames <= length:
            keypoints = np.concatenate([sequence.keypoints, np.ones((length, 17, 1), np.float32)], -1)
            parts = keypoints[at:at + frames], sequence.poses[at:at + frames]
            mirrored = [part[:, order] * np.float32([-1, 1, 1]) for part in parts]
            windows[as_bytes(*mirrored)] = as_bytes(*parts)
            at += step
    return windows


def as_bytes(keypoints, poses):
    return ((keypoints + np.float32(0)).tobytes(), (poses + np.float32(0)).tobytes())  # + 0 makes 0 of -0


@pytest.mark.parametrize('model, step', [('dstformer', None), ('motionagformer', 5)])
def test_it_learns_from_windows_that_fit_each_mirrored_or_not(flags, h36m_folder, run, monkeypatch, tmp_path, model,
                                                              step):
    """Once an epoch, every third of a window or as --window-step has it."""
    seen, loss = [], streams.TwoStreams.loss

    def recorded(self, batch, criterion):
        seen.append(list(zip(batch.keypoints.numpy(), batch.truth.numpy(), strict=True)))
        return loss(self, batch, criterion)
    monkeypatch.setattr(streams.TwoStreams, 'loss', recorded)
    more = [] if step is None else ['--window-step', step]
    status, out, err = run(*flags(model, 'a', *SMALL, '-e', '2', *more))
    assert (status, err) == (0, '')
    assert 'tells no confidence: it is 1' in out
    expected, a_step = windows_by_hand(h36m_folder, 9, step or 3), recipe_of(model).windows
    assert len(seen[0]) == a_step
    epochs = np.array_split(np.arange(len(seen)), 2)
    chosen = []
    for steps in epochs:
        windows = [as_bytes(*window) for number in steps for window in seen[number]]
        mirrored = [window in expected for window in windows]
        plain = [expected.get(window, window) for window in windows]
        assert sorted(plain) == sorted(expected.values())
        chosen.append({window for window, its in zip(plain, mirrored, strict=True) if its})
        assert 0.3 < np.mean(mirrored) < 0.7
    assert chosen[0] != chosen[1]
    assert all(line['train_loss'] > line['valid_mpjpe'] for line in epochs_of(tmp_path / 'a-log'))


def test_a_refinement_behind_it_is_trained_on_the_same_windows(flags, run, tmp_path):
    """Each comes once, mirrored or not; the refinement reads positions, not confidence."""
    assert run(*flags('dstformer', 'a', *SMALL, '-a', 'Directions', '--no-eval'))[0] == 0
    given = flags('dstformer', 'b', '--device', 'cpu', '--refine', '--init', tmp_path / 'a' / 'last.bin')
    status, out, err = run(*given)
    assert (status, err) == (0, '')
    assert 'DSTformer with refinement, 9 frames' in out
    assert f'{4 * (11 + 7 + 9 + 4)} windows an epoch, 32 a step' in out


# ---- public files --------------------------------------------------------------------------------------------------


def test_a_public_file_is_evaluated_with_windows_up_to_its_positions(golden, fill, run, refused, tmp_path):
    keys = json.loads((golden / 'zoo' / 'dstformer_keys.json').read_text())
    torch.save({'model_pos': fill(keys), 'min_loss': np.float64(1)}, tmp_path / 'best_epoch.bin')
    write(tmp_path)
    flags = ['-d', 'motion3d', '-k', 'm', '--data', tmp_path, '--device', 'cpu', '--evaluate',
             tmp_path / 'best_epoch.bin']
    for frames, more in ((12, []), (7, ['-f', '7'])):
        status, out, _ = run(*flags, *more)
        assert status == 0
        assert f'DSTformer, {frames} frames' in out and 'a public file' in out and 'predicted root set to 0' in out
        assert 'the true depth of the root joint in every frame' in out and 'Protocol 2.5d' in out
    line = refused(1, *flags, '-f', '13')
    assert '13 frames in a window, expected at most the 12 that it has positions for' in line
    state = build_model('motionagformer', {'frames': 9, 'channels': 16, 'depth': 1}, H36M, H36M).state_dict()
    torch.save({'model': state, 'min_mpjpe': np.float32(38.4), 'wandb_id': 'x'}, tmp_path / 'base-h36m.pth.tr')
    flags[-1] = tmp_path / 'base-h36m.pth.tr'
    status, out, _ = run(*flags)
    assert status == 0 and 'MotionAGFormer, 9 frames' in out
    assert 'was made with frames 9, which -f 7 contradicts' in refused(1, *flags, '-f', '7')
