import numpy as np
import pytest

from common.models.graph import adjacency, chain
from common.skeleton import H36M, HUMANEVA15, MPI_INF_3DHP


def test_adjacency_by_hand():
    third = 1 / 3
    expected = [[1, 1, 0, 0, 0], [third, 1, third, third, 0], [0, 1, 1, 0, 0], [0, 1, 0, 1, 0], [0, 0, 0, 0, 1]]
    np.testing.assert_allclose(adjacency(5, [(0, 1), (1, 2), (3, 1)]), expected, rtol=1e-6)


def test_single_frame_is_its_own_neighbour():
    assert chain(1).tolist() == [[1.0]]


@pytest.mark.parametrize('skeleton', [H36M, HUMANEVA15, MPI_INF_3DHP], ids=lambda s: s.name)
def test_adjacency_of_skeletons_is_the_golden_one(golden, skeleton):
    expected = np.load(golden / 'graphs.npz')[skeleton.name]
    np.testing.assert_allclose(adjacency(len(skeleton), skeleton.edges), expected, atol=1e-7)


def test_chain_is_the_golden_one(golden):
    np.testing.assert_allclose(chain(9), np.load(golden / 'graphs.npz')['temporal'], atol=1e-7)
