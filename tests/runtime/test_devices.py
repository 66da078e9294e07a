"""Devices that are missing, and errors that mean a device or the memory and nothing else."""

from __future__ import annotations

import pytest
import torch

from equiflow.runtime.devices import check_device, is_of_device, is_of_memory

#: what torch says, in several versions
OF_DEVICES = [
    RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later"),
    RuntimeError("CUDA error: no kernel image is available for execution on the device"),
    RuntimeError("HIP error: invalid device function"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("Found no NVIDIA driver on your system."),
    RuntimeError("No CUDA GPUs are available"),
    RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    RuntimeError("Error(s) in loading state_dict: While copying ... occurred: ('CUDA error: lost',)"),
]
OTHERS = [
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    RuntimeError("expected all tensors on cuda:0, but found cpu"),
    RuntimeError("Error(s) in loading state_dict for Flow: size mismatch for weight"),
    ValueError("CUDA error: said by somebody else"),
    KeyError("flow"),
]


@pytest.mark.parametrize("error", OF_DEVICES, ids=lambda error: str(error)[:30])
def test_failures_of_devices_are_known(error):
    assert is_of_device(error)


@pytest.mark.parametrize("error", OTHERS, ids=lambda error: str(error)[:30])
def test_other_errors_are_not_taken_for_them(error):
    assert not is_of_device(error)
    assert not is_of_memory(error)


@pytest.mark.parametrize("shape", [(2**42,), (2**60,), (2**40, 2**40)])
def test_lack_of_memory_is_known(shape):
    assert is_of_memory(MemoryError())
    assert is_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(RuntimeError) as refused:
        torch.empty(shape)
    assert is_of_memory(refused.value)


@pytest.mark.parametrize("device", ["meta", "cuda:4711", "gpu", "cpu:x", ""])
def test_a_device_that_cannot_draw_random_numbers_is_refused(device):
    with pytest.raises(ValueError, match="device"):
        check_device(device)


def test_the_cpu_is_always_there():
    assert check_device("cpu") == torch.device("cpu")
