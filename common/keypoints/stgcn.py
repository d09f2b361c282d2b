"""ST-GCN's and mmskeleton's JSON, also of GAST-Net and of Kinetics-skeleton.

https://github.com/yysijie/st-gcn/blob/master/OLD_README.md
{"data": [{"frame_index": n, "skeleton": [{"pose": [x, y, …], "score": [s, …]}]}], "label": …}, in pixels or in shares
of the picture.
"""

from typing import Any

from common.errors import FileError
from common.keypoints.detections import Detections, Picture
from common.keypoints.reading import dicts_with, is_dict_with, person_of, with_scores
from common.keypoints.track import Person
from common.keypoints.values import numbers, whole

KIND = 'ST-GCN JSON'
LAYOUTS = ('openpose18', 'coco')


def clip(content: Any, where: str) -> Detections | None:
    """Return the people of all frames; None for what is not ST-GCN's."""
    if not isinstance(content, dict) or not dicts_with(content.get('data'), 'skeleton'):
        return None
    frames = []
    for index, frame in enumerate(content['data']):
        here = f'{where}: frame {index}'
        if not is_dict_with(frame, 'skeleton') or not isinstance(frame['skeleton'], list):
            raise FileError(f'{here} has no list called skeleton')
        frames.append(Picture([_person(entry, here) for entry in frame['skeleton']], whole(frame.get('frame_index'))))
    return Detections(frames, KIND, LAYOUTS)


def _person(entry: Any, where: str) -> Person:
    pose = numbers(entry.get('pose') if isinstance(entry, dict) else None, f'{where}: pose')
    if pose.ndim != 1 or not pose.size or pose.size % 2:
        raise FileError(f'{where}: pose has shape {pose.shape}, expected x and y of each keypoint in one list')
    keypoints = with_scores(pose.reshape(-1, 2), f'{where}: pose', entry.get('score'))
    return person_of(keypoints, None, entry.get('track_id'), where)
