"""Metrics, losses and mirroring: by hand, against the naive ones, and by what must leave them alone."""

import json
import math

import naive
import numpy as np
import pytest
import torch

from common import metrics
from common.augment import mirror
from common.losses import gradient_factor, pose_loss
from common.skeleton import H36M, SKELETONS


@pytest.fixture
def poses():
    random = torch.Generator().manual_seed(0)
    target = torch.randn(4, 9, 17, 3, generator=random)
    return target + 0.1 * torch.randn(4, 9, 17, 3, generator=random), target


def test_by_hand():
    target = torch.zeros(1, 2, 3)
    predicted = torch.tensor([[[3.0, 4, 0], [0, 0, 2]]])
    assert metrics.mpjpe(predicted, target).tolist() == [3.5]
    # scale Σ⟨p,y⟩/Σ⟨p,p⟩ = 10/5 doubles the pose exactly onto its target
    pose = torch.tensor([[[1.0, 0, 0], [0, 2, 0]]])
    assert metrics.n_mpjpe(pose, 2 * pose).item() == 0
    track = torch.tensor([0.0, 1, 3])[:, None, None] * torch.tensor([1.0, 0, 0])  # one joint, steps of 1 and 2
    assert metrics.mpjve(track, torch.zeros(3, 1, 3)).tolist() == [1, 2]


@pytest.mark.parametrize('name', ['mpjpe', 'p_mpjpe', 'n_mpjpe'])
def test_naive(poses, name):
    predicted, target = poses
    ours = getattr(metrics, name)(predicted, target)
    assert ours.shape == (4, 9)
    assert ours.double().mean().item() == pytest.approx(getattr(naive, name)(predicted, target), rel=1e-6)


def test_naive_velocity(poses):
    predicted, target = (p.flatten(0, 1) for p in poses)
    expected = naive.mpjve_flat(predicted, target)
    assert metrics.mpjve(predicted, target).mean().item() == pytest.approx(expected, rel=1e-6)


def test_golden_metrics(golden):
    data = np.load(golden / 'metrics.npz')
    expected = json.loads((golden / 'ktpformer.json').read_text())['metrics_metres']
    predicted, target = torch.from_numpy(data['predicted']), torch.from_numpy(data['target'])
    for name in ('mpjpe', 'p_mpjpe', 'n_mpjpe'):
        assert getattr(metrics, name)(predicted, target).mean().item() == pytest.approx(expected[name], rel=1e-5)
    flat = metrics.mpjve(predicted.flatten(0, 1), target.flatten(0, 1)).mean().item()
    assert flat == pytest.approx(expected['mpjve_over_flattened_frames'], rel=1e-5)


def rotation(seed=0):
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)).double())
    return q * torch.linalg.det(q).sign()


def test_rigid_motion_and_scale_leave_p_mpjpe_alone(poses):
    predicted, target = poses
    moved = 1.7 * predicted.double() @ rotation().T + torch.tensor([1.0, -2, 3])
    torch.testing.assert_close(metrics.p_mpjpe(moved, target), metrics.p_mpjpe(predicted, target))
    assert metrics.p_mpjpe(1.7 * target.double() @ rotation().T + 5, target).max() < 1e-9


def test_a_mirrored_pose_is_not_aligned_by_a_reflection(poses):
    """Procrustes must rotate only: a reflected target keeps a large error, and the naive one agrees on it."""
    _, target = poses
    reflected = target * torch.tensor([-1.0, 1, 1])
    error = metrics.p_mpjpe(reflected, target)
    assert error.min() > 0.1
    assert error.mean().item() == pytest.approx(naive.p_mpjpe(reflected, target), rel=1e-6)


def test_scale_leaves_n_mpjpe_alone(poses):
    predicted, target = poses
    torch.testing.assert_close(metrics.n_mpjpe(2.5 * predicted, target), metrics.n_mpjpe(predicted, target))


def test_degenerate_poses_give_finite_errors():
    point, line = torch.zeros(1, 17, 3), torch.arange(17.0)[None, :, None] * torch.tensor([1.0, 2, 3])
    for predicted, target in ((point, line), (line, point), (point, point), (line, line)):
        for name in ('mpjpe', 'p_mpjpe', 'n_mpjpe'):
            assert getattr(metrics, name)(predicted, target).isfinite().all()
    assert metrics.p_mpjpe(line, line).item() < 1e-9


@pytest.mark.parametrize('frames', [1, 2, 9])
def test_loss_parts(poses, frames):
    predicted, target = (p[:, :frames] for p in poses)
    ours = pose_loss(predicted, target, torch.tensor(H36M.loss_weights))
    expected = naive.loss_parts(predicted, target, naive.h36m_weights())
    for name, value in expected.items():
        assert ours[name].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-12), name
    if frames == 1:
        assert ours['temporal_consistency'] == ours['mpjve'] == 0


def test_the_factor_is_the_slope_of_the_objective():
    for kind, objective in (('half-square', lambda t: t**2 / 2), ('plain', lambda t: t)):
        total = torch.tensor(3.0, requires_grad=True)
        objective(total).backward()
        assert float(gradient_factor(total, kind)) == total.grad.item()


@pytest.mark.parametrize('skeleton', SKELETONS.values(), ids=SKELETONS)
def test_mirroring_twice_changes_nothing(skeleton):
    order = torch.tensor(skeleton.mirror)
    x = torch.randn(2, 3, len(skeleton), 3)
    assert torch.equal(mirror(mirror(x, order), order), x)
    np.testing.assert_array_equal(mirror(x, order), naive.mirror(x.numpy(), skeleton.left, skeleton.right))


def test_mirroring_both_leaves_errors_alone(poses):
    predicted, target = poses
    order = torch.tensor(H36M.mirror)
    for name in ('mpjpe', 'p_mpjpe', 'n_mpjpe'):
        metric = getattr(metrics, name)
        torch.testing.assert_close(metric(mirror(predicted, order), mirror(target, order)), metric(predicted, target))


def test_metrics_have_a_gradient_at_a_perfect_prediction():
    predicted = torch.zeros(1, 2, 17, 3, requires_grad=True)
    pose_loss(predicted, torch.zeros(1, 2, 17, 3), torch.ones(17))['total'].backward()
    assert math.isfinite(predicted.grad.abs().sum().item())
