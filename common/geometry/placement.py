"""Placing a lifted person: the root in camera space from the keypoints and the lens, or the feet on a floor.

Letters: T frames, J joints.
"""

import numpy as np

NEAREST = 0.1  # metres; no root is placed nearer to the camera
FEWEST = 4  # joints that a frame must show for its root to be estimated from it
STEPS = 10  # of Gauss-Newton, which needs three or four
LEVEL = np.eye(3)  # a camera that is not tilted
LARGEST_TILT = 50.0  # degrees; people who are further from upright do not stand


def lens_of_view(degrees: float, width: float, height: float) -> tuple[float, float, float, float]:
    """Return (fx, fy, cx, cy) in pixels of a lens with this horizontal field of view, centred in the picture."""
    focal = width / 2 / np.tan(np.radians(degrees) / 2)
    return focal, focal, width / 2, height / 2


def root_by_reprojection(poses: np.ndarray, pixels: np.ndarray, seen: np.ndarray,
                         lens: tuple[float, float, float, float]) -> np.ndarray:
    """Return the root (T, 3), float64 metres in camera axes, that projects the joints onto their keypoints.

    Minimises the squared distances in pixels, frame by frame: first the linear problem f (X + tx) = u (Z + tz), then
    Gauss-Newton on the projection itself. Frames with fewer than FEWEST seen joints are interpolated in time.

    Args:
        poses: (T, J, 3) metres in camera axes, relative to the root.
        pixels: (T, J, 2) keypoints.
        seen: (T, J) bool, the keypoints to use.
        lens: fx, fy, cx, cy in pixels, without distortion.

    Raises ValueError where no frame has enough seen joints.
    """
    poses, (focal, centre) = poses.astype(np.float64), np.asarray(lens, dtype=np.float64).reshape(2, 2)
    seen = seen & np.isfinite(pixels).all(axis=-1)
    enough = seen.sum(axis=1) >= FEWEST
    if not enough.any():
        raise ValueError(f'no frame shows {FEWEST} joints')
    shown, weight = poses[enough], seen[enough, :, None].astype(np.float64)  # (S, J, 3), (S, J, 1)
    offset = np.where(weight > 0, pixels[enough] - centre, 0)  # (S, J, 2)
    root = _linear(shown, offset, weight, focal)
    for _ in range(STEPS):
        depth = np.maximum(shown[..., 2:] + root[:, None, 2:], NEAREST)
        at = (shown[..., :2] + root[:, None, :2]) / depth
        jacobian = _jacobian(focal / depth, -focal / depth * at)
        root = root - _solve(jacobian, focal * at - offset, weight)
        root[:, 2] = np.maximum(root[:, 2], NEAREST - shown[..., 2].min(axis=1))
    at = np.flatnonzero(enough)
    return np.stack([np.interp(np.arange(len(poses)), at, root[:, axis]) for axis in range(3)], axis=1)


def _linear(poses: np.ndarray, offset: np.ndarray, weight: np.ndarray, focal: np.ndarray) -> np.ndarray:
    """Solve the linear problem for the root (S, 3)."""
    residual = focal * poses[..., :2] - offset * poses[..., 2:]
    return -_solve(_jacobian(np.broadcast_to(focal, offset.shape), -offset), residual, weight)


def _jacobian(sideways: np.ndarray, forward: np.ndarray) -> np.ndarray:
    """Return the derivatives (S, J, 2, 3) of u and v with respect to tx, ty and tz."""
    jacobian = np.zeros((*sideways.shape, 3))
    jacobian[..., 0, 0], jacobian[..., 1, 1] = sideways[..., 0], sideways[..., 1]
    jacobian[..., 2] = forward
    return jacobian


def _solve(jacobian: np.ndarray, residual: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the step (S, 3) that minimises a linear residual (S, J, 2)."""
    normal = np.einsum('sjka,sj,sjkb->sab', jacobian, weight[..., 0], jacobian)
    ridge = 1e-9 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(3)
    right = np.einsum('sjka,sj,sjk->sa', jacobian, weight[..., 0], residual)
    return np.linalg.solve(normal + ridge + 1e-12 * np.eye(3), right[..., None])[..., 0]


def upright(poses: np.ndarray, tilt: np.ndarray = LEVEL) -> np.ndarray:
    """Turn camera axes (x right, y down, z forward) into a world with z up: x right, y forward.

    Args:
        tilt: (3, 3), what turns the world of a level camera into that of this one; as `tilt_of`.
    """
    level = np.stack([poses[..., 0], poses[..., 2], -poses[..., 1]], axis=-1)
    return level if tilt is LEVEL else (level @ tilt.T).astype(poses.dtype)


def tilt_of(poses: np.ndarray, top: int, feet: tuple[int, ...]) -> tuple[np.ndarray, float]:
    """Return the rotation (3, 3) after which people stand upright on average, by the shortest way, and its degrees.

    Upright is from the middle of the feet to the joint `top`, of poses (T, J, 3) in camera axes. Raises ValueError for
    people who are further than LARGEST_TILT from it, or on no side of it.
    """
    body = upright(poses[:, top] - poses[:, feet].mean(axis=1)).astype(np.float64)
    mean = (body / np.linalg.norm(body, axis=-1, keepdims=True).clip(1e-9)).mean(axis=0)
    x, y, z = mean / max(float(np.linalg.norm(mean)), 1e-9)
    degrees = float(np.degrees(np.arccos(np.clip(z, -1, 1))))
    if not degrees <= LARGEST_TILT:
        raise ValueError(f'the bodies are {degrees:.0f} degrees from upright on average')
    # Rodrigues' formula about the axis that is across both directions.
    cross = np.array([[0, 0, -x], [0, 0, -y], [x, y, 0]])
    return np.eye(3) + cross + cross @ cross / (1 + z), degrees


def feet_on_floor(world: np.ndarray, feet: tuple[int, ...]) -> np.ndarray:
    """Return (T, J, 3), z up, with the lower foot of every frame at z = 0, for a person who never jumps."""
    moved = world.copy()
    moved[..., 2] -= world[:, feet, 2].min(axis=1)[:, None]
    return moved


def floor_below(world: np.ndarray, feet: tuple[int, ...]) -> np.ndarray:
    """Return (T, J, 3), z up, with the lowest foot of the whole clip at z = 0."""
    return world - np.array([0, 0, world[:, feet, 2].min()], world.dtype)
