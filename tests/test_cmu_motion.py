"""The real CMU motion that data/prepare_data_cmu.py makes: human bodies that stand, face and walk as people do."""

from pathlib import Path

import numpy as np
import pytest

from common.skeleton import H36M
from data import prepare_data_cmu as prepare

MOCAP = Path(__file__).resolve().parents[2] / 'shared' / 'mocap'

LIMBS = [(f'{side}_{a}', f'{side}_{b}') for side in ('left', 'right')
         for a, b in (('hip', 'knee'), ('knee', 'ankle'), ('shoulder', 'elbow'), ('elbow', 'wrist'))]


@pytest.fixture(scope='session')
def real():
    if not MOCAP.is_dir():
        pytest.skip(f'the real motion is not at {MOCAP}')
    return prepare.convert(MOCAP)


def clips(conversion, label=''):
    for subject, actions in conversion.positions.items():
        for action, motion in actions.items():
            if action.startswith(label):
                yield subject, action, dict(zip(H36M.joints, motion.transpose(1, 0, 2), strict=True))


def walks(conversion):
    """Return the walks, except 86_09, of which CMU says `walking, sitting, looking, stand up`."""
    return [(action, joints) for _, action, joints in clips(conversion, 'Walk ') if action != 'Walk 86_09']


def velocity(joints):
    """Return the hip's velocity over the ground in half a second, (T - 25, 2) m/s, and the middle frame of each."""
    hip = joints['hip'][:, :2]
    return (hip[25:] - hip[:-25]) * 2, slice(12, len(hip) - 13)


def test_real_motion_has_known_subjects_clips_and_split(real):
    assert len(real.positions) == 20 and len(list(clips(real))) == 61
    assert real.aliases == {'lambada': '55', 'pirouette': '05'}
    assert sum(len(joints['hip']) for *_, joints in clips(real)) / 50 == pytest.approx(8 * 60, rel=0.05)
    assert 'Walk 07_01' in real.positions['07'] and 'Motion lambada' in real.positions['55']
    test = {action.split()[0] for subject in real.test for action in real.positions[subject]}
    train = {action.split()[0] for subject in real.train for action in real.positions[subject]}
    assert len(test) >= 4 and len(train) >= 10 and {'Walk', 'Motion'} <= test & train
    assert not set(real.train) & set(real.test)


def test_real_limbs_are_rigid(real):
    for _, action, joints in clips(real):
        for upper, lower in LIMBS:
            length = np.linalg.norm(joints[upper] - joints[lower], axis=-1)
            assert np.abs(length / np.median(length) - 1).max() < 0.02, (action, lower)


def test_real_people_are_of_human_size(real):
    for subject in real.positions:
        heights = []
        for name, _, joints in clips(real):
            if name == subject:
                trunk = joints['thorax'] - joints['hip']
                upright = trunk[:, 2] / np.linalg.norm(trunk, axis=-1) > 0.95
                heights.append(joints['head'][upright, 2])
        assert 1.4 < np.median(np.concatenate(heights)) < 1.8, subject


def test_real_feet_are_near_the_floor(real):
    for _, action, joints in clips(real):
        lower = np.minimum(joints['left_ankle'][:, 2], joints['right_ankle'][:, 2])
        assert 0 < np.percentile(lower, 5) and np.percentile(lower, 40) < 0.07, action
        assert min(place[:, 2].min() for place in joints.values()) > -0.01, action


def test_real_walks_go_forward_at_walking_speed(real):
    """Forward, at a walk's speed, with the left hip on the left and the knees bent forward."""
    assert len(walks(real)) > 30
    for action, joints in walks(real):
        moved, middle = velocity(joints)
        speed = np.linalg.norm(moved, axis=-1)
        assert 0.7 < np.median(speed) < 1.75, action
        left_of_walk = np.stack([-moved[:, 1], moved[:, 0]], axis=-1)[speed > 0.5]  # up x walking direction
        for side in ('hip', 'shoulder'):
            across = (joints[f'left_{side}'] - joints[f'right_{side}'])[middle, :2][speed > 0.5]
            cosine = (across * left_of_walk).sum(-1) / np.linalg.norm(across, axis=-1) / speed[speed > 0.5]
            assert cosine.min() > 0.6, (action, side)
        for side in ('left', 'right'):
            bend = joints[f'{side}_knee'] - (joints[f'{side}_hip'] + joints[f'{side}_ankle']) / 2
            assert ((bend[middle, :2] * moved).sum(-1) > 0).mean() > 0.9, (action, side)


def test_real_run_is_faster(real):
    [(_, _, joints)] = clips(real, 'Run ')
    assert 2.4 < np.median(np.linalg.norm(velocity(joints)[0], axis=-1)) < 3.5


def test_real_views_show_everyone_and_noise_is_5_pixels(real):
    """Everything is in every picture; gt is the projection; the noise is 5 px in each direction and unbiased."""
    noise = []
    for subject, action, joints in clips(real):
        motion = np.stack(list(joints.values()), axis=1)
        views = zip(real.cameras[subject], real.views['gt'][subject][action], real.views['noisy'][subject][action],
                    strict=True)
        for camera, exact, noisy in views:
            assert exact.dtype == noisy.dtype == np.float32
            assert (exact > 0).all() and (exact < [camera.width, camera.height]).all(), action
            assert camera.from_world(motion)[..., 2].min() > 1
            np.testing.assert_allclose(exact, camera.project(motion), atol=0.01)
            noise.append((noisy - exact).reshape(-1, 2))
        assert len(real.cameras[subject]) == 4
    noise = np.concatenate(noise)
    np.testing.assert_allclose(noise.std(axis=0), 5, rtol=0.01)
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=0.05)
