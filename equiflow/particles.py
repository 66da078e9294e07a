"""Particles in a harmonic trap that repel each other, and the Gaussian that their flows start from."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from equiflow.actions import Action
from equiflow.group import Group
from equiflow.orthogonal import EuclideanGroup
from equiflow.priors import LOG_2PI, PRIORS, Prior, default_prior
from equiflow.space import Particles, check_type


class CoulombGas(Action):
    r"""Classical charges in a trap, `S = beta H` with `H = sum_{i<j} 1 / |x_i - x_j| + sum_i x_i^2 / 2`.

    `Z = int d^{Nd}x exp(-beta H)` counts particles as distinguishable and has no momenta. The centre of
    mass X decouples: it is Gaussian with variance `1 / (beta N)` on each axis, and
    `d log Z / d beta = -<H>`.

    Args:
        particles: `Particles(N, dim)`.
        beta: inverse temperature, > 0.

    Raises:
        ValueError: if beta is not positive and finite.

    >>> gas = CoulombGas(Particles(2, 3), beta=2.0)
    >>> gas(torch.tensor([[[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]]))
    tensor([3.])
    """

    space: Particles

    def __init__(self, particles: Particles, *, beta: float) -> None:
        check_type(particles, Particles, "particles", "Write Particles(6, dim=2).")
        super().__init__(particles)
        self.beta = _positive(beta, "beta")

    def forward(self, x: Tensor) -> Tensor:
        """`beta H`, `(batch,)`; infinite where two particles meet."""
        return self.beta * self.hamiltonian(x)

    def hamiltonian(self, x: Tensor) -> Tensor:
        """`H` of positions `(batch, particle, dim)`, `(batch,)`."""
        self.space.check(x, "x")
        i, j = self._pairs(x)
        repulsion = 1 / (x[:, i] - x[:, j]).norm(dim=-1)
        return repulsion.sum(-1) + 0.5 * x.square().sum((-2, -1))

    def grad(self, x: Tensor) -> Tensor:
        """`beta (x_i - sum_j (x_i - x_j) / |x_i - x_j|^3)`, shaped like `x`."""
        self.space.check(x, "x")
        i, j = self._pairs(x)
        difference = x[:, i] - x[:, j]
        push = difference / difference.norm(dim=-1, keepdim=True) ** 3
        return self.beta * x.index_add(1, i, -push).index_add(1, j, push)

    def coupling_grad(self, x: Tensor, name: str) -> Tensor:
        """`dS/dbeta = H`, `(batch,)`."""
        if name != "beta":
            raise ValueError(f"{type(self).__name__} has the coupling beta, not {name!r}.")
        return self.hamiltonian(x)

    def extra_repr(self) -> str:
        """Couplings, for `repr`."""
        return f"shape={self.space.shape}, beta={self.beta}"

    def _pairs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        i, j = torch.triu_indices(self.space.number, self.space.number, 1, device=x.device)
        return i, j


class TrappedGaussian(Prior):
    r"""Gaussian particles about a centre of mass distributed as in a trap, `X ~ N(0, 1 / (beta N))`.

    `z_i = sigma (n_i - mean n) + mean(n) / sqrt(beta)` with white noise n. In `H = V(x_i - x_j) + sum_i
    x_i^2 / 2` the centre of mass decouples; with the beta of the action it is exact, and a
    translation-invariant velocity without net momentum leaves it alone. Another beta costs ESS, not
    correctness.

    Args:
        particles: `Particles(N, dim)`.
        beta: inverse temperature of the centre of mass.
        width: sigma at the start; it is learned.
        group: by default permutations x O(dim).

    Raises:
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
        self.beta = _positive(beta, "beta")
        self.width = _positive(width, "width")
        self.log_sigma = nn.Parameter(torch.tensor(math.log(self.width), dtype=torch.get_default_dtype()))

    @property
    def _n_relative(self) -> int:
        return self.space.size - self.space.dim

    def colour(self, noise: Tensor) -> Tensor:
        """`sigma (n_i - mean n) + mean(n) / sqrt(beta)`."""
        centre = noise.mean(-2, keepdim=True)
        return self.log_sigma.exp() * (noise - centre) + centre / math.sqrt(self.beta)

    def log_prob(self, z: Tensor) -> Tensor:
        """Sum over `(N - 1) dim` relative coordinates and the `dim` of `sqrt(N) X`, `(batch,)`."""
        self.space.check(z, "z")
        quadratic = 0.5 * (z * self.score(z)).sum((-2, -1))
        log_det = self._n_relative * self.log_sigma - 0.5 * self.space.dim * math.log(self.beta)
        return quadratic - log_det - 0.5 * self.space.size * LOG_2PI

    def score(self, z: Tensor) -> Tensor:
        """`-(z_i - X) / sigma^2 - beta X`, shaped like `z`."""
        self.space.check(z, "z")
        centre = z.mean(-2, keepdim=True)
        return -(z - centre) * (-2 * self.log_sigma).exp() - self.beta * centre

    @torch.no_grad()
    def parameter_score(self, z: Tensor) -> Tensor:
        """`sum_i (z_i - X)^2 / sigma^2 - (N - 1) dim`, see `Prior.parameter_score`."""
        if not self.log_sigma.requires_grad:
            return z.new_zeros(len(z), 0)
        relative = (z - z.mean(-2, keepdim=True)).square().sum((-2, -1))
        return (relative * (-2 * self.log_sigma).exp() - self._n_relative)[:, None]

    def config(self) -> dict[str, object]:
        """See `Prior.config`."""
        return {"beta": self.beta, "width": self.width}


PRIORS["TrappedGaussian"] = TrappedGaussian


@default_prior.register(Particles)
def _(space: Particles, group: Group) -> Prior:
    return TrappedGaussian(space)  # the field's group has translations, which a trap breaks


def _positive(value: float, name: str) -> float:
    """The value as a float if it is a positive, finite number, else raise."""
    check_type(value, (float, int), name)
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}.")
    return float(value)
