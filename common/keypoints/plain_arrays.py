"""Plain arrays of keypoints in npy and npz files, as scripts of one's own, rtmlib, MMAction and Ultralytics leave them.

One person: (T, K, 2) in pixels, or 3 with a score, or (1, T, K, 2 or 3), as demos of single videos save. Several: (T,
N, K, 2 or 3), as Ultralytics' `keypoints.xy` and rtmlib (https://github.com/Tau-J/rtmlib) stacked over frames, or (N,
T, K, 2 or 3), as MMAction's `keypoint` (https://mmaction2.readthedocs.io) and MHFormer's `reconstruction`; or an object
array with (N, K, 2 or 3) per frame, where N changes. An npz may also hold `scores`, one number per keypoint, `size`
(width, height), `fps` and `layout`.

Letters: T frames, N people, K keypoints.
"""

from pathlib import Path
from typing import Any

import numpy as np

from common.errors import FileError
from common.keypoints import mediapipe, movenet
from common.keypoints.detections import MOST_FRAMES, Detections, Picture
from common.keypoints.known import LAYOUTS
from common.keypoints.sizes import fps_of, size_of
from common.keypoints.track import Person
from common.keypoints.values import quoted
from common.skeleton import Skeleton

USUAL_NAMES = ('keypoints', 'kpts', 'keypoints_2d', 'positions_2d', 'keypoint', 'reconstruction', 'data', 'arr_0')
SCORES = ('scores', 'keypoint_score', 'keypoint_scores')
PEOPLE_FIRST = ('keypoint', 'reconstruction')
DETECTORS_OWN = ((33, 4), (33, 5), (6, movenet.BOXED))
MOST_PEOPLE = 10  # in an array whose axes may be frames or people


def members(path: Path, content: dict) -> Detections:
    """Return the people of an npz' members, by name. Raises FileError where none, or no single one, holds keypoints."""
    if {'poses', 'keypoint_names'} <= content.keys():
        raise FileError(f'{path} is what --predict wrote, poses in 3D: give it the keypoints that these were made of')
    arrays = {name: value for name, value in content.items() if name not in SCORES and _may_be_keypoints(value)}
    name = next((name for name in USUAL_NAMES if name in arrays), next(iter(arrays), None))
    if name is None or (len(arrays) > 1 and name not in USUAL_NAMES):
        shapes = ', '.join(f'{quoted(name)} {getattr(value, "shape", type(value).__name__)}'
                           for name, value in list(content.items())[:10])
        raise FileError(f'{path}: expected one array (frames, keypoints, 2 or 3) of numbers, found {shapes or "none"}')
    scores = next((content[key] for key in SCORES if key in content), None)
    found = array(path, arrays[name], name, scores)
    size, fps = size_of(str(path), content.get('size')), fps_of(str(path), content.get('fps'))
    return Detections(found.pictures, found.kind, (*layout_said(content.get('layout')), *found.layouts), size, fps,
                      found.threshold, found.shares)


def layout_said(value: Any) -> tuple[str | Skeleton, ...]:
    """Return the layout that a member of an npz names; nothing where it names none that is known."""
    name = str(value) if getattr(value, 'dtype', np.dtype(int)).kind == 'U' and value.ndim == 0 else ''
    return (LAYOUTS[name],) if name in LAYOUTS else ()


def array(path: Path, values: np.ndarray, name: str, scores: Any = None) -> Detections:
    """Return the people of an array, with scores of one number per keypoint or None. Raises FileError for others."""
    if values.dtype.hasobject and values.ndim == 1:
        return Detections(_ragged(path, values, name, scores), f'array {quoted(name)} of {path.name}')
    values = _numbers(path, values, name)
    if not values.size:
        raise FileError(f'{path}: {quoted(name)} is {values.shape}, there is no frame or no keypoint in it')
    if scores is None:
        for read in (movenet.array, mediapipe.array):
            found = read(values, f'{quoted(name)} of {path.name}')
            if found is not None:
                return found
    if not is_track(values) and values.ndim != 4:
        raise FileError(f'{path}: {quoted(name)} is {values.shape}, expected one array (frames, keypoints, 2 or '
                        f'3)')
    values = values if scores is None else _with_scores(path, values, scores, name)
    people = _by_frame(path, values, name)  # (T, N, K, 2 or 3)
    if len(people) > MOST_FRAMES:
        raise FileError(f'{path}: {quoted(name)} has {len(people):,} frames; cut it into parts of at most '
                        f'{MOST_FRAMES:,}')
    # MMAction and MHFormer keep a person in one place of the array; elsewhere places say nothing.
    numbered = people.shape[1] > 1 and (people is not values or name in PEOPLE_FIRST)
    pictures = [Picture([Person(person, _mean_score(person), number if numbered else None)
                         for number, person in enumerate(frame) if people.shape[1] == 1 or _is_there(person)], t)
                for t, frame in enumerate(_scored(people))]
    return Detections(pictures, f'array {quoted(name)} of {path.name}')


