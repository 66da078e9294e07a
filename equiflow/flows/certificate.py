"""What a flow's log-density is worth: the discretisation error that no ESS can see."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from equiflow.ode import Solver


@dataclass(frozen=True)
class Certificate:
    """Change of the results of a flow under a finer solve of the same samples.

    Attributes:
        log_z_shift: change of `log Z`, finer minus current; of the action if one was given, else of
            the model taken as its own target.
        max_log_q_error: largest change of a log weight over samples.
        round_trip_error: largest `|inverse(transform(z)) - z|` over samples and sites.
        nfe: evaluations per sample of the solver that is certified.
        solver: the solver that is certified, as text.
        refined: the finer solver it was compared with, as text.
        n_samples: number of samples compared.
    """

    log_z_shift: float
    max_log_q_error: float
    round_trip_error: float
    nfe: int
    solver: str
    refined: str
    n_samples: int

    def __str__(self) -> str:
        return (
            f"{self.solver}, nfe {self.nfe}: log Z moves by {self.log_z_shift:+.1e}, a log weight by "
            f"at most {self.max_log_q_error:.1e} under {self.refined} ({self.n_samples} samples); "
            f"round trip {self.round_trip_error:.1e}"
        )


def compare_log_weights(
    current: Tensor,
    refined: Tensor,
    round_trip: Tensor,
    *,
    nfe: int,
    solver: Solver,
    refined_solver: Solver,
) -> Certificate:
    """Certificate from the log weights of the same samples under two solvers, `(batch,)` each."""
    current, refined = current.double(), refined.double()
    empty = len(current) == 0
    return Certificate(
        log_z_shift=0.0 if empty else float(refined.logsumexp(0) - current.logsumexp(0)),
        max_log_q_error=0.0 if empty else float((refined - current).abs().max()),
        round_trip_error=0.0 if empty else float(round_trip.max()),
        nfe=nfe,
        solver=str(solver),
        refined=str(refined_solver),
        n_samples=len(current),
    )
