"""Files that a command is to write: what is wrong with them is told before the work begins."""

import errno
import os
import stat
from pathlib import Path

from common.config import TRAIN, Config, flag_of
from common.datasets import files_of
from common.errors import FileError
from common.exports import writer
from common.flag import files_named
from common.storage import checkpoint

# Fields that name a file to write, and files to read.
WRITTEN = ('evaluate.results', 'evaluate.export_predictions', 'render.output', 'render.export', 'predict.npz',
           'predict.csv', 'predict.export', 'run.export_model')
CHECKPOINTS = ('evaluate.evaluate', 'train.init', 'train.resume', 'render.compare')
READ = ('predict.predict', 'render.video')
LONGEST_NAME = 255  # bytes, of every usual file system


def check_outputs(config: Config) -> None:
    """Raise FileError now, and not after hours, for an output that cannot be written or would destroy an input.

    Nor can one be written whose package is missing.
    """
    read = {name: told for path, told in _inputs(config) for name in _identities(path)}
    for written, value in ((name, value) for name in WRITTEN for value in files_named(config.value(name))):
        try:
            check_writable(value)
        except FileError as error:
            if config.has(written):
                raise
            raise FileError(f'{error}; name another file with {flag_of(*written.split(".")).name}') from None
        for identity in _identities(Path(value)):
            if identity in read:
                raise FileError(f'{flag_of(*written.split(".")).name} {value} would be written over {read[identity]}: '
                                f'choose another name')
    if config.predict.export:
        writer(Path(config.predict.export))
    if any(name.endswith('.mp4') for name in config.render.output or ()):
        from common.drawing.video import mp4_writer  # Pillow takes a moment to import
        mp4_writer()
    if config.evaluate.plots:
        _check_folder(config.evaluate.plots)


def check_writable(name: str) -> None:
    """Raise FileError for a file whose folder is missing or cannot be written, or that is not a regular one."""
    if os.path.isdir(name):
        raise FileError(f'cannot write {name}: it is a folder')
    if name.startswith(('/dev/', '/proc/')):
        raise FileError(f'cannot write {name}: it is not a regular file')
    target = Path(os.path.realpath(name))  # a link is followed, also one whose file is still to be made
    try:
        regular = stat.S_ISREG(os.stat(target).st_mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileError(f'cannot write {name}: it is a link to itself') from None
        if error.errno == errno.ENAMETOOLONG:
            raise FileError(f'cannot write {name[:40]}…: its name is too long') from None
        regular = True
    if not regular:
        raise FileError(f'cannot write {name}: it is not a regular file')
    for folder in {Path(name).parent, target.parent}:
        if not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise FileError(f'cannot write {name}: folder {folder} is missing or read-only')


def _check_folder(name: str) -> None:
    """Raise FileError for a folder of plots that is none, or cannot be written."""
    if os.path.lexists(name) and not os.path.isdir(name):
        raise FileError(f'cannot write to {name}: it is not a folder')
    if len(os.fsencode(Path(name).name)) > LONGEST_NAME:
        raise FileError(f'cannot write to {name[:40]}…: its name is too long')
    if not os.access(name if os.path.isdir(name) else Path(name).parent, os.W_OK):
        raise FileError(f'cannot write to {name}: it, or the folder it is to lie in, is missing or read-only')


def _inputs(config: Config) -> list[tuple[Path, str]]:
    """Return (file, what it is) of all that a command reads, and of a run's own checkpoints."""
    folder = Path(config.run.checkpoint)
    found = []
    for name in CHECKPOINTS:
        if value := config.value(name):
            found += [(folder / value, f'the checkpoint {value}'), (Path(value), f'the checkpoint {value}')]
    found += [(Path(value), value) for name in READ if (value := config.value(name))]
    if config.predict.predict is None:
        dataset = config.data.dataset
        found += [(path, f'the data file {path}') for path in files_of(dataset, Path(config.data.folder),
                                                                       config.data.keypoints)]
    if config.command == TRAIN:
        found += [(folder / name, f'the checkpoint {folder / name} of this run')
                  for name in (checkpoint.LAST, checkpoint.PREVIOUS, checkpoint.BEST)]
    return found


def _identities(path: Path) -> list[object]:
    """Return what a file is known by: its real path, and where it exists its place on the disk (for hard links)."""
    real = os.path.realpath(path)
    try:
        status = os.stat(real)
    except OSError:
        return [real]
    return [real, (status.st_dev, status.st_ino)]
