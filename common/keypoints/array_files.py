"""Reading npy and npz files of keypoints: plain arrays, and VideoPose3D's Detectron2 output and custom data sets.

A plain npz may also hold `scores` (T, K), `size` (width, height), `fps` and `layout`. Only the safe reader unpickles.
Letters: T frames, K keypoints.
"""

from pathlib import Path
from typing import Any

import numpy as np

from common.errors import FileError, FlagError
from common.keypoints.layouts import LAYOUTS
from common.keypoints.track import Person, Track, known, track_of
from common.storage.npz import read_npy, read_npz

USUAL_NAMES = ('keypoints', 'kpts', 'keypoints_2d', 'positions_2d', 'data', 'arr_0')


def read(path: Path, person: int | None, video: str | None) -> Track:
    """Read the track of one file. Raises FileError, or FlagError for a person or video that is not in it."""
    if path.suffix == '.npy':
        return _plain(path, {'keypoints': read_npy(path)}, person)
    members = read_npz(path)
    if {'boxes', 'keypoints'} <= set(members):
        return _detectron(path, members, person)
    if isinstance(members.get('positions_2d'), dict):
        return _custom(path, members, person, video)
    return _plain(path, members, person)


def _plain(path: Path, members: dict, person: int | None) -> Track:
    """Return the track in the one array of keypoints that the members hold. Raises FileError or FlagError."""
    name, array = _only_array(path, members)
    scores = _scores(path, members, name, array)
    if person is not None:
        raise FlagError(f'--person {person}: {path} holds one person')
    points, scores = known(array[..., :2], scores)
    layout = members.get('layout')
    said = (str(layout),) if getattr(layout, 'dtype', np.dtype(int)).kind == 'U' and str(layout) in LAYOUTS else ()
    return Track(points, scores, np.arange(len(points)), kind=f'array {name} of {path.name}',
                 person='the only one', layouts=said, size=_size(path, members.get('size')),
                 fps=_fps(path, members.get('fps')))


def _only_array(path: Path, members: dict) -> tuple[str, np.ndarray]:
    """Return the name of the array of keypoints, and it as (T, K, 2 or 3) float64. Raises FileError."""
    arrays = {name: value for name, value in members.items() if _is_track(value)}
    name = next((name for name in USUAL_NAMES if name in arrays), next(iter(arrays), None))
    if name is None or (len(arrays) > 1 and name not in USUAL_NAMES):
        shapes = ', '.join(f'{name} {getattr(value, "shape", type(value).__name__)}' for name, value in members.items())
        raise FileError(f'{path}: expected one array (frames, keypoints, 2 or 3) of numbers, found {shapes or "none"}')
    array = arrays[name].reshape(-1, *arrays[name].shape[-2:]).astype(np.float64)
    if not array.size:
        raise FileError(f'{path}: {name} is {arrays[name].shape}, there is no frame or no keypoint in it')
    return name, array


def _scores(path: Path, members: dict, name: str, array: np.ndarray) -> np.ndarray:
    """Return the score of each keypoint (T, K): a member of its own, the third column, or 1. Raises FileError."""
    if 'scores' not in members:
        return array[..., 2] if array.shape[-1] == 3 else np.ones(array.shape[:2])
    scores = members['scores']
    if getattr(scores, 'shape', None) != array.shape[:2] or scores.dtype.kind not in 'fiu':
        raise FileError(f'{path}: scores is not a number for each keypoint of {name}, {array.shape[:2]}')
    return scores


def _is_track(value: Any) -> bool:
    """Check for numbers (T, K, 2 or 3), or (1, T, K, 2 or 3), which demos of single videos save."""
    shape: tuple[int, ...] = getattr(value, 'shape', ())
    if len(shape) == 4 and shape[0] == 1:
        shape = shape[1:]
    return len(shape) == 3 and shape[2] in (2, 3) and value.dtype.kind in 'fiu'


