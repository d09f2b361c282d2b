"""BVH, the motion files of animators: a tree of bones in a rest pose, and the rotation of each in each frame.

Y is up and the unit is the centimetre. Every bone is a joint of the file that lies where the bone begins; rig.py says
how they are found. Rotations are Rz·Rx·Ry, as the file says with its channels Zrotation Xrotation Yrotation.

Letters: T frames.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common.errors import FileError
from common.exports.motion import Motion, evenly
from common.exports.rig import Bone, bones_of

CENTIMETRES = 100


def write(path: Path, motion: Motion, name: str) -> None:
    """Write a motion to a file that will be called `name`. Raises FileError for a body that has no limbs."""
    motion = evenly(motion)  # a BVH has one time from frame to frame
    try:
        root, bones = bones_of(motion.skeleton, CENTIMETRES * motion.positions)
    except ValueError as error:
        raise FileError(f'cannot write {name}: {error}') from None
    rows = np.concatenate([root, *(_angles(bone.turned) for bone in bones)], axis=1)
    with open(path, 'w', encoding='utf-8', newline='\n') as file:
        file.write('HIERARCHY\n')
        file.writelines(_tree(bones, bones[0], ''))
        file.write(f'MOTION\nFrames: {len(root)}\nFrame Time: {1 / motion.fps:.8f}\n')
        np.savetxt(file, rows, fmt='%.5f')


def _tree(bones: list[Bone], bone: Bone, indent: str) -> Iterator[str]:
    """Yield the lines of a bone and of those that hang on it."""
    inside = indent + '\t'
    position, kind = ('6 Xposition Yposition Zposition', 'ROOT') if bone.parent is None else ('3', 'JOINT')
    yield f'{indent}{kind} {bone.name}\n{indent}{{\n'
    yield f'{inside}OFFSET {_numbers(bone.offset)}\n{inside}CHANNELS {position} Zrotation Xrotation Yrotation\n'
    held = [other for other in bones if other.parent is bone]
    for other in held:
        yield from _tree(bones, other, inside)
    if not held:
        yield f'{inside}End Site\n{inside}{{\n{inside}\tOFFSET {_numbers(bone.tip)}\n{inside}}}\n'
    yield f'{indent}}}\n'


def _numbers(vector: np.ndarray) -> str:
    return ' '.join(f'{value + 0:.5f}' for value in vector)  # + 0 makes 0 of -0


def _angles(rotation: np.ndarray) -> np.ndarray:
    """Return z, x, y in degrees (T, 3) of rotations Rz·Rx·Ry (T, 3, 3), without jumps by whole turns over time."""
    x = np.arcsin(np.clip(rotation[:, 2, 1], -1, 1))
    locked = np.hypot(rotation[:, 0, 1], rotation[:, 1, 1]) < 1e-7  # z and y turn about the same axis there
    z = np.where(locked, np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0]),
                 np.arctan2(-rotation[:, 0, 1], rotation[:, 1, 1]))
    y = np.where(locked, 0, np.arctan2(-rotation[:, 2, 0], rotation[:, 2, 2]))
    return np.degrees(np.unwrap(np.stack([z, x, y], axis=-1), axis=0))
