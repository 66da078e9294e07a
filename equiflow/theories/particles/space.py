"""The space of identical particles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from equiflow.runtime.checks import check_count
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
