"""Reading Acclaim's ASF skeletons and AMC motion, the format of the CMU database, and posing them.

The format is described in J. Lander, "Working with Motion Capture File Formats" (Game Developer, January 1998); units
and axes follow the database's FAQ (http://mocap.cs.cmu.edu/faqs.php). Letter: T frames.
"""

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import FileError
from common.skeleton import H36M
from common.storage.archive import DamagedArchive, inflate
from common.storage.files import most_inflated, one_line, read_regular

CENTIMETRES_PER_INCH = 2.54  # one unit is 1/length inches

# Each joint is the mean of the ends of these bones. The hip is the middle of the hip bones because the root itself lies
# 0.1 m above the line between them.
BONES_OF_JOINTS = {
    'hip': ('lhipjoint', 'rhipjoint'),
    'right_hip': ('rhipjoint',), 'right_knee': ('rfemur',), 'right_ankle': ('rtibia',),
    'left_hip': ('lhipjoint',), 'left_knee': ('lfemur',), 'left_ankle': ('ltibia',),
    'spine': ('lowerback',), 'thorax': ('lclavicle', 'rclavicle'), 'neck': ('upperneck',), 'head': ('head',),
    'left_shoulder': ('lclavicle',), 'left_elbow': ('lhumerus',), 'left_wrist': ('lradius',),
    'right_shoulder': ('rclavicle',), 'right_elbow': ('rhumerus',), 'right_wrist': ('rradius',),
}


@dataclass(frozen=True)
class Bone:
    """A bone as an ASF file describes it; two bones are equal where all their numbers are.

    Attributes:
        direction: in which the bone points in the rest pose, in world axes.
        length: ASF units.
        angles: degrees about the axes of `order`: the rotation of the bone's own frame C, to which the motion's angles
            refer.
        order: axes in the order in which the rotations about them are applied, such as 'xyz'.
        dof: names of the values that a frame of motion has for this bone, such as ('rx', 'ry', 'rz').
    """

    direction: tuple[float, ...] = (0.0, 0.0, 0.0)
    length: float = 0.0
    angles: tuple[float, ...] = (0.0, 0.0, 0.0)
    order: str = 'xyz'
    dof: tuple[str, ...] = ()


@dataclass
class Skeleton:
    """The content of an ASF file.

    Attributes:
        bones: by name, `root` among them.
        children: bone -> the bones that hang on it.
        root_position: ASF units.
        unit: metres per ASF unit.
    """

    bones: dict[str, Bone] = field(default_factory=dict)
    children: dict[str, tuple[str, ...]] = field(default_factory=dict)
    root_position: tuple[float, ...] = (0.0, 0.0, 0.0)
    unit: float = math.nan


def read_text(path: Path) -> str:
    """Read the text of a plain or gzipped file. Raises FileError where it cannot be read or is empty."""
    try:
        raw = read_regular(path)
        if raw and path.suffix.lower() == '.gz':
            raw = inflate(raw, most_inflated(len(raw)))
        text = raw.decode('utf-8-sig', errors='replace')
    except (DamagedArchive, zlib.error) as error:
        raise FileError(f'{path} is not a whole gzip file ({one_line(error)}); fetch it again') from None
    except OSError as error:
        raise FileError(f'cannot read {path}: {error.strerror}') from None
    if not text.strip():
        raise FileError(f'{path} is empty; fetch it again')
    return text


