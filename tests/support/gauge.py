"""What tests of lattice gauge theory share: spaces of every group, and random links."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st
from torch import Tensor

from equiflow.theories.base.lattice import Lattice
from equiflow.theories.gauge.links import Links
from equiflow.vector_fields import VectorField

GROUPS = ("U(1)", "SU(2)", "SU(3)", "SU(4)")
#: of two to four dimensions, with sides of every parity, one and two among them
SHAPES = ((2, 2), (3, 3), (4, 3), (1, 3), (2, 3, 4), (2, 2, 1, 3))


def rng(seed: int = 0) -> torch.Generator:
    """Return a generator on the CPU with this seed."""
    return torch.Generator().manual_seed(seed)


def every_links(groups: tuple[str, ...] = GROUPS) -> st.SearchStrategy[Links]:
    """Draw links of any group on a small lattice."""
    return st.builds(Links, st.sampled_from(SHAPES).map(Lattice), st.sampled_from(groups))


def velocities(links: Links, n: int = 3, seed: int = 0) -> Tensor:
    """Return reproducible normal velocities, `(n, *tangent_shape)`."""
    return torch.randn((n, *links.tangent_shape), generator=rng(seed), dtype=torch.float64)


def divergence_of_small_moves(field: VectorField, u: Tensor, t: float) -> Tensor:
    """Return the divergence at one configuration by central differences, `(1,)`; good to 1e-5."""
    space, h = field.space, 1e-4
    n = math.prod(space.tangent_shape)
    moves = torch.eye(n, dtype=torch.float64).view(-1, *space.tangent_shape)
    ahead, behind = (field.velocity(space.move(u.expand(n, *u.shape[1:]), s * moves), t) for s in (h, -h))
    return ((ahead - behind) * moves).flatten(1).sum()[None] / (2 * h)
