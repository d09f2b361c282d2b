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


def test_metrics_by_hand():
    target = torch.zeros(1, 2, 3)
    predicted = torch.tensor([[[3.0, 4, 0], [0, 0, 2]]])
    assert metrics.mpjpe(predicted, target).tolist() == [3.5]
    # scale Σ⟨p,y⟩/Σ⟨p,p⟩ = 10/5 doubles the pose exactly onto its target
    pose = torch.tensor([[[1.0, 0, 0], [0, 2, 0]]])
    assert metrics.n_mpjpe(pose, 2 * pose).item() == 0
    track = torch.tensor([0.0, 1, 3])[:, None, None] * torch.tensor([1.0, 0, 0])  # one joint, steps of 1 and 2
    assert metrics.mpjve(track, torch.zeros(3, 1, 3)).tolist() == [1, 2]


@pytest.mark.parametrize('name', ['mpjpe', 'p_mpjpe', 'n_mpjpe'])
def test_metrics_equal_the_naive_ones(poses, name):
    predicted, target = poses
    ours = getattr(metrics, name)(predicted, target)
    assert ours.shape == (4, 9)
    assert ours.double().mean().item() == pytest.approx(getattr(naive, name)(predicted, target), rel=1e-6)


def test_velocity_error_equals_the_naive_one(poses):
    predicted, target = (p.flatten(0, 1) for p in poses)
    expected = naive.mpjve_flat(predicted, target)
    assert metrics.mpjve(predicted, target).mean().item() == pytest.approx(expected, rel=1e-6)


def test_metrics_equal_the_golden_ones(golden):
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


RANDOM = np.random.default_rng(0)
AXES, TURN = RANDOM.normal(size=(17, 3)), rotation(1).numpy()
AXES = np.linalg.qr(AXES - AXES.mean(0))[0]  # (17, 3): pᵀy is diagonal, whatever its axes are scaled by
LINE, PLANE = RANDOM.normal(size=(17, 1)) * [1, 2, -2], RANDOM.normal(size=(17, 2)) @ [[1, 2, -2], [2, 1, 2]]
POSE, OTHER, MIRROR = RANDOM.normal(size=(17, 3)), RANDOM.normal(size=(17, 3)), [-1, 1, 1]


@pytest.mark.parametrize(('predicted', 'target'), [
    pytest.param(POSE, OTHER, id='two that have nothing in common'),
    pytest.param(POSE, -OTHER, id='and one of them turned inside out'),
    pytest.param(POSE * MIRROR, POSE + 0.1 * OTHER, id='mirrored'),
    pytest.param(PLANE, POSE, id='planar'), pytest.param(POSE, PLANE, id='planar target'),
    pytest.param(PLANE + [5, 6, 7], (PLANE @ TURN + 0.1 * PLANE[::-1]), id='both planar'),
    pytest.param(PLANE * MIRROR, PLANE, id='both planar and mirrored'),
    pytest.param(LINE, POSE, id='collinear'), pytest.param(POSE, LINE, id='collinear target'),
    pytest.param(LINE, LINE[::-1] @ TURN, id='both collinear'), pytest.param(LINE, -LINE, id='back to front'),
    pytest.param(LINE + 1e-4 * POSE, LINE @ TURN + 1e-4 * OTHER, id='nearly collinear'),
    pytest.param(POSE[:3], OTHER[:3], id='three joints'), pytest.param(POSE[:2], OTHER[:2], id='two joints'),
    pytest.param(AXES, AXES * [1, 1, 0.5] @ TURN, id='equal singular values, first two'),
    pytest.param(AXES, AXES * [1, 0.5, 0.5] @ TURN, id='equal singular values, last two'),
    pytest.param(AXES, AXES * [1, 1, -0.5] @ TURN, id='equal singular values and mirrored'),
    pytest.param(AXES, AXES * [1, 0.5, -0.499] @ TURN, id='nearly equal singular values and mirrored'),
    pytest.param(1e-6 * POSE, OTHER, id='tiny'), pytest.param(1e6 * POSE, OTHER, id='huge'),
    pytest.param(1e-6 * POSE, 1e-6 * OTHER, id='both tiny'), pytest.param(1e6 * POSE, 1e6 * OTHER, id='both huge'),
])
def test_p_mpjpe_against_a_singular_value_decomposition(predicted, target):
    expected = naive.p_mpjpe(predicted, target)
    size = naive.mpjpe(target - target.mean(0), np.zeros_like(target))
    error = metrics.p_mpjpe(torch.from_numpy(predicted), torch.from_numpy(target))
    assert error.item() == pytest.approx(expected, rel=0, abs=1e-11 * size)
    # the first and the last of more matrices than are done at once, in other company
    others = np.random.default_rng(1).normal(size=(5000, *target.shape))
    many = [torch.from_numpy(np.concatenate([x[None], others, x[None]])) for x in (predicted, target)]
    assert (metrics.p_mpjpe(*many)[[0, -1]] - error).abs().max() <= 1e-11 * size


