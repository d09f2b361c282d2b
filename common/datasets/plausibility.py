"""Checks that 3D and 2D can belong to people; each returns one sentence that says what is wrong, or None.

All layouts are first converted, by joint names, to the 15 joints of BODY, so that each check is written once. The
limits are wide, so that every person and detector passes. They were tried on 20 subjects of CMU's motion capture, with
exact 2D and with a detector's noise. Letters: T frames, K keypoints.
"""

from dataclasses import dataclass, replace

import numpy as np

from common.geometry.camera import denormalise, project
from common.skeleton import HUMANEVA15, Skeleton, correspondence

BODY = HUMANEVA15
JOINT = {name: index for index, name in enumerate(BODY.joints)}
LIMBS = [index for name, index in JOINT.items() if name.startswith(('left_', 'right_'))]
# Pairs of joints, without their sides, and the range of their distance in people, metres.
LENGTHS = {
    ('hip', 'knee'): (0.25, 0.60), ('knee', 'ankle'): (0.25, 0.60), ('shoulder', 'elbow'): (0.15, 0.45),
    ('elbow', 'wrist'): (0.10, 0.40), ('hip', 'shoulder'): (0.30, 0.80),
}
# The likely unit, where bones are between so and so many times as long as in metres.
UNITS = ((30, 300, 'centimetres'), (300, 3000, 'millimetres'))
LARGEST_STRETCH = 0.5  # variation of a bone's length over frames, as a share of that length
LARGEST_ASYMMETRY = 0.3  # difference of a left bone and its right one, as a share of their length
NEAREST = 0.1  # metres from the camera
# Keypoints may lie FURTHER times as far from the projected 3D as in the subject's median view, but this limit is kept
# within FURTHEST; distances are shares of the person's size in the picture. Of 134 walks of CMU, each paired with the
# keypoints of another by the same person, this finds 132, and 122 under a detector's noise.
FURTHER = 4
FURTHEST = (0.03, 0.1)
MIRRORED = -0.4  # below this `handedness`, sides are swapped; CMU's people have 0.60 to 0.96, mirrored ones minus that
BENT = 0.01  # metres by which knees and elbows must be out of line, on average, for `handedness` to mean something
SHARE = 0.5  # of the frames, or keypoints, must be as expected


@dataclass(frozen=True)
class View:
    """Some frames of one take seen by one camera, as joints of BODY.

    Attributes:
        subject, take, camera: where the frames come from.
        joints: (T, 15, 3) metres in camera axes: x right, y down, z forward.
        pixels: (T, 15, 2) keypoints.
        size: width and height of the picture.
        intrinsic: (9,) of the camera (`Camera.intrinsic`); None where unknown.
    """

    subject: str
    take: str
    camera: int | str
    joints: np.ndarray
    pixels: np.ndarray
    size: tuple[int, int]
    intrinsic: np.ndarray | None

    def __str__(self) -> str:
        return f'{self.take} camera {self.camera}'


def to_body(points: np.ndarray, layout: Skeleton) -> np.ndarray:
    """Convert points (T, K, 2 or 3) of a layout to the joints of BODY, float64.

    Raises ValueError where the layout has nothing for one of them.
    """
    return correspondence(BODY, layout).astype(np.float64) @ points.astype(np.float64)


# ---- 3D ---------------------------------------------------------------------------------------------------------


