import numpy as np
import pytest

from common.datasets.plausibility import BODY
from common.skeleton import (
    BODY25,
    BODY25B,
    COCO,
    H36M,
    HALPE26,
    HUMANEVA15,
    HUMANEVA20,
    MPI_INF_3DHP,
    MPII,
    SKELETONS,
    Skeleton,
    correspondence,
)

each_skeleton = pytest.mark.parametrize('skeleton', SKELETONS.values(), ids=SKELETONS)


@each_skeleton
def test_mirror_is_an_involution_that_swaps_sides(skeleton):
    order = skeleton.mirror
    assert [order[j] for j in order] == list(range(len(skeleton)))
    for j, partner in enumerate(order):
        assert skeleton.joints[j].replace('left', '?').replace('right', '?') == \
            skeleton.joints[partner].replace('left', '?').replace('right', '?')
        assert (j != partner) == skeleton.joints[j].startswith(('left_', 'right_'))


@each_skeleton
def test_parents_form_one_tree(skeleton):
    assert skeleton.parents.count(-1) == 1
    for joint in range(len(skeleton)):
        steps = 0
        while joint != skeleton.root:
            joint, steps = skeleton.parents[joint], steps + 1
            assert steps < len(skeleton)


@each_skeleton
def test_mirrored_graph_is_the_graph(skeleton):
    """Left and right hang on the body in the same way, so that flipping commutes with the model's graph."""
    edges = {frozenset(edge) for edge in skeleton.edges}
    assert {frozenset((skeleton.mirror[a], skeleton.mirror[b])) for a, b in edges} == edges


@each_skeleton
def test_a_person_can_be_checked_in_every_layout(skeleton):
    """--check-data looks at people by the joints of BODY."""
    assert correspondence(BODY, skeleton).shape == (len(BODY), len(skeleton))


@pytest.mark.parametrize('skeleton, left, right', [
    (H36M, [4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]),
    (HUMANEVA15, [2, 3, 4, 8, 9, 10], [5, 6, 7, 11, 12, 13]),
    (HUMANEVA20, [3, 4, 5, 6, 11, 12, 13, 14], [7, 8, 9, 10, 15, 16, 17, 18]),
    (MPI_INF_3DHP, [5, 6, 7, 11, 12, 13], [2, 3, 4, 8, 9, 10]),
    (COCO, [1, 3, 5, 7, 9, 11, 13, 15], [2, 4, 6, 8, 10, 12, 14, 16]),
    (MPII, [3, 4, 5, 13, 14, 15], [0, 1, 2, 10, 11, 12]),
    (HALPE26, [1, 3, 5, 7, 9, 11, 13, 15, 20, 22, 24], [2, 4, 6, 8, 10, 12, 14, 16, 21, 23, 25]),
    (BODY25, [5, 6, 7, 12, 13, 14, 16, 18, 19, 20, 21], [2, 3, 4, 9, 10, 11, 15, 17, 22, 23, 24]),
    (BODY25B, [1, 3, 5, 7, 9, 11, 13, 15, 19, 20, 21], [2, 4, 6, 8, 10, 12, 14, 16, 22, 23, 24]),
])
def test_sides_are_the_published_ones(skeleton, left, right):
    assert sorted(skeleton.left) == left
    assert sorted(skeleton.right) == right


def test_loss_weights_are_the_published_ones():
    assert H36M.loss_weights == (1, 1, 2.5, 2.5, 1, 2.5, 2.5, 1, 1, 1, 1.5, 1.5, 4, 4, 1.5, 4, 4)


def test_loss_weights_follow_names_not_positions():
    by_name = dict(zip(H36M.joints, H36M.loss_weights, strict=True))
    for other in (HUMANEVA15, MPI_INF_3DHP):
        assert dict(zip(other.joints, other.loss_weights, strict=True)).items() <= by_name.items()


def test_humaneva20_ends_of_joints_map_and_weigh_like_the_joint():
    """HumanEva's 20 joints: the tree, the weights, and what stands for the ends of elbows and knees."""
    assert sorted(HUMANEVA20.edges) == sorted([(1, 0), (2, 1), (3, 1), (4, 3), (5, 4), (6, 5), (7, 1), (8, 7), (9, 8),
                                               (10, 9), (11, 0), (12, 11), (13, 12), (14, 13), (15, 0), (16, 15),
                                               (17, 16), (18, 17), (19, 2)])
    assert HUMANEVA20.loss_weights == (1, 1, 1, 1.5, 4, 4, 4, 1.5, 4, 4, 4, 1, 2.5, 2.5, 2.5, 1, 2.5, 2.5, 2.5, 1.5)
    from_coco = correspondence(HUMANEVA20, COCO)
    assert [np.flatnonzero(row).tolist() for row in from_coco[3:7]] == [[5], [7], [7], [9]]  # the left arm
    to_fifteen = correspondence(HUMANEVA15, HUMANEVA20)
    assert [np.flatnonzero(row).tolist() for row in to_fifteen[11:14]] == [[15], [16, 17], [18]]  # the right leg
    with pytest.raises(ValueError, match='layout humaneva20 has no right_knee, which a limb needs'):
        HUMANEVA20.limbs  # noqa: B018


def test_correspondence_is_the_identity_for_equal_layouts():
    np.testing.assert_array_equal(correspondence(H36M, H36M), np.eye(17))


@pytest.mark.parametrize('joints, keypoints', [(H36M, COCO), (H36M, MPII), (HUMANEVA15, COCO), (HUMANEVA15, H36M),
                                               (HUMANEVA20, COCO), (HUMANEVA20, HUMANEVA15),
                                               (HUMANEVA15, HUMANEVA20), (H36M, MPI_INF_3DHP), (MPI_INF_3DHP, COCO)])
def test_correspondence_takes_a_pose_to_the_same_pose(joints, keypoints):
    """Every joint that the keypoints name is copied, every row is a mean, and left stays left."""
    matrix = correspondence(joints, keypoints)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-6)
    for row, name in zip(matrix, joints.joints, strict=True):
        if name in keypoints.joints:
            assert row[keypoints.joints.index(name)] == 1
    np.testing.assert_array_equal(matrix[list(joints.mirror)][:, list(keypoints.mirror)], matrix)


def test_correspondence_averages_stand_ins():
    coco = correspondence(H36M, COCO)
    assert np.flatnonzero(coco[0]).tolist() == [11, 12]  # hip from the two hips
    assert np.flatnonzero(coco[8]).tolist() == [5, 6]  # thorax from the two shoulders
    assert np.flatnonzero(coco[7]).tolist() == [5, 6, 11, 12]  # spine between them
    assert np.flatnonzero(correspondence(H36M, MPII)[7]).tolist() == [6, 7]  # spine between hip and thorax


def test_a_joint_that_nothing_stands_for_is_refused():
    with pytest.raises(ValueError, match='no keypoint of layout hand can stand for joint hip of h36m'):
        correspondence(H36M, Skeleton('hand', ('thumb', 'finger'), (-1, 0)))


def test_inconsistent_tables_are_refused():
    with pytest.raises(ValueError, match='2 joints but 1 parents'):
        Skeleton('x', ('a', 'b'), (-1,))
    with pytest.raises(ValueError, match='occurs twice'):
        Skeleton('x', ('a', 'a'), (-1, 0))
