"""Scalar phi^4 theory, its free limit, and its action in other conventions.

Start with `Phi4`. Its constructors `from_hopping`, `from_continuum` and `from_factorial` read the conventions
of others, and `Phi4.conventions` leads back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from equiflow.fused.stencil import Stencil
from equiflow.runtime.checks import check_type
from equiflow.theories.base.action import Action
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.space import Space


@dataclass(frozen=True)
class Convention:
    """A `Phi4` action and the same theory in another convention.

    "Here" are the conventions of this library, "there" the other ones.

    Attributes:
        action: the theory here.
        field_scale: `phi_there = field_scale * phi_here`; then `S_there(phi_there) = S_here(phi_here)`.
        log_z_shift: `log Z_there = log Z_here + log_z_shift`, the Jacobian of the rescaling.
        formula: the summand of `S_there`, as text.
        couplings: the couplings there, as keyword arguments of a constructor such as `Phi4.from_hopping`.
    """

    action: Phi4
    field_scale: float
    log_z_shift: float
    formula: str
    couplings: Mapping[str, float]

    def __str__(self) -> str:
        numbers = ", ".join(f"{name} = {value:.10g}" for name, value in self.couplings.items())
        return (
            f"S = sum_x [{self.formula}]\n  {numbers}\n  phi_there = {self.field_scale:.10g} phi_here, "
            f"log Z_there = log Z_here {'-' if self.log_z_shift < 0 else '+'} {abs(self.log_z_shift):.10g}"
        )


class QuarticAction(Action):
    r"""`S = sum_x [sum_mu |phi(x+mu) - phi(x)|^2 + m2 |phi|^2 + lam |phi|^4]`, for any number of components.

    Args:
        space: `Lattice` for a scalar field, `Multiplet` for a field of several components.
        m2: bare mass squared, may be negative.
        lam: quartic coupling, >= 0. With `lam = 0` the mass must be positive.

    Raises:
        TypeError: if `space` is not a `Space`.
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
        self._component_axes = space.component_axes

    def forward(self, phi: Tensor) -> Tensor:
        """Return `S[phi]`, `(batch,)`."""
        self.space.check(phi)
        kinetic = sum(self._square(phi.roll(-1, mu) - phi) for mu in self.lattice.axes)
        square = self._square(phi)
        potential = (self.m2 + self.lam * square) * square
        return (kinetic + potential).sum(self.lattice.axes)

    def grad(self, phi: Tensor) -> Tensor:
        """Return `dS/dphi = -2 Laplacian(phi) + 2 m2 phi + 4 lam |phi|^2 phi`, shaped like `phi`."""
        self.space.check(phi)
        neighbours = sum(phi.roll(1, mu) + phi.roll(-1, mu) for mu in self.lattice.axes)
        square = self._square(phi, keepdim=True)
        local = (4 * self.lattice.dim + 2 * self.m2 + 4 * self.lam * square) * phi
        return local - 2 * neighbours

    def stencil(self) -> Stencil | None:
        """See `Action.stencil`; None for a subclass with an action or a gradient of its own."""
        kind = type(self)
        if kind.forward is not QuarticAction.forward or kind.grad is not QuarticAction.grad:
            return None
        return Stencil(self.lattice.shape, self.m2, self.lam, (0.0,) * self.space.values_per_site)

    def coupling_grad(self, phi: Tensor, name: str) -> Tensor:
        """See `Action.coupling_grad`: `dS/dm2 = sum_x |phi|^2`, `dS/dlam = sum_x |phi|^4`."""
        self.space.check(phi)
        powers = {"m2": 1, "lam": 2}
        if name not in powers:
            raise ValueError(f"{type(self).__name__} has the couplings m2 and lam, not {name!r}.")
        return self._square(phi).pow(powers[name]).sum(self.lattice.axes)

    def extra_repr(self) -> str:
        """Return shape and couplings, for `repr`."""
        return f"shape={self.space.shape}, m2={self.m2}, lam={self.lam}"

    def _square(self, phi: Tensor, *, keepdim: bool = False) -> Tensor:
        """Return `|phi(x)|^2`, summed over components if there are any."""
        square = phi.square()
        return square.sum(self._component_axes, keepdim=keepdim) if self._component_axes else square


