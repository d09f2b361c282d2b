"""OpenPifPaf's JSON: a file per picture, or a line per frame of a video.

https://openpifpaf.github.io/predict_cli.html, https://openpifpaf.github.io/plugins_custom.html
Picture: [{"keypoints": [x, y, score, …], "bbox", "score", "category_id", "id_"}]. Line: {"frame": n, "predictions": the
same}.
"""

from typing import Any

from common.errors import FileError
from common.keypoints.detections import Picture
from common.keypoints.reading import dicts_with, first_of, flat_keypoints, is_dict_with, person_of
from common.keypoints.track import Person
from common.keypoints.values import whole

KIND = 'OpenPifPaf JSON'
LAYOUTS = ('coco', 'wholebody133')


def pictures(content: Any, where: str) -> list[Picture] | None:
    """Return the picture of a list of people, or of a frame with its number; None for others'."""
    if _is_people(content):
        return [Picture([_person(entry, where) for entry in content])]
    if is_dict_with(content, 'frame', 'predictions') and (
            content['predictions'] == [] or _is_people(content['predictions'])):
        return [Picture([_person(entry, where) for entry in content['predictions']], whole(content['frame']))]
    return None


def _is_people(content: Any) -> bool:
    if not dicts_with(content, 'keypoints') or {'image_id', 'keypoint_scores', 'scores'} & set(content[0]):
        return False
    values = content[0]['keypoints']
    return isinstance(values, list) and bool(values) and not isinstance(values[0], (list, dict))


def _person(entry: Any, where: str) -> Person:
    if not isinstance(entry, dict):
        raise FileError(f'{where}: a person is {type(entry).__name__}, expected a dict')
    return person_of(flat_keypoints(entry.get('keypoints'), f'{where}: keypoints'), entry.get('score'),
                     first_of(entry, 'id_', 'track_id'), where)
