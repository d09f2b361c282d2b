"""Recognising the layout of a file's keypoints, and converting them to the layout that a lifter reads.

Letters: T frames, K keypoints of the file, L keypoints of the lifter.
"""

from collections.abc import Container
from pathlib import Path

import numpy as np

from common.errors import FileError, FlagError
from common.keypoints import bones
from common.keypoints.bones import evenness, stature
from common.keypoints.known import LAYOUTS, flat, joint_name, with_base_of_neck
from common.keypoints.values import quoted
from common.skeleton import STAND_INS, Skeleton

__all__ = ['LAYOUTS', 'better_layout', 'conversion', 'evenness', 'find_layout', 'stature', 'usable_keypoints']

# By how much a layout must fit better than another one to be told from it by bones, and what the bones of people have.
CLEARLY, PLAUSIBLE = 0.07, 0.4
LONGEST_NAMES = 1 << 16  # bytes of a file of names
# Points that a detector lacks, as weighted sums of points that it has; the first possible sum is used. Head and neck
# from the face follow MHFormer's demo; from the trunk alone they follow CMU's motion, with errors of some 4 cm.
_TRUNK = ('left_shoulder', 'right_shoulder', 'left_hip', 'right_hip')


def _above(height: float) -> dict[str, float]:
    """Return the weights of the point on the trunk's axis that is `height` trunk lengths above the shoulders."""
    return dict(zip(_TRUNK, ((1 + height) / 2, (1 + height) / 2, -height / 2, -height / 2), strict=True))


_BESIDE_HEAD = ({'nose': 1.0}, {'neck': 0.5, 'head': 0.5}, _above(0.33))
ESTIMATES = {
    'head': ({'left_eye': 0.75, 'right_eye': 0.75, 'left_ear': 0.25, 'right_ear': 0.25, 'nose': -1.0}, _above(0.42)),
    'neck': ({'nose': 0.75, 'thorax': 0.25}, {'head': 0.5, 'thorax': 0.5}, _above(0.25)),
    'nose': ({'neck': 1.0}, {'head': 1.0}, _above(0.25)),
    **{name: _BESIDE_HEAD for name in ('left_eye', 'right_eye', 'left_ear', 'right_ear')},
}
# A keypoint of the head or trunk is used if it is seen in this share of the frames with a person, else estimated.
OFTEN = 0.5
FACE_OR_TRUNK = {'nose', 'left_eye', 'right_eye', 'left_ear', 'right_ear', 'head', 'neck', 'thorax', 'spine', 'hip'}


def find_layout(points: np.ndarray, asked: str, usual: tuple[str | Skeleton, ...], kind: str) -> tuple[Skeleton, str]:
    """Find the layout of (T, K, 2) points; return it and, in words, how it was found.

    Args:
        asked: value of --layout: a name, a file of names, or `auto`: what the file itself says; else the one layout
            whose bones fit, or, of several that do, the usual one of such a file.
        usual: names of the layouts that such a file usually has; a Skeleton is what this file says that it has.
        kind: the kind of file, in words.

    Raises FileError where no layout, or not the one asked for, has so many keypoints, or where several may be meant;
    FlagError for a file of names that is none.
    """
    count = points.shape[1]
    if asked != 'auto':
        return _asked_layout(points, asked, kind), 'as --layout says'
    said = [layout for layout in usual if isinstance(layout, Skeleton)]
    if said and len(said[0]) == count:
        return said[0], 'as the file says (--layout says otherwise)'
    candidates = _of_count(count)
    if not candidates:
        sizes = ', '.join(f'{name} {len(layout)}' for name, layout in LAYOUTS.items())
        raise FileError(f'{kind} has {count} keypoints, which no known layout has; there are {sizes}; for another one, '
                        f'write the joint names of its keypoints into a text file, a line each, and give it to '
                        f'--layout')
    return _by_bones(points, candidates, tuple(name for name in usual if isinstance(name, str)), kind)


def _by_bones(points: np.ndarray, candidates: list[Skeleton], usual: tuple[str, ...],
              kind: str) -> tuple[Skeleton, str]:
    """Find the one candidate whose bones fit, or the usual one of several; as `find_layout`."""
    how = f'by its {points.shape[1]} keypoints'
    first = next((layout for name in usual for layout in candidates if layout.name == name), None)
    if len(candidates) == 1:
        return candidates[0], f'{how} (--layout says otherwise)'
    close = _that_fit(points, candidates)
    if not close:  # whichever it is, `refuse_mistakes` says that it cannot be
        return first or candidates[0], f'{how} alone (--layout says otherwise)'
    if len(_different(close, points)) == 1:
        return close[0], f'{how} and the lengths of its bones (--layout says otherwise)'
    if first in close:
        return first, f'{how} and the kind of file (--layout says otherwise)'
    raise FileError(f'{kind} has {points.shape[1]} keypoints, and its bones fit layouts {_names(close)}: say which '
                    f'with --layout')


def _that_fit(points: np.ndarray, candidates: list[Skeleton]) -> list[Skeleton]:
    """Return the layouts in which the bones may be a person's, without those that fit clearly worse than the best."""
    fits = np.nan_to_num([evenness(points, layout) for layout in candidates])
    least = max(PLAUSIBLE, fits.max(initial=0) - CLEARLY)
    return [layout for layout, fit in zip(candidates, fits, strict=True) if fit >= least]


