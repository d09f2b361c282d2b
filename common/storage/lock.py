"""A lock on a folder, held for the life of a run, so that two runs never write into one folder."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from common.errors import FileError, FlagError
from common.storage.files import one_line

try:
    import fcntl
except ImportError:  # not a Unix system: runs are then not kept apart
    fcntl = None  # type: ignore[assignment]

NAME = '.lock'


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which is made where it is missing.

    The kernel gives the lock up when the process ends, however it ends, so that a crash keeps nobody out. The file of
    the lock is deleted at the end; one that a kill left says who held it last.

    Raises FileError, naming the process, where another one holds it, and where the folder cannot be written.
    """
    if fcntl is None:
        yield
        return
    try:
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _take(folder)
    except OSError as error:
        raise FileError(f'cannot use the checkpoint folder {folder}: {error.strerror}') from None
    refused = False
    try:
        yield
    except (FileError, FlagError):
        refused = True
        raise
    finally:
        (folder / NAME).unlink(missing_ok=True)  # while it is still held, so that nobody else's is deleted
        os.close(descriptor)
        if made and refused:
            with contextlib.suppress(OSError):  # a run that never began leaves no folder
                folder.rmdir()


def _take(folder: Path) -> int:
    """Return the open and locked file of a folder, with who holds it written into it. Raises FileError or OSError."""
    while True:
        descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = one_line(os.read(descriptor, 200).decode(errors='replace'), 120)
            os.close(descriptor)
            raise FileError(f'{folder} is in use by another run ({holder or "which does not say who it is"}): choose '
                            f'another -c, or wait until it has ended') from None
        except OSError:  # a file system without locks, such as some network ones: runs are not kept apart there
            return descriptor
        if os.path.exists(folder / NAME) and os.path.samestat(os.fstat(descriptor), os.stat(folder / NAME)):
            break
        os.close(descriptor)  # who held it has just deleted this file
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f'process {os.getpid()} on {socket.gethostname()} since {time.strftime("%Y-%m-%d %H:%M:%S")}'
             .encode())
    return descriptor
