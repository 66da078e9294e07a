"""The check of the values of an action: one real number for each configuration, never NaN or -infinity."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiflow.runtime.autograd import holds, is_transformed
from equiflow.runtime.compilation import is_compiling
from equiflow.runtime.precision import FIELD_DTYPES

#: Larger fields may overflow an action that is right, as on a trajectory of HMC that diverges.
LARGEST_FIELD = 100.0


def check_values(value: object, phi: Tensor, owner: str) -> Tensor:
    """Return the values of an action if they are one real number for each configuration, else raise.

    `+inf` is a value: the configuration has zero weight. NaN is accepted only where a field is larger than
    `LARGEST_FIELD` or not finite itself. Samplers reject such proposals.

    To look at numbers makes a GPU wait. On a GPU they are looked at only while gradients are disabled, as
    samplers do; training itself refuses a loss that is not finite. Shape, dtype and device cost nothing.

    Args:
        value: what the `forward` of an action returned.
        phi: its argument, `(batch, *shape)`.
        owner: the action, as messages call it.

    Returns:
        The values, `(batch,)`.

    Raises:
        TypeError: if they are no tensor, or of a dtype that is less precise than `phi`.
        ValueError: if they have another shape or device, or are NaN or -infinite.
    """
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{owner} returned {type(value).__name__}; expected a tensor ({len(phi)},), one value for each "
            "configuration."
        )
    if tuple(value.shape) != (len(phi),):
        raise ValueError(
            f"{owner} returned shape {tuple(value.shape)} for {len(phi)} configurations; expected "
            f"({len(phi)},), one value for each. Sum over all axes but the first: .flatten(1).sum(1)."
        )
    if value.dtype not in FIELD_DTYPES or torch.finfo(value.dtype).bits < torch.finfo(phi.dtype).bits:
        raise TypeError(
            f"{owner} returned {value.dtype} for fields of {phi.dtype}; expected at least their precision. "
            "Keep constants as Python numbers, or convert them with .to(phi)."
        )
    if value.device != phi.device:
        raise ValueError(
            f"{owner} returned a value on {value.device} for fields on {phi.device}. Register its constants "
            "as buffers and move the action by .to(device), or convert them with .to(phi)."
        )
    is_seen = value.device.type == "cpu" or not torch.is_grad_enabled()
    if is_seen and len(phi) and not _exceeds_minus_infinity(value.detach()):
        _refuse(value.detach(), phi.detach(), owner)
    return value


def _exceeds_minus_infinity(value: Tensor) -> bool:
    """Return whether no value is NaN or -inf; the minimum of values with NaN is NaN.

    Within `vmap` and `torch.compile` no value is known, and the answer is True.
    """
    if is_compiling():
        return True
    if is_transformed():
        return holds(value.amin() > -math.inf)
    return float(value.min()) > -math.inf  # a third of the time of a comparison of tensors


def _refuse(value: Tensor, phi: Tensor, owner: str) -> None:
    """Raise a ValueError for NaN and -infinity, unless a field is too large for NaN to be a mistake."""
    is_moderate = phi.abs().flatten(1).amax(1) <= LARGEST_FIELD  # False for NaN
    for name, bad, remedy in (
        ("-inf", value == -math.inf, "Is S bounded below?"),
        ("NaN", value.isnan() & is_moderate, "Is there a log or root of negative numbers, 0/0 or inf - inf?"),
    ):
        if bool(bad.any()):
            raise ValueError(
                f"{owner} returned {name} for {int(bad.sum())} of {len(phi)} configurations; expected real "
                f"numbers, or +inf where the density is zero. {remedy}"
            )
