import numpy as np
import pytest

from common.datasets import humaneva
from common.datasets.h36m import CAMERAS
from common.geometry import quaternion
from common.geometry.camera import denormalise, normalise, project

# World point (100, 200, 1000) mm seen by three Human3.6M cameras: camera space (mm), screen, pixels.
KNOWN = [
    ('S1', 0, (-331.478, -394.036, 5069.173), (-0.124402, -0.148603), (437.799, 426.699)),
    ('S9', 1, (177.718, -606.397, 5642.954), (0.089910, -0.230060), (544.955, 384.970)),
    ('S11', 3, (-76.655, -598.476, 4389.184), (-0.009964, -0.309434), (495.018, 346.283)),
]


@pytest.mark.parametrize('subject, index, in_camera, on_screen, pixels', KNOWN)
def test_projections_match_known_values(subject, index, in_camera, on_screen, pixels):
    camera = CAMERAS[subject][index]
    point = camera.from_world(np.array([0.1, 0.2, 1.0]))
    np.testing.assert_allclose(point * 1000, in_camera, atol=1e-3)
    np.testing.assert_allclose(project(point, camera.intrinsic), on_screen, atol=1e-6)
    np.testing.assert_allclose(camera.project(np.array([0.1, 0.2, 1.0])), pixels, atol=1e-3)


@pytest.mark.parametrize('split', ['Train', 'Validate'])
@pytest.mark.parametrize('subject, index, in_camera', [('S1', 0, (104.721, -157.184, 4019.623)),
                                                       ('S2', 2, (-137.640, 25.329, 3767.884))])
def test_humaneva_cameras_see_known_coordinates(split, subject, index, in_camera):
    camera = humaneva.CAMERAS[f'{split}/{subject}'][index]
    np.testing.assert_allclose(camera.from_world(np.array([0.1, 0.2, 1.0])) * 1000, in_camera, atol=1e-3)
    assert (camera.width, camera.height, camera.intrinsic) == (640, 480, None)


def test_to_world_inverts_from_world():
    points = np.random.default_rng(0).normal(size=(5, 17, 3))
    camera = CAMERAS['S5'][2]
    np.testing.assert_allclose(camera.to_world(camera.from_world(points)), points, atol=1e-6)


def test_a_point_above_is_higher_in_the_picture_and_one_to_the_right_further_right():
    camera = CAMERAS['S1'][0]
    middle, above = camera.project(np.array([[0, 0, 1.0], [0, 0, 1.5]]))
    assert above[1] < middle[1]
    right = camera.to_world(camera.from_world(np.array([0, 0, 1.0])) + np.array([0.3, 0, 0]))
    assert camera.project(right)[0] > middle[0]


def test_normalise_by_hand_and_back():
    np.testing.assert_allclose(normalise(np.array([[0.0, 0.0], [1000.0, 1002.0]]), 1000, 1002),
                               [[-1, -1.002], [1, 1.002]])
    pixels = np.random.default_rng(0).uniform(0, 1000, (9, 2))
    np.testing.assert_allclose(denormalise(normalise(pixels, 1920, 1080), 1920, 1080), pixels, atol=1e-9)


def test_far_off_axis_points_are_clamped():
    """The published projection clamps X/Z and Y/Z to 1, so that distortion cannot run away."""
    intrinsic = CAMERAS['S1'][0].intrinsic
    points = np.array([[9.0, -9.0, 1.0], [1.0, -1.0, 1.0]])
    np.testing.assert_allclose(*project(points, intrinsic))


def test_rotation_by_a_quarter_turn():
    half = np.sqrt(0.5)
    np.testing.assert_allclose(quaternion.rotate(np.array([half, 0, 0, half]), np.array([1.0, 0, 0])), [0, 1, 0],
                               atol=1e-12)


def test_matrix_to_quaternion_and_back():
    random = np.random.default_rng(0)
    half_turns = [np.array([0.0, 1, 0, 0]), np.array([0.0, 0, 0.6, 0.8])]
    for q in [*random.normal(size=(20, 4)), *half_turns]:
        q = q / np.linalg.norm(q)
        matrix = quaternion.to_matrix(q)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(quaternion.to_matrix(quaternion.from_matrix(matrix)), matrix, atol=1e-12)
