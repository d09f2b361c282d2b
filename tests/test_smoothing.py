"""--smooth: what passes, what does not, what happens at the ends, and that files say it."""

from itertools import pairwise

import keypoint_files as files
import numpy as np
import pytest

from common.datasets.h36m import CAMERAS
from common.datasets.synthetic import motion
from common.geometry.smoothing import OneEuro, low_pass, one_euro, smoother
from common.storage.npz import read_npz

FPS = 50.0
TIME = np.arange(300) / FPS


def sine(hertz, amplitude=0.1):
    """Return (300, 1, 3) places that swing along x."""
    places = np.zeros((300, 1, 3))
    places[:, 0, 0] = amplitude * np.sin(2 * np.pi * hertz * TIME)
    return places


@pytest.mark.parametrize('hertz, gain', [(1, 0.9997), (3, 0.9781), (6, 0.7071), (12, 0.0709), (20, 0.0007)])
def test_the_gain_is_that_of_the_filter_and_nothing_is_delayed(hertz, gain):
    """A sine stays that sine, times 1 / (1 + r⁴) of tangents, and no part of it turns into a cosine."""
    smooth, said = smoother(6, FPS, causal=False)
    r = np.tan(np.pi * hertz / FPS) / np.tan(np.pi * 6 / FPS) * (np.sqrt(2) - 1) ** 0.25
    middle = slice(100, 200)  # whole periods, far from the ends
    got = smooth(sine(hertz))[middle, 0, 0]
    wave, quarter = (f(2 * np.pi * hertz * TIME[middle]) for f in (np.sin, np.cos))
    assert got @ wave / (wave @ wave) / 0.1 == pytest.approx(1 / (1 + r ** 4), abs=2e-4)
    assert got @ wave / (wave @ wave) / 0.1 == pytest.approx(gain, abs=2e-4)
    assert got @ quarter / (quarter @ quarter) / 0.1 == pytest.approx(0, abs=2e-4)
    assert 'Butterworth' in said and '6 Hz' in said


def test_noise_is_removed_and_slow_motion_is_kept():
    noise = np.random.default_rng(0).normal(0, 0.02, (300, 17, 3))
    slow = np.broadcast_to(sine(1), noise.shape)
    left = low_pass(slow + noise, 6, FPS) - slow
    assert left.std() < 0.53 * 0.02  # the square root of the band that passes, 6 of 25 Hz, is 0.49
    jerk = [np.diff(x, 3, axis=0).std() for x in (left, noise)]
    assert jerk[0] < 0.04 * jerk[1]


def test_ends_are_kept():
    """A line stays one; the ends of a sine of 1 Hz are off by less than 1 % of its amplitude at most."""
    line = np.linspace([[0.0, 1, 2]], [[3.0, 1, 0]], 300)
    np.testing.assert_allclose(low_pass(line, 6, FPS), line, atol=1e-8)
    assert np.abs(low_pass(sine(1), 6, FPS) - sine(1)).max() < 1e-3
    shifted = np.roll(sine(1), 12, axis=0)  # begins at its lowest point, where nothing is like a line
    assert np.abs(low_pass(shifted, 6, FPS) - shifted).max() < 1e-3


@pytest.mark.parametrize('frames', [1, 2, 3, 5, 16, 17])
@pytest.mark.parametrize('filtered', [low_pass, one_euro])
def test_short_clips(frames, filtered):
    """Shorter than the padding, down to a single frame; what stands still stays where it is."""
    still = np.full((frames, 17, 3), 1.5, np.float32)
    got = filtered(still, 0.1, FPS)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, still, atol=1e-5)
    assert np.isfinite(filtered(np.random.default_rng(0).normal(size=(frames, 2, 3)), 6, FPS)).all()


def test_a_cut_off_that_frames_cannot_hold_is_refused():
    with pytest.raises(ValueError, match='25 Hz'):
        smoother(25, FPS, causal=False)
    np.testing.assert_allclose(low_pass(sine(1), 24.99, FPS), sine(1), atol=1e-4)
    assert np.isfinite(low_pass(sine(1), 0.1, 1e5)).all()  # as slow and as fast as flags allow
    smoother(25, FPS, causal=True)


