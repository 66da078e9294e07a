"""`Solver`: which method integrates a flow, how its steps are chosen, and how its gradient is computed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from enum import Enum

from equiflow.ode.tableaus import TABLEAUS
from equiflow.runtime.checks import check_flag, is_integer, is_number, make_plain

#: order of each method that takes equal steps
FIXED_STEP_ORDER = {name: tableau.order for name, tableau in TABLEAUS.items()}
#: order of each method that adapts its steps to a tolerance; all are torchdiffeq's
ADAPTIVE_ORDER = {"adaptive_heun": 2, "fehlberg2": 2, "bosh3": 3, "dopri5": 5, "dopri8": 8}


class SolverError(RuntimeError):
    """The solver gave up, or its result is not finite."""


class Gradient(Enum):
    """How the gradient of a solution is computed."""

    #: through all stages of all steps
    BACKPROPAGATION = "backpropagation"
    #: through all steps, each computed a second time, so that only states between steps are kept
    CHECKPOINTED = "checkpointed"
    #: by the adjoint equation, without keeping any step
    ADJOINT = "adjoint"


@dataclass(frozen=True)
class EqualSteps:
    """Step control of fixed-step methods.

    Args:
        steps: number of steps of equal length.

    Raises:
        ValueError: if it is not an integer of at least 1.
    """

    steps: int

    def __post_init__(self) -> None:
        _check_steps("steps", self.steps)

    def refined(self) -> EqualSteps:
        """Return twice the steps."""
        return EqualSteps(2 * self.steps)

    def __str__(self) -> str:
        return f"steps={self.steps}"


@dataclass(frozen=True)
class Tolerances:
    """Step control of adaptive methods: the estimated error of a step is below `atol + rtol |state|`.

    Args:
        rtol: relative tolerance.
        atol: absolute tolerance.
        max_steps: number of steps after which the solver gives up.

    Raises:
        TypeError: if a tolerance is not a number.
        ValueError: if a value is out of its range.
    """

    rtol: float
    atol: float
    max_steps: int

    def __post_init__(self) -> None:
        _check_steps("max_steps", self.max_steps)
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            if not is_number(value):
                raise TypeError(f"{name} must be a number, got {value!r}.")
        if not (0 < self.rtol < 1 and 0 < self.atol < math.inf):
            raise ValueError(
                f"Tolerances must be positive and rtol below 1; got rtol={self.rtol}, atol={self.atol}."
            )

    def refined(self) -> Tolerances:
        """Return tolerances 100 times smaller."""
        return replace(self, rtol=self.rtol / 100, atol=self.atol / 100)

    def __str__(self) -> str:
        return f"rtol={self.rtol:g}, atol={self.atol:g}"


def _check_steps(name: str, count: object) -> None:
    if not is_integer(count) or count < 1:
        raise ValueError(f"{name} must be an integer >= 1, got {count!r}.")


@dataclass(frozen=True)
class Solver:
    """A method of integration, with its step control and its way to gradients.

    Fixed-step methods take `steps` equal steps. Adaptive methods choose their steps from the tolerances.

    Args:
        method: fixed steps: `euler, midpoint, heun2, heun3, classic_rk4, rk4, rk5`; adaptive:
            `adaptive_heun, fehlberg2, bosh3, dopri5, dopri8`. The names are torchdiffeq's: `rk4` is the
            3/8 rule. `classic_rk4` is Kutta's formula. `rk5` is Dormand and Prince's formula in equal
            steps: on trained flows it needs about 0.7 of the evaluations of rk4, or of the adaptive
            dopri5, for the same error of log Z.
        steps: number of equal steps, for fixed-step methods only.
        rtol: relative tolerance per step, for adaptive methods.
        atol: absolute tolerance per step, for adaptive methods.
        adjoint: compute gradients by the adjoint equation. Its memory does not grow with the number of
            steps; its gradients carry the error of a second solution.
        max_steps: number of steps after which an adaptive method gives up.
        checkpoint: keep only the state after each step and compute the step again for its gradient, for
            fixed-step methods only. Gradients are exact for the discrete map, memory is one step's.

    With neither `adjoint` nor `checkpoint`, gradients are backpropagated through all steps: exact for the
    discrete map, with memory for all of them.

    Raises:
        TypeError: if a tolerance is not a number, or `adjoint` or `checkpoint` not a bool.
        ValueError: for an unknown method, or options that do not belong to it.

    >>> print(Solver("rk5", steps=8), Solver("rk5", steps=8).refined(), Solver())
    rk5(steps=8) rk5(steps=16) dopri5(rtol=1e-05, atol=1e-05)
    """

    method: str = "dopri5"
    steps: int | None = None
    rtol: float = 1e-5
    atol: float = 1e-5
    adjoint: bool = False
    max_steps: int = 10_000
    checkpoint: bool = False

    def __post_init__(self) -> None:
        make_plain(self, "steps", "rtol", "atol", "max_steps", "adjoint", "checkpoint")
        self._check_method()
        # Options of the other kind of method are checked too, with a valid number in place of None.
        EqualSteps(1 if self.steps is None else self.steps)
        Tolerances(self.rtol, self.atol, self.max_steps)
        self._check_gradient()

    def _check_method(self) -> None:
        if not isinstance(self.method, str) or self.method not in FIXED_STEP_ORDER | ADAPTIVE_ORDER:
            known = ", ".join(FIXED_STEP_ORDER | ADAPTIVE_ORDER)
            raise ValueError(f"Unknown method {self.method!r}; expected one of {known}.")
        if self.is_adaptive and self.steps is not None:
            raise ValueError(
                f"{self.method} chooses its own steps; set rtol and atol, or use rk4 with steps=N."
            )
        if not self.is_adaptive and self.steps is None:
            raise ValueError(f"{self.method} takes fixed steps; give it steps=N.")

    def _check_gradient(self) -> None:
        for name, choice in (("adjoint", self.adjoint), ("checkpoint", self.checkpoint)):
            check_flag(choice, name)
        if self.checkpoint and (self.is_adaptive or self.adjoint):
            raise ValueError(
                "checkpoint=True is for backpropagation through fixed steps: take rk4 or rk5 with steps=N "
                "and adjoint=False."
            )

    @property
    def is_adaptive(self) -> bool:
        """Whether the method chooses its steps from the tolerances."""
        return self.method in ADAPTIVE_ORDER

    @property
    def order(self) -> int:
        """Order of convergence in the step size."""
        return (FIXED_STEP_ORDER | ADAPTIVE_ORDER)[self.method]

    @property
    def step_control(self) -> EqualSteps | Tolerances:
        """How the steps are chosen."""
        if self.steps is None:
            return Tolerances(self.rtol, self.atol, self.max_steps)
        return EqualSteps(self.steps)

    @property
    def gradient(self) -> Gradient:
        """How gradients are computed."""
        if self.adjoint:
            return Gradient.ADJOINT
        return Gradient.CHECKPOINTED if self.checkpoint else Gradient.BACKPROPAGATION

    def refined(self) -> Solver:
        """Return the finer solver of a certificate: twice the steps, or tolerances 100 times smaller."""
        return replace(self, **asdict(self.step_control.refined()))

    def __str__(self) -> str:
        return f"{self.method}({self.step_control})"
