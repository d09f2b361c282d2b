"""A page to look at motion: one HTML file that turns, plays and scrubs poses in a browser, without network or library.

Letters: T frames, J joints, K keypoints. `page.html`, `page.js` and `motion.js` beside this file are its parts.

Arrays are packed as differences from frame to frame in whole units, which mostly fit a byte: see `packed`.
"""

import base64
import html
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.drawing.look import (
    ELEVATION,
    FAINT,
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
)
from common.skeleton import Skeleton
from common.storage.files import atomic_file, one_line

SUFFIX = '.html'
MILLIMETRE = 0.001
SHARPNESS = 4000  # steps in which the 2D panel is divided from edge to edge: finer than a screen shows it
MOST = 3_000_000  # coordinates in a page at most: about 4 MB
FARTHEST = 2**52  # units from 0 at most: JavaScript's numbers are exact up to there, and differences too


class Page(NamedTuple):
    """What was written.

    Attributes:
        frames: how many there are in the page. thinned: one frame of so many is kept, beyond what was asked for.
        size: of the file in bytes.
    """

    frames: int
    thinned: int
    size: int


def write_page(output: Path, skeleton: Skeleton, panels: dict[str, np.ndarray], fps: float, *,
               truth: np.ndarray | None = None, keypoints: np.ndarray | None = None, layout: Skeleton | None = None,
               picture_size: tuple[float, float] | None = None, title: str = '', azimuth: float = 70,
               limit: int | None = None, step: int = 1, numbers: np.ndarray | None = None,
               seconds: np.ndarray | None = None,
               hypotheses: np.ndarray | None = None, people: People | None = None) -> Page:
    """Write a page of moving poses, from the same arguments as `render_motion`'s in `common.drawing.pictures`.

    Of more frames than MOST allows every n-th is kept, and the page says so. The picture's edge is drawn in the 2D
    panel where it is near the person.

    Args:
        seconds: (T,) when each frame is, by default as `numbers` and `fps` say.

    Raises FileError when the file cannot be written, ValueError for poses that are not finite or of different lengths,
    and for keypoints without their layout.
    """
    arrays = [*panels.values(), *(x for x in (truth, keypoints) if x is not None)]
    check_panels(arrays)
    frames = min(limit or len(arrays[0]), len(arrays[0]))
    clouds = [] if hypotheses is None else list(hypotheses[:SHOWN])
    a_frame = sum(array[0].size for array in (*arrays, *clouds))
    thinned = -(-a_frame * -(-frames // step) // MOST)
    kept = slice(0, frames, step * thinned)
    names = np.arange(len(arrays[0])) if numbers is None else numbers
    seconds = names / fps if seconds is None else seconds
    panels = {name: poses[kept] for name, poses in panels.items()}
    truth = None if truth is None else truth[kept]
    shown = panels | ({} if truth is None else {TRUTH: truth})
    errors = panel_errors(panels, truth)
    reach, top = extent(shown, centres_of(shown, truth, skeleton.root))
    about = None
    if people is not None:
        people = People(people.names, people.there[kept])
        centre, reach, top = crowd(next(iter(shown.values())), people, skeleton.root)
        top += 2 * reach * float(np.sin(np.radians(ELEVATION)))  # who stands behind appears higher
        about = {'names': [one_line(name) for name in people.names], 'colours': people.colours(),
                 'centre': [float(x) for x in centre], 'each': len(skeleton),
                 'there': packed(people.there.astype(np.int64), 1)}
    count = len(next(iter(shown.values())))
    motion = {
        'frames': count, 'fps': fps / (step * thinned), 'numbers': packed(names[kept], 1),
        'seconds': packed(seconds[kept], 0.01),
        'joints': skeleton.joints * (1 if people is None else len(people.names)), 'root': skeleton.root,
        'bones': bones_of(skeleton, people), 'azimuth': azimuth, 'people': about,
        'elevation': ELEVATION, 'reach': reach, 'top': top, 'tile': TILE, 'faint': FAINT,
        'series': [{'name': one_line(name), 'truth': poses is truth, 'poses': packed(poses, MILLIMETRE),
                    'errors': packed(errors[name], 0.1) if name in errors else None} for name, poses in shown.items()],
        'hypotheses': [packed(poses[kept], MILLIMETRE) for poses in clouds],
        'input': None if keypoints is None else _input(keypoints[kept], layout, picture_size, people)}
    parts = {'title': html.escape(one_line(title, 200)), 'note': html.escape(_note(count, fps, step, thinned, frames)),
             'left': LEFT, 'right': RIGHT, 'middle': MIDDLE, 'motion': _json(motion), 'functions': _part('motion.js'),
             'program': _part('page.js')}
    # In one pass, so that what is filled in is never taken for a place to fill.
    text = re.sub(r'\{\{(\w+)\}\}', lambda place: parts[place[1]], _part('page.html'))
    with atomic_file(output) as file:
        file.write(text.encode())
        return Page(count, thinned, file.tell())


def packed(values: np.ndarray, unit: float) -> str:
    """Return an array (T, ...) as base64 text, rounded to whole units.

    Each number is the difference from the frame before, from 0 in the first, written as 2n or, of negative n, as
    -2n - 1, in bytes of seven bits, the lowest first, all but the last of a number with their highest bit set.
    """
    rows = np.asarray(values).reshape(len(values), -1)
    scaled = rows if unit == 1 else np.rint(rows.astype(np.float64) / unit)
    whole = np.clip(scaled, -FARTHEST, FARTHEST).astype(np.int64)
    steps = np.diff(whole, axis=0, prepend=0).ravel()
    numbers = np.where(steps < 0, -2 * steps - 1, 2 * steps)
    lengths = np.ones(len(numbers), np.int64)
    for size in range(1, 8):
        lengths += numbers >= 1 << 7 * size
    starts = np.cumsum(lengths) - lengths
    written = np.zeros(lengths.sum(), np.uint8)
    for index in range(lengths.max()):
        rest = np.flatnonzero(lengths > index)
        more = np.where(lengths[rest] > index + 1, 128, 0)
        written[starts[rest] + index] = (numbers[rest] >> 7 * index & 127) + more
    return base64.b64encode(written.tobytes()).decode()


def _input(keypoints: np.ndarray, layout: Skeleton | None, picture_size: tuple[float, float] | None,
           people: People | None) -> dict[str, Any]:
    """Return what the 2D panel shows of keypoints (T, K, 2) in pixels. Raises ValueError without their layout."""
    if layout is None:
        raise ValueError('expected the layout of the keypoints')
    box = around(keypoints)
    unit = (box[2] - box[0]) / SHARPNESS
    return {'joints': layout.joints, 'bones': bones_of(layout, people), 'points': packed(keypoints, unit), 'unit': unit,
            'box': box, 'size': picture_size}


def _note(count: int, fps: float, step: int, thinned: int, frames: int) -> str:
    """Return in words how many frames there are, and how many were left out."""
    told = f'{count:,} frame{"" if count == 1 else "s"}, {fps:g} frames a second'
    if step * thinned > 1:
        told += f': one in {step * thinned} of {frames:,} is shown'
    return told + (', so that the page stays small' if thinned > 1 else '')


def _json(motion: dict[str, Any]) -> str:
    """Return JSON that can end no element and begin no comment of the page it stands in."""
    text = json.dumps(motion, allow_nan=False, separators=(',', ':'))
    return text.replace('&', r'\u0026').replace('<', r'\u003c').replace('>', r'\u003e')


def _part(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding='utf-8')
