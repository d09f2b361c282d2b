"""The latency of lifting live footage: the time from the keypoints of a new frame to its pose."""

import time

import numpy as np

from common.models.lifter import Lifter
from common.models.lifting import predictions
from common.sampler import TestWindows
from common.store import SequenceStore

FRAMES = 200
WARM_UP = 10  # frames that are not timed


def latency(model: Lifter, store: SequenceStore, flip: bool) -> str:
    """Lift 200 frames one at a time, each from the window that ends at it, and say how long one takes.

    Mirrored and averaged where evaluation is (`flip`), and back on the CPU; without reading, detecting or
    drawing anything.
    """
    windows = TestWindows.of(store, model.frames, target='last', answers=model.answers, spacing=model.spacing)
    seconds = []
    for index in range(WARM_UP + FRAMES):
        window = windows.one(index % len(windows))
        begun = time.perf_counter()
        for poses in predictions(model, store, window, flip=flip).values():
            poses.cpu()
        seconds.append(time.perf_counter() - begun)
    median, slow = np.percentile(1000 * np.array(seconds[WARM_UP:]), [50, 99])
    return (f'latency on {store.device.type}, one frame at a time over {FRAMES} frames: median {median:.1f} ms, 99th '
            f'percentile {slow:.1f} ms')
