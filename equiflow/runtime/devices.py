"""Devices: `check_device` says at once, and in one sentence, why a device cannot be used."""

from __future__ import annotations

import re

import torch

#: what torch says about devices that fail; older versions have no class of errors for it
_OF_DEVICE = re.compile(
    r"\b(CUDA|HIP|XPU|MPS|cuDNN)( driver| backend)? (error|out of memory)\b"
    r"|CUBLAS_STATUS|NVIDIA driver|No CUDA GPUs"
)
#: what torch says about sizes beyond all computers
UNCOUNTABLE = "Storage size calculation overflowed|integer multiplication overflow"
#: the same about tensors for which there is no memory, or whose size no computer can count
_OF_MEMORY = re.compile(f"allocate memory|{UNCOUNTABLE}")


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
        torch.Generator(found)  # a device without random numbers, such as meta, is of no use here
    except torch.cuda.OutOfMemoryError:  # the device is there
        raise
    except Exception as error:  # torch raises many kinds of errors where a device is missing
        raise ValueError(f"{_missing(found)} Give device cpu, or another that is here.") from error
    return found


def is_of_memory(error: BaseException) -> bool:
    """Return whether memory has run out, of the CPU or of a GPU."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and bool(_OF_MEMORY.search(str(error)))


def is_of_device(error: BaseException) -> bool:
    """Return whether a GPU refused or failed, whatever torch was doing there."""
    if isinstance(error, getattr(torch, "AcceleratorError", ())):  # of newer versions of torch
        return True
    return isinstance(error, RuntimeError) and bool(_OF_DEVICE.search(str(error)))


def _missing(device: torch.device) -> str:
    """Return a sentence that says why a device is not there."""
    count = torch.cuda.device_count()
    if device.type == "cuda" and count and device.index is not None and device.index >= count:
        return f"There is no device {device} here: the last one is cuda:{count - 1}."
    if device.type == "cuda":
        return f"There is no CUDA device here that this torch ({torch.__version__}) can use."
    return f"There is no device {device} here that this torch ({torch.__version__}) can use."
