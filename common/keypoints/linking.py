"""Following people from frame to frame by their poses, whether or not a tracker has numbered them.

Detections in neighbouring frames are one person where their poses are near each other, measured in body sizes. Numbers
of a tracker settle what poses leave open, and no more: trackers give one person two numbers, and two people one.
All people of a frame are linked at once, by the assignment that costs least in total (scipy's).

Letters: T frames, D detections in all of them, A and B some of these, K keypoints.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

# Body sizes that a person may be away from where they are expected: NEAR, and SPEED more for each frame in between.
NEAR, SPEED = 0.5, 0.05
ALIVE = 30  # rows that a person may be missing and still be looked for; later only whole pieces are joined
OTHER_NUMBER = 0.3  # of that distance: a pose so much nearer outweighs a tracker's number
TRUSTED = 30  # frames over which a person with another number, or their speed, is believed
DOUBLE = 0.05  # body sizes between two detections of one person in one frame
MOST = 50  # people in a frame, those with the best scores
REACH = 50  # pieces after the end of one that may go on with it
WORST = 1 + OTHER_NUMBER  # more than any link costs; what it costs to let a person end and another begin
NEARLY = 0.1  # of that distance: where other links cost so little more a person, poses do not tell who is who


@dataclass(frozen=True)
class Detections:
    """All that was detected in a clip, in the order of rows.

    Attributes:
        points: (D, K, 2) pixels, NaN where there is none.
        row: (D,) the row of each, 0 to T - 1, ascending.
        frame: (D,) the source's number of that row.
        score: (D,) of each as a whole.
        numbers: those by which the file tells people apart, none, one, or several of boxes that were merged. `follow`
            adds those of second detections of the same person.
    """

    points: np.ndarray
    row: np.ndarray
    frame: np.ndarray
    score: np.ndarray
    numbers: list[frozenset[int]]

    def sizes(self) -> np.ndarray:
        """Return the longer side (D,) of the box around each, at least a pixel."""
        low = np.where(np.isnan(self.points), np.inf, self.points).min(axis=1)
        high = np.where(np.isnan(self.points), -np.inf, self.points).max(axis=1)
        return np.maximum(np.where(np.isfinite(high), high - low, 0).max(axis=1), 1)


class Doubt(NamedTuple):
    """A frame in which poses hardly tell two people apart: `row` is that of a frame, `a` and `b` are their chains."""

    row: int
    a: int
    b: int


class Followed(NamedTuple):
    """The people of a clip, each a chain: the detections that show them, at most one a frame; and what is doubtful."""

    chains: list[list[int]]
    doubts: list[Doubt]


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the median distance (A, B) of the keypoints that poses (A, K, 2) and (B, K, 2) share; inf without any."""
    apart = np.sort(np.linalg.norm(a[:, None] - b[None], axis=-1), axis=-1)  # NaN come last
    middle = np.maximum(np.isfinite(apart).sum(axis=-1, keepdims=True) - 1, 0) // 2
    return np.nan_to_num(np.take_along_axis(apart, middle, axis=-1)[..., 0], nan=np.inf)


def follow(found: Detections) -> Followed:
    """Return the people of a clip, and where they may have been taken for each other."""
    links = _Links(found)
    pieces: list[list[int]] = []
    alive: list[int] = []
    doubts: list[Doubt] = []
    ends = np.flatnonzero(np.diff(found.row, append=-1)) + 1
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        here = _without_doubles(links, list(range(begin, end)))
        row = int(found.row[begin])
        alive = [piece for piece in alive if row - found.row[pieces[piece][-1]] <= ALIVE]
        cost = links.cost([pieces[piece] for piece in alive], here)
        goes_on = _pairs(cost)
        of = {b: alive[a] for a, b in goes_on.items()}
        for a, b in goes_on.items():
            pieces[alive[a]].append(here[b])
        for b in sorted(set(range(len(here))) - set(goes_on.values())):
            of[b] = len(pieces)
            pieces.append([here[b]])
        doubts += [Doubt(row, alive[a], of[b]) for a, b in _doubtful(cost, goes_on)]
        alive += sorted(set(of.values()) - set(alive))
    chains, chain_of = _joined(links, pieces)
    doubts = [Doubt(row, min(chain_of[a], chain_of[b]), max(chain_of[a], chain_of[b])) for row, a, b in doubts]
    return Followed(chains, [doubt for doubt in dict.fromkeys(doubts) if doubt.a != doubt.b])


