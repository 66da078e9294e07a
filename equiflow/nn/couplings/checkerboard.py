"""A layer in which one sublattice of a checkerboard moves and the other one stays."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from equiflow.nn.couplings.conditioners import Conditioner
from equiflow.nn.couplings.site_maps import SiteMap
from equiflow.theories.base.checkerboard import parity_of_sites
from equiflow.theories.base.lattice import Lattice


class CheckerboardLayer(nn.Module):
    """The layer `x'_a = f(x_a; net(x_b))`, `x'_b = x_b` on active sites a and frozen sites b.

    The Jacobian is triangular, so `log_det = sum_a log f'` (arXiv:1605.08803).

    Args:
        lattice: where the field lives; all sides are even.
        active_parity: 0 or 1, the sublattice that moves.
        site_map: f.
        net: computes the parameters of f from the frozen sites.
    """

    def __init__(self, lattice: Lattice, active_parity: int, site_map: SiteMap, net: Conditioner) -> None:
        super().__init__()
        self.site_map = site_map
        self.net = net
        parity = parity_of_sites(lattice)
        self.register_buffer("_frozen", parity != active_parity, False)
        self.register_buffer("_active", (parity.flatten() == active_parity).nonzero().flatten(), False)

    _frozen: Tensor
    _active: Tensor

    def forward(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Return `phi'`, `(batch, *lattice)`, and `log |det dphi'/dphi|`, `(batch,)`."""
        return self._moved(phi, self.site_map.forward)

    def inverse(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Return `phi`, `(batch, *lattice)`, and `log |det dphi/dphi'|`, `(batch,)`, from `phi'`."""
        return self._moved(phi, self.site_map.inverse)

    def _moved(
        self, phi: Tensor, site_map: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Apply the map, or its inverse, to the active sites."""
        even, odd = self.net(torch.where(self._frozen, phi, 0.0))
        sites = phi.flatten(1)
        active, log_slope = site_map(self._at(sites), self._at(even.flatten(2)), self._at(odd.flatten(2)))
        return sites.index_copy(1, self._active, active).view_as(phi), log_slope.sum(1)

    def _at(self, values: Tensor) -> Tensor:
        """Return the values at the active sites, `(..., active site)`."""
        return values.index_select(-1, self._active)

    def extra_repr(self) -> str:
        """Return what `repr` shows besides the submodules."""
        return f"site_map={self.site_map!r}"
