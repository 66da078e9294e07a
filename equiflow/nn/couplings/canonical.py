"""Canonical layers `(q, p) -> (q', p')`: maps of positions and momenta that keep `dq ^ dp`.

`J^T Omega J = Omega` for the Jacobian J of a layer, so its determinant is one. Every layer here is canonical
for all values of its weights, to rounding, and has an inverse in closed form. Start at `LinearPointLayer`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from equiflow.nn.couplings.phase_space import MAX_LOG_SCALE
from equiflow.runtime.checks import check_count, check_type
from equiflow.runtime.options import RecordsOptions
from equiflow.theories.base.lattice import Lattice


class CanonicalLayer(RecordsOptions, nn.Module, ABC):
    """An invertible map of positions and momenta that keeps the Poisson brackets.

    A subclass fills in `forward` and `inverse`, and keeps its other options as keywords of its constructor.

    Args:
        lattice: where positions and momenta live; its sites are the degrees of freedom.

    Raises:
        TypeError: if `lattice` is not a `Lattice`.
    """

    def __init__(self, lattice: Lattice) -> None:
        super().__init__()
        check_type(lattice, Lattice, "lattice", "Write Lattice((n,)) for n degrees of freedom.")
        self.lattice = lattice

    @abstractmethod
    def forward(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """Map latent positions and momenta towards the physical ones.

        Args:
            q: positions, `(batch, *lattice)`.
            p: momenta, `(batch, *lattice)`.

        Returns:
            New positions and momenta, `(batch, *lattice)` each.
        """

    @abstractmethod
    def inverse(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `forward`.

        Args:
            q: positions, `(batch, *lattice)`.
            p: momenta, `(batch, *lattice)`.

        Returns:
            The positions and momenta that `forward` maps to these, `(batch, *lattice)` each.
        """

    def extra_repr(self) -> str:
        """Return what `repr` shows besides the modules."""
        return ", ".join(f"{name}={value}" for name, value in self.config().items())

    def _square(self) -> nn.Parameter:
        """Return a new matrix of zeros that acts on all sites, `(V, V)`."""
        return nn.Parameter(torch.zeros(self.lattice.volume, self.lattice.volume))

    def _as(self, flat: Tensor, like: Tensor) -> Tensor:
        """Return vectors `(batch, V)` in the shape of a field."""
        return flat.reshape(like.shape)


