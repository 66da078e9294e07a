r"""Microcanonical Langevin Monte Carlo (arXiv:2212.08549), without and with adjustment (arXiv:2503.01707)."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from equiflow.fused.trajectories import mclmc_update
from equiflow.runtime.checks import check_type
from equiflow.samplers.acceptance import Outcome, log_step_change, metropolis
from equiflow.samplers.integrators import LEAPFROG, OMELYAN, Integrator, stencil_of
from equiflow.samplers.kernel import Chain, Kernel
from equiflow.samplers.microcanonical import Path, unit_speed
from equiflow.statistics import Estimate
from equiflow.theories.base.action import Action
from equiflow.theories.base.action_gradients import check_gradient

#: tuning makes no trajectory of more steps than this on average
MAX_STEPS = 1000
#: of so many chains at most the differences tell the widest direction
CHAINS_TO_COMPARE = 128


@dataclass(frozen=True)
class Measured(Outcome):
    """What happened to trajectories, and what tuning needs to know.

    Attributes:
        error: mean square of the energy error of a step, divided by d; NaN if not measured.
        width: standard deviation of the fields in their widest direction; NaN if not measured.
    """

    error: float = math.nan
    width: float = math.nan


class Microcanonical(Kernel):
    """Trajectories of constant speed; a subclass says what becomes of their ends, and how the step is tuned.

    Args:
        action: target, `exp(-S)`, of at least two numbers.
        step_size: integration step; None tunes it during the thermalisation.
        length: time in which directions are forgotten, see the subclasses; None tunes it.
        integrator: `LEAPFROG` or `OMELYAN`.
        first_step: step at which the tuning starts.

    Raises:
        TypeError: if `action` or `integrator` is of another type.
        ValueError: if a step or length is not positive, or a configuration is a single number.
    """

    proposal = "trajectory"
    #: the tuned length in units of the standard deviation of the widest direction
    widths: ClassVar[float]

    def __init__(
        self,
        action: Action,
        step_size: float | None,
        length: float | None,
        integrator: Integrator,
        first_step: float,
    ) -> None:
        check_type(action, Action, "action")
        check_type(integrator, Integrator, "integrator")
        given = [value for value in (step_size, length, first_step) if value is not None]
        if not all(0 < value < math.inf for value in given):
            raise ValueError(
                f"Expected positive, finite lengths, got step_size={step_size}, first_step={first_step} and "
                f"the length {length}."
            )
        if not action.space.is_flat:
            raise TypeError(
                f"Microcanonical chains need configurations that move along straight lines, got "
                f"{action.space}. Use HMC."
            )
        if action.space.size < 2:
            raise ValueError(
                f"A velocity of constant norm needs two numbers at least, got {action.space}. Use HMC, or a "
                "larger lattice."
            )
        self.action = action
        self.step_size = step_size
        self.integrator = integrator
        self._length = length
        self._log_step = math.log(step_size or first_step)
        self._log_width: float | None = None
        self._checked: list[bool] = []  # copies share it

    @property
    def remedy(self) -> str:
        """See `Kernel.remedy`."""
        return (
            f"The step size is {math.exp(self._log_step):.2g}: give a smaller step_size, a longer "
            "n_thermalisation, or another initial field."
        )

    @property
    def is_tuned(self) -> bool:
        """Whether step size and length are fixed."""
        return self.step_size is not None and self._length is not None

    @property
    def length(self) -> float:
        """The time in which directions are forgotten, as far as it is tuned."""
        if self._length is not None:
            return self._length
        width = 1.0 if self._log_width is None else math.exp(self._log_width)
        return min(self.widths * width, MAX_STEPS * math.exp(self._log_step))

    @abstractmethod
    def step_change(self, outcome: Measured, n: int) -> float:
        """Return what to add to the logarithm of the step.

        Args:
            outcome: of the last update.
            n: number of the last update, from 0.

        Returns:
            The change, positive if the step can be larger.
        """

    def adapted(self, outcome: Outcome, n: int) -> Microcanonical:
        """See `Kernel.adapted`; the step comes nearer to its target, the length to the fields' width."""
        other = copy.copy(self)
        assert isinstance(outcome, Measured)
        if self.step_size is None:
            other._log_step += self.step_change(outcome, n)
        if self._length is None and outcome.width > 0:
            before, now = self._log_width, math.log(outcome.width)
            other._log_width = now if before is None else before + (now - before) / (1 + n / 10) ** 0.6
        return other

    def settled(self, history: Sequence[Outcome]) -> Microcanonical:
        """See `Kernel.settled`; the tuned step and length are fixed."""
        other = copy.copy(self)
        other.step_size, other._length = self.step_size or math.exp(self._log_step), self.length
        return other

    def _update(
        self, phi: Tensor, path: Path, generator: torch.Generator | None, *, is_adjusted: bool
    ) -> tuple[Tensor, Measured]:
        """Return the fields at the ends of trajectories, or the old ones where these are not accepted."""
        if not self._checked:  # a wrong gradient rejects nothing here, or everything
            check_gradient(self.action, phi)
            self._checked.append(True)
        is_measured = self.step_size is None and not is_adjusted
        width = math.nan if self._length is not None else widest(phi)
        stencil = stencil_of(self.action, self.integrator, phi)
        if stencil is not None:
            (phi, *found), errors = mclmc_update(
                stencil, phi, path.kicks, path.refreshments, path.drifts, generator,
                forces_per_step=path.forces_per_step, is_adjusted=is_adjusted, is_measured=is_measured,
            )  # fmt: skip
            return phi, Measured(found[0], found[1], error=_mean(errors, found[0]), width=width)
        velocity = torch.randn(phi.flatten(1).shape, generator=generator, dtype=phi.dtype, device=phi.device)
        end, _, change, errors = path.follow(self.action, phi, unit_speed(velocity), generator)
        if is_adjusted:
            change = change + (self.action(end.double()) - self.action(phi.double())).double()
        else:
            # Nothing is rejected but what overflows, or ends where the density is zero.
            inside = change.isfinite() & self.action(end.double()).isfinite()
            change = torch.where(inside, 0.0, math.nan)
        phi, outcome = metropolis(-change, end, phi, generator)
        error = _mean(errors, outcome.accepted)
        return phi, Measured(outcome.accepted, outcome.probability, error=error, width=width)


