"""The phi^4 action as others write it: couplings, field scale and the constant in log Z."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from equiflow.lattice import Lattice


@dataclass(frozen=True)
class Written:
    """One action in another convention.

    Attributes:
        formula: the summand of `S_there`, as text.
        couplings: keyword arguments of the constructor that leads back, such as `Phi4.from_hopping`.
        field_scale: `phi_there = field_scale * phi_here`; then `S_there(phi_there) = S_here(phi_here)`.
        log_z_shift: `log Z_there = log Z_here + log_z_shift`, the Jacobian of the rescaling.
    """

    formula: str
    couplings: Mapping[str, float]
    field_scale: float
    log_z_shift: float

    def __str__(self) -> str:
        numbers = ", ".join(f"{name} = {value:.10g}" for name, value in self.couplings.items())
        return (
            f"S = sum_x [{self.formula}]\n  {numbers}\n  phi_there = {self.field_scale:.10g} phi_here, "
            f"log Z_there = log Z_here {'-' if self.log_z_shift < 0 else '+'} {abs(self.log_z_shift):.10g}"
        )


def written_elsewhere(lattice: Lattice, m2: float, lam: float) -> dict[str, Written]:
    """`sum_mu (phi' - phi)^2 + m2 phi^2 + lam phi^4` in the other conventions, by name.

    The hopping form is often completed to `phi^2 + lam_hopping (phi^2 - 1)^2`; that adds
    `lam_hopping V` to the action and takes as much from log Z.
    """
    kappa = _hopping_parameter(m2 + 2 * lattice.dim, lam)
    gradient = "1/2 sum_mu (phi' - phi)^2 + 1/2 mu2 phi^2"
    forms = {
        "hopping": (
            "-2 kappa sum_mu phi phi' + (1 - 2 lam_hopping) phi^2 + lam_hopping phi^4",
            {"kappa": kappa, "lam_hopping": lam * kappa**2},
            1 / math.sqrt(kappa),
        ),
        "continuum": (f"{gradient} + g/4 phi^4", {"mu2": m2, "g": lam}, math.sqrt(2)),
        "factorial": (f"{gradient} + g/4! phi^4", {"mu2": m2, "g": 6 * lam}, math.sqrt(2)),
    }
    return {
        name: Written(formula, couplings, scale, lattice.volume * math.log(scale))
        for name, (formula, couplings, scale) in forms.items()
    }


def _hopping_parameter(diagonal: float, lam: float) -> float:
    """The positive root of `2 lam kappa^2 + diagonal kappa = 1`, in the form that does not cancel."""
    root = math.sqrt(diagonal**2 + 8 * lam)
    return 2 / (diagonal + root) if diagonal > 0 else (root - diagonal) / (4 * lam)
