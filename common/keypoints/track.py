"""One person's keypoints over time, and picking that person among those that a detector saw, without tracking.

Letters: T frames, K keypoints.
"""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from common.errors import FileError, FlagError
from common.skeleton import Skeleton

LARGEST_PICTURE = 1e6  # pixels


@dataclass(frozen=True)
class Track:
    """The keypoints of one person, as read from a file.

    Attributes:
        points: (T, K, 2) float64 pixels, NaN where there is none.
        scores: (T, K) float64, the detector's confidence: 1 where the file has no scores, 0 where there is no point.
        frames: (T,) int64, the source's number of each frame.
        kind: the kind of file, in words.
        person: which person this is and how they were picked, in words.
        layouts: names of the layouts that such a file usually has; a Skeleton is what the file itself says.
        size: (width, height) in pixels; None where the file does not say.
        fps: frames per second; None where the file does not say.
        threshold: the least score of a usable keypoint in such a file, unless the user gives another.
    """

    points: np.ndarray
    scores: np.ndarray
    frames: np.ndarray
    kind: str
    person: str
    layouts: tuple[str | Skeleton, ...] = ()
    size: tuple[float, float] | None = None
    fps: float | None = None
    threshold: float = 0.3

    def __len__(self):
        return len(self.points)


@dataclass(frozen=True)
class Person:
    """A detected person in one frame.

    Attributes:
        keypoints: (K, 3) float64 x, y, score.
        score: of the whole person.
        number: by which the file tells people apart; None where it has none.
    """

    keypoints: np.ndarray
    score: float
    number: int | None = None


def track_of(people: list[list[Person]], wanted: int | None, frames: np.ndarray, **about) -> Track:
    """Pick one person among those of T frames and return their track.

    Args:
        people: those of each frame.
        wanted: where the file numbers people, such a number (default: the most frequent), else the rank of their score
            in each frame (default: 1, the best).
        frames: (T,) the source's number of each frame.
        about: further attributes of the Track; `kind` is required.

    Raises FlagError where there is no such person, FileError where there is nobody at all, or where people have
    different numbers of keypoints.
    """
    counts = {len(person.keypoints) for frame in people for person in frame}
    if not counts:
        raise FileError(f'{about["kind"]}: there is nobody in its {len(people)} frames')
    if len(counts) > 1:
        raise FileError(f'{about["kind"]}: some people have {min(counts)} keypoints and others {max(counts)}')
    picked, person = (_by_number if _numbered(people) else _by_rank)(people, wanted)
    absent = np.full((counts.pop(), 3), np.nan)
    values = np.stack([absent if one is None else one.keypoints for one in picked])  # (T, K, 3)
    points, scores = known(values[..., :2], values[..., 2])
    return Track(points, scores, frames, person=person, **about)


def known(points: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Set points to NaN and their scores to 0 where a point is outside any picture, scored 0 or less, or at (0, 0)."""
    with np.errstate(invalid='ignore'):
        there = (np.abs(points) < LARGEST_PICTURE).all(-1) & (points != 0).any(-1) & (scores > 0)
    return np.where(there[..., None], points, np.nan), np.where(there, scores, 0)


def _numbered(people: list[list[Person]]) -> bool:
    """Check that numbers tell people apart: everybody has one, and no two share one within a frame."""
    numbers = [[person.number for person in frame] for frame in people]
    return all(None not in frame and len(set(frame)) == len(frame) for frame in numbers)


def _by_number(people: list[list[Person]], wanted: int | None) -> tuple[list[Person | None], str]:
    """Pick a person by number, the most frequent by default; return them in each frame, and how, in words."""
    count = Counter(person.number for frame in people for person in frame if person.number is not None)
    number = count.most_common(1)[0][0] if wanted is None else wanted
    if number not in count:
        raise FlagError(f'--person {number}: the file has no such person; there are '
                        f'{", ".join(map(str, sorted(count)[:20]))}')
    picked = [next((person for person in frame if person.number == number), None) for frame in people]
    others = '' if len(count) == 1 else f' of {len(count)} people ({_some(sorted(count))}; --person N picks another)'
    return picked, f"number {number} by the file's own count, in {count[number]} of {len(people)} frames{others}"


def _by_rank(people: list[list[Person]], wanted: int | None) -> tuple[list[Person | None], str]:
    """Pick the person of a rank by score in each frame, the best by default; return them, and how, in words."""
    rank, most = wanted or 1, max(len(frame) for frame in people)
    if wanted is not None and not 1 <= wanted <= most:
        raise FlagError(f'--person {wanted}: the file does not number people, so that this is a rank by score, from 1 '
                        f'to {most}')
    order = [sorted(frame, key=lambda person: -person.score) for frame in people]
    picked = [frame[rank - 1] if len(frame) >= rank else None for frame in order]
    if most == 1:
        return picked, 'the only one'
    place = 'best' if rank == 1 else f'number {rank}'
    return picked, (f'the one with score {place} in each frame, of up to {most} people; they are not tracked '
                    f'(--person N takes rank N)')


def _some(values: list) -> str:
    more = ', …' if len(values) > 8 else ''
    return ', '.join(map(str, values[:8])) + more


def rows_of(labels: list[int | None]) -> tuple[np.ndarray, np.ndarray]:
    """Arrange numbered frames in time: return the row of each label (N,) and the number of each row (T,).

    Missing frames get rows of their own, but if all labels have a common step, such as every fifth frame, a row is one
    step. Labels that cannot be frame numbers (absent, repeated or too far apart) keep the order of the file.
    """
    in_order = np.arange(len(labels)), np.arange(len(labels))
    known_labels = [label for label in labels if label is not None]
    if not labels or len(set(known_labels)) < len(labels) or max(map(abs, known_labels)) >= 1 << 62:
        return in_order
    numbers = np.array(known_labels, dtype=np.int64)
    step = math.gcd(*(int(n) for n in np.diff(np.sort(numbers)))) if len(labels) > 1 else 1
    rows = (numbers - numbers.min()) // step
    if rows.max() >= 20 * len(labels) + 100:
        return in_order
    return rows, numbers.min() + step * np.arange(rows.max() + 1)