class MCLMC(Microcanonical):
    r"""Microcanonical Langevin Monte Carlo (arXiv:2212.08549), which accepts every trajectory.

    An update is a trajectory at constant speed whose direction starts at random and is forgotten further on
    its way, over the decoherence length. **It does not sample `exp(-S)` exactly**: averages are off by
    `O(step^2)`, since no trajectory is rejected. The step is tuned such that the energy error of one step has
    the variance `energy_variance * d` for d numbers.

    For two-dimensional phi^4 at m_p L = 4 the bias at the default is 0.7 % of phi^2 and 6 % of the
    susceptibility at L = 16, and 1 % and 12 % at L = 32; `bias` measures it. It falls with the cube root of
    `energy_variance`, and the cost grows with the inverse sixth root: a hundredth of the variance leaves 2 %
    of the susceptibility at L = 16. There `AdjustedMCLMC` needs fewer gradients, and is exact; `HMC`, alone
    or with `Wolff`, takes less time, since its gradients are cheaper.

    Args:
        action: target, `exp(-S)`, of at least two numbers.
        step_size: integration step; None tunes it during the thermalisation.
        decoherence_length: time L in which noise turns a direction; None tunes it to 1.5 standard deviations
            of the fields in their widest direction.
        energy_variance: variance of the energy error of a step per number, at which the tuning aims.
        integrator: `LEAPFROG` or `OMELYAN`.
        first_step: step at which the tuning starts.

    Raises:
        TypeError: if `action` or `integrator` is of another type.
        ValueError: if a step, length or variance is not positive, or a configuration is a single number.

    >>> from equiflow import Lattice, Phi4
    >>> kernel = MCLMC(Phi4(Lattice((4, 4)), m2=-4.0, lam=6.0))
    >>> chain = kernel.sample(10, n_chains=8, n_thermalisation=20)
    >>> chain.samples.shape
    torch.Size([10, 8, 4, 4])
    """

    widths = 1.5
    note = "unadjusted: has a bias of step size; AdjustedMCLMC has none"

    def __init__(
        self,
        action: Action,
        *,
        step_size: float | None = None,
        decoherence_length: float | None = None,
        energy_variance: float = 5e-4,
        integrator: Integrator = LEAPFROG,
        first_step: float = 0.1,
    ) -> None:
        super().__init__(action, step_size, decoherence_length, integrator, first_step)
        if not 0 < energy_variance < math.inf:
            raise ValueError(f"energy_variance must be positive and finite, got {energy_variance}.")
        self.energy_variance = energy_variance

    def update(self, phi: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Outcome]:
        """See `Kernel.update`; an update is a trajectory of one decoherence length."""
        step, length = math.exp(self._log_step), self.length
        path = Path.of(self.integrator, step, max(1, round(length / step)), length)
        return self._update(phi, path, generator, is_adjusted=False)

    def step_change(self, outcome: Measured, n: int) -> float:
        """See `Microcanonical.step_change`; the variance grows with the sixth power of the step."""
        if not 0 < outcome.error < math.inf:
            return -math.log(2)
        change = math.log(self.energy_variance / outcome.error) / 6
        return max(-1.0, min(1.0, change)) / (1 + n / 10) ** 0.6

    def bias(
        self,
        chain: Chain,
        observable: Callable[[Tensor], Tensor],
        *,
        n_thermalisation: int = 50,
        generator: torch.Generator | None = None,
    ) -> Estimate:
        """Estimate the bias of an average by a second chain with half the step.

        The bias is `c step^2` up to higher orders, so that it is 4/3 of the difference of both averages.

        Args:
            chain: samples of this kernel; as many are drawn again, which costs twice as many gradients.
            observable: `(batch, *shape)` -> `(batch,)`.
            n_thermalisation: updates of the second chain before its first sample.
            generator: source of randomness of the second chain.

        Returns:
            `<O>_chain - <O>`; subtract it from `chain.mean(observable)` for an average without the leading
            bias.
        """
        kernel = self if chain.kernel is None else chain.kernel
        assert isinstance(kernel, MCLMC)
        finer = copy.copy(kernel)
        step = math.exp(kernel._log_step) / 2
        finer.step_size, finer._length, finer._log_step = step, kernel.length, math.log(step)
        other = finer.sample(
            len(chain.samples),
            n_chains=chain.samples.shape[1],
            n_thermalisation=n_thermalisation,
            initial=chain.samples[-1],
            generator=generator,
        )
        coarse, fine = chain.mean(observable), other.mean(observable)
        error = math.hypot(coarse.error, fine.error)
        return Estimate(4 / 3 * (coarse.mean - fine.mean), 4 / 3 * error)


