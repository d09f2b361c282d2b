"""The semi-supervised loss: by hand, against the projection of the data sets, and as a training of two networks."""

import numpy as np
import pytest
import torch

from common.augment import Batch
from common.datasets.h36m import CAMERAS
from common.geometry import camera
from common.losses import mean_mpjpe
from common.models import build_model, semi_supervised
from common.models.videopose3d import VideoPose3D, VideoPose3DConfig
from common.skeleton import COCO, H36M

BONES = torch.tensor(H36M.edges)


def random_points(windows=4, answers=2, joints=17):
    """Make points a few metres before a camera, some of them outside of what it sees."""
    points = torch.randn(windows, answers, joints, 3).double()
    points[..., 2] = 3 + points[..., 2].abs()
    points[0, 0, 0] = torch.tensor([9.0, -9.0, 1.0])  # far outside: clamped
    return points


def intrinsics():
    return torch.from_numpy(np.stack([camera.intrinsic for camera in CAMERAS['S1']])).double()


def test_projection_is_that_of_the_data_sets():
    torch.manual_seed(0)
    points, lenses = random_points(), intrinsics()
    ours = semi_supervised.project(points, lenses)
    for window, lens in enumerate(lenses):
        np.testing.assert_allclose(ours[window], camera.project(points[window].numpy(), lens.numpy()), rtol=1e-12)
    plain = semi_supervised.project(points, lenses, linear=True)
    undistorted = torch.cat([lenses[:, :4], torch.zeros(4, 5)], dim=1)
    torch.testing.assert_close(plain, semi_supervised.project(points, undistorted))
    assert (plain - ours).abs().max() > 1e-3


def test_a_point_of_the_published_check():
    """World (100, 200, 1000) mm before the cameras 0 of S1 and 3 of S11, in normalised screen coordinates."""
    points = torch.tensor([[-0.331478, -0.394036, 5.069173], [-0.076655, -0.598476, 4.389184]]).double()
    lenses = torch.from_numpy(np.stack([CAMERAS['S1'][0].intrinsic, CAMERAS['S11'][3].intrinsic])).double()
    seen = semi_supervised.project(points[:, None, None], lenses)[:, 0, 0]
    expected = torch.tensor([[-0.124402, -0.148603], [-0.009964, -0.309434]]).double()
    torch.testing.assert_close(seen, expected, atol=2e-6, rtol=0)


def test_a_trajectory_is_weighed_by_depth():
    root = torch.tensor([[[0.0, 0, 2]], [[1, 1, 5]]])
    predicted = root + torch.tensor([[[0.0, 0.3, 0.4]], [[0, 2, 0]]])
    assert semi_supervised.trajectory_loss(predicted, root).item() == pytest.approx((0.5 / 2 + 2 / 5) / 2)


def test_bones_are_compared_by_their_mean_lengths():
    """Mean lengths 2 and 3 against 3 and 3.5, of another number of windows."""
    def limb(*lengths):
        return torch.tensor([[[0.0, 0, 0], [0, first, 0], [second, first, 0]] for first, second in lengths])[:, None]
    labelled, unlabelled = limb((1, 2), (3, 4)), limb((3, 3.5), (2, 3), (4, 4)).requires_grad_()
    bones = torch.tensor([[1, 0], [2, 1]])
    torch.testing.assert_close(semi_supervised.mean_bone_lengths(labelled, bones), torch.tensor([2.0, 3.0]))
    loss = semi_supervised.bone_loss(labelled.requires_grad_(), unlabelled, bones)
    assert loss.item() == pytest.approx((1 + 0.5) / 2)
    loss.backward()
    # A longer labelled bone makes the difference smaller, a longer unlabelled one larger.
    assert (labelled.grad[:, 0, 1, 1] < 0).all() and (unlabelled.grad[:, 0, 1, 1] > 0).all()


def models(dropout=0.0, **sizes):
    config = VideoPose3DConfig(widths=(3, 3), channels=8, **sizes)
    torch.manual_seed(0)
    pose = build_model('videopose3d', vars(config), H36M, H36M, dropout=dropout).double()
    return pose, VideoPose3D(config, semi_supervised.ROOT_ALONE, H36M, dropout).double()


