"""Free field in closed form, in any dimension: `free_field` and its two-point function."""

from __future__ import annotations

import torch
from torch import Tensor

from equiflow.oracles.exact import Exact, longest_axis
from equiflow.theories.scalar.phi4 import FreeScalar


def free_two_point(action: FreeScalar) -> Tensor:
    """Return `G(x) = <phi_y phi_{y+x}> = 1/V sum_k cos(kx) / (2 (k^2 + m2))`.

    Here `k^2` is the lattice momentum `sum_mu 4 sin^2(k_mu / 2)`.

    Returns:
        `(*lattice)` in float64, indexed by the offset x.
    """
    return torch.fft.ifftn(action.mode_variance()).real


def free_field(action: FreeScalar) -> Exact:
    """Return every number of `Exact` in closed form.

    The field is Gaussian, so `<phi^4> = 3 <phi^2>^2`. `action.mode_variance()` gives the variance of each
    Fourier mode.

    Args:
        action: a free field on any lattice.

    >>> from equiflow import FreeScalar, Lattice
    >>> round(free_field(FreeScalar(Lattice((4, 4)), m2=1.0)).susceptibility, 12)
    0.5
    """
    two_point = free_two_point(action)
    origin = (0,) * two_point.dim()
    square = float(two_point[origin])
    neighbours = tuple(float(two_point.roll(-1, axis)[origin]) for axis in action.lattice.axes)
    time = longest_axis(action.lattice)
    correlator = two_point.movedim(time, 0).flatten(1).sum(1) if two_point.dim() > 1 else two_point
    return Exact(
        log_z=action.log_z(),
        phi_squared=square,
        phi_fourth=3 * square**2,
        nearest_neighbour=neighbours,
        correlator=tuple(correlator.tolist()),
    )
