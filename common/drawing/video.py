"""Reading videos and writing films (GIF, PNG strip, MP4), one frame at a time, so that memory does not grow.

Pillow writes GIF and PNG. PyAV reads videos and writes MP4; its wheel carries ffmpeg's libraries and the encoder, so
that nothing has to be installed on the system.
"""

import contextlib
import itertools
import math
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, cast

import numpy as np
from PIL import GifImagePlugin, Image, ImageChops

from common.errors import FileError
from common.storage.files import atomic_path, first_line

SUFFIXES = ('.gif', '.mp4', '.png')
# How ffmpeg reads the cameras of a system, and calls the one of a number.
DEVICES = {'linux': ('v4l2', '/dev/video{}'), 'darwin': ('avfoundation', '{}:none')}
OTHER_SHAPE = 0.02  # of width over height: rounding to whole pixels is less
BITRATE = 3000  # kilobits a second of an MP4
# Hundredths of a second: viewers show a GIF frame for a tenth of a second where its file says less than the shortest,
# and the file has no room for more than the longest.
SHORTEST, LONGEST = 2, 65_535


class Film(NamedTuple):
    """A video that is being read.

    Attributes:
        fps: frames per second; None where the file does not say.
        size: (width, height) of the frames in pixels, after scaling.
        frames: (height, width, 3) uint8 each.
        total: how many frames the file says that it has, skipped ones too; None where it does not.
        stretch: how many times as wide as high the file's pixels are; the frames are as players show them, with square
            ones.
        times: when each frame that was read is shown, skipped ones too, in seconds; None where the file does not say.
            It grows as frames are read.
    """

    fps: float | None
    size: tuple[int, int]
    frames: Iterator[np.ndarray]
    total: int | None = None
    times: Sequence[float | None] = ()
    stretch: float = 1.0


def _pyav(what: str) -> ModuleType:
    """Import PyAV. Raises FileError where it is missing; `what` needs it."""
    try:
        import av  # takes a moment, and only videos need it
    except ImportError:
        raise FileError(f'{what} needs PyAV: pip install av') from None
    return av


@contextlib.contextmanager
def read_video(path: Path, largest: int | None = None, skip: int = 0, step: int = 1) -> Iterator[Film]:
    """Yield the Film of a file, and close it at the end of the block.

    Every frame comes exactly once, as detectors count them, whatever its time stamp.

    Args:
        largest: scale frames down until their longer side has at most this many pixels; None for the original size.
        skip, step: leave out the first `skip` frames, then keep every step-th.

    Raises FileError for a file that is missing, holds no video or no frame after `skip`, or breaks off.
    """
    av = _pyav('reading a video')
    if not Path(path).is_file():
        raise FileError(f'{path} is missing' if not Path(path).exists() else f'{path} is not a file')
    with contextlib.ExitStack() as stack:
        try:
            container = stack.enter_context(av.open(str(Path(path).resolve())))
            for stream in container.streams.video:
                stream.thread_type = 'AUTO'
        except Exception as error:  # a damaged file, or a codec that is not known, can raise anything
            raise _unreadable(path, error) from None
        yield _film(stack, str(path), container, largest, skip, step)


@contextlib.contextmanager
def read_camera(number: int) -> Iterator[Film]:
    """Yield the Film of a camera of this system, the numbers from 0, and close it at the end of the block.

    Raises FileError where there is no such camera, or none that PyAV can read.
    """
    av = _pyav('reading a camera')
    kind, device = DEVICES.get(sys.platform, ('', ''))
    named, instead = device.format(number), 'without a camera, --predict clip.mp4 --live plays a video like one'
    if not any(kind in name.split(',') for name in av.formats_available):  # one has several names
        raise FileError(f'this PyAV reads no cameras on {sys.platform} ({kind or "no way is known"}): {instead}')
    if named.startswith('/dev/') and not Path(named).exists():
        others = sorted(path.name.removeprefix('video') for path in Path('/dev').glob('video[0-9]*'))
        there = f'there is camera:{", camera:".join(others)}' if others else 'nor any other camera'
        raise FileError(f'there is no camera {named}, {there}: connect one and let this system see it; {instead}')
    with contextlib.ExitStack() as stack:
        try:
            container = stack.enter_context(av.open(named, format=kind))
        except Exception as error:  # a device can refuse in any way
            raise FileError(f'camera {named} cannot be opened ({_reason(error)}): is it there, may you read it, and '
                            f'does no other program use it? {instead}') from None
        yield _film(stack, named, container)


def _film(stack: contextlib.ExitStack, name: str, container: Any, largest: int | None = None, skip: int = 0,
          step: int = 1) -> Film:
    """Return the Film of an open container, which the stack will close. Raises FileError as `read_video` does."""
    if not container.streams.video:
        raise FileError(f'{name} holds no video')
    stream, times = container.streams.video[0], list[float | None]()
    pictures = _pictures(name, container, stream, largest, times)
    stack.callback(pictures.close)  # before the container: reading on from a closed one would crash
    frames = itertools.islice(pictures, skip, None, step)
    first = next(frames, None)
    if first is None:
        raise FileError(f'{name} has no frames after the first {skip}' if skip else f'{name} has no frames')
    rate = stream.average_rate
    return Film(float(rate) if rate else None, (first.shape[1], first.shape[0]), itertools.chain([first], frames),
                stream.frames or None, times, _stretch(stream))


