"""The Haar measure of links, from which flows of gauge theories start."""

from __future__ import annotations

import torch
from torch import Tensor

from equiflow.runtime.checks import check_type
from equiflow.theories.base.group import Group
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.prior import Prior
from equiflow.theories.base.resizing import check_resizable
from equiflow.theories.gauge.links import Links


class HaarPrior(Prior):
    """Independent links, each distributed by the Haar measure: any gauge theory at `beta = 0`.

    Its density is one, `log q = 0`, because densities of links are with respect to the Haar measure.

    Args:
        links: `Links(lattice, group)`.
        group: by default the largest one, see `GaugeGroup`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the group acts on other links.
    """

    space: Links

    def __init__(self, links: Links, *, group: Group | None = None) -> None:
        check_type(links, Links, "links", 'Write Links(Lattice((16, 16)), "U(1)").')
        super().__init__(links, group=group)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the noise behind one sample, `(direction, *lattice, ...)`."""
        lattice = self.space.lattice
        return (lattice.dim, *lattice.shape, *self.space.lie.noise_shape)

    def colour(self, noise: Tensor) -> Tensor:
        """Turn white noise `(batch, *noise_shape)` into links, see `LieGroup.from_noise`."""
        return self.space.lie.from_noise(noise)

    def whiten(self, z: Tensor) -> Tensor:
        """Return noise that `colour` turns into the links `z`."""
        return self.space.lie.to_noise(self.space.check(z, "z"))

    def log_prob(self, z: Tensor) -> Tensor:
        """Return zeros, `(batch,)`: the density with respect to the Haar measure is one."""
        z = self.space.check(z, "z")
        # A sum of zeros, so that it depends on z as far as autograd is concerned.
        return (0.0 * (z.real if z.is_complex() else z)).flatten(1).sum(1)

    def score(self, z: Tensor) -> Tensor:
        """Return zeros, `(batch, *tangent_shape)`."""
        z = self.space.check(z, "z")
        dtype = z.real.dtype if z.is_complex() else z.dtype
        return torch.zeros((len(z), *self.space.tangent_shape), dtype=dtype, device=z.device)

    def resized(self, lattice: Lattice) -> HaarPrior:
        """Return the Haar measure on another lattice."""
        check_resizable(self.lattice, lattice)
        links = self.space.on(lattice)
        prior = HaarPrior(links, group=self.group.on(links))
        return prior.to(self.device, self.dtype)
