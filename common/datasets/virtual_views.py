"""A data set as virtual cameras see it, the same ones every time: what a training by random views is judged on."""

import math
import zlib
from dataclasses import replace

import numpy as np
import torch

from common.datasets import DATASETS
from common.datasets.poses import PoseDataset
from common.errors import FlagError
from common.geometry import quaternion
from common.geometry.camera import Camera
from common.noise import DetectorNoise
from common.sequences import Sequence
from common.skeleton import Skeleton
from common.views import PITCH, VirtualCameras, draw_cameras, rotation

CAMERAS = 4  # of each take; the range of pitch is shared out among them, the first one looks up the most
SEED = 17  # of the cameras and of the noise, whatever the seed of a training
WIDTH = 1000  # pixels of the pictures


def seen_anew(dataset: PoseDataset, layout: Skeleton, noise: bool) -> PoseDataset:
    """Return the data set with `CAMERAS` fixed virtual cameras for each take, in place of those of its files.

    Args:
        layout: of the keypoints.
        noise: whether a detector's noise is on them, and they have its confidence.

    Raises FlagError for a data set whose world does not tell which way is up, or whose joints do not tell the layout.
    """
    if not dataset.upright:
        raise FlagError(f'--views random: {dataset.name} does not tell which way is up; take a data set that does, or '
                        f'say --views file')
    if dataset.flat:
        raise FlagError('--views random: its cameras see joints in 3D, which --joints keypoints does without')
    cpu = torch.device('cpu')
    try:
        cameras = VirtualCameras(dataset.skeleton, layout, cpu)
    except ValueError as error:
        raise FlagError(f'--views random: {error}') from None
    detector = DetectorNoise(layout, cpu) if noise else None
    lengthened = DATASETS[dataset.name].lengthened
    factors = torch.tensor([[lengthened.get(name.split('_')[-1], 1) for name in dataset.skeleton.joints]])

    def anew(subject: str, take: str, positions: np.ndarray) -> list[Sequence]:
        # Its own numbers for each take, so that they do not depend on which others are selected.
        numbers = torch.Generator().manual_seed((SEED << 32) + zlib.crc32(f'{subject} {take}'.encode()))
        moving = torch.tensor(positions)[None]
        if lengthened:
            moving = cameras.grown(moving, factors)
        return [_sequence(subject, take, number, moving, cameras, detector, numbers) for number in range(CAMERAS)]

    keypoints = f"{layout.name} seen by virtual cameras{', with noise' if noise else ''}"
    return replace(dataset, keypoints=keypoints, layout=layout, anew=anew, source_2d='what virtual cameras see')


def _sequence(subject: str, take: str, number: int, moving: torch.Tensor, cameras: VirtualCameras,
              detector: DetectorNoise | None, numbers: torch.Generator) -> Sequence:
    """Return a take (1, T, J, 3) as the virtual camera of this number sees it, the body in its own size."""
    low, high = PITCH
    pitch = low + (high - low) / CAMERAS * number, low + (high - low) / CAMERAS * (number + 1)
    drawn = draw_cameras(1, numbers, pitch)
    drawn = drawn._replace(scale=torch.ones(1), lengths=torch.ones_like(drawn.lengths))
    errors = None if detector is None else detector.draw(1, moving.shape[1], numbers)
    seen = cameras.see(moving, drawn)
    keypoints = seen.keypoints if detector is None or errors is None else detector(seen.keypoints, errors)
    joints, found = seen.joints[0].numpy(), keypoints[0].numpy()
    upright = rotation(drawn)[0].T.double().numpy()
    root = joints[:, cameras.root]
    place = moving.double().mean(dim=(0, 1, 2)).numpy() - upright @ joints.reshape(-1, 3).mean(axis=0, dtype=np.float64)
    camera = Camera(quaternion.from_matrix(upright).astype(np.float32), place.astype(np.float32), WIDTH,
                    math.ceil(WIDTH * float(drawn.aspect)), seen.intrinsic[0].numpy())
    return Sequence(subject, take, number, np.ascontiguousarray(found[..., :2]), joints - root[:, None], root,
                    camera.intrinsic, confidence=None if detector is None else np.ascontiguousarray(found[..., 2]),
                    upright=upright.astype(np.float32), seen_by=camera)
