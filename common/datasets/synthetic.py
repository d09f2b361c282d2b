"""An articulated figure in smooth random motion: a data set that needs no file, made in memory from a seed.

It lets a fresh machine run the whole program. Numbers measured on it say nothing about people.
"""

from pathlib import Path

import numpy as np

from common.datasets.poses import PoseDataset
from common.datasets.virtual_cameras import project_all, simulate_detections, surround
from common.skeleton import H36M

FPS = 50
SEED = 1
SUBJECTS_TRAIN = ('S1', 'S2', 'S3', 'S4')
SUBJECTS_TEST = ('S5', 'S6')
TAKES = ('', ' 1')
FRAMES = 220

# Offset of each joint from its parent in the rest pose, metres: x right, y forward, z up.
REST = {
    'right_hip': (0.13, 0, 0), 'right_knee': (0, 0, -0.44), 'right_ankle': (0, 0, -0.42),
    'left_hip': (-0.13, 0, 0), 'left_knee': (0, 0, -0.44), 'left_ankle': (0, 0, -0.42),
    'spine': (0, 0, 0.24), 'thorax': (0, 0, 0.25), 'neck': (0, 0.04, 0.10), 'head': (0, 0, 0.12),
    'left_shoulder': (-0.15, 0, 0), 'left_elbow': (0, 0, -0.28), 'left_wrist': (0, 0, -0.25),
    'right_shoulder': (0.15, 0, 0), 'right_elbow': (0, 0, -0.28), 'right_wrist': (0, 0, -0.25),
}
# action -> joint -> (mean, amplitude) of its rotation about x (forward) and y (sideways, to the right), radians. Each
# joint rotates the bones that start at it; `hip` rotates the trunk.
ACTIONS = {
    'Walking': {'hip': ((0.0, 0.05), (0.0, 0.03)),
                'right_hip': ((0.1, 0.5), (0, 0.05)), 'left_hip': ((0.1, 0.5), (0, 0.05)),
                'right_knee': ((-0.5, 0.4), (0, 0)), 'left_knee': ((-0.5, 0.4), (0, 0)),
                'right_shoulder': ((0.0, 0.5), (0.1, 0.1)), 'left_shoulder': ((0.0, 0.5), (-0.1, 0.1)),
                'right_elbow': ((0.5, 0.3), (0, 0)), 'left_elbow': ((0.5, 0.3), (0, 0))},
    'Waving': {'hip': ((0.0, 0.1), (0.0, 0.1)), 'right_shoulder': ((0.3, 0.4), (1.6, 0.6)),
               'left_shoulder': ((0.3, 0.4), (-0.4, 0.5)), 'right_elbow': ((1.0, 0.7), (0, 0.3)),
               'left_elbow': ((0.8, 0.6), (0, 0.3))},
    'Squatting': {'hip': ((-0.4, 0.3), (0.0, 0.05)), 'right_hip': ((1.0, 0.7), (0.15, 0.1)),
                  'left_hip': ((1.0, 0.7), (-0.15, 0.1)), 'right_knee': ((-1.2, 0.8), (0, 0)),
                  'left_knee': ((-1.2, 0.8), (0, 0)), 'right_shoulder': ((0.8, 0.5), (0.2, 0.2)),
                  'left_shoulder': ((0.8, 0.5), (-0.2, 0.2)), 'right_elbow': ((0.4, 0.3), (0, 0)),
                  'left_elbow': ((0.4, 0.3), (0, 0))},
    'Reaching': {'hip': ((-0.3, 0.4), (0.0, 0.3)), 'spine': ((-0.1, 0.2), (0, 0.2)),
                 'right_shoulder': ((1.2, 0.9), (0.5, 0.5)), 'left_shoulder': ((1.2, 0.9), (-0.5, 0.5)),
                 'right_elbow': ((0.6, 0.5), (0, 0.2)), 'left_elbow': ((0.6, 0.5), (0, 0.2)),
                 'right_knee': ((-0.2, 0.15), (0, 0)), 'left_knee': ((-0.2, 0.15), (0, 0))},
}
KEYPOINTS = ('gt', 'noisy')