class AdjustedMCLMC(Microcanonical):
    """Microcanonical trajectories that are accepted or rejected (arXiv:2503.01707), which is exact.

    An update draws a direction, follows it at constant speed, and accepts the end with `min(1, exp(-W))`,
    where W is the change of `S` and of the kinetic energy. It differs from HMC in the dynamics only. As
    there, each trajectory draws its own length, between one half and three halves of the mean.

    Args:
        action: target, `exp(-S)`, of at least two numbers.
        step_size: integration step; None tunes it during the thermalisation.
        trajectory_length: mean time of a trajectory; None tunes it to the standard deviation of the fields in
            their widest direction.
        target_acceptance: acceptance at which the tuning aims.
        integrator: `OMELYAN` or `LEAPFROG`.
        first_step: step at which the tuning starts.

    Raises:
        TypeError: if `action` or `integrator` is of another type.
        ValueError: if a step or length is not positive, a configuration is a single number, or the acceptance
            not between 0 and 1.
    """

    widths = 1.0

    def __init__(
        self,
        action: Action,
        *,
        step_size: float | None = None,
        trajectory_length: float | None = None,
        target_acceptance: float = 0.9,
        integrator: Integrator = OMELYAN,
        first_step: float = 0.1,
    ) -> None:
        super().__init__(action, step_size, trajectory_length, integrator, first_step)
        if not 0 < target_acceptance < 1:
            raise ValueError(f"target_acceptance must be in (0, 1), got {target_acceptance}.")
        self.target_acceptance = target_acceptance

    def update(self, phi: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Outcome]:
        """See `Kernel.update`; an update is one trajectory of every chain."""
        step = math.exp(self._log_step)
        stretch = 0.5 + float(torch.rand((), generator=generator, device=phi.device))
        path = Path.of(self.integrator, step, max(1, round(stretch * self.length / step)), None)
        return self._update(phi, path, generator, is_adjusted=True)

    def step_change(self, outcome: Measured, n: int) -> float:
        """See `Microcanonical.step_change`; the step comes nearer to the target acceptance."""
        return log_step_change(outcome, self.target_acceptance, n)


def widest(phi: Tensor) -> float:
    """Return the standard deviation of the fields in their widest direction, from the scatter of chains.

    Args:
        phi: `(n_chains, *shape)`.

    Returns:
        The square root of the largest eigenvalue of their covariance; of a single chain, that of its values.
    """
    fields = phi[:CHAINS_TO_COMPARE].double().flatten(1)
    if len(fields) == 1:
        return float(fields.square().mean().sqrt())
    fields = fields - fields.mean(0)
    largest = torch.linalg.matrix_norm(fields, ord=2)
    return float(largest) / math.sqrt(len(fields) - 1)


def _mean(errors: Tensor, accepted: Tensor) -> float:
    """Return the mean error of the trajectories that met no overflow and no wall; NaN without any."""
    known = errors[(accepted > 0) & errors.isfinite()] if len(errors) else errors
    return float(known.mean()) if len(known) else math.nan