def test_p_mpjpe_of_every_pose_equals_the_naive_one():
    """Each pose by itself, a tenth of them reflections: the mean of all would hide one that did not converge."""
    random = np.random.default_rng(2)
    target = random.normal(size=(2000, 17, 3))
    predicted = target + random.uniform(0, 3, size=(2000, 1, 1)) * random.normal(size=(2000, 17, 3))
    predicted[::10] *= MIRROR
    error = metrics.p_mpjpe(torch.from_numpy(predicted), torch.from_numpy(target))
    np.testing.assert_allclose(error, [naive.p_mpjpe(p, y) for p, y in zip(predicted, target, strict=True)], rtol=1e-10)


@pytest.mark.parametrize('scale', [1e-6, 1, 1000, 1e6])
def test_p_mpjpe_of_a_pose_and_itself_is_rounding(poses, scale):
    _, target = poses
    target = scale * target.double()
    for predicted in (target, 1e-3 * (target @ rotation().T + scale)):
        assert metrics.p_mpjpe(predicted, target).max() < 1e-13 * scale


def test_p_mpjpe_of_poses_of_rank_one():
    """A prediction whose joints coincide stays a point: its error is the target's own size."""
    target = torch.from_numpy(POSE)
    size = (target - target.mean(dim=0)).norm(dim=-1).mean().item()
    for point in (0.0, 0.1):
        assert metrics.p_mpjpe(torch.full_like(target, point), target).item() == pytest.approx(size, rel=1e-12)
        assert metrics.p_mpjpe(target, torch.full_like(target, point)).item() < 1e-15
    assert metrics.p_mpjpe(target[:1], target[1:2]).item() == 0


def test_p_mpjpe_of_any_leading_axes(poses):
    predicted, target = poses
    error = metrics.p_mpjpe(predicted, target)
    assert error.dtype == torch.float64
    assert torch.equal(predicted, poses[0]) and torch.equal(target, poses[1])
    for get in (lambda x: x[0, 0], lambda x: x[0], lambda x: x[None], lambda x: x[:, :0], lambda x: x[:0]):
        with torch.inference_mode():
            ours = metrics.p_mpjpe(get(predicted), get(target))
        assert ours.shape == get(error).shape
        torch.testing.assert_close(ours, get(error), rtol=1e-12, atol=0)


def test_p_mpjpe_leaves_what_it_is_given_alone(poses):
    given = [x.double() for x in poses]
    kept = [x.clone() for x in given]
    metrics.p_mpjpe(*given)
    assert all(torch.equal(*pair) for pair in zip(given, kept, strict=True))


@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_p_mpjpe_of_a_bad_pose_spoils_no_other(poses, bad):
    predicted, target = (x.flatten(0, 1).clone() for x in poses)
    error = metrics.p_mpjpe(predicted, target)
    predicted[3, 5, 1] = target[7, 0, 0] = bad
    ours = metrics.p_mpjpe(predicted, target)
    assert ours.isnan().nonzero().flatten().tolist() == [3, 7]
    ours[[3, 7]] = error[[3, 7]]
    torch.testing.assert_close(ours, error, rtol=1e-12, atol=0)


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
def test_loss_parts_equal_the_naive_ones(poses, frames):
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
