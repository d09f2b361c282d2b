"""Define what readers of detectors' files return, and turn it into one person's track.

The steps are the same for all: one video is chosen, shares of the picture become pixels, marks for missing points and
scores that say nothing are told from real ones, frames are arranged in time, and a person is picked.

Letters: T frames, K keypoints.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import FileError, FlagError
from common.keypoints.everybody import Everybody, tracks_of
from common.keypoints.names import Label, videos_of
from common.keypoints.track import Person, Track, rows_of, track_of
from common.keypoints.values import quoted
from common.skeleton import Skeleton

MOST_FRAMES, MOST_KEYPOINTS = 500_000, 2_000
PERCENT = 100.0  # the scale of scores that exceed FLAGS
FLAGS = 2.0  # the largest of COCO's visibility flags; heat maps exceed 1 a little
NO_PIXELS = 5.0  # coordinates that span less are no pixels
LEAST = 1e-9  # of a point that a detector scores 0: under every threshold but --min-score 0


@dataclass(frozen=True)
class Picture:
    """The people of one frame.

    Attributes:
        people: in any order, without any where nobody was seen.
        label: the frame's name or number in the file, or the name of its video and its number; None where it has none.
        size: (width, height) in pixels; None where the file does not say.
    """

    people: list[Person]
    label: Label = None
    size: tuple[float, float] | None = None


@dataclass(frozen=True)
class Detections:
    """All that a file tells of a clip.

    Attributes:
        pictures: a picture per frame.
        kind: the kind of file, in words.
        layouts: what such a file usually has, by name; a Skeleton is what this file itself says.
        size, fps: of the video, where the file says.
        threshold: the least score of a usable keypoint, unless the user gives another.
        shares: the detector writes shares of the picture's width and height, if the numbers agree.
        seconds: (T,) when each picture is shown, where the file says that they do not come evenly.
    """

    pictures: Sequence[Picture]
    kind: str
    layouts: tuple[str | Skeleton, ...] = ()
    size: tuple[float, float] | None = None
    fps: float | None = None
    threshold: float = 0.3
    shares: bool = False
    seconds: np.ndarray | None = None


def to_track(path: Path, found: Detections, person: int | None, video: str | None,
             size: tuple[float, float] | None, video_size: tuple[float, float] | None = None) -> Track:
    """Return one person's track in pixels.

    Args:
        person, video: which, as `common.keypoints.read_track`.
        size: of the picture as the user gives it, where the file does not say.
        video_size: of the video, where neither says.

    Raises FileError for what cannot be people, FlagError for a person or video that is not there or has to be named.
    """
    people, frames, about = _arranged(path, found, video, size, video_size)
    return track_of(people, person, frames, **about)


def to_everybody(path: Path, found: Detections, video: str | None, size: tuple[float, float] | None,
                 video_size: tuple[float, float] | None = None) -> Everybody:
    """Return the tracks of all people in pixels; see `to_track`."""
    people, frames, about = _arranged(path, found, video, size, video_size)
    return tracks_of(people, frames, **about)


def _arranged(path: Path, found: Detections, video: str | None, size: tuple[float, float] | None,
              video_size: tuple[float, float] | None) -> tuple[list[list[Person]], np.ndarray, dict[str, Any]]:
    """Return the people of T frames, in pixels, the number of each frame (T,), and what tracks say of the file."""
    pictures, numbers, named = _of_one_video(path, found.pictures, video)
    size_said = _one_size(path, pictures) or found.size
    keypoints = [person.keypoints for picture in pictures for person in picture.people]
    if keypoints and max(map(len, keypoints)) > MOST_KEYPOINTS:
        raise FileError(f'{path} ({found.kind}) has people of {max(map(len, keypoints)):,} keypoints; no detector has '
                        f'more than {MOST_KEYPOINTS:,}')
    if keypoints:
        clean = _clean(f'{path} ({found.kind})', np.concatenate(keypoints), found.shares,
                       size or size_said or video_size)
        pictures = _put_back(pictures, clean)
    rows, frames = rows_of(numbers)
    if len(frames) > MOST_FRAMES:
        raise FileError(f'{path} ({found.kind}) goes on for {len(frames):,} frames; cut it into parts of at most '
                        f'{MOST_FRAMES:,}')
    people: list[list[Person]] = [[] for _ in frames]
    for row, picture in zip(rows, pictures, strict=True):
        people[row] = picture.people
    return people, frames, {'kind': found.kind + named, 'layouts': found.layouts, 'size': size_said, 'fps': found.fps,
                            'threshold': found.threshold, 'seconds': found.seconds}


def _of_one_video(path: Path, pictures: Sequence[Picture],
                  wanted: str | None) -> tuple[list[Picture], list[int | None], str]:
    """Return the pictures of one video, their frame numbers, and its name in words where the file tells videos apart.

    Raises FlagError where it has to be named.
    """
    videos = videos_of([picture.label for picture in pictures])
    names = ', '.join(quoted(name) for name in list(videos)[:10])
    if wanted is not None and wanted not in videos:
        raise FlagError(f'-ste {quoted(wanted)}: {path} has no such video; there are {names or "no names"}')
    if wanted is None and len(videos) > 1:
        raise FlagError(f'{path} holds {len(videos)} videos: name one with -ste: {names}')
    name = wanted if wanted is not None else next(iter(videos), '')
    chosen = videos.get(name, [])
    told = wanted is not None or isinstance(pictures[chosen[0][0]].label if chosen else None, tuple)
    return ([pictures[index] for index, _ in chosen], [number for _, number in chosen],
            f', video {quoted(name)}' if told else '')


def _one_size(path: Path, pictures: list[Picture]) -> tuple[float, float] | None:
    sizes = {picture.size for picture in pictures if picture.size}
    if len(sizes) > 1:
        shown = ' and '.join(f'{w:g}×{h:g}' for w, h in sorted(sizes)[:2])
        raise FileError(f'{path} has pictures of different sizes, such as {shown}: a clip needs the frames of one '
                        f'video')
    return next(iter(sizes), None)


def _put_back(pictures: list[Picture], keypoints: np.ndarray) -> list[Picture]:
    """Return the pictures with their people's keypoints taken from (all people's keypoints, 3) in order."""
    done, start = [], 0
    for picture in pictures:
        people = []
        for person in picture.people:
            people.append(replace(person, keypoints=keypoints[start:start + len(person.keypoints)]))
            start += len(person.keypoints)
        done.append(replace(picture, people=people))
    return done


def _clean(source: str, keypoints: np.ndarray, shares: bool, size: tuple[float, float] | None) -> np.ndarray:
    """Return (N, 3) x, y in pixels and a score from 0 to 1, NaN where there is no point."""
    points, scores = keypoints[:, :2].astype(np.float64), keypoints[:, 2].astype(np.float64)
    with np.errstate(invalid='ignore', over='ignore'):
        marked = (points == 0).all(axis=1) | (points == -1).all(axis=1)
    there = np.isfinite(points).all(axis=1) & ~marked
    points[~there] = np.nan
    scores = _scores(source, scores, there)
    if there.any() and _are_shares(points[there], shares):
        if size is None:
            raise FlagError(f'{source} has shares of the picture\'s width and height instead of pixels (from '
                            f'{np.nanmin(points):.2f} to {np.nanmax(points):.2f}): add --image-size WIDTH HEIGHT, in '
                            f'pixels')
        points *= size
    return np.column_stack([points, scores])


def _are_shares(points: np.ndarray, expected: bool) -> bool:
    """Tell whether (N, 2) points are shares of width and height: 0 to 1, and a little more beyond the border."""
    if np.ptp(points) >= NO_PIXELS:
        return False
    inside = ((points >= 0) & (points <= 1)).mean()
    return expected or bool(inside > 0.95 and points.min() > -0.25 and points.max() < 1.25)


def _scores(source: str, scores: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Return (N,) scores from 0 to 1, 1 where all are 0, which says that there are none; 0 where there is no point.

    Raises FileError for numbers that cannot be scores.
    """
    with np.errstate(invalid='ignore'):
        given = there & np.isfinite(scores) & (scores != -1)
        below = given & (scores < -1e-3)
    if not given.any() or not scores[given].any():
        return np.where(there & (given | ~np.isfinite(scores).any()), 1.0, 0.0)
    top = scores[given].max()
    if below.sum() > 0.02 * given.sum() or top > PERCENT * 1.01:
        raise FileError(f'{source}: the third number of its keypoints lies from {scores[given].min():.4g} to '
                        f'{top:.4g}, expected scores from 0 to 1 or 0 to 100; give x and y alone, without a third')
    # Most decide: a network's own scores may pass 1, and a single one even 2.
    scale = PERCENT if np.quantile(scores[given], 0.9) > FLAGS else 1.0
    scores = np.where(given, np.clip(np.nan_to_num(scores) / scale, LEAST, 1.0), 0.0)
    return np.where(below, 0.0, scores)
