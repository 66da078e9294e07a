"""Samples of the target that an objective was given: checks, and minibatches drawn from them."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from equiflow.flows import ExtendedAction, Flow
from equiflow.runtime.checks import check_type
from equiflow.runtime.precision import COMPLEX_DTYPES, FIELD_DTYPES, in_precision
from equiflow.runtime.randomness import own_rows
from equiflow.theories.base.action import Action


def check_samples(samples: Tensor) -> None:
    """Raise unless `samples` is a non-empty batch of finite configurations, `(n_samples, *lattice)`.

    Raises:
        TypeError: if it is not a tensor of floats or of complex numbers.
        ValueError: if it is empty, is not a batch, or has values that are not finite.
    """
    remedy = "Give chain.configurations, (n_samples, *lattice)."
    check_type(samples, Tensor, "samples", remedy)
    if samples.dtype not in FIELD_DTYPES + COMPLEX_DTYPES:
        raise TypeError(
            f"samples has dtype {samples.dtype}; expected torch.float32 or torch.float64, for links in SU(N) "
            "torch.complex64 or torch.complex128."
        )
    if samples.dim() < 2 or not samples.numel():
        raise ValueError(
            f"samples has shape {tuple(samples.shape)}; expected (n_samples, *lattice). {remedy}"
        )
    if not bool(samples.isfinite().all()):
        raise ValueError("samples has NaN or infinite values; expected finite configurations.")


def check_samples_fit(samples: Tensor, flow: Flow, action: Action) -> None:
    """Raise unless the samples are configurations of the flow, or fields that need momenta.

    Args:
        samples: configurations of the target, `(n_samples, *lattice)`.
        flow: the flow to be trained.
        action: its target. An `ExtendedAction` can add momenta to fields.

    Raises:
        TypeError: if the samples are real and the configurations complex, or the other way round.
        ValueError: if the samples are neither.
    """
    if samples.is_complex() != flow.space.dtypes[0].is_complex:
        kinds = ", ".join(map(str, flow.space.dtypes))
        raise TypeError(f"samples has dtype {samples.dtype}; expected one of {kinds}.")
    wanted = flow.space.shape
    if tuple(samples.shape[1:]) != wanted and not _need_momenta(samples, flow, action):
        raise ValueError(
            f"samples has shape {tuple(samples.shape)}, the flow's configurations {wanted}; expected "
            f"{('n_samples', *wanted)}. Take samples of the action that the flow is trained on."
        )


def _need_momenta(samples: Tensor, flow: Flow, action: Action) -> bool:
    """Whether the samples are fields while the flow and its target have momenta too."""
    both = isinstance(action, ExtendedAction) and action.space == flow.space
    return both and tuple(samples.shape[1:]) == flow.lattice.shape


def draw(
    samples: Tensor, flow: Flow, action: Action, batch_size: int, generator: torch.Generator | None
) -> Tensor:
    """Draw a minibatch with replacement, on the device and in the dtype of the flow.

    Fields for a flow of field and momentum get fresh momenta.

    Args:
        samples: configurations of the target, `(n_samples, *lattice)`.
        flow: the flow to be trained.
        action: its target.
        batch_size: samples of all processes together.
        generator: source of randomness, on the flow's device; the global one by default.

    Returns:
        `(batch, *lattice)`, this process's share of the batch.

    Raises:
        ValueError: if the samples are not configurations of the flow.
    """
    check_samples_fit(samples, flow, action)
    index = torch.randint(len(samples), (batch_size,), generator=generator, device=flow.device)
    index = own_rows(index, generator)
    phi = in_precision(samples.detach()[index.to(samples.device)], flow.dtype).to(flow.device)
    if isinstance(action, ExtendedAction) and _need_momenta(samples, flow, action):
        return action.with_momenta(phi, generator, batch_size=batch_size)
    return phi


def digest(samples: Tensor) -> str:
    """Return shape, dtype and checksum of samples as text, the same in every process.

    The repr of an objective contains it, so a training checkpoint notices other samples.
    """
    values = samples.detach().cpu().contiguous()
    checksum = hashlib.sha256(values.numpy().tobytes()).hexdigest()[:16]
    return f"samples={tuple(samples.shape)} {str(samples.dtype).removeprefix('torch.')} sha256:{checksum}"
