"""Shared parts of the converters: flags, one-line errors, guarded foreign readers, counts, checked writing."""

import argparse
import contextlib
import importlib
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.cli.parser import Parser
from common.errors import FileError, FlagError
from common.skeleton import Skeleton
from common.storage.ending import EXIT_STATUS, Terminated, keep_standard_streams, terminable
from common.storage.files import atomic_path, one_line, open_regular, readable, shown
from common.storage.npz import read_npz

MOST_MEMORY = 2 * 2**30  # bytes that reading one raw file may take; the largest take has some megabytes


def make_parser(script: str, description: str, folder: str) -> Parser:
    """Make a parser of the flags that every converter has: FOLDER, described by `folder`, and --data DIR."""
    parser = Parser(prog=script, description=description)
    parser.add_argument('folder', type=Path, metavar='FOLDER', help=folder)
    parser.add_argument('--data', type=Path, metavar='DIR', default=Path('data'), help='output folder (default: data)')
    return parser


def add_force(parser: Parser) -> None:
    """Add the flag that accepts numbers of takes or frames other than those of the data set."""
    parser.add_argument('--force', action='store_true',
                        help='convert what is there, even where takes or frames are not as many as the data set has')


def run(parser: Parser, argv: list[str] | None, work: Callable[[argparse.Namespace], str]) -> int:
    """Parse the flags, call work(arguments), print the text it returns, and return the exit status.

    The status is 0, 1 for files, 2 for flags, 130 where interrupted, or 143 where SIGTERM came. Every error is one line
    on stderr.
    """
    keep_standard_streams()
    try:
        arguments = parser.parse_args(argv)
        # Numbers in foreign files may overflow; those that become infinite are refused by name later.
        with terminable(), np.errstate(all='ignore'):
            print(work(arguments))
    except Terminated:
        return _fail(parser, 'stopped by SIGTERM', EXIT_STATUS)
    except SystemExit as stop:  # raised by the parser after its one-line error or the help
        return int(stop.code or 0)
    except (FileError, FlagError) as error:
        return _fail(parser, error, error.exit_status)
    except OSError as error:
        return _fail(parser, f'{error.filename or "output"}: {error.strerror or error}', 1)
    except MemoryError:
        return _fail(parser, 'this does not fit in memory', 1)
    except KeyboardInterrupt:
        return _fail(parser, 'interrupted', 130)
    return 0


def _fail(parser: Parser, message: object, status: int) -> int:
    # Names of files can hold line breaks and codes that terminals obey.
    print(f'{parser.prog}: error: {one_line(message, 2000)}', file=sys.stderr)
    return status


# ---- reading ----------------------------------------------------------------------------------------------------


def existing(folder: Path) -> Path:
    """Return the folder. Raises FileError where it does not exist."""
    if not folder.is_dir():
        raise FileError(f'there is no folder {folder}')
    return folder


def package(name: str) -> Any:
    """Import a module that only converters need. Raises FileError that says how to install it where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise FileError(f'{name.split(".")[0]} is not installed, and these files need it: '
                        f'pip install -r data/requirements.txt') from None


@contextlib.contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Guard a foreign reader: turn anything it raises over a damaged file into FileError, and silence its warnings.

    Only regular files come to it, so that it waits for no pipe, and it gets no more than MOST_MEMORY beside what the
    process has already: some kilobytes of compressed zeros could otherwise fill all there is.
    """
    with readable(path, kind):
        open_regular(path).close()
        with warnings.catch_warnings(), _memory_bounded():
            warnings.simplefilter('ignore')
            yield


@contextlib.contextmanager
def time_bounded(path: Path, seconds: int = 10) -> Iterator[None]:
    """Raise FileError where reading a file takes longer, as a reader that follows damaged links in a circle does.

    Only on the main thread, and where the system has alarms.
    """
    if not hasattr(signal, 'SIGALRM'):
        yield
        return

    def stop(*_: object) -> None:
        raise FileError(f'{path} takes more than {seconds} s to read, which no sound file of its kind does: fetch or '
                        f'make it again')
    handler = signal.signal(signal.SIGALRM, stop)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # again each second, should a reader pass over it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)
        signal.signal(signal.SIGALRM, handler)


