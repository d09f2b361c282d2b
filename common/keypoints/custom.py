"""VideoPose3D's custom data sets, `data_2d_custom_NAME.npz`: video -> custom -> [(T, K, 2)].

https://github.com/facebookresearch/VideoPose3D/blob/main/INFERENCE.md
The size of each video's pictures is in metadata's video_metadata; files of older versions, or of other programs, lack
it.
"""

from pathlib import Path
from typing import Any

from common.errors import FileError
from common.keypoints.detections import Detections, Picture
from common.keypoints.known import LAYOUTS
from common.keypoints.plain_arrays import is_track, persons_of
from common.keypoints.sizes import size_of
from common.keypoints.values import quoted


def members(path: Path, content: dict) -> Detections | None:
    """Return the tracks of all videos, their frames called by the video's name; None for others' files."""
    tree = content.get('positions_2d')
    if not isinstance(tree, dict):
        return None
    metadata = _dict_or_empty(content.get('metadata'))
    sizes, said = _dict_or_empty(metadata.get('video_metadata')), metadata.get('layout_name')
    pictures: list[Picture] = []
    for name, takes in tree.items():
        views = takes.get('custom') if isinstance(takes, dict) else None
        if views is None or not hasattr(views, '__len__') or len(views) != 1 or not is_track(views[0]):
            raise FileError(f'{path}: positions_2d of {quoted(name)} is not a custom video, with one array (frames, '
                            f'keypoints, 2)')
        size = size_of(str(path), sizes.get(name))
        pictures += [Picture([person], (str(name), t), size) for t, person in enumerate(persons_of(views[0]))]
    usual = (said,) if isinstance(said, str) and said in LAYOUTS else ('coco',)
    return Detections(pictures, 'custom npz', usual)


def _dict_or_empty(value: Any) -> dict:
    return value if isinstance(value, dict) else {}
