"""How near MoveNet's keypoints are to a person triangulated from several calibrated cameras, and how fast it is.

    python benchmarks/detector.py FOLDER VIDEOS [--weights FOLDER NAME ...]

FOLDER is that of real_detections.py, VIDEOS holds a video per camera in the same order, cam*.mp4. Errors are distances
in pixels to the projection of the triangulated person, whose truth is made of OpenPose's keypoints, which are measured
beside. Prints JSON.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')  # before torch is imported

from benchmarks.real_detections import JOINTS, truth_of
from common.detectors.movenet import OnePerson
from common.detectors.network import FOLDER, load_movenet
from common.drawing.video import read_video
from common.keypoints import read_track
from common.skeleton import BODY25B, COCO

NAMES = tuple(name for name in JOINTS if name in COCO.joints)
OTHER = [NAMES.index(name.replace('left', '*').replace('right', 'left').replace('*', 'right'))
         for name in NAMES]
LIMBS = tuple([index for index, name in enumerate(NAMES) if name.split('_')[1] in parts]
              for parts in (('shoulder', 'elbow', 'wrist'), ('hip', 'knee', 'ankle')))
SWAPPED = 0.7  # of the error as it is, under which that with left and right exchanged counts as a swap


def project(camera: dict, world: np.ndarray) -> np.ndarray:
    """Return pixels (T, J, 2) of world points (T, J, 3) in metres."""
    seen = (world - camera['position']) @ camera['rotation'].T
    fx, fy, cx, cy = camera['lens']
    return seen[..., :2] / seen[..., 2:] * (fx, fy) + (cx, cy)


def detect(name: str, weights: Path, video: Path) -> tuple[np.ndarray, float]:
    """Return the keypoints (T, 17, 3) that a MoveNet finds, NaN where nobody is, and frames a second of CPU time."""
    detector = OnePerson(load_movenet(name, weights))
    with read_video(video) as film:
        start = time.process_time()
        people = list(detector.detect(film.frames))
        rate = len(people) / (time.process_time() - start)
    return np.stack([frame[0] if len(frame) else np.full((17, 3), np.nan) for frame in people]), rate


def openpose(folder: Path) -> np.ndarray:
    """Return OpenPose's keypoints of a folder in COCO's order, (T, 17, 3)."""
    track = read_track(folder)
    whole = np.concatenate([track.points, track.scores[..., None]], axis=-1)
    return whole[:, [BODY25B.joints.index(name) for name in COCO.joints]]


def compare(found: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, int, float, np.ndarray]:
    """Return errors (N,) in pixels, swapped limbs, the share of low scores, and second differences (M,) in pixels.

    Args:
        found: (T, 17, 3) x, y, score. truth: (T, len(NAMES), 2).
    """
    points = found[:len(truth), [COCO.joints.index(name) for name in NAMES]]
    errors = np.linalg.norm(points[..., :2] - truth, axis=-1)
    exchanged = np.linalg.norm(points[:, OTHER, :2] - truth, axis=-1)
    swaps = sum(int((np.nansum(exchanged[:, limb], axis=1) < SWAPPED * np.nansum(errors[:, limb], axis=1)).sum())
                for limb in LIMBS)
    moved = np.linalg.norm(np.diff(points[..., :2], 2, axis=0), axis=-1)
    return errors[np.isfinite(errors)], swaps, float((points[..., 2] < 0.3).mean()), moved[np.isfinite(moved)]


def measure(found: list[np.ndarray], truths: list[np.ndarray]) -> dict:
    """Return the figures of one detector over all cameras."""
    errors, swaps, low, moved = zip(*(compare(*pair) for pair in zip(found, truths, strict=True)), strict=True)
    every, jitter = np.concatenate(errors), np.concatenate(moved)
    return {'median_px': round(float(np.median(every)), 1), 'p90_px': round(float(np.percentile(every, 90)), 1),
            'by_camera_px': [round(float(np.median(one)), 1) for one in errors], 'swaps': sum(swaps),
            'low_scores': round(float(np.mean(low)), 4), 'jitter_px': round(float(np.median(jitter)), 1)}


def main() -> None:
    """Run all measurements and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path)
    parser.add_argument('videos', type=Path)
    parser.add_argument('--weights', nargs='+', default=[str(FOLDER), 'thunder'], metavar='FOLDER NAME')
    args = parser.parse_args()
    torch.set_num_threads(1)
    cameras, folders, world, _ = truth_of(args.folder)
    world = world[:, [JOINTS.index(name) for name in NAMES]]
    truths = [project(camera, world) for camera in cameras]
    results = {'joints': NAMES, 'openpose': measure([openpose(folder) for folder in folders], truths)}
    for name in args.weights[1:]:
        seen = [detect(name, Path(args.weights[0]), video) for video in sorted(args.videos.glob('cam*.mp4'))]
        results[name] = measure([found for found, _ in seen], truths)
        results[name]['frames_a_second'] = [round(rate, 1) for _, rate in seen]
    print(json.dumps(results, indent=1))


if __name__ == '__main__':
    main()