class Phi4(QuarticAction):
    r"""Scalar phi^4 theory, `S = sum_x [sum_mu (phi(x+mu) - phi(x))^2 + m2 phi^2 + lam phi^4]`.

    Args:
        lattice: any dimension, any sides.
        m2: bare mass squared, may be negative.
        lam: quartic coupling, >= 0. With `lam = 0` the mass must be positive.

    Raises:
        TypeError: if `lattice` is not a `Lattice`.
        ValueError: if the couplings are not finite or the density cannot be normalised.
    """

    def __init__(self, lattice: Lattice, *, m2: float, lam: float) -> None:
        check_type(lattice, Lattice, "lattice", "Write Lattice((16, 16)).")
        super().__init__(lattice, m2=m2, lam=lam)

    @staticmethod
    def from_hopping(lattice: Lattice, *, kappa: float, lam_hopping: float) -> Convention:
        """Read `S = sum_x [-2 kappa sum_mu phi phi' + (1 - 2 lam_hopping) phi^2 + lam_hopping phi^4]`.

        Args:
            lattice: any dimension, any sides.
            kappa: hopping parameter, > 0.
            lam_hopping: quartic coupling there.

        Returns:
            The action here, the scale of the field and the shift of log Z.

        Raises:
            ValueError: if kappa is not positive, or see `Phi4`.
        """
        if kappa <= 0:
            raise ValueError(f"kappa must be positive to rescale the field, got {kappa}.")
        m2 = (1 - 2 * lam_hopping) / kappa - 2 * lattice.dim
        return _hopping(Phi4(lattice, m2=m2, lam=lam_hopping / kappa**2), kappa, lam_hopping)

    @staticmethod
    def from_continuum(lattice: Lattice, *, mu2: float, g: float) -> Convention:
        """Read `S = sum_x [1/2 sum_mu (phi' - phi)^2 + 1/2 mu2 phi^2 + g/4 phi^4]`.

        Args:
            lattice: any dimension, any sides.
            mu2: mass squared there.
            g: quartic coupling there.

        Returns:
            The action here, the scale of the field and the shift of log Z.

        Raises:
            ValueError: see `Phi4`.
        """
        return _continuum(Phi4(lattice, m2=mu2, lam=g), mu2, g)

    @staticmethod
    def from_factorial(lattice: Lattice, *, mu2: float, g: float) -> Convention:
        """Read `S = sum_x [1/2 sum_mu (phi' - phi)^2 + 1/2 mu2 phi^2 + g/4! phi^4]`.

        Args:
            lattice: any dimension, any sides.
            mu2: mass squared there.
            g: quartic coupling there.

        Returns:
            The action here, the scale of the field and the shift of log Z.

        Raises:
            ValueError: see `Phi4`.
        """
        return _factorial(Phi4(lattice, m2=mu2, lam=g / 6), mu2, g)

    def conventions(self) -> dict[str, Convention]:
        """Return this action in the conventions `hopping`, `continuum` and `factorial`.

        The constructors `from_hopping`, `from_continuum` and `from_factorial` lead back. The hopping form is
        often completed to `phi^2 + lam_hopping (phi^2 - 1)^2`. That adds `lam_hopping V` to the action and
        subtracts it from log Z.

        >>> action = Phi4(Lattice((6, 6)), m2=-4.0, lam=6.975)
        >>> couplings = action.conventions()["continuum"].couplings
        >>> Phi4.from_continuum(action.lattice, **couplings).action
        Phi4(shape=(6, 6), m2=-4.0, lam=6.975)
        """
        kappa = _hopping_parameter(self.m2 + 2 * self.lattice.dim, self.lam)
        return {
            "hopping": _hopping(self, kappa, self.lam * kappa**2),
            "continuum": _continuum(self, self.m2, self.lam),
            "factorial": _factorial(self, self.m2, 6 * self.lam),
        }

    def describe(self) -> str:
        """Return the action in every convention as text: couplings, scale of the field, shift of log Z."""
        here = (
            f"{type(self).__name__} on {self.lattice.shape}, V = {self.lattice.volume}\n"
            "here: S = sum_x [sum_mu (phi' - phi)^2 + m2 phi^2 + lam phi^4]\n"
            f"  m2 = {self.m2:.10g}, lam = {self.lam:.10g}"
        )
        return "\n".join([here, *(f"{name}: {form}" for name, form in self.conventions().items())])


class FreeScalar(Phi4):
    """The free field, `Phi4` with `lam = 0`, whose partition function is known in closed form.

    Args:
        lattice: any dimension, any sides.
        m2: mass squared, > 0.

    Raises:
        TypeError: if `lattice` is not a `Lattice`.
        ValueError: if the mass is not positive and finite.
    """

    def __init__(self, lattice: Lattice, *, m2: float) -> None:
        super().__init__(lattice, m2=m2, lam=0.0)

    def mode_variance(self) -> Tensor:
        """Return `<|phi_k|^2> / V = 1 / (2 (k^2 + m2))` on all momenta, `(*lattice)` in float64."""
        return 0.5 / (self.lattice.squared_momenta() + self.m2)

    def log_z(self) -> float:
        """Return `log Z = sum_k 1/2 log(2 pi <|phi_k|^2> / V)`."""
        return float(0.5 * (2 * math.pi * self.mode_variance()).log().sum())


def _hopping(action: Phi4, kappa: float, lam_hopping: float) -> Convention:
    """Return the hopping convention, with the couplings there already known."""
    formula = "-2 kappa sum_mu phi phi' + (1 - 2 lam_hopping) phi^2 + lam_hopping phi^4"
    return _rescaled(action, 1 / math.sqrt(kappa), formula, {"kappa": kappa, "lam_hopping": lam_hopping})


def _continuum(action: Phi4, mu2: float, g: float) -> Convention:
    """Return the continuum convention, with the couplings there already known."""
    formula = "1/2 sum_mu (phi' - phi)^2 + 1/2 mu2 phi^2 + g/4 phi^4"
    return _rescaled(action, math.sqrt(2), formula, {"mu2": mu2, "g": g})


def _factorial(action: Phi4, mu2: float, g: float) -> Convention:
    """Return the convention with 1/4!, with the couplings there already known."""
    formula = "1/2 sum_mu (phi' - phi)^2 + 1/2 mu2 phi^2 + g/4! phi^4"
    return _rescaled(action, math.sqrt(2), formula, {"mu2": mu2, "g": g})


def _rescaled(action: Phi4, scale: float, formula: str, couplings: Mapping[str, float]) -> Convention:
    """Return a convention whose field is larger by a factor: each site adds `log scale` to log Z."""
    return Convention(action, scale, action.lattice.volume * math.log(scale), formula, couplings)


def _hopping_parameter(diagonal: float, lam: float) -> float:
    """Return the positive root of `2 lam kappa^2 + diagonal kappa = 1`, in the form that does not cancel."""
    root = math.sqrt(diagonal**2 + 8 * lam)
    return 2 / (diagonal + root) if diagonal > 0 else (root - diagonal) / (4 * lam)
