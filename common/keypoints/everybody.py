"""All people of a clip as tracks, with numbers, and where they may have been taken for each other.

Letters: T frames.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from common.keypoints.linking import Detections
from common.keypoints.track import Person, Track, by_number, by_score, followed, track_along

CROSSING = 15  # frames; doubts about the same two people that are no further apart are one


class Switch(NamedTuple):
    """In the frame with this number, a person has `new` for a number in the file, and had `old` before."""

    frame: int
    person: int
    old: int
    new: int


class Crossing(NamedTuple):
    """From frame `first` to frame `last`, numbers of the source, two people may have changed places."""

    first: int
    last: int
    a: int
    b: int


@dataclass(frozen=True)
class Everybody:
    """The people of a clip.

    Attributes:
        tracks: a track each, with a `number`: that of the file where it numbers people, which the track has in most
            frames, new ones above for who is left; else the rank by score, from 1. In the order of these numbers.
        numbered: whether the file numbers people.
        switches: where its numbers change within a track. crossings: where tracks are in doubt.
    """

    tracks: list[Track]
    numbered: bool
    switches: list[Switch]
    crossings: list[Crossing]


def tracks_of(people: list[list[Person]], frames: np.ndarray, **about: Any) -> Everybody:
    """Return everybody who is in T frames, whatever the order of the people in each; see `track_of`.

    Raises FileError where there is nobody at all, or where people have different numbers of keypoints.
    """
    people = [sorted(frame, key=_place) for frame in people]
    found, chains, doubts = followed(people, frames, about['kind'])
    by_file = by_number(found, chains)
    ids = _numbers(found, chains) if by_file else _ranks(found, chains)
    tracks = []
    for number, chain in zip(ids, chains, strict=True):
        how = f'in {len(chain)} of {len(people)} frames'
        shown = Counter(n for one in chain for n in found.numbers[one])
        if by_file:
            others = sorted(set(shown) - {number})
            how += (f", by the file's own count in {shown[number]} of them" if number in shown else
                    ', without a number of its own in the file') + (
                    f', there also {", ".join(map(str, others[:8]))}{", …" if len(others) > 8 else ""}'
                    if others else '')
        tracks.append(track_along(chain, people, frames, person=how, number=number, **about))
    switches = [Switch(int(found.frame[at]), number, old, new) for number, chain in zip(ids, chains, strict=True)
                for at, old, new in _changes(found, chain)]
    pairs = [(row, min(ids[a], ids[b]), max(ids[a], ids[b])) for row, a, b in doubts]
    crossings = _crossings(pairs, np.asarray(frames))
    return Everybody(sorted(tracks, key=lambda track: track.number or 0), by_file, sorted(switches), crossings)


def _place(person: Person) -> tuple[float, ...]:
    """Return what people of a frame are sorted by, so that their order in the file does not count."""
    return (-person.score, *np.nan_to_num(person.keypoints, nan=-1.0).ravel().tolist(), *sorted(person.numbers))


def _ranks(found: Detections, chains: list[list[int]]) -> list[int]:
    """Return the rank of each chain by score, from 1: what `--person N` calls it."""
    ranks = [0] * len(chains)
    for rank, index in enumerate(by_score(found, chains), 1):
        ranks[index] = rank
    return ranks


def _numbers(found: Detections, chains: list[list[int]]) -> list[int]:
    """Return a number of the file for each chain, so that as many detections as possible have that of their chain."""
    names = sorted({number for numbers in found.numbers for number in numbers})
    shown = np.zeros((len(chains), len(names)), np.int64)
    column = {name: k for k, name in enumerate(names)}
    for index, chain in enumerate(chains):
        for one in chain:
            for number in found.numbers[one]:
                shown[index, column[number]] += 1
    own = {int(i): names[k] for i, k in zip(*linear_sum_assignment(-shown), strict=True) if shown[i, k]}
    for index in by_score(found, chains):
        if index not in own:
            own[index] = max(*names, *own.values()) + 1
    return [own[index] for index in range(len(chains))]


def _changes(found: Detections, chain: list[int]) -> list[tuple[int, int, int]]:
    """Return (detection, number before, number now) wherever the file's number changes along a chain."""
    changed = []
    before: frozenset[int] = frozenset()
    for one in chain:
        now = found.numbers[one]
        if before and now and not before & now:
            changed.append((one, min(before), min(now)))
        before = now or before
    return changed


def _crossings(doubts: list[tuple[int, int, int]], frames: np.ndarray) -> list[Crossing]:
    """Return each run of doubts (row, number, number) about the same two people, with the numbers of its frames."""
    runs: dict[tuple[int, int], list[list[int]]] = {}
    for row, a, b in sorted(doubts):
        those = runs.setdefault((a, b), [])
        if those and row - those[-1][-1] <= CROSSING:
            those[-1].append(row)
        else:
            those.append([row])
    return sorted(Crossing(int(frames[run[0]]), int(frames[run[-1]]), a, b)
                  for (a, b), those in runs.items() for run in those)
