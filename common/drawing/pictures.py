"""Pictures of moving people: films, and strips of a few moments, drawn with matplotlib.

Letters: T frames, J joints, K keypoints.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon
from matplotlib.text import Text
from tqdm import tqdm

from common.drawing.look import (
    ELEVATION,
    FAINT,
    GHOST,
    LEFT,
    MIDDLE,
    RIGHT,
    SHOWN,
    TILE,
    TRUTH,
    People,
    around,
    bones_of,
    centres_of,
    check_panels,
    crowd,
    extent,
    panel_errors,
    viewed_from,
)
from common.drawing.video import write_film
from common.errors import FileError
from common.skeleton import Skeleton
from common.storage.files import one_line

ArtistT = TypeVar('ArtistT', bound=Artist)

FLOOR, GRID = '#F3F3F3', '#D5D5D5'
DPI = 100
STRIP = 5  # moments in a PNG


def render_motion(output: Path, skeleton: Skeleton, panels: dict[str, np.ndarray], fps: float, *,
                  truth: np.ndarray | None = None, keypoints: np.ndarray | None = None, layout: Skeleton | None = None,
                  picture_size: tuple[float, float] | None = None, video: Iterable[np.ndarray] | None = None,
                  title: str = '', azimuth: float = 70, size: float = 4, limit: int | None = None, step: int = 1,
                  bitrate: int | None = None, numbers: np.ndarray | None = None,
                  hypotheses: np.ndarray | None = None, people: People | None = None) -> int:
    """Write a film (.gif, .mp4) of moving poses, or a PNG strip of a few moments; return the number of frames drawn.

    Memory does not grow with the length: each frame is drawn, written and dropped.

    Args:
        skeleton: layout of the J joints of the poses.
        panels: name -> (T, J, 3) poses in metres, z up, floor at 0; each gets a view that follows its root, or the
            root of the truth where there is one.
        truth: (T, J, 3) likewise. It gets a panel of its own and is a grey ghost behind the other panels, which also
            show their error in millimetres.
        keypoints: (T, K, 2) 2D input in pixels, of `layout`, in pictures of `picture_size` = (width, height).
        video: (H, W, 3) uint8 frames, one for each frame of the poses; the film ends with the shorter of the two.
        title: a line of text at the top.
        azimuth: degrees from the x axis to where the viewer stands.
        size: height of the film in units of 100 pixels, which is also the width of a panel.
        limit, step: draw every step-th of the first `limit` frames.
        bitrate: of an MP4, kilobits a second.
        numbers: (T,) what each frame is called, by default from 0.
        hypotheses: (P, T, J, 3) as the poses of the first panel, behind which some of them are drawn as translucent
            bones.
        people: those whose joints the one panel and the keypoints hold; each has a colour of its own and a name, and
            the view stands still and shows all of their paths.

    Raises FileError when the film cannot be written, ValueError for poses that are not finite or of different lengths.
    """
    everything = [*panels.values(), *(x for x in (truth, keypoints) if x is not None)]
    check_panels(everything)
    frames = len(everything[0])
    if limit and limit < frames:
        frames, panels = limit, {name: poses[:limit] for name, poses in panels.items()}
        truth, keypoints = (None if x is None else x[:limit] for x in (truth, keypoints))
    picture = MotionPicture(skeleton, panels, truth, keypoints, layout, picture_size, title, azimuth, size,
                            filmed=video is not None, hypotheses=None if hypotheses is None else hypotheses[:SHOWN],
                            people=people)
    if numbers is not None:
        picture.numbers = numbers
    wanted = np.arange(0, frames, step)
    if Path(output).suffix.lower() == '.png':
        wanted = wanted[np.linspace(0, len(wanted) - 1, min(STRIP, len(wanted))).round().astype(int)]
    drawn = 0

    def film() -> Iterator[np.ndarray]:
        nonlocal drawn
        images = itertools.repeat(None) if video is None else _at(video, wanted)
        bar = tqdm(zip(wanted.tolist(), images, strict=False), f'drawing {Path(output).name}', len(wanted),
                   unit=' frames', leave=False, disable=None)
        for frame, image in bar:
            yield picture.draw(frame, image)
            drawn += 1
        if not drawn:
            raise FileError('the video has no frames')

    write_film(output, film(), fps / step, bitrate, drawn=video is None)
    return drawn


def _at(images: Iterable[np.ndarray], wanted: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the images at the wanted positions, in the order of `images`, which may end early."""
    positions = set(wanted.tolist())
    return (image for position, image in enumerate(images) if position in positions)


