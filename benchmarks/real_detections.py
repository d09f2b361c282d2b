"""The accuracy of --predict on real detections, against the person triangulated from several calibrated cameras.

    python benchmarks/real_detections.py FOLDER CHECKPOINT [--videos FOLDER] [--smooth HZ] [--width 1088]
                                         [--height 1920] [--fps 60]

FOLDER holds a Qualisys calibration (*.qca.txt, lengths in mm, pixels in 64ths) and, per camera in its order, a folder
`*_json` of OpenPose files (BODY_25B, as in the demo recording of Pose2Sim). The truth is the triangulation, which is
only accurate to about 2 cm, so this is not a benchmark of lifters. With --videos, a folder of cam*.mp4 in the same
order, what is lifted are the keypoints that --predict finds in the videos; --smooth is that of --predict. Prints JSON.
"""

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import torch

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')  # before torch is imported

import run_ktpformer
from common import metrics
from common.geometry.placement import tilt_of
from common.keypoints import read_track
from common.keypoints.gaps import strays
from common.skeleton import BODY25B, H36M
from common.storage.npz import read_npz

# Joints that the detector names and the lifter predicts; those combined from others are left out.
JOINTS = tuple(name for name in H36M.joints if name in BODY25B.joints)
MIN_SCORE = 0.3
BONES = {f'{side} {bone}': (f'{side}_{a}', f'{side}_{b}') for side in ('left', 'right') for bone, a, b in (
    ('thigh', 'hip', 'knee'), ('shank', 'knee', 'ankle'), ('upper arm', 'shoulder', 'elbow'),
    ('forearm', 'elbow', 'wrist'))}


def read_cameras(path: Path) -> list[dict]:
    """Read each camera's world-to-camera rotation (3, 3), position (3,) in metres and lens (fx, fy, cx, cy) in pixels.

    Qualisys' camera axes have y up and look along -z; ours have y down and z forward.
    """
    cameras = []
    for entry in ElementTree.parse(path).getroot().iter('camera'):
        place, lens = entry.find('transform').attrib, entry.find('intrinsic').attrib
        turned = np.array([[float(place[f'r{row}{column}']) for column in '123'] for row in '123'])
        cameras.append({
            'rotation': np.diag([1, -1, -1]) @ turned,
            'position': np.array([float(place[axis]) for axis in 'xyz']) / 1000,
            'lens': [float(lens[k]) / 64 for k in ('focalLengthU', 'focalLengthV', 'centerPointU', 'centerPointV')]})
    return cameras


