"""Metropolis updates of single sites of a phi^4 field, all sites of one colour at a time."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from equiflow.fused.stencil_updates import metropolis_update
from equiflow.runtime.checks import check_type
from equiflow.samplers.acceptance import Outcome, log_step_change
from equiflow.samplers.kernel import Kernel
from equiflow.theories.base.action import Action
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.scalar.phi4 import Phi4


def check_phi4(action: Action, sampler: str) -> Phi4:
    """Return the action if its links and potential are those of `Phi4`, else raise.

    Args:
        action: what was given.
        sampler: who asks, as messages call it.

    Returns:
        The action.

    Raises:
        TypeError: if it is another action, or a subclass of `Phi4` that changes `forward`.
    """
    check_type(action, Action, "action")
    check_type(action, Phi4, "action", f"{sampler} is made for the links of Phi4.")
    if type(action).forward is not Phi4.forward:
        raise TypeError(
            f"{type(action).__name__} changes the action of Phi4, which {sampler} would not notice; expected "
            "Phi4 or FreeScalar."
        )
    return action  # type: ignore[return-value]


class LocalMetropolis(Kernel):
    """A sweep of `phi_x -> phi_x + width * u`, u uniform in [-1, 1], over a phi^4 lattice.

    Sites of one colour are never neighbours, so they are updated at once. The update of each colour is
    reversible; the sweep as a whole is not, but leaves `exp(-S)` invariant all the same.

    Args:
        action: `Phi4` (or `FreeScalar`).
        width: largest change of a site; None tunes it during the thermalisation.
        target_acceptance: acceptance at which the tuning aims.

    Raises:
        TypeError: for another action.
        ValueError: if the width is not positive, or the acceptance not between 0 and 1.
    """

    def __init__(self, action: Action, *, width: float | None = None, target_acceptance: float = 0.5) -> None:
        if not (width is None or 0 < width < math.inf) or not 0 < target_acceptance < 1:
            raise ValueError(
                f"Expected a positive, finite width and a target_acceptance in (0, 1), got {width} and "
                f"{target_acceptance}."
            )
        self.action = self._phi4 = check_phi4(action, "LocalMetropolis")
        self.width = width
        self.target_acceptance = target_acceptance
        self._log_width = math.log(width or 1.0)
        self._colours = colours(action.lattice)

    @property
    def remedy(self) -> str:
        """See `Kernel.remedy`."""
        return f"The width is {math.exp(self._log_width):.2g}: give a smaller one, or width=None to tune it."

    @property
    def is_tuned(self) -> bool:
        """Whether the width is fixed."""
        return self.width is not None

    def update(self, phi: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Outcome]:
        """See `Kernel.update`; an update is one sweep over every chain."""
        stencil = self._phi4.stencil()
        if stencil is not None and stencil.fits(phi):
            self.action.space.check(phi)
            width = math.exp(self._log_width)
            phi, *found = metropolis_update(stencil, phi, self._colours, width, generator)
            return phi, Outcome(found[0], found[1])
        axes = self.action.lattice.axes
        accepted = torch.zeros(len(phi), dtype=torch.float64, device=phi.device)
        probability = torch.zeros_like(accepted)
        for colour in range(int(self._colours.max()) + 1):
            has_colour = (self._colours == colour).to(phi.device)
            noise = torch.rand(phi.shape, generator=generator, dtype=phi.dtype, device=phi.device)
            proposal = phi + math.exp(self._log_width) * (2 * noise - 1)
            chance = (-self._change(phi, proposal)).clamp(max=0.0).exp()
            uniform = torch.rand(phi.shape, generator=generator, dtype=phi.dtype, device=phi.device)
            moved = (uniform < chance) & has_colour
            phi = torch.where(moved, proposal, phi)
            accepted += moved.double().sum(axes)
            probability += (chance * has_colour).double().sum(axes)
        volume = self.action.lattice.volume
        return phi, Outcome(accepted / volume, probability / volume)

    def _change(self, phi: Tensor, proposal: Tensor) -> Tensor:
        """Return the change of S if one site alone moved, for every site, `(batch, *lattice)`."""
        m2, lam = self._phi4.m2, self._phi4.lam
        # Along a side of length 1 a link joins a site to itself and costs nothing.
        linked = [mu for mu in self.action.lattice.axes if phi.shape[mu] > 1]
        neighbours = sum((phi.roll(1, mu) + phi.roll(-1, mu) for mu in linked), torch.zeros_like(phi))

        def local(value: Tensor) -> Tensor:
            return (2 * len(linked) + m2 + lam * value.square()) * value.square() - 2 * value * neighbours

        return local(proposal) - local(phi)

    def adapted(self, outcome: Outcome, n: int) -> LocalMetropolis:
        """See `Kernel.adapted`; the width comes nearer to the target acceptance."""
        other = copy.copy(self)
        if not self.is_tuned:
            other._log_width += log_step_change(outcome, self.target_acceptance, n)
        return other

    def settled(self, history: Sequence[Outcome]) -> LocalMetropolis:
        """See `Kernel.settled`; the tuned width is fixed."""
        other = copy.copy(self)
        other.width = self.width or math.exp(self._log_width)
        return other


def colours(lattice: Lattice) -> Tensor:
    """Colour the sites such that neighbours differ, with two colours, or three if a side is odd.

    Returns:
        Number of the colour of each site, `(*lattice,)` int64.
    """
    odd = any(side % 2 for side in lattice.shape if side > 1)
    total = torch.zeros(lattice.shape, dtype=torch.int64)
    for axis, side in enumerate(lattice.shape):
        along = torch.arange(side) % 2
        along[-1] += 2 * (side % 2) if side > 1 else 0  # 0 1 0 1 2: a ring of odd length needs three
        total = total + along.reshape(-1, *(1,) * (lattice.dim - axis - 1))
    return total % (3 if odd else 2)
