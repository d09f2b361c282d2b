"""Virtual cameras, drawn on the device: each looks at people in motion from a place of its own.

Letters: B windows, F frames, J joints, K keypoints. Upright axes have z up; lengths are metres, angles radians.
"""

import math
from typing import NamedTuple

import torch

from common.augment import Batch
from common.skeleton import Skeleton, correspondence

# What is drawn, evenly between these. Degrees: how far a camera looks down, is rolled, and what it sees from side to
# side of the longer side of its picture.
PITCH, ROLL, FIELD = (-15.0, 45.0), (-25.0, 25.0), (40.0, 75.0)
DISTANCE = (2.0, 8.0)  # metres from the camera to the person, more where a motion would leave the picture
ASPECT = (9 / 16, 16 / 9)  # height of the picture over its width
PLACE = 0.5  # how far from the centre of the picture the middle of a motion lies at most, as a share of the way out
SCALE = (0.9, 1.1)  # of the body
# Factor of each of its bones, the same on both sides, by the joints where they end: people differ in proportions, and
# data sets in where they put a joint.
LENGTH = (0.9, 1.1)
BONES = (('spine', 'thorax'), ('neck', 'head'), ('shoulder',), ('elbow',), ('wrist',), ('hip',), ('knee',), ('ankle',))
LEGS = ('hip', 'knee', 'ankle')
ANOTHER = 0.3  # share of windows whose legs are those of another one: more kinds of motion than were recorded
MARGIN = 0.97  # share of the way from the centre of the picture to its border that keypoints stay within
NEAREST = 0.8  # metres from the camera to a joint, at least
# A head turns and nods beside what the shoulders tell: mean and standard deviation, degrees to the right and down.
TURN, NOD = (0.0, 25.0), (10.0, 15.0)
# Detectors of people in clothes find hips and shoulders further out than the centres of the joints, by these shares of
# the distance between both sides, evenly. (OpenPose on a recorded walk: about 0.4 and 0.15.)
WIDER_HIPS, WIDER_SHOULDERS = (0.1, 0.6), (0.0, 0.25)

# Where the keypoints of a face lie from the upper neck: to the right, forward and up, metres, for a distance of NECK
# from thorax to upper neck. Eyes and ears stand on both sides.
FACE = {'nose': (0.0, 0.11, 0.02), 'eye': (0.033, 0.085, 0.055), 'ear': (0.075, 0.005, 0.035)}
NECK = 0.13


class Drawn(NamedTuple):
    """Cameras, one for each window: (B,) each but for the last. Angles in radians.

    Attributes:
        azimuth, pitch, roll: where it looks; pitch is down.
        focal: in half widths of the picture. aspect: its height over its width.
        across, down: where the middle of the motion lies, as a share of the way from centre to border.
        distance: metres. scale: of the body. turn, nod: of the head, to the right and down.
        hips, shoulders: how much wider a detector finds them, as a share.
        lengths: (B, len(BONES)), of the body's bones.
    """

    azimuth: torch.Tensor
    pitch: torch.Tensor
    roll: torch.Tensor
    focal: torch.Tensor
    aspect: torch.Tensor
    across: torch.Tensor
    down: torch.Tensor
    distance: torch.Tensor
    scale: torch.Tensor
    turn: torch.Tensor
    nod: torch.Tensor
    hips: torch.Tensor
    shoulders: torch.Tensor
    lengths: torch.Tensor

    def part(self, part: slice) -> 'Drawn':
        """Return those of some of the windows."""
        return Drawn(*(numbers[part] for numbers in self))


class Seen(NamedTuple):
    """What cameras see.

    Attributes:
        keypoints: (B, F, K, 2) normalised screen coordinates.
        joints: (B, F, J, 3) metres in camera axes.
        intrinsic: (B, 9) as `Camera.intrinsic`.
    """

    keypoints: torch.Tensor
    joints: torch.Tensor
    intrinsic: torch.Tensor


def draw_cameras(count: int, generator: torch.Generator, pitch: tuple[float, float] = PITCH) -> Drawn:
    """Draw so many cameras on the generator's device.

    Args:
        pitch: the range of it, degrees.
    """
    even = torch.rand(11 + len(BONES), count, generator=generator, device=generator.device)
    turned = torch.randn(2, count, generator=generator, device=generator.device)

    def between(row: int, low: float, high: float) -> torch.Tensor:
        return low + (high - low) * even[row]

    def turning(row: int, mean: float, deviation: float) -> torch.Tensor:
        return math.radians(mean) + math.radians(deviation) * turned[row]
    field = between(0, *map(math.radians, FIELD))
    aspect = between(1, *map(math.log, ASPECT)).exp()
    return Drawn(
        azimuth=between(2, -math.pi, math.pi), pitch=between(3, *map(math.radians, pitch)),
        roll=between(4, *map(math.radians, ROLL)), focal=aspect.clamp(min=1) / (field / 2).tan(), aspect=aspect,
        across=between(5, -PLACE, PLACE), down=between(6, -PLACE, PLACE),
        distance=between(7, *map(math.log, DISTANCE)).exp(), scale=between(8, *SCALE),
        turn=turning(0, *TURN), nod=turning(1, *NOD), hips=between(9, *WIDER_HIPS),
        shoulders=between(10, *WIDER_SHOULDERS),
        lengths=torch.stack([between(row, *LENGTH) for row in range(11, 11 + len(BONES))], dim=-1))


