"""The rotation between two sets of points, for many at once: elementwise operations alone, no call per 3x3 matrix.

Source: Horn, "Closed-form solution of absolute orientation using unit quaternions", JOSA A 1987; turning columns until
they are orthogonal is from Hestenes, "Inversion of matrices by biorthogonalization", J. SIAM 1958. Letters: N matrices,
the last axis inside, so that each operation runs over contiguous memory.
"""

from itertools import combinations

import torch

# Of a million matrices, hard ones among them, four sweeps left 1e-8 over and five rounding alone; one is to spare.
SWEEPS = 6
# On a CPU: what stays in its cache, and too little for PyTorch to share out among threads. Doing so some hundred times
# for a little arithmetic each gains little, and costs ten times the time where the cores have other work.
MATRICES_AT_ONCE = {'cpu': 1 << 12, 'cuda': 1 << 20}


def best_rotation(covariance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The rotation R that maximises trace(Rᵀ H), and that maximum, for each H: (..., 3, 3) -> (..., 3, 3), (...).

    The maximum over unit quaternions q of qᵀKq, K symmetric and linear in H, lies at the eigenvector of K's largest
    eigenvalue. Unlike singular vectors of H, it never gives a reflection, and it is there for H of any rank: where R is
    not unique, it is one of the best.

    Args:
        covariance: float64, singular values that add up to 1 at the most, as those of Pᵀ Y do for any P and Y of
            Frobenius norm 1.
    """
    pieces = covariance.reshape(-1, 3, 3).split(MATRICES_AT_ONCE[covariance.device.type])
    quaternions, maxima = zip(*(_largest_eigenvector(piece) for piece in pieces), strict=True)
    return (_matrix(torch.cat(quaternions, dim=-1)).reshape(covariance.shape),
            torch.cat(maxima).reshape(covariance.shape[:-2]))


def _largest_eigenvector(covariance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, 3, 3) -> of each one's K, the eigenvector (4, N) of length 1 to the largest eigenvalue, and that (N,)."""
    xx, xy, xz, yx, yy, yz, zx, zy, zz = covariance.flatten(1).mT.contiguous()
    # The columns of K + 1, (4, N) each. No eigenvalue of it is negative, and the one looked for is 1 or more.
    columns = [torch.stack(column) for column in (
        (1 + xx + yy + zz, yz - zy, zx - xz, xy - yx),
        (yz - zy, 1 + xx - yy - zz, xy + yx, zx + xz),
        (zx - xz, xy + yx, 1 - xx + yy - zz, yz + zy),
        (xy - yx, zx + xz, yz + zy, 1 - xx - yy + zz))]
    # Once all columns are orthogonal, each is an eigenvector, and as long as its eigenvalue.
    for i, j in SWEEPS * list(combinations(range(4), 2)):
        columns[i], columns[j] = _orthogonal(columns[i], columns[j])
    columns = torch.stack(columns)
    square, longest = columns.square().sum(dim=1).max(dim=0)
    length = square.sqrt()
    return columns.gather(0, longest.expand(1, 4, -1))[0] / length, length - 1


def _orthogonal(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two columns (4, N) turned into one another, by 45° at the most, until they are orthogonal."""
    difference = ((a - b) * (a + b)).sum(dim=0)  # of the squared lengths
    product = 2 * (a * b).sum(dim=0)
    # tan 2θ = product / difference; what is added keeps 0 / 0 from columns that need no turn
    length = torch.hypot(difference, product) + torch.finfo(a.dtype).tiny
    tangent = product / (difference + length.copysign(difference))
    cosine = (1 + tangent.square()).rsqrt()
    sine = cosine * tangent
    return torch.addcmul(cosine * a, sine, b), torch.addcmul(cosine * b, sine, a, value=-1)


def _matrix(quaternion: torch.Tensor) -> torch.Tensor:
    """Unit quaternions (4, N), real part first -> the matrices that turn row vectors by them (N, 3, 3)."""
    w, x, y, z = quaternion
    return torch.stack([
        w * w + x * x - y * y - z * z, 2 * (x * y + w * z), 2 * (x * z - w * y),
        2 * (x * y - w * z), w * w - x * x + y * y - z * z, 2 * (y * z + w * x),
        2 * (x * z + w * y), 2 * (y * z - w * x), w * w - x * x - y * y + z * z,
    ], dim=-1).unflatten(-1, (3, 3))