def bone_lengths(joints: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """Return (joint, joint) -> distance (T,) for the pairs of LENGTHS on both sides; joints are (T, 15, 3)."""
    return {(f'{side}_{a}', f'{side}_{b}'):
            np.linalg.norm(joints[:, JOINT[f'{side}_{a}']] - joints[:, JOINT[f'{side}_{b}']], axis=-1)
            for a, b in LENGTHS for side in ('left', 'right')}


def _limits(bone: tuple[str, str]) -> tuple[float, float]:
    start, end = (name.partition('_')[2] for name in bone)
    return LENGTHS[start, end]


def _all_joints(views: list[View]) -> np.ndarray:
    return np.concatenate([view.joints for view in views])


def unit_problem(views: list[View]) -> str | None:
    """Check that the 3D is in metres: people are neither three times too large nor three times too small."""
    lengths = bone_lengths(_all_joints(views))
    factor = np.median([np.median(length) / np.mean(_limits(bone)) for bone, length in lengths.items()])
    if 1 / 3 < factor < 3:
        return None
    unit = next((f': the 3D is in {unit}' for low, high, unit in UNITS if low < factor < high), '')
    return f"bones are {float(f'{factor:.2g}'):g} times as long as a person's, expected metres{unit}"


def bone_problem(views: list[View]) -> str | None:
    """Check the order of the joints: bones have a person's lengths, constant over time and equal left and right."""
    lengths = bone_lengths(_all_joints(views))
    medians = {bone: np.median(length) for bone, length in lengths.items()}
    order = ': the joints may be in another order'
    for bone, length in lengths.items():
        (low, high), name, median = _limits(bone), ' to '.join(bone), medians[bone]
        if not low < median < high:
            return f"{name} is {median:.2f} m long, a person's {low} to {high}{order}"
        shortest, longest = np.percentile(length, (10, 90))
        if longest - shortest > LARGEST_STRETCH * median:
            return f'{name} is between {shortest:.2f} and {longest:.2f} m long, as no bone is{order}'
        start, end = (joint.replace('left_', 'right_') for joint in bone)
        other = medians[start, end]
        if abs(median - other) > LARGEST_ASYMMETRY * median:
            return f'{name} is {median:.2f} m long, its right twin {other:.2f} m{order}'
    return None


def upright_problem(views: list[View]) -> str | None:
    """Check that up is up: in most frames the head is higher in the picture than the ankles."""
    joints = _all_joints(views)
    ankles = joints[:, [JOINT['left_ankle'], JOINT['right_ankle']], 1].mean(axis=1)
    share = np.mean(joints[:, JOINT['head'], 1] < ankles)
    if share >= SHARE:
        return None
    return (f"the head is below the ankles in {1 - share:.0%} of the frames, as the cameras see them: the world's axes "
            f'or the cameras may be others')


def handedness(joints: np.ndarray) -> float | None:
    """Return how surely left is on the left, from -1 to 1; None where no limb is bent. joints are (T, 15, 3).

    Knees bend forwards and elbows backwards. Forwards is the cross product of the vector from the right to the left hip
    (or shoulder) and the vector up the trunk, so it is reversed when left and right are swapped or the world is a
    mirror image. Each knee and elbow is weighed by its distance from the line between its neighbours, so that straight
    limbs say nothing. Because up is taken from the trunk, this works for people who lie or turn somersaults too.
    """
    up = joints[:, JOINT['thorax']] - joints[:, JOINT['hip']]
    forwards = bends = 0.0
    for sign, chain in ((1, ('hip', 'knee', 'ankle')), (-1, ('shoulder', 'elbow', 'wrist'))):
        across = joints[:, JOINT[f'left_{chain[0]}']] - joints[:, JOINT[f'right_{chain[0]}']]
        forward = _unit(np.cross(across, up))
        for side in ('left', 'right'):
            start, middle, end = (joints[:, JOINT[f'{side}_{name}']] for name in chain)
            line = _unit(end - start)
            bend = (middle - start) - ((middle - start) * line).sum(-1, keepdims=True) * line
            forwards += sign * (bend * forward).sum()
            bends += np.linalg.norm(bend, axis=-1).sum()
    return forwards / bends if bends > 4 * len(joints) * BENT else None


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def side_problem(views: list[View]) -> str | None:
    """Check that left is on the left: arms agree with legs, and knees and elbows bend the right way."""
    joints = _all_joints(views)
    hips, shoulders = (_unit(joints[:, JOINT[f'left_{name}']] - joints[:, JOINT[f'right_{name}']])
                       for name in ('hip', 'shoulder'))
    if (hips * shoulders).sum(-1).mean() < 0:
        return 'the left shoulder is on the side of the right hip: left and right may be swapped for arms or legs'
    score = handedness(joints)
    if score is not None and score < MIRRORED:
        return (f'knees bend backwards and elbows forwards ({score:.2f}, expected near 1): left and right are swapped, '
                f'or the world is a mirror image')
    return None


# ---- 2D ---------------------------------------------------------------------------------------------------------


def pixel_problem(views: list[View]) -> str | None:
    """Check that the 2D is in pixels and inside the pictures."""
    if max(np.abs(view.pixels).max() for view in views) < 5:
        return 'the keypoints are normalised, expected pixels'
    inside = np.mean(np.concatenate([((view.pixels >= 0) & (view.pixels <= view.size)).all(-1).ravel()
                                     for view in views]))
    if inside >= SHARE:
        return None
    return (f'{1 - inside:.0%} of the keypoints lie outside the picture of {views[0].size[0]} × {views[0].size[1]} '
            f'pixels: it may have another size, or x and y be swapped')


def fit_lens(slopes: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Fit focal lengths and centre [[fx, cx], [fy, cy]], pixels, that map X/Z and Y/Z (N, 2) to pixels (N, 2).

    Least squares, repeated twice with the better-fitting half of the points, so that outliers have no influence.
    """
    kept = np.ones(len(slopes), bool)
    for _ in range(3):
        lens = np.stack([np.linalg.lstsq(np.stack([slopes[kept, axis], np.ones(kept.sum())], axis=1),
                                         pixels[kept, axis], rcond=None)[0] for axis in (0, 1)])
        residual = np.linalg.norm(slopes * lens[:, 0] + lens[:, 1] - pixels, axis=-1)
        kept = residual <= np.median(residual)
    return lens


def projections(views: list[View]) -> list[np.ndarray]:
    """Project the 3D of each view to pixels (T, 15, 2), through its camera's lens or, where unknown, a fitted one."""
    slopes = [view.joints[..., :2] / view.joints[..., 2:] for view in views]
    lenses = {}
    for camera in {view.camera for view in views if view.intrinsic is None}:
        of_camera = [index for index, view in enumerate(views) if view.camera == camera]
        lenses[camera] = fit_lens(np.concatenate([slopes[i][:, LIMBS].reshape(-1, 2) for i in of_camera]),
                                  np.concatenate([views[i].pixels[:, LIMBS].reshape(-1, 2) for i in of_camera]))
    return [slope * lenses[view.camera][:, 0] + lenses[view.camera][:, 1] if view.intrinsic is None else
            denormalise(project(view.joints, view.intrinsic), *view.size)
            for view, slope in zip(views, slopes, strict=True)]


def distance(pixels: np.ndarray, projected: np.ndarray) -> float:
    """Return the limbs' median distance of keypoints from the projection, both (T, 15, 2), over the person's size."""
    pixels, projected = pixels[:, LIMBS], projected[:, LIMBS]
    size = np.linalg.norm(np.ptp(pixels, axis=1), axis=-1)
    return float(np.median(np.linalg.norm(pixels - projected, axis=-1)) / max(np.median(size), 1e-9))


def _distances(views: list[View]) -> np.ndarray:
    return np.array([distance(view.pixels, p) for view, p in zip(views, projections(views), strict=True)])


def depth_problem(views: list[View]) -> str | None:
    """Check that people stand in front of the camera, as zeros in the place of missing 3D would not."""
    behind = sum(int((view.joints[..., 2] < NEAREST).any(axis=-1).sum()) for view in views)
    if not behind:
        return None
    total = sum(len(view.joints) for view in views)
    return (f'joints lie in or behind the camera in {behind:,} of {total:,} frames that were looked at: are missing '
            f'frames filled with zeros? cut them out or interpolate')


def agreement_problem(views: list[View]) -> str | None:
    """Check that 2D and 3D belong together: keypoints lie on the projected 3D, and nearer than with sides swapped."""
    distances = _distances(views)
    swapped = _distances([replace(view, pixels=view.pixels[:, BODY.mirror]) for view in views])
    if swapped.mean() < distances.mean() / 2:
        return 'left and right of the keypoints are swapped: on the projected 3D they fit the other way round'
    far = np.flatnonzero(distances > np.clip(FURTHER * np.median(distances), *FURTHEST))
    if not len(far):
        return None
    worst = far[distances[far].argmax()]
    cause = ('of another take or camera' if len(far) <= len(views) / 2 else
             'of other takes or cameras, or in another order, or the cameras may be others')
    return (f'the keypoints of {len(far)} of {len(views)} views are not where the 3D is projected to, at the worst '
            f"{distances[worst]:.0%} of the person's size away in {views[worst]}: they may be {cause}")


# The checks of a subject's views, in order. Of each group only the first failure counts, since the checks after it
# would mostly repeat it. The last group needs sound 3D and 2D.
CHECKS_3D = {'units': unit_problem, 'bones': bone_problem, 'upright': upright_problem, 'left and right': side_problem}
CHECKS_2D = {'pixels': pixel_problem}
CHECKS_BOTH = {'depth': depth_problem, '2D on the projected 3D': agreement_problem}


def problems_of(views: list[View]) -> dict[str, str]:
    """Run all checks on the views of one subject; return name of the failed check -> sentence."""
    problems: dict[str, str] = {}
    for checks in (CHECKS_3D, CHECKS_2D, CHECKS_BOTH):
        if checks is CHECKS_BOTH and problems:
            break
        problems |= next(({name: problem} for name, check in checks.items() if (problem := check(views))), {})
    return problems
