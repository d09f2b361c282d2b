"""npy and npz files of keypoints: plain arrays, Detectron2's output as VideoPose3D saves it, its custom data sets.

A plain npz may say more: `scores` (T, K), `size` (width, height), `fps`, `layout`. Nothing is unpickled but by the safe
reader. Letters: T frames, K keypoints.
"""

from pathlib import Path

import numpy as np

from common.errors import FileError, FlagError
from common.keypoints.layouts import LAYOUTS
from common.keypoints.track import Person, Track, known, track_of
from common.storage.npz import first_line, read_npz

USUAL_NAMES = ('keypoints', 'kpts', 'keypoints_2d', 'positions_2d', 'data', 'arr_0')


def read(path: Path, person: int | None, video: str | None) -> Track:
    """The track of one file. Raises FileError, or FlagError for a person or video that is not there."""
    if path.suffix == '.npy':
        return _plain(path, {'keypoints': _read_npy(path)}, person)
    members = read_npz(path)
    if {'boxes', 'keypoints'} <= set(members):
        return _detectron(path, members, person)
    if isinstance(members.get('positions_2d'), dict):
        return _custom(path, members, person, video)
    return _plain(path, members, person)


def _read_npy(path: Path) -> np.ndarray:
    try:
        with open(path, 'rb') as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # damage makes numpy's header parser raise anything
        raise FileError(f'{path} is not a readable npy file of numbers ({first_line(error)})') from None


def _plain(path: Path, members: dict, person: int | None) -> Track:
    arrays = {name: value for name, value in members.items() if _is_track(value)}
    name = next((name for name in USUAL_NAMES if name in arrays), next(iter(arrays), None))
    if name is None or (len(arrays) > 1 and name not in USUAL_NAMES):
        shapes = ', '.join(f'{name} {getattr(value, "shape", type(value).__name__)}' for name, value in members.items())
        raise FileError(f'{path}: expected one array (frames, keypoints, 2 or 3) of numbers, found {shapes or "none"}')
    array = arrays[name].reshape(-1, *arrays[name].shape[-2:]).astype(np.float64)
    if not array.size:
        raise FileError(f'{path}: {name} is {arrays[name].shape}, there is no frame or no keypoint in it')
    scores = array[..., 2] if array.shape[-1] == 3 else np.ones(array.shape[:2])
    if 'scores' in members:
        scores = members['scores']
        if getattr(scores, 'shape', None) != array.shape[:2] or scores.dtype.kind not in 'fiu':
            raise FileError(f'{path}: scores is not a number for each keypoint of {name}, {array.shape[:2]}')
    if person is not None:
        raise FlagError(f'--person {person}: {path} holds one person')
    points, scores = known(array[..., :2], scores)
    layout = members.get('layout')
    said = (str(layout),) if getattr(layout, 'dtype', np.dtype(int)).kind == 'U' and str(layout) in LAYOUTS else ()
    return Track(points, scores, np.arange(len(points)), kind=f'array {name} of {path.name}',
                 person='the only one', layouts=said, size=_size(path, members.get('size')),
                 fps=_fps(path, members.get('fps')))


def _is_track(value) -> bool:
    """Whether it is (T, K, 2 or 3) numbers; (1, T, K, 2) is taken as well, as demos of single videos save it."""
    shape = getattr(value, 'shape', ())
    if len(shape) == 4 and shape[0] == 1:
        shape = shape[1:]
    return len(shape) == 3 and shape[2] in (2, 3) and value.dtype.kind in 'fiu'


def _size(path: Path, value) -> tuple[float, float] | None:
    """(width, height) of a file's `size` or {w, h}. Raises FileError for what is neither."""
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


def _fps(path: Path, value) -> float | None:
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
    """Detectron2's npz: boxes[t][1] (n, 5), keypoints[t][1] (n, 4, 17) with x, y, logit, probability in rows."""
    boxes, keypoints = members['boxes'], members['keypoints']
    if not _has_length(boxes) or not _has_length(keypoints) or len(boxes) != len(keypoints) or not len(boxes):
        raise FileError(f'{path}: boxes and keypoints are not two lists of as many frames')
    people = [_detectron_people(f'{path}: frame {t}', boxes[t], keypoints[t]) for t in range(len(boxes))]
    # Its scores are shares of a heat map around the peak, far below what other detectors call sure.
    return track_of(people, person, np.arange(len(people)), kind='Detectron2 npz', layouts=('coco',), threshold=0.0,
                    size=_size(path, members.get('metadata')))


def _has_length(value) -> bool:
    return isinstance(value, (list, tuple)) or getattr(value, 'ndim', 0) > 0


def _detectron_people(where: str, boxes, keypoints) -> list[Person]:
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
    """VideoPose3D's custom data set: video -> custom -> [(T, 17, 2)], its sizes in metadata's video_metadata."""
    tree = members['positions_2d']
    if video is None and len(tree) != 1:
        raise FlagError(f'{path} holds {len(tree)} videos: name one with -ste: '
                        f'{", ".join(map(str, list(tree)[:10])) or "none"}')
    name = next(iter(tree)) if video is None else video
    if name not in tree:
        raise FlagError(f'-ste {name}: {path} has no such video; there are {", ".join(map(str, list(tree)[:10]))}')
    takes = tree[name]
    views = takes.get('custom') if isinstance(takes, dict) else None
    view = views[0] if _has_length(views) and len(views) == 1 else None
    if view is None or not _is_track(view):
        raise FileError(f'{path}: positions_2d of {name} is not a custom video, with one array (frames, keypoints, 2)')
    metadata = members.get('metadata') if isinstance(members.get('metadata'), dict) else {}
    sizes = metadata.get('video_metadata') if isinstance(metadata.get('video_metadata'), dict) else {}
    track = _plain(path, {'keypoints': view}, person)
    said = metadata.get('layout_name')
    return Track(track.points, track.scores, track.frames, kind=f'custom npz, video {name}', person=track.person,
                 layouts=(said,) if said in LAYOUTS else ('coco',), size=_size(path, sizes.get(name)))
