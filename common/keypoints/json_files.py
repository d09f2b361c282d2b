"""Reading detectors' JSON: AlphaPose (also COCO results), OpenPose (a file per frame) and MMPose.

AlphaPose: a list of people, each {image_id, keypoints: flat list of x, y, score, score, idx}. OpenPose: {"people":
[{"pose_keypoints_2d": flat list of x, y, score, "person_id": [n]}]}. MMPose: {"meta_info", "instance_info": frames}, or
a list of frames {frame_id, "instances": people}, or the people of one picture, each {keypoints: [[x, y]],
keypoint_scores, bbox_score}.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import FileError
from common.keypoints.layouts import LAYOUTS, LEADING
from common.keypoints.track import Person, Track, rows_of, track_of
from common.skeleton import SKELETONS


def read_file(path: Path, person: int | None) -> Track:
    """Read the track of one JSON file. Raises FileError, or FlagError for a person who is not in it."""
    content = _parse(path)
    if isinstance(content, dict):
        if isinstance(content.get('instance_info'), list):
            return _mmpose(path, content['instance_info'], content.get('meta_info'), person)
        if 'people' in content:
            return _openpose(path, [path], person)
    if isinstance(content, list):
        if not content:
            raise FileError(f'{path} holds nobody: its list is empty')
        keys = _keys(content[0])
        if 'instances' in keys:
            return _mmpose(path, content, None, person)
        if {'keypoints', 'keypoint_scores'} <= keys:
            return _mmpose(path, [{'instances': content}], None, person)
        if {'image_id', 'keypoints'} <= keys:
            return _alphapose(path, content, person)
    raise FileError(f'{path} is JSON of another tool: expected AlphaPose, MMPose or OpenPose, found {_form(content)}')


def _keys(value: Any) -> set[str]:
    """Return the keys of a dict; none for anything else."""
    return set(value) if isinstance(value, dict) else set()


def _form(content: Any) -> str:
    """Return in words what JSON holds: a dict with its keys, a list of them, or the name of a type."""
    is_list = isinstance(content, list)
    keys = _keys(content[0] if is_list else content)
    if not keys:
        return type(content).__name__
    return f'a {"list of" if is_list else "dict with"} {_quoted(", ".join(sorted(map(str, keys))))}'


def read_folder(folder: Path, person: int | None) -> Track:
    """Read the track of a folder of OpenPose's files, one per frame. Raises FileError, or FlagError as `read_file`."""
    files = [path for path in folder.glob('*.json') if path.is_file()]
    if not files:
        raise FileError(f'{folder} holds no .json file: expected the folder that OpenPose wrote with --write_json')
    return _openpose(folder, files, person)


def _parse(path: Path) -> Any:
    """Return what a JSON file holds. Raises FileError."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise FileError(f'cannot read {path}: {error.strerror or error}') from None
    except RecursionError:
        raise FileError(f'{path} is not a detector\'s JSON: it is nested without end') from None
    except ValueError as error:  # raised for bytes that are not text too
        reason = str(error).splitlines()[0][:100]
        raise FileError(f'{path} is not readable JSON, or cut off ({reason}); fetch or make it again') from None


def _quoted(text: str) -> str:
    return ''.join(c if c.isprintable() else '?' for c in text)[:100]


def _numbers(values: Any, where: str) -> np.ndarray:
    """Convert numbers from a file to a float64 array; null becomes NaN. Raises FileError for anything else."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise FileError(f'{where} is not a list of numbers') from None
    return array


def _flat(values: Any, where: str) -> np.ndarray:
    """Reshape a flat list x, y, score, x, y, score, … to (K, 3)."""
    array = _numbers(values, where)
    if array.ndim != 1 or not array.size or array.size % 3:
        raise FileError(f'{where} has shape {array.shape}, expected x, y and score of each keypoint in one list')
    return _known_count(array.reshape(-1, 3))


def _known_count(keypoints: np.ndarray) -> np.ndarray:
    """Cut off the hands and faces that follow the body in larger layouts."""
    leading = LEADING.get(len(keypoints))
    return keypoints[:len(SKELETONS[leading])] if leading else keypoints


def _whole(value: Any) -> int | None:
    """Return a person's number, 0 or more, also from a list that holds only it; None for anything else."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    plain = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1 << 53
    return int(value) if plain and value == int(value) else None


def _score(value: Any, where: str) -> float:
    score = _numbers(value, where)
    if score.size != 1:
        raise FileError(f'{where} is not a number')
    return float(np.nan_to_num(score.reshape(())))


def _last_number(text: str) -> int | None:
    digits = re.findall(r'\d+', text)
    return int(digits[-1][-18:]) if digits else None


def _arrange(labels: list, number_of: Callable[[Any], int | None],
             people_of: list[list[Person]]) -> tuple[list[list[Person]], np.ndarray]:
    """Return the people of every frame in the order of time, with empty frames in gaps, and the frames' numbers."""
    rows, numbers = rows_of([number_of(label) for label in labels])
    people: list[list[Person]] = [[] for _ in numbers]
    for row, frame in zip(rows, people_of, strict=True):
        people[row] = frame
    return people, numbers


