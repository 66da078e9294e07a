"""What shallow fields share: sitewise features, one convolution, everything in closed form."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from equiflow.nn.kernels.feature_convolution import feature_convolution
from equiflow.nn.kernels.orbits import KernelValues, OrbitKernel
from equiflow.nn.pointwise.features import FeatureValues, SineFeatures
from equiflow.runtime.precision import full_precision
from equiflow.vector_fields.base import PathRates, VectorField


class ShallowField(VectorField):
    r"""`v(phi, t) = K_0(t) * phi + sum_f K_f(t) * h_f(phi)`, whatever the kernels are made of.

    The features are sitewise, so the Jacobian's trace is exact and costs one sum over sites:
    `div v = V K_0(0) + sum_f K_f(0) sum_x h_f'(phi_x)`. (arXiv:2110.02673, 2207.00283)

    Subclasses set `features` and `kernel`, and fill in `_at`.
    """

    features: SineFeatures
    kernel: OrbitKernel

    @abstractmethod
    def _at(self, t: Tensor | float, scale: Tensor | None = None) -> tuple[KernelValues, Tensor | None]:
        """The `1 + feature` kernels at a time, times `scale`, and the uniform drift (None with Z2)."""

    @full_precision
    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """See `VectorField.velocity_and_divergence`."""
        self.lattice.check(phi)
        if not torch.is_grad_enabled():
            return self._without_graph(phi, t)
        kernel, drift = self._at(t)
        velocity, _ = self._convolve(phi, kernel, drift)
        slopes = self.features(phi).first.sum(self.lattice.axes)
        return velocity, self._divergence(slopes, kernel)

    def _without_graph(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """The same within 1.2 times the FFTs, sines and cosines alone (`benchmarks/velocity.py`)."""
        # The features' 1/omega goes to the kernels, which are small.
        omega = self.features.frequencies()
        scale = torch.cat([omega.new_ones(1), omega.reciprocal()])
        kernel, drift = self._at(t, scale)
        slopes, waves = self.features.slopes_and_waves(phi)
        convolution = self.kernel.convolution
        linear, encoded = convolution.encode(phi.unsqueeze(1)), convolution.encode(waves)
        velocity = convolution.mix_(linear, encoded, kernel.operand)
        velocity = velocity if drift is None else velocity + drift
        return velocity, self._divergence(slopes * omega, kernel)

    @full_precision
    def velocity(self, phi: Tensor, t: Tensor | float) -> Tensor:
        """`v(phi, t)` alone, `(batch, *lattice)`."""
        self.lattice.check(phi)
        return self._convolve(phi, *self._at(t))[0]

    @full_precision
    def path_rates(self, phi: Tensor, t: Tensor | float, score: Tensor) -> PathRates:
        """Closed form: `d score/dt = -K_0^T * s - sum_f h_f' (K_f^T * s) - sum_f K_f(0) h_f''`."""
        self.lattice.check(phi)
        self.lattice.check(score, "score")
        kernel, drift = self._at(t)
        velocity, features = self._convolve(phi, kernel, drift)
        with torch.no_grad():
            convolution = self.kernel.convolution
            back = convolution.transpose(convolution.encode_back(score.unsqueeze(1)), kernel.operand)
            rate = (back[:, 1:] * features.first).sum(1) + back[:, 0]
            rate += self.features.weighted_second(features.value, kernel.at_origin[1:])
            divergence = self._divergence(features.first.sum(self.lattice.axes), kernel)
        return PathRates(velocity, divergence, -rate)

    def _convolve(
        self, phi: Tensor, kernel: KernelValues, drift: Tensor | None
    ) -> tuple[Tensor, FeatureValues]:
        """The velocity, and the features behind it without a graph."""
        with torch.no_grad():
            features = self.features(phi)
        frequencies = self.features.frequencies()
        velocity = feature_convolution(phi, frequencies, kernel.operand, features, self.kernel.convolution)
        return (velocity if drift is None else velocity + drift), features

    def _divergence(self, slopes: Tensor, kernel: KernelValues) -> Tensor:
        """`V K_0(0) + sum_f K_f(0) slopes_f`, of `sum_x h_f'(phi_x)`, `(batch, feature)`."""
        return slopes @ kernel.at_origin[1:] + self.lattice.volume * kernel.at_origin[0]
