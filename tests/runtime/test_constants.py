"""Constants keep all digits, whatever their module is cast to, and are never stale."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from equiflow import Lattice, OrbitConvField, SymmetryGroup
from equiflow.nn.irreps.e3nn_kernels import HarmonicBasis
from equiflow.nn.kernels.convolution import FourierConvolution
from equiflow.nn.kernels.orbits import MomentumKernel, OffsetKernel, OrbitKernel
from equiflow.nn.particles import Neighbourhood
from equiflow.runtime.constants import RoundedConstants
from equiflow.testing import randomise
from tests.support.strategies import is_there

DTYPES = (torch.float32, torch.float64)


class Thirds(nn.Module):
    """A module with the constants 1/3 and 2/3, which counts how often they are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("as_buffer", exact_thirds()[0], persistent=False)
        self.rounded = RoundedConstants()
        self.n_computed = 0

    def compute(self) -> list[Tensor]:
        self.n_computed += 1
        return exact_thirds()

    def constants(self) -> list[Tensor]:
        return self.rounded.like(self.weight, self.compute)


def exact_thirds() -> list[Tensor]:
    return [torch.arange(3, dtype=torch.float64) / 3, torch.tensor(2 / 3, dtype=torch.float64)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, *DTYPES])
def test_constants_follow_the_dtype(dtype):
    found = Thirds().to(dtype).constants()
    torch.testing.assert_close(found, [value.to(dtype) for value in exact_thirds()], rtol=0, atol=0)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_constants_follow_the_device(device):
    module = Thirds()
    module.constants()
    assert {value.device.type for value in module.to(device).constants()} == {device}
    assert {value.device.type for value in module.to_empty(device="cpu").constants()} == {"cpu"}


def test_a_cast_to_float32_and_back_loses_no_digit_of_a_constant_but_some_of_a_buffer():
    module = Thirds()
    for dtype in (torch.float32, torch.float64):
        module.to(dtype).constants()
    torch.testing.assert_close(module.constants(), exact_thirds(), rtol=0, atol=0)
    assert not torch.equal(module.get_buffer("as_buffer"), exact_thirds()[0])


def test_constants_are_computed_once_for_each_dtype_and_device():
    module = Thirds()
    for dtype in (*DTYPES, *DTYPES):
        module.to(dtype)
        first, second = module.constants(), module.constants()
        assert all(a is b for a, b in zip(first, second, strict=True))
    assert module.n_computed == len(DTYPES)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))], ids=["deepcopy", "pickle"]
)
def test_copies_have_constants_of_their_own(copied):
    module = Thirds()
    before = module.constants()
    other = copied(module)
    torch.testing.assert_close(other.constants(), exact_thirds(), rtol=0, atol=0)
    assert not any(a is b for a, b in zip(other.constants(), before, strict=True))
    other.float()
    torch.testing.assert_close(other.constants(), [x.float() for x in exact_thirds()], rtol=0, atol=0)
    assert (module.n_computed, other.n_computed) == (1, 2)
    assert all(a is b for a, b in zip(module.constants(), before, strict=True))


def test_constants_are_not_in_the_state_dict():
    module = Thirds()
    module.constants()
    assert list(module.state_dict()) == ["weight"]
    module.load_state_dict(Thirds().state_dict())


def test_constants_first_asked_for_in_inference_mode_serve_training():
    module = Thirds()
    with torch.inference_mode():
        module.constants()
    (module.weight.sum() * module.constants()[1]).backward()
    torch.testing.assert_close(module.weight.grad, torch.full((2,), 2 / 3))


def test_tensors_made_in_inference_mode_do_not_serve_training():
    weight = nn.Parameter(torch.zeros(2))
    with torch.inference_mode():
        made = torch.tensor(2 / 3)
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        (weight * made).sum().backward()


def kernels() -> list[OrbitKernel]:
    group = SymmetryGroup(Lattice((3, 4)))
    found = [MomentumKernel(group, 2, 3), OffsetKernel(group, 2, 3, 3, convolution="dense")]
    for seed, kernel in enumerate(found):
        randomise(kernel, seed=seed)
    return found


