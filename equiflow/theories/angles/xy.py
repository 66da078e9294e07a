"""The action of the XY model."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiflow.runtime.checks import check_type
from equiflow.theories.angles.space import Angles
from equiflow.theories.base.action import Action


class XYModel(Action):
    r"""The XY model, `S = -beta sum_{x, mu} cos(theta(x + mu) - theta(x))`, in any number of dimensions.

    `Z = int prod_x d theta_x exp(-S)` over one turn of each angle. Along a side of 2 there are two links
    between the same sites, along a side of 1 a link from a site to itself.

    Args:
        angles: `Angles(lattice)`.
        beta: coupling, finite. In two dimensions vortices unbind below 1.1199 (Kosterlitz and Thouless).

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if beta is not finite.

    >>> from equiflow import Lattice
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
        """Return `S[theta]`, `(batch,)`."""
        return self.beta * self.coupling_grad(theta, "beta")

    def grad(self, theta: Tensor) -> Tensor:
        """Return `beta sum_y sin(theta_x - theta_y)` over the neighbours y of x, shaped like `theta`."""
        self.space.check(theta, "theta")
        pull = torch.zeros_like(theta)
        for mu in self.lattice.axes:
            link = (theta.roll(-1, mu) - theta).sin()
            pull += link.roll(1, mu) - link
        return self.beta * pull

    def coupling_grad(self, theta: Tensor, name: str) -> Tensor:
        """See `Action.coupling_grad`: `dS/dbeta = -sum_{x, mu} cos(theta(x + mu) - theta(x))`."""
        if name != "beta":
            raise ValueError(f"{type(self).__name__} has the coupling beta, not {name!r}.")
        self.space.check(theta, "theta")
        links = sum((theta.roll(-1, mu) - theta).cos() for mu in self.lattice.axes)
        assert isinstance(links, Tensor)
        return -links.sum(self.lattice.axes)

    def extra_repr(self) -> str:
        """Return shape and coupling, for `repr`."""
        return f"shape={self.space.shape}, beta={self.beta}"