@contextlib.contextmanager
def _memory_bounded() -> Iterator[None]:
    """Let allocations beyond MOST_MEMORY raise MemoryError, where the system can bound those of a process."""
    try:
        import resource  # not on Windows
        pages = int(Path('/proc/self/statm').read_text().split()[0])  # not on a Mac
    except (ImportError, OSError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + MOST_MEMORY
    bounds = [bound for bound in (most, soft, hard) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(bounds), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def numbers(where: str, value: Any, shape: tuple, finite: bool = True) -> np.ndarray:
    """Return the value if it is an array of real numbers of this shape.

    Args:
        where: the place in the file, to begin messages with.
        shape: lengths of the axes; a word stands for any length but 0.
        finite: refuse NaN and infinity.

    Raises FileError for anything else.
    """
    if not isinstance(value, np.ndarray):
        what = one_line(value, 60) if isinstance(value, str) else type(value).__name__
        raise FileError(f'{where} is {what}, expected {_shape(shape)} numbers')
    fits = value.ndim == len(shape) and all(
        size == want or (isinstance(want, str) and size) for size, want in zip(value.shape, shape, strict=True))
    if not fits or value.dtype.kind not in 'fiu':
        what = {'O': 'objects', 'U': 'text', 'S': 'text'}.get(value.dtype.kind, 'numbers')
        raise FileError(f'{where} is {value.shape} {what}, expected {_shape(shape)} numbers')
    if finite and not np.isfinite(value).all():
        raise FileError(f'{where} holds NaN or infinite numbers')
    return value


def _shape(shape: tuple) -> str:
    if len(shape) == 1:
        return f'({shape[0]},)'
    return f'({", ".join(map(str, shape))})'


def metres(where: str, millimetres: np.ndarray) -> np.ndarray:
    """Convert millimetres to float32 metres. Raises FileError, beginning with `where`, for NaN and infinity."""
    return numbers(where, (millimetres / 1000).astype(np.float32), millimetres.shape)


# ---- checking ---------------------------------------------------------------------------------------------------


def check_counts(found: dict[str, int], known: dict[str, int], force: bool) -> None:
    """Compare counts with the known ones; the keys say what is counted.

    Raises FileError where they differ; with `force`, only prints a warning to stderr.
    """
    differences = [f'{name}: {found.get(name) or "none"}, expected {known.get(name) or "none"}'
                   for name in {**known, **found} if found.get(name, 0) != known.get(name, 0)]
    if not differences:
        return
    sentence, more = differences[0], len(differences) - 1
    if more:
        noun = 'differences' if more > 1 else 'difference'
        sentence += f' (and {more} more {noun})'
    if not force:
        raise FileError(f'{sentence}: complete or fetch the raw files again, or convert what is there with --force')
    print(f'warning: {sentence}', file=sys.stderr)


def check_form(where: str, value: Any, form: Any) -> None:
    """Check that a value read from an npz file has the form that it should have.

    A form is a dict of forms by key (the key `str` stands for one or more names), a list of forms, the shape of an
    array as for `numbers`, a type, or the value itself. Raises FileError, beginning with `where`, for another form.
    """
    if isinstance(form, dict):
        if not isinstance(value, dict) or not value:
            raise FileError(f'{where} is {type(value).__name__}, expected a dict that is not empty')
        for key in {**dict.fromkeys(key for key in form if key is not str), **value}:
            if key not in value or (key not in form and not (str in form and isinstance(key, str))):
                raise FileError(f'{where}: {shown(key)} is {"not there" if key in form else "unexpected"}')
            check_form(f'{where} {one_line(key, 60)}', value[key], form.get(key, form.get(str)))
    elif isinstance(form, list):
        if not isinstance(value, list) or len(value) != len(form):
            raise FileError(f'{where} is not a list of {len(form)}')
        for index, (item, item_form) in enumerate(zip(value, form, strict=True)):
            check_form(f'{where} {index}', item, item_form)
    elif isinstance(form, tuple):
        numbers(where, value, form)
    elif not (isinstance(value, form) if isinstance(form, type) else value == form):
        raise FileError(f'{where} is {shown(value)}, expected {form!r}')


def write_checked(path: Path, form: dict, **members: Any) -> Path:
    """Write a compressed npz, read it back to check its form, and return its path; make its folder where it is missing.

    Raises FileError when the file cannot be written or has another form; an older file of that name is then kept.
    """
    make_folder(path.parent)
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **members)
        try:
            check_form('its', read_npz(temporary), form)
        except FileError as error:
            raise FileError(f'{path} was not written: read back, {error}') from None
    return path


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where they are missing. Raises FileError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f'cannot make the folder {folder}: {error.strerror}') from None


def keypoints_metadata(layout: Skeleton) -> dict:
    """Return the metadata of a 2D file with this layout: layout_name, num_joints, keypoints_symmetry."""
    return {'layout_name': layout.name, 'num_joints': len(layout),
            'keypoints_symmetry': [list(layout.left), list(layout.right)]}


def summary(takes: dict[str, dict[str, int]], paths: list[Path]) -> str:
    """Return the text to print: a line of counts per subject, their sum, and the files written.

    Args:
        takes: subject -> take -> frames.
    """
    lines = [f'{subject:>21} {len(counts):4} sequences {sum(counts.values()):8} frames'
             for subject, counts in takes.items()]
    lines.append(f'{len(takes)} subjects, {sum(map(len, takes.values()))} sequences, '
                 f'{sum(sum(counts.values()) for counts in takes.values())} frames')
    return '\n'.join([*lines, wrote(paths)])


def wrote(paths: list[Path]) -> str:
    """Return the closing line, which names the files written."""
    return f'wrote {", ".join(map(str, paths))}'
