"""Lattice actions: what the flow is trained on. The target density is `exp(-S[phi]) / Z`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from equiflow.lattice import Lattice, check_type


class Action(nn.Module, ABC):
    """An action `S[phi]`; the abstract method is the action, its gradient can be given in closed form."""

    #: whether phi -> -phi leaves the action unchanged
    z2: ClassVar[bool] = True

    def __init__(self, lattice: Lattice) -> None:
        super().__init__()
        check_type(lattice, Lattice, "lattice", "Write Lattice((16, 16)).")
        self.lattice = lattice

    @abstractmethod
    def forward(self, phi: Tensor) -> Tensor:
        """`S[phi]` of each configuration.

        Args:
            phi: `(batch, *lattice)`.

        Returns:
            `(batch,)`.
        """

    def grad(self, phi: Tensor) -> Tensor:
        """`dS/dphi_x`, shaped like `phi`. By automatic differentiation unless a subclass knows better."""
        with torch.enable_grad():
            leaf = phi.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self(leaf).sum(), leaf)
        return gradient

    def coupling_grad(self, phi: Tensor, name: str) -> Tensor:
        """`dS/d coupling` of each configuration, `(batch,)`: `d log Z / d coupling = -<dS/d coupling>`.

        Raises:
            TypeError: if this kind of action does not say how it depends on its couplings.
        """
        raise TypeError(
            f"{type(self).__name__} has no derivative in its couplings; override `coupling_grad`."
        )

    def log_prob_unnormalised(self, phi: Tensor) -> Tensor:
        """`-S[phi]`, the log of the target density up to `-log Z`."""
        return -self(phi)


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


class Phi4(Action):
    r"""Scalar phi^4 theory, `S = sum_x [sum_mu (phi(x+mu) - phi(x))^2 + m2 phi^2 + lam phi^4]`.

    Args:
        lattice: any dimension, any sides.
        m2: bare mass squared, may be negative.
        lam: quartic coupling, >= 0. With `lam = 0` the mass must be positive.

    Raises:
        ValueError: if the couplings are not finite or the density cannot be normalised.
    """

    def __init__(self, lattice: Lattice, *, m2: float, lam: float) -> None:
        super().__init__(lattice)
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
        self.lattice.check(phi)
        kinetic = sum((phi.roll(-1, mu) - phi).square() for mu in self.lattice.axes)
        square = phi.square()
        potential = (self.m2 + self.lam * square) * square
        return (kinetic + potential).sum(self.lattice.axes)

    def grad(self, phi: Tensor) -> Tensor:
        """`dS/dphi = -2 Laplacian(phi) + 2 m2 phi + 4 lam phi^3`, shaped like `phi`."""
        self.lattice.check(phi)
        neighbours = sum(phi.roll(1, mu) + phi.roll(-1, mu) for mu in self.lattice.axes)
        local = (4 * self.lattice.dim + 2 * self.m2 + 4 * self.lam * phi.square()) * phi
        return local - 2 * neighbours

    def coupling_grad(self, phi: Tensor, name: str) -> Tensor:
        """`dS/dm2 = sum_x phi^2` and `dS/dlam = sum_x phi^4`, `(batch,)`."""
        self.lattice.check(phi)
        powers = {"m2": 2, "lam": 4}
        if name not in powers:
            raise ValueError(f"{type(self).__name__} has the couplings m2 and lam, not {name!r}.")
        return phi.pow(powers[name]).sum(self.lattice.axes)

    @staticmethod
    def from_hopping(lattice: Lattice, *, kappa: float, lam_hopping: float) -> Convention:
        """From `S = -2 kappa sum phi phi' + (1 - 2 lam_hopping) phi^2 + lam_hopping phi^4`."""
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

    @staticmethod
    def _converted(lattice: Lattice, m2: float, lam: float, scale: float) -> Convention:
        return Convention(Phi4(lattice, m2=m2, lam=lam), scale, lattice.volume * math.log(scale))

    def extra_repr(self) -> str:
        """Couplings, for `repr`."""
        return f"shape={self.lattice.shape}, m2={self.m2}, lam={self.lam}"


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
