"""Vector fields with a planted mistake, which laws must find."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from equiflow import VectorField


class Planted(VectorField):
    """A correct field plus a small, planted mistake."""

    def __init__(self, inner: VectorField) -> None:
        super().__init__(inner.group)
        self.inner = inner

    def velocity_and_divergence(self, phi, t):
        velocity, divergence = self.inner.velocity_and_divergence(phi, t)
        extra, its_divergence = self.mistake(phi)
        return velocity + 1e-9 * extra, divergence + 1e-9 * its_divergence

    @abstractmethod
    def mistake(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Return a velocity and its divergence."""
