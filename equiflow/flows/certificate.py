"""Certificates: the errors of a flow's log-density that no effective sample size can see.

`Flow.certificate` measures them. A `Certificate` also tells how far any result moves under a finer solve.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from equiflow.ode.solver import FIXED_STEP_ORDER


@dataclass(frozen=True)
class SolvedTwice:
    """The same prior samples carried to the model twice: by the flow itself, and by a finer solve.

    Attributes:
        phi: configurations by the flow, `(n_samples, *lattice)`.
        log_weight: their log weights, `(n_samples,)`, always in float64.
        refined_phi: configurations by the finer solve, rounded to the dtype of the flow at the end.
        refined_log_weight: their log weights in float64, not rounded.
    """

    phi: Tensor
    log_weight: Tensor
    refined_phi: Tensor
    refined_log_weight: Tensor


@dataclass(frozen=True)
class Certificate:
    """Changes of the results of a flow under a finer solve of the same samples in float64.

    The finer solve has twice the steps, or tolerances 100 times smaller. All changes are as measured;
    `error_of` turns them into errors.

    Attributes:
        log_z_shift: change of `log Z`, finer minus current. The target is the given action; without one it
            is the model itself.
        max_log_q_error: largest change of a log weight over the samples, apart from samples whose weight is
            zero by either solve.
        round_trip_error: largest `|inverse(transform(z)) - z|` over samples and sites.
        nfe: evaluations of the vector field per sample by the flow's own solver.
        solver: the flow's own solver, as text.
        refined: the finer solver, as text.
        n_samples: number of samples compared.
        samples: the samples themselves.
        corrects: solver of other samples whose results are corrected to those of `solver`, as text; empty if
            there is one level. What the certificate measures is then the error that is left.
    """

    log_z_shift: float
    max_log_q_error: float
    round_trip_error: float
    nfe: int
    solver: str
    refined: str
    n_samples: int
    samples: SolvedTwice = field(repr=False, compare=False)
    corrects: str = ""

    @property
    def error_factor(self) -> float:
        """The error of the flow's own solve in units of its change under the finer one.

        With N equal steps of order p the error is `e = c N^-p`. It changes by `e (1 - 2^-p)` under 2 N steps,
        so this is `2^p / (2^p - 1)`: 2 for Euler, 4/3 for midpoint, 16/15 for rk4. It is 1 for adaptive
        solvers, whose finer solve leaves little error, and for exact maps.
        """
        order = FIXED_STEP_ORDER.get(self.solver.partition("(")[0])
        return 1.0 if order is None else 2**order / (2**order - 1)

    @property
    def converged(self) -> bool:
        """Whether the error of every log weight is below 1.

        Above, changes under a finer solve say nothing about the errors of results.
        """
        return self.error_factor * self.max_log_q_error < 1

    def error_of(self, functional: Callable[[Tensor, Tensor], Tensor]) -> float:
        """Return the size of the solver error of any result, `error_factor |shift_of(functional)|`.

        Args:
            functional: see `shift_of`.

        Returns:
            The size of the error; infinite if the solve has not `converged`, 0 without samples.
        """
        if not self.converged:
            return math.inf
        return self.error_factor * abs(self.shift_of(functional))

    def shift_of(self, functional: Callable[[Tensor, Tensor], Tensor]) -> float:
        """Return the change of any result under the finer solve.

        Args:
            functional: maps `phi`, `(n_samples, *lattice)`, and `log_weight`, `(n_samples,)`, to a 0-d
                tensor, such as a reweighted mean.

        Returns:
            The result by the finer solve minus the result by the flow; 0 without samples.
        """
        if self.n_samples == 0:
            return 0.0
        twice = self.samples
        current = functional(twice.phi, twice.log_weight)
        return float(functional(twice.refined_phi, twice.refined_log_weight) - current)

    def __str__(self) -> str:
        text = (
            f"{self.solver}, nfe {self.nfe}: log Z moves by {self.log_z_shift:+.1e}, a log weight by "
            f"at most {self.max_log_q_error:.1e} under {self.refined} ({self.n_samples} samples); "
            f"round trip {self.round_trip_error:.1e}"
        )
        if self.corrects:
            text = f"results of {self.corrects}, are corrected to those of {text}"
        return text if self.converged else f"{text}; not converged, take more steps (flow.tune_solver)"


def compare_solves(
    samples: SolvedTwice, round_trip: Tensor, *, nfe: int, solver: str, refined: str
) -> Certificate:
    """Return the certificate of samples that were solved twice.

    Args:
        samples: the same samples under two solvers.
        round_trip: errors of `inverse(transform(z)) - z`, `(n_samples, *lattice)`.
        nfe: evaluations of the vector field per sample.
        solver: the flow's own solver, as text.
        refined: the finer solver, as text.

    Returns:
        The certificate; its changes are 0 without samples.
    """
    current = samples.log_weight.double()
    finer = samples.refined_log_weight.double()
    empty = len(current) == 0
    return Certificate(
        log_z_shift=0.0 if empty else float(finer.logsumexp(0) - current.logsumexp(0)),
        max_log_q_error=_largest((finer - current)[~(current.isneginf() | finer.isneginf())]),
        round_trip_error=_largest(round_trip),
        nfe=nfe,
        solver=solver,
        refined=refined,
        n_samples=len(current),
        samples=samples,
    )


def _largest(change: Tensor) -> float:
    """Return the largest size of any entry; 0 without entries."""
    return float(change.abs().max()) if change.numel() else 0.0