def _size(path: Path, value: Any) -> tuple[float, float] | None:
    """Return (width, height) from a file's `size` or {w, h}, None where there is none. Raises FileError."""
    if isinstance(value, dict) and not {'w', 'h'} <= set(value):
        value = None
    if value is None:
        return None
    pair = (value['w'], value['h']) if isinstance(value, dict) else value
    try:
        size = np.asarray(pair, dtype=np.float64)
    except (TypeError, ValueError):
        size = np.empty(0)
    if size.shape != (2,) or not np.isfinite(size).all() or (size <= 0).any():
        raise FileError(f'{path}: the picture\'s size is {str(pair)[:40]}, expected width and height in pixels')
    return float(size[0]), float(size[1])


def _fps(path: Path, value: Any) -> float | None:
    if value is None:
        return None
    try:
        fps = float(value)
    except (TypeError, ValueError):
        fps = 0.0
    if not 0 < fps < 10000:
        raise FileError(f'{path}: fps is {str(value)[:40]}, expected frames per second')
    return fps


def _detectron(path: Path, members: dict, person: int | None) -> Track:
    """Read Detectron2's npz: boxes[t][1] (n, 5), keypoints[t][1] (n, 4, 17) with rows x, y, logit, probability."""
    boxes, keypoints = members['boxes'], members['keypoints']
    if not _has_length(boxes) or not _has_length(keypoints) or len(boxes) != len(keypoints) or not len(boxes):
        raise FileError(f'{path}: boxes and keypoints are not two lists of as many frames')
    people = [_detectron_people(f'{path}: frame {t}', boxes[t], keypoints[t]) for t in range(len(boxes))]
    # A score is the share of the heat map around the peak, far below the scores of other detectors: no threshold.
    return track_of(people, person, np.arange(len(people)), kind='Detectron2 npz', layouts=('coco',), threshold=0.0,
                    size=_size(path, members.get('metadata')))


def _has_length(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or getattr(value, 'ndim', 0) > 0


def _detectron_people(where: str, boxes: Any, keypoints: Any) -> list[Person]:
    try:
        boxes, keypoints = (np.asarray(side[1], dtype=np.float64) for side in (boxes, keypoints))
    except (TypeError, ValueError, IndexError, KeyError):
        raise FileError(f'{where}: expected boxes (people, 5) and keypoints (people, 4, 17) of the class person') \
            from None
    if not boxes.size:
        return []
    if boxes.ndim != 2 or boxes.shape[1] != 5 or keypoints.shape[:2] != (len(boxes), 4) or keypoints.ndim != 3:
        raise FileError(f'{where}: boxes {boxes.shape} and keypoints {keypoints.shape}, expected (people, 5) and '
                        f'(people, 4, 17)')
    return [Person(k[[0, 1, 3]].T, float(np.nan_to_num(box[4]))) for k, box in zip(keypoints, boxes, strict=True)]


def _custom(path: Path, members: dict, person: int | None, video: str | None) -> Track:
    """Read VideoPose3D's custom data set: video -> custom -> [(T, 17, 2)], picture sizes in its video_metadata."""
    tree = members['positions_2d']
    if video is None and len(tree) != 1:
        raise FlagError(f'{path} holds {len(tree)} videos: name one with -ste: '
                        f'{", ".join(map(str, list(tree)[:10])) or "none"}')
    name = next(iter(tree)) if video is None else video
    if name not in tree:
        raise FlagError(f'-ste {name}: {path} has no such video; there are {", ".join(map(str, list(tree)[:10]))}')
    takes = tree[name]
    views = takes.get('custom') if isinstance(takes, dict) else None
    if views is None or not _has_length(views) or len(views) != 1 or not _is_track(views[0]):
        raise FileError(f'{path}: positions_2d of {name} is not a custom video, with one array (frames, keypoints, 2)')
    metadata = _dict_or_empty(members.get('metadata'))
    sizes = _dict_or_empty(metadata.get('video_metadata'))
    track = _plain(path, {'keypoints': views[0]}, person)
    said = metadata.get('layout_name')
    return Track(track.points, track.scores, track.frames, kind=f'custom npz, video {name}', person=track.person,
                 layouts=(said,) if said in LAYOUTS else ('coco',), size=_size(path, sizes.get(name)))


def _dict_or_empty(value: Any) -> dict:
    return value if isinstance(value, dict) else {}
