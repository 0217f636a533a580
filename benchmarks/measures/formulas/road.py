"""ROAD's imputation: removed pixels become the weighted mean of their neighbours."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

__all__ = ["impute"]

_SIDE, _CORNER = 1 / 6, 1 / 12  # weights of neighbours that share a side or a corner


def impute(image: Tensor, removed: Tensor) -> Tensor:
    """Fill in removed pixels by linear imputation, without the noise.

    Each removed pixel equals the weighted mean of the eight pixels around it, known or not; what
    lies outside the picture has no weight. The system is a graph's Laplacian, and so positive
    definite as long as one pixel is known.

    Args:
        image: Float tensor (C, H, W).
        removed: Pixels to fill in, boolean tensor (H, W).

    Returns:
        The image with the removed pixels filled in, (C, H, W).

    Raises:
        ValueError: No pixel is left.

    Reference:
        Rong et al. (2022), A consistent and efficient evaluation strategy for attribution
        methods, section 4.2.
    """
    gone = removed.flatten().numpy()
    if gone.all():
        raise ValueError("all pixels are removed; keep at least one")
    if not gone.any():
        return image
    laplacian = _laplacian(*image.shape[1:])[gone]
    values = image.flatten(1).T.double().numpy()  # (C, H, W) -> (H*W, C)
    filled = _solve(laplacian[:, gone].tocsc(), -(laplacian[:, ~gone] @ values[~gone]))
    result = image.flatten(1).clone()
    result[:, removed.flatten()] = torch.from_numpy(filled.T).to(image)
    return result.view_as(image)


def _solve(matrix: sparse.csc_matrix, right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solve a sparse, symmetric, positive definite system, for which no pivots are needed."""
    factors = splu(
        matrix,
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    solution: NDArray[np.float64] = factors.solve(right)
    return solution


@lru_cache(maxsize=4)
def _laplacian(height: int, width: int) -> sparse.csr_matrix:
    """Return the Laplacian (H*W, H*W) of the grid in which each pixel has eight neighbours."""
    along_y, along_x = _chain(height), _chain(width)
    sides = sparse.kron(sparse.eye(height), along_x) + sparse.kron(along_y, sparse.eye(width))
    weights = _SIDE * sides + _CORNER * sparse.kron(along_y, along_x)
    degrees = sparse.diags(np.asarray(weights.sum(1)).ravel())
    return sparse.csr_matrix(degrees - weights)


def _chain(length: int) -> sparse.csr_matrix:
    """Return the adjacency of pixels in a row."""
    ones = np.ones(length - 1)
    return sparse.diags([ones, ones], [-1, 1], shape=(length, length), format="csr")
