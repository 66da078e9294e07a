"""HMC in the latent space of a flow, where the target is nearly a unit Gaussian (arXiv:1903.03704).

`LatentHMC` is the sampler. `LatentAction` is the density that it samples, also used by annealing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from equiflow.flows import Flow
from equiflow.runtime.checks import check_type
from equiflow.runtime.precision import doubled
from equiflow.runtime.randomness import check_draw
from equiflow.samplers.acceptance import Outcome
from equiflow.samplers.hmc import HMC
from equiflow.samplers.integrators import LEAPFROG, Integrator
from equiflow.samplers.kernel import Kernel
from equiflow.theories.base.action import Action
from equiflow.theories.base.prior import LOG_2PI
from equiflow.theories.base.space import Space

#: largest component of white noise, in standard deviations; the density beyond is zero
MAX_NOISE = 1e3


@dataclass(frozen=True)
class WhiteNoise(Space):
    """The space of white noise that makes configurations of another shape."""

    kind: ClassVar[str] = "white noise"
    shape: tuple[int, ...]


class LatentAction(Action):
    r"""The target as a density of the white noise from which the flow makes its samples.

    With `z = colour(noise)` from the prior r and `phi = f(z)`, noise has the density
    `exp(-S(phi)) |d phi / d noise| = N(noise) w`. Here `w = exp(-S) |df/dz| / r(z)` is the importance weight.
    The action is

        U(noise) = -log N(noise) - beta log w(noise),

    the flow at beta = 0, the target at beta = 1, and the geometric path of annealing in between. For a
    perfect flow the density is a unit Gaussian. The gradient is taken through the solver, so it is exact for
    the discrete map. Where a component of noise is not finite or larger than `MAX_NOISE`, U is infinite and
    its gradient is 0.

    Args:
        flow: any flow.
        action: the target, `exp(-S)`.
        beta: position on the path from the flow to the target.

    Raises:
        TypeError: if `flow` or `action` is of another type.
        ValueError: if they live on different spaces.
    """

    def __init__(self, flow: Flow, action: Action, *, beta: float = 1.0) -> None:
        check_type(flow, Flow, "flow")
        check_type(action, Action, "action")
        if action.space != flow.space:
            raise ValueError(f"The action lives on {action.space}, the flow on {flow.space}.")
        space, shape = flow.space, flow.prior.noise_shape
        # White noise has directions of its own where it makes matrices of a group.
        super().__init__(space if space.is_flat and space.shape == shape else WhiteNoise(shape))
        self.flow = flow
        self.action = action
        self.beta = float(beta)

    def forward(self, noise: Tensor) -> Tensor:
        """Return `U = -log N(noise) - beta log w`, `(batch,)` in float64, for noise `(batch, *lattice)`."""
        # The solver raises for values that are not finite. A diverged trajectory must not end other chains.
        near = (noise.abs() <= MAX_NOISE).flatten(1).all(1)
        noise = torch.where(near.view(-1, *(1,) * (noise.dim() - 1)), noise, torch.zeros_like(noise))
        _, log_weight = self.configurations(noise)
        gaussian = 0.5 * (noise.double().square() + LOG_2PI).flatten(1).sum(1)
        # At beta = 0 a weight of zero must not count: 0 x inf is NaN.
        reweighting = self.beta * log_weight if self.beta else torch.zeros_like(log_weight)
        return torch.where(near, gaussian - reweighting, torch.inf)

    def check_density(self, *, device: torch.device | str = "cpu", stacklevel: int = 2) -> None:
        """See `Action.check_density`; what counts is the target, not what the flow makes of it."""
        self.action.check_density(device=device, stacklevel=stacklevel + 1)

    def initial(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """See `Action.initial`; the result is weak noise."""
        check_draw(generator, dtype)
        # Not what `Space.initial` draws: those are configurations.
        return 0.1 * torch.randn(
            (n, *self.flow.prior.noise_shape), generator=generator, device=device, dtype=dtype
        )

    def configurations(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Carry noise to the target's space: `phi = f(colour(noise))`.

        Args:
            noise: `(batch, *lattice)`.

        Returns:
            phi, `(batch, *lattice)`, and its log weight `log w`, `(batch,)` in float64.
        """
        z = self.flow.prior.colour(noise.to(self.flow.dtype))
        phi, log_det = self.flow.transform_and_log_det(z)
        log_q = self.flow.prior.log_prob(z).double() - log_det.double()
        return self.flow.space.nearest(phi), -self.action(doubled(phi)) - log_q


