"""What a flow's log-density is worth: errors of discretisation and rounding that no ESS can see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class SolvedTwice:
    """The same prior samples carried to the model twice: by the flow as it is, and by a finer solve.

    Attributes:
        phi: `(n_samples, *lattice)` by the flow.
        log_weight: their log weights, `(n_samples,)`, in float64 whatever the flow computes in.
        refined_phi: the same by the finer solve, rounded to the dtype of the flow at the end.
        refined_log_weight: the same by the finer solve, not rounded.
    """

    phi: Tensor
    log_weight: Tensor
    refined_phi: Tensor
    refined_log_weight: Tensor


@dataclass(frozen=True)
class Certificate:
    """Change of the results of a flow under a finer solve of the same samples in float64.

    Attributes:
        log_z_shift: change of `log Z`, finer minus current; of the action if one was given, else of
            the model taken as its own target.
        max_log_q_error: largest change of a log weight over samples.
        round_trip_error: largest `|inverse(transform(z)) - z|` over samples and sites.
        nfe: evaluations per sample of the solver that is certified.
        solver: the solver that is certified, as text.
        refined: what it was compared with, as text.
        n_samples: number of samples compared.
        samples: the samples behind it.
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
        """Change of any result under the finer solve.

        Args:
            functional: of `phi` and `log_weight`, returning a 0-d tensor, such as a reweighted mean.
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


def certify(samples: SolvedTwice, round_trip: Tensor, *, nfe: int, solver: str, refined: str) -> Certificate:
    """Certificate from the same samples under two solvers, and their round trips `(batch, ...)`."""
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
