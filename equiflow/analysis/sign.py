"""Whether `phi -> -phi` is a symmetry, on which the definition of connected quantities depends."""

from __future__ import annotations

import torch
from torch import Tensor

from equiflow.theories.base.action import Action

#: configurations on which an action is compared with itself at -phi
SAMPLES_FOR_SIGN = 64
#: relative change of S at -phi that is rounding, in units of the precision of S
ROUNDING = 100.0


def is_even(action: Action, phi: Tensor) -> bool:
    """Return whether `S(-phi) = S(phi)` up to rounding, on the first configurations of a batch.

    Args:
        action: S.
        phi: `(batch, *lattice)`; configurations where S is infinite or NaN say nothing.

    Returns:
        False if one of them has another value at -phi.
    """
    phi = phi[:SAMPLES_FOR_SIGN]
    value, turned = action(phi), action(-phi)
    known = value.isfinite()
    rounding = ROUNDING * torch.finfo(value.dtype).eps
    return torch.allclose(turned[known], value[known], rtol=rounding, atol=rounding)
