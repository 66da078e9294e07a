r"""Cluster updates of the signs of a phi^4 field: the Ising model embedded in it.

Write `phi_x = sigma_x |phi_x|`. At fixed moduli the action depends on the signs through its links alone,
`S = const - sum_<xy> J_xy sigma_x sigma_y` with `J_xy = 2 |phi_x phi_y|`, since `(phi_x - phi_y)^2` holds
`-2 phi_x phi_y`. Equal neighbours are bound with `1 - exp(-2 J_xy) = 1 - exp(-4 phi_x phi_y)`, and the sign
of a cluster of bound sites is free (Swendsen and Wang 1987, Wolff 1989, Brower and Tamayo 1989). Moduli
stay as they are: alternate with an update that moves them, `Alternate(HMC(action), Wolff(action))`.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from equiflow.samplers.kernel import Kernel, Outcome, check_phi4
from equiflow.theories.base.action import Action


class ClusterUpdate(Kernel):
    """Bind equal neighbours, then flip clusters; subclasses say which.

    Clusters are found on the CPU, by scipy, for all chains at once. Nothing is rejected.

    Args:
        action: `Phi4` (or `FreeScalar`).
    """

    def __init__(self, action: Action) -> None:
        self.action = check_phi4(action, type(self).__name__)

    @abstractmethod
    def flips(self, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        """Which sites change their sign, `(n_chains, volume)` of booleans.

        Args:
            labels: number of the cluster of each site, `(n_chains, volume)`; no two chains share one.
            generator: source of randomness.
        """

    def update(self, phi: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Outcome]:
        """Bind and flip in every chain, see `Kernel.update`."""
        labels = clusters(bonds(phi, generator))
        flipped = self.flips(labels, generator).reshape(phi.shape)
        always = torch.ones(len(phi), dtype=torch.float64, device=phi.device)
        return torch.where(flipped, -phi, phi), Outcome(always, always)


class SwendsenWang(ClusterUpdate):
    """Every cluster gets a sign at random."""

    def flips(self, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        """See `ClusterUpdate.flips`."""
        coins = torch.rand(int(labels.max()) + 1, generator=generator, device=labels.device)
        return coins[labels] < 0.5


class Wolff(ClusterUpdate):
    """The cluster of a random site changes its sign: large ones are met more often."""

    def flips(self, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        """See `ClusterUpdate.flips`."""
        n_chains, volume = labels.shape
        seed = torch.randint(volume, (n_chains, 1), generator=generator, device=labels.device)
        return labels == labels.gather(1, seed)


def bonds(phi: Tensor, generator: torch.Generator | None) -> Tensor:
    """Which links are bound, `(n_chains, d, *lattice)`, at [mu, x] the link from x to x + mu."""
    products = torch.stack([phi * phi.roll(-1, mu) for mu in range(1, phi.dim())], 1)
    uniform = torch.rand(products.shape, generator=generator, dtype=phi.dtype, device=phi.device)
    return uniform < -torch.expm1(-4 * products.clamp(min=0))


def clusters(bound: Tensor) -> Tensor:
    """Number of the cluster of each site, `(n_chains, volume)`, from the links that are bound."""
    n_chains, _, *shape = bound.shape
    site = np.arange(n_chains * int(np.prod(shape))).reshape(n_chains, *shape)
    there = np.stack([np.roll(site, -1, mu) for mu in range(1, site.ndim)], 1)
    here = np.broadcast_to(site[:, None], there.shape)
    on = bound.cpu().numpy()
    graph = coo_matrix((np.ones(on.sum(), bool), (here[on], there[on])), shape=(site.size, site.size))
    _, labels = connected_components(graph, directed=False)
    return torch.from_numpy(labels.astype(np.int64)).reshape(n_chains, -1).to(bound.device)