def frames_at(frames: Iterator[np.ndarray], numbers: Iterable[int]) -> Iterator[np.ndarray]:
    """Yield those of a film's frames, which count from 0, that ascending numbers name, until the film ends."""
    passed, picture = -1, None
    for number in numbers:
        while passed < number:
            picture, passed = next(frames, None), passed + 1
            if picture is None:
                return
        if picture is not None:
            yield picture


def _pictures(path: str, container: Any, stream: Any, largest: int | None,
              times: list[float | None]) -> Generator[np.ndarray, None, None]:
    """Yield the frames, scaled and the right way up, and append when each is shown to `times`.

    All have the size of the first, as players show them: what browsers record changes it as the network does.

    Raises FileError where reading fails, lest the writer that consumes the frames report it as its own failure, and
    where pictures get another shape.
    """
    first = None
    try:
        stretch = _stretch(stream)
        for number, frame in enumerate(container.decode(stream)):
            first = first or (frame.width, frame.height)
            if abs(frame.width * first[1] / (frame.height * first[0]) - 1) > OTHER_SHAPE:
                raise FileError(f'{path} has pictures of {first[0]}×{first[1]} up to frame {number}, which is '
                                f'{frame.width}×{frame.height}: cut it there')
            width = stretch * first[0]
            scale = min(1, (largest or math.inf) / max(width, first[1]))
            picture = frame.to_ndarray(format='rgb24', width=max(1, round(scale * width)),
                                       height=max(1, round(scale * first[1])))
            times.append(frame.time)
            turns = round(frame.rotation / 90) % 4  # the orientation in which the phone was held
            yield np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture
    except FileError:
        raise
    except Exception as error:  # a damaged film can raise anything
        raise _unreadable(path, error) from None


def _stretch(stream: Any) -> float:
    """Return how many times as wide as high the pixels of a stream are: 1 where it does not say, or says nonsense."""
    ratio = float(getattr(stream, 'sample_aspect_ratio', None) or 1)
    return ratio if 0.2 <= ratio <= 5 else 1.0


def _unreadable(path: Path | str, error: Exception) -> FileError:
    return FileError(f'{path} is not a readable video ({_reason(error)})')


def _reason(error: Exception) -> str:
    return getattr(error, 'strerror', None) or first_line(error)


def mp4_writer() -> ModuleType:
    """Import PyAV to write an MP4. Raises FileError where it is missing."""
    return _pyav('GIF and PNG are written without it, but writing MP4')


def write_film(path: Path, frames: Iterable[np.ndarray], fps: float, bitrate: int | None = None,
               drawn: bool = True) -> None:
    """Write frames to a .gif, an .mp4, or a .png strip of frames one below the other; atomically, as they come.

    Args:
        frames: at least one, (H, W, 3) uint8, all of the same size.
        bitrate: of an MP4, kilobits a second.
        drawn: True where all frames have the colours of the first, so that a GIF needs only one palette.

    Raises FileError when the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise FileError(f'cannot write {path}: expected a name that ends in {", ".join(SUFFIXES)}')
    if suffix == '.mp4':
        mp4_writer()
    with atomic_path(path) as temporary:
        if suffix == '.gif':
            _write_gif(temporary, frames, fps, drawn)
        elif suffix == '.mp4':
            _write_mp4(temporary, frames, fps, bitrate or BITRATE)
        else:
            Image.fromarray(np.concatenate(list(frames))).save(temporary, optimize=True)


def _write_gif(path: Path, frames: Iterable[np.ndarray], fps: float, drawn: bool) -> None:
    """Write a GIF that loops for ever.

    Pillow's own writer keeps all frames in memory, so its parts are used to write them one by one.
    """
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
    """Return an image that carries the palette for a frame.

    For a drawing these are its 256 most frequent colours, so that flat colours stay exactly as they are. Of colours
    that look alike only the most frequent is taken, because Pillow's search for the nearest colour is not exact. For a
    video frame the palette is made by median cut.
    """
    if not drawn:  # a ninth of the pixels is enough
        return picture.resize((picture.width // 3 + 1, picture.height // 3 + 1), Image.Resampling.NEAREST).quantize()
    unlike: dict[tuple[int, ...], tuple[int, ...]] = {}
    # Never None: there are no more colours than pixels. In an RGB picture each is a tuple.
    counted = cast(list[tuple[int, tuple[int, ...]]], picture.getcolors(picture.width * picture.height))
    for _, colour in sorted(counted, reverse=True):
        unlike.setdefault(tuple(channel // 8 for channel in colour), colour)
    palette = Image.new('P', (1, 1))
    palette.putpalette([channel for colour in list(unlike.values())[:256] for channel in colour])
    return palette


def _changes(frames: Iterable[np.ndarray], fps: float) -> Iterator[tuple[Image.Image, tuple[int, int], int]]:
    """Yield the part of each frame that differs from the one before: (picture, its corner, hundredths of a second).

    Frames that follow too fast to be shown are skipped.
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
            continue  # nothing changed: the frame before is shown for longer
        if waiting is not None:
            yield *waiting, min(LONGEST, now - since)
        shown, waiting, since = picture, (picture.crop(box), box[:2]), now
    if waiting is not None:
        yield *waiting, min(LONGEST, max(SHORTEST, now - since + round(100 / fps)))


def _write_mp4(path: Path, frames: Iterable[np.ndarray], fps: float, bitrate: int) -> None:
    """Write H.264 in the pixel format that every player supports.

    The format needs even sides, so an odd last row or column is cut off.
    """
    av = mp4_writer()
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
