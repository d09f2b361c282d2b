"""One person's keypoints over time, and picking that person among those that a detector saw.

Letters: T frames, K keypoints.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.errors import FileError, FlagError
from common.keypoints.linking import Detections, Doubt, changes, follow
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
        seconds: (T,) when each frame is shown, where the file says that they do not come evenly; else None.
        number: of the person where everybody is read; else None.
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
    seconds: np.ndarray | None = None
    number: int | None = None

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True)
class Person:
    """A detected person in one frame.

    Attributes:
        keypoints: (K, 3) float64 x, y, score.
        score: of the whole person.
        number: by which the file tells people apart, or those of merged boxes; None where it has none.
    """

    keypoints: np.ndarray
    score: float
    number: int | tuple[int, ...] | None = None

    @property
    def numbers(self) -> frozenset[int]:
        """Return all numbers that the file gives the person in this frame."""
        if self.number is None:
            return frozenset()
        return frozenset(self.number) if isinstance(self.number, tuple) else frozenset({self.number})


def track_of(people: list[list[Person]], wanted: int | None, frames: np.ndarray, **about: Any) -> Track:
    """Pick one person among those of T frames and return their track.

    Args:
        people: those of each frame.
        wanted: where the file numbers people, such a number (default: who is seen most often), else the rank of the sum
            of their scores (default: 1, the best).
        frames: (T,) the source's number of each frame.
        about: further attributes of the Track; `kind` is required.

    Raises FlagError where there is no such person, FileError where there is nobody at all, or where people have
    different numbers of keypoints.
    """
    found, chains, _ = followed(people, frames, about['kind'])
    chain, person = (_by_number if by_number(found, chains) else _by_rank)(found, chains, wanted, len(people))
    return track_along(chain, people, frames, person=person, **about)


def followed(people: list[list[Person]], frames: np.ndarray,
             kind: str) -> tuple[Detections, list[list[int]], list[Doubt]]:
    """Return everybody in T frames, the chains of those who are one person, and where these are in doubt.

    Raises FileError where there is nobody at all, or where people have different numbers of keypoints.
    """
    counts = {len(person.keypoints) for frame in people for person in frame}
    if not counts:
        raise FileError(f'{kind}: there is nobody in its {len(people)} frames')
    if len(counts) > 1:
        raise FileError(f'{kind}: some people have {min(counts)} keypoints and others {max(counts)}')
    found = _detections(people, frames)
    chains, doubts = follow(found)
    # Empty places of an array are nobody, unless there is nobody else.
    kept = [i for i, chain in enumerate(chains) if not np.isnan(found.points[chain]).all()] or list(range(len(chains)))
    index = {i: place for place, i in enumerate(kept)}
    doubts = [Doubt(row, index[a], index[b]) for row, a, b in doubts if a in index and b in index]
    return found, [chains[i] for i in kept], doubts


def track_along(chain: list[int], people: list[list[Person]], frames: np.ndarray, **about: Any) -> Track:
    """Return the track of one chain of `followed`; `about` are the further attributes of the Track."""
    everybody = [(row, person) for row, frame in enumerate(people) for person in frame]
    values = np.full((len(people), len(everybody[0][1].keypoints), 3), np.nan)
    for one in chain:
        row, person = everybody[one]
        values[row] = person.keypoints
    points, scores = known(values[..., :2], values[..., 2])
    return Track(points, scores, frames, **about)


def known(points: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Set points to NaN and their scores to 0 where a detector marks that it has none.

    It does so by a score of 0 or less, or by a point at (0, 0), at (-1, -1) or outside any picture.
    """
    with np.errstate(invalid='ignore'):
        there = (np.abs(points) < LARGEST_PICTURE).all(-1) & (scores > 0)
        for mark in (0, -1):
            there &= (points != mark).any(-1)
    return np.where(there[..., None], points, np.nan), np.where(there, scores, 0)


