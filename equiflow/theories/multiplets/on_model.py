"""The action of the O(N) model."""

from __future__ import annotations

from equiflow.runtime.checks import check_type
from equiflow.theories.multiplets.space import Multiplet
from equiflow.theories.scalar.phi4 import QuarticAction


class ONModel(QuarticAction):
    r"""The O(N) vector model, `S = sum_x [sum_mu |phi(x+mu) - phi(x)|^2 + m2 |phi|^2 + lam (|phi|^2)^2]`.

    For one component it is `Phi4`.

    Args:
        multiplet: `Multiplet(lattice, N)`.
        m2: bare mass squared, may be negative.
        lam: quartic coupling, >= 0. With `lam = 0` the mass must be positive.

    Raises:
        TypeError: if `multiplet` is not a `Multiplet`.
        ValueError: if the couplings are not finite or the density cannot be normalised.
    """

    def __init__(self, multiplet: Multiplet, *, m2: float, lam: float) -> None:
        check_type(multiplet, Multiplet, "multiplet", "Write Multiplet(Lattice((16, 16)), 3).")
        super().__init__(multiplet, m2=m2, lam=lam)
