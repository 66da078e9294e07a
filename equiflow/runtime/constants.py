"""Constants of a module that follow its dtype and device without losing digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class RoundedConstants:
    """Constants that are known in float64, rounded once for each dtype and device.

    A buffer would not do: a module that is cast to float32 and back to float64 keeps the rounded digits in
    its buffers. The constants must depend on nothing that changes, and they enter no `state_dict`.

    >>> third = RoundedConstants()
    >>> (rounded,) = third.like(torch.zeros(2), lambda: [torch.tensor(1 / 3, dtype=torch.float64)])
    >>> rounded
    tensor(0.3333)
    """

    def __init__(self) -> None:
        self._rounded: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}

    def like(self, tensor: Tensor, exact: Callable[[], Sequence[Tensor]]) -> list[Tensor]:
        """Return the constants in the dtype and on the device of `tensor`.

        Args:
            tensor: only its dtype and device matter.
            exact: returns the constants in float64, the same on every call. It is called when a dtype and
                device are asked for the first time.

        Returns:
            One tensor for each constant. The same tensors are returned on every call.
        """
        key = tensor.dtype, tensor.device
        if key not in self._rounded:
            # Training uses the same tensors later, which it could not if they were made in inference mode.
            with torch.inference_mode(False):
                self._rounded[key] = [value.to(tensor.device, tensor.dtype) for value in exact()]
        return self._rounded[key]
