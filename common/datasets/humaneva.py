"""HumanEva-I in VideoPose3D's npz layout: 15 or 20 joints, three cameras for each subject, known only by place.

`Train/S1` and `Validate/S1` are two parts of the same takes of S1: the data set's own split. A take is cut into chunks,
`Walking 1 chunk0`, where frames have no pose. Files of detections also hold `Unlabeled/...` subjects, which have no 3D.
"""

from functools import partial
from pathlib import Path

import numpy as np

from common.datasets.poses import Count, PoseDataset, keypoint_layout, read_detections, read_positions
from common.geometry.camera import Camera
from common.skeleton import HUMANEVA15, HUMANEVA20, Skeleton

SPLITS = ('Train', 'Validate')
SUBJECTS_TRAIN = ('Train/S1', 'Train/S2', 'Train/S3')
SUBJECTS_TEST = ('Validate/S1', 'Validate/S2', 'Validate/S3')
FPS = 60
WIDTH, HEIGHT = 640, 480

# subject -> per camera C1, C2, C3 (quaternion camera to world, position in millimetres). S4 was never calibrated.
PLACES = {
    'S1': (
        ((0.424207, -0.4983646, -0.5802981, 0.4847012), (4062.227, 663.2477, 1528.397)),
        ((0.6503354, -0.7481602, -0.0919284, 0.0941766), (844.8131, -3805.2092, 1504.9929)),
        ((0.0664734, -0.0690535, 0.7416416, -0.6639132), (-797.67377, 3916.3174, 1433.6602)),
    ),
    'S2': (
        ((0.4214752, -0.4961493, -0.5838273, 0.4851187), (4112.9121, 626.4929, 1545.2988)),
        ((0.6501393, -0.7476588, -0.0954617, 0.0959808), (923.574, -3877.9243, 1504.5518)),
        ((0.0699353, -0.0712403, 0.7421637, -0.662742), (-781.4915, 3838.8853, 1444.9929)),
    ),
    'S3': (
        ((0.424207, -0.4983646, -0.5802981, 0.4847012), (4062.2271, 663.2477, 1528.397)),
        ((0.6503354, -0.7481602, -0.0919284, 0.0941766), (844.8131, -3805.2092, 1504.9929)),
        ((0.0664734, -0.0690535, 0.7416416, -0.6639132), (-797.6738, 3916.3174, 1433.6602)),
    ),
}
CAMERAS = {
    f'{split}/{subject}': [Camera(np.asarray(orientation, np.float32), np.asarray(place, np.float32) / 1000, WIDTH,
                                  HEIGHT) for orientation, place in places]
    for split in SPLITS for subject, places in PLACES.items()
}

UNPLACED = [Camera(np.array([1, 0, 0, 0], np.float32), np.zeros(3, np.float32), WIDTH, HEIGHT)] * 3

# subject -> take -> start and end of the training part in the video's synchronised frames. The validation part lies
# before it, from frame FIRST. S3's ThrowCatch is in neither, because its stream is damaged.
TRAINING = {
    'S1': {'Walking 1': (590, 1203), 'Jog 1': (367, 740), 'ThrowCatch 1': (473, 945), 'Gestures 1': (395, 801),
           'Box 1': (385, 789)},
    'S2': {'Walking 1': (438, 876), 'Jog 1': (398, 795), 'ThrowCatch 1': (550, 1128), 'Gestures 1': (500, 901),
           'Box 1': (382, 734)},
    'S3': {'Walking 1': (448, 939), 'Jog 1': (401, 842), 'Gestures 1': (533, 1102), 'Box 1': (512, 1021)},
}
FIRST = 5
# (split/subject, take) -> its frames [start, end)
RANGES = {(f'{split}/{subject}', take): (start, end) if split == 'Train' else (FIRST, start)
          for split in SPLITS for subject, takes in TRAINING.items() for take, (start, end) in takes.items()}


def load(folder: Path, keypoints: str, skeleton: Skeleton) -> PoseDataset:
    """Read `data_3d_<skeleton>.npz` and `data_2d_<skeleton>_<keypoints>.npz` of a folder.

    Detections of videos without 3D can only be drawn; the cameras of a subject may have no known place (S4).
    Raises FileError for a file that is missing, broken or of another form.
    """
    name = skeleton.name
    path_3d, path_2d = folder / f'data_3d_{name}.npz', folder / f'data_2d_{name}_{keypoints}.npz'
    positions, _ = read_positions(path_3d, len(skeleton))
    detections, layout = read_detections(path_2d, keypoint_layout(keypoints, skeleton))
    unlabeled = {subject: detections.pop(subject) for subject in list(detections) if subject.startswith('Unlabeled/')}
    cameras = {subject: CAMERAS.get(f'Train/{subject.split("/")[-1]}', UNPLACED) for subject in unlabeled}
    return PoseDataset(
        name=name, keypoints=keypoints, skeleton=skeleton, layout=layout, fps=FPS, positions=positions,
        detections=detections, unlabeled=unlabeled, cameras=CAMERAS | cameras, subjects_train=SUBJECTS_TRAIN,
        subjects_test=SUBJECTS_TEST, source_3d=str(path_3d),
        source_2d=str(path_2d))


load15 = partial(load, skeleton=HUMANEVA15)
load20 = partial(load, skeleton=HUMANEVA20)


def counts(dataset: PoseDataset) -> list[Count]:
    """Count the frames of each take, beside the frames of its part of the split, of which some have no pose."""
    found = dict.fromkeys(RANGES, 0)
    for subject, takes in dataset.positions.items():
        for take, motion in takes.items():
            key = subject, take.partition(' chunk')[0]
            found[key] = found.get(key, 0) + len(motion)
    known = {key: end - start for key, (start, end) in RANGES.items()}
    return [Count(f'frames of {subject} {take}', frames, known.get((subject, take), 0), at_most=True)
            for (subject, take), frames in found.items()]
