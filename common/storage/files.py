"""Writing files so that a reader never sees half of one, whatever moment the process dies at."""

import contextlib
import os
import tempfile
from pathlib import Path

from common.errors import FileError


@contextlib.contextmanager
def atomic_path(path: Path):
    """Yield a temporary path beside `path`, synced and renamed to it on success, removed on failure.

    A link is followed, so that it goes on pointing at what was written. Raises FileError when the folder cannot be
    written, or when something else than a file has that name.
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
    mask = os.umask(0)
    os.umask(mask)
    return mask
