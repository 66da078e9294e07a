"""The XY model, and the uniform density of angles that its flows start from."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiflow.actions import Action
from equiflow.group import Group
from equiflow.lattice import Angles, Lattice, check_type
from equiflow.priors import LOG_2PI, PRIORS, Prior, default_prior
from equiflow.resizing import check_resizable


class XYModel(Action):
    r"""`S = -beta sum_{x, mu} cos(theta(x + mu) - theta(x))` in any number of dimensions.

    `Z = int prod_x d theta_x exp(-S)` over a turn of each angle. A side of 2 has two links between the
    same sites, a side of 1 a link from a site to itself.

    Args:
        angles: `Angles(lattice)`.
        beta: coupling, finite. In two dimensions vortices unbind below 1.1199 (Kosterlitz and Thouless).

    >>> action = XYModel(Angles(Lattice((4, 4))), beta=0.5)
    >>> action(torch.zeros(1, 4, 4))
    tensor([-16.])
    """

    space: Angles

    def __init__(self, angles: Angles, *, beta: float) -> None:
        check_type(angles, Angles, "angles", "Write Angles(Lattice((16, 16))).")
        super().__init__(angles)
        check_type(beta, (float, int), "beta")
        if not math.isfinite(beta):
            raise ValueError(f"beta must be finite, got {beta}.")
        self.beta = float(beta)

    def forward(self, theta: Tensor) -> Tensor:
        """`S[theta]`, `(batch,)`."""
        return self.beta * self.coupling_grad(theta, "beta")

    def grad(self, theta: Tensor) -> Tensor:
        """`beta sum_y sin(theta_x - theta_y)` over the neighbours y of x, shaped like `theta`."""
        self.space.check(theta, "theta")
        pull = torch.zeros_like(theta)
        for mu in self.lattice.axes:
            link = (theta.roll(-1, mu) - theta).sin()
            pull += link.roll(1, mu) - link
        return self.beta * pull

    def coupling_grad(self, theta: Tensor, name: str) -> Tensor:
        """`dS/dbeta = -sum_{x, mu} cos(theta(x + mu) - theta(x))`, `(batch,)`."""
        if name != "beta":
            raise ValueError(f"{type(self).__name__} has the coupling beta, not {name!r}.")
        self.space.check(theta, "theta")
        links = sum((theta.roll(-1, mu) - theta).cos() for mu in self.lattice.axes)
        assert isinstance(links, Tensor)
        return -links.sum(self.lattice.axes)

    def extra_repr(self) -> str:
        """Couplings, for `repr`."""
        return f"shape={self.space.shape}, beta={self.beta}"


class UniformAngles(Prior):
    """Independent angles without a preferred direction, `q(theta) = (2 pi)^-V`: the density for `beta = 0`.

    It is the same at every angle, also outside of [-pi, pi).

    Args:
        angles: `Angles(lattice)`.
        group: by default translations x the full point group x O(2).
    """

    space: Angles

    def __init__(self, angles: Angles, *, group: Group | None = None) -> None:
        check_type(angles, Angles, "angles", "Write Angles(Lattice((16, 16))).")
        super().__init__(angles, group=group)

    def colour(self, noise: Tensor) -> Tensor:
        """`pi erf(noise / sqrt 2)`, the distribution function of the noise stretched to [-pi, pi]."""
        return math.pi * torch.erf(noise / math.sqrt(2))

    def whiten(self, z: Tensor) -> Tensor:
        """The noise that `colour` makes angles of that are `z` up to full turns."""
        # Within rounding of the seam the noise would be infinite.
        edge = 1 - torch.finfo(z.dtype).eps
        part = self.space.nearest(self.space.check(z, "z")) / math.pi
        return math.sqrt(2) * torch.erfinv(part.clamp(-edge, edge))

    def log_prob(self, z: Tensor) -> Tensor:
        """`-V log 2 pi`, `(batch,)`."""
        return -LOG_2PI * torch.ones_like(self.space.check(z, "z")).sum(self.space.event_axes)

    def score(self, z: Tensor) -> Tensor:
        """Zero, shaped like `z`."""
        return torch.zeros_like(self.space.check(z, "z"))

    def resized(self, lattice: Lattice) -> UniformAngles:
        """The same density per site."""
        check_resizable(self.lattice, lattice)
        angles = Angles(lattice)
        prior = UniformAngles(angles, group=self.group.on(angles))
        return prior.to(self.device, self.dtype)


PRIORS["UniformAngles"] = UniformAngles


@default_prior.register(Angles)
def _(space: Angles, group: Group) -> Prior:
    return UniformAngles(space, group=group)
