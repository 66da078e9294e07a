"""Smooth kernels and spectra are the same functions of momentum on all lattices."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equiflow import (
    ConditionalFlow,
    EquivariantCNF,
    FreeField,
    Lattice,
    OrbitConvField,
    PotentialField,
    SmoothFreeField,
    Solver,
    SymmetryGroup,
    fused,
)
from equiflow.nn.kernels.orbits import MomentumKernel
from equiflow.nn.kernels.smooth import SmoothKernel
from equiflow.testing import randomise
from equiflow.theories.base.momentum_functions import SmoothFunctions
from tests.support.resizing import Pair, common_momenta_violation, pairs, spectrum, tiling_violation
from tests.support.strategies import configurations, groups, lattices, seeds


def smooth_kernel(lattice: Lattice, seed: int = 0) -> SmoothKernel:
    kernel = SmoothKernel(SymmetryGroup(lattice), 1, 1, convolution="fourier").double()
    randomise(kernel, seed=seed)
    return kernel


def modes(kernel: SmoothKernel) -> torch.Tensor:
    return torch.fft.fftn(kernel.values(), dim=kernel.lattice.axes).real[0, 0]


def smooth_field(lattice: Lattice, seed: int = 0, **options: object) -> PotentialField:
    field = PotentialField(
        lattice, kernels="smooth", n_ridges=3, n_time_modes=2, max_frequency=2.0, **options
    ).double()
    randomise(field, seed=seed)
    return field


def smooth_flow(lattice: Lattice, seed: int = 0) -> EquivariantCNF:
    flow = EquivariantCNF(lattice, vector_field=smooth_field(lattice), solver=Solver("rk4", steps=2)).double()
    randomise(flow, seed=seed)
    return flow


def violation(pair: Pair, resize: object, seed: int) -> float:
    kernel = smooth_kernel(pair.source, seed)
    other = smooth_kernel(pair.target)
    resize(other, kernel)
    return common_momenta_violation(pair.source, modes(kernel), pair.target, modes(other))


@given(pairs(), seeds)
def test_kernels_stay_the_same_functions_of_momentum(pair, seed):
    assert violation(pair, SmoothKernel.resize_from, seed) < 1e-10


def test_weights_that_are_copied_give_other_functions():
    pair = Pair((4, 4), Lattice((4, 4)), Lattice((8, 8)))
    assert violation(pair, lambda new, old: new.load_state_dict(old.state_dict()), 0) > 1e-2


@given(pairs(), seeds)
def test_spectra_stay_the_same_functions_of_momentum(pair, seed):
    prior = SmoothFreeField(pair.source).double()
    randomise(prior, seed=seed)
    other = prior.resized(pair.target)
    found = common_momenta_violation(pair.source, spectrum(prior), pair.target, spectrum(other))
    assert found < 1e-10


@given(pairs(), seeds)
def test_velocities_of_periodic_fields_stay_the_same(pair, seed):
    field = smooth_field(pair.source, seed)
    assert tiling_violation(pair, field, field.resized(pair.target), 0.3, seed) < 1e-9


@given(lattices(max_dim=2), seeds)
def test_weights_come_back_from_a_larger_lattice(lattice, seed):
    kernel = smooth_kernel(lattice, seed)
    larger, back = smooth_kernel(Lattice(tuple(4 * n + 1 for n in lattice.shape))), smooth_kernel(lattice)
    larger.resize_from(kernel)
    back.resize_from(larger)
    torch.testing.assert_close(back.weight, kernel.weight, rtol=1e-9, atol=1e-9)


@given(groups(Lattice((4, 5))), seeds)
def test_the_value_at_the_origin_is_the_mean_of_the_modes(group, seed):
    kernel = SmoothKernel(group, 2, 3, convolution="fourier").double()
    randomise(kernel, seed=seed)
    now = kernel(torch.tensor([1.0, 0.3]).double())
    in_space = group.lattice.ifft(now.operand + 0j)
    torch.testing.assert_close(now.at_origin, in_space[:, 0, 0])
    assert all(torch.allclose(g(in_space), in_space, rtol=0, atol=1e-12) for g in group.point_elements)


@pytest.mark.parametrize("shape", [(7,), (8, 8), (4, 6), (4, 4, 4)])
def test_values_determine_the_kernel(shape):
    kernel, other = smooth_kernel(Lattice(shape)), smooth_kernel(Lattice(shape), 1)
    assert not torch.allclose(other.values(), kernel.values())
    other.set_values(kernel.values())
    torch.testing.assert_close(other.values(), kernel.values(), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("build", [PotentialField, OrbitConvField])
def test_the_number_of_weights_does_not_depend_on_the_size(build):
    counts = {
        kernels: [
            sum(p.numel() for p in build(Lattice((side, side)), kernels=kernels).parameters())
            for side in (4, 16, 40)
        ]
        for kernels in ("smooth", "orbits")
    }
    assert len(set(counts["smooth"])) == 1
    assert len(set(counts["orbits"])) == 3


def test_combinations_that_a_lattice_hardly_sees_are_small_on_all_lattices():
    """Else training would move them at random, and a larger lattice would show it."""
    small, large = SmoothFunctions(Lattice((8, 8))), SmoothFunctions(Lattice((64, 64)))
    weights = torch.eye(len(small), dtype=torch.float64)
    on_large = small.carry(weights, large.lattice) @ large.values.flatten(1)
    # A weight of 1 moves no mode of either lattice by much more than that.
    assert 0.2 < float(small.values.abs().max()) < 2
    assert float(on_large.abs().max()) < 3
    # Functions of like size on the small lattice, without the damping, would.
    of_small = small.values.flatten(1)
    eigenvalues, vectors = torch.linalg.eigh(of_small @ of_small.mT / of_small.shape[1])
    undamped = vectors[:, :1].mT / eigenvalues[0].clamp(min=1e-12).sqrt()
    assert float((undamped @ on_large).abs().max()) > 100


def test_a_step_moves_kernels_of_momentum_space_alike():
    """Equal weights of all functions change no mode by more than a few times the step."""
    for side in (4, 16, 64):
        values = SmoothFunctions(Lattice((side, side))).values
        assert 0.5 < float(values.square().sum(0).max().sqrt()) < 3


def test_a_field_takes_a_spectrum_of_the_same_kind():
    lattice = Lattice((4, 4))
    flow = EquivariantCNF(lattice, vector_field=PotentialField(lattice, kernels="smooth"))
    assert isinstance(flow.prior, SmoothFreeField)
    plain = EquivariantCNF(lattice, vector_field=PotentialField(lattice, kernels="orbits"))
    assert isinstance(plain.prior, FreeField)
    assert isinstance(plain.vector_field.linear, MomentumKernel)
    given = EquivariantCNF(lattice, vector_field=flow.vector_field, prior=FreeField(lattice))
    assert isinstance(given.prior, FreeField)


@pytest.mark.parametrize("z2", [True, False])
def test_flows_are_saved_with_their_kernels(tmp_path, z2):
    lattice = Lattice((4, 6))
    field = PotentialField(lattice, kernels="smooth", group=SymmetryGroup(lattice, z2=z2), n_ridges=4)
    flow = EquivariantCNF(lattice, vector_field=field)
    randomise(flow, seed=3)
    flow.save(tmp_path / "flow.pt")
    loaded = EquivariantCNF.load(tmp_path / "flow.pt")
    noise = [torch.Generator().manual_seed(1) for _ in range(2)]
    torch.testing.assert_close(loaded.sample(3, generator=noise[0]), flow.sample(3, generator=noise[1]))
    assert loaded.vector_field.config()["kernels"] == "smooth"


def test_flows_saved_before_there_was_a_choice_have_kernels_of_orbits():
    flow = EquivariantCNF.pretrained("phi4-2d-L8")
    assert isinstance(flow.vector_field.linear, MomentumKernel)
    assert isinstance(flow.prior, FreeField)


def test_conditional_flows_are_resized_at_every_coupling():
    conditional = ConditionalFlow(smooth_flow(Lattice((3, 4))), {"lam": (4.0, 6.0)}, degree=2)
    randomise(conditional, seed=5)
    larger = Lattice((5, 8))
    expected, found = conditional.at(lam=4.3).resized(larger), conditional.resized(larger).at(lam=4.3)
    for (name, wanted), got in zip(expected.named_parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("convolution", ["dense", "fourier"])
def test_kernels_computed_by_numba_agree(convolution):
    if not fused.in_use():
        pytest.skip("needs numba")
    lattice = Lattice((6, 6))
    flow = EquivariantCNF(
        lattice, vector_field=smooth_field(lattice, convolution=convolution), solver=Solver("rk4", steps=3)
    ).double()
    phi = configurations(lattice)
    assert "fused kernels" in repr(flow)
    found = flow.solve(phi, 0.0, 1.0).state
    with fused.switched(False):
        expected = flow.solve(phi, 0.0, 1.0).state
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@given(st.sampled_from([(5,), (4, 4), (3, 6)]), seeds)
def test_the_score_of_the_spectrum_is_its_derivative(shape, seed):
    prior = SmoothFreeField(Lattice(shape)).double()
    randomise(prior, seed=seed)
    z = configurations(Lattice(shape), 2, seed)
    found = prior.parameter_score(z)
    for row, one in zip(found, z.split(1), strict=True):
        (expected,) = torch.autograd.grad(prior.log_prob(one).sum(), prior.weight)
        torch.testing.assert_close(row, expected, rtol=1e-9, atol=1e-9)
    assert SmoothFreeField(Lattice(shape), learnable=False).double().parameter_score(z).shape == (2, 0)


@pytest.mark.parametrize("build", [PotentialField, OrbitConvField])
def test_kernels_of_another_kind_or_size_are_refused(build):
    lattice = Lattice((4, 4))
    with pytest.raises(ValueError, match=r"Unknown kernels 'rough'; expected 'orbits' or 'smooth'"):
        build(lattice, kernels="rough")
    with pytest.raises(ValueError, match='kernels="smooth" span the lattice, got kernel_size=3'):
        build(lattice, kernels="smooth", kernel_size=3)


def test_functions_know_directions():
    """Momenta of equal `phat^2` but different directions are told apart, those of equal orbits are not."""
    lattice = Lattice((8, 8))
    values = SmoothFunctions(lattice).values
    squared = lattice.squared_momenta()
    assert torch.allclose(squared[0, 4], squared[2, 2])
    assert not torch.allclose(values[:, 0, 4], values[:, 2, 2], atol=1e-2)
    for a, b in itertools.product((3, -3), (1, -1)):
        torch.testing.assert_close(values[:, a, b], values[:, 1, 3])
