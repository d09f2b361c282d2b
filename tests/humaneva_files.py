"""Writers of HumanEva-I files as the toolbox and a detector write them, from synthetic motion, for the converters."""

import numpy as np
import scipy.io

from common.datasets.humaneva import CAMERAS, HEIGHT, RANGES, WIDTH
from common.datasets.synthetic import motion
from common.geometry.camera import pinhole_intrinsic, project
from common.skeleton import COCO, H36M, HUMANEVA15, HUMANEVA20, correspondence
from data.prepare_data_2d import SYNC

# The lens of the pictures in these fixtures, which the data set does not tell.
LENS = pinhole_intrinsic((700, 702), (330, 235), (0, 0, 0), (0, 0), WIDTH, HEIGHT)
LAYOUTS = {15: HUMANEVA15, 20: HUMANEVA20}
TAKES = {'S1': ('Walking 1', 'Jog 1'), 'S2': ('Jog 1',)}


def pixels(subject: str, camera: int, points: np.ndarray) -> np.ndarray:
    """Project world points (..., 3), metres, to the pixels of a camera of Train/S1 and so on."""
    screen = project(CAMERAS[subject][camera].from_world(points), LENS)
    return (screen + [1, HEIGHT / WIDTH]) * (WIDTH / 2)


def whole_takes(takes=TAKES) -> dict[tuple[str, str], np.ndarray]:
    """Make (subject, take) -> (T, 17, 3) metres in Human3.6M's order: the motion of a whole take, both parts."""
    random = np.random.default_rng(3)
    return {(subject, take): motion('Walking', 1.0, RANGES[f'Train/{subject}', take][1], random)
            for subject, names in takes.items() for take in names}


def write_mocap(folder, joints: int, takes: dict, gaps=()) -> None:
    """Write `<split>/<subject>/<Action>_<trial>.mat` under a folder; frames of `gaps` have no pose."""
    matrix = correspondence(LAYOUTS[joints], H36M)
    for (subject, take), body in takes.items():
        for split in ('Train', 'Validate'):
            start, end = RANGES[f'{split}/{subject}', take]
            poses = matrix @ body[start:end].astype(np.float64)
            if joints == 20:  # the two ends of an elbow or knee lie apart
                poses[:, [j for j, name in enumerate(HUMANEVA20.joints) if '_lower_' in name], 2] -= 0.01
            views = np.stack([pixels(f'{split}/{subject}', camera, poses) for camera in range(3)])
            poses[list(gaps)] = np.nan
            path = folder / split / subject / f'{take.replace(" ", "_")}.mat'
            path.parent.mkdir(parents=True, exist_ok=True)
            scipy.io.savemat(path, {'poses_3d': 1000 * poses, 'poses_2d': views})


def write_videos(folder, takes: dict) -> None:
    """Write a detector's file for each video, 17 COCO keypoints within 3 pixels, and for one of S4, without mocap."""
    random = np.random.default_rng(4)
    joints = [H36M.joints.index(name if name in H36M.joints else 'neck' if name == 'nose' else 'head')
              for name in COCO.joints]
    for (subject, take), body in takes.items():
        for camera, first in enumerate(SYNC[subject][take]):
            video = np.concatenate([np.repeat(body[:1], first - 1, axis=0), body, body[-1:]])
            seen = pixels(f'Train/{subject}', camera, video[:, joints].astype(np.float64))
            seen += random.normal(0, 3, seen.shape)
            _write_video(folder / subject / f'{take.replace(" ", "_")}_(C{camera + 1}).avi.npz', seen)
    for camera in range(3):
        _write_video(folder / 'S4' / f'Combo_2_(C{camera + 1}).avi.npz', np.full((5, 17, 2), 100.0))


def _write_video(path, seen: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    boxes, keypoints = (np.empty((len(seen), 2), dtype=object) for _ in range(2))
    for frame, points in enumerate(seen):
        boxes[frame] = [], np.array([[0, 0, WIDTH, HEIGHT, 0.9]], np.float32)
        keypoints[frame] = [], np.concatenate([points.T, np.zeros((2, 17))])[None].astype(np.float32)
    np.savez_compressed(path, boxes=boxes, keypoints=keypoints, metadata={'w': WIDTH, 'h': HEIGHT})
