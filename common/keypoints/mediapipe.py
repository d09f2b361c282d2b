"""MediaPipe's pose landmarks as people save them: 33 points in shares of the picture's width and height.

https://ai.google.dev/edge/mediapipe/solutions/vision/pose_landmarker
MediaPipe writes no file. Common are arrays (T, 33, 4) of x, y, z, visibility, and JSON of frames {"frame": n,
"landmarks": [{"x", "y", "z", "visibility"}]}, the list also called pose_landmarks or landmark, for one person or for
several. z is a depth, which is not used.
"""

from typing import Any

import numpy as np

from common.errors import FileError
from common.keypoints.detections import Detections, Picture
from common.keypoints.reading import dicts_with, first_of, person_of, with_scores
from common.keypoints.track import Person
from common.keypoints.values import numbers, whole

KIND = 'MediaPipe JSON'
LAYOUTS = ('mediapipe33',)
SHARES = True
COUNT = 33
LISTS = ('landmarks', 'pose_landmarks', 'poseLandmarks', 'landmark')


def pictures(content: Any, where: str) -> list[Picture] | None:
    """Return the picture of a frame's landmarks; None for others'."""
    label, found = None, content
    if isinstance(content, dict):
        label = whole(first_of(content, 'frame', 'frame_id', 'frame_index', 'index'))
        key = next((key for key in LISTS if key in content), None)
        if key is None:
            return None
        found = content[key]
        found = found['landmark'] if isinstance(found, dict) and 'landmark' in found else found
        if found is None or found == []:
            return [Picture([], label)]
    if _is_landmarks(found):
        return [Picture([_person(found, where)], label)]
    if isinstance(found, list) and isinstance(content, dict) and found and all(map(_is_landmarks, found)):
        return [Picture([_person(person, where) for person in found], label)]
    return None


def _is_landmarks(content: Any) -> bool:
    return dicts_with(content, 'x', 'y') and len(content) == COUNT


def _person(landmarks: list, where: str) -> Person:
    if not all(isinstance(point, dict) for point in landmarks):
        raise FileError(f'{where}: a landmark is no dict with x and y')
    points = numbers([[point.get('x'), point.get('y')] for point in landmarks], f'{where}: landmarks')
    scores = [first_of(point, 'visibility', 'score') for point in landmarks]
    given = None if None in scores else scores
    return person_of(with_scores(points, f'{where}: landmarks', given), None, None, where)


def array(values: np.ndarray, name: str) -> Detections | None:
    """Return the people of (T, 33, 4 or 5) or (T, 33, 3) x, y, z; None for other arrays."""
    if values.ndim != 3 or values.shape[1] != COUNT or values.shape[2] < 3:
        return None
    third = values[..., 2]
    if values.shape[2] > 3:  # x, y, z, visibility, presence
        scores = values[..., 3]
    elif ((third < 0) & (third != -1)).mean() > 0.02:  # depths, not scores
        scores = np.ones(third.shape)
    else:
        scores = third
    keypoints = np.concatenate([values[..., :2], scores[..., None]], axis=-1)
    return Detections([Picture([Person(frame, 1.0)], t) for t, frame in enumerate(keypoints)],
                      f'MediaPipe array {name}', LAYOUTS, shares=True)
