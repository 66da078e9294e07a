"""Harmonics on the lattice transform as irreps of O(3) do."""

from __future__ import annotations

import pytest
import torch

from equiflow import Lattice, SymmetryGroup
from equiflow.nn.irreps.e3nn_kernels import harmonic_basis
from tests.support.strategies import needs


@needs("e3nn")
@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(3, 3, 3), (4, 4, 4), (4, 3, 2)])
def test_harmonics_transform_by_an_orthogonal_matrix_of_their_parity(shape, degree):
    group = SymmetryGroup(Lattice(shape))
    basis = harmonic_basis(group, degree, None)
    for element in group.point_elements:
        moved = element(basis)
        for one, other in zip(basis, moved, strict=True):
            gram, its = one.flatten(1), other.flatten(1)
            torch.testing.assert_close(gram.mT @ gram, its.mT @ its, rtol=0, atol=1e-14)
    inversion = group._inversion
    torch.testing.assert_close(inversion(basis), (-1) ** degree * basis, rtol=0, atol=1e-14)


@needs("e3nn")
def test_odd_harmonics_vanish_where_an_offset_is_its_own_mirror_image():
    basis = harmonic_basis(SymmetryGroup(Lattice((4, 4, 4))), 1, None)
    for x, y, z in [(2, 0, 0), (2, 2, 0), (0, 2, 2), (2, 2, 2), (0, 0, 0)]:
        assert not basis[:, :, x, y, z].any()
    assert basis[:, :, 2, 1, 0].any()