def _different(layouts: list[Skeleton], points: np.ndarray) -> set[tuple[str, ...]]:
    """Return the different orders of names that layouts give to the keypoints that are seen at all."""
    seen = np.flatnonzero(np.isfinite(points).all(axis=-1).any(axis=0))
    return {tuple(layout.joints[k] for k in seen) for layout in layouts}


def _asked_layout(points: np.ndarray, asked: str, kind: str) -> Skeleton:
    """Return the layout that --layout names. Raises FileError where it has another number of keypoints."""
    layout, count = LAYOUTS.get(asked) or read_names(Path(asked)), points.shape[1]
    if len(layout) == count:
        return layout
    fits = _that_fit(points, _of_count(count))
    instead = f'its bones fit {_names(fits)}' if fits else \
        f'give --layout a text file with the names of its {count} keypoints, a line each'
    raise FileError(f'{kind} has {count} keypoints, but --layout {quoted(asked)} has {len(layout)}; {instead}')


def read_names(path: Path) -> Skeleton:
    """Read a layout from a text file: a line per keypoint with a joint's name, or - for one that is not used.

    Raises FlagError for a file that is missing or has names that are not known, or not those of a whole body.
    """
    try:
        with open(path, 'rb') as file:
            text = file.read(LONGEST_NAMES).decode('utf-8')
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else 'it is not text'
        raise FlagError(f'--layout {quoted(path)}: it is no layout ({", ".join(LAYOUTS)}), nor a readable file of '
                        f'joint names ({reason})') from None
    joints: list[str] = []
    for number, line in enumerate(text.splitlines()):
        word = line.split('#')[0].strip()
        joint = f'extra_{number}' if word == '-' else joint_name(word)
        if joint is None or joint in joints:
            problem = 'is there twice' if joint else 'is no name of a joint; write - for a keypoint that is not used'
            raise FlagError(f'--layout {quoted(path)}: line {number + 1}, {quoted(word)}, {problem}')
        joints.append(joint)
    joints = with_base_of_neck(joints)
    missing = [name for pair in bones.LIMBS for name in pair[:2] if name not in joints]
    if missing:
        raise FlagError(f'--layout {quoted(path)}: it names no {missing[0]}, which a lifter needs')
    return flat(f'of {quoted(path.name)}', tuple(joints))


def _of_count(count: int) -> list[Skeleton]:
    return [layout for layout in LAYOUTS.values() if len(layout) == count]


def _names(layouts: list[Skeleton]) -> str:
    return ' and '.join(layout.name for layout in layouts)


def better_layout(points: np.ndarray, layout: Skeleton) -> tuple[str, float]:
    """Return the name of the equally large layout that the bones fit best, and its evenness."""
    fits = {other.name: evenness(points, other) for other in (layout, *_of_count(len(layout)))}
    return max(fits.items(), key=lambda item: np.nan_to_num(item[1]))


def conversion(wanted: Skeleton, given: Skeleton, usable: np.ndarray) -> tuple[np.ndarray, dict[str, tuple[str, ...]]]:
    """Return the float64 matrix (L, K) from the file's keypoints to the lifter's, by name; each row sums to 1.

    Args:
        usable: (K,) bool, the keypoints that may be used.

    Returns the matrix, and for each point that is combined from others its name -> their names.
    Raises FileError for a point that is not usable and cannot be combined from others.
    """
    have = {name: k for k, name in enumerate(given.joints) if usable[k]}
    matrix = np.zeros((len(wanted), len(given)))
    made: dict[str, tuple[str, ...]] = {}
    for row, name in zip(matrix, wanted.joints, strict=True):
        weights = _weights(name, have)
        if weights is None:
            if name in given.joints:
                raise FileError(f'{name} is never seen: a lifter needs whole bodies; lower --min-score, or film all of '
                                f'the person')
            raise FileError(f'nothing of layout {given.name} that is seen can stand for {name} of {wanted.name}')
        for part, weight in weights.items():
            row[have[part]] += weight
        if name not in weights:
            made[name] = tuple(weights)
    return matrix, made


def _weights(name: str, have: Container[str]) -> dict[str, float] | None:
    """Return the weights of the points in `have` that make up a point; None where they cannot."""
    if name in have:
        return {name: 1.0}
    equal = [dict.fromkeys(names, 1 / len(names)) for names in STAND_INS.get(name, ())]
    for candidate in (*ESTIMATES.get(name, ()), *equal):
        total: dict[str, float] = {}
        for part, weight in candidate.items():
            middle = part in ('hip', 'thorax') and part not in have
            for source in STAND_INS[part][0] if middle else (part,):
                total[source] = total.get(source, 0.0) + weight / (2 if middle else 1)
        if all(source in have for source in total):
            return total
    return None


def usable_keypoints(seen: np.ndarray, layout: Skeleton) -> np.ndarray:
    """Return (K,) bool: keypoints seen at all and, if others could replace them, in at least half of the frames."""
    present = max(1, int(seen.any(axis=1).sum()))
    share = seen.sum(axis=0) / present
    return np.array([s >= (OFTEN if name in FACE_OR_TRUNK else 1e-9)
                     for name, s in zip(layout.joints, share, strict=True)])
