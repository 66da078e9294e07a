"""Potential energies of mechanical systems with known modes: a harmonic chain, and a particle on a ring.

The sites of a lattice are degrees of freedom. With momenta they become the target of a `CanonicalFlow`, see
`Hamiltonian`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiflow.runtime.checks import check_positive, check_type
from equiflow.theories.base.action import Action
from equiflow.theories.base.lattice import Lattice


class HarmonicChain(Action):
    r"""Unit masses on a line joined by unit springs, `V = sum (q_{i+1} - q_i)^2 / 2 + pinning sum q_i^2 / 2`.

    Fixed ends are springs to walls, `q_0 = q_{n+1} = 0`, and the frequencies are
    `omega_k = 2 sin(k pi / (2 (n + 1)))`. With periodic ends, `q_{n+1} = q_1`, they are `2 |sin(k pi / n)|`,
    and all but the lowest and, for even n, the highest come in pairs. Pinning adds to `omega^2`. With
    periodic ends it must be positive: without it the centre of mass is free and has no equilibrium.

    Args:
        lattice: `Lattice((n,))`.
        ends: `"fixed"` or `"periodic"`.
        pinning: spring constant that binds each mass to its place, >= 0.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: for another lattice than a line, unknown ends, or a pinning that is negative, or zero with
            periodic ends.

    >>> chain = HarmonicChain(Lattice((2,)))
    >>> chain(torch.tensor([[1.0, 1.0]]))
    tensor([1.])
    >>> chain.frequencies()
    tensor([1.0000, 1.7321], dtype=torch.float64)
    """

    def __init__(self, lattice: Lattice, *, ends: str = "fixed", pinning: float = 0.0) -> None:
        check_type(lattice, Lattice, "lattice", "Write Lattice((n,)) for n masses.")
        super().__init__(lattice)
        if lattice.dim != 1:
            raise ValueError(f"A chain lies on a line, got the lattice {lattice.shape}; write Lattice((n,)).")
        if ends not in ("fixed", "periodic"):
            raise ValueError(f'ends is {ends!r}; expected "fixed" or "periodic".')
        check_type(pinning, (float, int), "pinning")
        if not 0 <= pinning < math.inf or (pinning == 0 and ends == "periodic"):
            raise ValueError(
                f"pinning is {pinning} with {ends} ends; expected a number >= 0, and > 0 with periodic ends, "
                "where the centre of mass would be free."
            )
        self.ends, self.pinning = ends, float(pinning)

    def forward(self, q: Tensor) -> Tensor:
        """Return `V` of each configuration `(batch, n)`, shape `(batch,)`."""
        self.space.check(q, "q")
        springs = self._stretches(q)[:, 0 if self.ends == "fixed" else 1 :]
        value: Tensor = 0.5 * (springs.square().sum(-1) + self.pinning * q.square().sum(-1))
        return value

    def grad(self, q: Tensor) -> Tensor:
        """Return `dV/dq_i = 2 q_i - q_{i-1} - q_{i+1} + pinning q_i`, shaped like `q`."""
        self.space.check(q, "q")
        stretches = self._stretches(q)
        return stretches[:, :-1] - stretches[:, 1:] + self.pinning * q

    def frequencies(self) -> Tensor:
        """Return the exact frequencies, ascending, `(n,)` in float64."""
        return self._wave_numbers()[1].sort().values

    def modes(self) -> Tensor:
        """Return orthonormal patterns of the modes in the order of `frequencies`, `(mode, n)` in float64."""
        waves, omega = self._wave_numbers()
        n, order = self.lattice.volume, omega.argsort(stable=True)
        sites = torch.arange(1, n + 1, dtype=torch.float64)
        # Real waves: sines that vanish at the walls, or cos + sin, which are orthonormal on a circle.
        angle = waves[:, None] * sites
        patterns = angle.sin() if self.ends == "fixed" else angle.cos() + angle.sin()
        norms: Tensor = patterns.norm(dim=1, keepdim=True)
        return (patterns / norms)[order]

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"n={self.lattice.volume}, ends={self.ends!r}, pinning={self.pinning}"

    def _stretches(self, q: Tensor) -> Tensor:
        """Return `q_{i+1} - q_i` for `i = 0 ... n`; the first and the last are one spring if periodic."""
        if self.ends == "fixed":
            wall = q.new_zeros(len(q), 1)
            return torch.cat([wall, q, wall], 1).diff(dim=1)
        return torch.cat([q[:, -1:], q, q[:, :1]], 1).diff(dim=1)

    def _wave_numbers(self) -> tuple[Tensor, Tensor]:
        """Return wave numbers and frequencies of all modes, `(n,)` each."""
        n = self.lattice.volume
        k = torch.arange(n, dtype=torch.float64)
        waves = (k + 1) * math.pi / (n + 1) if self.ends == "fixed" else 2 * math.pi * k / n
        return waves, (4 * (waves / 2).sin().square() + self.pinning).sqrt()


class RingPotential(Action):
    r"""A particle held near a circle in a plane, `V = (|q| - radius)^2 / (2 width^2)` (arXiv:1910.00024).

    It vibrates across the ring with the frequency `1 / width` and moves freely along it. With the defaults
    `V = (|q| - 2)^2 / 0.32`.

    Args:
        lattice: `Lattice((2,))`, the two coordinates.
        radius: of the ring.
        width: standard deviation of `|q|` at beta = 1, for a ring much larger than that.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: for another lattice, or numbers that are not positive and finite.

    >>> RingPotential(Lattice((2,)))(torch.tensor([[2.0, 0.0], [0.0, -2.4]]))
    tensor([0.0000, 0.5000])
    """

    def __init__(self, lattice: Lattice, *, radius: float = 2.0, width: float = 0.4) -> None:
        check_type(lattice, Lattice, "lattice", "Write Lattice((2,)).")
        super().__init__(lattice)
        if lattice.shape != (2,):
            raise ValueError(
                f"The ring lies in a plane, got the lattice {lattice.shape}; write Lattice((2,))."
            )
        self.radius, self.width = check_positive(radius, "radius"), check_positive(width, "width")

    def forward(self, q: Tensor) -> Tensor:
        """Return `V` of each point `(batch, 2)`, shape `(batch,)`."""
        self.space.check(q, "q")
        distance: Tensor = q.norm(dim=-1)
        return 0.5 * ((distance - self.radius) / self.width).square()

    def grad(self, q: Tensor) -> Tensor:
        """Return `dV/dq = (1 - radius / |q|) q / width^2`, shaped like `q`; zero at the origin."""
        self.space.check(q, "q")
        distance: Tensor = q.norm(dim=-1, keepdim=True)
        direction = q / distance.clamp(min=torch.finfo(q.dtype).tiny)
        return (distance - self.radius) / self.width**2 * direction

    def log_z(self, beta: float = 1.0) -> float:
        """Return `log int d^2q exp(-beta V)`, in closed form.

        `Z = 2 pi [s^2 exp(-R^2 / 2 s^2) + R s sqrt(pi/2) (1 + erf(R / (s sqrt 2)))]` with
        `s = width / sqrt(beta)`.
        """
        s = self.width / math.sqrt(check_positive(beta, "beta"))
        ratio = self.radius / s
        tail = math.exp(-0.5 * ratio**2) + ratio * math.sqrt(math.pi / 2) * (
            1 + math.erf(ratio / math.sqrt(2))
        )
        return math.log(2 * math.pi * s**2 * tail)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"radius={self.radius}, width={self.width}"