def operand(kernel: OrbitKernel) -> Tensor:
    return kernel(kernel.weight.new_tensor([1.0, 0.5])).operand.detach()


@pytest.mark.parametrize("n", [0, 1])
def test_dense_kernels_are_those_of_their_weights_after_any_cast_or_load(n):
    kernel, fresh = kernels()[n], kernels()[n]
    operand(kernel)
    rounded = kernel.weight.detach().float().double()
    operand(kernel.float())
    kernel.double()
    fresh.load_state_dict({"weight": rounded})
    torch.testing.assert_close(operand(kernel), operand(fresh), rtol=0, atol=0)
    doubled = {"weight": 2 * rounded}
    kernel.load_state_dict(doubled)
    torch.testing.assert_close(operand(kernel), 2 * operand(fresh), rtol=1e-15, atol=1e-15)
    assert list(kernel.state_dict()) == ["weight"]


@pytest.mark.parametrize("n", [0, 1])
def test_dense_kernels_follow_the_device(n, device):
    kernel = kernels()[n]
    expected = operand(kernel)
    found = operand(kernel.to(device))
    assert found.device.type == device.type
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("n", [0, 1])
def test_a_deep_copy_of_a_dense_kernel_acts_alike(n):
    kernel = kernels()[n]
    expected = operand(kernel)
    torch.testing.assert_close(operand(copy.deepcopy(kernel)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_of_modes_take_the_dtype_of_their_modes(dtype):
    lattice = Lattice((3, 4))
    convolution = FourierConvolution(lattice)
    kernel = torch.randn(2, *lattice.shape, generator=torch.Generator().manual_seed(0))
    expected = kernel.flatten(1) @ kernel.flatten(1).mT
    for current in (torch.float32, torch.float64, dtype):
        products = convolution.products(lattice.fft(kernel.to(current)))
        assert products.dtype == current
        torch.testing.assert_close(products.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_field_cast_to_float32_and_back_has_the_velocity_of_its_rounded_weights():
    lattice = Lattice((4, 4))
    phi = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(1))
    field, fresh = (
        OrbitConvField(lattice, convolution="fourier"),
        OrbitConvField(lattice, convolution="fourier"),
    )
    randomise(field, seed=0)
    field.float().velocity(phi.float(), 0.2)
    fresh.load_state_dict(field.double().state_dict())
    torch.testing.assert_close(field.velocity(phi, 0.2), fresh.velocity(phi, 0.2), rtol=0, atol=0)


needs_e3nn = pytest.mark.skipif(not is_there("e3nn"), reason="needs e3nn")


@needs_e3nn
@pytest.mark.parametrize("dtype", DTYPES)
def test_harmonics_are_rounded_from_float64_once_for_each_dtype(dtype):
    basis = HarmonicBasis(SymmetryGroup(Lattice((3, 3, 3))), "1x0e + 1x1o", 3)
    weight = torch.zeros((), dtype=torch.float32)
    for current in (torch.float64, torch.float32, dtype):
        found = basis.like(weight.to(current))
        expected = [functions.flatten(1).to(current) for functions in basis.functions.values()]
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert found is basis.like(weight.to(current))


@needs_e3nn
def test_the_couplings_of_harmonics_survive_a_cast_to_float32_and_back():
    cast = Neighbourhood(3, l_max=2, n_radial=2, widths=(0.5, 2.0))
    kept = Neighbourhood(3, l_max=2, n_radial=2, widths=(0.5, 2.0))
    assert cast.float().ladder(2).dtype == torch.float32
    torch.testing.assert_close(cast.double().ladder(2), kept.ladder(2), rtol=0, atol=0)
    assert list(kept.state_dict()) == ["log_width"]
    # Without this, the ladder would be right by chance: its entries are no float32 numbers.
    assert not torch.equal(kept.ladder(2).float().double(), kept.ladder(2))
