"""A detector's noise: its statistics against the published parameters, its gaps and swaps against hand-made ones."""

import numpy as np
import pytest
import torch

from common.noise import (
    ABSENT,
    CONFIDENCE_MEAN,
    CONFIDENCE_STD,
    GAP,
    JITTER,
    JOINTS,
    OFFSET,
    OUTLIER,
    SPREAD,
    SWAPPED_BODY,
    SWAPPED_LIMBS,
    A,
    B,
    DetectorNoise,
    spread_of,
)
from common.skeleton import COCO, H36M, HUMANEVA20

CPU = torch.device('cpu')


def person(windows, frames, size=1.0, layout=H36M):
    """(windows, frames, K, 2), the same everywhere, as large as those that the parameters were fitted to."""
    points = torch.from_numpy(np.random.default_rng(0).normal(size=(len(layout), 2)).astype(np.float32))
    points = points[None, None].expand(windows, frames, -1, -1)
    return points / spread_of(points) * SPREAD * size


def drawn(noise, windows, frames, seed=1, **instead):
    """Random numbers without swaps and gaps, unless they are asked for."""
    errors = noise.draw(windows, frames, torch.Generator().manual_seed(seed))
    ones = {name: torch.ones_like(getattr(errors, name)) for name in ('swap', 'gap')}
    return errors._replace(**(ones | instead))


@pytest.mark.parametrize('size', [1.0, 3.0])
def test_errors_have_the_published_mean_and_deviation(size):
    noise, points = DetectorNoise(H36M, CPU), person(20_000, 1, size)
    error = (noise(points, drawn(noise, 20_000, 1))[..., :2] - points)[:, 0].numpy() / size
    for index, name in enumerate(H36M.joints):
        *mean, std_x, std_y, share = JOINTS[name]
        for axis, std in enumerate((std_x, std_y)):
            # between two knots, at an even place, of which each is a mixture; 2/3 is the mean of w² + (1 - w)²
            mixed = share * (std**2 + mean[axis]**2) + (1 - share) * OUTLIER**2 / 3 - (share * mean[axis])**2
            assert error[:, index, axis].mean() == pytest.approx(share * mean[axis], abs=4e-4), name
            std = (mixed * 2 / 3 + JITTER**2 + OFFSET**2)**0.5
            assert error[:, index, axis].std() == pytest.approx(std, rel=0.05), name


def test_errors_last_for_some_frames():
    noise, points = DetectorNoise(H36M, CPU), person(200, 81)
    errors = drawn(noise, 200, 81)
    error = noise(points, errors._replace(offset=0 * errors.offset))[..., :2] - points
    error = error - error.mean(dim=(0, 1))

    def related(lag):
        return ((error[:, lag:] * error[:, :-lag]).sum() / (error[:, lag:] ** 2).sum()).item()
    assert related(1) > 0.8 > related(5) > 0.2 > abs(related(25))


def test_confidence_follows_from_the_error():
    noise, points = DetectorNoise(COCO, CPU), person(2000, 3, layout=COCO)
    errors = drawn(noise, 2000, 3)
    errors = errors._replace(offset=0 * errors.offset)
    found = noise(points, errors._replace(confidence=0 * errors.confidence))
    length = (found[..., :2] - points).norm(dim=-1)
    expected = (A / (length + A) + B * length + CONFIDENCE_MEAN).clamp(0, 1)
    torch.testing.assert_close(found[..., 2], expected, atol=1e-4, rtol=0)
    random = noise(points, errors)[..., 2]
    off = (random - expected)[(random > 0) & (random < 1) & (expected < 0.65)]  # seldom cut at 1
    assert off.std() == pytest.approx(CONFIDENCE_STD, rel=0.1) and random.min() >= 0 and random.max() <= 1


def test_shares_of_gaps_and_swaps():
    noise, points = DetectorNoise(H36M, CPU), person(20_000, 1).clone()
    points[:, :, list(H36M.left), 0] += 1  # far from the other side
    plain = noise.draw(20_000, 1, torch.Generator().manual_seed(3))
    still = plain._replace(jitter=0 * plain.jitter, gap=torch.ones_like(plain.gap))
    swapped = (noise(points, still)[..., :2] - points).norm(dim=-1)[:, 0] > 0.1
    for index, name in enumerate(H36M.joints):
        limb = name.startswith(('left', 'right'))
        share = 1 - (1 - SWAPPED_LIMBS) * (1 - SWAPPED_BODY) if limb else 0
        assert swapped[:, index].float().mean() == pytest.approx(share, abs=0.004), name
    assert torch.equal(swapped[:, 11], swapped[:, 13])  # an arm as a whole
    assert torch.equal(swapped[:, 11], swapped[:, 14]) and not torch.equal(swapped[:, 11], swapped[:, 1])
    unseen = noise(points, drawn(noise, 20_000, 1, gap=plain.gap))[..., 2] == 0
    assert unseen.float().mean().item() == pytest.approx(1 - (1 - GAP) * (1 - ABSENT), abs=0.005)


def test_gaps_are_interpolated_with_confidence_0():
    noise = DetectorNoise(H36M, CPU)
    points = person(6, 60) + 0.1 * torch.randn(6, 60, 17, 2, generator=torch.Generator().manual_seed(0))
    whole = drawn(noise, 6, 60)
    gap = torch.ones_like(whole.gap)
    gap[0, 3, 2], gap[1, 0, 4], gap[2, -2:, 5], gap[3, 2, -1] = 0, 0, 0, 0  # inside, at both ends, all keypoints
    before, after = noise(points, whole).numpy(), noise(points, whole._replace(gap=gap)).numpy()
    lost = np.zeros((6, 60, 17), bool)
    for window, keypoint in ((0, 2), (1, 4), (2, 5), *((3, k) for k in range(17))):
        gone = after[window, :, keypoint, 2] == 0
        lost[window, :, keypoint] = gone
        assert 0 < gone.sum() < 21 and np.abs(np.diff(gone.astype(int))).sum() == (1 if window in (1, 2) else 2)
        for axis in range(2):
            seen = np.flatnonzero(~gone)
            np.testing.assert_allclose(after[window, :, keypoint, axis], np.interp(
                np.arange(60), seen, before[window, seen, keypoint, axis]), atol=1e-5)
    np.testing.assert_array_equal(after[~lost], before[~lost])


def test_one_frame_no_window_and_other_layouts():
    for layout in (COCO, HUMANEVA20):
        noise = DetectorNoise(layout, CPU)
        for windows, frames in ((3, 1), (0, 9), (1, 500)):
            errors = noise.draw(windows, frames, torch.Generator().manual_seed(0))
            found = noise(person(windows, frames, layout=layout), errors)
            assert found.shape == (windows, frames, len(layout), 3) and found.isfinite().all()
