"""A window that shows what a camera sees, the keypoints found in it, and the pose, as they come."""

from typing import Any

import numpy as np
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image

from common.drawing.pictures import MotionPicture
from common.skeleton import Skeleton

BACKENDS = ('TkAgg', 'QtAgg', 'macosx')  # of matplotlib, those that draw with Agg on a screen
SIZE = 5.0  # height of the window in units of 100 pixels
LARGEST = 600  # pixels of the longer side of a picture, about as many as are shown
ROOM = 1, 0, 2  # metres from below the root: the far corner of what the view of the pose shows


def screen_backend() -> str | None:
    """Return the first of matplotlib's backends that finds a screen here; None where there is none."""
    for name in BACKENDS:
        try:
            pyplot.switch_backend(name)
        except ImportError:  # what it stands on is not installed, or there is no screen
            continue
        return name
    return None


class Window:
    """The window; make it after `screen_backend` has found a screen, and only in the main thread.

    Attributes:
        closed: whether the user, or `close`, closed it.
    """

    def __init__(self, skeleton: Skeleton, layout: Skeleton, size: tuple[int, int], title: str, azimuth: float):
        """Open it.

        Args:
            skeleton, layout: of the poses, and of the keypoints.
            size: (width, height) of the camera's pictures. title: stands at the top. azimuth: as in `render_motion`.
        """
        self.closed, self._root = False, skeleton.root
        self._shrink = max(1, round(max(size) / LARGEST))
        # What is shown is always the one frame of these two; the first pose says how large the view is.
        self._pose = np.zeros((1, len(skeleton), 3), np.float32)
        self._pose[0, skeleton.root - 1] = ROOM
        self._keypoints = np.full((1, len(layout), 2), np.nan)
        self._picture = MotionPicture(skeleton, {'pose': self._pose}, None, self._keypoints, layout, size, title,
                                      azimuth, SIZE, filmed=True, new_figure=self._new_figure)
        self._canvas = self._picture.canvas
        if self._picture.image is not None:
            self._picture.image.set_interpolation('nearest')  # at half the price of the whole window
        self._canvas.mpl_connect('close_event', self._close)
        self._canvas.mpl_connect('resize_event', lambda _: self._picture.draw_background())
        if self._canvas.manager is not None:
            self._canvas.manager.show()

    @staticmethod
    def _new_figure(**size: Any) -> Figure:
        with pyplot.rc_context({'toolbar': 'None'}):
            return pyplot.figure(**size)

    def _close(self, _: Any) -> None:
        self.closed = True

    def show(self, image: np.ndarray, number: int, keypoints: np.ndarray | None, pose: np.ndarray | None) -> None:
        """Show a picture (H, W, 3), keypoints (L, 2) in pixels, and a pose (J, 3), metres, z up; None of nobody."""
        if self.closed:
            return
        if keypoints is None or pose is None:
            self._keypoints[0] = np.nan
            self._pose[0, np.arange(len(self._pose[0])) != self._root] = np.nan  # what the view is centred on stays
        else:
            self._keypoints[0], self._pose[0] = keypoints, pose
        self._picture.numbers[0] = number
        with np.errstate(invalid='ignore'):  # of what is not drawn
            self._picture.draw(0, np.asarray(Image.fromarray(image).reduce(self._shrink).convert('RGBA')))
        self._canvas.blit(self._picture.figure.bbox)
        self.respond()

    def respond(self) -> None:
        """Answer what the user does with the window."""
        if not self.closed:
            self._canvas.flush_events()

    def close(self) -> None:
        """Take it off the screen."""
        self.closed = True
        pyplot.close(self._picture.figure)
