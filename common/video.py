"""Films as arrays: frames of a video in, GIF, PNG strip or MP4 out; one frame at a time, whatever the length.

GIF and PNG are made by Pillow. Videos are read, and MP4 is written, by the ffmpeg that the wheel of imageio-ffmpeg
carries, so that nothing has to be installed on the system.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import GifImagePlugin, Image, ImageChops

from common.errors import FileError
from common.files import atomic_path

SUFFIXES = ('.gif', '.mp4', '.png')
BITRATE = 3000  # kilobits a second of an MP4
# Viewers show a picture of a GIF for a tenth of a second where its file says less than two hundredths.
SHORTEST = 2


class Film(NamedTuple):
    """A video that is being read: frames a second (None where the file does not tell), (width, height) of its pictures
    as they were filmed, and its frames, (height, width, 3) uint8 at the size asked for."""

    fps: float | None
    size: tuple[int, int]
    frames: Iterator[np.ndarray]


def _ffmpeg(what: str):
    """The module imageio_ffmpeg. Raises FileError where it, or the program it carries, is missing."""
    try:
        import imageio_ffmpeg  # nothing else needs it
        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        raise FileError(f'{what} needs imageio-ffmpeg: pip install imageio-ffmpeg; GIF and PNG are written without '
                        f'it') from None
    return imageio_ffmpeg


@contextlib.contextmanager
def read_video(path: Path, largest: int | None = None, skip: int = 0, step: int = 1):
    """Yield the Film of a file, which is closed at the end of the block.

    Args:
        largest: pixels of the longer side that the frames are scaled down to; None for the size they have.
        skip, step: leave out the first `skip` frames, then keep every step-th.

    Raises FileError for a file that is missing, holds no video or no frame after `skip`, or breaks off.
    """
    library = _ffmpeg('reading a video')
    if not Path(path).is_file():
        raise FileError(f'{path} is missing' if not Path(path).exists() else f'{path} is not a file')
    # Every frame once, as detectors see them: by default ffmpeg would even out the times between them.
    parameters = ['-fps_mode', 'passthrough']
    if largest:
        parameters += ['-vf', f"scale='min({largest},iw)':'min({largest},ih)':force_original_aspect_ratio=decrease"]
    # A path that begins with a dash or names a protocol would not be read as a file.
    reader = library.read_frames(str(Path(path).resolve()), output_params=parameters)
    try:
        about = next(reader)
        width, height = about['size']
        frames = (np.frombuffer(raw, np.uint8).reshape(height, width, 3) for raw in _watched(reader, path))
        frames = itertools.islice(frames, skip, None, step)
        first = next(frames, None)
        if first is None:
            raise FileError(f'{path} has no frames' + f' after the first {skip}' * bool(skip))
        yield Film(about['fps'] or None, tuple(about['source_size']), itertools.chain([first], frames))
    except (OSError, RuntimeError, KeyError, StopIteration) as error:
        raise FileError(f'{path} is not a readable video ({_last_line(error)})') from None
    finally:
        reader.close()


def _watched(reader: Iterator[bytes], path: Path) -> Iterator[bytes]:
    """The reader's frames; FileError where it fails, which the writer of the film would take for its own failure."""
    try:
        yield from reader
    except (OSError, RuntimeError) as error:
        raise FileError(f'{path} is not a readable video ({_last_line(error)})') from None


def _last_line(error: BaseException) -> str:
    """What ffmpeg says at last, fit for one line of a message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ''.join(c if c.isprintable() else '?' for c in lines[-1])[:120] if lines else 'it ends at once'


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
        _ffmpeg('writing MP4')
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
    library = _ffmpeg('writing MP4')
    writer = None
    try:
        for frame in frames:
            frame = np.ascontiguousarray(frame[:frame.shape[0] // 2 * 2, :frame.shape[1] // 2 * 2])
            if writer is None:
                size = frame.shape[1], frame.shape[0]
                writer = library.write_frames(path, size, fps=fps, bitrate=f'{bitrate}k', macro_block_size=2,
                                              codec='libx264', ffmpeg_log_level='error')
                writer.send(None)
            writer.send(frame)
    except OSError as error:
        raise FileError(f'cannot write MP4 ({_last_line(error)})') from None
    finally:
        if writer is not None:
            writer.close()
