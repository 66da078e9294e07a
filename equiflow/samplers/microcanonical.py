r"""Microcanonical trajectories: motion at constant speed, which kernels of `equiflow.samplers.mclmc` use.

The velocity u of a field of d numbers has the constant norm `|u| = sqrt(d)`, and the field moves by `u dt`. A
force turns the velocity towards the descent of S,

    du/dt = -(d / (d - 1)) P(u) dS/dphi,   P(u) = 1 - u u^T / d,

such that `exp(-S)` times the uniform density of directions is invariant (arXiv:2111.02434, 2212.08549).
Literature has `|u| = 1`: its step sizes and lengths are `sqrt(d)` times those here, which have the units of
HMC and do not grow with the lattice. A step alternates exact kicks (the equation at a fixed field) and
drifts, as in HMC. A kick contracts or spreads directions, which counts as a change of the kinetic energy: see
`turned`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from equiflow.samplers.integrators import Integrator
from equiflow.theories.base.action import Action

#: noise is added so often per decoherence length; more often costs time and changes nothing else
REFRESHMENTS = 8


def turned(velocity: Tensor, gradient: Tensor, amount: float) -> tuple[Tensor, Tensor]:
    r"""Turn velocities by a constant force for a time: the exact solution of `du/dt = -d/(d-1) P(u) g`.

    With unit vectors `n = u / sqrt(d)`, `e = -g / |g|` and `delta = amount sqrt(d) |g| / (d - 1)`,

        n' = (n + e (sinh delta + (e.n) (cosh delta - 1))) / (cosh delta + (e.n) sinh delta).

    Args:
        velocity: u with `|u| = sqrt(d)`, `(batch, d)`.
        gradient: g = dS/dphi, `(batch, d)`.
        amount: time.

    Returns:
        The new velocities `(batch, d)`, and `(d - 1) log(cosh delta + (e.n) sinh delta)`, `(batch,)` in
        float64: minus the logarithm of the volume change, which is the change of the kinetic energy.
    """
    d = velocity.shape[1]
    root = math.sqrt(d)
    size = gradient.double().norm(dim=1)
    cosine = -(velocity * gradient).double().sum(1) / (root * size)
    delta = amount * root * size / (d - 1)
    # Multiplied by 2 exp(-delta), so that nothing overflows.
    zeta = (-delta).exp()
    below = (1 + cosine) + (1 - cosine) * zeta.square()
    along = (1 - zeta) * (1 + zeta + cosine * (1 - zeta)) / below
    change = (d - 1) * (delta + (0.5 * below).log())
    still = size == 0
    a = torch.where(still, 1.0, 2 * zeta / below).to(velocity)[:, None]
    b = torch.where(still, 0.0, -along * root / size).to(velocity)[:, None]
    return a * velocity + b * gradient, torch.where(still, 0.0, change)


def unit_speed(direction: Tensor) -> Tensor:
    """Return vectors `(batch, d)` scaled to the norm `sqrt(d)`."""
    norm = direction.double().square().sum(1, keepdim=True).sqrt()
    return direction * (math.sqrt(direction.shape[1]) / norm).to(direction)


@dataclass(frozen=True)
class Path:
    """A trajectory: kicks before and after a refreshment at each force, and drifts between forces.

    Attributes:
        kicks: coefficients times step, two for each force.
        refreshments: weight of the noise that the velocity gets at each force, 0 where there is none.
        drifts: coefficients times step, one less than forces.
        forces_per_step: number of forces of a step of the integrator.
    """

    kicks: list[tuple[float, float]]
    refreshments: list[float]
    drifts: list[float]
    forces_per_step: int

    @classmethod
    def of(cls, integrator: Integrator, step_size: float, n_steps: int, length: float | None) -> Path:
        """Return a trajectory; between steps, directions are forgotten over a decoherence length.

        Args:
            integrator: order of kicks and drifts.
            step_size: time of a step.
            n_steps: number of steps.
            length: decoherence length in units of time; None for no noise.

        Returns:
            The trajectory.
        """
        kicks, drifts = integrator.schedule(step_size, n_steps)
        per_step = len(integrator.drifts)
        pairs, noise = [(kick, 0.0) for kick in kicks], [0.0] * len(kicks)
        if length is not None:
            every = max(1, round(length / step_size / REFRESHMENTS))
            for step, force in enumerate(range(per_step, len(kicks) - 1, per_step), 1):
                pairs[force] = (integrator.kicks[-1] * step_size, integrator.kicks[0] * step_size)
                noise[force] = 0.0 if step % every else math.sqrt(math.expm1(2 * every * step_size / length))
        return cls(pairs, noise, drifts, per_step)

    def follow(
        self, action: Action, phi: Tensor, velocity: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Integrate a trajectory.

        Args:
            action: S.
            phi: `(batch, *shape)`.
            velocity: `(batch, d)`.
            generator: of the noise.

        Returns:
            The final fields `(batch, *shape)` and velocities `(batch, d)`, the sum of the changes of the
            kinetic energy, and the mean over steps of the squared energy error divided by d, `(batch,)` in
            float64 each.
        """
        total = torch.zeros(len(phi), dtype=torch.float64, device=phi.device)
        since, squares, before = total, total, action(phi.double()).double()
        for force, (first, second) in enumerate(self.kicks):
            gradient = action.grad(phi).flatten(1)
            velocity, change = turned(velocity, gradient, first)
            total, since = total + change, since + change
            if force and force % self.forces_per_step == 0:
                after = action(phi.double()).double()
                squares, before = squares + (after - before + since).square(), after
                since = torch.zeros_like(since)
            if self.refreshments[force]:
                noise = torch.randn(velocity.shape, generator=generator, dtype=phi.dtype, device=phi.device)
                velocity = unit_speed(velocity + self.refreshments[force] * noise)
            if second:
                velocity, change = turned(velocity, gradient, second)
                total, since = total + change, since + change
            if force < len(self.drifts):
                phi = phi + self.drifts[force] * velocity.reshape(phi.shape)
        n_steps = len(self.drifts) // self.forces_per_step
        return phi, velocity, total, squares / (n_steps * velocity.shape[1])
