"""OpenPose's JSON, a file per frame: {"people": [{"person_id": [-1], "pose_keypoints_2d": [x, y, score, …]}]}.

https://github.com/CMU-Perceptual-Computing-Lab/openpose/blob/master/doc/02_output.md
Lightweight OpenPose, tf-pose (x and y alone) and AlphaPose's sep-json write the same form, and so does ControlNet
(`controlnet`). Others leave null for people whom they do not see.
"""

from typing import Any

import numpy as np

from common.errors import FileError
from common.keypoints.detections import Picture
from common.keypoints.reading import first_of, flat_keypoints, is_dict_with, person_of
from common.keypoints.track import Person

KIND = 'OpenPose JSON'
LAYOUTS = ('body25', 'openpose18', 'body25b', 'mpi15', 'coco')


def pictures(content: Any, where: str) -> list[Picture] | None:
    """Return the picture of one frame; None for what is not OpenPose's."""
    if not is_dict_with(content, 'people') or 'canvas_width' in content:
        return None
    return [Picture(people_of(content['people'], where))]


def people_of(entries: Any, where: str) -> list[Person]:
    """Return the people of a list of OpenPose's. Raises FileError for another one."""
    if not isinstance(entries, list):
        raise FileError(f"{where}: expected OpenPose's, with a list called people")
    return [person for person in (_person(entry, where) for entry in entries) if person is not None]


def _person(entry: Any, where: str) -> Person | None:
    if entry is None:
        return None
    if not isinstance(entry, dict):
        raise FileError(f'{where}: a person is {type(entry).__name__}, expected a dict')
    values = first_of(entry, 'pose_keypoints_2d', 'pose_keypoints')  # version 1.0 had no ending
    if values is None or values == []:
        if not any(key.startswith('pose_keypoints') for key in map(str, entry)):
            raise FileError(f'{where}: a person has no pose_keypoints_2d')
        return None
    keypoints = flat_keypoints(values, f'{where}: pose_keypoints_2d')
    return person_of(keypoints, np.nan_to_num(keypoints[:, 2]).sum(), entry.get('person_id'), where)
