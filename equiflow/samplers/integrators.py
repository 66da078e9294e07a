"""Integrators of Hamilton's equations: reversible, volume-preserving, each a row of numbers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from equiflow.theories.base.action import Action


@dataclass(frozen=True)
class Integrator:
    """A symmetric splitting of `H = sum_x p_x^2 / 2 + S[phi]`: kicks and drifts in turn, a kick first.

    Reversible if both rows read the same backwards; of the second order if each sums to one.

    Attributes:
        name: for messages.
        kicks: `p -= a step dS/dphi`, one number more than drifts.
        drifts: `phi += b step p`; as many as gradients per step.
    """

    name: str
    kicks: tuple[float, ...]
    drifts: tuple[float, ...]

    def __call__(
        self, action: Action, phi: Tensor, momentum: Tensor, step_size: float, n_steps: int
    ) -> tuple[Tensor, Tensor]:
        """`n_steps` steps: the field and the momentum at their end."""
        first, *kicks = self.kicks
        momentum = momentum - first * step_size * action.grad(phi)
        for step in range(n_steps):
            # The last kick of a step and the first of the next are at one field: one gradient for both.
            joined = kicks[-1] + (first if step < n_steps - 1 else 0.0)
            for drift, kick in zip(self.drifts, (*kicks[:-1], joined), strict=True):
                phi = phi + drift * step_size * momentum
                momentum = momentum - kick * step_size * action.grad(phi)
        return phi, momentum


#: one gradient per step (Duane et al. 1987)
LEAPFROG = Integrator("leapfrog", (0.5, 0.5), (1.0,))

# Least norm of the coefficients of step^2 in the energy error (hep-lat/0505020).
_LAMBDA = 0.1931833275037836
#: the second-order minimum-norm integrator of Omelyan et al., two gradients per step
OMELYAN = Integrator("omelyan", (_LAMBDA, 1 - 2 * _LAMBDA, _LAMBDA), (0.5, 0.5))
