"""The space of identical particles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from equiflow.runtime.checks import check_count
from equiflow.runtime.randomness import check_draw
from equiflow.theories.base.space import Space


@dataclass(frozen=True)
class Particles(Space):
    """Positions of identical particles in Euclidean space.

    Configurations are `(batch, particle, dim)`.

    Args:
        number: number of particles.
        dim: dimension of the space in which they move.

    Raises:
        TypeError: if a number is not an integer.
        ValueError: if a number is smaller than 1.

    >>> Particles(6, dim=2).shape
    (6, 2)
    """

    kind: ClassVar[str] = "particles"
    number: int
    dim: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "number", check_count(self.number, "number"))
        object.__setattr__(self, "dim", check_count(self.dim, "dim"))

    @classmethod
    def of_shape(cls, shape: tuple[int, ...]) -> Particles:
        """See `Space.of_shape`."""
        return cls(*shape)

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Shape of one configuration, `(particle, dim)`."""
        return (self.number, self.dim)

    def initial(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """See `Space.initial`; particles are near the places of a compact grid of spacing 1, so none meet.

        Which particle has which place is random.
        """
        check_draw(generator, dtype)
        places = self._places().to(device, dtype)
        order = torch.rand(n, self.number, generator=generator, device=device).argsort(1)
        return places[order] + super().initial(n, generator, device=device, dtype=dtype)

    def _places(self) -> Tensor:
        """Return the points of a centred grid of spacing 1 nearest to the origin, `(particle, dim)`."""
        side = 1
        while side**self.dim < self.number:
            side += 1
        line = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
        grid = torch.stack(torch.meshgrid(*[line] * self.dim, indexing="ij"), -1).flatten(0, -2)
        return grid[grid.square().sum(1).argsort(stable=True)[: self.number]]
