"""Less jitter: low-pass filters of places over time, one for whole clips and one that knows no later frame.

Letters: T frames.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

Smoother = Callable[[np.ndarray], np.ndarray]  # (T, ..., 3) metres to the same, smoothed
SPEED_CUTOFF = 1.0  # Hz; of the speed in a One-Euro filter, as published
OPENING = 2.0  # Hz for each m/s of speed: a hand that is thrown at 5 m/s is followed with 10 Hz more


def smoother(hertz: float, fps: float, causal: bool) -> tuple[Smoother, str]:
    """Return a filter of places that come at `fps` frames per second, and what it is, in words.

    Raises ValueError where such frames hold nothing as fast as `hertz`.
    """
    if causal:
        return partial(one_euro, hertz=hertz, fps=fps), one_euro_in_words(hertz)
    if hertz >= fps / 2:
        raise ValueError(f'expected less than half of the frames per second, {fps / 2:g} Hz, got {hertz:g}')
    return partial(low_pass, hertz=hertz, fps=fps), f'zero-phase Butterworth low-pass of order 4, {hertz:g} Hz'


def one_euro_in_words(hertz: float) -> str:
    """Return what the One-Euro filter is."""
    return f'One-Euro filter, {hertz:g} Hz at rest and {OPENING:g} Hz more for each m/s'


def low_pass(places: np.ndarray, hertz: float, fps: float) -> np.ndarray:
    """Return places (T, ..., 3) without what is faster than `hertz`, without delay, in their dtype.

    A Butterworth filter of order 2 runs forwards and backwards, which makes order 4; its own cut-off is raised such
    that both together halve the power at `hertz` (Winter, Biomechanics and Motor Control of Human Movement). Past both
    ends, the clip is continued by its own reflection in its last frame. Clips of one frame stay as they are.
    """
    from scipy.signal import butter, sosfiltfilt  # which takes a moment to import

    frames = len(places)
    if frames < 2:
        return places
    raised = np.arctan(np.tan(np.pi * hertz / fps) / (np.sqrt(2) - 1) ** 0.25) / np.pi  # cycles a frame, below 1/2
    beyond = min(frames - 1, max(15, int(np.ceil(3 * fps / hertz))))
    sections = butter(2, 2 * raised, output='sos')
    return sosfiltfilt(sections, places.astype(np.float64), axis=0, padlen=beyond).astype(places.dtype)


def one_euro(places: np.ndarray, hertz: float, fps: float) -> np.ndarray:
    """Return places (T, ..., 3) smoothed frame by frame from those before, in their dtype: see `OneEuro`."""
    newest = OneEuro(hertz)
    return np.array([newest(place, 1 / fps) for place in places], places.dtype).reshape(places.shape)


class OneEuro:
    """The One-Euro filter of Casiez et al., CHI 2012, which is given one frame after another.

    An exponential average whose cut-off is `hertz` at rest, and rises with the speed of each point in m/s.
    """

    def __init__(self, hertz: float):
        self.hertz = hertz
        self._before: np.ndarray | None = None

    def __call__(self, places: np.ndarray, passed: float) -> np.ndarray:
        """Return places (..., 3) of a frame smoothed, float64; the first frame as it is.

        Args:
            passed: seconds since the frame before.
        """
        places = places.astype(np.float64)
        if self._before is None:
            self._before = self._smooth = places
            self._speed = np.zeros_like(places)
            return places
        moved = (places - self._before) / passed
        self._speed = self._speed + _share(SPEED_CUTOFF, 1 / passed) * (moved - self._speed)
        cutoff = self.hertz + OPENING * np.linalg.norm(self._speed, axis=-1, keepdims=True)
        self._smooth = self._smooth + _share(cutoff, 1 / passed) * (places - self._smooth)
        self._before = places
        return self._smooth


def _share(cutoff: float | np.ndarray, fps: float) -> float | np.ndarray:
    """Return the share of a new value in an exponential average with this cut-off in Hz."""
    return 1 / (1 + fps / (2 * np.pi * cutoff))
