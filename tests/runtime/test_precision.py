"""Autocast, default dtypes and float32 weights do not change the precision that a computation asks for."""

from __future__ import annotations

import pytest
import torch

from equiflow.runtime.precision import default_dtype, full_precision, in_double


def product(x: torch.Tensor) -> torch.Tensor:
    return x @ x


def test_autocast_rounds_and_full_precision_does_not():
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert product(x).dtype == torch.bfloat16
        assert full_precision(product)(x).dtype == torch.float32
        assert product(x).dtype == torch.bfloat16  # outside of the call autocast is still on


def test_the_default_dtype_is_given_back_even_after_an_error():
    def fail() -> None:
        with default_dtype(torch.float32):
            assert torch.get_default_dtype() == torch.float32
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.get_default_dtype() == torch.float64


def test_a_float32_module_is_copied_and_a_float64_module_is_not():
    single, double = torch.nn.Linear(2, 2, dtype=torch.float32), torch.nn.Linear(2, 2, dtype=torch.float64)
    double.register_buffer("count", torch.tensor(3))  # an integer has no precision
    assert in_double(double) is double
    copy = in_double(single)
    assert {p.dtype for p in copy.parameters()} == {torch.float64}
    assert {p.dtype for p in single.parameters()} == {torch.float32}
    assert torch.equal(copy.weight.float(), single.weight)
    double.register_buffer("constant", torch.ones(1, dtype=torch.float32))
    assert in_double(double) is not double
