"""One person's keypoints as they come from a camera: what `clip.py` does with a whole clip, from earlier frames alone.

Letters: T frames that are kept, K keypoints of the detector, L of the lifter.
"""

from collections import deque
from typing import NamedTuple

import numpy as np

from common.geometry.camera import normalise
from common.keypoints.clip import centre_of, confidence_of, path_of, seen_themselves, usual_zoom
from common.keypoints.gaps import fill
from common.keypoints.layouts import conversion, stature
from common.skeleton import Skeleton

KEPT = 2.0  # seconds at least that are kept, over which the person's size is a median
HELD = 1.0  # seconds for which a keypoint that is not seen stays where it was, and after which an absent person is gone


class _Row(NamedTuple):
    """A frame: (K, 2) pixels, (K,) scores, which keypoints count as known and as seen, when it was."""

    points: np.ndarray
    scores: np.ndarray
    known: np.ndarray
    seen: np.ndarray
    seconds: float


class Newest(NamedTuple):
    """What is known at the newest frame, which is the last of T.

    Attributes:
        screen: (T, L, 2) float32 normalised screen coordinates, at the size that lifters are used to.
        confidence: (T, L) float32, as `Clip.confidence`.
        pixels, seen: (L, 2) float32 and (L,) bool of the newest frame, as in `Clip`.
        zoom: by how much the person was scaled.
    """

    screen: np.ndarray
    confidence: np.ndarray
    pixels: np.ndarray
    seen: np.ndarray
    zoom: float


class Stream:
    """The frames of the last seconds, of one person.

    Attributes:
        made: the lifter's keypoints that are combined from others: name -> their names.
    """

    def __init__(self, wanted: Skeleton, given: Skeleton, size: tuple[float, float], frames: int, zoom: float | None,
                 min_score: float, any_size: bool = False):
        """Begin without any frame.

        Args:
            wanted, given: the layouts of the lifter and of the detector.
            size: (width, height) of the pictures. frames: as many are kept at least.
            zoom: factor that the person is scaled by; None for what brings them to the size of people trained on.
            min_score: keypoints with less are not seen.
            any_size: whether the lifter was trained on people of any size and place in the picture.

        Raises FileError where the detector has nothing that can stand for a keypoint of the lifter.
        """
        self.wanted, self.given, self.size, self.frames = wanted, given, size, frames
        self.zoom, self.min_score, self.any_size = zoom, min_score, any_size
        self.matrix, self.made = conversion(wanted, given, np.ones(len(given), bool))
        self.rows: deque[_Row] = deque()
        self._last_seen = np.full(len(given), -np.inf)  # seconds

    def add(self, person: np.ndarray | None, seconds: float) -> Newest | None:
        """Take in a frame, (K, 3) x, y in pixels and score, or None where nobody was seen, for which None comes back.

        A keypoint that is not seen stays where it was for HELD seconds; then the detector's guess is taken, which moves
        with the body. Frames without anybody are interpolated once the person is back within HELD seconds; else, and
        where no frame came for as long, what was kept is forgotten.

        Args:
            seconds: when it was, later than all before.
        """
        if self.rows and seconds - (self._last_seen.max() if person is None else self.rows[-1].seconds) > HELD:
            self.clear()
        if person is None:
            if self.rows:
                nothing = np.zeros(len(self.given), bool)
                self._keep(_Row(np.full((len(self.given), 2), np.nan), np.zeros(len(self.given)), nothing, nothing,
                                seconds))
            return None
        points, scores = person[:, :2], person[:, 2]
        seen = (scores > 0) & (scores >= self.min_score)
        self._last_seen[seen] = seconds
        self._keep(_Row(points, scores, seen | (seconds - self._last_seen > HELD), seen, seconds))
        return self._newest()

    def clear(self) -> None:
        """Forget all frames."""
        self.rows.clear()
        self._last_seen[:] = -np.inf

    def _keep(self, row: _Row) -> None:
        self.rows.append(row)
        while len(self.rows) > self.frames and row.seconds - self.rows[0].seconds > KEPT:
            self.rows.popleft()

    def _newest(self) -> Newest:
        points, scores, known, seen = (np.array(part) for part in zip(*(row[:4] for row in self.rows), strict=True))
        times = [row.seconds for row in self.rows]
        pixels = np.einsum('lk,tkc->tlc', self.matrix, fill(points, known))
        recent = np.array(times) >= times[-1] - KEPT
        zoom = self.zoom
        if zoom is None:
            zoom = usual_zoom(stature(normalise(np.where(seen[..., None], points, np.nan)[recent], *self.size),
                                      self.given), self.any_size)
        fps = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 1.0
        middle = centre_of(normalise(path_of(pixels, self.wanted, fps), *self.size), zoom)
        screen = zoom * (normalise(pixels, *self.size) - middle[:, None])
        return Newest(screen.astype(np.float32), confidence_of(scores, seen, self.matrix).astype(np.float32),
                      pixels[-1].astype(np.float32), seen_themselves(seen[-1:], self.wanted, self.given, self.made)[0],
                      zoom)
