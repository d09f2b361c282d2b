"""Real detections of one person from four calibrated cameras: triangulated, lifted from each camera, compared."""

import numpy as np
import pytest
from conftest import SHARED

from benchmarks.real_detections import JOINTS, compare, lift, spread, triangulate, truth_of

REAL = SHARED / 'real2d' / 'pose2sim'
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason=f'no real detections at {REAL}')


@pytest.fixture(scope='module')
def truth():
    return truth_of(REAL)


def test_the_triangulation_is_a_person(truth):
    _, folders, world, errors = truth
    assert len(folders) == 4
    assert world.shape == (100, len(JOINTS), 3)
    assert np.nanmedian(errors) < 16
    for side in ('left', 'right'):
        for a, b, low, high in (('hip', 'knee', 390, 430), ('knee', 'ankle', 380, 405)):
            length, deviation = spread(world[:, JOINTS.index(f'{side}_{a}')] - world[:, JOINTS.index(f'{side}_{b}')])
            assert low < length < high
            assert deviation < 25
    assert (world[:, JOINTS.index('head'), 2] > world[:, JOINTS.index('left_ankle'), 2] + 1).all()


def test_triangulation_of_exact_projections(truth):
    cameras, points = truth[0], np.random.default_rng(0).uniform(-0.5, 0.5, (5, 3, 3))
    pixels = []
    for camera in cameras:
        seen = (points - camera['position']) @ camera['rotation'].T
        fx, fy, cx, cy = camera['lens']
        pixels.append(seen[..., :2] / seen[..., 2:] * (fx, fy) + (cx, cy))
    scores = np.ones((len(cameras), 5, 3))
    scores[0, 0], scores[:3, 1, 1] = 0, 0.1
    world, _ = triangulate(cameras, np.array(pixels), scores)
    assert np.isnan(world[1, 1]).all()  # one camera sees it
    world[1, 1] = points[1, 1]
    np.testing.assert_allclose(world, points, atol=1e-6)


def test_every_camera_is_lifted_and_compared(truth, trained):
    """A model trained for seconds; benchmarks/RESULTS.md has the figures of one trained on real motion."""
    cameras, folders, world, _ = truth
    for camera, folder in zip(cameras, folders, strict=True):
        figures = compare(lift(folder, trained[0] / 'best.bin', camera, (1088, 1920), 60), world, camera)
        print(folder.name, figures)
        assert figures['frames'] == figures['compared'] == 100
        assert figures['upright'] == 1
        assert figures['p_mpjpe'] < 300
        assert figures['root_error_m'] < figures['distance_m']
