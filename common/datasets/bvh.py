"""Reading BVH motion: the CMU database as converted by B. Hahne (cgspeed.com), and what common/exports/bvh.py writes.

The form is described in J. Lander, "Working with Motion Capture File Formats" (Game Developer, January 1998). Bones are
called as MotionBuilder does, y is up, and each joint of the file lies where its bone begins. Where a joint has position
channels, they give its place in the axes of its parent instead of OFFSET, as animators' programs read them.

Letter: T frames.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from common.datasets.acclaim import CENTIMETRES_PER_INCH, lines_of, numbers, rotation
from common.errors import FileError
from common.skeleton import H36M
from common.storage.files import MIB, MOST_RATIO, one_line

# Each joint is the mean of these places, so that it is what acclaim.py makes of the same bones.
PLACES_OF_JOINTS = {
    'hip': ('LeftUpLeg', 'RightUpLeg'),
    'right_hip': ('RightUpLeg',), 'right_knee': ('RightLeg',), 'right_ankle': ('RightFoot',),
    'left_hip': ('LeftUpLeg',), 'left_knee': ('LeftLeg',), 'left_ankle': ('LeftFoot',),
    'spine': ('Spine',), 'thorax': ('LeftArm', 'RightArm'), 'neck': ('Head',), 'head': ('Head end',),
    'left_shoulder': ('LeftArm',), 'left_elbow': ('LeftForeArm',), 'left_wrist': ('LeftHand',),
    'right_shoulder': ('RightArm',), 'right_elbow': ('RightForeArm',), 'right_wrist': ('RightHand',),
}
# Where a file has no feet or hands: the End Sites of what they would hang on.
STAND_INS = {'LeftFoot': 'LeftLeg end', 'RightFoot': 'RightLeg end',
             'LeftHand': 'LeftForeArm end', 'RightHand': 'RightForeArm end'}
# Metres in a unit. BVH files do not tell theirs, and those of CMU keep the unit of their ASF files. Between neighbours
# lies a factor of more than 2.2, so that everyone is of a person's size in one of them at most.
UNITS = {'ASF unit (5.64 cm)': CENTIMETRES_PER_INCH / 0.45 / 100, 'centimetre': 0.01, 'metre': 1.0,
         'inch': CENTIMETRES_PER_INCH / 100, 'millimetre': 0.001}
SHORTEST, TALLEST = 1.1, 2.1  # metres from the ankles to the top of the head; 22 people of CMU have 1.45 to 1.64
FASTEST = 10.0  # m/s of the joints on average; in 61 takes of CMU it is at most 3.3
SLOWEST_RATE, FASTEST_RATE = 5, 1000  # frames per second
MOST_BYTES = 256 * MIB  # of text; the longest takes of CMU have some 20 MB
BLOCK = 4096  # frames that are posed at a time
CHANNELS = [f'{axis}{kind}' for kind in ('position', 'rotation') for axis in 'XYZ']


@dataclass(frozen=True)
class Bone:
    """A joint of the file with the bone that begins there, or an End Site.

    Attributes:
        parent: None for the root.
        offset: from where the parent begins to where it begins, in the rest pose; None until it is read.
        channels: such as ('Zrotation', 'Yrotation', 'Xrotation'): rotations in turn, each about the turned axes.
        column: of its first channel in a frame.
    """

    parent: str | None
    offset: tuple[float, ...] | None = None
    channels: tuple[str, ...] = ()
    column: int = 0


@dataclass
class Take:
    """The content of a BVH file.

    Attributes:
        bones: by name, parents first; the End Site of a bone is called `NAME end`.
        frames: (T, channels) float64.
        fps: frames per second.
    """

    bones: dict[str, Bone] = field(default_factory=dict)
    frames: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    fps: float = math.nan


def read_bvh(path: Path) -> Take:
    """Parse a BVH file, plain or gzipped.

    Raises FileError, with the line, where it cannot be understood, and for one that is not of a person with these
    names whose rest pose is upright along y.
    """
    size = path.stat().st_size * (MOST_RATIO if path.suffix.lower() == '.gz' else 1)
    if size > MOST_BYTES:
        raise FileError(f'{path} has {path.stat().st_size:,} bytes, more than any take of a person')
    lines = lines_of(path)
    hierarchy = _Hierarchy()
    number = 0
    for number, words in lines:
        try:
            if hierarchy.ended_by(words):
                break
        except ValueError as error:
            raise FileError(f'{path} line {number}: {error}') from None
    else:
        raise FileError(f'{path} line {number}: the file ends before MOTION: fetch or make it again')
    take = Take(hierarchy.bones)
    _check_person(path, take)
    take.frames, take.fps = _read_motion(path, number, lines, hierarchy.columns)
    return take


class _Hierarchy:
    """The bones read so far; `open` are those whose brackets are, the last of which is being read."""

    def __init__(self) -> None:
        self.bones: dict[str, Bone] = {}
        self.open: list[str] = []
        self.announced = ''  # the bone whose bracket comes next
        self.begun = False
        self.columns = 0

    def ended_by(self, words: list[str]) -> bool:
        """Take in a line; return whether it is the one that ends the hierarchy. Raises ValueError."""
        key = words[0].upper()
        if not self.begun:
            if [word.upper() for word in words] != ['HIERARCHY']:
                raise ValueError(f'"{one_line(" ".join(words), 60)}", expected HIERARCHY: is it a BVH file?')
            self.begun = True
        elif self.announced:
            if words != ['{']:
                raise ValueError(f'"{one_line(" ".join(words), 60)}", expected {{ after {self.announced}')
            self.open.append(self.announced)
            self.announced = ''
        elif key == 'MOTION':
            if self.open or not self.bones:
                raise ValueError(f'MOTION comes before the end of {self.open[-1] if self.open else "any ROOT"}')
            return True
        elif key in ('ROOT', 'JOINT', 'END'):
            self._announce(key, words)
        elif not self.open:
            raise ValueError(f'"{one_line(" ".join(words), 60)}", expected ROOT or MOTION')
        else:
            self._describe(self.open[-1], key, words[1:])
        return False

    def _announce(self, key: str, words: list[str]) -> None:
        """Take in the line that announces a bone."""
        parent = self.open[-1] if self.open else None
        if len(words) != 2:
            raise ValueError(f'"{one_line(" ".join(words), 60)}", expected {key} and one word')
        if (key == 'ROOT') != (parent is None) or (self.bones and parent is None):
            raise ValueError(f'{key} {one_line(words[1], 60)} stands where there can be none: expected one ROOT, and '
                             f'all else in its brackets')
        if parent and parent.endswith(' end'):
            raise ValueError(f'{one_line(words[1], 60)} hangs on an End Site')
        name = f'{parent} end' if key == 'END' else one_line(words[1], 60)
        if name in self.bones:
            raise ValueError(f'{name} occurs twice')
        self.bones[name] = Bone(parent)
        self.announced = name

    def _describe(self, name: str, key: str, values: list[str]) -> None:
        """Take in a line in the brackets of a bone."""
        bone = self.bones[name]
        if key == '}' and not values:
            if bone.offset is None:
                raise ValueError(f'{name} has no OFFSET')
            if bone.parent is None and not {'Xposition', 'Yposition', 'Zposition'} <= set(bone.channels):
                raise ValueError(f'the root {name} has no Xposition, Yposition and Zposition')
            self.open.pop()
        elif key == 'OFFSET' and bone.offset is None:
            self.bones[name] = replace(bone, offset=numbers(values, 3))
        elif key == 'CHANNELS' and not bone.channels and not name.endswith(' end'):
            known = {channel.lower(): channel for channel in CHANNELS}
            channels = tuple(known.get(value.lower(), '') for value in values[1:])
            if values[:1] != [str(len(channels))] or '' in channels or len(set(channels)) < len(channels):
                raise ValueError(f'channels "{one_line(" ".join(values), 60)}", expected their number and as many of '
                                 f'{", ".join(CHANNELS)}')
            self.bones[name] = replace(bone, channels=channels, column=self.columns)
            self.columns += len(channels)
        else:
            raise ValueError(f'"{one_line(" ".join([key, *values]), 60)}" does not belong into {name}')


def _check_person(path: Path, take: Take) -> None:
    """Raise FileError for a skeleton without these places, or whose rest pose is not upright along y."""
    names = dict.fromkeys(name for names in PLACES_OF_JOINTS.values() for name in names)
    for name in names:
        if name not in take.bones and STAND_INS.get(name) not in take.bones:
            hint = ': take the MotionBuilder-friendly conversion' if 'abdomen' in take.bones else ''
            missing = f'no End Site on {name[:-4]}' if name.endswith(' end') else f'no joint {name}'
            raise FileError(f'{path} has {missing}, which the 17 joints need{hint}')
    rest = _rest(take)
    up = rest['head'][1] - max(rest['left_ankle'][1], rest['right_ankle'][1])
    if not up > 0.7 * height(take):
        raise FileError(f'{path}: the rest pose, of its OFFSETs, does not stand upright along y')


def _read_motion(path: Path, number: int, lines: Iterator[tuple[int, list[str]]], columns: int,
                 ) -> tuple[np.ndarray, float]:
    """Read what follows MOTION in line `number`; return the frames (T, columns) and how many there are in a second.

    Raises FileError.
    """
    count, fps = 0, math.nan
    rows: list[np.ndarray] = []
    for index, (number, words) in enumerate(lines):
        try:
            if index == 0:
                count = _count(' '.join(words))
            elif index == 1:
                fps = _rate(' '.join(words))
            elif len(rows) == count:
                raise ValueError(f'there are more than the {count} frames that the file says it has')
            else:
                rows.append(_row(words, columns))
        except ValueError as error:
            raise FileError(f'{path} line {number}: {error}') from None
    if not rows or len(rows) < count:
        read = f'after {len(rows)} of {count} frames' if count else 'before Frames:'
        raise FileError(f'{path} line {number}: the file ends {read}: fetch or make it again')
    return np.stack(rows), fps


def _count(line: str) -> int:
    match = re.fullmatch(r'Frames: ?([0-9]{1,12})', line, re.IGNORECASE)
    if not match or not int(match[1]):
        raise ValueError(f'"{one_line(line, 60)}", expected Frames: and their number')
    return int(match[1])


def _rate(line: str) -> float:
    match = re.fullmatch(r'Frame Time: ?([^ ]+)', line, re.IGNORECASE)
    seconds = numbers([match[1]], 1)[0] if match else 0
    if not 1 / FASTEST_RATE <= seconds <= 1 / SLOWEST_RATE:
        raise ValueError(f'"{one_line(line, 60)}", expected Frame Time: and {1 / FASTEST_RATE} to {1 / SLOWEST_RATE} '
                         f'seconds')
    return round(1 / seconds, 2)  # .0083333 stands for 120 frames a second


def _row(words: list[str], columns: int) -> np.ndarray:
    """Return the values of a frame (columns,). Raises ValueError for other than that many finite numbers."""
    try:
        row = np.array(list(map(float, words)))
        if len(row) == columns and np.isfinite(row).all():
            return row
    except ValueError:
        pass
    if len(words) != columns:
        raise ValueError(f'{len(words)} values, but the channels of the file are {columns}')
    for index, word in enumerate(words, 1):
        try:
            numbers([word], 1)
        except ValueError:
            raise ValueError(f'value {index} is "{one_line(word, 30)}", expected a finite number') from None
    return np.array(row)


def joint_positions(take: Take) -> np.ndarray:
    """Return the 17 joints (T, 17, 3), float64, in the source's axes (y up) and unit, by forward kinematics."""
    blocks = range(0, len(take.frames), BLOCK)
    return np.concatenate([_pose(take, take.frames[start:start + BLOCK]) for start in blocks])