def naive_one_euro(places, hertz, fps):
    """Return one point (T, 3) smoothed with plain numbers; fps is one, or that of each frame after the first."""
    out, speed = [list(places[0])], [0.0, 0.0, 0.0]
    share = lambda cutoff, rate: 1 / (1 + (1 / (2 * np.pi * cutoff)) * rate)  # noqa: E731
    for (before, now), rate in zip(pairwise(places), np.broadcast_to(fps, len(places) - 1), strict=True):
        for i in range(3):
            speed[i] = share(1.0, rate) * (now[i] - before[i]) * rate + (1 - share(1.0, rate)) * speed[i]
        a = share(hertz + 2.0 * sum(v * v for v in speed) ** 0.5, rate)
        out.append([a * now[i] + (1 - a) * out[-1][i] for i in range(3)])
    return np.array(out)


def test_one_euro_is_the_published_one_and_reads_no_later_frame():
    places = np.random.default_rng(0).normal(size=(40, 3, 3)).cumsum(axis=0) / 50
    got = one_euro(places, 1.5, FPS)
    for point in range(3):
        np.testing.assert_allclose(got[:, point], naive_one_euro(places[:, point], 1.5, FPS), atol=1e-12)
    np.testing.assert_array_equal(one_euro(places[:20], 1.5, FPS), got[:20])
    newest, seconds = OneEuro(1.5), np.cumsum(np.random.default_rng(1).uniform(0.01, 0.2, 40))
    uneven = np.array([newest(*row) for row in zip(places, np.diff(seconds, prepend=0), strict=True)])
    np.testing.assert_allclose(uneven[:, 0], naive_one_euro(places[:, 0], 1.5, 1 / np.diff(seconds)), atol=1e-12)
    still = np.random.default_rng(0).normal(0, 0.005, (300, 1, 3))
    assert one_euro(still, 1, FPS)[50:].std() < 0.5 * still.std()


@pytest.fixture
def lift(run, trained, tmp_path):
    """lift(*flags) -> (npz of 30 frames of a walk, what the program said)."""
    camera = CAMERAS['S9'][0]
    world = motion('Walking', 1.0, 30, np.random.default_rng(3))[:30].astype(np.float64)
    files.npz(tmp_path / 'in.npz', camera.project(world) + np.random.default_rng(0).normal(0, 2, (30, 17, 2)))

    def main(*flags):
        status, out, err = run('-c', trained[0], '--evaluate', 'best.bin', '--predict', tmp_path / 'in.npz', '--output',
                               tmp_path / 'out.npz', '--layout', 'h36m', '--device', 'cpu', *flags)
        assert (status, err) == (0, ''), err
        return read_npz(tmp_path / 'out.npz'), out
    return main


@pytest.mark.parametrize('flags', [[], ['--causal']], ids=['whole', 'causal'])
def test_predict_smooths_poses_and_world_and_says_it(lift, flags):
    rough, out = lift(*flags)
    assert 'smoothing' not in rough and 'smoothed' not in out
    got, out = lift('--smooth', 4, *flags)
    filtered = one_euro if flags else low_pass
    np.testing.assert_allclose(got['poses'], filtered(rough['poses'], 4, float(rough['fps'])), atol=1e-5)
    assert np.diff(got['poses'], 3, axis=0).std() < 0.5 * np.diff(rough['poses'], 3, axis=0).std()
    assert (got['poses'][:, 0] == 0).all()
    relative = got['world'] - got['world'][:, :1]
    np.testing.assert_allclose(relative[..., 2], -got['poses'][..., 1], atol=1e-5)
    assert f'smoothed: {got["smoothing"]}' in out
    assert '4 Hz' in str(got['smoothing'])


def test_the_trajectory_is_smoothed_too(lift):
    rough, _ = lift('--trajectory', '--fov', 47)
    got, _ = lift('--trajectory', '--fov', 47, '--smooth', 3)
    assert np.diff(got['root'], 3, axis=0).std() < 0.2 * np.diff(rough['root'], 3, axis=0).std()
    shift = got['world'][:, 0] - np.stack([got['root'][:, 0], got['root'][:, 2], -got['root'][:, 1]], axis=1)
    assert np.ptp(shift, axis=0).max() < 1e-5


@pytest.mark.parametrize('value, words', [('25', 'less than half'), ('0', 'at least 0.1'),
                                          ('1e-12', 'at least'), ('nan', 'at least'), ('x', 'at least')])
def test_impossible_cut_offs_are_refused(refused, trained, tmp_path, value, words):
    files.npz(tmp_path / 'in.npz', np.random.default_rng(0).uniform(300, 700, (5, 17, 2)))
    line = refused(2, '-c', trained[0], '--evaluate', 'best.bin', '--predict', tmp_path / 'in.npz', '--output',
                   tmp_path / 'out.npz', '--layout', 'h36m', '--as-is', '--device', 'cpu', '--smooth', value)
    assert words in line and '--smooth' in line
    assert not (tmp_path / 'out.npz').exists()
