import numpy as np
import pytest

from common.datasets.synthetic import motion
from common.geometry.camera import denormalise, pinhole_intrinsic, project
from common.geometry.placement import feet_on_floor, floor_below, lens_of_view, root_by_reprojection, upright

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
