"""The lattices and levels of a hierarchy, see `MultiscaleFlow`, and Gaussian steps between them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from equiflow.flows.cnf import EquivariantCNF
from equiflow.nn.blocking import Blocking
from equiflow.runtime.checks import check_type
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.prior import LOG_2PI, Prior
from equiflow.theories.base.symmetry import SymmetryGroup, spatial_part
from equiflow.theories.scalar.priors import FreeField, StandardNormal

#: the coarsest lattice has no side longer than this, if the sides can be halved so often
COARSEST_SIDE = 4


def lattices_of(finest: Lattice, n_levels: int | None) -> list[Lattice]:
    """Return the lattices of a hierarchy from the coarsest to the finest.

    Args:
        finest: the last one.
        n_levels: their number; None to halve the sides down to `COARSEST_SIDE`, once at least.

    Returns:
        The lattices.

    Raises:
        ValueError: if a side is odd before there are so many.
    """
    lattices = [finest]
    while len(lattices) < (n_levels or 2) or (n_levels is None and _can_be_coarser(lattices[0])):
        lattices.insert(0, Blocking(lattices[0]).coarse)
    return lattices


def _can_be_coarser(lattice: Lattice) -> bool:
    """Return whether a lattice is coarse enough only after a further step that its sides allow."""
    return max(lattice.shape) > COARSEST_SIDE and not any(side % 2 for side in lattice.shape)


def check_levels(levels: Sequence[EquivariantCNF]) -> None:
    """Raise unless flows fit together as the levels of a hierarchy, from the coarsest to the finest.

    Raises:
        TypeError: if one is no `EquivariantCNF` on a lattice, or its prior not Gaussian.
        ValueError: if lattices or groups do not fit.
    """
    check_type(levels, Sequence, "levels", "Give a list, from the coarsest lattice to the finest.")
    if not levels:
        raise ValueError("A hierarchy needs at least one level.")
    for level in levels:
        check_type(level, EquivariantCNF, "Each of levels")
        check_type(level.space, Lattice, "The space of each level", "Write EquivariantCNF(Lattice((4, 4))).")
        check_type(level.prior, (FreeField, StandardNormal), "The prior of each level")
        check_type(level.group, SymmetryGroup, "The group of each level")
    for coarse, fine in pairwise(levels):
        if Blocking(fine.lattice).coarse != coarse.lattice:
            raise ValueError(
                f"Each level must have sides twice as long as the one before, got {coarse.lattice.shape} "
                f"and {fine.lattice.shape}."
            )
        if coarse.group.on(fine.lattice) != fine.group:
            raise ValueError(f"All levels must have one group, got {coarse.group} and {fine.group}.")


@torch.no_grad()
def pass_on(level: EquivariantCNF) -> None:
    """Let the spectrum of a new level leave coarse fields as they are, and be the free one beyond them."""
    prior = level.prior
    assert isinstance(prior, FreeField)
    orbits = spatial_part(prior.group).momentum_orbits()
    passed = orbits.mean(Blocking(level.lattice).passed()).to(prior.log_sigma)
    variance = passed + (1 - passed) * (2 * prior.log_sigma).exp()
    prior.log_sigma.copy_(0.5 * variance.log())


def log_normal(noise: Tensor) -> Tensor:
    """Return the log-density of white noise, `(batch,)`."""
    return -0.5 * (noise.square() + LOG_2PI).flatten(1).sum(1)


def log_det_of(prior: Prior) -> Tensor:
    """Return `log |det|` of the map from white noise to a Gaussian prior, 0-d."""
    mode = torch.zeros((1, *prior.event_shape), dtype=prior.dtype, device=prior.device)
    return log_normal(mode)[0] - prior.log_prob(mode)[0]
