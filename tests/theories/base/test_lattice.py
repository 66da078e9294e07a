from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from equiflow.theories.base.lattice import Lattice
from tests.support.strategies import configurations, lattices, seeds


def minus_laplacian(lattice: Lattice, phi: Tensor) -> Tensor:
    return sum(2 * phi - phi.roll(1, mu) - phi.roll(-1, mu) for mu in lattice.axes)


def laplacian_mismatch(lattice: Lattice, squared_momenta: Tensor) -> float:
    phi = configurations(lattice)
    by_modes = lattice.ifft(lattice.fft(phi) * lattice.half(squared_momenta))
    return float((by_modes - minus_laplacian(lattice, phi)).abs().max())


@given(lattices(), seeds)
def test_ifft_inverts_fft(lattice, seed):
    phi = configurations(lattice, seed=seed)
    torch.testing.assert_close(lattice.ifft(lattice.fft(phi)), phi, rtol=0, atol=1e-13)


@given(lattices(), seeds)
def test_half_multiplicity_makes_parseval_hold(lattice, seed):
    phi = configurations(lattice, seed=seed)
    modes = lattice.half_multiplicity() * lattice.fft(phi).abs() ** 2
    expected = phi.square().sum(lattice.axes)
    torch.testing.assert_close(modes.sum(lattice.axes) / lattice.volume, expected)


def test_parseval_fails_when_every_mode_counts_once():
    lattice = Lattice((3, 4))
    phi = configurations(lattice)
    once = (lattice.fft(phi).abs() ** 2).sum(lattice.axes) / lattice.volume
    assert (once - phi.square().sum(lattice.axes)).abs().min() > 0.1


@given(lattices())
def test_half_multiplicity_counts_every_momentum_once(lattice):
    assert lattice.half_multiplicity().shape == lattice.half_shape
    assert lattice.half_multiplicity().sum() == lattice.volume == math.prod(lattice.shape)


@given(lattices())
def test_squared_momenta_diagonalise_the_lattice_laplacian(lattice):
    assert laplacian_mismatch(lattice, lattice.squared_momenta()) < 1e-12


def test_continuum_momenta_do_not_diagonalise_the_lattice_laplacian():
    lattice = Lattice((4, 6))
    grids = np.meshgrid(*(2 * np.pi * np.fft.fftfreq(n) for n in lattice.shape), indexing="ij")
    continuum = torch.from_numpy(sum(p**2 for p in grids))
    assert laplacian_mismatch(lattice, continuum) > 0.1


@given(lattices(max_volume=18))
def test_squared_momenta_are_the_spectrum_of_the_dense_laplacian(lattice):
    sites = torch.eye(lattice.volume).reshape(-1, *lattice.shape)
    dense = minus_laplacian(lattice, sites).flatten(1)
    spectrum = lattice.squared_momenta().flatten().sort().values
    torch.testing.assert_close(spectrum, torch.linalg.eigvalsh(dense), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "error"),
    [
        (4, TypeError),
        ("44", TypeError),
        ((4.0, 4), TypeError),
        ((True, 4), TypeError),
        ((), ValueError),
        ((4, 0), ValueError),
        ((-1,), ValueError),
    ],
)
def test_impossible_shapes_are_refused(shape, error):
    with pytest.raises(error, match=r"Lattice|lattice"):
        Lattice(shape)


def test_lattices_are_values():
    assert Lattice([4, 6]) == Lattice((4, 6)) != Lattice((6, 4))
    assert len({Lattice((4, 6)), Lattice([4, 6])}) == 1


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.bfloat16, torch.complex64])
def test_check_refuses_other_dtypes(dtype):
    with pytest.raises(TypeError, match=r"float32 or torch\.float64"):
        Lattice((3, 4)).check(torch.zeros(2, 3, 4, dtype=dtype))


@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 3), (2, 1, 3, 4), (12,), (2, 3, 4, 1)])
def test_check_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"expected \(batch, 3, 4\)"):
        Lattice((3, 4)).check(torch.zeros(shape))


def test_check_refuses_what_is_no_tensor():
    with pytest.raises(TypeError, match=r"torch\.Tensor, got ndarray"):
        Lattice((3,)).check(np.zeros((2, 3)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_check_finite_counts_the_bad_configurations(bad):
    phi = torch.zeros(5, 3, 4)
    phi[1, 2, 0] = phi[1, 0, 0] = phi[4, 1, 1] = bad
    with pytest.raises(ValueError, match="2 of 5 configurations"):
        Lattice((3, 4)).check_finite(phi)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_check_returns_good_fields_untouched(n):
    phi = torch.zeros(n, 3, 4)
    assert Lattice((3, 4)).check_finite(phi) is phi
