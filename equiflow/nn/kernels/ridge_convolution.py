"""The gradient of a sum of ridges of convolved fields, with its backward pass in closed form.

`ridge_convolution` is the velocity and the Laplacian of `PotentialField`; `ridge_path` adds the rate of a
score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from equiflow.nn.kernels.convolution import Convolution
from equiflow.nn.pointwise.sines import sine_and_cosine, waves
from equiflow.runtime.autograd import is_transformed
from equiflow.runtime.compilation import is_compiling
from equiflow.runtime.precision import full_precision

Tensors: TypeAlias = tuple[Tensor, ...]

#: Sites whose ridges a CPU computes at once, so that angles and sines stay in its cache (measured).
BLOCK = 2**13


@dataclass(frozen=True)
class RidgeWeights:
    """What turns a field into its ridges and back, at one time.

    Attributes:
        operand: `K_0`, which is even, and the `K_c`, as the convolution takes them.
        angles: W, `(ridge, channel)`.
        slopes: G, `(channel, ridge)`.
        curvature: `q_j`, `(ridge,)`.
        phase: of the angles, `(ridge,)`, or None.
    """

    operand: Tensor
    angles: Tensor
    slopes: Tensor
    curvature: Tensor
    phase: Tensor | None

    def all(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """Return the attributes in their order."""
        return self.operand, self.angles, self.slopes, self.curvature, self.phase

    def theta(self, u: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the angles `W u + phase`.

        Args:
            u: channels, `(channel, site)`.
            out: overwritten by the angles; new memory by default.

        Returns:
            `(ridge, site)`.
        """
        if self.phase is None:
            return torch.mm(self.angles, u, out=out)
        return torch.addmm(self.phase[:, None], self.angles, u, out=out)


def ridge_convolution(phi: Tensor, weights: RidgeWeights, convolution: Convolution) -> tuple[Tensor, Tensor]:
    """Return `K_0 * phi + sum_cj K_c * G_cj sin theta_j` and `sum_x sum_j q_j cos theta_j(x)`.

    Here `theta = W u + phase` with `u_c = K_c^T * phi`. Both can be differentiated as often as wanted. The
    first derivative is in closed form, which needs no FFTs of complex fields.

    Args:
        phi: `(batch, *lattice)`.
        weights: see `RidgeWeights`.
        convolution: applies the kernels; it encodes fields in one way, by FFT or dense.

    Returns:
        `(batch, *lattice)` and `(batch,)`.
    """
    if is_compiling() or is_transformed():  # torch traces and transforms its own functions only
        velocity, laplacian, *_ = _formula(phi, weights, convolution)
        return velocity, laplacian
    if not _records(phi, weights):
        return _evaluate_in_blocks(phi, weights, convolution)
    velocity, laplacian, _ = _RidgeConvolution.apply(phi, None, convolution, *weights.all())
    return velocity, laplacian


def ridge_path(
    phi: Tensor, score: Tensor, weights: RidgeWeights, convolution: Convolution
) -> tuple[Tensor, Tensor, Tensor]:
    """Return velocity v and Laplacian as `ridge_convolution`, and `grad (v . score + Laplacian)`.

    Args:
        phi: `(batch, *lattice)`.
        score: `(batch, *lattice)`, held constant in the gradient.
        weights: see `RidgeWeights`.
        convolution: see `ridge_convolution`.

    Returns:
        `(batch, *lattice)`, `(batch,)` and `(batch, *lattice)`. Only the velocity has a graph.
    """
    if not (is_compiling() or is_transformed()):
        if _records(phi, weights):
            velocity, laplacian, pulled = _RidgeConvolution.apply(phi, score, convolution, *weights.all())
            return velocity, laplacian.detach(), pulled
        velocity, laplacian, pulled, *_ = _evaluate(phi, weights, convolution, score)
        return velocity, laplacian, pulled
    velocity, laplacian, sin, cos = _formula(phi, weights, convolution)
    with torch.no_grad():
        pulled = _pulled_back(score, sin, cos, weights, convolution)
    return velocity, laplacian.detach(), pulled


def _records(phi: Tensor, weights: RidgeWeights) -> bool:
    """Return whether autograd records what is computed."""
    inputs = (phi, *weights.all())
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)