def _alphapose(path: Path, entries: list, person: int | None) -> Track:
    frames: dict = {}
    for index, entry in enumerate(entries):
        where = f'{path}: entry {index}'
        if not isinstance(entry, dict) or not isinstance(entry.get('image_id'), (str, int)):
            raise FileError(f'{where} has no image_id')
        keypoints = _flat(entry.get('keypoints'), f'{where}: keypoints')
        score = _score(entry.get('score', 0), f'{where}: score')
        frames.setdefault(entry['image_id'], []).append(Person(keypoints, score, _whole(entry.get('idx'))))
    labels = list(frames)

    def number_of(label: str | int) -> int | None:
        return label if isinstance(label, int) else _last_number(Path(label).stem)
    people, numbers = _arrange(labels, number_of, list(frames.values()))
    return track_of(people, person, numbers, kind='AlphaPose JSON', layouts=('halpe26', 'coco'))


def _openpose(source: Path, files: list[Path], person: int | None) -> Track:
    """Return the track of OpenPose's files, one per frame, by the numbers in their names. Raises FileError."""
    stems = {path: path.stem.removesuffix('_keypoints') for path in files}
    _check_one_video(source, list(stems.values()))
    in_order = sorted(files, key=lambda path: (_last_number(stems[path]) or 0, stems[path]))
    people = [_openpose_people(path) for path in in_order]
    arranged, frames = _arrange([stems[path] for path in in_order], _last_number, people)
    return track_of(arranged, person, frames, kind='OpenPose JSON', layouts=('body25', 'body25b'))


def _check_one_video(source: Path, stems: list[str]) -> None:
    """Raise FileError for names of frames whose numbers come twice, under different names of a video."""
    numbers = [_last_number(stem) for stem in stems]
    starts = sorted({re.sub(r'\d+(?=\D*$)', '#', stem) for stem in stems})
    if len(starts) > 1 and None not in numbers and len(set(numbers)) < len(numbers):
        raise FileError(f'{source} holds files of different videos ({_quoted(starts[0])}, {_quoted(starts[1])}): make '
                        f'a folder of each')


def _openpose_people(path: Path) -> list[Person]:
    """Return the people of one file of OpenPose's. Raises FileError."""
    content = _parse(path)
    if not isinstance(content, dict) or not isinstance(content.get('people'), list):
        raise FileError(f'{path} is JSON of another tool: expected OpenPose\'s, with a list called people')
    return [_openpose_person(path, entry) for entry in content['people']]


def _openpose_person(path: Path, entry: Any) -> Person:
    if not isinstance(entry, dict):
        raise FileError(f'{path}: a person is {type(entry).__name__}, expected a dict')
    keypoints = _flat(entry.get('pose_keypoints_2d'), f'{path}: pose_keypoints_2d')
    return Person(keypoints, float(np.nan_to_num(keypoints[:, 2]).sum()), _whole(entry.get('person_id')))


def _mmpose(path: Path, frames: list, about: Any, person: int | None) -> Track:
    labels, people = [], []
    for index, frame in enumerate(frames):
        where = f'{path}: frame {index}'
        if not isinstance(frame, dict) or not isinstance(frame.get('instances'), list):
            raise FileError(f'{where} has no list called instances')
        labels.append(_whole(frame.get('frame_id')))
        people.append([_mmpose_person(where, entry) for entry in frame['instances']])
    arranged, numbers = _arrange(labels, lambda label: label, people)
    name = str(about.get('dataset_name', '')) if isinstance(about, dict) else ''
    said = next((layout for layout in LAYOUTS if layout in name.lower()), None)
    usual = ((said,) if said else ()) + ('coco', 'halpe26', 'mpii')
    return track_of(arranged, person, numbers, kind='MMPose JSON', layouts=usual)


def _mmpose_person(where: str, entry: Any) -> Person:
    if not isinstance(entry, dict):
        raise FileError(f'{where}: an instance is {type(entry).__name__}, expected a dict')
    points = _numbers(entry.get('keypoints'), f'{where}: keypoints')
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise FileError(f'{where}: keypoints has shape {points.shape}, expected x and y of each keypoint')
    scores = _numbers(entry.get('keypoint_scores', [1.0] * len(points)), f'{where}: keypoint_scores')
    if scores.shape != (len(points),):
        raise FileError(f'{where}: keypoint_scores has shape {scores.shape}, expected one for each keypoint')
    keypoints = _known_count(np.column_stack([points, scores]))
    score = _score(entry.get('bbox_score', np.nan_to_num(scores).mean()), f'{where}: bbox_score')
    number = next((entry[key] for key in ('track_id', 'instance_id') if key in entry), None)
    return Person(keypoints, score, _whole(number))
