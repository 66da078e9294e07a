"""Butcher tableaus of the explicit Runge-Kutta methods that `Solver` offers with equal steps.

Coefficients are exact fractions, so that the order conditions can be checked without rounding. A new
method is a new tableau in `TABLEAUS`; `equiflow.ode.equal_steps` turns a tableau into steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Tableau:
    """Coefficients of an explicit Runge-Kutta method for `dy/dt = f(t, y)`.

        k_i = f(t + c_i h, y + h sum_{j < i} a_ij k_j),    y(t + h) = y + h sum_i b_i k_i

    Attributes:
        order: the error of one step is `O(h^(order + 1))`.
        nodes: `c`, one per stage; the first is 0.
        rows: `a`, one row per stage after the first; row i has i entries.
        weights: `b`, one per stage.
    """

    order: int
    nodes: tuple[Fraction, ...]
    rows: tuple[tuple[Fraction, ...], ...]
    weights: tuple[Fraction, ...]

    @property
    def n_stages(self) -> int:
        """Number of evaluations of `f` per step."""
        return len(self.weights)

    @classmethod
    def of(cls, order: int, *, nodes: str, rows: tuple[str, ...], weights: str) -> Tableau:
        """Return the tableau whose coefficients are written as fractions with spaces between them.

        Args:
            order: order of the method.
            nodes: `c`, as in `"0 1/2 1"`.
            rows: rows of `a`, from the second stage on.
            weights: `b`.

        Returns:
            The tableau, with exact fractions.
        """
        return cls(order, _fractions(nodes), tuple(map(_fractions, rows)), _fractions(weights))


def _fractions(text: str) -> tuple[Fraction, ...]:
    return tuple(map(Fraction, text.split()))


#: Euler (1768).
EULER = Tableau.of(1, nodes="0", rows=(), weights="1")

#: Explicit midpoint rule, Runge (1895).
MIDPOINT = Tableau.of(2, nodes="0 1/2", rows=("1/2",), weights="0 1")

#: Explicit trapezoid rule, Heun (1900).
HEUN2 = Tableau.of(2, nodes="0 1", rows=("1",), weights="1/2 1/2")

#: Third-order formula of Heun (1900).
HEUN3 = Tableau.of(3, nodes="0 1/3 2/3", rows=("1/3", "0 2/3"), weights="1/4 0 3/4")

#: The formula that most codes mean by RK4, Kutta (1901).
CLASSIC_RK4 = Tableau.of(
    4,
    nodes="0 1/2 1/2 1",
    rows=("1/2", "0 1/2", "0 0 1"),
    weights="1/6 1/3 1/3 1/6",
)

#: The 3/8 rule of Kutta (1901), which torchdiffeq calls rk4: smaller error than the classic formula.
THREE_EIGHTHS = Tableau.of(
    4,
    nodes="0 1/3 2/3 1",
    rows=("1/3", "-1/3 1", "1 -1 1"),
    weights="1/8 3/8 3/8 1/8",
)

#: Fifth-order formula of Dormand and Prince, J. Comp. Appl. Math. 6 (1980) 19. dopri5 has a seventh stage,
#: which serves its error estimate only and is left out.
DORMAND_PRINCE = Tableau.of(
    5,
    nodes="0 1/5 3/10 4/5 8/9 1",
    rows=(
        "1/5",
        "3/40 9/40",
        "44/45 -56/15 32/9",
        "19372/6561 -25360/2187 64448/6561 -212/729",
        "9017/3168 -355/33 46732/5247 49/176 -5103/18656",
    ),
    weights="35/384 0 500/1113 125/192 -2187/6784 11/84",
)

#: Tableau of each fixed-step method of `Solver`.
TABLEAUS = {
    "euler": EULER,
    "midpoint": MIDPOINT,
    "heun2": HEUN2,
    "heun3": HEUN3,
    "classic_rk4": CLASSIC_RK4,
    "rk4": THREE_EIGHTHS,
    "rk5": DORMAND_PRINCE,
}