def triangulate(cameras: list[dict], points: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangulate pixels (C, T, K, 2) to world points (T, K, 3) in metres, and reprojection errors (C, T, K) in pixels.

    The method is linear, weighted by the scores (C, T, K). Scores under MIN_SCORE are ignored; a point seen by fewer
    than two cameras is NaN.
    """
    matrices = []
    for camera in cameras:
        fx, fy, cx, cy = camera['lens']
        place = np.column_stack([camera['rotation'], -camera['rotation'] @ camera['position']])
        matrices.append(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]) @ place)
    matrices = np.array(matrices)  # (C, 3, 4)
    weights = np.where(scores >= MIN_SCORE, scores, 0)
    known = np.nan_to_num(points)[..., None]  # (C, T, K, 2, 1)
    rows = [weights[c, ..., None] * (known[c, ..., axis, :] * matrices[c, 2] - matrices[c, axis])
            for c in range(len(cameras)) for axis in range(2)]
    homogeneous = np.linalg.svd(np.stack(rows, axis=-2))[2][..., -1, :]  # (T, K, 4)
    world = homogeneous[..., :3] / homogeneous[..., 3:]
    world[(weights > 0).sum(axis=0) < 2] = np.nan
    seen = np.einsum('cij,tkj->ctki', matrices, np.concatenate([world, np.ones_like(world[..., :1])], axis=-1))
    errors = np.linalg.norm(seen[..., :2] / seen[..., 2:] - points, axis=-1)
    return world, np.where(weights > 0, errors, np.nan)


def truth_of(folder: Path) -> tuple[list[dict], list[Path], np.ndarray, np.ndarray]:
    """Return (cameras, their folders, (T, J, 3) world points of JOINTS in metres, reprojection errors)."""
    cameras = read_cameras(next(folder.glob('*.qca.txt')))
    folders = sorted(folder.glob('*_json'))
    points, scores = [], []
    for path in folders:
        track = read_track(path)
        seen = (track.scores >= MIN_SCORE) & ~strays(track.points, track.scores >= MIN_SCORE)[:, None]
        points.append(track.points)
        scores.append(np.where(seen, track.scores, 0))
    kept = [BODY25B.joints.index(name) for name in JOINTS]
    world, errors = triangulate(cameras, np.stack(points)[:, :, kept], np.stack(scores)[:, :, kept])
    return cameras, folders, world, errors


def lift(source: Path, checkpoint: Path, camera: dict, picture: tuple[int, int], fps: float,
         flags: tuple[str, ...] = ()) -> dict:
    """Run --predict --trajectory on one camera's folder, or its video, and return its output's members.

    Args:
        flags: more of them.
    """
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / 'out.npz'
        told = ['--fps', str(fps), '--image-size', *map(str, picture)] if source.is_dir() else []
        with contextlib.redirect_stdout(io.StringIO()):
            status = run_ktpformer.main([
                '--evaluate', str(checkpoint), '--predict', str(source), '--output', str(output), *told,
                '--trajectory', '--intrinsics', *map(str, camera['lens']), *flags])
        if status:
            raise SystemExit(status)
        return read_npz(output)


def compare(lifted: dict, world: np.ndarray, camera: dict) -> dict:
    """Return the errors in mm of one camera's poses over frames with complete truth, and other figures of the poses."""
    names = list(lifted['joints'])
    kept = [names.index(name) for name in JOINTS]
    whole = np.isfinite(world).all(axis=(1, 2))
    truth = (world - camera['position']) @ camera['rotation'].T  # camera axes
    middle = [JOINTS.index('left_hip'), JOINTS.index('right_hip')]
    predicted, truth = (x - x[:, i].mean(axis=1, keepdims=True) for x, i in (
        (lifted['poses'][:, kept].astype(np.float64), middle), (truth, middle)))
    pair = torch.from_numpy(predicted[whole]), torch.from_numpy(truth[whole])
    root = (world[:, middle].mean(axis=1) - camera['position']) @ camera['rotation'].T
    away = np.linalg.norm(lifted['root'] - root, axis=-1)[whole]
    height = lifted['world'][..., 2]
    up = camera['rotation'][:, 2]  # the world's z in the camera's axes
    return {
        'frames': len(lifted['poses']), 'compared': int(whole.sum()),
        'p_mpjpe': _mean(metrics.p_mpjpe(*pair)), 'n_mpjpe': _mean(metrics.n_mpjpe(*pair)),
        'mpjpe': _mean(metrics.mpjpe(*pair)),
        'up_off_deg': {'level': _degrees(up, np.array([0, -1, 0])),
                       '--upright': _degrees(up, _up_of(lifted['poses'], names))},
        'jerk_m_s3': round(float(np.linalg.norm(np.diff(lifted['poses'], 3, axis=0), axis=-1).mean()
                                 * lifted['fps'] ** 3), 1),
        'upright': float((height[:, names.index('head')] > height[:, names.index('hip')]).mean()),
        'root_error_m': float(np.median(away)), 'distance_m': float(np.median(np.linalg.norm(root[whole], axis=-1))),
        'bones_mm': {bone: spread(lifted['poses'][:, names.index(a)] - lifted['poses'][:, names.index(b)])
                     for bone, (a, b) in BONES.items()}}


def _up_of(poses: np.ndarray, names: list[str]) -> np.ndarray | None:
    """Return which direction (3,) of the camera's axes --upright takes for up; None where it would be refused."""
    try:
        tilt, _ = tilt_of(poses, names.index('thorax'), (names.index('left_ankle'), names.index('right_ankle')))
    except ValueError:
        return None
    x, y, z = tilt[2]
    return np.array([x, -z, y])  # from the axes of a level camera's world


def _degrees(one: np.ndarray, other: np.ndarray | None) -> float | None:
    if other is None:
        return None
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    return round(float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))), 1)


def _mean(errors: torch.Tensor) -> float:
    return round(1000 * float(errors.mean()), 1)


def spread(bone: np.ndarray) -> list[float]:
    """Return [mean, standard deviation] of the length of a bone (T, 3), millimetres."""
    lengths = 1000 * np.linalg.norm(bone, axis=-1)
    return [round(float(lengths.mean()), 1), round(float(lengths.std()), 1)]


def measure(folder: Path, checkpoint: Path, picture: tuple[int, int], fps: float, videos: Path | None = None,
            flags: tuple[str, ...] = ()) -> dict:
    """Return all figures of a recording, lifted from OpenPose's keypoints or from those found in its videos."""
    cameras, folders, world, errors = truth_of(folder)
    by_camera = {}
    for camera, path in zip(cameras, sorted(videos.glob('cam*.mp4')) if videos else folders, strict=True):
        by_camera[path.name] = compare(lift(path, checkpoint, camera, picture, fps, flags), world, camera)
    index = {name: JOINTS.index(name) for name in JOINTS}
    return {
        'joints': JOINTS, 'reprojection_px': [round(float(np.nanpercentile(errors, q)), 1) for q in (50, 90)],
        'truth_bones_mm': {bone: spread((world[:, index[a]] - world[:, index[b]])[np.isfinite(world).all(axis=(1, 2))])
                           for bone, (a, b) in BONES.items()},
        'cameras': by_camera,
        **{name: round(float(np.mean([figures[name] for figures in by_camera.values()])), 1)
           for name in ('p_mpjpe', 'n_mpjpe', 'mpjpe', 'jerk_m_s3')}}


def main() -> None:
    """Run all measurements and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path)
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('--videos', type=Path)
    parser.add_argument('--smooth', type=float)
    parser.add_argument('--width', type=int, default=1088)
    parser.add_argument('--height', type=int, default=1920)
    parser.add_argument('--fps', type=float, default=60)
    args = parser.parse_args()
    flags = () if args.smooth is None else ('--smooth', str(args.smooth))
    print(json.dumps(measure(args.folder, args.checkpoint, (args.width, args.height), args.fps, args.videos, flags),
                     indent=1))


if __name__ == '__main__':
    main()
