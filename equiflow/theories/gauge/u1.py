"""The group U(1), whose elements are angles."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from equiflow.theories.gauge.lie_group import LieGroup


@dataclass(frozen=True)
class U1(LieGroup):
    """The group U(1): elements are angles, and i is the only generator."""

    n = 1
    n_generators = 1
    element_shape = ()
    noise_shape = ()
    n_plane_axes = 0

    def generators(self) -> Tensor:
        """See `LieGroup.generators`."""
        return torch.full((1, 1, 1), 1j, dtype=torch.complex128, device="cpu")

    def identity(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """See `LieGroup.identity`."""
        return like.new_zeros(shape)

    def planes(self, elements: Tensor) -> Tensor:
        """See `LieGroup.planes`."""
        return elements

    def elements(self, planes: Tensor) -> Tensor:
        """See `LieGroup.elements`."""
        return planes

    def exp(self, vector: Tensor) -> Tensor:
        """See `LieGroup.exp`."""
        return vector[0]

    def product(self, one: Tensor, other: Tensor) -> Tensor:
        """See `LieGroup.product`."""
        return one + other

    def dagger(self, planes: Tensor) -> Tensor:
        """See `LieGroup.dagger`."""
        return -planes

    def conjugate(self, planes: Tensor) -> Tensor:
        """See `LieGroup.conjugate`."""
        return -planes

    def conjugate_vector(self, vector: Tensor) -> Tensor:
        """See `LieGroup.conjugate_vector`."""
        return -vector

    def trace(self, planes: Tensor) -> Tensor:
        """See `LieGroup.trace`."""
        return planes.cos()

    def complex_trace(self, planes: Tensor) -> Tensor:
        """See `LieGroup.complex_trace`."""
        return torch.polar(torch.ones_like(planes), planes)

    def slope(self, planes: Tensor) -> Tensor:
        """See `LieGroup.slope`."""
        return planes.sin()[None]

    def adjoint(self, planes: Tensor, vector: Tensor) -> Tensor:
        """See `LieGroup.adjoint`; the result is `vector` itself."""
        return vector

    def bracket(self, one: Tensor, other: Tensor) -> Tensor:
        """See `LieGroup.bracket`; the result is zero."""
        return torch.zeros_like(one)

    def from_noise(self, noise: Tensor) -> Tensor:
        """See `LieGroup.from_noise`; the result is the distribution function, stretched to [-pi, pi]."""
        return math.pi * torch.erf(noise / math.sqrt(2))

    def to_noise(self, elements: Tensor) -> Tensor:
        """See `LieGroup.to_noise`."""
        # Closer to -pi or pi than rounding the noise would be infinite.
        edge = 1 - torch.finfo(elements.dtype).eps
        return math.sqrt(2) * torch.erfinv((self.nearest(elements) / math.pi).clamp(-edge, edge))

    def nearest(self, elements: Tensor) -> Tensor:
        """See `LieGroup.nearest`; the result is differentiable with slope 1."""
        with torch.no_grad():
            turns = (elements / (2 * math.pi) + 0.5).floor()
            rest = elements - 2 * math.pi * turns
            # Rounding can leave a value just outside of the interval.
            turns += (rest >= math.pi).to(elements) - (rest < -math.pi).to(elements)
        return elements - 2 * math.pi * turns

    def defect(self, elements: Tensor) -> Tensor:
        """See `LieGroup.defect`; every real number is an angle."""
        return torch.zeros_like(elements)

    def __str__(self) -> str:
        return "U(1)"
