"""Films as arrays: frames of a video in, GIF, PNG strip or MP4 out; one frame at a time, whatever the length.

GIF and PNG are made by Pillow. Videos are read, and MP4 is written, by PyAV, whose wheel carries ffmpeg's libraries
and the encoder, so that nothing has to be installed on the system.
"""

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import GifImagePlugin, Image, ImageChops

from common.errors import FileError
from common.storage.files import atomic_path
from common.storage.npz import first_line

SUFFIXES = ('.gif', '.mp4', '.png')
BITRATE = 3000  # kilobits a second of an MP4
# Viewers show a picture of a GIF for a tenth of a second where its file says less than two hundredths.
SHORTEST = 2


class Film(NamedTuple):
    """A video that is being read: frames a second (None where the file does not tell), the (width, height) of its
    pictures at the size asked for, and its frames, (height, width, 3) uint8."""

    fps: float | None
    size: tuple[int, int]
    frames: Iterator[np.ndarray]


def _pyav(what: str):
    """The module av. Raises FileError where it is missing."""
    try:
        import av  # takes a moment, and only videos need it
    except ImportError:
        raise FileError(f'{what} needs PyAV: pip install av; GIF and PNG are written without it') from None
    return av


@contextlib.contextmanager
def read_video(path: Path, largest: int | None = None, skip: int = 0, step: int = 1):
    """Yield the Film of a file, which is closed at the end of the block.

    Every frame comes once, as detectors see them, whatever the times between them.

    Args:
        largest: pixels of the longer side that the frames are scaled down to; None for the size they have.
        skip, step: leave out the first `skip` frames, then keep every step-th.

    Raises FileError for a file that is missing, holds no video or no frame after `skip`, or breaks off.
    """
    av = _pyav('reading a video')
    if not Path(path).is_file():
        raise FileError(f'{path} is missing' if not Path(path).exists() else f'{path} is not a file')
    with contextlib.ExitStack() as stack:
        try:
            container = stack.enter_context(av.open(str(Path(path).resolve())))
            stream = container.streams.video[0]
            stream.thread_type = 'AUTO'
        except (OSError, ValueError, IndexError) as error:  # what FFmpegError is made of
            raise _unreadable(path, error) from None
        pictures = _pictures(path, container, stream, largest)
        stack.callback(pictures.close)  # reading on from a container that is closed would crash
        frames = itertools.islice(pictures, skip, None, step)
        first = next(frames, None)
        if first is None:
            raise FileError(f'{path} has no frames' + f' after the first {skip}' * bool(skip))
        rate = stream.average_rate
        yield Film(float(rate) if rate else None, (first.shape[1], first.shape[0]), itertools.chain([first], frames))


def _pictures(path: Path, container, stream, largest: int | None) -> Iterator[np.ndarray]:
    """The frames, scaled and the right way up. FileError where it fails: the writer would take it for its own fault."""
    try:
        for frame in container.decode(stream):
            scale = min(1, (largest or math.inf) / max(frame.width, frame.height))
            picture = frame.to_ndarray(format='rgb24', width=max(1, round(scale * frame.width)),
                                       height=max(1, round(scale * frame.height)))
            turns = round(frame.rotation / 90) % 4  # how the telephone was held
            yield np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> FileError:
    if isinstance(error, IndexError):
        return FileError(f'{path} holds no video')
    return FileError(f'{path} is not a readable video ({getattr(error, "strerror", None) or first_line(error)})')


def write_film(path: Path, frames: Iterable[np.ndarray], fps: float, bitrate: int | None = None,
               drawn: bool = True) -> None:
    """Write frames to a .gif, an .mp4 or a .png strip, one frame below the other; atomically, and as they come.

    Args:
        frames: (H, W, 3) uint8, all of one size; at least one.
        bitrate: of an MP4, kilobits a second.
        drawn: whether the colours of the first frame are those of all others, so that one palette serves a GIF.

    Raises FileError when the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise FileError(f'cannot write {path}: expected a name that ends in {", ".join(SUFFIXES)}')
    if suffix == '.mp4':
        _pyav('writing MP4')
    with atomic_path(path) as temporary:
        if suffix == '.gif':
            _write_gif(temporary, frames, fps, drawn)
        elif suffix == '.mp4':
            _write_mp4(temporary, frames, fps, bitrate or BITRATE)
        else:
            Image.fromarray(np.concatenate(list(frames))).save(temporary, optimize=True)


def _write_gif(path: Path, frames: Iterable[np.ndarray], fps: float, drawn: bool) -> None:
    """A GIF that repeats for ever. Pillow's own writer keeps all frames in memory; its parts write them one by one."""
    header = palette = None
    with open(path, 'wb') as file:
        for picture, corner, hundredths in _changes(frames, fps):
            if header is None or not drawn:
                palette = _palette(picture, drawn)
            reduced = picture.quantize(palette=palette, dither=Image.Dither.NONE)
            if header is None:
                header, _ = GifImagePlugin.getheader(reduced.copy(), info={'loop': 0})
                file.writelines(header)
            file.writelines(GifImagePlugin.getdata(reduced, corner, duration=10 * hundredths,
                                                   include_color_table=not drawn))
        file.write(b';')


def _palette(picture: Image.Image, drawn: bool) -> Image.Image:
    """A picture whose palette is the 256 most frequent colours of a drawing: the flat ones stay exactly as they are.

    Of those that look alike the most frequent one is taken: Pillow's search for the nearest is not an exact one. The
    palette of a film is made by median cut.
    """
    if not drawn:  # a ninth of the pixels says as much
        return picture.resize((picture.width // 3 + 1, picture.height // 3 + 1), Image.Resampling.NEAREST).quantize()
    unlike = {}
    for _, colour in sorted(picture.getcolors(picture.width * picture.height), reverse=True):
        unlike.setdefault(tuple(channel // 8 for channel in colour), colour)
    palette = Image.new('P', (1, 1))
    palette.putpalette([channel for colour in list(unlike.values())[:256] for channel in colour])
    return palette


def _changes(frames: Iterable[np.ndarray], fps: float) -> Iterator[tuple[Image.Image, tuple[int, int], int]]:
    """What of each frame differs from the one shown before it: (picture, its corner, hundredths of a second it stays).

    Frames that come too fast to be shown are left out.
    """
    shown = waiting = None
    since = now = 0
    for number, frame in enumerate(frames):
        now = round(100 * number / fps)
        if waiting is not None and now - since < SHORTEST:
            continue
        picture = Image.fromarray(frame)
        box = (0, 0, *picture.size) if shown is None else ImageChops.difference(shown, picture).getbbox()
        if box is None:
            continue  # the one before stays longer
        if waiting is not None:
            yield *waiting, now - since
        shown, waiting, since = picture, (picture.crop(box), box[:2]), now
    if waiting is not None:
        yield *waiting, max(SHORTEST, now - since + round(100 / fps))


def _write_mp4(path: Path, frames: Iterable[np.ndarray], fps: float, bitrate: int) -> None:
    """H.264 in the pixel format that every player knows, which wants even sides: an odd last row or column is cut."""
    av = _pyav('writing MP4')
    with av.open(str(path), 'w', format='mp4') as container:
        stream = container.add_stream('libx264', rate=Fraction(fps).limit_denominator(1001))
        stream.pix_fmt, stream.bit_rate = 'yuv420p', 1000 * bitrate
        for number, frame in enumerate(frames):
            height, width = (side // 2 * 2 for side in frame.shape[:2])
            if number == 0:
                stream.height, stream.width = height, width
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), 'rgb24')
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