def _detections(people: list[list[Person]], frames: np.ndarray) -> Detections:
    """Return everybody in one array, in the order of the file."""
    everybody = [(row, person) for row, frame in enumerate(people) for person in frame]
    values = np.array([person.keypoints for _, person in everybody], np.float64)
    points, _ = known(values[..., :2], values[..., 2])
    row = np.array([row for row, _ in everybody])
    score = np.nan_to_num([person.score for _, person in everybody])
    there = iter(~np.isnan(points).all(axis=(1, 2)))  # of boxes without keypoints, numbers do not count
    useful = numbered([[person for person in frame if next(there)] for frame in people])
    return Detections(points, row, np.asarray(frames)[row], score,
                      [person.numbers if useful else frozenset() for _, person in everybody])


def numbered(people: list[list[Person]]) -> bool:
    """Check that numbers tell people apart: most have one, which nobody else has in that frame."""
    alone = everybody = 0
    for frame in people:
        count = Counter(number for person in frame for number in person.numbers)
        alone += sum(any(count[number] == 1 for number in person.numbers) for person in frame)
        everybody += len(frame)
    return 2 * alone > everybody


def by_number(found: Detections, chains: list[list[int]]) -> bool:
    """Tell whether people go by the file's numbers: these tell people apart, and somebody has one."""
    return any(found.numbers[one] for chain in chains for one in chain)


def _by_number(found: Detections, chains: list[list[int]], wanted: int | None,
               frames: int) -> tuple[list[int], str]:
    """Pick the person who has a number most often, by default who is seen most often; return them, and how."""
    shown = [Counter(number for one in chain for number in found.numbers[one]) for chain in chains]
    count: Counter[int] = Counter()
    for numbers in shown:
        count.update(numbers)
    if wanted is not None and wanted not in count:
        raise FlagError(f'--person {wanted}: the file has no such person; there are '
                        f'{", ".join(map(str, sorted(count)[:20]))}')
    able = [i for i in range(len(chains)) if shown[i]]
    index = max(able, key=lambda i: (len(chains[i]) if wanted is None else shown[i][wanted], len(chains[i]),
                                     -min(shown[i])))
    chain, numbers = chains[index], shown[index]
    number = max(numbers, key=lambda n: (numbers[n], -n)) if wanted is None else wanted
    others = '' if len(count) == 1 else f' of {len(count)} people ({_some(sorted(count))}; --person N picks another)'
    how = f"number {number} by the file's own count, in {len(chain)} of {frames} frames{others}"
    has = [number in found.numbers[one] for one in chain]
    if not all(has):
        named = sorted({min(found.numbers[one]) for one in chain if found.numbers[one]} - {number})
        how += (f'; followed by pose in {has.count(False)} frames in which that person has no number or another one'
                f'{f" ({_some(named)})" if named else ""}: {changes(has)} changes')
    elsewhere = count[number] - numbers[number]
    if elsewhere:
        how += f'; number {number} jumps to somebody else, who is left out, in {elsewhere} frames'
    return chain, how


def _by_rank(found: Detections, chains: list[list[int]], wanted: int | None, frames: int) -> tuple[list[int], str]:
    """Pick the person of a rank by score, summed over the clip, the best by default; return them, and how."""
    rank, most = wanted or 1, int(np.bincount(found.row).max())
    if wanted is not None and not 1 <= wanted <= len(chains):
        raise FlagError(f'--person {wanted}: the file does not number people, so that this is a rank by score, from 1 '
                        f'to {len(chains)}')
    chain = chains[by_score(found, chains)[rank - 1]]
    if len(chains) == 1:
        return chain, 'the only one'
    return chain, (f'the one whose score over all frames is {"the best" if rank == 1 else f"number {rank}"}, in '
                   f'{len(chain)} of {frames} frames, of {len(chains)} people, up to {most} in a frame; the file does '
                   f'not number them, they are followed from frame to frame by pose (--person N takes rank N)')


def by_score(found: Detections, chains: list[list[int]]) -> list[int]:
    """Return the order of chains by the sum of their scores, the best first."""
    return sorted(range(len(chains)), key=lambda i: (-found.score[chains[i]].sum(), -len(chains[i]), chains[i][0]))


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