def _pose(take: Take, frames: np.ndarray) -> np.ndarray:
    """Return the 17 joints (T, 17, 3) of some frames (T, channels)."""
    of_joints = {joint: [name if name in take.bones else STAND_INS[name] for name in names]
                 for joint, names in PLACES_OF_JOINTS.items()}
    needed: set[str | None] = set()
    for names in of_joints.values():
        for name in names:
            at: str | None = name
            while at is not None and at not in needed:
                needed.add(at)
                at = take.bones[at].parent
    places: dict[str | None, np.ndarray] = {None: np.zeros((len(frames), 3))}
    turns: dict[str | None, np.ndarray] = {None: np.eye(3)}
    for name, bone in take.bones.items():
        if name not in needed:
            continue
        place = np.tile(np.array(bone.offset), (len(frames), 1))
        turned = {}  # axis -> degrees (T,)
        for channel, values in zip(bone.channels, frames.T[bone.column:], strict=False):
            if channel.endswith('rotation'):
                turned[channel[0].lower()] = values
            else:
                place[:, 'XYZ'.index(channel[0])] = values
        places[name] = places[bone.parent] + (turns[bone.parent] @ place[..., None])[..., 0]
        turns[name] = turns[bone.parent]
        if turned:  # about turned axes in turn is about fixed axes from the last to the first
            last_first = list(reversed(turned))
            angles = np.stack([turned[axis] for axis in last_first], axis=-1)
            turns[name] = turns[bone.parent] @ rotation(angles, ''.join(last_first))
    return np.stack([np.mean([places[name] for name in of_joints[joint]], axis=0) for joint in H36M.joints], axis=1)


