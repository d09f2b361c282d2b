"""A lock on a folder, held for the life of a run, so that two runs never write into one folder."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from common.errors import FileError

try:
    import fcntl
except ImportError:  # not a Unix system: runs are then not kept apart
    fcntl = None  # type: ignore[assignment]

NAME = '.lock'


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which is made where it is missing.

    The kernel gives the lock up when the process ends, however it ends, so that a crash leaves nothing to clean up. The
    file stays, and says who held it last.

    Raises FileError, naming the process, where another one holds it, and where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise FileError(f'cannot use the checkpoint folder {folder}: {error.strerror}') from None
    try:
        if fcntl is not None:
            _take(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path) -> None:
    """Lock an open file, and write into it who holds it. Raises FileError where another process does."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = ''.join(c for c in os.read(descriptor, 200).decode(errors='replace') if c.isprintable())
        raise FileError(f'{folder} is in use by another run ({holder or "which does not say who it is"}): choose '
                        f'another -c, or wait until it has ended') from None
    except OSError:  # a file system without locks, such as some network ones
        return
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f'process {os.getpid()} on {socket.gethostname()} since {time.strftime("%Y-%m-%d %H:%M:%S")}'
             .encode())
