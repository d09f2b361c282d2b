"""MoveNet's output: arrays of y, x, score in shares of the picture, and TensorFlow.js' JSON of x, y, score in pixels.

https://www.tensorflow.org/hub/tutorials/movenet: (1, 1, 17, 3) a frame from the single-pose models, stacked to (T, 1,
1, 17, 3), and (1, 6, 56) from the multi-pose model, stacked to (T, 1, 6, 56): 17 keypoints, then box and score.
https://github.com/tensorflow/tfjs-models/tree/master/pose-detection: a picture is [{"keypoints": [{"x", "y", "score",
"name"}], "score"}]; PoseNet's has {"position": {"x", "y"}, "part", "score"}.
"""

from typing import Any

import numpy as np

from common.errors import FileError
from common.keypoints.detections import Detections, Picture
from common.keypoints.reading import dicts_with, first_of, is_dict_with, person_of, with_scores
from common.keypoints.track import Person
from common.keypoints.values import numbers

KIND = 'TensorFlow.js JSON'
LAYOUTS = ('coco', 'mediapipe33')
COUNT = 17
BOXED = 3 * COUNT + 5
SURE = 0.1  # score of a person of the multi-pose model, which always returns six


def pictures(content: Any, where: str) -> list[Picture] | None:
    """Return the picture of a list of people whose keypoints are dicts; None for others'."""
    if not dicts_with(content, 'keypoints'):
        return None
    first = content[0]["keypoints"] if content else None
    if not any(dicts_with(first, *keys) for keys in (('x', 'y'), ('position',))):
        return None
    return [Picture([_person(entry, where) for entry in content])]


def _person(entry: Any, where: str) -> Person:
    keypoints = entry['keypoints'] if is_dict_with(entry, 'keypoints') else None
    keypoints = keypoints if isinstance(keypoints, list) else []
    places = [point.get('position', point) if isinstance(point, dict) else None for point in keypoints]
    if not places or not all(is_dict_with(place, 'x', 'y') for place in places):
        raise FileError(f'{where}: a person has no keypoints with x and y')
    points = numbers([[place['x'], place['y']] for place in places if place], f'{where}: keypoints')
    scores = [point.get('score') for point in keypoints]
    return person_of(with_scores(points, f'{where}: keypoints', None if None in scores else scores),
                     entry.get('score'), first_of(entry, 'id', 'track_id'), where)


def array(values: np.ndarray, name: str) -> Detections | None:
    """Return the people of an array in one of the models' own shapes; None for other arrays."""
    if values.ndim == 5 and values.shape[1:] == (1, 1, COUNT, 3):
        people = [[Person(frame[0, 0][:, [1, 0, 2]], 1.0)] for frame in values]
    elif values.shape[1:] in ((1, 6, BOXED), (6, BOXED)):
        people = [[Person(row[:3 * COUNT].reshape(COUNT, 3)[:, [1, 0, 2]], float(row[-1]))
                   for row in frame.reshape(6, BOXED) if row[-1] > SURE] for frame in values]
    else:
        return None
    return Detections([Picture(frame, t) for t, frame in enumerate(people)], f'MoveNet array {name}', ('coco',),
                      shares=True)
