"""C3D, the marker files of biomechanics: positions in millimetres with y up, which POINT:X_SCREEN and Y_SCREEN say.

Markers are called as in the TRC.

Letters: T frames, J joints.
"""

import errno
import os
from pathlib import Path

import ezc3d
import numpy as np

from common.errors import FileError
from common.exports import holds
from common.exports.motion import Motion, evenly
from common.exports.trc import marker
from common.storage.files import one_line

MILLIMETRES = 1000
MOST_FRAMES = 65534  # readers take 65535, the largest number that the head holds, as one that stands elsewhere
BLOCK = 512  # bytes, of which files are made


def write(path: Path, motion: Motion, name: str) -> None:
    """Write a motion to a file that will be called `name`.

    Raises FileError for a clip of too many frames, and for names that ezc3d cannot write.
    """
    motion = evenly(motion)  # a C3D has one rate
    frames, joints = motion.positions.shape[:2]
    holds(Path(name), frames)
    if os.fsencode(path) != str(path).encode(errors='replace'):
        raise FileError(f'cannot write {one_line(name)}: ezc3d writes no name that is not UTF-8; choose another')
    content = ezc3d.c3d()
    for parameter, value in (('RATE', [motion.fps]), ('UNITS', ['mm']), ('X_SCREEN', ['+X']), ('Y_SCREEN', ['+Y']),
                             ('LABELS', [marker(joint) for joint in motion.skeleton.joints])):
        content.add_parameter('POINT', parameter, value)
    points = np.concatenate([MILLIMETRES * motion.positions, np.ones((frames, joints, 1))], axis=-1)
    content['data']['points'] = points.transpose(2, 1, 0)
    content.write(str(path))
    if not _whole(path, 4 * 4 * frames * joints):  # ezc3d does not tell that a disk is full
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _whole(path: Path, size: int) -> bool:
    """Tell whether so many bytes of positions are in a file behind its head, which says where they begin."""
    with open(path, 'rb') as file:
        start = int.from_bytes(file.read(BLOCK)[16:18], 'little')  # a block, counted from 1
    return start > 1 and os.path.getsize(path) >= BLOCK * (start - 1) + size
