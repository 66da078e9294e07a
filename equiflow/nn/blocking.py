"""Steps between scales: `Blocking` embeds the fields on a lattice of half the sides."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiflow.runtime.constants import RoundedConstants
from equiflow.theories.base.lattice import Lattice


class Blocking:
    r"""An orthogonal embedding E of the fields on a lattice of half the sides, `E^T E = 1`.

        (E chi)_x = sum_y h(x - 2y) chi_y,        h(k) = sqrt 2 cos(pi / 2 nu(3 |k| / pi - 1)) along each axis

    It is the scaling function of Meyer's wavelets: h passes the momenta up to pi / 3, none from 2 pi / 3 on,
    and its smooth edge makes it fall off fast in space. `E^T phi` is a smooth block average, and
    `phi - E E^T phi` is what the lattice of half the sides cannot hold. Site y of the coarse lattice lies on
    the site 2y of the fine one, and h is even. So E commutes with translations by an even number of sites and
    with every point group about the site 0, but with no other translations.

    Args:
        lattice: the fine lattice, with even sides.

    Raises:
        ValueError: if a side is odd.

    References:
        Daubechies, Ten Lectures on Wavelets (1992), section 4.2.
    """

    def __init__(self, lattice: Lattice) -> None:
        if any(side % 2 for side in lattice.shape):
            raise ValueError(
                f"A coarser lattice needs even sides, got lattice {lattice.shape}. Take sides that are "
                "multiples of 2 to the power of the steps, such as Lattice((16, 16))."
            )
        self.fine = lattice
        self.coarse = Lattice(tuple(side // 2 for side in lattice.shape))
        self._constants = RoundedConstants()

    def restrict(self, phi: Tensor) -> Tensor:
        """Return `E^T phi` on the coarse lattice, `(batch, *coarse)`."""
        for axis, along in zip(self.fine.axes, self._along(phi), strict=True):
            phi = torch.tensordot(phi, along, ([axis], [0])).movedim(-1, axis)
        return phi

    def prolong(self, chi: Tensor) -> Tensor:
        """Return `E chi` on the fine lattice, `(batch, *fine)`."""
        for axis, along in zip(self.fine.axes, self._along(chi), strict=True):
            chi = torch.tensordot(chi, along, ([axis], [1])).movedim(-1, axis)
        return chi

    def passed(self) -> Tensor:
        """Return the part of the power of each momentum that E passes, `(*fine)` in float64, 0 to 1."""
        share = torch.ones((), dtype=torch.float64)
        for axis, side in zip(self.fine.axes, self.fine.shape, strict=True):
            share = share * (_filter(side).square() / 2).reshape(-1, *(1,) * (-axis - 1))
        return share

    def _along(self, tensor: Tensor) -> list[Tensor]:
        """Return the factor of E for each axis, `(side, side / 2)`."""
        return self._constants.like(tensor, lambda: [_isometry(side) for side in self.fine.shape])


def _filter(side: int) -> Tensor:
    """Return `h(k)` on the momenta of an axis, `(side,)`; `h(k)^2 + h(k + pi)^2 = 2`."""
    momentum = 2 * math.pi * torch.fft.fftfreq(side, dtype=torch.float64)
    x = (3 * momentum.abs() / math.pi - 1).clamp(0, 1)
    step = x**4 * (35 - 84 * x + 70 * x**2 - 20 * x**3)  # nu(x) + nu(1 - x) = 1
    return math.sqrt(2) * (math.pi / 2 * step).cos()


def _isometry(side: int) -> Tensor:
    """Return `h(x - 2y)` for the sites x and y of an axis, `(side, side / 2)`."""
    kernel = torch.fft.ifft(_filter(side)).real
    site = torch.arange(side)
    return kernel[(site[:, None] - site[None, ::2]) % side]
