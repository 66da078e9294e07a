"""Cluster updates of the spins behind a field, for `ContinuousIsing`: `SpinClusters`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiflow.runtime.checks import check_type
from equiflow.samplers.acceptance import Outcome
from equiflow.samplers.cluster import clusters
from equiflow.samplers.kernel import Kernel
from equiflow.theories.scalar.ising import ContinuousIsing


class SpinClusters(Kernel):
    r"""Draw spins given the field, give every cluster of them a random sign, and draw the field anew.

    Neighbours of equal sign are bound with probability `1 - exp(-2 / T)` (Swendsen and Wang 1987). All three
    steps leave the joint density of spins and field invariant, of which `exp(-S)` is the marginal. Slow modes
    of the field are those of the spins alone, which clusters update within a few steps on any lattice; HMC
    takes a number of trajectories that grows like the square of the side.

    Args:
        action: the Ising model as a theory of a field.

    Raises:
        TypeError: for another action.

    >>> from equiflow import Lattice
    >>> chain = SpinClusters(ContinuousIsing(Lattice((4, 4)), T=2.0)).sample(8, n_chains=2)
    >>> chain.configurations.shape
    torch.Size([16, 4, 4])
    """

    action: ContinuousIsing

    def __init__(self, action: ContinuousIsing) -> None:
        check_type(action, ContinuousIsing, "action", "Write ContinuousIsing(lattice, T=2.27).")
        self.action = action

    def update(self, phi: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Outcome]:
        """See `Kernel.update`; nothing is ever rejected."""
        spins = self.action.spins(phi, generator)
        equal = torch.stack([spins == spins.roll(-1, mu) for mu in self.action.lattice.axes], 1)
        uniform = torch.rand(equal.shape, generator=generator, dtype=phi.dtype, device=phi.device)
        labels = clusters(equal & (uniform < -math.expm1(-2 / self.action.T))).reshape(phi.shape)
        coins = torch.rand(int(labels.max()) + 1, generator=generator, device=phi.device)
        spins = torch.where(coins[labels] < 0.5, spins, -spins)
        always = torch.ones(len(phi), dtype=torch.float64, device=phi.device)
        return self.action.fields(spins, generator), Outcome(always, always)
