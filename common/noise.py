"""A detector's noise on keypoints, drawn on the device: errors that last for some frames, swaps of sides, gaps.

Source of the errors of each joint and of the confidence: the synthetic noise of MotionBERT (Zhu et al., ICCV 2023),
whose fitted parameters (https://github.com/Walter0807/MotionBERT, folder params; Copyright its authors, Apache License
2.0, https://www.apache.org/licenses/LICENSE-2.0) are in JOINTS and below it. Swaps of sides and gaps are ours.
Letters: B windows, F frames, K keypoints, N knots.
"""

import math
from typing import NamedTuple

import torch

from common.skeleton import Skeleton

# Of each joint: mean error x, y and its standard deviation x, y in normalised screen units, and how often the error is
# Gaussian with these; else the detector is wrong, by up to OUTLIER in x and in y.
JOINTS = {
    'hip': (0.000813, 0.000212, 0.003663, 0.003573, 0.998745),
    'right_hip': (-0.000148, 0.001998, 0.007135, 0.005109, 0.966954),
    'right_knee': (0.002039, -0.00151, 0.006084, 0.005003, 0.889607),
    'right_ankle': (0.000944, 0.000908, 0.008953, 0.005293, 0.893835),
    'left_hip': (0.001867, -0.000704, 0.006717, 0.005328, 0.97462),
    'left_knee': (0.001933, -0.005204, 0.007013, 0.004921, 0.876673),
    'left_ankle': (0.000894, -0.001872, 0.009506, 0.005625, 0.821006),
    'spine': (0.002468, 0.002334, 0.006588, 0.004968, 0.957807),
    'thorax': (0.002141, -0.006508, 0.005491, 0.005305, 0.918315),
    'neck': (0.001656, 0.001655, 0.005339, 0.004877, 0.96794),
    'head': (0.000837, 0.001593, 0.003416, 0.003492, 0.98412),
    'left_shoulder': (0.000794, -0.004622, 0.008007, 0.006087, 0.890993),
    'left_elbow': (0.001499, 0.000296, 0.005168, 0.004754, 0.801556),
    'left_wrist': (0.001159, 0.00163, 0.00499, 0.005089, 0.70277),
    'right_shoulder': (0.002104, -0.003166, 0.007823, 0.007934, 0.880896),
    'right_elbow': (0.001682, -0.00033, 0.006009, 0.005721, 0.824629),
    'right_wrist': (0.001664, 0.001318, 0.00537, 0.005684, 0.728748),
}
OUTLIER = 0.03
SPACING = 242 / 26  # frames from knot to knot, between which errors change linearly: 27 knots in 243 frames
OFFSET = 0.005  # standard deviation of what a keypoint is off by in all of a window; ours
JITTER = 0.002  # standard deviation of what is added in each frame by itself
# The confidence of an error of length e: A / (e + A) + B e, and a Gaussian of this mean and deviation.
A, B, CONFIDENCE_MEAN, CONFIDENCE_STD = 0.028, 1.1, -0.004585696384310722, 0.14310568571090698
# The spread of a person's keypoints in the pictures that the errors were fitted to; larger people have larger errors.
SPREAD = 0.24
# Shares of the time between two knots in which sides are swapped, of arms and of legs (a face goes with neither) or of
# the whole body; and in which a keypoint or all of them are not seen, and interpolated, with confidence 0.
SWAPPED_LIMBS, SWAPPED_BODY = 0.01, 0.005
GAP, ABSENT = 0.04, 0.01
LIMBS = (('shoulder', 'elbow', 'wrist'), ('hip', 'knee', 'ankle'))
_NEAR = {'nose': 'neck', 'left_eye': 'head', 'right_eye': 'head', 'left_ear': 'head', 'right_ear': 'head'}


class Errors(NamedTuple):
    """The random numbers of some windows, from which their noise follows.

    Attributes:
        phase: (B,) of the first frame between two knots, 0 to 1.
        offset: (B, K, 2) Gaussian.
        gaussian, uniform: (B, N, K, 2). mixed: (B, N, K), 0 to 1.
        jitter: (B, F, K, 2) Gaussian. confidence: (B, F, K) Gaussian.
        swap: (B, N, 3), 0 to 1, of arms, legs and body. gap: (B, N, K + 1), 0 to 1, of keypoints and of all of them.
    """

    phase: torch.Tensor
    offset: torch.Tensor
    gaussian: torch.Tensor
    uniform: torch.Tensor
    mixed: torch.Tensor
    jitter: torch.Tensor
    confidence: torch.Tensor
    swap: torch.Tensor
    gap: torch.Tensor

    def part(self, part: slice) -> 'Errors':
        """Return those of some of the windows."""
        return Errors(*(numbers[part] for numbers in self))


