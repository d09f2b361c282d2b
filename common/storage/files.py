"""Atomic writing: a reader never sees half a file, whenever the process dies."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common.errors import FileError


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and rename it to `path`, on failure remove it.

    A symbolic link is followed, so that it stays a link to the file that is written. Raises FileError when the folder
    cannot be written, or when `path` exists and is not a regular file.
    """
    path = Path(path).resolve()
    if path.exists() and not path.is_file():
        raise FileError(f'cannot write {path}: it is not a regular file')
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.', suffix=path.suffix)
        os.close(descriptor)
    except OSError as error:
        raise FileError(f'cannot write {path}: {error.strerror}') from None
    temporary = Path(name)
    try:
        os.chmod(temporary, 0o666 & ~_umask())
        yield temporary
        with open(temporary, 'rb') as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise FileError(f'cannot write {path}: {error.strerror or error}') from None
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    """Return the process's mask of permissions, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
