import numpy as np
import pytest

from common.datasets.synthetic import motion
from common.geometry.camera import denormalise, pinhole_intrinsic, project
from common.geometry.placement import (
    feet_on_floor,
    floor_below,
    lens_of_view,
    root_by_reprojection,
    tilt_of,
    upright,
)

LENS = (1145.0, 1143.5, 512.5, 515.4)


def scene(frames=30, noise=0.0):
    """Return root-relative poses (T, 17, 3), the root (T, 3) and exact pixels (T, 17, 2); metres in camera axes."""
    world = motion('Walking', 1.0, frames, np.random.default_rng(0)).astype(np.float64)
    poses = np.stack([world[..., 0], -world[..., 2], world[..., 1]], axis=-1)
    poses -= poses[:, :1]
    time = np.linspace(0, 1, frames)
    root = np.stack([-1 + 2 * time, 0.2 * np.sin(5 * time), 5 - time], axis=1)
    intrinsic = pinhole_intrinsic(LENS[:2], LENS[2:], (0, 0, 0), (0, 0), 1000, 1002).astype(np.float64)
    pixels = denormalise(project(poses + root[:, None], intrinsic), 1000, 1002)
    return poses, root, pixels + noise * np.random.default_rng(1).standard_normal(pixels.shape)


def test_exact_projections_give_the_root_back():
    poses, root, pixels = scene()
    found = root_by_reprojection(poses, pixels, np.ones(pixels.shape[:2], bool), LENS)
    assert np.linalg.norm(found - root, axis=-1).max() < 1e-3


def test_unseen_joints_do_not_count_and_unseen_frames_are_interpolated():
    poses, root, pixels = scene()
    seen = np.ones(pixels.shape[:2], bool)
    seen[:, 3:9] = False
    pixels[:, 3:9] = np.nan
    seen[10:12] = False
    found = root_by_reprojection(poses, pixels, seen, LENS)
    assert np.linalg.norm(found - root, axis=-1).max() < 1e-2


def test_the_root_is_the_least_squares_solution():
    """No neighbour of the found root fits noisy keypoints better."""
    poses, _, pixels = scene(noise=5.0)
    found = root_by_reprojection(poses, pixels, np.ones(pixels.shape[:2], bool), LENS)

    def misfit(root):
        points = poses + root[:, None]
        return ((points[..., :2] / points[..., 2:] * LENS[:2] + LENS[2:] - pixels) ** 2).sum(axis=(1, 2))
    for axis in range(3):
        for step in (-1e-3, 1e-3):
            assert (misfit(found + step * np.eye(3)[axis]) > misfit(found)).all()


def test_frames_without_enough_joints_are_refused():
    poses, _, pixels = scene()
    with pytest.raises(ValueError, match='no frame shows 4 joints'):
        root_by_reprojection(poses, pixels, np.zeros(pixels.shape[:2], bool), LENS)


def test_lens_of_view_finds_the_root_within_10_cm():
    assert lens_of_view(90, 1000, 600) == pytest.approx((500, 500, 500, 300))
    poses, root, pixels = scene()
    focal = (LENS[0] + LENS[1]) / 2
    degrees = 2 * np.degrees(np.arctan(500 / focal))
    found = root_by_reprojection(poses, pixels, np.ones(pixels.shape[:2], bool), lens_of_view(degrees, 1000, 1002))
    assert np.linalg.norm(found - root, axis=-1).max() < 0.1  # the real centre is 14 pixels off the middle


def test_upright_is_a_rotation_and_floors_put_feet_at_zero():
    poses, root, _ = scene()
    world = upright(poses + root[:, None])
    feet = (3, 6)
    assert (world[:, 10, 2] > world[:, 0, 2]).all()  # the head is up
    np.testing.assert_allclose(world[..., 1], (poses + root[:, None])[..., 2])  # depth is forward
    assert np.linalg.det(upright(np.eye(3))) == pytest.approx(1)  # a rotation: left stays left
    np.testing.assert_allclose(feet_on_floor(world, feet)[:, feet, 2].min(axis=1), 0)
    assert floor_below(world, feet)[:, feet, 2].min() == 0
    assert np.ptp((floor_below(world, feet) - world)[..., 2]) < 1e-12


def turned(axis, degrees):
    """(3, 3), by hand: a right-handed turn about x, y or z."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return {'x': np.array([[1, 0, 0], [0, c, -s], [0, s, c]]), 'z': np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])}[axis]


@pytest.mark.parametrize(('pitch', 'roll'), [(0, 0), (20, 0), (-15, 0), (0, 26), (22, -26)])
def test_a_camera_that_looks_down_or_is_rolled_is_levelled(pitch, roll):
    poses, *_ = scene(100)
    seen = poses @ (turned('z', roll) @ turned('x', pitch)).T
    level = upright(poses, tilt_of(poses, 8, (3, 6))[0])  # of people who walk, and so lean a little
    tilt, degrees = tilt_of(seen, 8, (3, 6))
    np.testing.assert_allclose(tilt @ tilt.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(tilt) == pytest.approx(1)
    world = upright(seen, tilt)
    np.testing.assert_allclose(world[..., 2], level[..., 2], atol=1e-9)  # heights do not tell how it was turned
    body = world[:, 8] - world[:, [3, 6]].mean(axis=1)
    mean = (body / np.linalg.norm(body, axis=-1, keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(mean / np.linalg.norm(mean), [0, 0, 1], atol=1e-9)
    assert degrees == pytest.approx(np.degrees(np.arccos(tilt[2, 2])))


def test_the_tilt_of_a_plumb_body_by_hand():
    poses = np.zeros((5, 17, 3))
    poses[:, 8] = [0, -np.cos(0.3), -np.sin(0.3)]  # up in the picture, and towards the camera
    tilt, degrees = tilt_of(poses, 8, (3, 6))
    assert degrees == pytest.approx(np.degrees(0.3))
    np.testing.assert_allclose(upright(poses, tilt)[0, 8], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(upright(np.array([1.0, 0, 0]), tilt), [1, 0, 0], atol=1e-12)  # the axis it turns about


@pytest.mark.parametrize('body', [(1, 0, 0), (0, 0, 1), (0, 1, 0), (0, 0, 0)])
def test_people_who_lie_or_hang_have_no_tilt(body):
    poses = np.zeros((5, 17, 3))
    poses[:, 8] = body
    with pytest.raises(ValueError, match='degrees from upright'):
        tilt_of(poses, 8, (3, 6))