def lines_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, words) of each line of a file that is neither empty nor a comment."""
    for number, line in enumerate(read_text(path).split('\n'), 1):
        words = line.split()
        if words and words[0][0] != '#':
            yield number, words


def numbers(words: list[str], count: int) -> tuple[float, ...]:
    """Convert words to exactly `count` finite numbers. Raises ValueError that says what is wrong."""
    if len(words) != count:
        raise ValueError(f'{len(words)} values, expected {count}')
    try:
        values = tuple(map(float, words))
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise ValueError(f'"{" ".join(words)}", expected {count} finite numbers')
    return values


def read_asf(path: Path) -> Skeleton:
    """Parse an ASF skeleton. Raises FileError, with the line, where it cannot be understood or lacks a bone."""
    skeleton = _read_sections(path)
    if math.isnan(skeleton.unit):
        raise FileError(f'{path} says no length under :units')
    if not skeleton.bones['root'].dof:
        raise FileError(f'{path} says no order under :root')
    reached = _top_down(skeleton)
    for name in dict.fromkeys(bone for bones in BONES_OF_JOINTS.values() for bone in bones):
        if name not in reached:
            raise FileError(f'{path} has no bone {name} that hangs on the root, which the 17 joints need')
    return skeleton


def _read_sections(path: Path) -> Skeleton:
    """Parse the lines of an ASF file. Raises FileError, with the line, where one cannot be understood."""
    skeleton, section = Skeleton(bones={'root': Bone()}), ''
    bone: dict[str, Any] = {}
    for number, words in lines_of(path):
        try:
            if words[0].startswith(':'):
                section = words[0].lower()
            elif section == ':units':
                _read_unit(skeleton, words)
            elif section == ':root':
                _read_root(skeleton, words)
            elif section == ':bonedata':
                bone = _read_bone(skeleton, bone, words)
            elif section == ':hierarchy' and words[0] not in ('begin', 'end'):
                _read_children(skeleton, words)
        except ValueError as error:
            raise FileError(f'{path} line {number}: {error}') from None
    return skeleton


def _read_unit(skeleton: Skeleton, words: list[str]) -> None:
    if words[0] == 'length':
        length = numbers(words[1:], 1)[0]
        if length <= 0:
            raise ValueError(f'length {length:g}, expected more than 0')
        skeleton.unit = CENTIMETRES_PER_INCH / length / 100
    elif words[0] == 'angle' and words[1:] != ['deg']:
        raise ValueError(f'angles in {" ".join(words[1:])}, expected deg')


def _read_root(skeleton: Skeleton, words: list[str]) -> None:
    root = skeleton.bones['root']
    if words[0] == 'order':
        channels = tuple(word.lower() for word in words[1:])
        if sorted(channels) != ['rx', 'ry', 'rz', 'tx', 'ty', 'tz']:
            raise ValueError(f'root order {" ".join(words[1:])}, expected TX TY TZ RX RY RZ in some order')
        skeleton.bones['root'] = replace(root, dof=channels)
    elif words[0] == 'axis':
        skeleton.bones['root'] = replace(root, order=_axis_order(words[1:]))
    elif words[0] == 'position':
        skeleton.root_position = numbers(words[1:], 3)
    elif words[0] == 'orientation':
        skeleton.bones['root'] = replace(root, angles=numbers(words[1:], 3))


def _axis_order(words: list[str]) -> str:
    order = ' '.join(words).lower()
    if sorted(order) != ['x', 'y', 'z']:
        raise ValueError(f'axis order "{" ".join(words)}", expected XYZ or another order of the three')
    return order


def _read_bone(skeleton: Skeleton, bone: dict, words: list[str]) -> dict:
    """Parse one line of :bonedata; return the fields read so far of the current bone, empty after its end."""
    key, values = words[0], words[1:]
    if key == 'end':
        _add_bone(skeleton, bone)
        return {}
    if key == 'name':
        bone['name'] = ' '.join(values)
    elif key == 'direction':
        bone['direction'] = numbers(values, 3)
    elif key == 'length':
        bone['length'] = numbers(values, 1)[0]
    elif key == 'axis':
        bone['axis'] = numbers(values[:3], 3), _axis_order(values[3:])
    elif key == 'dof':
        bone['dof'] = tuple(word.lower() for word in values)
        if not set(bone['dof']) <= {'rx', 'ry', 'rz'} or len(set(bone['dof'])) < len(values):
            raise ValueError(f'dof {" ".join(values)}, expected some of rx ry rz')
    return bone  # `begin`, `id` and `limits` do not affect positions


def _add_bone(skeleton: Skeleton, fields: dict[str, Any]) -> None:
    """Add a bone of these fields to the skeleton. Raises ValueError for one that lacks a field or occurs twice."""
    missing = [name for name in ('name', 'direction', 'length', 'axis') if name not in fields]
    if missing:
        raise ValueError(f'bone {fields.get("name", "without a name")} has no {missing[0]}')
    name, (angles, order) = fields.pop('name'), fields.pop('axis')
    if name in skeleton.bones:
        raise ValueError(f'bone {name} occurs twice')
    skeleton.bones[name] = Bone(**fields, angles=angles, order=order)


def _read_children(skeleton: Skeleton, words: list[str]) -> None:
    unknown = [word for word in words if word not in skeleton.bones]
    if unknown:
        raise ValueError(f'the hierarchy names {unknown[0]}, which is not under :bonedata')
    taken = {child for children in skeleton.children.values() for child in children} | {'root'}
    twice = [child for child in words[1:] if child in taken]
    if twice:
        raise ValueError(f'bone {twice[0]} has two parents')
    skeleton.children[words[0]] = skeleton.children.get(words[0], ()) + tuple(words[1:])


def _top_down(skeleton: Skeleton) -> dict[str, str]:
    """Return bone -> parent for all bones below the root, parents first."""
    parents, reached = {}, ['root']
    for parent in reached:
        for child in skeleton.children.get(parent, ()):
            parents[child] = parent
            reached.append(child)
    return parents


def read_amc(path: Path, skeleton: Skeleton) -> dict[str, np.ndarray]:
    """Parse an AMC motion: for every bone that moves, its values (T, len(dof)), float64, as the file has them.

    Raises FileError, with the line, for values that are missing, too many or not numbers, and for frames that lack a
    bone or are not consecutive.
    """
    moving = {name: len(bone.dof) for name, bone in skeleton.bones.items() if bone.dof}
    frames: dict[int, dict] = {}
    for number, words in lines_of(path):
        try:
            _read_frame_line(frames, moving, words)
        except ValueError as error:
            raise FileError(f'{path} line {number}: {error}') from None
    try:
        _check_last_frame(frames, moving)
    except ValueError as error:
        raise FileError(f'{path} ends too early: {error}') from None
    rows = np.array([[value for name in moving for value in frame[name]] for frame in frames.values()])
    columns = np.split(rows, np.cumsum(list(moving.values()))[:-1], axis=1)
    return dict(zip(moving, columns, strict=True))


def _read_frame_line(frames: dict[int, dict], moving: dict[str, int], words: list[str]) -> None:
    """Parse one line, a frame's number or a bone's values, into `frames`; values belong to the last frame."""
    name = words[0]
    if name.startswith(':'):
        if name.lower() == ':radians':
            raise ValueError('angles in radians, expected :DEGREES')
    elif len(words) == 1 and name.isdecimal():
        if frames:
            last = _check_last_frame(frames, moving)
            if int(name) != last + 1:
                raise ValueError(f'frame {name} follows frame {last}')
        frames[int(name)] = {}
    elif not frames:
        raise ValueError(f'{name} comes before the first frame number')
    elif name not in moving:
        raise ValueError(f'{name} is not a bone that moves')
    else:
        frame = frames[next(reversed(frames))]
        if name in frame:
            raise ValueError(f'bone {name} occurs twice in a frame')
        try:
            frame[name] = numbers(words[1:], moving[name])
        except ValueError as error:
            raise ValueError(f'bone {name} has {error}') from None


def _check_last_frame(frames: dict[int, dict], moving: dict[str, int]) -> int:
    """Return the number of the last frame. Raises ValueError where it lacks a bone, or there is no frame."""
    if not frames:
        raise ValueError('there is no frame')
    number = next(reversed(frames))
    missing = [name for name in moving if name not in frames[number]]
    if missing:
        raise ValueError(f'frame {number} has no bone {missing[0]}')
    return number


def rotation(angles: np.ndarray, order: str) -> np.ndarray:
    """Return matrices (..., 3, 3) that rotate by angles (..., 3), degrees, about the fixed axes of `order`, in turn."""
    matrix = np.eye(3)
    for axis, angle in zip(order, np.moveaxis(np.radians(angles), -1, 0), strict=True):
        i, j, k = {'x': (0, 1, 2), 'y': (1, 2, 0), 'z': (2, 0, 1)}[axis]
        turn = np.zeros((*angle.shape, 3, 3))
        turn[..., i, i] = 1
        turn[..., j, j] = turn[..., k, k] = np.cos(angle)
        turn[..., k, j] = np.sin(angle)
        turn[..., j, k] = -turn[..., k, j]
        matrix = turn @ matrix
    return matrix


def _local_rotation(bone: Bone, values: np.ndarray) -> np.ndarray:
    """Return C M C^-1 (T, 3, 3), a bone's rotation out of its rest pose, from its values (T, len(dof))."""
    by_axis = dict(zip(bone.dof, values.T, strict=True))
    angles = np.stack([by_axis.get(f'r{axis}', np.zeros(len(values))) for axis in bone.order], axis=-1)
    frame = rotation(np.array(bone.angles), bone.order)
    return frame @ rotation(angles, bone.order) @ frame.T


def joint_positions(skeleton: Skeleton, motion: dict[str, np.ndarray]) -> np.ndarray:
    """Return the 17 joints (T, 17, 3), float64, in the source's axes (y up) and ASF units, by forward kinematics."""
    root, values = skeleton.bones['root'], motion['root']
    place = np.stack([values[:, root.dof.index(channel)] for channel in ('tx', 'ty', 'tz')], axis=-1)
    ends, turns = {'root': place + skeleton.root_position}, {'root': _local_rotation(root, values)}
    for name, parent in _top_down(skeleton).items():
        bone, turn = skeleton.bones[name], turns[parent]
        turns[name] = turn @ _local_rotation(bone, motion[name]) if bone.dof else turn  # (T, 3, 3)
        ends[name] = ends[parent] + turns[name] @ (bone.length * np.array(bone.direction))  # (T, 3)
    return np.stack([np.mean([ends[bone] for bone in BONES_OF_JOINTS[joint]], axis=0) for joint in H36M.joints], axis=1)