def labelled_and_not(answers, frames):
    torch.manual_seed(1)
    poses = 0.3 * torch.randn(4, answers, 17, 3).double()
    labelled = Batch(0.3 * torch.randn(4, frames, 17, 2).double(), poses,
                     root=torch.tensor([0.1, 0.2, 4.0]).double() + 0.1 * torch.randn(4, answers, 3).double())
    return labelled, Batch(0.3 * torch.randn(4, frames, 17, 2).double(), intrinsic=intrinsics())


@pytest.mark.parametrize('frames, count', [(27, 8_506_371), (81, 12_704_771), (243, 16_903_171)])
def test_parameter_counts_of_the_published_trajectory_models(frames, count):
    with torch.device('meta'):
        model = VideoPose3D(VideoPose3DConfig(frames), semi_supervised.ROOT_ALONE, H36M)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('answers', [1, 3])
def test_loss_is_the_sum_of_its_parts_over_one_batch(answers, causal):
    pose, trajectory = models(causal=causal)
    frames, answered = pose.window_for(answers)
    labelled, unlabelled = labelled_and_not(answers, frames)
    loss = semi_supervised.semi_supervised_loss(pose, trajectory, labelled, unlabelled, BONES, mean_mpjpe)
    both = torch.cat([labelled.keypoints, unlabelled.keypoints])
    poses, roots = pose(both), trajectory(both)  # batch norms in training: the statistics of all eight windows
    parts = [(poses[:4] - labelled.poses).norm(dim=-1).mean(),
             ((roots[:4, :, 0] - labelled.root).norm(dim=-1) / labelled.root[..., 2]).mean()]
    parts = [part.item() for part in parts]
    warm = semi_supervised.semi_supervised_loss(pose, trajectory, labelled, None, BONES, mean_mpjpe)
    assert warm.item() != pytest.approx(sum(parts), rel=1e-6)  # other statistics
    seen = unlabelled.keypoints[:, list(answered)]
    points = (poses[4:] + roots[4:]).detach().numpy()
    projected = np.stack([camera.project(point, lens) for point, lens in
                          zip(points, unlabelled.intrinsic.numpy(), strict=True)])
    parts.append(np.linalg.norm(projected - seen.numpy(), axis=-1).mean())
    lengths = [np.linalg.norm(part[:, :, joint] - part[:, :, parent], axis=-1).mean()
               for joint, parent in H36M.edges for part in (poses[:4].detach().numpy(), poses[4:].detach().numpy())]
    parts.append(np.abs(np.subtract(lengths[::2], lengths[1::2])).mean())
    assert loss.item() == pytest.approx(sum(parts), rel=1e-12)


def test_both_networks_learn_from_windows_without_truth():
    pose, trajectory = models()
    labelled, unlabelled = labelled_and_not(1, 9)
    weights = [*pose.parameters(), *trajectory.parameters()]
    optimizer = torch.optim.Adam(weights, lr=1e-3, amsgrad=True)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = semi_supervised.semi_supervised_loss(pose, trajectory, labelled, unlabelled, BONES, mean_mpjpe)
        loss.backward()
        assert all(p.grad.isfinite().all() for p in weights)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_batches_that_lack_something_are_refused():
    pose, trajectory = models()
    labelled, unlabelled = labelled_and_not(1, 9)
    for first, second in ((labelled._replace(root=None), unlabelled), (labelled, unlabelled._replace(intrinsic=None))):
        with pytest.raises(ValueError, match='labelled windows with root and unlabelled ones with intrinsic'):
            semi_supervised.semi_supervised_loss(pose, trajectory, first, second, BONES, mean_mpjpe)
    with pytest.raises(ValueError, match='expected a batch with true poses'):
        semi_supervised.semi_supervised_loss(pose, trajectory, labelled._replace(poses=None), unlabelled, BONES,
                                             mean_mpjpe)
    small = build_model('videopose3d', {'widths': (3, 3), 'channels': 8}, semi_supervised.ROOT_ALONE, COCO).double()
    with pytest.raises(ValueError, match='1 joints cannot be compared with 17 keypoints'):
        semi_supervised.semi_supervised_loss(
            small, trajectory, labelled._replace(poses=labelled.poses[:, :, :1]), unlabelled, BONES, mean_mpjpe)
