"""The Python interface: a checkpoint opened in one line, a clip lifted in another."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from test_predict import F, clip

from common.errors import FileError
from common.geometry.camera import normalise
from common.models import load_lifter
from common.models.lifter import NEEDS, Lifter, check_contract, describe_needs
from common.storage.npz import read_npz


@pytest.fixture(scope='module')
def lifter(trained):
    return load_lifter(trained[0] / 'best.bin')


def test_a_loaded_lifter_says_what_it_is(lifter, trained):
    assert (lifter.name, lifter.how) == ('ktpformer', 'a checkpoint of this program')
    assert lifter.layout.name == lifter.skeleton.name == 'h36m'
    assert lifter.settings['keypoints'] == 'gt'
    assert lifter.path == trained[0] / 'best.bin'
    assert not lifter.model.training
    assert lifter.describe() == f'KTPFormer, {F} frames'


@pytest.mark.parametrize('flags, how', [([], {}), (['--overlap', '0'], {'overlap': 0}),
                                        (['--causal'], {'causal': True}), (['--root', 'zero'], {'root': 'zero'})])
def test_a_clip_is_lifted_as_predict_lifts_it(lifter, trained, run, tmp_path, flags, how):
    pixels = clip(31)[1].astype(np.float32)
    np.save(tmp_path / 'in.npy', pixels)
    assert run('-c', trained[0], '--evaluate', 'best.bin', '--predict', tmp_path / 'in.npy', '--output',
               tmp_path / 'out.npz', '--image-size', 1000, 1002, '--zoom', 1, '--layout', 'h36m', '--device', 'cpu',
               *flags)[0] == 0
    expected = read_npz(tmp_path / 'out.npz')['poses']
    poses = lifter.lift_clip(pixels, size=(1000, 1002), **how)
    assert poses.shape == (31, 17, 3) and poses.dtype == np.float32
    np.testing.assert_allclose(poses - poses[:, :1], expected, atol=1e-5)  # --predict subtracts the model's root
    assert (np.abs(poses[:, 0]).max() == 0) == ('root' in how)
    screen = normalise(pixels.astype(np.float64), 1000, 1002)
    np.testing.assert_allclose(lifter.lift_clip(screen, **how), poses, atol=1e-6)


def test_confidence_is_taken_and_passed_over_by_a_model_that_does_not_read_it(lifter):
    pixels = clip(12)[1]
    scored = np.concatenate([pixels, np.ones((12, 17, 1))], axis=-1)
    np.testing.assert_array_equal(lifter.lift_clip(scored, size=(1000, 1002)),
                                  lifter.lift_clip(pixels, size=(1000, 1002)))


@pytest.mark.parametrize('shape, how, message', [
    ((12, 16, 2), {}, 'expected keypoints (frames, 17, 2 or 3) of layout h36m, got (12, 16, 2)'),
    ((12, 17), {}, 'expected keypoints'), ((0, 17, 2), {}, 'expected keypoints'),
    ((12, 17, 2), {'overlap': F}, f'windows answer for {F} frames and must share fewer'),
    ((12, 17, 2), {'intrinsics': (1, 1, 1, 1)}, 'intrinsics are in pixels: say size=(width, height)')])
def test_arrays_that_are_no_clip_are_refused(lifter, shape, how, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        lifter.lift_clip(np.zeros(shape), **how)


def test_pixels_without_a_size_and_gaps_are_refused(lifter):
    pixels = clip(12)[1]
    with pytest.raises(ValueError, match=r'are pixels: say size='):
        lifter.lift_clip(pixels)
    with pytest.raises(ValueError, match="root is 'none', expected 'predicted' or 'zero' or 'subtract'"):
        lifter.lift_clip(pixels, size=(1000, 1002), root='none')
    pixels[3, 4] = np.nan
    with pytest.raises(ValueError, match='fill the gaps first'):
        lifter.lift_clip(pixels, size=(1000, 1002))


def test_files_of_no_model_are_refused(tmp_path):
    with pytest.raises(FileError, match=r'none\.bin is missing'):
        load_lifter(tmp_path / 'none.bin')
    torch.save({'encoder.weight': torch.zeros(3)}, tmp_path / 'other.bin')
    with pytest.raises(FileError, match='is not a KTPFormer checkpoint'):
        load_lifter(tmp_path / 'other.bin')


def test_needs_are_told_in_words():
    assert describe_needs(frozenset()) == ''
    assert describe_needs(frozenset({'root_depth', 'intrinsic'})) == f"{NEEDS['intrinsic']}, and {NEEDS['root_depth']}"


def test_the_models_of_the_registry_keep_the_contract(lifter):
    check_contract(lifter.model)
    assert isinstance(lifter.model, Lifter)


@pytest.mark.parametrize('causal', [False, True])
def test_a_clip_is_lifted_without_mirrored_keypoints_where_the_run_was_tested_so(lifter, causal):
    """-no-tta is a setting of the run: what comes out is what the model says of the keypoints as they are."""
    screen = normalise(clip(F)[1].astype(np.float64), 1000, 1002)
    plain = dataclasses.replace(lifter, settings=lifter.settings | {'flip': False})
    with torch.no_grad():
        alone = lifter.model(torch.from_numpy(screen.astype(np.float32))[None])[0, -1].numpy()
    np.testing.assert_allclose(plain.lift_clip(screen, causal=causal, root='predicted')[-1], alone, atol=1e-5)
    assert np.abs(lifter.lift_clip(screen, causal=causal, root='predicted')[-1] - alone).max() > 1e-3
