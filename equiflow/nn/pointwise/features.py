"""Sitewise features `h_f(phi_x)` with derivatives in closed form. Start at `SineFeatures`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equiflow.nn.pointwise.sines import sine_and_cosine, waves
from equiflow.runtime.checks import check_type


@dataclass(frozen=True)
class FeatureValues:
    """Sitewise features and their derivatives in phi.

    Attributes:
        value: `h_f(phi)`, `(batch, feature, *lattice)`.
        first: `h_f'(phi)`, `(batch, feature, *lattice)`.
    """

    value: Tensor
    first: Tensor


class SineFeatures(nn.Module):
    """Features `sin(omega_f phi) / omega_f`, and `(1 - cos(omega_f phi)) / omega_f` unless `odd`.

    The sines are odd, so a vector field built on them alone is odd under phi -> -phi. With the scale
    `1/omega` every sine has slope 1 at phi = 0. All features share two identities that closed-form gradients
    use, `dh/domega = (phi h' - h) / omega` and `h'' = h''(0) - omega^2 h`. Sines of the field with learnable
    frequencies are the features of arXiv:2207.00283.

    Args:
        n_frequencies: number of learnable frequencies omega_f.
        dim: dimension of the lattice.
        max_frequency: the initial frequencies are spread evenly on (0, max_frequency].
        odd: whether only the sines are kept, as Z2 requires.

    Raises:
        TypeError: if `n_frequencies` is not an int or `max_frequency` not a number.
        ValueError: if there is less than one frequency, or `max_frequency` is not positive and finite.
    """

    def __init__(self, n_frequencies: int, dim: int, *, max_frequency: float = 8.0, odd: bool = True) -> None:
        super().__init__()
        check_type(n_frequencies, int, "n_frequencies")
        check_type(max_frequency, (float, int), "max_frequency")
        if n_frequencies < 1 or not 0 < max_frequency < math.inf:
            raise ValueError(
                "Expected n_frequencies >= 1 and max_frequency > 0, finite; "
                f"got {n_frequencies} and {max_frequency}."
            )
        self.odd = odd
        self.dim = dim
        self.n_frequencies = n_frequencies
        start = torch.arange(1, n_frequencies + 1) * (max_frequency / n_frequencies)
        self.omega = nn.Parameter(start.to(torch.get_default_dtype()))

    def __len__(self) -> int:
        return self.n_frequencies * (1 if self.odd else 2)

    def frequencies(self) -> Tensor:
        """Return the frequency of each feature, `(feature,)`."""
        return self.omega if self.odd else torch.cat([self.omega, self.omega])

    def forward(self, phi: Tensor) -> FeatureValues:
        """Return the features of `phi`, `(batch, *lattice)`, and their first derivatives."""
        omega = self.omega.reshape(-1, *(1,) * self.dim)
        angle = phi.unsqueeze(-self.dim - 1) * omega
        if self.odd and not torch.is_grad_enabled():  # in place, which saves a third of the memory traffic
            sin, cos = waves(angle)
            return FeatureValues(sin.div_(omega), cos)
        sin, cos = sine_and_cosine(angle)
        if self.odd:
            return FeatureValues(sin / omega, cos)
        axis = -self.dim - 1
        return FeatureValues(
            torch.cat([sin, 1 - cos], axis) / torch.cat([omega, omega]), torch.cat([cos, sin], axis)
        )

    @torch.no_grad()
    def slopes_and_waves(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Return `sum_x h_f'(phi_x)`, `(batch, feature)`, and `omega_f h_f(phi)`, without a graph.

        Each array of features is computed in place, which takes two thirds of the time of `forward`.
        """
        axes = tuple(range(-self.dim, 0))
        angle = phi.unsqueeze(-self.dim - 1) * self.omega.reshape(-1, *(1,) * self.dim)
        sin, cos = waves(angle)
        if self.odd:
            return cos.sum(axes), sin
        slopes = torch.cat([cos.sum(axes), sin.sum(axes)], -1)
        return slopes, torch.cat([sin, 1 - cos], -self.dim - 1)

    def weighted_second(self, value: Tensor, weight: Tensor) -> Tensor:
        """Return `sum_f weight_f h_f''(phi)`.

        Args:
            value: `h_f(phi)`, `(batch, feature, *lattice)`.
            weight: `(feature,)`.

        Returns:
            `(batch, *lattice)`.
        """
        omega = self.frequencies()
        at_zero = weight.new_zeros(()) if self.odd else weight[self.n_frequencies :] @ self.omega
        flat = torch.matmul(weight * omega.square(), value.flatten(-self.dim))
        return at_zero - flat.unflatten(-1, value.shape[-self.dim :])


class VectorSineFeatures(nn.Module):
    """Features `h_f(phi) = phi / r sin(omega_f r) / omega_f` with `r = |phi|`, which rotate with phi.

    For one component they equal `SineFeatures`.

    Args:
        n_frequencies: number of learnable frequencies omega_f.
        dim: dimension of the lattice.
        max_frequency: the initial frequencies are spread evenly on (0, max_frequency].
    """

    def __init__(self, n_frequencies: int, dim: int, *, max_frequency: float = 8.0) -> None:
        super().__init__()
        self.sines = SineFeatures(n_frequencies, dim, max_frequency=max_frequency)

    def __len__(self) -> int:
        return len(self.sines)

    def forward(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features and their traces `sum_a dh_a/dphi_a`.

        Args:
            phi: `(batch, component, *lattice)`, with N components.

        Returns:
            The features, `(batch, component, feature, *lattice)`, and the traces
            `cos(omega r) + (N - 1) sin(omega r) / (omega r)`, `(batch, feature, *lattice)`.
        """
        # The root of zero has no derivative. Below the smallest r the ratio is 1 to rounding.
        smallest = torch.finfo(phi.dtype).tiny ** 0.5
        r = phi.square().sum(1).clamp(min=smallest).sqrt()
        radial = self.sines(r)
        ratio = radial.value / r.unsqueeze(1)
        return phi.unsqueeze(2) * ratio.unsqueeze(1), radial.first + (phi.shape[1] - 1) * ratio