class DetectorNoise:
    """The noise of a detector that finds the keypoints of a layout."""

    def __init__(self, layout: Skeleton, device: torch.device):
        known = torch.tensor(list(JOINTS.values()))
        rows = [torch.tensor(JOINTS[near]) if near in JOINTS else known.mean(0)
                for near in (_NEAR.get(name, name) for name in layout.joints)]
        self.mean, self.std, self.gaussian = (part.to(device) for part in torch.stack(rows).split([2, 2, 1], dim=-1))
        self.mirror = torch.tensor(layout.mirror, device=device)
        self.limbs = torch.tensor([[name.endswith(limb) and '_' in name for name in layout.joints] for limb in LIMBS],
                                  device=device)

    def draw(self, windows: int, frames: int, generator: torch.Generator) -> Errors:
        """Draw the random numbers of so many windows on the generator's device."""
        knots, keypoints, device = math.ceil((frames - 1) / SPACING) + 2, len(self.mirror), generator.device
        shapes = [(), (knots, keypoints, 2), (knots, keypoints), (knots, 3), (knots, keypoints + 1)]
        sizes = [math.prod(shape) for shape in shapes]
        # One call of each kind: many small ones would cost more than the numbers.
        uniform = torch.rand(windows, sum(sizes), generator=generator, device=device).split(sizes, dim=1)
        phase, wrong, mixed, swap, gap = (x.reshape(windows, *shape) for x, shape in zip(uniform, shapes, strict=True))
        shapes = [(keypoints, 2), (knots, keypoints, 2), (frames, keypoints, 2), (frames, keypoints)]
        sizes = [math.prod(shape) for shape in shapes]
        normal = torch.randn(windows, sum(sizes), generator=generator, device=device).split(sizes, dim=1)
        offset, error, jitter, confidence = (
            x.reshape(windows, *shape) for x, shape in zip(normal, shapes, strict=True))
        return Errors(phase, offset, error, wrong, mixed, jitter, confidence, swap, gap)

    def __call__(self, keypoints: torch.Tensor, errors: Errors) -> torch.Tensor:
        """Return keypoints (B, F, K, 2) as a detector finds them, and its confidence: (B, F, K, 3)."""
        frame = torch.arange(keypoints.shape[1], device=keypoints.device)
        at = frame / SPACING + errors.phase[:, None]  # (B, F), in knots
        knot = at.long()
        window = torch.arange(len(keypoints), device=keypoints.device)[:, None]
        points = torch.where(self._swapped(errors)[window, knot][..., None], keypoints[:, :, self.mirror], keypoints)
        right = (errors.mixed < self.gaussian[:, 0])[..., None]
        error = torch.where(right, self.mean + self.std * errors.gaussian, OUTLIER * (2 * errors.uniform - 1))
        error = torch.lerp(error[window, knot], error[window, knot + 1], (at - knot)[..., None, None])
        error = error + JITTER * errors.jitter
        points = points + (error + OFFSET * errors.offset[:, None]) * spread_of(keypoints) / SPREAD
        length = error.norm(dim=-1)
        confidence = A / (length + A) + B * length + CONFIDENCE_MEAN + CONFIDENCE_STD * errors.confidence
        unseen = ((errors.gap[..., :-1] < GAP) | (errors.gap[..., -1:] < ABSENT))[window, knot]
        points = torch.where(unseen[..., None], _across(points, knot, errors.phase), points)
        return torch.cat([points, confidence.clamp(0, 1).masked_fill(unseen, 0)[..., None]], dim=-1)

    def _swapped(self, errors: Errors) -> torch.Tensor:
        """Return (B, N, K), whether a keypoint is where that of the other side is, from a knot to the next."""
        limbs = ((errors.swap[..., :2, None] < SWAPPED_LIMBS) & self.limbs).any(dim=-2)
        return limbs | (errors.swap[..., 2:] < SWAPPED_BODY)


def spread_of(keypoints: torch.Tensor) -> torch.Tensor:
    """Return how large the people in windows (B, F, K, 2) are: the root mean square from their middle, (B, 1, 1, 1)."""
    middle = keypoints.mean(dim=2, keepdim=True)
    return (keypoints - middle).square().sum(-1).mean(dim=(1, 2)).sqrt()[:, None, None, None]


def _across(points: torch.Tensor, knot: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
    """Return points (B, F, K, 2) interpolated from the frame before a frame's knot to the first of the next knot.

    At the ends of a window the one that is there is held. A window without either stays as it is.
    """
    last, frame = points.shape[1] - 1, torch.arange(points.shape[1], device=points.device)
    begin = ((knot - phase[:, None]) * SPACING).ceil().long() - 1
    end = ((knot + 1 - phase[:, None]) * SPACING).ceil().long()
    neither = (begin < 0) & (end > last)
    first = torch.where(neither, frame, torch.where(begin < 0, end, begin)).clamp(0, last)
    second = torch.where(neither, frame, torch.where(end > last, begin, end)).clamp(0, last)
    window = torch.arange(len(points), device=points.device)[:, None]
    share = ((frame - first) / (second - first).clamp(min=1)).clamp(0, 1)
    return torch.lerp(points[window, first], points[window, second], share[..., None, None])
