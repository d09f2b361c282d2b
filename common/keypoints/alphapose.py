"""AlphaPose's JSON, and lists of COCO results, which have the same form.

https://github.com/MVIG-SJTU/AlphaPose/blob/master/docs/output.md
Default format: [{"image_id": "0.jpg", "category_id": 1, "keypoints": [x, y, score, …], "score": s, "idx": number}],
where `idx` may be a list of the numbers of merged boxes, the person's own first. Format open: {"0.jpg": OpenPose's
content}; format cmu: {"0.jpg": {"bodies": [{"joints": [x, y, score, …]}]}}; with --sep_json, a file per frame of
either. PoseFlow's tracks: {"0.jpg": [{"keypoints": […], "scores": s, "idx": number}]}. COCO results
(https://cocodataset.org/#format-results) have no idx.
"""

from typing import Any

from common.errors import FileError
from common.keypoints.detections import Detections, Picture
from common.keypoints.reading import dicts_with, first_of, flat_keypoints, is_dict_with, person_of
from common.keypoints.track import Person

KIND = 'AlphaPose JSON'
LAYOUTS = ('coco', 'halpe26', 'openpose18')
WRAPPED = ('data', 'results', 'annotations', 'predictions')


def clip(content: Any, where: str) -> Detections | None:
    """Return the people of a list of entries, or of a dict from pictures to people; None for others' files."""
    entries = content
    if isinstance(content, dict) and 'images' not in content:
        entries = next((content[key] for key in WRAPPED if dicts_with(content.get(key), 'image_id', 'keypoints')), None)
    if dicts_with(entries, 'image_id', 'keypoints'):
        named = {key for entry in entries[:100] if isinstance(entry, dict) for key in entry}
        return Detections(_frames(entries, where), KIND if named & {'idx', 'box'} else 'COCO results', LAYOUTS)
    if isinstance(content, dict) and any(content.values()) and all(map(_is_tracked, content.values())):
        return Detections([Picture([_person(person, f'{where}: {len(people)} people') for person in people], str(name))
                           for name, people in content.items()], KIND, LAYOUTS)
    return None


def pictures(content: Any, where: str) -> list[Picture] | None:
    """Return the picture of format cmu's content of a frame; None for others'."""
    if not is_dict_with(content, 'bodies'):
        return None
    bodies = content['bodies']
    if not isinstance(bodies, list) or not all(isinstance(body, dict) for body in bodies):
        raise FileError(f'{where}: expected a list of dicts called bodies')
    return [Picture([person_of(flat_keypoints(body.get('joints'), f'{where}: joints'), body.get('score'),
                               body.get('id'), where) for body in bodies])]


def _is_tracked(people: Any) -> bool:
    return people == [] or (dicts_with(people, 'keypoints', 'scores') and 'keypoint_scores' not in people[0])


def _frames(entries: list, where: str) -> list[Picture]:
    frames: dict[str | int, list[Person]] = {}
    for index, entry in enumerate(entries):
        here = f'{where}: entry {index}'
        if not isinstance(entry, dict) or isinstance(entry.get('image_id'), bool) \
                or not isinstance(entry.get('image_id'), (str, int)):
            raise FileError(f'{here} has no image_id')
        frames.setdefault(entry['image_id'], []).append(_person(entry, here))
    return [Picture(people, label) for label, people in frames.items()]


def _person(entry: Any, where: str) -> Person:
    if not isinstance(entry, dict):
        raise FileError(f'{where}: a person is {type(entry).__name__}, expected a dict')
    return person_of(flat_keypoints(entry.get('keypoints'), f'{where}: keypoints'),
                     first_of(entry, 'score', 'scores') or 0, first_of(entry, 'idx', 'track_id'), where)
