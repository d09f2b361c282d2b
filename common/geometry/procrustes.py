"""The best rotation between two sets of points, for many pairs at once, in elementwise operations only.

Source: Horn, "Closed-form solution of absolute orientation using unit quaternions", JOSA A 1987; turning columns until
they are orthogonal is from Hestenes, "Inversion of matrices by biorthogonalization", J. SIAM 1958. Letters: N matrices,
as the last axis inside, so that each operation runs over contiguous memory.
"""

from itertools import combinations

import torch

# On a million matrices, hard ones among them, the error left after four sweeps was 1e-8, and after five only rounding;
# the sixth is a margin.
SWEEPS = 6
# On a CPU, few enough to stay in its cache and to be too small for PyTorch to split among threads. Splitting a hundred
# small operations gains little, and takes ten times as long where the cores have other work.
MATRICES_AT_ONCE = {'cpu': 1 << 12, 'cuda': 1 << 20}


def best_rotation(covariance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rotation R that maximises trace(Rᵀ H), and the maximum: (..., 3, 3) -> (..., 3, 3), (...).

    The maximum over unit quaternions q of qᵀKq, K symmetric and linear in H, lies at the eigenvector of K's largest
    eigenvalue. Unlike the singular vectors of H, it never gives a reflection, and it exists for H of any rank: where R
    is not unique, one of the best is returned.

    Args:
        covariance: H, float64, whose singular values add up to at most 1, as those of Pᵀ Y do for any P and Y of
            Frobenius norm 1.
    """
    pieces = covariance.reshape(-1, 3, 3).split(MATRICES_AT_ONCE[covariance.device.type])
    quaternions, maxima = zip(*(_largest_eigenvector(piece) for piece in pieces), strict=True)
    return (_matrix(torch.cat(quaternions, dim=-1)).reshape(covariance.shape),
            torch.cat(maxima).reshape(covariance.shape[:-2]))


def _largest_eigenvector(covariance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the unit eigenvectors (4, N) for the largest eigenvalue of K, and the eigenvalues (N,), of H (N, 3, 3)."""
    xx, xy, xz, yx, yy, yz, zx, zy, zz = covariance.flatten(1).mT.contiguous()
    # The columns of K + 1, (4, N) each. Its eigenvalues are not negative, and the largest is at least 1.
    columns = [torch.stack(column) for column in (
        (1 + xx + yy + zz, yz - zy, zx - xz, xy - yx),
        (yz - zy, 1 + xx - yy - zz, xy + yx, zx + xz),
        (zx - xz, xy + yx, 1 - xx + yy - zz, yz + zy),
        (xy - yx, zx + xz, yz + zy, 1 - xx - yy + zz))]
    # Once all columns are orthogonal, each is an eigenvector whose length is its eigenvalue.
    for i, j in SWEEPS * list(combinations(range(4), 2)):
        columns[i], columns[j] = _orthogonal(columns[i], columns[j])
    vectors = torch.stack(columns)
    square, longest = vectors.square().sum(dim=1).max(dim=0)
    length = square.sqrt()
    return vectors.gather(0, longest.expand(1, 4, -1))[0] / length, length - 1


def _orthogonal(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate two columns (4, N) in their plane, by at most 45°, so that they become orthogonal."""
    difference = ((a - b) * (a + b)).sum(dim=0)  # of the squared lengths
    product = 2 * (a * b).sum(dim=0)
    # tan 2θ = product / difference; the tiny addend avoids 0 / 0 for columns that need no rotation
    length = torch.hypot(difference, product) + torch.finfo(a.dtype).tiny
    tangent = product / (difference + length.copysign(difference))
    cosine = (1 + tangent.square()).rsqrt()
    sine = cosine * tangent
    return torch.addcmul(cosine * a, sine, b), torch.addcmul(cosine * b, sine, a, value=-1)


def _matrix(quaternion: torch.Tensor) -> torch.Tensor:
    """Convert unit quaternions (4, N), real part first, to matrices (N, 3, 3) that rotate row vectors."""
    w, x, y, z = quaternion
    return torch.stack([
        w * w + x * x - y * y - z * z, 2 * (x * y + w * z), 2 * (x * z - w * y),
        2 * (x * y - w * z), w * w - x * x + y * y - z * z, 2 * (y * z + w * x),
        2 * (x * z + w * y), 2 * (y * z - w * x), w * w - x * x - y * y + z * z,
    ], dim=-1).unflatten(-1, (3, 3))
