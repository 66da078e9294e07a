"""The space of fields with several real components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from equiflow.runtime.checks import check_count, check_type
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.space import Space


@dataclass(frozen=True)
class Multiplet(Space):
    """Fields of several real components on a lattice, such as the O(N) vector `phi_a(x)`.

    Configurations are `(batch, component, *lattice)`.

    Args:
        lattice: where the field lives.
        n_components: number N of components.

    Raises:
        TypeError: if `lattice` is not a `Lattice` or `n_components` is not an integer.
        ValueError: if `n_components` is smaller than 1.

    >>> Multiplet(Lattice((4, 6)), 3).shape
    (3, 4, 6)
    """

    kind: ClassVar[str] = "multiplet"
    lattice: Lattice
    n_components: int

    def __post_init__(self) -> None:
        check_type(self.lattice, Lattice, "lattice", "Write Lattice((16, 16)).")
        object.__setattr__(self, "n_components", check_count(self.n_components, "n_components"))

    @classmethod
    def of_shape(cls, shape: tuple[int, ...]) -> Multiplet:
        """See `Space.of_shape`."""
        return cls(Lattice(tuple(shape[1:])), shape[0])

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Shape of one configuration, `(component, *lattice)`."""
        return (self.n_components, *self.lattice.shape)

    @property
    def sites(self) -> Lattice:
        """The lattice of the field."""
        return self.lattice

    def on(self, lattice: Lattice) -> Multiplet:
        """See `Space.on`."""
        return Multiplet(lattice, self.n_components)