class _Links:
    """Measure how far detections are from people who were seen before."""

    def __init__(self, found: Detections):
        self.found, self.sizes = found, found.sizes()

    def cost(self, pieces: list[list[int]], now: list[int]) -> np.ndarray:
        """Return how unlike it is (A, B) that pieces go on with detections: 0 to 1 and a bit, inf where they do not."""
        if not pieces or not now:
            return np.full((len(pieces), len(now)), np.inf)
        last = np.array([piece[-1] for piece in pieces])
        here = np.array(now)
        gap = (self.found.frame[here] - self.found.frame[last][:, None]).astype(float)  # (A, B)
        known = self.found.numbers
        other = np.array([[bool(known[a] and known[b]) and not known[a] & known[b] for b in now] for a in last])
        yard = np.maximum(self.sizes[last][:, None], self.sizes[here])
        expected = self._moved(pieces, np.minimum(gap.min(axis=1), TRUSTED))
        points = self.found.points
        apart = np.minimum(distance(points[last], points[here]), distance(expected, points[here])) / yard
        apart = apart / (NEAR + SPEED * np.where(other, np.minimum(gap, TRUSTED), gap))
        return np.where((apart < 1) & (gap > 0), apart + OTHER_NUMBER * other, np.inf)

    def _moved(self, pieces: list[list[int]], frames: np.ndarray) -> np.ndarray:
        """Return the last poses (A, K, 2) of pieces, moved on for (A,) frames at their mean speed just before."""
        before = np.array([piece[max(0, len(piece) - 6)] for piece in pieces])
        last = np.array([piece[-1] for piece in pieces])
        points, frame = self.found.points, self.found.frame
        passed = np.maximum(frame[last] - frame[before], 1)
        step = points[last] - points[before]  # (A, K, 2)
        known = np.isfinite(step).any(axis=(1, 2))
        speed = np.zeros((len(pieces), 2))
        if known.any():
            speed[known] = np.nanmedian(step[known], axis=1) / passed[known][:, None]
        return points[last] + (frames[:, None] * speed)[:, None]


def _without_doubles(links: _Links, here: list[int]) -> list[int]:
    """Return the detections of a frame without second ones of the same person, which have lower scores.

    The numbers of a second one go over to the first.
    """
    best = sorted(here, key=lambda one: -links.found.score[one])[:MOST]
    if len(best) < 2:
        return best
    points, sizes = links.found.points[best], links.sizes[best]
    near = distance(points, points) < DOUBLE * np.maximum(sizes[:, None], sizes)
    kept: list[int] = []
    for index, one in enumerate(best):
        same = next((k for k in kept if near[k, index]), None)
        if same is None:
            kept.append(index)
        else:
            links.found.numbers[best[same]] |= links.found.numbers[one]
    return sorted(best[k] for k in kept)


def _pairs(cost: np.ndarray) -> dict[int, int]:
    """Pair rows with columns of (A, B) costs so that all pairs, and those left alone, cost least together."""
    pairs = zip(*linear_sum_assignment(np.minimum(cost - WORST, 0)), strict=True)
    return {int(a): int(b) for a, b in pairs if np.isfinite(cost[a, b])}


def _doubtful(cost: np.ndarray, pairs: dict[int, int]) -> list[tuple[int, int]]:
    """Return rows and columns (a, b) that could be a pair at nearly the same cost, given the pairs of (A, B) costs.

    If b has another row, that one takes a's column or, where a has none, ends.
    """
    if not pairs:
        return []
    taken = {b: a for a, b in pairs.items()}
    more = cost - np.array([cost[taken[b], b] if b in taken else 0 for b in range(cost.shape[1])])
    for a, own in pairs.items():
        others = [b for b in taken if b != own]
        back = cost[[taken[b] for b in others], own]
        more[a, others] = (more[a, others] + back - cost[a, own]) / 2
        free = [b for b in range(cost.shape[1]) if b not in taken]
        more[a, free] = cost[a, free] - cost[a, own]
        more[a, own] = np.inf
    return [(int(a), int(b)) for a, b in np.argwhere(more < NEARLY)]


def _joined(links: _Links, pieces: list[list[int]]) -> tuple[list[list[int]], dict[int, int]]:
    """Join pieces with those that go on where they ended, the nearest first; return chains, and that of each piece."""
    frame = links.found.frame
    begins = np.array([frame[piece[0]] for piece in pieces])
    order = np.argsort(begins, kind='stable')
    candidates = []
    for a, piece in enumerate(pieces):
        first = int(np.searchsorted(begins[order], frame[piece[-1]], side='right'))
        after = order[first:first + REACH]
        for b, cost in zip(after, links.cost([piece], [pieces[b][0] for b in after])[0], strict=True):
            if np.isfinite(cost):
                candidates.append((float(cost), a, int(b)))
    following: dict[int, int] = {}
    led: set[int] = set()
    for _, a, b in sorted(candidates):
        if a not in following and b not in led:
            following[a] = b
            led.add(b)
    chains: list[list[int]] = []
    chain_of: dict[int, int] = {}
    for first in (a for a in range(len(pieces)) if a not in led):
        chains.append([])
        at: int | None = first
        while at is not None:
            chains[-1] += pieces[at]
            chain_of[at] = len(chains) - 1
            at = following.get(at)
    return chains, chain_of


def changes(values: Iterable[object]) -> int:
    """Return how often neighbouring values differ."""
    return sum(a != b for a, b in pairwise(values))
