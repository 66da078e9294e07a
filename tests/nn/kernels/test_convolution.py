"""Dense products, FFTs and sums over offsets compute the same convolution."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from torch import Tensor

from equiflow import Lattice, OrbitConvField, PotentialField, SymmetryGroup
from equiflow.nn.kernels.convolution import (
    CONVOLUTIONS,
    DENSE_VOLUME,
    DenseConvolution,
    DirectConvolution,
    FourierConvolution,
)
from tests.support.strategies import configurations, groups, kernel_sizes, lattices, randomise, seeds


def with_all_convolutions(group: SymmetryGroup, kernel_size: object = None) -> list[OrbitConvField]:
    """Return one field for each convolution, all with the same weights."""
    fields = []
    for convolution in ("dense", "fourier") if kernel_size is None else CONVOLUTIONS:
        field = OrbitConvField(
            group.lattice,
            group=group,
            kernel_size=kernel_size,
            n_frequencies=2,
            n_time_modes=2,
            max_frequency=3.0,
            convolution=convolution,
        )
        randomise(field.double(), seed=3)
        fields.append(field)
    return fields


def everything(field: OrbitConvField, seed: int) -> list[Tensor]:
    """Return velocity, divergence, score rate and all gradients."""
    phi, score = (configurations(field.lattice, seed=seed + i) for i in (0, 1))
    phi.requires_grad_()
    rates = field.path_rates(phi, 0.3, score)
    velocity, divergence = field.velocity_and_divergence(phi, 0.3)
    scalar = (velocity * score).sum() + divergence.sum() + rates.velocity.square().sum()
    gradients = torch.autograd.grad(scalar, [phi, *field.parameters()])
    return [velocity, divergence, rates.divergence, rates.score_rate, *gradients]


def mismatch(fields: list[OrbitConvField], seed: int) -> float:
    """Return the largest difference between the fields, relative to the size of each result."""
    results = zip(*(everything(field, seed) for field in fields), strict=True)
    return max(
        float(((a - b).abs().max() / (1 + a.abs().max())).detach()) for a, *others in results for b in others
    )


@given(
    lattices(max_volume=24)
    .flatmap(groups)
    .flatmap(lambda group: kernel_sizes(group.lattice).map(lambda size: (group, size))),
    seeds,
)
@example((SymmetryGroup(Lattice((3, 4)), "trivial"), 2), 0)  # without inversion, ahead is not behind
def test_all_convolutions_agree(case, seed):
    assert mismatch(with_all_convolutions(*case), seed) < 1e-12


@pytest.mark.parametrize("point", ["full", "trivial"])
def test_the_agreement_sees_a_transposed_matrix(point, monkeypatch):
    group = SymmetryGroup(Lattice((3, 4)), point)
    differences = Lattice.differences
    monkeypatch.setattr(Lattice, "differences", lambda self: differences(self).mT.contiguous())
    assert (mismatch(with_all_convolutions(group), 0) > 1e-3) is (point == "trivial")


@pytest.mark.parametrize("point", ["full", "trivial"])
def test_the_agreement_sees_a_shift_in_the_wrong_direction(point, monkeypatch):
    group = SymmetryGroup(Lattice((3, 4)), point)
    window = DirectConvolution._window
    monkeypatch.setattr(
        DirectConvolution, "_window", lambda self, field, by: window(self, field, [-x for x in by])
    )
    assert (mismatch(with_all_convolutions(group, 2), 0) > 1e-3) is (point == "trivial")


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((10, 10), None, DenseConvolution),
        ((10, 10), 3, DenseConvolution),
        ((11, 11), None, FourierConvolution),
        ((11, 11), 3, DirectConvolution),
        ((11, 11), 2, DirectConvolution),
        ((11, 11), 4, FourierConvolution),
        ((101,), 3, DirectConvolution),
        ((5, 5, 5), 3, DirectConvolution),
        ((4, 4, 4, 4), 3, FourierConvolution),
    ],
)
def test_the_fastest_convolution_is_chosen_by_volume_and_offsets(shape, size, expected):
    assert type(OrbitConvField(Lattice(shape), kernel_size=size).kernel.convolution) is expected
    assert 10**2 <= DENSE_VOLUME < 11**2


@pytest.mark.parametrize("point", ["full", "trivial"])
def test_products_of_kernels_are_sums_over_offsets(point):
    fields = with_all_convolutions(SymmetryGroup(Lattice((4, 5)), point), 3)
    values = fields[0].kernel.values().flatten(2)
    for field in fields:
        operand = field.kernel(torch.tensor([1.0, 0.0], dtype=torch.float64)).operand.detach()
        products = field.kernel.convolution.products(operand)
        torch.testing.assert_close(products, values[0] @ values[0].mT, rtol=1e-12, atol=1e-12)


def test_kernels_whose_operands_are_joined_share_a_convolution():
    field = PotentialField(Lattice((11, 11)), kernel_size=3)
    assert type(field.kernel.convolution) is type(field.linear.convolution) is FourierConvolution
    assert field.velocity(torch.randn(2, 11, 11), 0.3).shape == (2, 11, 11)


def test_kernels_that_span_the_lattice_do_not_act_directly():
    with pytest.raises(ValueError, match="give a kernel_size"):
        OrbitConvField(Lattice((4, 4)), convolution="direct")


def test_an_unknown_convolution_is_refused():
    with pytest.raises(
        ValueError, match="Unknown convolution 'sparse'; expected auto, dense, direct, fourier"
    ):
        OrbitConvField(Lattice((4, 4)), convolution="sparse")


def test_matrices_follow_the_precision_of_the_field():
    rough = OrbitConvField(Lattice((4, 4)), convolution="dense")
    randomise(rough, seed=0)
    rough.velocity(torch.randn(2, 4, 4), 0.2)
    exact = OrbitConvField(Lattice((4, 4)), convolution="fourier").double()
    exact.load_state_dict(rough.double().state_dict())
    phi = configurations(rough.lattice)
    assert (rough.velocity(phi, 0.2) - exact.velocity(phi, 0.2)).abs().max() < 1e-14
