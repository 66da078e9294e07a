"""Certificates: the errors of a flow's log-density that no effective sample size can see.

`Flow.certificate` measures them. A `Certificate` also tells how far any result moves under a finer solve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor


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

    Attributes:
        log_z_shift: change of `log Z`, finer minus current. The target is the given action; without one it
            is the model itself.
        max_log_q_error: largest change of a log weight over the samples.
        round_trip_error: largest `|inverse(transform(z)) - z|` over samples and sites.
        nfe: evaluations of the vector field per sample by the flow's own solver.
        solver: the flow's own solver, as text.
        refined: the finer solver, as text.
        n_samples: number of samples compared.
        samples: the samples themselves.
    """

    log_z_shift: float
    max_log_q_error: float
    round_trip_error: float
    nfe: int
    solver: str
    refined: str
    n_samples: int
    samples: SolvedTwice = field(repr=False, compare=False)

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
        return (
            f"{self.solver}, nfe {self.nfe}: log Z moves by {self.log_z_shift:+.1e}, a log weight by "
            f"at most {self.max_log_q_error:.1e} under {self.refined} ({self.n_samples} samples); "
            f"round trip {self.round_trip_error:.1e}"
        )


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
        max_log_q_error=0.0 if empty else float((finer - current).abs().max()),
        round_trip_error=0.0 if empty else float(round_trip.abs().max()),
        nfe=nfe,
        solver=solver,
        refined=refined,
        n_samples=len(current),
        samples=samples,
    )