class LatentHMC(Kernel):
    """HMC trajectories in the white noise of a flow, with unit mass (arXiv:1903.03704).

    An update takes phi to its noise by the inverse flow and runs a trajectory there. If the trajectory is
    accepted, the flow takes the new noise to the new field. The update leaves `exp(-S)` invariant up to the
    discretisation error of the flow, which the chain's certificate measures. Choose a solver whose error is
    far below the statistical one.

    Args:
        flow: any flow whose prior is Gaussian, see `Prior.whiten`.
        action: target, `exp(-S)`.
        step_size: integration step; None tunes it during the thermalisation.
        trajectory_length: mean time of a trajectory; by default a quarter period of a unit Gaussian.
        target_acceptance: acceptance at which the tuning aims.
        integrator: `LEAPFROG` or `OMELYAN`.

    Raises:
        TypeError: if `flow`, `action` or `integrator` is of another type.
        ValueError: if flow and action live on different spaces, a number is out of range, see `HMC`, or
            configurations do not determine the noise behind them, as matrices of a group.
    """

    def __init__(
        self,
        flow: Flow,
        action: Action,
        *,
        step_size: float | None = None,
        trajectory_length: float = math.pi / 2,
        target_acceptance: float = 0.8,
        integrator: Integrator = LEAPFROG,
    ) -> None:
        self.latent = LatentAction(flow, action)
        if isinstance(self.latent.space, WhiteNoise):
            raise ValueError(
                f"White noise {self.latent.space.shape} does not follow from configurations of {flow.space}, "
                "so chains of them cannot move through it. Use IndependenceMetropolis or "
                "annealed_importance_sample."
            )
        self.flow = flow
        self.action = action
        self.hmc = HMC(
            self.latent,
            step_size=step_size,
            trajectory_length=trajectory_length,
            target_acceptance=target_acceptance,
            integrator=integrator,
            first_step=0.5,  # the density is nearly a unit Gaussian
        )
        self.step_size = step_size

    proposal = "trajectory"

    @property
    def remedy(self) -> str:
        """See `HMC.remedy`."""
        return self.hmc.remedy

    @property
    def is_tuned(self) -> bool:
        """Whether the step size is fixed."""
        return self.hmc.is_tuned

    @torch.no_grad()
    def update(self, phi: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Outcome]:
        """See `Kernel.update`; an update is one trajectory of every chain."""
        noise = self.latent.flow.prior.whiten(self.latent.flow.inverse_and_log_det(phi)[0])
        noise, outcome = self.hmc.update(noise, generator)
        moved = outcome.accepted.bool()
        # A rejected chain keeps its phi to the last bit; a round trip through the flow would change it.
        phi = phi.clone()
        phi[moved] = self.latent.configurations(noise[moved])[0]
        return phi, outcome

    def adapted(self, outcome: Outcome, n: int) -> LatentHMC:
        """See `HMC.adapted`."""
        return self._with(self.hmc.adapted(outcome, n))

    def settled(self, history: Sequence[Outcome]) -> LatentHMC:
        """See `HMC.settled`."""
        return self._with(self.hmc.settled(history))

    def _with(self, hmc: HMC) -> LatentHMC:
        """Return a copy with another HMC in the noise."""
        other = copy.copy(self)
        other.hmc, other.step_size = hmc, hmc.step_size
        return other
