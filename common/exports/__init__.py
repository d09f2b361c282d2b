"""Lifted motion in the files of other programs: a module a kind of file, chosen by suffix and imported when asked for.

A module offers `write(path, motion, name)`, which writes a motion to the file `path` that will be called `name`, and
raises FileError where such a file cannot hold it.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from common.errors import FileError
from common.storage.files import atomic_path, suffix_of

if TYPE_CHECKING:
    from common.exports.motion import Motion

EXPORTS = {'.trc': 'trc', '.c3d': 'c3d', '.bvh': 'bvh', '.glb': 'glb'}  # suffix -> module
PACKAGES = {'.c3d': 'ezc3d', '.glb': 'pygltflib'}  # suffix -> what its module needs beside numpy


def export(path: Path, motion: Motion) -> None:
    """Write a motion to the kind of file that the suffix of `path` says, one of EXPORTS.

    Raises FileError where it cannot be written, or cannot hold such a body or clip.
    """
    with atomic_path(path) as temporary:
        writer(path).write(temporary, motion, path.name)


def holds(path: Path, frames: int) -> None:
    """Raise FileError for a file of a kind that cannot hold so many frames."""
    most = getattr(writer(path), 'MOST_FRAMES', frames)
    if frames > most:
        raise FileError(f'cannot write {path}: a {suffix_of(path)[1:].upper()} holds at most {most:,} frames, got '
                        f'{frames:,}; cut the clip into parts, or choose .trc')


def writer(path: Path) -> ModuleType:
    """Return the module that writes the kind of file that the suffix of `path` says.

    Raises FileError where a package that it needs is missing, which is asked before anything is lifted.
    """
    suffix = suffix_of(path)
    try:
        if suffix in PACKAGES:
            importlib.import_module(PACKAGES[suffix])
    except ImportError:
        raise FileError(f'writing {path} needs {PACKAGES[suffix]}: pip install {PACKAGES[suffix]}') from None
    return importlib.import_module(f'common.exports.{EXPORTS[suffix]}')
