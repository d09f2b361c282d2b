"""What the converters share: flags, errors as one line, foreign readers held in check, counts, checked writing."""

import contextlib
import importlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.cli.parser import Parser
from common.errors import FileError, FlagError
from common.storage.files import atomic_path
from common.storage.npz import first_line, read_npz


def make_parser(script: str, description: str, folder: str) -> Parser:
    """The flags that every converter has: FOLDER, described by `folder`, and --data DIR."""
    parser = Parser(prog=script, description=description)
    parser.add_argument('folder', type=Path, metavar='FOLDER', help=folder)
    parser.add_argument('--data', type=Path, metavar='DIR', default=Path('data'), help='output folder (default: data)')
    return parser


def add_force(parser: Parser) -> None:
    """Add the flag that takes another number of takes or frames than the data set has."""
    parser.add_argument('--force', action='store_true',
                        help='convert what is there, even where takes or frames are not as many as the data set has')


def run(parser: Parser, argv: list[str] | None, work: Callable) -> int:
    """Parse the flags, do work(arguments), print the text it returns; the exit status: 0, 1 (files), 2 (flags).

    Every error is one line on stderr.
    """
    try:
        arguments = parser.parse_args(argv)
        # What a foreign file holds may overflow; whatever becomes infinite is refused by name.
        with np.errstate(all='ignore'):
            print(work(arguments))
    except SystemExit as stop:  # the parser ends so, after its one line or the help
        return stop.code or 0
    except (FileError, FlagError) as error:
        return _fail(parser, error, error.exit_status)
    except OSError as error:
        return _fail(parser, f'{error.filename or "output"}: {error.strerror or error}', 1)
    except MemoryError:
        return _fail(parser, 'this does not fit in memory', 1)
    except KeyboardInterrupt:
        return _fail(parser, 'interrupted', 130)
    return 0


def _fail(parser: Parser, message, status: int) -> int:
    print(f'{parser.prog}: error: {" ".join(str(message).splitlines())}', file=sys.stderr)
    return status


# ---- reading ----------------------------------------------------------------------------------------------------


def existing(folder: Path) -> Path:
    """The folder itself. Raises FileError where there is none."""
    if not folder.is_dir():
        raise FileError(f'there is no folder {folder}')
    return folder


def package(name: str):
    """A module that only converters need. Raises FileError, saying how to install it, where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise FileError(f'{name.split(".")[0]} is not installed, and these files need it: '
                        f'pip install -r data/requirements.txt') from None


@contextlib.contextmanager
def reading(path: Path, kind: str):
    """Around a foreign reader: whatever it raises over a damaged file becomes FileError, its warnings stay unsaid."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    except FileError:
        raise
    except FileNotFoundError:
        raise FileError(f'{path} is missing') from None
    except MemoryError:
        raise FileError(f'{path} asks for more memory than there is') from None
    except Exception as error:  # damage makes these readers raise anything
        raise FileError(f'{path} is not a readable {kind} ({first_line(error)}); fetch or make it again') from None


def numbers(where: str, value, shape: tuple, finite: bool = True) -> np.ndarray:
    """The value, when it is an array of real numbers of this shape, in which a word stands for any length but 0.

    Raises FileError, beginning with `where`, for anything else, and for NaN and infinity unless `finite` is False.
    """
    if not isinstance(value, np.ndarray):
        what = value if isinstance(value, str) else type(value).__name__
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
    return f'({", ".join(map(str, shape))}{"," * (len(shape) == 1)})'


def metres(where: str, millimetres: np.ndarray) -> np.ndarray:
    """Finite millimetres as float32 metres. Raises FileError, beginning with `where`, for what is not finite."""
    return numbers(where, (millimetres / 1000).astype(np.float32), millimetres.shape)


# ---- checking ---------------------------------------------------------------------------------------------------


def check_counts(found: dict[str, int], known: dict[str, int], force: bool) -> None:
    """Compare counts, by what is counted, with the known ones.

    Raises FileError where they differ; with `force` that is a warning on stderr.
    """
    differences = [f'{name}: {found.get(name) or "none"}, expected {known.get(name) or "none"}'
                   for name in {**known, **found} if found.get(name, 0) != known.get(name, 0)]
    if not differences:
        return
    more = len(differences) - 1
    sentence = differences[0] + (f' (and {more} more difference{"s" * (more > 1)})' if more else '')
    if not force:
        raise FileError(f'{sentence}: complete or fetch the raw files again, or convert what is there with --force')
    print(f'warning: {sentence}', file=sys.stderr)


def check_form(where: str, value, form) -> None:
    """Compare the tree that an npz file holds with the form it should have.

    A form is a dict of forms by key (the key `str` stands for one or more names), a list of forms, the shape of an
    array as `numbers` takes it, a type, or the very value. Raises FileError, beginning with `where`.
    """
    if isinstance(form, dict):
        if not isinstance(value, dict) or not value:
            raise FileError(f'{where} is {type(value).__name__}, expected a dict that is not empty')
        for key in {**dict.fromkeys(key for key in form if key is not str), **value}:
            if key not in value or (key not in form and not (str in form and isinstance(key, str))):
                raise FileError(f'{where}: {key!r} is {"not there" if key in form else "unexpected"}')
            check_form(f'{where} {key}', value[key], form.get(key, form.get(str)))
    elif isinstance(form, list):
        if not isinstance(value, list) or len(value) != len(form):
            raise FileError(f'{where} is not a list of {len(form)}')
        for index, (item, item_form) in enumerate(zip(value, form, strict=True)):
            check_form(f'{where} {index}', item, item_form)
    elif isinstance(form, tuple):
        numbers(where, value, form)
    elif value != form if not isinstance(form, type) else not isinstance(value, form):
        raise FileError(f'{where} is {value!r}, expected {form!r}')


def write_checked(path: Path, form: dict, **members) -> Path:
    """Write a compressed npz into a folder, made if need be, unless it reads back in another form; returns its path.

    Raises FileError when the file cannot be written or is not of that form; an older file of that name then stays.
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
    """Make a folder and those above it, where they are missing. Raises FileError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f'cannot make the folder {folder}: {error.strerror}') from None


def keypoints_metadata(layout) -> dict:
    """What a 2D file says of its keypoints: layout_name, num_joints, keypoints_symmetry."""
    return {'layout_name': layout.name, 'num_joints': len(layout),
            'keypoints_symmetry': [list(layout.left), list(layout.right)]}


def summary(takes: dict[str, dict[str, int]], paths: list[Path]) -> str:
    """A line per subject of its takes and their frames, their sum, and what was written."""
    lines = [f'{subject:>21} {len(counts):4} sequences {sum(counts.values()):8} frames'
             for subject, counts in takes.items()]
    lines.append(f'{len(takes)} subjects, {sum(map(len, takes.values()))} sequences, '
                 f'{sum(sum(counts.values()) for counts in takes.values())} frames')
    return '\n'.join([*lines, wrote(paths)])


def wrote(paths: list[Path]) -> str:
    """The closing line."""
    return f'wrote {", ".join(map(str, paths))}'
