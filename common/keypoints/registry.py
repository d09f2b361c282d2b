"""Which reader reads a file: each is asked in turn whether the content is its own, and no two claim the same.

JSON comes as a whole clip, or picture by picture: one picture, a list of them, a dict of them by name, or a folder.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common.errors import FileError
from common.keypoints import (
    alphapose,
    coco_annotations,
    controlnet,
    custom,
    detected,
    detectron2,
    mediapipe,
    mmpose,
    movenet,
    openpose,
    pifpaf,
    plain_arrays,
    stgcn,
    ultralytics,
    vitpose,
)
from common.keypoints.detections import Detections, Picture
from common.keypoints.foreign import remedy
from common.keypoints.names import without_suffix
from common.keypoints.reading import read_json
from common.keypoints.values import quoted
from common.storage.npz import read_npy, read_npz

# Each offers clip(content, where) -> Detections or None.
CLIPS = (mmpose, stgcn, vitpose, alphapose, coco_annotations)
# Each offers pictures(content, where) -> pictures or None, KIND, LAYOUTS, and SHARES where it writes shares.
PICTURES = (openpose, controlnet, alphapose, mmpose, ultralytics, pifpaf, movenet, mediapipe)
# Each offers members(path, members of an npz) -> Detections or None; plain_arrays takes the rest.
MEMBERS = (detected, detectron2, custom)
SUFFIXES = ('.json', '.jsonl', '.ndjson')
KNOWN = ('AlphaPose, COCO, ControlNet, MediaPipe, MMPose, OpenPifPaf, OpenPose, ST-GCN, TensorFlow.js, Ultralytics, '
         'ViTPose')
WRAPPERS = ('frames', 'results', 'data', 'predictions')


def read(path: Path) -> Detections:
    """Return what a file or folder holds. Raises FileError where it is missing, broken, empty or of an unknown tool."""
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise FileError(f'{path} is missing')
    if is_json(path):
        return _json(path)
    suffix = path.suffix.lower()
    if suffix in ('.npz', '.npy') and not path.is_file():
        raise FileError(f'{path} is neither a file nor a folder of files')
    if suffix == '.npy':
        return plain_arrays.array(path, read_npy(path), 'keypoints')
    if suffix == '.npz':
        content = read_npz(path)
        found = (reader.members(path, content) for reader in MEMBERS)
        return next((one for one in found if one is not None), None) or plain_arrays.members(path, content)
    raise FileError(remedy(path))


def is_json(path: Path) -> bool:
    """Tell by the suffix, in capitals or not, whether a file is JSON, gzipped or not."""
    name = path.name.lower()
    return name.removesuffix('.gz').endswith(SUFFIXES)


def _json(path: Path) -> Detections:
    content, where = read_json(path), str(path)
    if content in ([], {}):
        raise FileError(f'{path} holds nobody: its {type(content).__name__} is empty')
    clips = (reader.clip(content, where) for reader in CLIPS)
    found = next((one for one in clips if one is not None), None)
    if found is not None:
        return found
    for items in _as_pictures(content):
        joined = _join(items, where)
        if joined is not None:
            return joined
    raise FileError(f'{path} is JSON that is not read: found {described(content)}; known are {KNOWN}; give other '
                    f'keypoints as npy, (frames, keypoints, 2 or 3)')


def _as_pictures(content: Any) -> Iterator[list[tuple[str | int | None, Any]]]:
    """Return the ways to see a content as pictures with names: one, a list, a dict of them, or a list in a dict."""
    yield [(None, content)]
    if isinstance(content, list):
        yield list(enumerate(content))
    elif isinstance(content, dict):
        for key in WRAPPERS:
            if isinstance(content.get(key), list):
                yield list(enumerate(content[key]))
        yield [(str(name), item) for name, item in content.items()]


def _join(items: Sequence[tuple[str | int | None, Any]], where: str) -> Detections | None:
    """Return the clip of pictures that one reader reads all; None where no reader reads the first with anybody."""
    empty: tuple = ([], {}, None)
    first = next((item for _, item in items if item not in empty and not _is_nobody(item)),
                 next((item for _, item in items if item not in empty), None))
    for reader in PICTURES:
        if first is None or reader.pictures(first, where) is None:
            continue
        pictures, numbered = [], all(isinstance(label, int) for label, _ in items)
        for label, item in items:
            here = where if label is None else f'{where}: {"item " * numbered}{quoted(label)}'
            read_here = [Picture([])] if item in empty else reader.pictures(item, here)
            if read_here is None:
                raise FileError(f'{here} is JSON that is not read: expected {reader.KIND} as in other frames, found '
                                f'{described(item)}')
            pictures += [Picture(one.people, label if one.label is None or isinstance(label, str) else one.label,
                                 one.size) for one in read_here]
        if (numbered and any(picture.label is None for picture in pictures)) or _repeats(pictures):
            pictures = [Picture(one.people, index, one.size) for index, one in enumerate(pictures)]
        return Detections(pictures, reader.KIND, reader.LAYOUTS, shares=getattr(reader, 'SHARES', False))
    return None


def _is_nobody(item: Any) -> bool:
    """Check for a picture without people, from which nothing can be told about its reader."""
    return isinstance(item, dict) and any(item.get(key) == [] for key in ('people', 'bodies', 'instances', 'detections',
                                                                           'predictions', 'landmarks'))


def _repeats(pictures: list[Picture]) -> bool:
    """Check for numbers that occur twice, which name no frames."""
    numbers = [picture.label for picture in pictures if isinstance(picture.label, int)]
    return len(set(numbers)) < len(numbers)


def _folder(folder: Path) -> Detections:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    named = [(without_suffix(path.name), path) for path in files if is_json(path)]
    labels = [path for path in files if path.suffix.lower() == '.txt' and path.name.lower() != 'classes.txt']
    if not named and labels:
        return ultralytics.labels(folder, labels)
    if not named:
        raise FileError(f'{folder} holds no .json file: expected a folder that a detector wrote a file per frame into')
    if len(named) == 1:
        return _json(named[0][1])
    contents = [(label, _unwrapped(read_json(path))) for label, path in named]
    found = _join(contents, str(folder))
    if found is None:
        first = next((content for _, content in contents if content), None)
        raise FileError(f'{folder} holds JSON that is not read: found {described(first)}; a file per frame is known of '
                        f'AlphaPose, ControlNet, MMPose, OpenPifPaf, OpenPose and Ultralytics')
    return found


def _unwrapped(content: Any) -> Any:
    """Return the only picture of a list, or of Sapiens' instance_info: in a folder, each file is a picture."""
    if isinstance(content, dict) and isinstance(content.get('instance_info'), list):
        return content['instance_info']
    one = isinstance(content, list) and len(content) == 1 and isinstance(content[0], (list, dict))
    return content[0] if one and (isinstance(content[0], list) or 'people' in content[0]) else content


def described(content: Any) -> str:
    """Return in words what a JSON content is, quoted and cut."""
    first = content[0] if isinstance(content, list) and content else content
    if isinstance(first, dict):
        keys = ', '.join(sorted(str(key)[:50] for key in itertools.islice(first, 20)))
        return f'a {"list of dicts" if isinstance(content, list) else "dict"} with {quoted(keys)}'
    return f'list of {type(first).__name__}' if isinstance(content, list) else type(content).__name__
