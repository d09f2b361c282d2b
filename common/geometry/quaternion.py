"""Rotations as unit quaternions (w, x, y, z)."""

import numpy as np


def to_matrix(q: np.ndarray) -> np.ndarray:
    """Return the float64 rotation matrix (3, 3) of the unit quaternion q (4,): v + 2(w·(u×v) + u×(u×v)) written out."""
    w, x, y, z = np.asarray(q, dtype=np.float64)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * (w * cross + cross @ cross)


def rotate(q: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Rotate vectors v (..., 3) by the unit quaternion q (4,); the result has v's shape and dtype."""
    return v @ to_matrix(q).T.astype(v.dtype)


def conjugate(q: np.ndarray) -> np.ndarray:
    """Return the inverse rotation (4,) of the unit quaternion q (4,)."""
    return q * np.array([1, -1, -1, -1], dtype=q.dtype)


def from_matrix(m: np.ndarray) -> np.ndarray:
    """Return the unit quaternions (..., 4), w >= 0, of rotation matrices (..., 3, 3).

    Each is the eigenvector for the largest eigenvalue of a symmetric matrix, which works for every rotation, half turns
    included (Bar-Itzhack 2000).
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = np.moveaxis(np.asarray(m, dtype=np.float64), (-2, -1), (0, 1))
    k = np.array([
        [xx - yy - zz, yx + xy, zx + xz, zy - yz],
        [yx + xy, yy - xx - zz, zy + yz, xz - zx],
        [zx + xz, zy + yz, zz - xx - yy, yx - xy],
        [zy - yz, xz - zx, yx - xy, xx + yy + zz],
    ])
    q = np.roll(np.linalg.eigh(np.moveaxis(k, (0, 1), (-2, -1)))[1][..., -1], 1, axis=-1)  # x, y, z, w to w, x, y, z
    return np.where(q[..., :1] < 0, -q, q)
