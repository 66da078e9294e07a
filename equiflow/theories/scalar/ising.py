"""The two-dimensional Ising model, and that of any dimension, as a theory of a continuous field."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiflow.runtime.checks import check_positive, check_type
from equiflow.theories.base.action import Action
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.prior import LOG_2PI

#: temperature at which the infinite square lattice is critical, `2 / ln(1 + sqrt 2)`
CRITICAL_TEMPERATURE = 2 / math.log(1 + math.sqrt(2))
#: smallest eigenvalue of the couplings K; a smaller one makes the field rougher, but no better known
SMALLEST_EIGENVALUE = 0.1


class ContinuousIsing(Action):
    r"""The Ising model, `sum_s exp(sum_<xy> s_x s_y / T)`, as a theory of a real field.

        S = phi . K^-1 . phi / 2 - sum_x ln cosh phi_x,        K = A / T + c

    A is the adjacency matrix of the periodic lattice. The constant c makes the smallest eigenvalue of K 0.1.
    By the Gaussian integral `exp(s . K . s / 2)` the field is `phi = K s + noise of covariance K` for spins
    of the Ising model, and given the field the spins are independent, with means `tanh phi_x`. Averages of
    spins on different sites are therefore averages of fields, `<s_x s_y> = <tanh phi_x tanh phi_y>`, and

        log Z = log Z_spins + c V / 2 + log det(2 pi K) / 2 - V log 2.

    `equiflow.oracles.ising_torus` knows log Z on every square lattice, also at the critical temperature
    `CRITICAL_TEMPERATURE`. Along a side of 2 two links join a pair of sites, and along a side of 1 a link
    joins a site with itself.

    Args:
        lattice: any dimension, any sides.
        T: temperature, > 0, in units of the coupling of two neighbours.

    Raises:
        TypeError: if `lattice` is not a `Lattice`, or T is not a number.
        ValueError: if T is not positive and finite.

    References:
        Zhang, Sutton, Storkey and Ghahramani, Advances in Neural Information Processing Systems 25 (2012).
        Li and Wang, arXiv:1802.02840.

    >>> action = ContinuousIsing(Lattice((4, 4)), T=CRITICAL_TEMPERATURE)
    >>> action(torch.zeros(1, 4, 4))
    tensor([0.])
    """

    #: 1 / K on the momenta of `Lattice.fft`, `(*half_shape)`
    _inverse: Tensor

    def __init__(self, lattice: Lattice, T: float) -> None:
        check_type(lattice, Lattice, "lattice", "Write Lattice((16, 16)).")
        check_type(T, (float, int), "T")
        super().__init__(lattice)
        self.T = check_positive(T, "T")
        self.register_buffer("_inverse", lattice.half(1 / self.eigenvalues()).contiguous(), False)

    def eigenvalues(self) -> Tensor:
        """Return the eigenvalues `K(p)` of the couplings on all momenta, `(*lattice)` in float64."""
        # Of A: 2 d - p^2, so that the smallest belongs to the largest momentum.
        squared = self.lattice.squared_momenta()
        return (squared.max() - squared) / self.T + SMALLEST_EIGENVALUE

    @property
    def shift(self) -> float:
        """The constant c of the couplings, `K = A / T + c`."""
        largest = float(self.lattice.squared_momenta().max())
        return SMALLEST_EIGENVALUE - (2 * self.lattice.dim - largest) / self.T

    def log_z_of_field(self) -> float:
        """Return `log Z - log Z_spins = c V / 2 + log det(2 pi K) / 2 - V log 2`."""
        volume = self.lattice.volume
        log_det = float(self.eigenvalues().log().sum()) + volume * LOG_2PI
        return (self.shift * volume + log_det) / 2 - volume * math.log(2)

    def forward(self, phi: Tensor) -> Tensor:
        """Return `S[phi]`, `(batch,)`."""
        size = phi.abs()
        # ln cosh without overflow.
        log_cosh = size + torch.log1p((-2 * size).exp()) - math.log(2)
        return (phi * self._solved(phi) / 2 - log_cosh).sum(self.lattice.axes)

    def grad(self, phi: Tensor) -> Tensor:
        """Return `dS/dphi = K^-1 phi - tanh phi`, shaped like `phi`."""
        self.space.check(phi)
        return self._solved(phi) - phi.tanh()

    def coupling_grad(self, phi: Tensor, name: str) -> Tensor:
        """See `Action.coupling_grad`: `dS/dT = [phi . K^-1 phi - 0.1 (K^-1 phi)^2] / 2 T`."""
        self.space.check(phi)
        if name != "T":
            raise ValueError(f"{type(self).__name__} has the coupling T, not {name!r}.")
        # dK/dT = -(K - 0.1) / T: the smallest eigenvalue stays.
        solved = self._solved(phi)
        change = solved * (phi - SMALLEST_EIGENVALUE * solved)
        return change.sum(self.lattice.axes) / (2 * self.T)

    def spins(self, phi: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw spins given the field: they are independent, with means `tanh phi_x`.

        Args:
            phi: fields, `(batch, *lattice)`.
            generator: source of randomness, on the device of `phi`; the global one by default.

        Returns:
            Spins of 1 and -1, shaped like `phi`.
        """
        self.space.check(phi)
        uniform = torch.rand(phi.shape, generator=generator, dtype=phi.dtype, device=phi.device)
        return torch.where(uniform < (2 * phi).sigmoid(), 1.0, -1.0).to(phi)

    def fields(self, spins: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw fields given the spins: `K s`, and noise of covariance K.

        Spins of the Ising model give fields of this action.

        Args:
            spins: 1 or -1, `(batch, *lattice)`.
            generator: source of randomness, on the device of `spins`; the global one by default.

        Returns:
            Fields, shaped like `spins`.
        """
        self.space.check(spins, "spins")
        noise = torch.randn(spins.shape, generator=generator, dtype=spins.dtype, device=spins.device)
        k = 1 / self._inverse.to(spins)
        return self.lattice.ifft(self.lattice.fft(spins) * k + self.lattice.fft(noise) * k.sqrt())

    def _solved(self, phi: Tensor) -> Tensor:
        """Return `K^-1 phi`, shaped like `phi`."""
        return self.lattice.ifft(self.lattice.fft(phi) * self._inverse.to(phi))

    def extra_repr(self) -> str:
        """Return shape and temperature, for `repr`."""
        return f"shape={self.space.shape}, T={self.T}"
