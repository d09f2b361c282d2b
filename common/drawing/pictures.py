"""Plots of errors and pictures of moving people; the only module that imports matplotlib.

Letters: T frames, J joints, K keypoints.
"""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import matplotlib

matplotlib.use('Agg')  # files, never windows
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon
from tqdm import tqdm

from common.drawing.video import write_film
from common.errors import FileError
from common.skeleton import Skeleton
from common.storage.files import atomic_path

# Okabe and Ito's colours, which colour-blind readers tell apart; dashes tell them apart in grey.
COLOURS = {'train_loss': ('#0072B2', '-'), 'train_mpjpe': ('#009E73', '--'), 'valid_mpjpe': ('#D55E00', '-'),
           'lr': ('#000000', '-')}


def training_curves(epochs: list[dict], path: Path) -> None:
    """Plot loss, MPJPE on training and validation subjects, and learning rate over epochs into a PNG.

    Args:
        epochs: the lines of a `metrics.jsonl`.

    Raises FileError when the picture cannot be written.
    """
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout='constrained')
    panels = ((('train_loss',), 'training loss (×1000)'), (('train_mpjpe', 'valid_mpjpe'), 'MPJPE (mm)'),
              (('lr',), 'learning rate'))
    for axis, (names, title) in zip(axes, panels, strict=True):
        for name in names:
            points = [(m['epoch'], m[name]) for m in epochs if m.get(name) is not None]
            if points:
                colour, dash = COLOURS[name]
                axis.plot(*zip(*points, strict=True), color=colour, linestyle=dash, marker='o', markersize=3,
                          label=name)
        axis.set(xlabel='epoch', title=title)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.set_ylim(bottom=0)
        if axis.has_data():
            axis.legend()
    _save(figure, path)


# ---- an evaluation ----------------------------------------------------------------------------------------------

# Colour, hatch and dash of each series. From dark to bright, so that they can be told apart in grey too.
STYLES = (('#0072B2', '', '-'), ('#E69F00', '//', '--'), ('#009E73', '..', '-.'), ('#CC79A7', 'xx', ':'))


def _style(index: int) -> tuple[str, str, str, str]:
    """Return colour, hatch, dash and marker of the index-th series: those of STYLES, dotted from the fifth on."""
    colour, hatch, dash = STYLES[index % len(STYLES)]
    again = index // len(STYLES)
    return colour, hatch + 'o' * again, dash, 'o' if again else ''


def plot_bars(data: dict, title: str, path: Path) -> None:
    """Plot bars in millimetres, with the published row as marks, into a PNG.

    Args:
        data: from `figures.bars` or `figures.by_joint`.

    Raises FileError when the picture cannot be written.
    """
    names, series = data['names'], data['series']
    figure, axes = plt.subplots(figsize=(max(6, 0.24 * len(names) * len(series) + 2.5), 4.2), layout='constrained')
    width = 0.8 / len(series)
    for index, (name, values) in enumerate(series.items()):
        colour, hatch, *_ = _style(index)
        places = np.arange(len(names)) + (index - (len(series) - 1) / 2) * width
        heights = [np.nan if value is None else value for value in values]
        axes.bar(places, heights, width, color=colour, hatch=hatch, edgecolor='white', label=name, zorder=2)
    if data.get('published'):
        source, row = data['published']
        axes.plot(np.arange(len(names)), row, 'D', color='black', markerfacecolor='white', label=source, zorder=3)
    axes.set_xticks(range(len(names)), [name.replace('_', ' ') for name in names], rotation=40, ha='right')
    axes.set(ylabel='millimetres', title=title)
    axes.grid(axis='y', alpha=0.3, zorder=0)
    if len(series) > 1 or data.get('published'):
        # Below the axes: above the bars there is no room.
        figure.legend(loc='outside lower center', ncols=3, frameon=False)
    _save(figure, path)


