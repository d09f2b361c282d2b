"""Gaps in a track: interpolating what the detector did not see, and finding strays, jumps and long absences.

Letters: T frames, K keypoints.
"""

from dataclasses import dataclass

import numpy as np

from common.skeleton import Skeleton

STRAY_WINDOW = 31  # frames over which the median gives the place where a person is expected
ABSENCE = 2.0  # seconds; absences this long are reported
SWAP = 0.05  # body sizes that keypoints move by on average where their sides change places, or more
STILL = 0.5  # seconds; a body that moves by nothing at all for so long is reported


def fill(points: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Interpolate each keypoint linearly over the frames that did not see it, holding it at the ends of the clip.

    Args:
        points: (T, K, 2) float64.
        seen: (T, K) bool.

    Returns (T, K, 2) float64; a keypoint that is never seen is NaN.
    """
    filled, frames = np.full_like(points, np.nan), np.arange(len(points))
    for k in np.flatnonzero(seen.any(axis=0)):
        at = np.flatnonzero(seen[:, k])
        for axis in range(2):
            filled[:, k, axis] = np.interp(frames, at, points[at, k, axis])
    return filled


def strays(points: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return (T,) bool: frames in which the person is further than their own size from where they are around that time.

    In such frames the person with the best score is probably somebody else.
    """
    shown = np.flatnonzero(seen.sum(axis=1) >= 3)
    stray = np.zeros(len(points), bool)
    if len(shown) < 3:
        return stray
    there = np.where(seen[..., None], points, np.nan)[shown]
    centre = np.nanmedian(there, axis=1)  # (S, 2)
    size = _extent(there)
    half = min(STRAY_WINDOW, len(shown) - 1 + len(shown) % 2) // 2
    around = np.lib.stride_tricks.sliding_window_view(_continued(centre, half), 2 * half + 1, axis=0)
    stray[shown] = np.linalg.norm(centre - np.median(around, axis=-1), axis=-1) > size
    return stray


def jumps(points: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return the rows (N,) in which a person is further than their own size from where they were seen last.

    No one moves so fast: there the film is cut, or the track goes over to somebody else. A tenth of the size more is
    allowed for each row in between.
    """
    there = np.where(seen[..., None], points, np.nan)
    shown = np.flatnonzero(seen.sum(axis=1) >= 3)
    if len(shown) < 2:
        return shown[:0]
    size = _extent(there[shown])
    centre = np.nanmedian(there[shown], axis=1)
    far = np.linalg.norm(np.diff(centre, axis=0), axis=-1) > size * (0.9 + 0.1 * np.diff(shown))
    return shown[1:][far]


def swaps(points: np.ndarray, seen: np.ndarray, layout: Skeleton) -> np.ndarray:
    """Return the rows (N,) in which a detector takes left for right, or stops doing so.

    There the pose is far from that of the row before, and near it with its sides exchanged.
    """
    sides = [*layout.left, *layout.right]
    there = np.where(seen[..., None], points, np.nan)
    shown = seen.sum(axis=1) >= 3
    if not shown.any():
        return np.flatnonzero(shown)
    before, now, exchanged = there[:-1, sides], there[1:, sides], there[1:, layout.mirror][:, sides]
    moved, across = np.linalg.norm([now - before, exchanged - before], axis=-1)
    known = ~np.isnan(moved + across)
    enough = known.sum(axis=1) >= 4
    moved, across = (np.where(known, off, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1) for off in (moved, across))
    return 1 + np.flatnonzero(enough & (moved > SWAP * _extent(there[shown])) & (across < moved / 2))


def _extent(there: np.ndarray) -> float:
    """Return the size of a person (S, K, 2), NaN where unseen: the longer side, in the median row."""
    return float(np.median((np.nanmax(there, axis=1) - np.nanmin(there, axis=1)).max(axis=-1)))


def stills(points: np.ndarray, seen: np.ndarray, shortest: int) -> list['Absence']:
    """Find the runs of at least `shortest` rows after the first of which nothing that is seen moves at all."""
    moved = np.ones(len(points), bool)
    same = (seen[1:] == seen[:-1]).all(axis=1) & seen[1:].any(axis=1)
    moved[1:] = ~same | (np.where(seen[1:, :, None], points[1:] - points[:-1], 0) != 0).any(axis=(1, 2))
    return [Absence(run.first - 1, run.last) for run in absences(moved, max(1, shortest - 1))]


def _continued(centre: np.ndarray, half: int) -> np.ndarray:
    """Return a path (S, 2) with `half` more places at either end: it goes on as fast as it usually is there."""
    back = np.arange(half, 0, -1)
    begin, end = (np.median(np.diff(part, axis=0), axis=0) for part in (centre[:2 * half + 1], centre[-2 * half - 1:]))
    return np.concatenate([centre[back] - 2 * back[:, None] * begin, centre,
                           centre[-1 - back[::-1]] + 2 * back[::-1, None] * end])


@dataclass(frozen=True)
class Absence:
    """A run of rows without a person, `first` and `last` included."""

    first: int
    last: int


def absences(present: np.ndarray, shortest: int) -> list[Absence]:
    """Find the runs of at least `shortest` frames in which nobody is `present` (T,) bool."""
    edges = np.diff(np.concatenate([[True], present, [True]]).astype(int))
    begins, ends = np.flatnonzero(edges == -1), np.flatnonzero(edges == 1)
    return [Absence(int(b), int(e) - 1) for b, e in zip(begins, ends, strict=True) if e - b >= shortest]
