"""Actions: what the flow is trained on. The target density is `exp(-S[phi]) / Z`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equiflow.autograd import as_leaf
from equiflow.conventions import Written, written_elsewhere
from equiflow.group import Group
from equiflow.lattice import Lattice, Multiplet, Space, check_type, lattice_of


class Action(nn.Module, ABC):
    """An action `S[phi]` of configurations; the abstract method is S, `grad` can be given in closed form."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        check_type(space, Space, "lattice", "Write Lattice((16, 16)).")
        self.space = space

    @property
    def lattice(self) -> Lattice:
        """The lattice of the fields."""
        return lattice_of(self.space)

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
            leaf = as_leaf(phi)
            (gradient,) = torch.autograd.grad(self(leaf).sum(), leaf)
        return gradient

    @torch.no_grad()
    def asymmetry(
        self, group: Group, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64
    ) -> dict[str, float]:
        """How much each generator of a group changes S of random fields, relative to the spread of S.

        A flow with a symmetry that its target lacks can come close to the target, but never reach it.

        Returns:
            Name of the generator -> `max |S(g phi) - S(phi)| / std S`.
        """
        generator = torch.Generator("cpu").manual_seed(0)
        noise = torch.randn((4, *self.space.shape), generator=generator, dtype=torch.float64, device="cpu")
        phi = noise.to(device, dtype)
        value = self(phi)
        spread = value.std().clamp(min=torch.finfo(dtype).tiny)
        return {
            name: float((self(element(phi)) - value).abs().max() / spread)
            for name, element in group.generators().items()
        }

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


class ONModel(QuarticAction):
    r"""O(N) vector model, `S = sum_x [sum_mu |phi(x+mu) - phi(x)|^2 + m2 |phi|^2 + lam (|phi|^2)^2]`.

    For one component it is `Phi4`.

    Args:
        multiplet: `Multiplet(lattice, N)`.
        m2: bare mass squared, may be negative.
        lam: quartic coupling, >= 0. With `lam = 0` the mass must be positive.

    Raises:
        ValueError: if the couplings are not finite or the density cannot be normalised.
    """

    def __init__(self, multiplet: Multiplet, *, m2: float, lam: float) -> None:
        check_type(multiplet, Multiplet, "multiplet", "Write Multiplet(Lattice((16, 16)), 3).")
        super().__init__(multiplet, m2=m2, lam=lam)


class ExternalField(Action):
    """Another action in a uniform external field, `S_h[phi] = S[phi] - h . sum_x phi(x)`.

    The field breaks phi -> -phi: flows for it have groups with `z2=False` (of a multiplet,
    `rotations=False`).

    Args:
        action: S.
        h: the field; one number for each component of a multiplet.

    >>> action = ExternalField(Phi4(Lattice((4, 4)), m2=-4.0, lam=8.0), h=0.1)
    >>> action(torch.ones(1, 4, 4)) - action.action(torch.ones(1, 4, 4))
    tensor([-1.6000])
    """

    h: Tensor

    def __init__(self, action: Action, *, h: float | tuple[float, ...]) -> None:
        check_type(action, Action, "action", "Give an instance, such as Phi4(lattice, m2=-4.0, lam=6.0).")
        check_type(action.space, (Lattice, Multiplet), "The space of the action", "h . phi is for fields.")
        super().__init__(action.space)
        values = torch.tensor(h, dtype=torch.float64)
        n_components = self.space.size // self.lattice.volume
        if values.dim() > 1 or values.numel() != n_components or not bool(values.isfinite().all()):
            raise ValueError(f"h must be {n_components} finite numbers, one for each component; got {h}.")
        self.action = action
        self.register_buffer("h", values.reshape(-1, *(1,) * self.lattice.dim), False)

    def forward(self, phi: Tensor) -> Tensor:
        """`S_h[phi]`, shape `(batch,)`."""
        return self.action(phi) - (phi * self._like(phi)).sum(self.space.event_axes)

    def grad(self, phi: Tensor) -> Tensor:
        """`dS/dphi - h`, shaped like `phi`."""
        return self.action.grad(phi) - self._like(phi)

    def coupling_grad(self, phi: Tensor, name: str) -> Tensor:
        """That of S."""
        return self.action.coupling_grad(phi, name)

    def __repr__(self) -> str:
        """On one line, unlike that of other modules with a part: it names samples in files and tables."""
        return f"ExternalField({self.action!r}, h={self.h.flatten().tolist()})"

    def _like(self, phi: Tensor) -> Tensor:
        h = self.h.to(phi)
        return h if phi.dim() > 1 + self.lattice.dim else h[0]