def is_track(value: Any) -> bool:
    """Check for numbers (T, K, 2 or 3), or (1, T, K, 2 or 3)."""
    shape: tuple[int, ...] = getattr(value, 'shape', ())
    if len(shape) == 4 and shape[0] == 1:
        shape = shape[1:]
    return len(shape) == 3 and shape[2] in (2, 3) and value.dtype.kind in 'fiu'


def persons_of(values: np.ndarray) -> list[Person]:
    """Return a person per frame of a track (T, K, 2 or 3) or (1, T, K, 2 or 3)."""
    track = _scored(values.reshape(-1, *values.shape[-2:]).astype(np.float64))
    return [Person(frame, _mean_score(frame)) for frame in track]


def _may_be_keypoints(value: Any) -> bool:
    if not isinstance(value, np.ndarray):
        return False
    if value.dtype.hasobject and value.ndim == 1:
        return any(isinstance(entry, (np.ndarray, list)) for entry in value)
    if value.dtype.hasobject:
        return value.ndim >= 3
    return value.dtype.kind in 'fiu' and (value.ndim >= 4 or is_track(value) or value.shape[1:] in DETECTORS_OWN)


def _numbers(path: Path, values: Any, name: str) -> np.ndarray:
    """Return real float64 numbers, also of an object array of them. Raises FileError for others."""
    kind = getattr(values, 'dtype', np.dtype(bool)).kind
    try:
        if kind not in 'fiuO':
            raise TypeError
        return np.asarray(values.tolist() if kind == 'O' else values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise FileError(f'{path}: {quoted(name)} is no array of real numbers') from None


def _with_scores(path: Path, values: np.ndarray, scores: Any, name: str) -> np.ndarray:
    """Return keypoints (..., 3) with scores (...) or (..., 1) of a member of their own as the third number."""
    scores = _numbers(path, scores, 'scores')
    scores = scores[..., 0] if scores.shape == (*values.shape[:-1], 1) else scores
    if scores.shape != values.shape[:-1]:
        raise FileError(f'{path}: scores is not a number for each keypoint of {quoted(name)}, {values.shape[:-1]}')
    return np.concatenate([values[..., :2], scores[..., None]], axis=-1)


def _scored(keypoints: np.ndarray) -> np.ndarray:
    """Return keypoints (..., 3): with a score of 1 for each where they have none."""
    if keypoints.shape[-1] == 3:
        return keypoints
    return np.concatenate([keypoints, np.ones((*keypoints.shape[:-1], 1))], axis=-1)


def _by_frame(path: Path, values: np.ndarray, name: str) -> np.ndarray:
    """Return (T, N, K, 2 or 3), whichever of the first two axes are the frames. Raises FileError where both may be."""
    if values.ndim == 3:
        return values[:, None]
    first, second, _, columns = values.shape
    if columns not in (2, 3):
        raise FileError(f'{path}: {quoted(name)} is {values.shape}, expected 2 or 3 numbers for each keypoint')
    if second == 1 or (first > MOST_PEOPLE >= second and name not in PEOPLE_FIRST):
        return values
    if first == 1 or name in PEOPLE_FIRST or second > MOST_PEOPLE >= first:
        return values.swapaxes(0, 1)
    raise FileError(f'{path}: {quoted(name)} is {values.shape}, and frames may be its first axis or its second: save '
                    f'(frames, keypoints, 2 or 3) of one person')


def _ragged(path: Path, values: np.ndarray, name: str, scores: Any) -> list[Picture]:
    """Return the people of an object array with (N, K, 2 or 3) numbers per frame, None or nothing for nobody."""
    if scores is not None and (getattr(scores, 'ndim', 0) < 1 or len(scores) != len(values)):
        raise FileError(f'{path}: scores has not as many frames as {quoted(name)}, {len(values):,}')
    pictures = []
    for t, entry in enumerate(values):
        where = f'{quoted(name)} of frame {t}'
        people = np.empty((0, 1, 2)) if entry is None else _numbers(path, np.asarray(entry, dtype=object), where)
        people = people[None] if people.ndim == 2 else people
        if not people.size:
            pictures.append(Picture([], t))
            continue
        if people.ndim != 3 or people.shape[2] not in (2, 3):
            raise FileError(f'{path}: {where} is {people.shape}, expected (people, keypoints, 2 or 3)')
        if scores is not None:
            given = _numbers(path, np.asarray(scores[t], dtype=object), f'scores of frame {t}')
            if given.size != people.shape[0] * people.shape[1]:
                raise FileError(f'{path}: scores of frame {t} is {given.shape}, expected a number for each keypoint, '
                                f'{people.shape[:2]}')
            people = np.concatenate([people[..., :2], given.reshape(*people.shape[:2], 1)], axis=-1)
        pictures.append(Picture([person for one in people for person in persons_of(one[None])], t))
    return pictures


def _is_there(person: np.ndarray) -> bool:
    """Check that a place of an array holds anybody: arrays of several people are filled up with zeros or NaN."""
    points = person[:, :2]
    return bool((np.isfinite(points).all(axis=1) & (points != 0).any(axis=1)).any())


def _mean_score(person: np.ndarray) -> float:
    scores = person[np.isfinite(person).all(axis=1), 2]
    return float(scores.mean()) if len(scores) else 0.0