class LinearPointLayer(CanonicalLayer):
    r"""The linear point transformation `q' = W q + b`, `p' = W^{-T} p`.

    `W = exp(S) exp(A)` with a symmetric S and an antisymmetric A, the polar form of every matrix with a
    positive determinant. `W^{-T} = exp(-S) exp(A)` needs no inversion. New positions depend on positions
    alone, so its modes are patterns of displacement. A new layer is the identity.

    Two such layers in a row learn the modes of many sites much faster than one. While the first one is close
    to the identity, each number of its A turns one pair of oscillators into each other, so that Adam finds a
    step of its own for each pair; the differences of frequencies that drive them have all sizes.

    Args:
        lattice: where positions and momenta live.

    >>> layer = LinearPointLayer(Lattice((3,)))
    >>> q, p = layer(torch.ones(1, 3), torch.zeros(1, 3))
    >>> q
    tensor([[1., 1., 1.]], grad_fn=<ViewBackward0>)
    """

    def __init__(self, lattice: Lattice) -> None:
        super().__init__(lattice)
        self.stretch = self._square()
        self.turn = self._square()
        self.shift = nn.Parameter(torch.zeros(lattice.volume))

    def forward(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """See `CanonicalLayer.forward`."""
        of_q, of_p = self._matrices()
        return self._as(q.flatten(1) @ of_q.T + self.shift, q), self._as(p.flatten(1) @ of_p.T, p)

    def inverse(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """See `CanonicalLayer.inverse`."""
        of_q, of_p = self._matrices()  # W^-1 is the transpose of W^-T
        return self._as((q.flatten(1) - self.shift) @ of_p, q), self._as(p.flatten(1) @ of_q, p)

    def _matrices(self) -> tuple[Tensor, Tensor]:
        """Return W and `W^-T`."""
        symmetric, turn = _symmetric(self.stretch), torch.linalg.matrix_exp(self.turn - self.turn.T)
        return torch.linalg.matrix_exp(symmetric) @ turn, torch.linalg.matrix_exp(-symmetric) @ turn


class LinearCanonicalLayer(CanonicalLayer):
    r"""Every linear canonical map: `M = [[1, 0], [C, 1]] [[e^S, 0], [0, e^-S]] [[X, Y], [-Y, X]]`.

    C and S are symmetric, and `X + iY = exp(i (K + iA))` is unitary, with a symmetric K and an antisymmetric
    A. This is the Iwasawa form of a symplectic matrix. Each of them has exactly one, with `n (2n + 1)` free
    numbers for n degrees of freedom. A new layer is the identity. Use it where momenta and positions mix, as
    in a magnetic field or a rotating frame; elsewhere `LinearPointLayer` has the simpler modes.

    Args:
        lattice: where positions and momenta live.
    """

    def __init__(self, lattice: Lattice) -> None:
        super().__init__(lattice)
        self.kick = self._square()
        self.stretch = self._square()
        self.phase = self._square()
        self.turn = self._square()
        self.shift = nn.Parameter(torch.zeros(2, lattice.volume))

    def forward(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """See `CanonicalLayer.forward`."""
        new = torch.cat([q.flatten(1), p.flatten(1)], 1) @ self._rotation().T
        new_q, new_p = new.chunk(2, 1)
        symmetric = _symmetric(self.stretch)
        new_q = new_q @ torch.linalg.matrix_exp(symmetric)
        new_p = new_p @ torch.linalg.matrix_exp(-symmetric) + new_q @ _symmetric(self.kick)
        return self._as(new_q + self.shift[0], q), self._as(new_p + self.shift[1], p)

    def inverse(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """See `CanonicalLayer.inverse`."""
        new_q, new_p = q.flatten(1) - self.shift[0], p.flatten(1) - self.shift[1]
        symmetric = _symmetric(self.stretch)
        new_p = (new_p - new_q @ _symmetric(self.kick)) @ torch.linalg.matrix_exp(symmetric)
        new_q = new_q @ torch.linalg.matrix_exp(-symmetric)
        back_q, back_p = (torch.cat([new_q, new_p], 1) @ self._rotation()).chunk(2, 1)
        return self._as(back_q, q), self._as(back_p, p)

    def _rotation(self) -> Tensor:
        """Return `[[X, Y], [-Y, X]]`, orthogonal and symplectic."""
        phase, turn = _symmetric(self.phase), self.turn - self.turn.T
        rows = torch.cat([-turn, phase], 1), torch.cat([-phase, -turn], 1)
        return torch.linalg.matrix_exp(torch.cat(rows))


class HamiltonianLayer(CanonicalLayer):
    r"""The motion in a learned Hamiltonian `H = U(q) + T(p)` for one unit of time, by leapfrog steps.

    `U(q) = sum_f a_f log cosh(k_f q + b_f)`, and T likewise. Sums of this form approximate any smooth
    function, so layers in a row approximate any canonical map (arXiv:2001.03750). A step of size h,
    `p -> p - h/2 grad U`, `q -> q + h grad T`, `p -> p - h/2 grad U`, is canonical however large it is, and a
    step of size -h undoes it. A new layer is the identity.

    Args:
        lattice: where positions and momenta live.
        n_features: number of ridges in each of U and T.
        n_steps: number of leapfrog steps.

    Raises:
        TypeError: if a count is no integer.
        ValueError: if a count is smaller than 1.
    """

    def __init__(self, lattice: Lattice, *, n_features: int = 32, n_steps: int = 4) -> None:
        super().__init__(lattice)
        check_count(n_features, "n_features")
        self.n_steps = check_count(n_steps, "n_steps")
        self.potential = RidgeFunction(lattice.volume, n_features)
        self.kinetic = RidgeFunction(lattice.volume, n_features)

    def forward(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """See `CanonicalLayer.forward`."""
        return self._moved(q, p, 1 / self.n_steps)

    def inverse(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """See `CanonicalLayer.inverse`."""
        return self._moved(q, p, -1 / self.n_steps)

    def hamiltonian(self, q: Tensor, p: Tensor) -> Tensor:
        """Return `U(q) + T(p)`, which the steps conserve up to their square.

        Args:
            q: positions, `(batch, *lattice)`.
            p: momenta, `(batch, *lattice)`.

        Returns:
            `(batch,)`.
        """
        value: Tensor = self.potential(q.flatten(1)) + self.kinetic(p.flatten(1))
        return value

    def _moved(self, q: Tensor, p: Tensor, step: float) -> tuple[Tensor, Tensor]:
        """Return positions and momenta after all steps."""
        new_q, new_p = q.flatten(1), p.flatten(1)
        for _ in range(self.n_steps):
            new_p = new_p - 0.5 * step * self.potential.gradient(new_q)
            new_q = new_q + step * self.kinetic.gradient(new_p)
            new_p = new_p - 0.5 * step * self.potential.gradient(new_q)
        return self._as(new_q, q), self._as(new_p, p)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


class CouplingPointLayer(CanonicalLayer):
    r"""The point transformation of RealNVP: `q_a' = e^{s(q_b)} q_a + t(q_b)` for every other site a.

    The momenta follow in closed form: `p_a' = e^{-s} p_a`, `p_b' = p_b - (ds/dq_b)^T (p_a q_a) -
    (dt/dq_b)^T p_a'`. s and t are networks with one hidden layer, and tanh bounds s. Layers of both parities
    in turn move all sites. For a few degrees of freedom they are much faster than the `PointTransformation`
    by a `CouplingFlow`, whose networks are convolutions. A new layer is the identity.

    Args:
        lattice: where positions and momenta live, with two sites or more.
        parity: the sites that move, 0 for sites 0, 2, ..., 1 for sites 1, 3, ...
        n_features: width of the hidden layer.

    Raises:
        TypeError: if a number is no integer.
        ValueError: if the lattice has one site only, or a number is out of range.
    """

    def __init__(self, lattice: Lattice, *, parity: int = 0, n_features: int = 32) -> None:
        super().__init__(lattice)
        if check_count(parity, "parity", minimum=0) > 1 or lattice.volume < 2:
            raise ValueError(
                f"A coupling needs two sites or more and the parity 0 or 1, got {lattice.volume} sites and "
                f"parity={parity}."
            )
        self.parity = parity
        n_features = check_count(n_features, "n_features")
        n_moved = len(range(parity, lattice.volume, 2))
        self.hidden = nn.Linear(lattice.volume - n_moved, n_features)
        self.outer = nn.Linear(n_features, 2 * n_moved)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """See `CanonicalLayer.forward`."""
        (q_a, q_b), (p_a, p_b) = self._halves(q), self._halves(p)
        log_scale, shift, pull = self._networks(q_b)
        new_p = p_a * (-log_scale).exp()
        p_b = p_b - pull(p_a * q_a, new_p)
        return self._whole(q_a * log_scale.exp() + shift, q_b, q), self._whole(new_p, p_b, p)

    def inverse(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """See `CanonicalLayer.inverse`."""
        (new_q, q_b), (new_p, p_b) = self._halves(q), self._halves(p)
        log_scale, shift, pull = self._networks(q_b)
        q_a, p_a = (new_q - shift) * (-log_scale).exp(), new_p * log_scale.exp()
        return self._whole(q_a, q_b, q), self._whole(p_a, p_b + pull(p_a * q_a, new_p), p)

    def _networks(self, q_b: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor, Tensor], Tensor]]:
        """Return s, t and `(u, v) -> (ds/dq_b)^T u + (dt/dq_b)^T v`."""
        hidden = torch.tanh(self.hidden(q_b))
        raw, shift = self.outer(hidden).chunk(2, 1)
        bounded = torch.tanh(raw / MAX_LOG_SCALE)

        def pull(of_scale: Tensor, of_shift: Tensor) -> Tensor:
            outer = torch.cat([of_scale * (1 - bounded.square()), of_shift], 1) @ self.outer.weight
            product: Tensor = (outer * (1 - hidden.square())) @ self.hidden.weight
            return product

        return MAX_LOG_SCALE * bounded, shift, pull

    def _halves(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sites that move and the others, `(batch, site)` each."""
        flat = field.flatten(1)
        return flat[:, self.parity :: 2], flat[:, 1 - self.parity :: 2]

    def _whole(self, moved: Tensor, still: Tensor, like: Tensor) -> Tensor:
        """Undo `_halves`."""
        flat = torch.empty_like(like.flatten(1))
        flat[:, self.parity :: 2], flat[:, 1 - self.parity :: 2] = moved, still
        return self._as(flat, like)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


class RidgeFunction(nn.Module):
    """A sum of ridges `F(x) = sum_f a_f log cosh(k_f x + b_f)`, whose gradient is known.

    Args:
        size: length of x.
        n_features: number of ridges.
    """

    def __init__(self, size: int, n_features: int) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.randn(n_features, size) / math.sqrt(size))
        self.offset = nn.Parameter(torch.linspace(-2, 2, n_features))
        self.amplitude = nn.Parameter(torch.zeros(n_features))

    def forward(self, x: Tensor) -> Tensor:
        """Return `F(x)` of vectors `(batch, size)`, `(batch,)`."""
        ridge = (x @ self.direction.T + self.offset).abs()
        # log cosh without overflow
        return (ridge + torch.log1p(torch.exp(-2 * ridge)) - math.log(2)) @ self.amplitude

    def gradient(self, x: Tensor) -> Tensor:
        """Return `sum_f a_f k_f tanh(k_f x + b_f)`, shaped like `x`."""
        return (torch.tanh(x @ self.direction.T + self.offset) * self.amplitude) @ self.direction


def _symmetric(matrix: Tensor) -> Tensor:
    """Return `(M + M^T) / 2`."""
    return 0.5 * (matrix + matrix.T)
