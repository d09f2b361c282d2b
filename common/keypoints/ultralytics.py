"""Ultralytics' YOLO pose models: JSON of results, and label files of --save-txt.

https://docs.ultralytics.com/modes/predict (Results.to_json, save_txt)
JSON of a picture: [{"name", "class", "confidence", "box", "track_id", "keypoints": {"x": […], "y": […], "visible":
[…]}}]. A line of a label file: class, box (4), then x, y, or x, y, score of each keypoint as shares of the picture,
then the confidence and the track's number, where they were asked for. Arrays of `keypoints.xy` are read by
`plain_arrays`.
"""

from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from common.errors import FileError
from common.keypoints.detections import Detections, Picture
from common.keypoints.reading import COUNTS, dicts_with, first_of, is_dict_with, person_of, with_scores
from common.keypoints.track import Person
from common.keypoints.values import numbers, printable, quoted, whole

KIND = 'Ultralytics JSON'
LAYOUTS = ('coco',)
LISTS = ('detections', 'results', 'predictions')
BEFORE = 5  # class and box
LARGEST = 1 << 24  # bytes of a label file


def pictures(content: Any, where: str) -> list[Picture] | None:
    """Return the picture of a list of results, or of a dict with one; None for others'."""
    if _is_results(content):
        return [_picture(content, where, None)]
    if isinstance(content, dict):
        found = next((content[key] for key in LISTS if _is_results(content.get(key))), None)
        if found is not None:
            return [_picture(found, where, whole(first_of(content, 'frame', 'frame_id', 'frame_index')))]
        if content.get('detections') == []:
            return [Picture([], whole(first_of(content, 'frame', 'frame_id', 'frame_index')))]
    return None


def _is_results(content: Any) -> TypeGuard[list]:
    return dicts_with(content, 'keypoints') and is_dict_with(content[0]['keypoints'], 'x', 'y')


def _picture(entries: list, where: str, label: int | None) -> Picture:
    return Picture([_person(entry, where) for entry in entries], label)


def _person(entry: Any, where: str) -> Person:
    keypoints = entry['keypoints'] if is_dict_with(entry, 'keypoints') else None
    if not is_dict_with(keypoints, 'x', 'y'):
        raise FileError(f'{where}: a result has no keypoints with x and y')
    x, y = (numbers(keypoints[axis], f'{where}: keypoints {axis}') for axis in 'xy')
    if x.ndim != 1 or x.shape != y.shape:
        raise FileError(f'{where}: keypoints have {x.shape} x and {y.shape} y')
    points = with_scores(np.column_stack([x, y]), f'{where}: keypoints', keypoints.get('visible'))
    return person_of(points, entry.get('confidence'), entry.get('track_id'), where)


def labels(folder: Path, files: list[Path]) -> Detections:
    """Return the people of a folder of label files, one per frame. Raises FileError for others' files."""
    frames = [Picture([_of_line(line, f'{printable(path)}: line {number}')
                       for number, line in enumerate(_lines(path), 1)], path.stem) for path in files]
    return Detections(frames, 'Ultralytics labels', LAYOUTS, shares=True)


def _lines(path: Path) -> list[str]:
    try:
        with open(path, 'rb') as file:
            text = file.read(LARGEST).decode('ascii')
    except OSError as error:
        raise FileError(f'cannot read {printable(path)}: {error.strerror or error}') from None
    except ValueError:
        raise FileError(f'{printable(path)} is not a label file of numbers, as Ultralytics writes them with save_txt') \
            from None
    return [line for line in text.splitlines() if line.strip()]


def _of_line(line: str, where: str) -> Person:
    try:
        values = np.array([float(word) for word in line.split()])
    except ValueError:
        raise FileError(f'{where} is {quoted(line)}, expected numbers as Ultralytics writes them with save_txt') \
            from None
    for columns in (3, 2):
        for after in range(3):  # nothing, the confidence or the number, both
            count, left = divmod(len(values) - BEFORE - after, columns)
            if not left and count in COUNTS:
                keypoints = with_scores(values[BEFORE:BEFORE + count * columns].reshape(-1, columns), where)
                last = values[len(values) - 1] if after else None
                is_number = after == 2 or (after == 1 and last is not None and last == np.floor(last))
                return person_of(keypoints, values[-after] if after and not (after == 1 and is_number) else None,
                                 last if is_number else None, where)
    raise FileError(f'{where} has {len(values)} numbers, expected class, box, and x, y and score of each keypoint, as '
                    f'Ultralytics writes them with save_txt')