def plot_worst(sequences: list[tuple], path: Path) -> None:
    """Plot the error over time of sequences (`figures.worst_sequences`), one per row, into a PNG.

    Raises FileError when the picture cannot be written.
    """
    figure, grid = plt.subplots(len(sequences), 1, figsize=(9, 1.9 * len(sequences)), squeeze=False, sharey=True,
                                layout='constrained')
    for axes, (name, frames, errors) in zip(grid[:, 0], sequences, strict=True):
        # Leave a gap where frames do not count.
        cuts = np.flatnonzero(np.diff(frames) > 1) + 1
        axes.plot(np.insert(frames.astype(float), cuts, np.nan), np.insert(errors, cuts, np.nan), color='#0072B2',
                  linewidth=1, marker='.' if len(frames) == 1 else '')
        axes.set_title(name, loc='left', fontsize=9)
        axes.set(ylabel='mm')
        axes.grid(alpha=0.3)
        axes.set_ylim(bottom=0)
    axes.set_xlabel('frame')
    _save(figure, path)


def plot_pck(data: dict, path: Path) -> None:
    """Plot the share of joints within each distance (`figures.pck_curves`) into a PNG.

    Raises FileError when the picture cannot be written.
    """
    figure, axes = plt.subplots(figsize=(6, 4.2), layout='constrained')
    for index, (name, shares) in enumerate(data['series'].items()):
        colour, _, dash, marker = _style(index)
        axes.plot(data['thresholds'], shares, dash, color=colour, marker=marker,
                  label=f'{name}: {shares[-1]:.1f} % within {data["thresholds"][-1]} mm')
    axes.set(xlabel='distance from the truth (mm)', ylabel='joints nearer than that (%)', ylim=(0, 101),
             xlim=(0, data['thresholds'][-1]), title='PCK')
    axes.grid(alpha=0.3)
    axes.legend(loc='lower right')
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    try:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=120)
    finally:
        plt.close(figure)


# ---- motion -----------------------------------------------------------------------------------------------------

# Colours of the bones by side, from Okabe and Ito again: left dark and right bright, so that they differ in grey too.
LEFT, RIGHT, MIDDLE, GHOST = '#0072B2', '#E69F00', '#333333', '#AAAAAA'
FLOOR, GRID = '#F3F3F3', '#D5D5D5'
ELEVATION = 15  # degrees by which the viewer looks down
TILE = 0.5  # metres between the lines of the floor
REACH = 0.5, 2.5  # metres shown around the root: at least, at most
DPI = 100
STRIP = 5  # moments in a PNG


def render_motion(output: Path, skeleton: Skeleton, panels: dict[str, np.ndarray], fps: float, *,
                  truth: np.ndarray | None = None, keypoints: np.ndarray | None = None, layout: Skeleton | None = None,
                  picture_size: tuple[float, float] | None = None, video: Iterable[np.ndarray] | None = None,
                  title: str = '', azimuth: float = 70, size: float = 4, limit: int | None = None, step: int = 1,
                  bitrate: int | None = None) -> int:
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

    Raises FileError when the film cannot be written, ValueError for poses that are not finite or of different lengths.
    """
    everything = [*panels.values(), *(x for x in (truth, keypoints) if x is not None)]
    _check_panels(everything)
    frames = len(everything[0])
    if limit and limit < frames:
        frames, panels = limit, {name: poses[:limit] for name, poses in panels.items()}
        truth, keypoints = (None if x is None else x[:limit] for x in (truth, keypoints))
    picture = MotionPicture(skeleton, panels, truth, keypoints, layout, picture_size, title, azimuth, size,
                            filmed=video is not None)
    wanted = np.arange(0, frames, step)
    if Path(output).suffix.lower() == '.png':
        wanted = wanted[np.linspace(0, len(wanted) - 1, min(STRIP, len(wanted))).round().astype(int)]
    drawn = 0

    def film():
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


def _check_panels(everything: list[np.ndarray]) -> None:
    """Raise ValueError unless all arrays are finite and of the same number of frames, at least one."""
    frames = len(everything[0])
    if not frames or any(len(array) != frames for array in everything):
        raise ValueError(f'expected one pose a frame in every panel, got {[len(array) for array in everything]}')
    if not all(np.isfinite(array).all() for array in everything):
        raise ValueError('poses or keypoints hold NaN or infinite coordinates')


def _at(images: Iterable[np.ndarray], wanted: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the images at the wanted positions, in the order of `images`, which may end early."""
    positions = set(wanted.tolist())
    return (image for position, image in enumerate(images) if position in positions)


