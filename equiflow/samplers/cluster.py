r"""Cluster updates of the signs of a phi^4 field: the Ising model embedded in it.

Write `phi_x = sigma_x |phi_x|`. At fixed moduli the action depends on the signs through the links only:
`S = const - sum_<xy> J_xy sigma_x sigma_y` with `J_xy = 2 |phi_x phi_y|`, from the term `-2 phi_x phi_y` of
`(phi_x - phi_y)^2`. Neighbours of equal sign are bound with probability
`1 - exp(-2 J_xy) = 1 - exp(-4 phi_x phi_y)`. The sign of each cluster of bound sites is then free (Swendsen
and Wang 1987, Wolff 1989, Brower and Tamayo 1989). The moduli do not change, so combine `SwendsenWang` or
`Wolff` with an update that moves them, as in `Alternate(HMC(action), Wolff(action))`.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from equiflow.fused.stencil_updates import cluster_update
from equiflow.samplers.acceptance import Outcome
from equiflow.samplers.kernel import Kernel
from equiflow.samplers.local import check_phi4
from equiflow.theories.base.action import Action


class ClusterUpdate(Kernel):
    """Bind equal neighbours, then flip clusters; a subclass chooses which.

    The clusters are found by a fused kernel on the CPU, or else those of all chains at once by scipy. No
    proposal is ever rejected.

    Args:
        action: `Phi4` (or `FreeScalar`).

    Raises:
        TypeError: for another action.
    """

    def __init__(self, action: Action) -> None:
        self.action = check_phi4(action, type(self).__name__)

    @property
    def keeps(self) -> str:
        """See `Kernel.keeps`."""
        return "the moduli |phi_x|"

    @abstractmethod
    def flips(self, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        """Choose the sites that change their sign.

        Args:
            labels: number of the cluster of each site, `(n_chains, volume)`; no two chains share a number.
            generator: source of randomness.

        Returns:
            Whether a site changes its sign, `(n_chains, volume)` of booleans.
        """

    def update(self, phi: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Outcome]:
        """See `Kernel.update`; bind and flip in every chain."""
        always = torch.ones(len(phi), dtype=torch.float64, device=phi.device)
        stencil, is_single = self.action.stencil(), _chooses_one(type(self))
        if is_single is not None and stencil is not None and stencil.fits(phi):
            self.action.space.check(phi)
            return cluster_update(stencil, phi, generator, is_single=is_single), Outcome(always, always)
        labels = clusters(bonds(phi, generator))
        flipped = self.flips(labels, generator).reshape(phi.shape)
        return torch.where(flipped, -phi, phi), Outcome(always, always)


class SwendsenWang(ClusterUpdate):
    """Give every cluster a random sign (Swendsen and Wang 1987)."""

    def flips(self, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        """See `ClusterUpdate.flips`."""
        coins = torch.rand(int(labels.max()) + 1, generator=generator, device=labels.device)
        return coins[labels] < 0.5


class Wolff(ClusterUpdate):
    """Flip the cluster of a random site (Wolff 1989), which favours large clusters."""

    def flips(self, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        """See `ClusterUpdate.flips`."""
        n_chains, volume = labels.shape
        seed = torch.randint(volume, (n_chains, 1), generator=generator, device=labels.device)
        return labels == labels.gather(1, seed)


def _chooses_one(kind: type[ClusterUpdate]) -> bool | None:
    """Return whether an update flips a single cluster, or None if its choice is neither of the two here."""
    return {SwendsenWang.flips: False, Wolff.flips: True}.get(kind.flips)


def bonds(phi: Tensor, generator: torch.Generator | None) -> Tensor:
    """Bind links at random, with probability `1 - exp(-4 phi_x phi_y)` between equal signs.

    Args:
        phi: `(n_chains, *lattice)`.
        generator: source of randomness.

    Returns:
        Whether a link is bound, `(n_chains, d, *lattice)`; the entry [mu, x] is the link from x to x + mu.
    """
    products = torch.stack([phi * phi.roll(-1, mu) for mu in range(1, phi.dim())], 1)
    uniform = torch.rand(products.shape, generator=generator, dtype=phi.dtype, device=phi.device)
    return uniform < -torch.expm1(-4 * products.clamp(min=0))


def clusters(bound: Tensor) -> Tensor:
    """Number the clusters of bound sites.

    Args:
        bound: whether a link is bound, `(n_chains, d, *lattice)`, see `bonds`.

    Returns:
        Number of the cluster of each site, `(n_chains, volume)` int64; no two chains share a number.
    """
    # Imported here, because scipy takes longer to import than all of this package.
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n_chains, _, *shape = bound.shape
    site = np.arange(n_chains * int(np.prod(shape))).reshape(n_chains, *shape)
    there = np.stack([np.roll(site, -1, mu) for mu in range(1, site.ndim)], 1)
    here = np.broadcast_to(site[:, None], there.shape)
    on = bound.cpu().numpy()
    graph = coo_matrix((np.ones(on.sum(), bool), (here[on], there[on])), shape=(site.size, site.size))
    _, labels = connected_components(graph, directed=False)
    return torch.from_numpy(labels.astype(np.int64)).reshape(n_chains, -1).to(bound.device)