def load(folder: Path, keypoints: str) -> PoseDataset:
    """Make the data set without reading the folder. `noisy` keypoints have Gaussian noise of 5 pixels."""
    random = np.random.default_rng(SEED)
    positions, detections, cameras = {}, {}, {}
    for subject in SUBJECTS_TRAIN + SUBJECTS_TEST:
        size = random.uniform(0.9, 1.1)
        positions[subject] = {
            action + take: motion(action, size, FRAMES, random) for action in ACTIONS for take in TAKES
        }
        cameras[subject] = surround(list(positions[subject].values()))
        detections[subject] = {
            take: project_all(joints, cameras[subject]) for take, joints in positions[subject].items()
        }
    if keypoints == 'noisy':
        detections = {subject: {take: simulate_detections(views, random) for take, views in takes.items()}
                      for subject, takes in detections.items()}
    return PoseDataset(
        name='synthetic', keypoints=keypoints, skeleton=H36M, layout=H36M, fps=FPS, positions=positions,
        detections=detections, cameras=cameras, subjects_train=SUBJECTS_TRAIN, subjects_test=SUBJECTS_TEST,
        source_3d='the synthetic motion', source_2d='its 2D')


def motion(action: str, size: float, frames: int, random: np.random.Generator) -> np.ndarray:
    """Return one take (frames, 17, 3), float32 metres: the figure turns and moves smoothly, its lowest joint at z = 0.

    Args:
        action: key of ACTIONS.
        size: factor on all bone lengths.
    """
    time = np.arange(frames) / FPS
    tempo = random.uniform(0.6, 1.0)
    turns = {joint: [_wave(time, mean, amplitude, tempo, random) for mean, amplitude in axes]
             for joint, axes in ACTIONS[action].items()}
    heading = random.uniform(-np.pi, np.pi) + _wave(time, 0, 0.8, 0.15, random)
    rotation = {0: _about(2, heading)}
    place = {0: np.zeros((frames, 3))}
    for joint, parent in H36M.edges:
        name, parent_name = H36M.joints[joint], H36M.joints[parent]
        forward, sideways = turns.get(parent_name, (0 * time, 0 * time))
        if parent_name == 'hip' and name != 'spine':
            forward, sideways = 0 * time, 0 * time  # the trunk leans, the legs stay
        local = _about(0, forward) @ _about(1, -sideways)
        rotation[joint] = rotation[parent] @ local
        place[joint] = place[parent] + size * (rotation[joint] @ np.array(REST[name]))
    joints = np.stack([place[joint] for joint in range(len(H36M))], axis=1)
    path = np.stack([_wave(time, 0, 0.4, 0.1, random), _wave(time, 0, 0.4, 0.1, random)], axis=-1)
    joints[..., :2] += path[:, None]
    joints[..., 2] -= joints[..., 2].min(axis=1, keepdims=True)
    return joints.astype(np.float32)


def _wave(time: np.ndarray, mean: float, amplitude: float, frequency: float,
          random: np.random.Generator) -> np.ndarray:
    """Return a smooth random curve (T,): three sines of related frequencies around a mean, within about ±amplitude."""
    frequencies = frequency * np.array([0.7, 1.0, 1.6]) * random.uniform(0.9, 1.1, 3)
    phases = random.uniform(0, 2 * np.pi, 3)
    waves = np.sin(2 * np.pi * frequencies * time[:, None] + phases)
    return mean + amplitude * waves @ np.array([0.35, 0.45, 0.2])


def _about(axis: int, angle: np.ndarray) -> np.ndarray:
    """Return rotation matrices (T, 3, 3) about a coordinate axis by the angles (T,), radians."""
    c, s = np.cos(angle), np.sin(angle)
    matrix = np.zeros((len(angle), 3, 3))
    a, b = (axis + 1) % 3, (axis + 2) % 3
    matrix[:, axis, axis] = 1
    matrix[:, a, a], matrix[:, a, b], matrix[:, b, a], matrix[:, b, b] = c, -s, s, c
    return matrix
