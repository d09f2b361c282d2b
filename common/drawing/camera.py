"""A camera, or a video that is played as if it were one: the newest picture, whenever it is asked for."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from common.drawing.video import Film
from common.errors import FileError

PATIENCE = 0.02  # seconds of waiting for a picture after which what else there is to do is done
UNKNOWN_FPS = 30.0


class Picture(NamedTuple):
    """A picture that a camera took.

    Attributes:
        image: (H, W, 3) uint8. number: of all that came, from 0.
        seconds: when it was taken, from the first one on. arrived: when it came, by `time.perf_counter`.
    """

    image: np.ndarray
    number: int
    seconds: float
    arrived: float


class Camera:
    """Reads a film in a thread, and keeps no picture but the newest: one that nobody takes in time is dropped.

    Attributes:
        dropped: how many were.
    """

    def __init__(self, film: Film, paced: bool):
        """Begin to read; `paced` plays a file at its own speed, as a device gives its pictures by itself."""
        self.dropped = 0
        self._film, self._paced = film, paced
        self._changed, self._stopped = threading.Condition(), threading.Event()
        self._newest: Picture | None = None
        self._over, self._error = False, ''
        self._at = -1.0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        error = ''
        try:
            for number, image in enumerate(self._film.frames):
                seconds = self._seconds(number)
                if number == 0:
                    began = time.perf_counter()
                if self._stopped.wait(max(0, began + seconds - time.perf_counter()) if self._paced else 0):
                    break
                with self._changed:
                    self.dropped += self._newest is not None
                    self._newest = Picture(image, number, seconds, time.perf_counter())
                    self._changed.notify()
        except FileError as broken:
            error = str(broken)
        finally:
            with self._changed:
                self._over, self._error = True, error
                self._changed.notify()

    def _seconds(self, number: int) -> float:
        """Return when the picture of this number was taken: as its time stamp says where that is later than those
        before, else evenly.
        """
        at, first, apart = self._film.times[number], self._film.times[0], 1 / (self._film.fps or UNKNOWN_FPS)
        if at is not None and first is not None and at - first > self._at:
            self._at = at - first
        else:
            self._at = max(number * apart, self._at + apart)
        return self._at

    def pictures(self, ended: Callable[[], bool]) -> Iterator[Picture]:
        """Yield the newest picture, each once, to the last one, or until `ended`, which is asked all the while.

        Raises FileError where the film cannot be read on.
        """
        while not ended():
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._over, PATIENCE)
                picture, self._newest = self._newest, None
                over, error = self._over, self._error
            if picture is not None:
                yield picture
            elif error:
                raise FileError(error)
            elif over:
                return

    def stop(self) -> None:
        """End the reading, which is over when this returns."""
        self._stopped.set()
        self._thread.join()


@contextmanager
def running(film: Film, paced: bool) -> Iterator[Camera]:
    """Yield the Camera of a film, and stop it at the end of the block, before the film may be closed."""
    camera = Camera(film, paced)
    try:
        yield camera
    finally:
        camera.stop()
