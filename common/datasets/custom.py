"""A user's own videos: 2D keypoints without 3D, from `data_2d_custom_<name>.npz` as data/prepare_data_2d.py makes it.

Each subject is a video with a single action, `custom`, and a single camera, of which only the picture size is known.
The lifted joints are those of Human3.6M. Such videos cannot be trained or tested on.
"""

from pathlib import Path
from typing import Any

import numpy as np

from common.datasets.h36m import CAMERAS
from common.datasets.poses import PoseDataset, keypoint_layout, read_detections
from common.errors import FileError
from common.geometry.camera import MOST_PIXELS, Camera
from common.skeleton import COCO, H36M, Skeleton

# The real orientation is unknown: poses are turned upright as if Human3.6M's first camera had filmed them.
ORIENTATION = CAMERAS['S1'][0].orientation


def load(folder: Path, keypoints: str) -> PoseDataset:
    """Read `data_2d_custom_<keypoints>.npz` of a folder.

    Raises FileError for a file that is missing, broken or of another form.
    """
    path = folder / f'data_2d_custom_{keypoints}.npz'
    about: dict[str, Any] = {}
    rule = keypoint_layout(keypoints, COCO)

    def layout_of(metadata: dict, count: int) -> Skeleton:
        about.update(metadata)
        return rule(metadata, count)

    detections, layout = read_detections(path, layout_of)
    for video, takes in detections.items():
        if list(takes) != ['custom'] or len(takes['custom']) != 1:
            raise FileError(f'{path}: {video} is not one action `custom` with one camera; make it again with '
                            f'data/prepare_data_2d.py')
    sizes = about.get('video_metadata')
    cameras = {video: [_camera(path, video, sizes)] for video in detections}
    return PoseDataset(
        name='custom', keypoints=keypoints, skeleton=H36M, layout=layout, fps=None, positions={}, detections=detections,
        cameras=cameras, subjects_train=(), subjects_test=tuple(detections), source_3d='-d custom', source_2d=str(path))


def _camera(path: Path, video: str, sizes: Any) -> Camera:
    size = sizes.get(video) if isinstance(sizes, dict) else None
    size = size if isinstance(size, dict) else {}
    sides = [size.get(side) for side in 'wh']
    if not all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) and 0 < n <= MOST_PIXELS for n in sides):
        raise FileError(f'{path}: video_metadata does not tell w and h of {video} in pixels; add them, make it again '
                        f'with data/prepare_data_2d.py, or lift it with --predict and --image-size')
    return Camera(ORIENTATION, np.zeros(3, np.float32), int(size['w']), int(size['h']))
