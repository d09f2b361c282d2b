"""ControlNet's and DWPose's JSON: OpenPose's people with the size of the canvas, one frame or a list of frames.

https://github.com/Fannovel16/comfyui_controlnet_aux (SavePoseKpsAsJsonFile): [{"people": [{"pose_keypoints_2d": …}],
"canvas_width": w, "canvas_height": h}], in pixels or in shares of the canvas.
"""

from typing import Any

from common.errors import FileError
from common.keypoints.detections import Picture
from common.keypoints.openpose import people_of
from common.keypoints.reading import is_dict_with
from common.keypoints.sizes import size_of

KIND = 'ControlNet JSON'
LAYOUTS = ('openpose18', 'body25')


def pictures(content: Any, where: str) -> list[Picture] | None:
    """Return the picture of one frame; None for what is not ControlNet's."""
    if not is_dict_with(content, 'people', 'canvas_width'):
        return None
    if 'canvas_height' not in content:
        raise FileError(f'{where} has a canvas_width, but no canvas_height')
    return [Picture(people_of(content['people'] or [], where),
                    size=size_of(where, (content['canvas_width'], content['canvas_height'])))]
