"""Hybrid (Hamiltonian) Monte Carlo on the lattice action, many chains at once."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from equiflow.fused.stencil import Stencil
from equiflow.fused.trajectories import hmc_update
from equiflow.runtime.checks import check_type
from equiflow.runtime.precision import doubled
from equiflow.samplers.acceptance import Outcome, log_step_change, metropolis
from equiflow.samplers.collapse import cause_of_collapse
from equiflow.samplers.integrators import LEAPFROG, Integrator, stencil_of
from equiflow.samplers.kernel import Kernel
from equiflow.theories.base.action import Action

#: a mean trajectory of more steps than this means that tuning has failed
MAX_STEPS_PER_TRAJECTORY = 1000
#: while the step is tuned, trajectories may be longer than that by this factor, for a step that overshoots
OVERSHOOT = 4
#: more steps per trajectory than this are a mistake in a given step: hours for one update
MOST_STEPS_GIVEN = 1_000_000


class HMC(Kernel):
    """HMC with unit mass, `H = sum_x p_x^2 / 2 + S[phi]` (Duane et al. 1987). An update is a trajectory.

    On a group the momenta are vectors of its algebra, and links move by `dU/dt = p U`, see `Space.move`.

    Each trajectory draws its own length, between one half and three halves of the mean. A fixed length that
    is half a period of some mode would never mix it.

    Args:
        action: target, `exp(-S)`.
        step_size: integration step; None tunes it during the thermalisation.
        trajectory_length: mean molecular-dynamics time of a trajectory.
        target_acceptance: acceptance at which the tuning aims.
        integrator: `LEAPFROG`, or `OMELYAN` (hep-lat/0505020).
        first_step: step at which the tuning starts.

    Raises:
        TypeError: if `action` or `integrator` is of another type.
        ValueError: if a length or step is not positive, a trajectory takes more than a million steps, or the
            acceptance is not between 0 and 1.
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
        if not 0 < first_step < math.inf:
            raise ValueError(f"Expected a positive, finite first_step, got {first_step}.")
        if trajectory_length > MOST_STEPS_GIVEN * (step_size or first_step):
            raise ValueError(
                f"A trajectory of length {trajectory_length:.3g} takes more than "
                f"{MOST_STEPS_GIVEN} steps of {step_size or first_step:.3g}. Give a longer step or a shorter "
                "trajectory_length."
            )
        if not 0 < target_acceptance < 1:
            raise ValueError(f"target_acceptance must be in (0, 1), got {target_acceptance}.")
        self.action = action
        self.step_size = step_size
        self.trajectory_length = trajectory_length
        self.target_acceptance = target_acceptance
        self.integrator = integrator
        self.first_step = first_step
        self._log_step = math.log(step_size or first_step)

    proposal = "trajectory"

    @property
    def remedy(self) -> str:
        """See `Kernel.remedy`."""
        return (
            f"The step size is {math.exp(self._log_step):.2g}: give a smaller step_size, a longer "
            "n_thermalisation, or another initial field."
        )

    @property
    def is_tuned(self) -> bool:
        """Whether the step size is fixed."""
        return self.step_size is not None

    def update(self, phi: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Outcome]:
        """See `Kernel.update`; an update is one trajectory of every chain."""
        step_size = math.exp(self._log_step)
        self._check_step(step_size, phi)
        stencil = self._stencil(phi)
        if stencil is None:
            real, size = phi.real, (len(phi), *self.action.space.tangent_shape)
            momentum = torch.randn(size, generator=generator, dtype=real.dtype, device=real.device)
        stretch = 0.5 + float(torch.rand((), generator=generator, device=phi.device))
        n_steps = max(1, round(stretch * self.trajectory_length / step_size))
        if stencil is not None:
            phi, *found = hmc_update(stencil, phi, *self.integrator.schedule(step_size, n_steps), generator)
            return phi, Outcome(found[0], found[1])
        proposal, final = self.integrator(self.action, phi, momentum, step_size, n_steps)
        change = self.energy(proposal, final) - self.energy(phi, momentum)
        # NaN, after a trajectory beyond the range of floating point, stands for a proposal of zero density.
        return metropolis(-change, proposal, phi, generator)

    def energy(self, phi: Tensor, momentum: Tensor) -> Tensor:
        """Return `H = sum_x p_x^2 / 2 + S[phi]`, always summed in float64.

        Args:
            phi: `(batch, *lattice)`.
            momentum: p, `(batch, *tangent_shape)`.

        Returns:
            `(batch,)` in float64.
        """
        return 0.5 * momentum.double().square().flatten(1).sum(1) + self.action(doubled(phi))

    def _stencil(self, phi: Tensor) -> Stencil | None:
        """Return the action for a fused kernel, or None if this update needs `energy` or cannot be fused."""
        is_plain = type(self).energy is HMC.energy
        return stencil_of(self.action, self.integrator, phi) if is_plain else None

    def adapted(self, outcome: Outcome, n: int) -> HMC:
        """See `Kernel.adapted`; the step comes nearer to the target acceptance."""
        if self.is_tuned:
            return self
        return self._with(self._log_step + log_step_change(outcome, self.target_acceptance, n))

    def settled(self, history: Sequence[Outcome]) -> HMC:
        """See `Kernel.settled`; the tuned step is fixed.

        Raises:
            RuntimeError: if the step size collapsed.
        """
        step_size = math.exp(self._log_step)
        if not self.is_tuned and self.trajectory_length > MAX_STEPS_PER_TRAJECTORY * step_size:
            raise RuntimeError(
                f"The tuned step size collapsed to {step_size:.1e}, which makes more than "
                f"{MAX_STEPS_PER_TRAJECTORY} steps per trajectory. Give a shorter trajectory_length than "
                f"{self.trajectory_length:.2g}, or a step_size."
            )
        settled = self._with(self._log_step)
        settled.step_size = self.step_size or step_size
        return settled

    def _check_step(self, step_size: float, phi: Tensor) -> None:
        """Raise a RuntimeError if tuning has made the step too small for the trajectory, and say why."""
        steps = self.trajectory_length / step_size
        if self.is_tuned or step_size >= self.first_step or steps <= MAX_STEPS_PER_TRAJECTORY:
            return
        cause = cause_of_collapse(self.action, phi, self.trajectory_length)
        if steps > OVERSHOOT * MAX_STEPS_PER_TRAJECTORY or not cause.startswith("The action is stiff"):
            raise RuntimeError(f"The tuned step size collapsed to {step_size:.1e}. {cause}")

    def _with(self, log_step: float) -> HMC:
        """Return a copy with another step."""
        other = copy.copy(self)
        other._log_step = log_step
        return other
