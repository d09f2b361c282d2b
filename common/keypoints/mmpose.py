"""MMPose's JSON, and that of programs that keep its form (Sapiens, Hugging Face's ViTPose).

https://mmpose.readthedocs.io/en/latest/user_guides/inference.html
A person is {"keypoints": [[x, y], …], "keypoint_scores": [s, …], "bbox": …, "bbox_score": s, "track_id": n}. A picture
is a list of people (MMPoseInferencer on pictures), a list of frames {"frame_id", "instances": people} (on a video), or
{"meta_info", "instance_info": either}, where meta_info names the data set and may name the keypoints. The inferencer's
results dumped: [{"visualization", "predictions": [people]}], or {"predictions": [people of each picture]}.
"""

from typing import Any

from common.errors import FileError
from common.keypoints.detections import Detections, Picture
from common.keypoints.known import LAYOUTS as KNOWN
from common.keypoints.known import layout_of_names
from common.keypoints.reading import dicts_with, first_of, is_dict_with, person_of, with_scores
from common.keypoints.track import Person
from common.keypoints.values import numbers, whole
from common.skeleton import Skeleton

KIND = 'MMPose JSON'
LAYOUTS = ('coco', 'halpe26', 'mpii', 'wholebody133')
# What MMPose calls data sets, by the letters that their names begin with.
DATASETS = {'coco_wholebody': 'wholebody133', 'coco': 'coco', 'posetrack18': 'posetrack18', 'crowdpose': 'crowdpose14',
            'aic': 'aic14', 'mpii': 'mpii', 'h36m': 'h36m', '3dhp': '3dhp', 'mpi_inf_3dhp': '3dhp', 'humanart': 'coco',
            'goliath': 'sapiens308', 'halpe26': 'halpe26', 'body25b': 'body25b', 'body25': 'body25'}
SCORES = ('keypoint_scores', 'scores')


def clip(content: Any, where: str) -> Detections | None:
    """Return the frames of {"meta_info", "instance_info"}; None for what has no instance_info."""
    if not is_dict_with(content, 'instance_info') or not isinstance(content['instance_info'], list):
        return None
    about = content.get('meta_info')
    return Detections(_frames(content['instance_info'], where), KIND, (*_said(about), *LAYOUTS))


def pictures(content: Any, where: str) -> list[Picture] | None:
    """Return the pictures of a list of people, a frame, or a result of the inferencer; None for others'."""
    if is_dict_with(content, 'instances'):
        return _frames([content], where)
    if _is_people(content):
        return [_picture(content, where)]
    predicted = content.get('predictions') if isinstance(content, dict) else None
    if isinstance(predicted, list) and predicted and all(_is_people(people) or people == [] for people in predicted):
        return [_picture(people, f'{where}: prediction {index}') for index, people in enumerate(predicted)]
    return None


def _is_people(content: Any) -> bool:
    if not any(dicts_with(content, 'keypoints', key) for key in SCORES) or 'image_id' in content[0]:
        return False
    keypoints = content[0]['keypoints']
    return isinstance(keypoints, list) and bool(keypoints) and isinstance(keypoints[0], list)


def _frames(frames: list, where: str) -> list[Picture]:
    if _is_people(frames):
        return [_picture(frames, where)]
    done = []
    for index, frame in enumerate(frames):
        here = f'{where}: frame {index}'
        if not isinstance(frame, dict) or not isinstance(frame.get('instances'), list):
            raise FileError(f'{here} has no list called instances')
        done.append(_picture(frame['instances'], here, whole(frame.get('frame_id'))))
    return done


def _picture(entries: list, where: str, label: int | None = None) -> Picture:
    return Picture([_person(entry, where) for entry in entries], label)


def _person(entry: Any, where: str) -> Person:
    if not isinstance(entry, dict):
        raise FileError(f'{where}: an instance is {type(entry).__name__}, expected a dict')
    keypoints = with_scores(numbers(entry.get('keypoints'), f'{where}: keypoints'), f'{where}: keypoints',
                            first_of(entry, *SCORES))
    return person_of(keypoints, first_of(entry, 'bbox_score', 'score'), first_of(entry, 'track_id', 'instance_id'),
                     where)


def _said(about: Any) -> tuple[str | Skeleton, ...]:
    """Return the layout that meta_info names, or that of the keypoints' names in it."""
    if not isinstance(about, dict):
        return ()
    name = about.get('dataset_name')
    name = name.lower() if isinstance(name, str) else ''
    known = next((KNOWN[layout] for start, layout in DATASETS.items() if name.startswith(start)), None)
    names = about.get('keypoint_id2name')
    if known is None and isinstance(names, dict) and 0 < len(names) < 1000:
        known = layout_of_names('of its names', [str(names.get(str(n), names.get(n))) for n in range(len(names))])
    return () if known is None else (known,)
