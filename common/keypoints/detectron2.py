"""Detectron2's and Detectron's npz, as VideoPose3D's inference scripts save it.

https://github.com/facebookresearch/VideoPose3D/blob/main/inference/infer_video_d2.py
boxes[t][1] is (people, 5) x1, y1, x2, y2, score; keypoints[t][1] is (people, 4, 17) with rows x, y, logit, probability;
metadata is {w, h}.
"""

from pathlib import Path
from typing import Any

import numpy as np

from common.errors import FileError
from common.keypoints.detections import Detections, Picture
from common.keypoints.sizes import size_of
from common.keypoints.track import Person
from common.keypoints.values import real


def members(path: Path, content: dict) -> Detections | None:
    """Return the people of a file's members; None for others' files."""
    if not {'boxes', 'keypoints'} <= set(content):
        return None
    boxes, keypoints = content['boxes'], content['keypoints']
    if not _is_list(boxes) or not _is_list(keypoints) or len(boxes) != len(keypoints) or not len(boxes):
        raise FileError(f'{path}: boxes and keypoints are not two lists of as many frames')
    frames = [Picture(_people(f'{path}: frame {t}', boxes[t], keypoints[t]), t) for t in range(len(boxes))]
    # A score is the share of the heat map around the peak, far below the scores of other detectors: no threshold.
    return Detections(frames, 'Detectron2 npz', ('coco',), size_of(str(path), _dict(content.get('metadata'))),
                      threshold=0.0)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or getattr(value, 'ndim', 0) > 0


def _dict(value: Any) -> dict | None:
    return value if isinstance(value, dict) else None


def _people(where: str, boxes: Any, keypoints: Any) -> list[Person]:
    try:
        boxes, keypoints = (real(side[1]) for side in (boxes, keypoints))
    except (TypeError, ValueError, IndexError, KeyError):
        raise FileError(f'{where}: expected boxes (people, 5) and keypoints (people, 4, 17) of the class person') \
            from None
    if not boxes.size:
        return []
    if boxes.ndim != 2 or boxes.shape[1] != 5 or keypoints.shape[:2] != (len(boxes), 4) or keypoints.ndim != 3:
        raise FileError(f'{where}: boxes {boxes.shape} and keypoints {keypoints.shape}, expected (people, 5) and '
                        f'(people, 4, 17)')
    return [Person(k[[0, 1, 3]].T, float(np.nan_to_num(box[4]))) for k, box in zip(keypoints, boxes, strict=True)]