def off_screen(**size: Any) -> Figure:
    """Return a figure of this size that is drawn in memory."""
    figure = Figure(**size)
    FigureCanvasAgg(figure)
    return figure


class MotionPicture:
    """A row of panels that shows one moment of a motion.

    The background, which does not move, is drawn once; what moves is updated and drawn over it.
    """

    def __init__(self, skeleton: Skeleton, panels: dict[str, np.ndarray], truth: np.ndarray | None,
                 keypoints: np.ndarray | None, layout: Skeleton | None, picture_size: tuple[float, float] | None,
                 title: str, azimuth: float, size: float, filmed: bool, hypotheses: np.ndarray | None = None,
                 people: People | None = None, new_figure: Callable[..., Figure] = off_screen):
        """Lay out the panels; arguments as for `render_motion`.

        Args:
            filmed: whether `draw` will get video frames.
            new_figure: makes the figure, whose canvas is one of matplotlib's that draw with Agg.
        """
        self.keypoints, self.truth, self.azimuth = keypoints, truth, azimuth
        self.bones, self.people = Bones(skeleton, people), people
        self.hypotheses = hypotheses
        self.numbers = np.arange(len(next(iter(panels.values()))))  # what frames are called
        self.panels = dict(panels) | ({} if truth is None else {TRUTH: truth})
        self.centres = centres_of(self.panels, truth, skeleton.root)
        self.reach, self.top = extent(self.panels, self.centres)
        if people is not None:
            ((name, poses),) = panels.items()
            centre, self.reach, self.top = crowd(poses, people, skeleton.root)
            self.centres = {name: np.broadcast_to(centre, (len(poses), 2))}
        count = len(self.panels) + (keypoints is not None)
        self.figure = new_figure(figsize=(size * count, size), dpi=DPI)
        self.canvas = cast(FigureCanvasAgg, self.figure.canvas)
        self.scale = size * DPI / 400  # of text and lines
        self.share = 1 / count
        self.moving: list[tuple[Axes | Figure, Artist]] = []
        self.views: dict[str, tuple[LineCollection, LineCollection | None, LineCollection, LineCollection | None]] = {}
        self.axes: dict[str, Axes] = {}
        places = iter([self.figure.add_axes((k / count + 0.005, 0.13, 1 / count - 0.01, 0.73)) for k in range(count)])
        if keypoints is not None:
            self._add_input(next(places), keypoints, layout, picture_size, filmed)
        for name in self.panels:
            self._add_view(next(places), name)
        self.errors = panel_errors(panels, truth)
        self._add_texts(title)
        self.draw_background()

    def draw_background(self) -> None:
        """Draw what does not move, at the size that the figure has now."""
        self.canvas.draw()
        self.background = self.canvas.copy_from_bbox(self.figure.bbox)

    def _animate(self, axes: Axes | Figure, artist: ArtistT) -> ArtistT:
        """Redraw an artist of the axes, or of the figure, for every frame; return it."""
        artist.set_animated(True)
        self.moving.append((axes, artist))
        return artist

    def _lines(self, axes: Axes, width: float, **style: Any) -> LineCollection:
        """Return lines that are redrawn for every frame, none as yet."""
        lines = LineCollection([], linewidths=width * self.scale, capstyle='round', **style)
        axes.add_collection(lines, autolim=False)
        return self._animate(axes, lines)

    def _add_input(self, axes: Axes, keypoints: np.ndarray, layout: Skeleton | None,
                   picture_size: tuple[float, float] | None, filmed: bool) -> None:
        """Lay out the panel of keypoints (T, K, 2): over the whole picture of a film, else around the person.

        Raises ValueError without the layout, or for a film without the size of its pictures.
        """
        if layout is None or (filmed and picture_size is None):
            raise ValueError('expected the layout of the keypoints, and with a video the size of its pictures')
        left, top = 0.0, 0.0
        if filmed and picture_size is not None:
            right, bottom = picture_size
        else:  # without a video there is nothing but the person to show: zoom in
            left, top, right, bottom = around(keypoints)
        axes.set(xlim=(left, right), ylim=(bottom, top), aspect='equal', xticks=[], yticks=[])
        axes.spines[:].set_color(GRID)
        self._title(axes, '2D input')
        self.image: AxesImage | None = None
        if filmed:
            blank = np.full((1, 1, 3), 250, np.uint8)
            self.image = self._animate(axes, axes.imshow(blank, extent=(0, right, bottom, 0), aspect='equal'))
        self.input_bones = Bones(layout, self.people)
        self.input_lines = self._lines(axes, 2)

    def _title(self, axes: Axes, name: str) -> None:
        title = axes.set_title(one_line(name), fontsize=10 * self.scale, parse_math=False)
        _fit(title, 0.95 * self.share * self.figure.bbox.width)

    def _add_view(self, axes: Axes, name: str) -> None:
        """Lay out the panel of poses called `name`."""
        reach, sine, cosine = self.reach, np.sin(np.radians(ELEVATION)), np.cos(np.radians(ELEVATION))
        edge = 1.1 * reach
        axes.set(xlim=(-1.42 * edge, 1.42 * edge), ylim=(-1.42 * edge * sine, self.top * cosine + reach * sine + 0.05),
                 aspect='equal')
        axes.set_axis_off()
        self._title(axes, name)
        corners = edge * np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
        axes.add_patch(Polygon(viewed_from(corners, self.azimuth)[0], facecolor=FLOOR, edgecolor=GRID, zorder=0))
        floor = self._lines(axes, 0.6, colors=GRID)
        ghosted = self.truth is not None and self.panels[name] is not self.truth
        ghost = self._lines(axes, 2, colors=GHOST) if ghosted else None  # thin, to stay behind the pose
        clouded = self.hypotheses is not None and not self.views  # the first panel
        cloud = self._lines(axes, 1.5) if clouded else None
        self.views[name], self.axes[name] = (floor, ghost, self._lines(axes, 3), cloud), axes
        self.names = [] if self.people is None else [
            self._animate(axes, axes.text(0, 0, one_line(name), color=middle, ha='center', va='bottom', weight='bold',
                                          fontsize=9 * self.scale, parse_math=False))
            for name, (middle, _, _) in zip(self.people.names, self.people.colours(), strict=True)]

    def _add_texts(self, title: str) -> None:
        """Write the title, the legend and, redrawn for every frame, its number and the panels' errors."""
        figure, scale = self.figure, self.scale
        text = figure.text(0.01, 0.985, one_line(title), fontsize=10 * scale, va='top', parse_math=False)
        _fit(text, 0.98 * figure.bbox.width)
        known = [Line2D([], [], color=colour, linewidth=3 * scale, label=label) for colour, label in
                 ((LEFT, 'left'), (RIGHT, 'right'), (MIDDLE, 'middle'), (GHOST, TRUTH))]
        if self.truth is None:
            known.pop()
        if self.people is not None:
            _, left, right = self.people.colours()[0]
            known = [Line2D([], [], color=colour, linewidth=3 * scale, label=label) for colour, label in
                     ((left, 'left'), (right, 'right, paler'))]
        if self.hypotheses is not None:
            known.append(Line2D([], [], color=MIDDLE, alpha=FAINT, linewidth=1.5 * scale, label='hypotheses'))
        figure.legend(handles=known, loc='lower right', ncols=5, frameon=False,
                      fontsize=9 * scale, borderaxespad=0.2, handlelength=1.2, columnspacing=1)
        self.clock = self._animate(self.figure, figure.text(0.01, 0.02, '', fontsize=9 * scale))
        self.marks: dict[str, Text] = {}
        for name in self.errors:
            axes = self.axes[name]
            self.marks[name] = self._animate(axes, axes.text(0.5, -0.01, '', transform=axes.transAxes, ha='center',
                                                             va='top', fontsize=9 * scale))

    def draw(self, frame: int, image: np.ndarray | None = None) -> np.ndarray:
        """Return the picture (H, W, 3), uint8, of a frame; `image` is the video frame behind the 2D input."""
        if self.keypoints is not None:
            if self.image is not None and image is not None:
                self.image.set_data(image)
            points = self.keypoints[frame]
            drawn = self.input_bones.shown(frame)
            self.input_lines.set(segments=self.input_bones.segments(points)[drawn],
                                 color=self.input_bones.colours[drawn])
        for name, (floor, ghost, lines, cloud) in self.views.items():
            centre = np.append(self.centres[name][frame], 0)
            floor.set_segments(list(self._floor(centre)))
            if ghost is not None and self.truth is not None:
                seen, _ = viewed_from(self.truth[frame] - centre, self.azimuth)
                ghost.set_segments(list(self.bones.segments(seen)))
            if cloud is not None and self.hypotheses is not None:
                seen, _ = viewed_from(self.hypotheses[:, frame] - centre, self.azimuth)  # (P, J, 2)
                cloud.set(segments=np.concatenate([self.bones.segments(each) for each in seen]),
                          color=np.tile(self.bones.colours, (len(seen), 1)))
                cloud.set_alpha(FAINT)
            points, nearness = viewed_from(self.panels[name][frame] - centre, self.azimuth)
            order = self.bones.segments(nearness).mean(axis=1).argsort()  # the nearest bone is drawn last
            order = order[self.bones.shown(frame)[order]]
            self._name(frame, points)
            lines.set(segments=self.bones.segments(points)[order], color=self.bones.colours[order])
        self.clock.set_text(f'frame {self.numbers[frame]}')
        for name, mark in self.marks.items():
            mark.set_text(f'error {self.errors[name][frame]:.1f} mm')
        self.canvas.restore_region(self.background)
        for owner, artist in self.moving:
            owner.draw_artist(artist)
        return np.asarray(self.canvas.buffer_rgba())[..., :3].copy()

    def _name(self, frame: int, points: np.ndarray) -> None:
        """Put the name of each of several people above their highest joint of those seen (N * J, 2)."""
        for index, (text, joints) in enumerate(zip(self.names, np.split(points, len(self.names) or 1), strict=False)):
            top = joints[joints[:, 1].argmax()]
            text.set(position=(top[0], top[1] + 0.03 * self.top),
                     visible=self.people is not None and bool(self.people.there[frame, index]))

    def _floor(self, centre: np.ndarray) -> np.ndarray:
        """Return the grid lines (L, 2, 2) of the floor as seen around `centre` (3,); the grid is fixed in the world."""
        edge = 1.1 * self.reach
        lines = []
        for axis in (0, 1):
            first = np.ceil((centre[axis] - edge) / TILE) * TILE - centre[axis]
            for place in np.arange(first, edge, TILE):
                ends = np.zeros((2, 3))
                ends[:, axis], ends[:, 1 - axis] = place, (-edge, edge)
                lines.append(viewed_from(ends, self.azimuth)[0])
        return np.array(lines)


