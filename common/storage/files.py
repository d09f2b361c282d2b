"""Reading regular files only, atomic writing, and how a value from a file stands in a message.

A reader never sees half a file, whenever the process dies; and never waits for a pipe or reads a device for ever.
"""

import contextlib
import errno
import os
import reprlib
import socket
import stat
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from common.errors import FileError
from common.storage.ending import held_back

MIB = 2 ** 20
# What a compressed file may hold: this many bytes, or this many for each of its own where that is more. Poses and
# keypoints shrink to a half or a third; a file made to fill the memory shrinks to a thousandth.
MOST_INFLATED, MOST_RATIO = 256 * MIB, 32
# No file of weights or poses is larger.
MOST_READ = 16 * 1024 * MIB


def most_inflated(size: int) -> int:
    """Return the most bytes that a compressed file of this size may hold."""
    return max(MOST_INFLATED, MOST_RATIO * size)


# ---- reading ----------------------------------------------------------------------------------------------------


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises OSError where it cannot be opened, and FileError for a pipe, a device or a socket, which it never opens, and
    for a file that is too large to be one of weights or poses.
    """
    _check_regular(path, os.stat(path))
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | getattr(os, 'O_CLOEXEC', 0))
    try:
        _check_regular(path, os.fstat(descriptor))  # another file may have come to lie there
        return os.fdopen(descriptor, 'rb')
    except BaseException:
        os.close(descriptor)
        raise


def _check_regular(path: Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise FileError(f'cannot read {path}: it is not a regular file')
    if status.st_size > MOST_READ:
        raise FileError(f'cannot read {path}: it has {status.st_size:,} bytes, expected at most {MOST_READ:,}')


def read_regular(path: Path) -> bytes:
    """Return the content of a regular file. Raises what `open_regular` raises."""
    with open_regular(path) as file:
        return file.read()


@contextlib.contextmanager
def readable(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a reader raises over a missing or damaged file into FileError, which names the file."""
    try:
        yield
    except FileError:
        raise
    except FileNotFoundError:
        raise FileError(f'{path} is missing') from None
    except MemoryError:
        raise FileError(f'{path} asks for more memory than there is') from None
    except Exception as error:  # over damaged files zipfile, codecs, numpy, pickle and others can raise anything
        raise FileError(f'{path} is not a readable {kind} ({first_line(error)}); fetch or make it again') from None


# ---- messages ---------------------------------------------------------------------------------------------------


class _Repr(reprlib.Repr):
    """Shows the beginning of any plain value."""

    def repr_int(self, x: int, level: int) -> str:
        """Return a number; Python refuses to write out those of more than some thousand digits."""
        return super().repr_int(x, level) if x.bit_length() < 4096 else f'a number of {x.bit_length()} bits'


def shown(value: Any, most: int = 60) -> str:
    """Return a value from a file, quoted and cut, fit for a part of one line whatever it is."""
    return one_line(_Repr().repr(value), most)


def one_line(text: object, most: int = 120) -> str:
    """Return a text as printable characters in one line, cut."""
    return ''.join(c if c.isprintable() else '?' for c in ' '.join(str(text)[:4 * most].split()))[:most]


def first_line(error: BaseException) -> str:
    """Return the start of a library's error message, to be quoted in one of ours; its type where it is empty."""
    return one_line((str(error).splitlines() or [''])[0]) or type(error).__name__


# ---- writing ----------------------------------------------------------------------------------------------------


# Part of the names of temporary files, so that one left by a killed process is known from those of other machines.
_HOST = f'{zlib.crc32(socket.gethostname().encode()):08x}'


def _clear_stale(folder: Path, start: str) -> None:
    """Delete temporary files of these names whose process was killed on this machine."""
    for name in os.listdir(folder):
        number = name[len(start):].partition('.')[0]
        if name.startswith(start) and number.isdecimal() and not _alive(int(number)):
            with contextlib.suppress(OSError):
                os.unlink(folder / name)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def suffix_of(path: Path) -> str:
    """Return what a name ends in, from its last dot on; .onnx alone has no suffix for pathlib."""
    return '.' + path.name.rpartition('.')[2]


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and rename it to `path`, on failure remove it.

    A symbolic link is followed, so that it stays a link to the file that is written. The temporary name ends like
    `path` as it is given, after the last dot, since writers choose formats and append suffixes by that. Raises
    FileError when the folder cannot be written, when `path` exists and is not a regular file, and when something was
    written beside the temporary file.
    """
    _, dot, ending = Path(path).name.rpartition('.')  # .npz alone has no suffix for pathlib, but has for numpy
    try:
        path = Path(path).resolve()
    except (OSError, RuntimeError):  # of a link to itself, as of Python 3.11
        raise FileError(f'cannot write {path}: its links lead nowhere') from None
    if path.exists() and not path.is_file():
        raise FileError(f'cannot write {path}: it is not a regular file')
    temporary = None
    try:
        with held_back():  # no moment may lie between making the file and knowing of it
            temporary = _make_temporary(path, dot + ending)
        os.chmod(temporary, 0o666 & ~_umask())
        yield temporary
        if list(_beside(temporary)):
            raise FileError(f'cannot write {path}: what wrote it appended to its name; choose a usual one')
        with open(temporary, 'rb') as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise FileError(f'cannot write {path}: {error.strerror or error}') from None
    finally:
        with held_back():
            for appended in () if temporary is None else (temporary, *_beside(temporary)):
                appended.unlink(missing_ok=True)


def _make_temporary(path: Path, ending: str) -> Path:
    """Make an empty file beside `path`, whose name ends so. Raises OSError."""
    stem = path.name if len(os.fsencode(path.name)) < 200 else path.name[:40]
    _clear_stale(path.parent, f'.{stem}.{_HOST}-')
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{stem}.{_HOST}-{os.getpid()}.', suffix=ending[:40])
    os.close(descriptor)
    return Path(name)


def _beside(temporary: Path) -> Iterator[Path]:
    """Yield the files that a writer made by appending to the name of the temporary file, which is nobody else's."""
    with contextlib.suppress(OSError):
        for name in os.listdir(temporary.parent):
            if name.startswith(temporary.name) and name != temporary.name:
                yield temporary.parent / name


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file open for writing that takes the place of `path` on success: see `atomic_path`.

    Whatever `path` is called, nothing can append to its name. Raises FileError.
    """
    with atomic_path(path) as temporary, open(temporary, 'w+b') as file:
        yield file


def _umask() -> int:
    """Return the process's mask of permissions, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
