"""easy_ViTPose's JSON: every frame a dict from a person's number to [y, x, score] of each keypoint.

https://github.com/JunkyByte/easy_ViTPose: {"keypoints": [{"0": [[y, x, score], …]}], "skeleton": {"0": "nose", …}}
"""

from typing import Any

from common.errors import FileError
from common.keypoints.detections import Detections, Picture
from common.keypoints.known import layout_of_names
from common.keypoints.reading import is_dict_with
from common.keypoints.track import Person
from common.keypoints.values import numbers, quoted

KIND = 'easy_ViTPose JSON'
LAYOUTS = ('coco25', 'coco', 'wholebody133')


def clip(content: Any, where: str) -> Detections | None:
    """Return the people of all frames; None for what is not easy_ViTPose's."""
    if not is_dict_with(content, 'keypoints', 'skeleton') or not isinstance(content['keypoints'], list):
        return None
    frames = [_picture(frame, f'{where}: frame {index}', index) for index, frame in enumerate(content['keypoints'])]
    names, said = content['skeleton'], None
    if isinstance(names, dict) and 0 < len(names) < 1000:
        said = layout_of_names('of its names', [str(names.get(str(n))) for n in range(len(names))])
    return Detections(frames, KIND, LAYOUTS if said is None else (said, *LAYOUTS))


def _picture(frame: Any, where: str, index: int) -> Picture:
    if not isinstance(frame, dict):
        raise FileError(f"{where} is {type(frame).__name__}, expected a dict from people's numbers to keypoints")
    people = []
    for number, values in frame.items():
        keypoints = numbers(values, f'{where}: keypoints')
        if keypoints.ndim != 2 or keypoints.shape[1] != 3 or not len(keypoints):
            raise FileError(f'{where}: keypoints of {quoted(number)} have shape {keypoints.shape}, expected y, x and '
                            f'score of each')
        people.append(Person(keypoints[:, [1, 0, 2]], float(keypoints[:, 2].mean()),
                             int(number) if str(number).isdecimal() and len(str(number)) < 10 else None))
    return Picture(people, index)