def _formula(phi: Tensor, weights: RidgeWeights, convolution: Convolution) -> Tensors:
    """Return velocity, Laplacian, sines and cosines by functions that torch differentiates."""
    encoded = convolution.encode(phi.unsqueeze(1))
    u = _by_channel(convolution.transpose(encoded, weights.operand[1:]))
    sin, cos = sine_and_cosine(weights.theta(u))
    sent = convolution.encode(_by_batch(weights.slopes @ sin, phi))
    velocity = convolution.mix(encoded, sent, weights.operand)
    return velocity, weights.curvature @ _sums(cos, phi), sin, cos


def _evaluate(
    phi: Tensor, weights: RidgeWeights, convolution: Convolution, score: Tensor | None = None
) -> tuple[Any, ...]:
    """Return velocity, Laplacian, pulled score or None, and what the backward pass needs; without a graph."""
    encoded = convolution.encode(phi.unsqueeze(1))
    u = _by_channel(convolution.transpose(encoded, weights.operand[1:]))
    sin, cos = waves(weights.theta(u))
    sent = convolution.encode(_by_batch(weights.slopes @ sin, phi))
    velocity = convolution.mix(encoded, sent, weights.operand)
    sums = _sums(cos, phi)
    pulled = None
    if score is not None:
        pulled = _pulled_back(score, sin, cos, weights, convolution)
    return velocity, weights.curvature @ sums, pulled, encoded, sent, u, sin, cos, sums


def _evaluate_in_blocks(
    phi: Tensor, weights: RidgeWeights, convolution: Convolution
) -> tuple[Tensor, Tensor]:
    """Return velocity and Laplacian as `_evaluate`; nothing is kept of the ridges."""
    encoded = convolution.encode(phi.unsqueeze(1))
    u = _by_channel(convolution.transpose(encoded, weights.operand[1:]))
    gradient, bend = torch.empty_like(u), torch.empty_like(u[:1])
    size = min(BLOCK, u.shape[1]) if phi.device.type == "cpu" else u.shape[1]
    theta = u.new_empty(len(weights.angles), size)
    sin = torch.empty_like(theta)
    for part, slope, bent in zip(*(x.split(size, 1) for x in (u, gradient, bend)), strict=True):
        shape = len(theta), part.shape[1]  # the last block is smaller
        sines, cosines = waves(weights.theta(part, theta.resize_(shape)), sin.resize_(shape))
        torch.mm(weights.slopes, sines, out=slope)
        torch.mm(weights.curvature[None], cosines, out=bent)
    sent = convolution.encode(_by_batch(gradient, phi))
    return convolution.mix(encoded, sent, weights.operand), _sums(bend, phi)[0]


def _pulled_back(
    score: Tensor, sin: Tensor, cos: Tensor, weights: RidgeWeights, convolution: Convolution
) -> Tensor:
    """Return `grad (v . score + Laplacian)`, `(batch, *lattice)`."""
    encoded, ones = convolution.encode(score.unsqueeze(1)), score.new_ones(len(score))
    gradient, *_ = _pulled(encoded, ones, sin, cos, weights, convolution)
    return gradient


def _pulled(
    encoded: Tensor,
    of_laplacian: Tensor | None,
    sin: Tensor,
    cos: Tensor,
    weights: RidgeWeights,
    convolution: Convolution,
) -> tuple[Tensor, ...]:
    """Return `grad (v . w + sum_b s_b Laplacian_b)`, and what derivatives in the weights need.

    Args:
        encoded: w, encoded.
        of_laplacian: s, `(batch,)`, or None for zero.
        sin: `sin theta_j`, `(ridge, site)`.
        cos: `cos theta_j`, `(ridge, site)`.
        weights: see `RidgeWeights`.
        convolution: see `ridge_convolution`.

    Returns:
        The gradient `(batch, *lattice)`; `y_c = K_c^T * w`, `(channel, site)`; the derivative in theta,
        `(ridge, site)`; that in u, encoded.
    """
    back = convolution.transpose(encoded, weights.operand[1:])
    y = _by_channel(back)
    of_theta = (weights.slopes.mT @ y).mul_(cos)
    if of_laplacian is not None:
        scale = (weights.curvature[:, None] * of_laplacian).unsqueeze(2)
        shape = (len(sin), len(back), back[:1, 0].numel() or 1)
        of_theta.view(shape).addcmul_(sin.view(shape), scale, value=-1)
    of_u = convolution.encode(_by_batch(weights.angles.mT @ of_theta, back[:, 0]))
    return convolution.mix(encoded, of_u, weights.operand), y, of_theta, of_u