def _rest(take: Take) -> dict[str, np.ndarray]:
    """Return joint -> place (3,) in the rest pose."""
    still = Take({name: replace(bone, channels=()) for name, bone in take.bones.items()})
    return dict(zip(H36M.joints, _pose(still, np.empty((1, 0)))[0], strict=True))


def height(take: Take) -> float:
    """Return how far it is, along the bones, from the ankles to the top of the head, in the file's unit."""
    rest = _rest(take)
    legs = [(f'{side}_hip', f'{side}_knee', f'{side}_ankle') for side in ('left', 'right')]
    leg, other, trunk = (sum(float(np.linalg.norm(rest[a] - rest[b])) for a, b in pairwise(chain))
                         for chain in (*legs, ('hip', 'spine', 'thorax', 'neck', 'head')))
    return (leg + other) / 2 + trunk


def unit_of(path: Path, take: Take) -> str:
    """Return the one of UNITS in which the person is of human size. Raises FileError where there is none."""
    for name, metres in UNITS.items():
        if SHORTEST <= height(take) * metres <= TALLEST:
            return name
    raise FileError(f'{path} is of a person of {height(take):.3g} units from the ankles to the top of the head, which '
                    f'is {SHORTEST} to {TALLEST} m in no usual unit: say with --bvh-unit how many centimetres one has')


def begins_in_rest(take: Take, joints: np.ndarray, unit: float) -> bool:
    """Return whether the first frame is not of the motion but a rest pose put before it.

    That is where nothing is turned but the root, unlike in the second frame, or where the joints (T, 17, 3) would have
    to move to the second frame faster than people do. `unit` is metres per unit.
    """
    if len(joints) < 2:
        return False
    columns = [bone.column + index for bone in take.bones.values() if bone.parent is not None
               for index, channel in enumerate(bone.channels) if channel.endswith('rotation')]
    first, second = take.frames[:2, columns]
    moved = np.linalg.norm(joints[1] - joints[0], axis=-1).mean() * unit
    return bool((not first.any() and second.any()) or moved * take.fps > FASTEST)
