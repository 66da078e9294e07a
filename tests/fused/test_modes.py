"""The real Fourier basis of an axis is orthogonal, and ordered so that it comes apart into small matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from equiflow.fused import modes


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 8, 15, 16, 64])
def test_the_matrix_of_an_axis_is_orthogonal(side):
    matrix = modes.matrix(side, torch.float64)
    assert matrix.shape == (side, side)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(side), atol=1e-13)


@pytest.mark.parametrize("side", [1, 2, 5, 6, 8, 12, 20])
def test_modes_are_ordered_by_their_momenta(side):
    # The Laplacian of an axis is diagonal in the modes, with 2 - 2 cos(2 pi k / side).
    eye = np.eye(side)
    laplacian = 2 * eye - np.roll(eye, 1, 0) - np.roll(eye, -1, 0)
    matrix, k = modes.matrix(side, torch.float64), modes.momenta(side).numpy()
    expected = np.diag(2 - 2 * np.cos(2 * np.pi * k / side))
    np.testing.assert_allclose(matrix @ laplacian @ matrix.T, expected, atol=1e-13)


@pytest.mark.parametrize("side", [1, 3, 6, 8, 10, 24, 64, 128])
def test_blocks_follow_each_other_and_shrink(side):
    blocks = modes.blocks(side)
    ends = [first + n for first, n in blocks]
    assert [first for first, _ in blocks] == [0, *ends[:-1]]
    assert ends[-1] == side
    products = sum(n * n for _, n in blocks)
    assert products == side**2 if not modes.folds(side) else products <= side**2 / 2