class Bones:
    """The bones of a skeleton as lines: the joints that each connects, and the colour of its side."""

    def __init__(self, skeleton: Skeleton, people: People | None = None):
        """Make a line for every joint that has a parent, of each of the people."""
        bones = np.array(bones_of(skeleton, people))
        self.ends, side = bones[:, :2], bones[:, 2]  # (bones, 2), (bones,)
        palette = [(MIDDLE, LEFT, RIGHT)] if people is None else people.colours()
        self.colours = np.array([to_rgba(colour) for person in palette for colour in person])[side]
        self.people, self.person = people, side // 3

    def shown(self, frame: int) -> np.ndarray:
        """Return which bones are drawn in a frame (bones,) bool: those of who is there."""
        return np.ones(len(self.ends), bool) if self.people is None else self.people.there[frame, self.person]

    def segments(self, points: np.ndarray) -> np.ndarray:
        """Return both ends of each bone (bones, 2, ...), given the joints (J, ...)."""
        return points[self.ends]


def _fit(text: Text, room: float) -> None:
    """Shrink, then cut, a line of text until it takes no more than `room` pixels."""
    width = text.get_window_extent().width
    if width > room:
        text.set_fontsize(max(0.6, room / width) * text.get_fontproperties().get_size_in_points())
    while text.get_window_extent().width > room and len(text.get_text()) > 2:
        text.set_text(text.get_text()[:-2].rstrip('…') + '…')
