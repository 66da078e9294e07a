"""Another name of `equiflow.ode.solver`: which solver, and which is chosen."""

from equiflow.ode.solver import (
    ADAPTIVE_ORDER,
    FIXED_STEP_ORDER,
    Solver,
    SolverChoice,
    SolverError,
    choose_solver,
)

__all__ = ["ADAPTIVE_ORDER", "FIXED_STEP_ORDER", "Solver", "SolverChoice", "SolverError", "choose_solver"]
