"""Lifted motion in the files of other programs: a module a kind of file, chosen by suffix and imported when asked for.

A module offers `write(file, motion, name)`, which writes text to an open file that will be called `name`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from common.storage.files import atomic_path

if TYPE_CHECKING:
    from common.exports.motion import Motion

EXPORTS = {'.trc': 'trc', '.bvh': 'bvh'}  # suffix -> module


def export(path: Path, motion: Motion) -> None:
    """Write a motion to the kind of file that the suffix of `path` says, one of EXPORTS.

    Raises FileError where it cannot be written, or cannot hold such a body.
    """
    module = importlib.import_module(f'common.exports.{EXPORTS[path.suffix]}')
    with atomic_path(path) as temporary, open(temporary, 'w', encoding='utf-8', newline='\n') as file:
        module.write(file, motion, path.name)
