"""Skeletons as data: joint names, parents, left and right, root. Everything that depends on joints is derived here.

All layouts share one vocabulary of joint names, so that joints of different layouts correspond by name: `thorax` lies
between the shoulders, `neck` is the upper neck or nose point of Human3.6M, `head` is the top of the head, and feet are
named after their ankles. Orders and parents are those of the public npz files: VideoPose3D's for Human3.6M and
HumanEva-I, P-STMO's for MPI-INF-3DHP, the detectors' own for COCO, MPII, Halpe, BODY_25 and BODY_25B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# MixSTE's and KTPFormer's loss weights by joint name; joints not listed weigh 1. Where a layout has two ends of a joint
# (`upper_knee`, `lower_knee`), each weighs as much as the joint.
LOSS_WEIGHTS = {'knee': 2.5, 'upper_knee': 2.5, 'lower_knee': 2.5, 'ankle': 2.5, 'head': 1.5, 'shoulder': 1.5,
                'elbow': 4.0, 'upper_elbow': 4.0, 'lower_elbow': 4.0, 'wrist': 4.0}

LIMBS = (('hip', 'knee', 'ankle'), ('shoulder', 'elbow', 'wrist'))


@dataclass(frozen=True)
class Skeleton:
    """A layout of joints or keypoints.

    Attributes:
        name: as files and flags call it.
        joints: the joints' names, in order.
        parents: the index of each joint's parent, -1 for the root.
    """

    name: str
    joints: tuple[str, ...]
    parents: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.parents) != len(self.joints):
            raise ValueError(f'skeleton {self.name}: {len(self.joints)} joints but {len(self.parents)} parents')
        if len(set(self.joints)) != len(self.joints):
            raise ValueError(f'skeleton {self.name}: a joint name occurs twice')

    def __len__(self) -> int:
        return len(self.joints)

    @property
    def root(self) -> int:
        """Return the index of the joint without a parent."""
        return self.parents.index(-1)

    @property
    def left(self) -> tuple[int, ...]:
        """Return the indices of the joints on the left."""
        return tuple(j for j, name in enumerate(self.joints) if name.startswith('left_'))

    @property
    def right(self) -> tuple[int, ...]:
        """Return the indices of the joints on the right, in the order of their partners in `left`."""
        return tuple(self.joints.index('right_' + self.joints[j].removeprefix('left_')) for j in self.left)

    @property
    def feet(self) -> tuple[int, int]:
        """Return the indices of the joints that a body stands on, left and right. Raises ValueError for one without."""
        return self.joints.index('left_ankle'), self.joints.index('right_ankle')

    @property
    def mirror(self) -> tuple[int, ...]:
        """Return the permutation that swaps left and right: mirrored = x[mirror]."""
        order = list(range(len(self)))
        for left, right in zip(self.left, self.right, strict=True):
            order[left], order[right] = right, left
        return tuple(order)

    @property
    def edges(self) -> list[tuple[int, int]]:
        """Return (joint, parent) for every joint but the root."""
        return [(j, parent) for j, parent in enumerate(self.parents) if parent >= 0]

    @property
    def limbs(self) -> tuple[tuple[int, int, int], ...]:
        """Return the legs and arms, each from the trunk outwards: hip, knee, ankle or shoulder, elbow, wrist.

        Raises ValueError for a layout that lacks one of these joints.
        """
        names = [[f'{side}_{joint}' for joint in chain] for chain in LIMBS for side in ('right', 'left')]
        missing = [name for limb in names for name in limb if name not in self.joints]
        if missing:
            raise ValueError(f'layout {self.name} has no {missing[0]}, which a limb needs')
        index = {name: j for j, name in enumerate(self.joints)}
        return tuple((index[near], index[middle], index[far]) for near, middle, far in names)

    @property
    def bone_pairs(self) -> tuple[tuple[tuple[int, int], tuple[int, int]], ...]:
        """Return the bones that exist on both sides: ((joint, parent) on the left, (joint, parent) on the right)."""
        return tuple(((left, self.parents[left]), (right, self.parents[right]))
                     for left, right in zip(self.left, self.right, strict=True))

    @property
    def loss_weights(self) -> tuple[float, ...]:
        """Return the weight of each joint in the training loss, found by name, whatever the layout."""
        return tuple(LOSS_WEIGHTS.get(name.removeprefix('left_').removeprefix('right_'), 1.0) for name in self.joints)


H36M = Skeleton(
    'h36m',
    ('hip', 'right_hip', 'right_knee', 'right_ankle', 'left_hip', 'left_knee', 'left_ankle', 'spine', 'thorax', 'neck',
     'head', 'left_shoulder', 'left_elbow', 'left_wrist', 'right_shoulder', 'right_elbow', 'right_wrist'),
    (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15),
)
# The same without the neck, as SemGCN, Modulated GCN and GraFormer have it; the head hangs on the thorax.
H36M16 = Skeleton('h36m16', tuple(name for name in H36M.joints if name != 'neck'),
                  (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 8, 10, 11, 8, 13, 14))
# The bodies of Human3.6M that a model can be trained on.
BODIES = (H36M.name, H36M16.name)
# Indices of the 17 joints among Human3.6M's 32 mocap joints.
H36M_OF_32 = (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)

HUMANEVA15 = Skeleton(
    'humaneva15',
    ('hip', 'thorax', 'left_shoulder', 'left_elbow', 'left_wrist', 'right_shoulder', 'right_elbow', 'right_wrist',
     'left_hip', 'left_knee', 'left_ankle', 'right_hip', 'right_knee', 'right_ankle', 'head'),
    (-1, 0, 1, 2, 3, 1, 5, 6, 0, 8, 9, 0, 11, 12, 1),
)
# HumanEva's mocap has both ends of each segment. An elbow is the lower end of the upper arm (`upper_elbow`) and the
# upper end of the lower arm (`lower_elbow`), which lie slightly apart because of errors of the markers; likewise a
# knee. The order: lower and upper end of the torso, lower end of the head, arms, legs, upper end of the head. Only the
# symmetry is published with it; the tree is ours and follows anatomy, both arms starting at the upper end of the torso.
HUMANEVA20 = Skeleton(
    'humaneva20',
    ('hip', 'thorax', 'neck', 'left_shoulder', 'left_upper_elbow', 'left_lower_elbow', 'left_wrist', 'right_shoulder',
     'right_upper_elbow', 'right_lower_elbow', 'right_wrist', 'left_hip', 'left_upper_knee', 'left_lower_knee',
     'left_ankle', 'right_hip', 'right_upper_knee', 'right_lower_knee', 'right_ankle', 'head'),
    (-1, 0, 1, 1, 3, 4, 5, 1, 7, 8, 9, 0, 11, 12, 13, 0, 15, 16, 17, 2),
)
# The data set's own names for 0, 1, 16 are head_top, neck, head.
MPI_INF_3DHP = Skeleton(
    '3dhp',
    ('head', 'thorax', 'right_shoulder', 'right_elbow', 'right_wrist', 'left_shoulder', 'left_elbow', 'left_wrist',
     'right_hip', 'right_knee', 'right_ankle', 'left_hip', 'left_knee', 'left_ankle', 'hip', 'spine', 'neck'),
    (1, 15, 1, 2, 3, 1, 5, 6, 14, 8, 9, 14, 11, 12, -1, 14, 1),
)
# Detectors' layouts have no pelvis to root the limbs at, or no published tree. Their parents here are ours, rooted as
# near the trunk as the points allow; only the graph of KPA uses them.
COCO = Skeleton(
    'coco',
    ('nose', 'left_eye', 'right_eye', 'left_ear', 'right_ear', 'left_shoulder', 'right_shoulder', 'left_elbow',
     'right_elbow', 'left_wrist', 'right_wrist', 'left_hip', 'right_hip', 'left_knee', 'right_knee', 'left_ankle',
     'right_ankle'),
    (-1, 0, 0, 1, 2, 0, 0, 5, 6, 7, 8, 5, 6, 11, 12, 13, 14),
)
MPII = Skeleton(
    'mpii',
    ('right_ankle', 'right_knee', 'right_hip', 'left_hip', 'left_knee', 'left_ankle', 'hip', 'thorax', 'neck', 'head',
     'right_wrist', 'right_elbow', 'right_shoulder', 'left_shoulder', 'left_elbow', 'left_wrist'),
    (1, 2, 6, 6, 3, 4, -1, 6, 7, 8, 11, 12, 7, 7, 13, 14),
)
_FEET = ('big_toe', 'small_toe', 'heel')
# More layouts of detectors, on which no lifter is trained. Halpe (AlphaPose, RTMPose) calls head, thorax and hip Head,
# Neck and Hip; OpenPose's BODY_25 calls thorax and hip Neck and MidHip; its BODY_25B adds MPII's upper neck and head.
HALPE26 = Skeleton(
    'halpe26',
    (*COCO.joints, 'head', 'thorax', 'hip', 'left_big_toe', 'right_big_toe', 'left_small_toe', 'right_small_toe',
     'left_heel', 'right_heel'),
    (18, 0, 0, 1, 2, 18, 18, 5, 6, 7, 8, 19, 19, 11, 12, 13, 14, 18, 19, -1, 15, 16, 20, 21, 15, 16),
)
BODY25 = Skeleton(
    'body25',
    ('nose', 'thorax', 'right_shoulder', 'right_elbow', 'right_wrist', 'left_shoulder', 'left_elbow', 'left_wrist',
     'hip', 'right_hip', 'right_knee', 'right_ankle', 'left_hip', 'left_knee', 'left_ankle', 'right_eye', 'left_eye',
     'right_ear', 'left_ear', *(f'{side}_{part}' for side in ('left', 'right') for part in _FEET)),
    (1, 8, 1, 2, 3, 1, 5, 6, -1, 8, 9, 10, 8, 12, 13, 0, 0, 15, 16, 14, 19, 14, 11, 22, 11),
)
BODY25B = Skeleton(
    'body25b',
    (*COCO.joints, 'neck', 'head', *(f'{side}_{part}' for side in ('left', 'right') for part in _FEET)),
    (*COCO.parents, 0, 17, 15, 19, 15, 16, 22, 16),
)

# All that `layout_name` in a file's metadata may say. Those that --predict recognises stand in keypoints/known.py.
_LAYOUTS = (H36M, H36M16, HUMANEVA15, HUMANEVA20, MPI_INF_3DHP, COCO, MPII, HALPE26, BODY25, BODY25B)
SKELETONS = {layout.name: layout for layout in _LAYOUTS}

VIEWED = (COCO.name,)  # the keypoints that virtual cameras can see of a body's joints

# Stand-ins for a joint that the other layout lacks: the mean of the first entry whose joints are all there.
STAND_INS = {
    'hip': (('left_hip', 'right_hip'),),
    'thorax': (('left_shoulder', 'right_shoulder'),),
    'spine': (('hip', 'thorax'), ('left_hip', 'right_hip', 'left_shoulder', 'right_shoulder')),
    'neck': (('nose',), ('thorax', 'head')),
    'head': (('left_eye', 'right_eye', 'left_ear', 'right_ear'), ('neck',)),
    'nose': (('neck',), ('head',)),
    **{f'{side}_{end}_{joint}': ((f'{side}_{joint}',),)
       for side in ('left', 'right') for joint in ('elbow', 'knee') for end in ('upper', 'lower')},
    **{f'{side}_{joint}': ((f'{side}_upper_{joint}', f'{side}_lower_{joint}'),)
       for side in ('left', 'right') for joint in ('elbow', 'knee')},
}


def correspondence(joints: Skeleton, keypoints: Skeleton) -> np.ndarray:
    """Return the float32 matrix (J_out, J_in) that maps keypoints to joints by name; each row sums to 1.

    A joint without a keypoint of its name is the mean of its stand-ins. Raises ValueError where it has neither.
    """
    import numpy as np  # which the command line, that knows layouts by name, does without

    matrix = np.zeros((len(joints), len(keypoints)), dtype=np.float32)
    for row, name in zip(matrix, joints.joints, strict=True):
        candidates = ((name,), *STAND_INS.get(name, ()))
        found = next((c for c in candidates if all(n in keypoints.joints for n in c)), None)
        if found is None:
            raise ValueError(f'no keypoint of layout {keypoints.name} can stand for joint {name} of {joints.name}')
        for stand_in in found:
            row[keypoints.joints.index(stand_in)] = 1 / len(found)
    return matrix
