"""The base of shallow vector fields: sitewise features and one convolution, all in closed form.

Start at `ShallowField`; `OrbitConvField` and `FactorisedConvField` derive from it.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from equiflow.nn.kernels.feature_convolution import feature_convolution
from equiflow.nn.kernels.orbits import KernelValues, OrbitKernel
from equiflow.nn.pointwise.features import FeatureValues, SineFeatures
from equiflow.runtime.autograd import is_transformed
from equiflow.runtime.precision import full_precision
from equiflow.vector_fields.base import PathRates, VectorField
from equiflow.vector_fields.chunks import in_chunks, joined


class ShallowField(VectorField):
    r"""`v(phi, t) = K_0(t) * phi + sum_f K_f(t) * h_f(phi)`, for kernels of any parametrisation.

    The features are sitewise, so the Jacobian's trace is exact and costs one sum over sites:
    `div v = V K_0(0) + sum_f K_f(0) sum_x h_f'(phi_x)`. (arXiv:2110.02673, 2207.00283)

    A subclass sets `features` and `kernel`, and fills in `_kernels_and_drift`.
    """

    features: SineFeatures
    kernel: OrbitKernel

    @abstractmethod
    def _kernels_and_drift(
        self, t: Tensor | float, scale: Tensor | None = None
    ) -> tuple[KernelValues, Tensor | None]:
        """Return the `1 + feature` kernels at time `t`, times `scale`, and the drift (None with Z2)."""

    @full_precision
    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """See `VectorField.velocity_and_divergence`."""
        self.lattice.check(phi)
        if not torch.is_grad_enabled():
            return self._without_graph(phi, t)
        kernel, drift = self._kernels_and_drift(t)
        velocity, _ = self._convolve(phi, kernel, drift)
        slopes = self.features(phi).first.sum(self.lattice.axes)
        return velocity, self._divergence(slopes, kernel)

    def _without_graph(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return velocity and divergence without gradients.

        This takes at most 1.2 times as long as its FFTs, sines and cosines (`benchmarks/velocity.py`).
        """
        # Dividing the kernels by omega is cheaper than dividing the features.
        omega = self.features.frequencies()
        scale = torch.cat([omega.new_ones(1), omega.reciprocal()])
        kernel, drift = self._kernels_and_drift(t, scale)
        convolution, parts = self.kernel.convolution, []
        for chunk in in_chunks(self.lattice, phi):
            slopes, waves = self.features.slopes_and_waves(chunk)
            linear, encoded = convolution.encode(chunk.unsqueeze(1)), convolution.encode(waves)
            parts.append((convolution.mix_(linear, encoded, kernel.operand), slopes))
        velocity, slopes = joined(parts)
        velocity = velocity if drift is None else velocity + drift
        return velocity, self._divergence(slopes * omega, kernel)

    @full_precision
    def velocity(self, phi: Tensor, t: Tensor | float) -> Tensor:
        """See `VectorField.velocity`."""
        self.lattice.check(phi)
        return self._convolve(phi, *self._kernels_and_drift(t))[0]

    @full_precision
    def path_rates(self, phi: Tensor, t: Tensor | float, score: Tensor) -> PathRates:
        """See `VectorField.path_rates`; in closed form with the score s.

        `d score/dt = -K_0^T * s - sum_f h_f' (K_f^T * s) - sum_f K_f(0) h_f''`
        """
        self.lattice.check(phi)
        self.lattice.check(score, "score")
        kernel, drift = self._kernels_and_drift(t)
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
        """Return the velocity, and the features without a graph."""
        convolution = self.kernel.convolution
        if is_transformed():  # `feature_convolution` has a backward pass, but no rules for `torch.func`.
            features = self.features(phi)
            linear, encoded = convolution.encode(phi.unsqueeze(1)), convolution.encode(features.value)
            velocity = convolution.mix(linear, encoded, kernel.operand)
        else:
            with torch.no_grad():
                features = self.features(phi)
            frequencies = self.features.frequencies()
            velocity = feature_convolution(phi, frequencies, kernel.operand, features, convolution)
        return (velocity if drift is None else velocity + drift), features

    def _divergence(self, slopes: Tensor, kernel: KernelValues) -> Tensor:
        """Return `V K_0(0) + sum_f K_f(0) slopes_f` for slopes `sum_x h_f'(phi_x)`, `(batch, feature)`."""
        return slopes @ kernel.at_origin[1:] + self.lattice.volume * kernel.at_origin[0]
