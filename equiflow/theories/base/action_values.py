"""Checks of the values of an action: one real number for each configuration, never NaN or -infinity.

`check_values` looks at every result, `check_consistent` now and then at what a result depends on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import torch
from torch import Tensor

from equiflow.runtime.autograd import holds, is_transformed
from equiflow.runtime.compilation import is_compiling
from equiflow.runtime.precision import FIELD_DTYPES

#: Larger fields may overflow an action that is right, as on a trajectory of HMC that diverges.
LARGEST_FIELD = 100.0
#: what torch says of operands whose precisions differ
_OF_DTYPE = re.compile(r"\b(same|mixed) (dtype|datatype)|expected scalar type")
#: Rounding, relative to the values and the number of sites. Kernels may add up a batch in another order.
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4}


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


@torch.no_grad()
def check_consistent(forward: Callable[[Tensor], Tensor], value: Tensor, phi: Tensor, owner: str) -> None:
    """Raise if S of a configuration depends on the rest of its batch, or on chance.

    The first and the last configuration are computed again, alone; a single one together with another one.
    So it costs two configurations, and is done whenever a batch is larger than all before, see
    `Action.__call__`.

    Args:
        forward: the `forward` of the action.
        value: its values at `phi`, `(batch,)`.
        phi: `(batch, *shape)`, not empty.
        owner: the action, as messages call it.

    Raises:
        ValueError: if S is no function of each configuration.
    """
    value, phi = value.detach(), phi.detach()
    if len(phi) == 1:
        alone, phi = value, torch.cat([phi, 0.5 * phi])
        together = check_values(forward(phi), phi, owner)[:1]
    else:
        ends = phi[:1], phi[-1:]
        alone = torch.cat([check_values(forward(one), one, owner) for one in ends])
        together = value[[0, -1]]
    differ = [n for n in range(len(alone)) if not _agree(alone[n], together[n], phi)]
    if not differ:
        return
    n = differ[0]
    again = forward(phi)[-n]
    if not _agree(again, together[n], phi):
        raise ValueError(
            f"{owner} gives S = {float(together[n]):.8g} and then {float(again):.8g} for the same "
            "configuration; expected a function of phi. Draw random numbers once, in the constructor, call "
            ".eval() on modules with dropout, and do not change phi in place."
        )
    raise ValueError(
        f"{owner} gives S = {float(alone[n]):.8g} for a configuration alone and {float(together[n]):.8g} in "
        f"a batch of {len(phi)}; expected the same, whatever the other configurations are. Take no sums, "
        "means or norms over axis 0, the batch."
    )


def refuse_other_dtype(error: RuntimeError, phi: Tensor, owner: str) -> None:
    """Raise a TypeError if the `forward` of an action failed because its tensors have another precision.

    Args:
        error: what it raised.
        phi: its argument.
        owner: the action, as messages call it.

    Raises:
        TypeError: if this was the cause.
    """
    if _OF_DTYPE.search(str(error)):
        raise TypeError(
            f"{owner} has parameters or constants of another precision than fields of {phi.dtype}: {error}. "
            "Convert the action by .double() or .float(); samplers evaluate S in double precision."
        ) from error


def _agree(one: Tensor, other: Tensor, phi: Tensor) -> bool:
    """Return whether two values of S, 0-d, differ by rounding only; two NaN agree."""
    scale = float(torch.stack([one, other]).abs().nan_to_num(posinf=0.0).max()) + phi[0].numel()
    return bool(torch.isclose(one, other, rtol=0.0, atol=ROUNDING[phi.real.dtype] * scale, equal_nan=True))


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
