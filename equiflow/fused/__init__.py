"""Kernels that do in one pass over a configuration what torch does in many, compiled by numba.

They are used wherever they fit if numba is installed (`pip install "equiflow-lattice[fast]"`), and give the
same results to rounding. `state()` says whether they are in use, `switched(False)` leaves them out within a
block, and the environment variable `EQUIFLOW_FUSED=0` for a whole process. Fused updates of Markov chains
draw random numbers of their own, seeded by the given generator: chains with and without them agree in law.
"""

from equiflow.fused.just_in_time import in_use, is_installed, state, switched

__all__ = ["in_use", "is_installed", "state", "switched"]
