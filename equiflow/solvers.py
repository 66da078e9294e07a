"""Another name of `equiflow.ode`: the solvers, and the choice of one."""

from equiflow.ode.solver import ADAPTIVE_ORDER, FIXED_STEP_ORDER, Solver, SolverError
from equiflow.ode.tuning import SolverChoice, choose_solver

__all__ = ["ADAPTIVE_ORDER", "FIXED_STEP_ORDER", "Solver", "SolverChoice", "SolverError", "choose_solver"]
