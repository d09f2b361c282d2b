"""Bones of constant length and their rotations, from the places of joints: what animators call a rig.

A bone points exactly as in the poses, and has one length for the clip, the median over its frames. The root is the
middle of the hips, whatever the poses have there. The rest pose is a T: legs down, arms out, face towards +z, left
towards +x, y up.

Places do not tell how a bone is turned about itself. Arms and legs are turned such that elbows and knees bend as hinges
do, in the plane of their two bones; where a limb is nearly straight there is no such plane, and it is interpolated
between frames that have one, or goes along with the trunk where none has. The trunk is turned by the lines between the
hips and between the shoulders.

Letters: T frames, J joints.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from common.skeleton import HUMANEVA15, Skeleton, correspondence

STRAIGHT = np.sin(np.radians(15))  # a limb that is bent by less has no plane
X, Y, _Z = np.eye(3)
# By the joint where a bone ends, without its side: what animators call it; where it points in the rest pose; and what
# it is turned by, the axis of its hinge or the line across the body. Of a left one: see `_rest` for the right.
BONES = {'spine': ('LowerBack', Y, X), 'thorax': ('Spine', Y, X), 'neck': ('Neck', Y, X), 'head': ('Head', Y, X),
         'shoulder': ('Shoulder', X, Y), 'elbow': ('Arm', X, -Y), 'wrist': ('ForeArm', X, -Y),
         'knee': ('UpLeg', -Y, X), 'ankle': ('Leg', -Y, X)}
HIPS = ('left_hip', 'right_hip')  # the root carries the bones to them


@dataclass(frozen=True)
class Bone:
    """A bone; the first is the root, which has no length.

    Attributes:
        name: as animators call it. joint: where it ends. parent: the bone that it hangs on, None for the root.
        offset: (3,) from where the parent begins to where it begins, in the rest pose. tip: (3,) from there to its end.
        rotation: (T, 3, 3) from the rest pose to the pose, in the axes of the world.
    """

    name: str
    joint: str
    parent: Bone | None
    offset: np.ndarray
    tip: np.ndarray
    rotation: np.ndarray

    @property
    def turned(self) -> np.ndarray:
        """Return the rotation (T, 3, 3) against the bone that it hangs on; of the root, against the world."""
        return self.rotation if self.parent is None else self.parent.rotation.swapaxes(-1, -2) @ self.rotation


def bones_of(skeleton: Skeleton, poses: np.ndarray) -> tuple[np.ndarray, list[Bone]]:
    """Return where the root is (T, 3), and the bones, each after the one that it hangs on, depth first.

    Args:
        poses: (T, J, 3) in axes with y up; the unit is any.

    Raises ValueError for a body without hips, knees, ankles, shoulders, elbows or wrists.
    """
    if any(name not in skeleton.joints for name in HUMANEVA15.joints):  # such as one with two ends of each elbow
        poses = np.einsum('kj,tjx->tkx', correspondence(HUMANEVA15, skeleton).astype(np.float64), poses)
        skeleton = HUMANEVA15
    poses = poses.copy()
    poses[:, skeleton.root] = poses[:, [skeleton.joints.index(hip) for hip in HIPS]].mean(axis=1)
    rig = _Rig(skeleton, poses)
    return poses[:, skeleton.root], list(rig.bones())


class _Rig:
    """Poses (T, J, 3) on the way to bones."""

    def __init__(self, skeleton: Skeleton, poses: np.ndarray):
        self.skeleton = skeleton
        self.at = {name: poses[:, j] for j, name in enumerate(skeleton.joints)}
        self.hips, self.shoulders = (_unit(self.at[f'left_{joint}'] - self.at[f'right_{joint}'])
                                     for joint in ('hip', 'shoulder'))

    def bones(self) -> Iterator[Bone]:
        """Yield the root and then the others."""
        name = self.skeleton.joints[self.skeleton.root]
        up = self.at['thorax'] - self.at[name]
        yield (root := Bone('Hips', name, None, np.zeros(3), np.zeros(3), _turned(self.hips, up, X, Y)))
        yield from self._bones_from(name, root, root.tip)

    def _bones_from(self, joint: str, holder: Bone, place: np.ndarray) -> Iterator[Bone]:
        """Yield the bones that begin at a joint, at this place (3,) of the bone that holds it, and all behind them."""
        for j, parent in self.skeleton.edges:
            child = self.skeleton.joints[j]
            if self.skeleton.joints[parent] != joint:
                continue
            bone = self.at[child] - self.at[joint]
            length = np.median(np.linalg.norm(bone, axis=-1))
            if child in HIPS:
                yield from self._bones_from(child, holder, place + length * (X if child == HIPS[0] else -X))
                continue
            name, points, turned_by = _rest(child)
            still = np.linalg.norm(bone, axis=-1, keepdims=True) < 1e-9
            bone = np.where(still, holder.rotation @ points, bone)
            rotation = _turned(bone, self._hint(child, joint, holder, turned_by), points, turned_by)
            yield (made := Bone(name, child, holder, place, length * points, rotation))
            yield from self._bones_from(child, made, made.tip)

    def _hint(self, child: str, joint: str, holder: Bone, turned_by: np.ndarray) -> np.ndarray:
        """Return what the bone from a joint to its child is turned by (T, 3)."""
        side, _, part = child.rpartition('_')
        along = holder.rotation @ turned_by
        if part in ('knee', 'elbow'):
            far = self.at[f'{side}_{"ankle" if part == "knee" else "wrist"}']
            return _hinge(self.at[child] - self.at[joint], far - self.at[child], along)
        return {'spine': self.hips, 'thorax': self.hips + self.shoulders, 'neck': self.shoulders,
                'head': self.shoulders}.get(child, along)


def _rest(joint: str) -> tuple[str, np.ndarray, np.ndarray]:
    """Return the name of the bone that ends at a joint, where it points in the rest pose and what it is turned by."""
    side, _, part = joint.rpartition('_')
    name, points, turned_by = BONES[part]
    if side == 'right' and points is X:  # arms are mirrored; legs point down and bend about the same axis
        points, turned_by = -X, turned_by if part == 'shoulder' else -turned_by
    return side.capitalize() + name, points, turned_by


def _hinge(near: np.ndarray, far: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Return the axis (T, 3) about which a limb bends, of its bones (T, 3); `otherwise` where it is always straight."""
    axis = np.cross(_unit(near), _unit(far))
    size = np.linalg.norm(axis, axis=-1)
    bent = np.flatnonzero(size >= STRAIGHT)
    if not len(bent):
        return otherwise
    return np.stack([np.interp(np.arange(len(axis)), bent, axis[bent, i] / size[bent]) for i in range(3)], axis=-1)


def _turned(points: np.ndarray, turned_by: np.ndarray, rest_points: np.ndarray, rest_turned_by: np.ndarray,
            ) -> np.ndarray:
    """Return the rotations (T, 3, 3) that turn one direction to `points` and another towards `turned_by`, (T, 3)."""
    return _axes(points, turned_by) @ _axes(rest_points, rest_turned_by).swapaxes(-1, -2)


def _axes(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return right-handed axes (..., 3, 3), as columns: along the first vector, near the second, and across both."""
    first = _unit(first)
    across = np.cross(first, _unit(second))
    # Where both are parallel, any direction across is as good.
    least = np.eye(3)[np.abs(first).argmin(axis=-1)]
    parallel = np.linalg.norm(across, axis=-1, keepdims=True) < 1e-6
    across = _unit(np.where(parallel, np.cross(first, least), across))
    return np.stack([first, np.cross(across, first), across], axis=-1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (..., 3) of length 1; one of length 0 points along x."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(length > 1e-12, vectors / np.maximum(length, 1e-12), X)
