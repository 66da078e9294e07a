"""The Gaussian from which flows of trapped particles, such as the Coulomb gas, start."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from equiflow.runtime.checks import check_positive, check_type
from equiflow.theories.base.group import Group
from equiflow.theories.base.prior import LOG_2PI, Prior
from equiflow.theories.base.space import Space
from equiflow.theories.particles.group import EuclideanGroup
from equiflow.theories.particles.space import Particles


class TrappedGaussian(Prior):
    r"""Gaussian particles about a centre of mass distributed as in a trap, `X ~ N(0, 1 / (beta N))`.

    `z_i = sigma (n_i - mean n) + mean(n) / sqrt(beta)` with white noise n. The centre of mass decouples in
    `H = V(x_i - x_j) + sum_i x_i^2 / 2`, and with the beta of the action its distribution is exact. A
    translation-invariant velocity without net momentum does not change it. Another beta costs effective
    samples, not correctness.

    Args:
        particles: `Particles(N, dim)`.
        beta: inverse temperature of the centre of mass.
        width: initial sigma; it is learned.
        group: by default permutations x O(dim).

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a number is not positive and finite, or the group has translations.
    """

    space: Particles

    def __init__(
        self, particles: Particles, *, beta: float = 1.0, width: float = 1.0, group: Group | None = None
    ) -> None:
        check_type(particles, Particles, "particles", "Write Particles(6, dim=2).")
        super().__init__(particles, group=group)
        if isinstance(self.group, EuclideanGroup) and self.group.translations:
            raise ValueError(
                f"A trapped Gaussian is not invariant under {self.group}; expected a group without "
                "translations, such as EuclideanGroup(particles)."
            )
        self.beta = check_positive(beta, "beta")
        self.width = check_positive(width, "width")
        self._record(beta=self.beta, width=self.width)
        self.log_sigma = nn.Parameter(torch.tensor(math.log(self.width), dtype=torch.get_default_dtype()))

    @classmethod
    def for_flow(cls, space: Space, group: Group) -> TrappedGaussian:
        """Return the default prior without the translations of `group`, which a trap breaks.

        Args:
            space: the particles.
            group: symmetry of the flow.

        Returns:
            A trapped Gaussian with `beta = 1` and width 1.

        Raises:
            TypeError: if `space` is not `Particles`.
        """
        check_type(space, Particles, "space")
        assert isinstance(space, Particles)
        return cls(space)

    @property
    def _n_relative(self) -> int:
        """Number of relative coordinates, `(N - 1) dim`."""
        return self.space.size - self.space.dim

    def colour(self, noise: Tensor) -> Tensor:
        """Return `sigma (n_i - mean n) + mean(n) / sqrt(beta)`."""
        centre = noise.mean(-2, keepdim=True)
        return self.log_sigma.exp() * (noise - centre) + centre / math.sqrt(self.beta)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density of `(N - 1) dim` relative coordinates and of `sqrt(N) X`, `(batch,)`."""
        self.space.check(z, "z")
        quadratic = 0.5 * (z * self.score(z)).sum((-2, -1))
        log_det = self._n_relative * self.log_sigma - 0.5 * self.space.dim * math.log(self.beta)
        return quadratic - log_det - 0.5 * self.space.size * LOG_2PI

    def score(self, z: Tensor) -> Tensor:
        """Return `-(z_i - X) / sigma^2 - beta X`, shaped like `z`."""
        self.space.check(z, "z")
        centre = z.mean(-2, keepdim=True)
        return -(z - centre) * (-2 * self.log_sigma).exp() - self.beta * centre

    @torch.no_grad()
    def parameter_score(self, z: Tensor) -> Tensor:
        """Return `sum_i (z_i - X)^2 / sigma^2 - (N - 1) dim`, see `Prior.parameter_score`."""
        if not self.log_sigma.requires_grad:
            return z.new_zeros(len(z), 0)
        relative = (z - z.mean(-2, keepdim=True)).square().sum((-2, -1))
        return (relative * (-2 * self.log_sigma).exp() - self._n_relative)[:, None]
