"""Flows whose map integrates vector fields, by any solver: `IntegratedFlow`.

They have paths for `PathGradient` and its adaptive form, and their solver can be tuned.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from equiflow.flows.base import Flow
from equiflow.flows.path import PathSample
from equiflow.flows.tuning import solver_errors
from equiflow.ode.solver import Solver
from equiflow.ode.tuning import SolverChoice, choose_solver
from equiflow.runtime.checks import check_count
from equiflow.theories.base.action import Action
from equiflow.vector_fields import VectorField


class IntegratedFlow(Flow, ABC):
    """A flow that integrates one or several vector fields by one solver."""

    #: how to integrate
    solver: Solver

    @property
    @abstractmethod
    def vector_fields(self) -> tuple[VectorField, ...]:
        """The vector fields, in the order in which samples pass them."""

    @abstractmethod
    def rsample_path(
        self, n_samples: int, *, generator: torch.Generator | None = None, solver: Solver | None = None
    ) -> PathSample:
        """Draw samples with their score `grad log q`, integrated along the flow (arXiv:2206.09016).

        Args:
            n_samples: number of samples, >= 0.
            generator: source of randomness, on the flow's device; the global one by default.
            solver: replaces the flow's own solver, for instance by a cheaper one while training.

        Returns:
            Configurations, log-densities, scores and kinetic energies.
        """

    @abstractmethod
    def _by(self, solver: Solver) -> IntegratedFlow:
        """Return the flow with another solver; everything else is shared."""

    @abstractmethod
    def _reference(self, solver: Solver | None = None) -> IntegratedFlow:
        """See `Flow._reference`; by another solver, by default a refined one."""

    @property
    def trace_is_exact(self) -> bool:
        """Whether the divergences of all vector fields are exact."""
        return all(field.trace_is_exact for field in self.vector_fields)

    def demand_exact_trace(self) -> None:
        """Raise unless the divergences are exact.

        Raises:
            ValueError: if one is estimated.
        """
        for field in self.vector_fields:
            field.demand_exact_trace()

    def transform_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """See `Flow.transform_and_log_det`."""
        phi, log_det, _ = self._transform_and_count(self._check_input(z, "z"))
        return phi, log_det

    def transform_by(self, solver: Solver, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return `transform_and_log_det(z)` by a solver that need not be the flow's own.

        Args:
            solver: how to integrate.
            z: samples of the prior, `(batch, *lattice)`.

        Returns:
            See `Flow.transform_and_log_det`.

        Raises:
            SolverError: if the solver gives up or the result is not finite.
        """
        phi, log_det, _ = self._by(solver)._transform_and_count(z)
        return phi, log_det

    @torch.no_grad()
    def tune_solver(
        self,
        target: float = 1e-3,
        *,
        action: Action | None = None,
        n_samples: int = 128,
        generator: torch.Generator | None = None,
    ) -> SolverChoice:
        """Give the trained flow the cheapest solver whose error is below a target.

        The error is the larger one of `|shift of log Z|` and a tenth of the largest change of a log weight.
        Both are measured against dopri8 in float64, at a tolerance below the rounding of the flow's dtype.

        Args:
            target: largest acceptable error.
            action: target whose log weights are compared; by default the model itself.
            n_samples: number of samples to compare.
            generator: source of randomness, on the flow's device; the global one by default.

        Returns:
            The choice and all trials; `print` shows them as a table.

        Raises:
            ValueError: if `target` is out of range, or the divergence is only estimated.
            SolverError: if no solver reaches the target.
        """
        z = self.prior.rsample(check_count(n_samples, "n_samples", minimum=0), generator)
        tight, finest = (1e-10, 1e-11) if self.dtype == torch.float64 else (1e-8, 1e-6)
        reference = self._reference(Solver("dopri8", rtol=tight, atol=tight))
        errors = solver_errors(self._by, reference, z, action)
        choice = choose_solver(errors, target=target, like=self.solver, finest=finest)
        self.solver = choice.solver
        return choice

    def _method(self) -> str:
        return str(self.solver)
