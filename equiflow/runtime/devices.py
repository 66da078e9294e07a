"""Devices: `check_device` says at once, and in one sentence, why a device cannot be used."""

from __future__ import annotations

import torch


def check_device(device: torch.device | str) -> torch.device:
    """Return a device that this machine has.

    Args:
        device: such as `"cpu"`, `"cuda"` or `"cuda:1"`.

    Returns:
        The device.

    Raises:
        ValueError: if the device is unknown, or this machine has none of its kind or number.
    """
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"unknown device {str(device)!r}; expected cpu, cuda, cuda:1, ...") from error
    try:
        torch.empty((), device=found)
    except torch.cuda.OutOfMemoryError:  # the device is there
        raise
    except Exception as error:  # torch raises many kinds of errors where a device is missing
        raise ValueError(f"{_missing(found)} Give device cpu, or another that is here.") from error
    return found


def _missing(device: torch.device) -> str:
    """Return a sentence that says why a device is not there."""
    count = torch.cuda.device_count()
    if device.type == "cuda" and count and device.index is not None and device.index >= count:
        return f"There is no device {device} here: the last one is cuda:{count - 1}."
    if device.type == "cuda":
        return f"There is no CUDA device here that this torch ({torch.__version__}) can use."
    return f"There is no device {device} here that this torch ({torch.__version__}) can use."
