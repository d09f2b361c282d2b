"""What a detector did not see: interpolated in time, and told.

Letters: T frames, K keypoints.
"""

from dataclasses import dataclass

import numpy as np

STRAY_WINDOW = 31  # frames around each in whose middle place a person is expected
ABSENCE = 2.0  # seconds without a person from which on the frames are named


def fill(points: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(T, K, 2) float64 with each keypoint's unseen frames interpolated linearly, held at the ends of the clip.

    Args:
        points: (T, K, 2). seen: (T, K) bool. A keypoint that is never seen stays NaN.
    """
    filled, frames = np.full_like(points, np.nan), np.arange(len(points))
    for k in np.flatnonzero(seen.any(axis=0)):
        at = np.flatnonzero(seen[:, k])
        for axis in range(2):
            filled[:, k, axis] = np.interp(frames, at, points[at, k, axis])
    return filled


def strays(points: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(T,) bool: frames in which the person stands further than their own size from where they are around that time.

    A detector's best-scored person may be another one for a few frames.
    """
    shown = np.flatnonzero(seen.sum(axis=1) >= 3)
    stray = np.zeros(len(points), bool)
    if len(shown) < 3:
        return stray
    there = np.where(seen[..., None], points, np.nan)[shown]
    centre = np.nanmedian(there, axis=1)  # (S, 2)
    size = np.median((np.nanmax(there, axis=1) - np.nanmin(there, axis=1)).max(axis=-1))
    half = min(STRAY_WINDOW, len(shown) - 1 + len(shown) % 2) // 2
    around = np.lib.stride_tricks.sliding_window_view(np.pad(centre, ((half, half), (0, 0)), 'reflect'), 2 * half + 1,
                                                      axis=0)
    stray[shown] = np.linalg.norm(centre - np.median(around, axis=-1), axis=-1) > size
    return stray


@dataclass(frozen=True)
class Absence:
    """Consecutive rows without a person: the first and the last."""

    first: int
    last: int


def absences(present: np.ndarray, shortest: int) -> list[Absence]:
    """The stretches of at least `shortest` frames in which nobody is `present` (T,) bool."""
    edges = np.diff(np.concatenate([[True], present, [True]]).astype(int))
    begins, ends = np.flatnonzero(edges == -1), np.flatnonzero(edges == 1)
    return [Absence(int(b), int(e) - 1) for b, e in zip(begins, ends, strict=True) if e - b >= shortest]
