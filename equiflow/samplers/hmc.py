"""Hybrid (Hamiltonian) Monte Carlo on the lattice action, many chains at once."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from equiflow.runtime.checks import check_type
from equiflow.samplers.integrators import LEAPFROG, Integrator
from equiflow.samplers.kernel import Kernel, Outcome, metropolis, towards
from equiflow.theories.base.action import Action

#: steps of a mean trajectory beyond which tuning has failed
MAX_STEPS = 1000

leapfrog = LEAPFROG


class HMC(Kernel):
    """HMC with unit mass, `H = sum_x p_x^2 / 2 + S[phi]` (Duane et al. 1987). An update is a trajectory.

    Args:
        action: target, `exp(-S)`.
        step_size: integration step; `None` tunes it while thermalising.
        trajectory_length: mean molecular-dynamics time of a trajectory. Each draws its own length, from
            half to three halves of it: a fixed one would never mix a mode whose period it matches.
        target_acceptance: acceptance that the tuning aims for.
        integrator: `LEAPFROG`, or `OMELYAN` (hep-lat/0505020).
        first_step: where the tuning starts.

    Raises:
        ValueError: if a length or step is not positive, or the acceptance not between 0 and 1.
    """

    def __init__(
        self,
        action: Action,
        *,
        step_size: float | None = None,
        trajectory_length: float = 2.0,
        target_acceptance: float = 0.8,
        integrator: Integrator = LEAPFROG,
        first_step: float = 0.1,
    ) -> None:
        check_type(action, Action, "action")
        check_type(integrator, Integrator, "integrator")
        if not 0 < trajectory_length < math.inf or not (step_size is None or 0 < step_size < math.inf):
            raise ValueError(
                f"Expected positive, finite lengths, got step_size={step_size}, "
                f"trajectory_length={trajectory_length}."
            )
        if not 0 < target_acceptance < 1:
            raise ValueError(f"target_acceptance must be in (0, 1), got {target_acceptance}.")
        self.action = action
        self.step_size = step_size
        self.trajectory_length = trajectory_length
        self.target_acceptance = target_acceptance
        self.integrator = integrator
        self._log_step = math.log(step_size or first_step)

    @property
    def is_tuned(self) -> bool:
        """Whether the step size is fixed."""
        return self.step_size is not None

    def update(self, phi: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Outcome]:
        """One trajectory of every chain, see `Kernel.update`."""
        step_size = math.exp(self._log_step)
        momentum = torch.randn(phi.shape, generator=generator, dtype=phi.dtype, device=phi.device)
        stretch = 0.5 + float(torch.rand((), generator=generator, device=phi.device))
        n_steps = max(1, round(stretch * self.trajectory_length / step_size))
        proposal, final = self.integrator(self.action, phi, momentum, step_size, n_steps)
        change = self.energy(proposal, final) - self.energy(phi, momentum)
        # A trajectory that left the range of floating point has a NaN: a proposal of zero density.
        return metropolis(-change, proposal, phi, generator)

    def energy(self, phi: Tensor, momentum: Tensor) -> Tensor:
        """`H = sum_x p_x^2 / 2 + S[phi]`, `(batch,)`, summed in float64 whatever the field's dtype."""
        return 0.5 * momentum.double().square().flatten(1).sum(1) + self.action(phi.double())

    def adapted(self, outcome: Outcome, n: int) -> HMC:
        """With a step nearer to the target acceptance, see `Kernel.adapted`."""
        if self.is_tuned:
            return self
        return self._with(self._log_step + towards(outcome, self.target_acceptance, n))

    def settled(self, history: Sequence[Outcome]) -> HMC:
        """With the tuned step for good, see `Kernel.settled`.

        Raises:
            RuntimeError: if the step size collapsed, or a chain accepted no trajectory.
        """
        step_size = math.exp(self._log_step)
        if not self.is_tuned and self.trajectory_length > MAX_STEPS * step_size:
            raise RuntimeError(
                f"The tuned step size collapsed to {step_size:.1e}: energy is not conserved. Does "
                "action.grad match action? If so, give a step_size."
            )
        moves = sum(outcome.accepted for outcome in history)
        stuck = int((moves == 0).sum()) if isinstance(moves, Tensor) and len(history) >= 10 else 0
        if stuck:
            raise RuntimeError(
                f"{stuck} of {len(history[0].accepted)} HMC chains accepted no trajectory while thermalising "
                f"(step size {step_size:.2g}). Give a smaller step_size, a longer n_thermalisation, or "
                "another initial field."
            )
        settled = self._with(self._log_step)
        settled.step_size = self.step_size or step_size
        return settled

    def _with(self, log_step: float) -> HMC:
        other = copy.copy(self)
        other._log_step = log_step
        return other
