"""Integrators of Hamilton's equations: reversible, volume-preserving, and each given by its coefficients."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from equiflow.fused.stencil import Stencil
from equiflow.theories.base.action import Action


@dataclass(frozen=True)
class Integrator:
    """A symmetric splitting of `H = sum_x p_x^2 / 2 + S[phi]`: kicks and drifts alternate, a kick first.

    It is reversible if both rows of coefficients are palindromes, and of second order if each row sums to 1.

    Attributes:
        name: for messages.
        kicks: coefficients a of `p -= a step dS/dphi`; one more than drifts.
        drifts: coefficients b of `phi += b step p`, or of another `Space.move` along p; their number is the
            number of gradients per step.
    """

    name: str
    kicks: tuple[float, ...]
    drifts: tuple[float, ...]

    def __call__(
        self, action: Action, phi: Tensor, momentum: Tensor, step_size: float, n_steps: int
    ) -> tuple[Tensor, Tensor]:
        """Integrate Hamilton's equations for `n_steps` steps.

        Args:
            action: S.
            phi: initial field, `(batch, *lattice)`.
            momentum: initial p, `(batch, *tangent_shape)`.
            step_size: molecular-dynamics time of a step.
            n_steps: number of steps, at least 1.

        Returns:
            The final field and momentum.
        """
        (first, *kicks), drifts = self.schedule(step_size, n_steps)
        momentum = momentum - first * action.grad(phi)
        for drift, kick in zip(drifts, kicks, strict=True):
            phi = action.space.move(phi, drift * momentum)
            momentum = momentum - kick * action.grad(phi)
        return phi, momentum

    def schedule(self, step_size: float, n_steps: int) -> tuple[list[float], list[float]]:
        """Return the kicks and drifts of a trajectory, in the order in which they alternate.

        Args:
            step_size: molecular-dynamics time of a step.
            n_steps: number of steps, at least 1.

        Returns:
            The coefficients times the step size; there is one more kick than drifts.
        """
        first, *kicks, last = (kick * step_size for kick in self.kicks)
        drifts = [drift * step_size for drift in self.drifts]
        # The last kick of a step and the first of the next use one field, so they share a gradient.
        return [first, *([*kicks, last + first] * (n_steps - 1)), *kicks, last], drifts * n_steps


#: one gradient per step (Duane et al. 1987)
LEAPFROG = Integrator("leapfrog", (0.5, 0.5), (1.0,))

# Least norm of the coefficients of step^2 in the energy error (hep-lat/0505020).
_LAMBDA = 0.1931833275037836
#: the second-order minimum-norm integrator of Omelyan et al. (hep-lat/0505020), two gradients per step
OMELYAN = Integrator("omelyan", (_LAMBDA, 1 - 2 * _LAMBDA, _LAMBDA), (0.5, 0.5))


def stencil_of(action: Action, integrator: Integrator, phi: Tensor) -> Stencil | None:
    """Return the action for a fused kernel, or None if there is none for it.

    Args:
        action: S.
        integrator: of the trajectories; one with a `__call__` of its own is not fused.
        phi: fields to work on, `(batch, *shape)`.

    Returns:
        What kernels need to know of the action.

    Raises:
        ValueError: if the fields have another shape than the action expects.
    """
    stencil = action.stencil() if type(integrator) is Integrator else None
    if stencil is None or not stencil.fits(phi):
        return None
    action.space.check(phi)
    return stencil
