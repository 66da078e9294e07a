"""A few smooth functions of lattice momentum, the same on all lattices: `SmoothFunctions`.

Kernels and spectra that are combinations of them carry over to lattices of any size exactly.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from equiflow.theories.base.lattice import Lattice

#: masses of the propagators, one for each octave of momenta; the local functions care for larger momenta
MASSES = tuple(2.0**-n for n in range(6))
#: largest offset along each axis of the local functions
REACH = 4
#: mean square of a function below which a lattice hardly sees it
HARDLY_SEEN = 2e-3
#: the same for what `carry` can still undo
NOT_SEEN = 1e-10


class SmoothFunctions:
    r"""Functions `f_j(p)` on the momenta of a lattice, symmetric under all permutations and reflections.

    With `r_m(p) = m^2 / (phat^2 + m^2)`, `phat^2 = sum_mu 4 sin^2(p_mu / 2)` and masses m = 1, 1/2, ... 1/32:

    - bumps `3 (r_m - r_{m/2})`, each one for the momenta around m, and the last `r_m`, for momentum zero;
    - local functions, the mean of `prod_mu cos(n_mu p_mu)` over the permutations of n, for offsets
      `0 <= n_1 <= ... <= n_d <= 4`. They tell directions apart.

    These overlap, and a lattice of side L hardly sees the bumps far below `2 pi / L`. A diagonal optimiser
    would learn them at unlike rates, and move those that are not seen at random. Weights are therefore those
    of `g = G^{1/2} (G + d)^{-1} f / sqrt(n)` with `G_ij = <f_i f_j>`, n functions and a small d: orthogonal
    functions of like size, but small combinations of f where these are hardly seen. In half of the average
    each octave of momenta counts alike, in the other half each momentum. The change of basis depends on the
    lattice, and `carry` undoes it.

    Args:
        lattice: whose momenta are meant.

    >>> SmoothFunctions(Lattice((16, 16))).values.shape
    torch.Size([21, 16, 16])
    """

    def __init__(self, lattice: Lattice) -> None:
        self.lattice = lattice
        functions = torch.stack([*_propagators(lattice), *_local(lattice)])
        weighted = functions.flatten(1) * _share(lattice).flatten()
        eigenvalues, vectors = torch.linalg.eigh(weighted @ functions.flatten(1).mT)
        seen = eigenvalues.clamp(min=0) + NOT_SEEN
        size = (seen + HARDLY_SEEN) / seen.sqrt() * len(functions) ** 0.5
        #: f from g, `(function, function)`, symmetric
        self._from_orthogonal = (vectors * size) @ vectors.mT
        self._to_orthogonal = (vectors / size) @ vectors.mT
        #: `g_j` on the momenta of a full FFT, `(function, *lattice)`, in float64
        self.values = (self._to_orthogonal @ functions.flatten(1)).view_as(functions)

    def __len__(self) -> int:
        return len(self.values)

    def fit(self, values: Tensor) -> Tensor:
        """Return the weights of the combination that is closest to a function, by least squares.

        Args:
            values: `(..., *lattice)`, in float64.

        Returns:
            `(..., function)`; the shortest weights if several do, or nearly so.
        """
        matrix, wanted = self.values.flatten(1).mT, values.flatten(-self.lattice.dim)
        found: Tensor = wanted @ torch.linalg.pinv(matrix, rtol=1e-3).mT
        return found

    def carry(self, weights: Tensor, lattice: Lattice) -> Tensor:
        """Return the weights of the same functions on another lattice.

        Args:
            weights: `(..., function)`, in float64.
            lattice: of the same dimension.

        Returns:
            `(..., function)`.
        """
        carried: Tensor = weights @ self._to_orthogonal @ SmoothFunctions(lattice)._from_orthogonal
        return carried


def _propagators(lattice: Lattice) -> list[Tensor]:
    """Return the bumps and the last propagator."""
    squared = lattice.squared_momenta()
    propagators = [m**2 / (squared + m**2) for m in MASSES]
    return [3 * (a - b) for a, b in itertools.pairwise(propagators)] + propagators[-1:]


def _local(lattice: Lattice) -> list[Tensor]:
    """Return the local functions."""
    momenta = [2 * math.pi * torch.arange(side, dtype=torch.float64) / side for side in lattice.shape]
    grid = torch.meshgrid(*momenta, indexing="ij")

    def of_offset(offset: tuple[int, ...]) -> Tensor:
        waves = [torch.cos(n * p) for n, p in zip(offset, grid, strict=True)]
        return torch.stack(waves).prod(0)

    offsets = itertools.combinations_with_replacement(range(REACH + 1), lattice.dim)
    orbits = (sorted(set(itertools.permutations(offset))) for offset in offsets)
    return [torch.stack([of_offset(offset) for offset in orbit]).mean(0) for orbit in orbits]


def _share(lattice: Lattice) -> Tensor:
    """Return weights of the momenta, `(*lattice)`, which add up to 1: half by octaves, half alike."""
    # The smallest momentum stands for zero, or zero would outweigh all others.
    smallest = 2 * math.sin(math.pi / max(2, *lattice.shape))
    weight = (lattice.squared_momenta() + smallest**2) ** (-lattice.dim / 2)
    return 0.5 * weight / weight.sum() + 0.5 / lattice.volume
