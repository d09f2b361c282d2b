"""What lifting live footage takes: the time from the keypoints of a new frame to its pose."""

import time
from dataclasses import replace

import numpy as np
import torch

from common.evaluation.evaluate import TestWindows, predict
from common.sampler import SequenceStore

FRAMES = 200
WARM_UP = 10  # frames that are not timed


def latency(model: torch.nn.Module, store: SequenceStore, windows: TestWindows) -> str:
    """Lift 200 frames one at a time, each from the window that ends at it, and say how long one takes.

    Mirrored and averaged as in evaluation, and back on the CPU; without reading, detecting or drawing anything.
    """
    seconds = []
    for index in range(WARM_UP + FRAMES):
        one = torch.tensor([index % len(windows.sequence)], device=store.device)
        parts = ('sequence', 'start', 'rows', 'first', 'frame')
        window = replace(windows, **{name: getattr(windows, name)[one] for name in parts})
        begun = time.perf_counter()
        predict(model, store, window).cpu()
        seconds.append(time.perf_counter() - begun)
    median, slow = np.percentile(1000 * np.array(seconds[WARM_UP:]), [50, 99])
    return (f'latency on {store.device.type}, one frame at a time over {FRAMES} frames: median {median:.1f} ms, 99th '
            f'percentile {slow:.1f} ms')
