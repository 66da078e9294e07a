"""Scalar phi^4 theory, its free limit, and its action in the conventions of others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from equiflow.runtime.checks import check_type
from equiflow.theories.base.action import Action
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.space import Space


@dataclass(frozen=True)
class Convention:
    """A `Phi4` action given in other conventions, and how to translate results back.

    Attributes:
        action: the same theory in the conventions of this library.
        field_scale: `phi_there = field_scale * phi_here`.
        log_z_shift: `log Z_there = log Z_here + log_z_shift` (the Jacobian of the rescaling).
    """

    action: Phi4
    field_scale: float
    log_z_shift: float


class QuarticAction(Action):
    r"""`S = sum_x [sum_mu |phi(x+mu) - phi(x)|^2 + m2 |phi|^2 + lam |phi|^4]`, for any number of components.

    Args:
        space: `Lattice` for a scalar field, `Multiplet` for one of several components.
        m2: bare mass squared, may be negative.
        lam: quartic coupling, >= 0. With `lam = 0` the mass must be positive.

    Raises:
        ValueError: if the couplings are not finite or the density cannot be normalised.
    """

    def __init__(self, space: Space, *, m2: float, lam: float) -> None:
        super().__init__(space)
        if not (math.isfinite(m2) and math.isfinite(lam)):
            raise ValueError(f"Couplings must be finite, got m2={m2}, lam={lam}.")
        if lam < 0 or (lam == 0 and m2 <= 0):
            raise ValueError(
                f"exp(-S) cannot be normalised for m2={m2}, lam={lam}; "
                "expected lam > 0, or lam = 0 with m2 > 0 (a free field)."
            )
        self.m2 = float(m2)
        self.lam = float(lam)

    def forward(self, phi: Tensor) -> Tensor:
        """`S[phi]`, shape `(batch,)`."""
        self.space.check(phi)
        kinetic = sum(self._square(phi.roll(-1, mu) - phi) for mu in self.lattice.axes)
        square = self._square(phi)
        potential = (self.m2 + self.lam * square) * square
        return (kinetic + potential).sum(self.lattice.axes)

    def grad(self, phi: Tensor) -> Tensor:
        """`dS/dphi = -2 Laplacian(phi) + 2 m2 phi + 4 lam |phi|^2 phi`, shaped like `phi`."""
        self.space.check(phi)
        neighbours = sum(phi.roll(1, mu) + phi.roll(-1, mu) for mu in self.lattice.axes)
        square = self._square(phi, keepdim=True)
        local = (4 * self.lattice.dim + 2 * self.m2 + 4 * self.lam * square) * phi
        return local - 2 * neighbours

    def coupling_grad(self, phi: Tensor, name: str) -> Tensor:
        """`dS/dm2 = sum_x |phi|^2` and `dS/dlam = sum_x |phi|^4`, `(batch,)`."""
        self.space.check(phi)
        powers = {"m2": 1, "lam": 2}
        if name not in powers:
            raise ValueError(f"{type(self).__name__} has the couplings m2 and lam, not {name!r}.")
        return self._square(phi).pow(powers[name]).sum(self.lattice.axes)

    def extra_repr(self) -> str:
        """Couplings, for `repr`."""
        return f"shape={self.space.shape}, m2={self.m2}, lam={self.lam}"

    def _square(self, phi: Tensor, *, keepdim: bool = False) -> Tensor:
        """`|phi(x)|^2`, summed over components if there are any."""
        square = phi.square()
        return square if isinstance(self.space, Lattice) else square.sum(1, keepdim=keepdim)


class Phi4(QuarticAction):
    r"""Scalar phi^4 theory, `S = sum_x [sum_mu (phi(x+mu) - phi(x))^2 + m2 phi^2 + lam phi^4]`.

    Args:
        lattice: any dimension, any sides.
        m2: bare mass squared, may be negative.
        lam: quartic coupling, >= 0. With `lam = 0` the mass must be positive.

    Raises:
        ValueError: if the couplings are not finite or the density cannot be normalised.
    """

    def __init__(self, lattice: Lattice, *, m2: float, lam: float) -> None:
        check_type(lattice, Lattice, "lattice", "Write Lattice((16, 16)).")
        super().__init__(lattice, m2=m2, lam=lam)

    @staticmethod
    def from_hopping(lattice: Lattice, *, kappa: float, lam_hopping: float) -> Convention:
        """From `S = sum -2 kappa sum_mu phi phi' + (1 - 2 lam_hopping) phi^2 + lam_hopping phi^4`."""
        if kappa <= 0:
            raise ValueError(f"kappa must be positive to rescale the field, got {kappa}.")
        m2 = (1 - 2 * lam_hopping) / kappa - 2 * lattice.dim
        scale = 1 / math.sqrt(kappa)
        return Phi4._converted(lattice, m2, lam_hopping / kappa**2, scale)

    @staticmethod
    def from_continuum(lattice: Lattice, *, mu2: float, g: float) -> Convention:
        """From `S = sum 1/2 (d phi)^2 + 1/2 mu2 phi^2 + g/4 phi^4`."""
        return Phi4._converted(lattice, mu2, g, math.sqrt(2))

    @staticmethod
    def from_factorial(lattice: Lattice, *, mu2: float, g: float) -> Convention:
        """From `S = sum 1/2 (d phi)^2 + 1/2 mu2 phi^2 + g/4! phi^4`."""
        return Phi4._converted(lattice, mu2, g / 6, math.sqrt(2))

    def conventions(self) -> dict[str, Written]:
        """This action in the conventions `hopping`, `continuum` and `factorial`: the inverse of `from_*`.

        >>> action = Phi4(Lattice((6, 6)), m2=-4.0, lam=6.975)
        >>> couplings = action.conventions()["continuum"].couplings
        >>> Phi4.from_continuum(action.lattice, **couplings).action
        Phi4(shape=(6, 6), m2=-4.0, lam=6.975)
        """
        return written_elsewhere(self.lattice, self.m2, self.lam)

    def describe(self) -> str:
        """The action in every convention: couplings, scale of the field, constant in log Z."""
        here = (
            f"{type(self).__name__} on {self.lattice.shape}, V = {self.lattice.volume}\n"
            "here: S = sum_x [sum_mu (phi' - phi)^2 + m2 phi^2 + lam phi^4]\n"
            f"  m2 = {self.m2:.10g}, lam = {self.lam:.10g}"
        )
        return "\n".join([here, *(f"{name}: {form}" for name, form in self.conventions().items())])

    @staticmethod
    def _converted(lattice: Lattice, m2: float, lam: float, scale: float) -> Convention:
        return Convention(Phi4(lattice, m2=m2, lam=lam), scale, lattice.volume * math.log(scale))


class FreeScalar(Phi4):
    """The free field, `Phi4` with `lam = 0`, whose partition function is known in closed form.

    Args:
        lattice: any dimension, any sides.
        m2: mass squared, > 0.
    """

    def __init__(self, lattice: Lattice, *, m2: float) -> None:
        super().__init__(lattice, m2=m2, lam=0.0)

    def mode_variance(self) -> Tensor:
        """`<|phi_k|^2> / V = 1 / (2 (k^2 + m2))` on all momenta, `(*lattice)` in float64."""
        return 0.5 / (self.lattice.squared_momenta() + self.m2)

    def log_z(self) -> float:
        """`log Z = sum_k 1/2 log(2 pi <|phi_k|^2> / V)`."""
        return float(0.5 * (2 * math.pi * self.mode_variance()).log().sum())


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