def rotation(cameras: Drawn) -> torch.Tensor:
    """Return (B, 3, 3), whose rows are a camera's axes in upright axes: right, down (before the roll) and forward."""
    nothing = torch.zeros_like(cameras.azimuth)
    sideways, along = cameras.azimuth.sin(), cameras.azimuth.cos()
    level, sunk = cameras.pitch.cos(), cameras.pitch.sin()
    forward = torch.stack([level * along, level * sideways, -sunk], dim=-1)
    right = torch.stack([sideways, -along, nothing], dim=-1)
    down = torch.linalg.cross(forward, right)
    c, s = cameras.roll.cos()[:, None], cameras.roll.sin()[:, None]
    return torch.stack([c * right + s * down, c * down - s * right, forward], dim=1)


class VirtualCameras:
    """Cameras that see a skeleton as keypoints of a layout."""

    def __init__(self, skeleton: Skeleton, layout: Skeleton, device: torch.device):
        """Find where the keypoints lie. Raises ValueError for a layout that the joints do not tell."""
        self.root, self.layout, names = skeleton.root, layout, skeleton.joints
        face = [name.split('_')[-1] in FACE and name not in names for name in layout.joints]
        self.faces = any(face)
        body = Skeleton(layout.name, tuple(name for name, of_face in zip(layout.joints, face, strict=True)
                                           if not of_face), (-1,) * (len(layout) - sum(face)))
        matrix = torch.zeros(len(layout), len(skeleton))
        matrix[~torch.tensor(face)] = torch.from_numpy(correspondence(body, skeleton))
        self.matrix = matrix.to(device)
        self.offsets = torch.tensor([_offset(name) if of_face else (0.0, 0.0, 0.0) for name, of_face in
                                     zip(layout.joints, face, strict=True)], device=device)
        self.of_face = torch.tensor(face, device=device).float()[:, None]
        self.mirror = torch.tensor(layout.mirror, device=device)
        ends = [name.split('_')[-1] for name in skeleton.joints]
        self.of_bone = torch.tensor([[float(end in bone) for end in ends] for bone in BONES], device=device)
        self.parents = torch.tensor([j if parent < 0 else parent for j, parent in enumerate(skeleton.parents)],
                                    device=device)
        held = torch.zeros(len(skeleton), len(skeleton))
        for joint, parent in skeleton.edges:
            held[joint, parent] = 1
        # (J, J): 1 where a bone lies on the way from the root to a joint, since 1 + P + P² + … = 1 / (1 - P).
        self.bones_to = torch.linalg.inv(torch.eye(len(skeleton)) - held).round().to(device)
        self.legs = torch.tensor([end in LEGS and j != skeleton.root for j, end in enumerate(ends)], device=device)
        self.side_hips = [skeleton.joints.index(f'{side}_hip') for side in ('left', 'right')]
        self.of_hips, self.of_shoulders = (torch.tensor(
            [float(name in (f'left_{joint}', f'right_{joint}')) for name in layout.joints], device=device)
            for joint in ('hip', 'shoulder'))
        if self.faces:
            needed = Skeleton('head', ('neck', 'thorax', 'head', 'left_shoulder', 'right_shoulder'), (-1,) * 5)
            self.needed = torch.from_numpy(correspondence(needed, skeleton)).to(device)

    def see(self, joints: torch.Tensor, cameras: Drawn) -> Seen:
        """Return what cameras see of joints (B, F, J, 3) in upright axes, whatever their origin.

        Each stands as far away as was drawn, or as far as is needed for all of the motion to stay in the picture.
        """
        joints = self.grown(joints, 1 + (cameras.lengths - 1) @ self.of_bone) * cameras.scale[:, None, None, None]
        joints = joints - joints.mean(dim=(1, 2), keepdim=True)
        points = self.keypoints(joints, cameras)
        both = torch.cat([points, joints], dim=2) @ rotation(cameras).mT[:, None]
        keypoints, focal = both.shape[2] - joints.shape[2], cameras.focal
        half = torch.stack([torch.ones_like(focal), cameras.aspect], dim=-1)  # (B, 2) of the picture
        middle = torch.stack([cameras.across, cameras.down], dim=-1) * half
        # A point q lies at (f q_x + u d) / (q_z + d), which is to be within ± the border: solved for d.
        border = (MARGIN * half)[:, None, None]
        x, z = focal[:, None, None, None] * both[..., :2], both[..., 2:]
        u = middle[:, None, None]
        least = torch.maximum((x - border * z) / (border - u), (-x - border * z) / (border + u)).amax(dim=(1, 2, 3))
        distance = torch.maximum(torch.maximum(cameras.distance, least), NEAREST - z.amin(dim=(1, 2, 3)))
        place = torch.cat([middle * (distance / focal)[:, None], distance[:, None]], dim=-1)
        both = both + place[:, None, None]
        seen = both[:, :, :keypoints]
        intrinsic = torch.zeros(len(focal), 9, device=focal.device)
        intrinsic[:, :2] = focal[:, None]
        return Seen(focal[:, None, None, None] * seen[..., :2] / seen[..., 2:], both[:, :, keypoints:], intrinsic)

    def grown(self, joints: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """Return joints (B, F, J, 3) whose bones are so many times as long, (B, J) by the joint where each ends."""
        bones = joints - joints[:, :, self.parents]
        return joints[:, :, self.root, None] + self.bones_to @ (factors[:, None, :, None] * bones)

    def with_legs_of(self, others: torch.Tensor, joints: torch.Tensor) -> torch.Tensor:
        """Return joints (B, F, J, 3) in upright axes with the legs of others, turned to where these hips look."""
        left, right = self.side_hips
        turn = _heading(joints[:, :, left] - joints[:, :, right]) - _heading(others[:, :, left] - others[:, :, right])
        c, s = turn.cos()[..., None], turn.sin()[..., None]
        x, y, z = (others - others[:, :, self.root, None]).unbind(-1)
        turned = torch.stack([c * x - s * y, s * x + c * y, z], dim=-1) + joints[:, :, self.root, None]
        return torch.where(self.legs[:, None], turned, joints)

    def keypoints(self, joints: torch.Tensor, cameras: Drawn) -> torch.Tensor:
        """Return the keypoints (B, F, K, 3) of joints (B, F, J, 3), both in upright axes.

        Where the layout is the joints', they are these. Else hips and shoulders are as much wider as was drawn, and a
        face looks to where the shoulders do, turned and nodding.
        """
        points = self.matrix @ joints
        if not self.faces:
            return points
        points = points + self.wider(cameras)[:, None, :, None] * (points - points[:, :, self.mirror]) / 2
        neck, thorax, head, left, right = (self.needed @ joints).unbind(dim=2)
        above, sideways = head - neck, right - left
        up = above / above.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        sideways = sideways - (sideways * up).sum(-1, keepdim=True) * up
        sideways = sideways / sideways.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        forward = torch.linalg.cross(up, sideways)
        turn, nod = cameras.turn[:, None, None], cameras.nod[:, None, None]
        sideways, forward = (turn.cos() * sideways - turn.sin() * forward,
                             turn.cos() * forward + turn.sin() * sideways)
        up, forward = nod.cos() * up + nod.sin() * forward, nod.cos() * forward - nod.sin() * up
        axes = torch.stack([sideways, forward, up], dim=2)  # (B, F, 3, 3), its rows
        size = ((neck - thorax).norm(dim=-1) / NECK)[..., None, None]
        return points + self.of_face * neck[:, :, None] + size * (self.offsets @ axes)

    def wider(self, cameras: Drawn) -> torch.Tensor:
        """Return how much further apart a detector finds each keypoint and that of the other side, (B, K) shares."""
        return cameras.hips[:, None] * self.of_hips + cameras.shoulders[:, None] * self.of_shoulders

    def batch(self, seen: Seen, answers: range, supervised: range | None, needs: frozenset[str]) -> Batch:
        """Return windows as a model reads them; as `SequenceStore.batch`. The confidence is 1."""
        roots = seen.joints[:, :, self.root]
        poses = seen.joints - roots[:, :, None]
        keypoints, answered = seen.keypoints, roots[:, answers.start:answers.stop]
        if 'confidence' in needs:
            keypoints = torch.cat([keypoints, torch.ones_like(keypoints[..., :1])], dim=-1)
        return Batch(keypoints, None if supervised is None else poses[:, supervised.start:supervised.stop],
                     seen.intrinsic if 'intrinsic' in needs else None,
                     answered[..., 2] if 'root_depth' in needs else None, answered if 'root' in needs else None)


def _heading(across: torch.Tensor) -> torch.Tensor:
    """Return the azimuth (B, F), radians, of vectors (B, F, 3) in upright axes."""
    return torch.atan2(across[..., 1], across[..., 0])


def _offset(name: str) -> tuple[float, float, float]:
    """Return where a keypoint of the face lies: to the right, forward and up."""
    across, forward, up = FACE[name.split('_')[-1]]
    return (-across if name.startswith('left_') else across), forward, up

