"""Configurations of the target that an objective is given, and minibatches of them."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from equiflow.flows import ExtendedAction, Flow
from equiflow.runtime.checks import check_type
from equiflow.runtime.precision import FIELD_DTYPES
from equiflow.runtime.randomness import own_rows
from equiflow.theories.base.action import Action


def check_samples(samples: Tensor) -> None:
    """Raise unless `samples` is a non-empty batch of finite configurations, `(n_samples, *lattice)`."""
    remedy = "Give chain.configurations, (n_samples, *lattice)."
    check_type(samples, Tensor, "samples", remedy)
    if samples.dtype not in FIELD_DTYPES:
        raise TypeError(f"samples has dtype {samples.dtype}; expected torch.float32 or torch.float64.")
    if samples.dim() < 2 or not samples.numel():
        raise ValueError(
            f"samples has shape {tuple(samples.shape)}; expected (n_samples, *lattice). {remedy}"
        )
    if not bool(samples.isfinite().all()):
        raise ValueError("samples has NaN or infinite values; expected finite configurations.")


def lacks_momenta(samples: Tensor, flow: Flow, action: Action) -> bool:
    """Whether the samples are the fields of a flow of field and momentum; else they must be configurations.

    Raises:
        ValueError: if they are neither.
    """
    wanted, given = tuple(flow.prior.event_shape), tuple(samples.shape[1:])
    extend = isinstance(action, ExtendedAction) and given == flow.lattice.shape != wanted
    if not extend and given != wanted:
        raise ValueError(
            f"samples has shape {tuple(samples.shape)}, the flow's configurations {wanted}; expected "
            f"{('n_samples', *wanted)}. Take samples of the action that the flow is trained on."
        )
    return extend


def draw(
    samples: Tensor, flow: Flow, action: Action, batch_size: int, generator: torch.Generator | None
) -> Tensor:
    """A minibatch drawn with replacement, on the device and in the dtype of the flow.

    Fields for a flow of field and momentum are given fresh momenta, which the target draws from unit
    Gaussians whatever the field.

    Raises:
        ValueError: if the samples are not configurations of the flow.
    """
    extend = lacks_momenta(samples, flow, action)
    index = torch.randint(len(samples), (batch_size,), generator=generator, device=flow.device)
    index = own_rows(index, generator)
    phi = samples.detach()[index.to(samples.device)].to(flow.device, flow.dtype)
    if not extend:
        return phi
    shape = (batch_size, *samples.shape[1:])
    momentum = torch.randn(shape, generator=generator, device=phi.device, dtype=phi.dtype)
    return torch.stack([phi, own_rows(momentum, generator)], 1)


def digest(samples: Tensor) -> str:
    """Shape, dtype and checksum: the same in every process, another for other samples."""
    values = samples.detach().cpu().contiguous()
    checksum = hashlib.sha256(values.numpy().tobytes()).hexdigest()[:16]
    return f"samples={tuple(samples.shape)} {str(samples.dtype).removeprefix('torch.')} sha256:{checksum}"
