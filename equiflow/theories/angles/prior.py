"""The uniform density of angles, from which flows of the XY model start."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiflow.runtime.checks import check_type
from equiflow.theories.angles.space import Angles
from equiflow.theories.base.group import Group
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.prior import LOG_2PI, Prior
from equiflow.theories.base.resizing import check_resizable


class UniformAngles(Prior):
    """Independent uniform angles, `q(theta) = (2 pi)^-V`: the XY model at `beta = 0`.

    The density is the same at every angle, also outside of [-pi, pi).

    Args:
        angles: `Angles(lattice)`.
        group: by default translations x the full point group x O(2).

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the group acts on other angles.
    """

    space: Angles

    def __init__(self, angles: Angles, *, group: Group | None = None) -> None:
        check_type(angles, Angles, "angles", "Write Angles(Lattice((16, 16))).")
        super().__init__(angles, group=group)

    def colour(self, noise: Tensor) -> Tensor:
        """Return `pi erf(noise / sqrt 2)`, the distribution function of the noise stretched to [-pi, pi]."""
        return math.pi * torch.erf(noise / math.sqrt(2))

    def whiten(self, z: Tensor) -> Tensor:
        """Return noise that `colour` turns into the angles `z`, up to full turns."""
        # Closer to -pi or pi than rounding the noise would be infinite.
        edge = 1 - torch.finfo(z.dtype).eps
        part = self.space.nearest(self.space.check(z, "z")) / math.pi
        return math.sqrt(2) * torch.erfinv(part.clamp(-edge, edge))

    def log_prob(self, z: Tensor) -> Tensor:
        """Return `-V log 2 pi`, `(batch,)`."""
        return -LOG_2PI * torch.ones_like(self.space.check(z, "z")).sum(self.space.event_axes)

    def score(self, z: Tensor) -> Tensor:
        """Return zeros, shaped like `z`."""
        return torch.zeros_like(self.space.check(z, "z"))

    def resized(self, lattice: Lattice) -> UniformAngles:
        """Return the same density per site on another lattice."""
        check_resizable(self.lattice, lattice)
        angles = Angles(lattice)
        prior = UniformAngles(angles, group=self.group.on(angles))
        return prior.to(self.device, self.dtype)