def viewed_from(points: np.ndarray, azimuth: float) -> tuple[np.ndarray, np.ndarray]:
    """Return world points (..., 3), z up, as a distant viewer sees them: x right, y up (..., 2), and nearness (...).

    The view is orthographic, at the scale of the world: a metre across the line of sight is a metre of the picture.

    Args:
        azimuth: degrees from the x axis to where the viewer stands.
    """
    a, e = np.radians(azimuth), np.radians(ELEVATION)
    right = [-np.sin(a), np.cos(a), 0]
    up = [-np.sin(e) * np.cos(a), -np.sin(e) * np.sin(a), np.cos(e)]
    towards = [np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)]
    return points @ np.array([right, up], points.dtype).T, points @ np.array(towards, points.dtype)


class MotionPicture:
    """A row of panels that shows one moment of a motion.

    The background, which does not move, is drawn once; what moves is updated and drawn over it.
    """

    def __init__(self, skeleton, panels, truth, keypoints, layout, picture_size, title, azimuth, size, filmed):
        """Lay out the panels; arguments as for `render_motion`, `filmed` is True where `draw` will get video frames."""
        self.keypoints, self.truth, self.azimuth = keypoints, truth, azimuth
        self.bones = Bones(skeleton)
        self.panels = dict(panels) | ({} if truth is None else {'ground truth': truth})
        self.centres = {name: (poses if truth is None else truth)[:, skeleton.root, :2]
                        for name, poses in self.panels.items()}
        self.reach, self.top = self._extent()
        count = len(self.panels) + (keypoints is not None)
        self.figure = Figure(figsize=(size * count, size), dpi=DPI)
        self.canvas = FigureCanvasAgg(self.figure)
        self.scale = size * DPI / 400  # of text and lines
        self.share, self.moving, self.views = 1 / count, [], {}
        places = iter([self.figure.add_axes((k / count + 0.005, 0.13, 1 / count - 0.01, 0.73)) for k in range(count)])
        if keypoints is not None:
            self._add_input(next(places), layout, picture_size, filmed)
        for name in self.panels:
            self._add_view(next(places), name)
        self.errors = {} if truth is None else {
            name: 1000 * np.linalg.norm(poses - truth, axis=-1).mean(axis=-1) for name, poses in panels.items()}
        self._add_texts(title)
        self.canvas.draw()
        self.background = self.canvas.copy_from_bbox(self.figure.bbox)

    def _extent(self) -> tuple[float, float]:
        """Return how far sideways from the root, and how high, joints get, in metres, clipped to REACH."""
        far = max(np.linalg.norm(poses[..., :2] - self.centres[name][:, None], axis=-1).max()
                  for name, poses in self.panels.items())
        high = max(poses[..., 2].max() for poses in self.panels.values())
        return float(np.clip(far, *REACH)), float(np.clip(high, *REACH))

    def _animate(self, axes, artist):
        artist.set_animated(True)
        self.moving.append((axes, artist))
        return artist

    def _lines(self, axes, width: float, **style) -> LineCollection:
        return self._animate(axes, axes.add_collection(
            LineCollection([], linewidths=width * self.scale, capstyle='round', **style), autolim=False))

    def _add_input(self, axes, layout, picture_size, filmed: bool):
        if filmed:
            (left, top), (right, bottom) = (0, 0), picture_size
        else:  # without a video there is nothing but the person to show: zoom in
            low, high = self.keypoints.min(axis=(0, 1)), self.keypoints.max(axis=(0, 1))
            half = max(0.58 * (high - low).max(), 1)
            (left, top), (right, bottom) = (low + high) / 2 - half, (low + high) / 2 + half
        axes.set(xlim=(left, right), ylim=(bottom, top), aspect='equal', xticks=[], yticks=[])
        axes.spines[:].set_color(GRID)
        self._title(axes, '2D input')
        self.image = None
        if filmed:
            blank = np.full((1, 1, 3), 250, np.uint8)
            self.image = self._animate(axes, axes.imshow(blank, extent=(0, right, bottom, 0), aspect='equal'))
        self.input_bones = Bones(layout)
        self.input_lines = self._lines(axes, 2)

    def _title(self, axes, name: str):
        _fit(axes.set_title(name, fontsize=10 * self.scale), 0.95 * self.share)

    def _add_view(self, axes, name: str):
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
        self.views[name] = floor, ghost, self._lines(axes, 3)

    def _add_texts(self, title: str):
        figure, scale = self.figure, self.scale
        text = figure.text(0.01, 0.985, title, fontsize=10 * scale, va='top')
        _fit(text, 0.98)
        known = [Line2D([], [], color=colour, linewidth=3 * scale, label=label) for colour, label in
                 ((LEFT, 'left'), (RIGHT, 'right'), (MIDDLE, 'middle'), (GHOST, 'ground truth'))]
        figure.legend(handles=known[:3 + (self.truth is not None)], loc='lower right', ncols=4, frameon=False,
                      fontsize=9 * scale, borderaxespad=0.2, handlelength=1.2, columnspacing=1)
        self.clock = self._animate(self.figure, figure.text(0.01, 0.02, '', fontsize=9 * scale))
        self.marks = {}
        for name in self.errors:
            axes = self.views[name][2].axes
            self.marks[name] = self._animate(axes, axes.text(0.5, -0.01, '', transform=axes.transAxes, ha='center',
                                                             va='top', fontsize=9 * scale))

    def draw(self, frame: int, image: np.ndarray | None = None) -> np.ndarray:
        """Return the picture (H, W, 3), uint8, of a frame; `image` is the video frame behind the 2D input."""
        if self.keypoints is not None:
            if self.image is not None:
                self.image.set_data(image)
            points = self.keypoints[frame]
            self.input_lines.set(segments=self.input_bones.segments(points), color=self.input_bones.colours)
        for name, (floor, ghost, lines) in self.views.items():
            centre = np.append(self.centres[name][frame], 0)
            floor.set_segments(self._floor(centre))
            if ghost is not None:
                ghost.set_segments(self.bones.segments(viewed_from(self.truth[frame] - centre, self.azimuth)[0]))
            points, nearness = viewed_from(self.panels[name][frame] - centre, self.azimuth)
            order = self.bones.segments(nearness).mean(axis=1).argsort()  # the nearest bone is drawn last
            lines.set(segments=self.bones.segments(points)[order], color=self.bones.colours[order])
        self.clock.set_text(f'frame {frame}')
        for name, mark in self.marks.items():
            mark.set_text(f'error {self.errors[name][frame]:.1f} mm')
        self.canvas.restore_region(self.background)
        for owner, artist in self.moving:
            owner.draw_artist(artist)
        return np.asarray(self.canvas.buffer_rgba())[..., :3].copy()

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

    def __init__(self, skeleton: Skeleton):
        """Make a line for every joint that has a parent."""
        self.ends = np.array(skeleton.edges)  # (bones, 2)
        sides = {'left': LEFT, 'right': RIGHT}
        names = [skeleton.joints[joint] for joint, _ in skeleton.edges]
        self.colours = np.array([to_rgba(sides.get(name.split('_')[0], MIDDLE)) for name in names])

    def segments(self, points: np.ndarray) -> np.ndarray:
        """Return both ends of each bone (bones, 2, ...), given the joints (J, ...)."""
        return points[self.ends]


def _fit(text, share: float) -> None:
    """Shrink, then cut, a line of text until it takes no more than this share of the figure's width."""
    room = share * text.figure.bbox.width
    width = text.get_window_extent().width
    if width > room:
        text.set_fontsize(max(0.6, room / width) * text.get_fontsize())
    while text.get_window_extent().width > room and len(text.get_text()) > 2:
        text.set_text(text.get_text()[:-2].rstrip('…') + '…')
