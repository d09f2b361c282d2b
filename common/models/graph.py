"""Adjacency matrices of skeletons and of chains of frames."""

import numpy as np
import torch

from common.skeleton import Skeleton


def adjacency(n: int, edges: list[tuple[int, int]]) -> np.ndarray:
    """Return the normalised adjacency (n, n), float32, of an undirected graph.

    As in KTPFormer and HTNet, each row of the symmetric 0/1 matrix is divided by its sum (an isolated node keeps a row
    of zeros), and then the diagonal is set to 1.
    """
    matrix = np.zeros((n, n))
    for i, j in edges:
        matrix[i, j] = matrix[j, i] = 1
    matrix /= np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(matrix, 1)
    return matrix.astype(np.float32)


def chain(n: int) -> np.ndarray:
    """Return the adjacency (n, n) of n successive frames."""
    return adjacency(n, [(t, t - 1) for t in range(1, n)])


def of_layout(layout: Skeleton) -> torch.Tensor:
    """Return the adjacency (K, K) of a layout's keypoints as a tensor."""
    return torch.from_numpy(adjacency(len(layout), layout.edges))