def _by_channel(fields: Tensor) -> Tensor:
    """Return fields `(batch, channel, *lattice)` as `(channel, site)`."""
    return fields.transpose(0, 1).flatten(1)


def _by_batch(channels: Tensor, like: Tensor) -> Tensor:
    """Return `(channel, site)` as `(batch, channel, *lattice)` for fields `(batch, *lattice)` like `like`."""
    return channels.view(len(channels), *like.shape).transpose(0, 1)


def _sums(cos: Tensor, phi: Tensor) -> Tensor:
    """Return sums over the sites of each configuration, `(ridge, batch)`."""
    return cos.view(len(cos), len(phi), phi[:1].numel() if len(phi) else 1).sum(2)


class _RidgeConvolution(torch.autograd.Function):
    """`ridge_convolution` and `ridge_path` for autograd."""

    @staticmethod
    def forward(
        ctx: Any,
        phi: Tensor,
        score: Tensor | None,
        convolution: Convolution,
        operand: Tensor,
        angles: Tensor,
        slopes: Tensor,
        curvature: Tensor,
        phase: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        weights = RidgeWeights(operand, angles, slopes, curvature, phase)
        velocity, laplacian, pulled, *kept = _evaluate(phi, weights, convolution, score)
        ctx.convolution = convolution
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(phi, *weights.all(), *kept)
        if pulled is not None:
            ctx.mark_non_differentiable(laplacian, pulled)
        return velocity, laplacian, pulled

    @staticmethod
    @full_precision
    def backward(
        ctx: Any, of_velocity: Tensor | None, of_laplacian: Tensor | None, _: Any
    ) -> tuple[Any, ...]:
        phi, *weights, encoded, sent, u, sin, cos, sums = ctx.saved_tensors
        here = RidgeWeights(*weights)
        if of_velocity is None:
            of_velocity = torch.zeros_like(phi)
        if torch.is_grad_enabled():
            return _differentiable_backward(ctx, phi, here, of_velocity, of_laplacian)
        convolution: Convolution = ctx.convolution
        at = convolution.encode(of_velocity.unsqueeze(1))
        of_phi, y, of_theta, of_u = _pulled(at, of_laplacian, sin, cos, here, convolution)
        if not any(ctx.needs_input_grad[3:]):
            return of_phi, *(None,) * 7
        kernels = here.operand[1:]
        of_kernels = convolution.overlap(sent, at, kernels) + convolution.overlap(of_u, encoded, kernels)
        of_operand = torch.cat([convolution.overlap(encoded, at, here.operand[:1]), of_kernels])
        of_curvature = None if of_laplacian is None else sums @ of_laplacian
        of_phase = None if here.phase is None else of_theta.sum(1)
        return of_phi, None, None, of_operand, of_theta @ u.mT, y @ sin.mT, of_curvature, of_phase


def _differentiable_backward(
    ctx: Any, phi: Tensor, weights: RidgeWeights, of_velocity: Tensor, of_laplacian: Tensor | None
) -> tuple[Any, ...]:
    """Return the backward pass with a graph of its own, from the formula."""
    inputs = (phi, None, None, *weights.all())
    wanted = [x for x, needed in zip(inputs, ctx.needs_input_grad, strict=True) if needed and x is not None]
    outputs = _formula(phi, weights, ctx.convolution)[:2]
    pairs = zip(outputs, (of_velocity, of_laplacian), strict=True)
    kept = [(out, slope) for out, slope in pairs if slope is not None]
    found = iter(
        torch.autograd.grad(
            [out for out, _ in kept],
            wanted,
            [slope for _, slope in kept],
            create_graph=True,
            allow_unused=True,
        )
    )
    return tuple(next(found) if needed else None for needed in ctx.needs_input_grad)
