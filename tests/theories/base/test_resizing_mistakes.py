"""Planted mistakes in resizing, each seen by one of its laws."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from equiflow.nn.kernels.orbits import MomentumKernel, OffsetKernel, OrbitKernel
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.resizing import momenta_on, offsets_on
from equiflow.theories.base.symmetry import SymmetryGroup
from equiflow.theories.scalar.priors import FreeField
from tests.support.resizing import (
    Pair,
    common_momenta_violation,
    field_on,
    locality_violation,
    log_ratio,
    random_prior,
    reflection_violation,
    spectrum,
    tiling_violation,
)
from tests.support.strategies import POINT_GROUPS


def unsplit(kernel: Tensor, source: Lattice, target: Lattice) -> Tensor:
    """Put the whole value of the offset L/2 on one side."""
    index = torch.arange(max(source.shape))
    for axis, old, new in zip(source.axes, source.shape, target.shape, strict=True):
        if old != new:
            signed = torch.where(index <= old // 2, index, index - old)[:old]
            carried = kernel.new_zeros(
                [new if a - kernel.dim() == axis else n for a, n in enumerate(kernel.shape)]
            )
            kernel = carried.index_add_(kernel.dim() + axis, signed % new, kernel)
    return kernel


def counted_twice(kernel: Tensor, source: Lattice, target: Lattice) -> Tensor:
    """Put the whole value of the offset L/2 on both sides."""
    for axis, old, new in zip(source.axes, source.shape, target.shape, strict=True):
        if old % 2 == 0 and old != new:
            kernel = kernel.clone()
            kernel.select(axis, old // 2).mul_(2)
    return offsets_on(kernel, source, target)


def unsigned(kernel: Tensor, source: Lattice, target: Lattice) -> Tensor:
    """Carry offsets by their index, so that -1 lands far away."""
    for axis, old, new in zip(source.axes, source.shape, target.shape, strict=True):
        carried = kernel.new_zeros(
            [new if a - kernel.dim() == axis else n for a, n in enumerate(kernel.shape)]
        )
        kernel = carried.index_add_(kernel.dim() + axis, torch.arange(old) % new, kernel)
    return kernel


def cropped(kernel: Tensor, source: Lattice, target: Lattice) -> Tensor:
    """Drop the offsets that the smaller lattice lacks, instead of adding them to others."""
    for axis, old, new in zip(source.axes, source.shape, target.shape, strict=True):
        if new < old:
            index = torch.arange(old)
            distance = torch.minimum(index, old - index)
            keep = (2 * distance <= new).to(kernel).reshape((-1,) + (1,) * (-axis - 1))
            kernel = kernel * keep
    return offsets_on(kernel, source, target)


def by_index(values: Tensor, source: Lattice, target: Lattice) -> Tensor:
    """Carry momenta by their index."""
    for axis, old, new in zip(source.axes, source.shape, target.shape, strict=True):
        values = values.index_select(axis, torch.arange(new) % old)
    return values


def plant(monkeypatch: pytest.MonkeyPatch, right: object, wrong: object) -> None:
    """Replace a function wherever the package has imported it."""
    places = [
        (module, name)
        for key, module in list(sys.modules.items())
        if key.split(".")[0] == "equiflow"
        for name, value in vars(module).items()
        if value is right
    ]
    assert len(places) > 1
    for module, name in places:
        monkeypatch.setattr(module, name, wrong)


def tiling(shape: tuple[int, ...], target: tuple[int, ...], cell: tuple[int, ...], point: str) -> float:
    pair = Pair(cell, Lattice(shape), Lattice(target))
    field = field_on(SymmetryGroup(pair.source, point))
    return tiling_violation(pair, field, field.resized(pair.target), 0.3, 0)


@pytest.mark.parametrize("point", POINT_GROUPS)
@pytest.mark.parametrize(
    ("wrong", "shape", "target"),
    [(counted_twice, (4, 4), (8, 8)), (cropped, (8, 8), (4, 4)), (cropped, (6, 6), (2, 2))],
)
def test_offsets_lost_or_counted_twice_are_seen_by_the_law_of_periodic_fields(
    monkeypatch, wrong, shape, target, point
):
    cell = tuple(map(min, shape, target))
    assert tiling(shape, target, cell, point) < 1e-12
    plant(monkeypatch, offsets_on, wrong)
    assert tiling(shape, target, cell, point) > 1e-3


@pytest.mark.parametrize(
    ("point", "kind", "shape", "target"),
    [
        ("full", MomentumKernel, (4, 4), (8, 8)),
        ("full", MomentumKernel, (8, 8), (4, 4)),
        ("full", MomentumKernel, (3,), (6,)),
        ("trivial", OffsetKernel, (4, 4), (8, 8)),
        ("trivial", OffsetKernel, (8, 8), (4, 4)),
    ],
)
def test_weights_copied_by_their_index_are_seen_by_the_law_of_periodic_fields(
    monkeypatch, point, kind, shape, target
):
    def by_orbit(self: OrbitKernel, other: OrbitKernel) -> None:
        n = min(self.weight.shape[-1], other.weight.shape[-1])
        with torch.no_grad():
            self.weight.zero_()[..., :n].copy_(other.weight[..., :n])

    cell = tuple(map(min, shape, target))
    assert isinstance(field_on(SymmetryGroup(Lattice(shape), point)).kernel, kind)
    assert tiling(shape, target, cell, point) < 1e-12
    monkeypatch.setattr(OrbitKernel, "resize_from", by_orbit)
    assert tiling(shape, target, cell, point) > 1e-3


@pytest.mark.parametrize("point", POINT_GROUPS)
@pytest.mark.parametrize("shape", [(5,), (5, 5), (6, 8)])
def test_offsets_without_sign_are_seen_by_the_law_of_localised_fields(monkeypatch, point, shape):
    target = Lattice(tuple(side + 3 for side in shape))
    field = field_on(SymmetryGroup(Lattice(shape), point))
    assert locality_violation(field, field.resized(target), 0.3, 0) < 1e-12
    plant(monkeypatch, offsets_on, unsigned)
    assert locality_violation(field, field.resized(target), 0.3, 0) > 1e-3


@pytest.mark.parametrize(("shape", "target"), [((4,), (7,)), ((4, 4), (6, 5)), ((2, 3, 2), (4, 4, 3))])
def test_an_unsplit_last_offset_is_seen_by_reflections_and_by_nothing_else(monkeypatch, shape, target):
    pair = Pair((1,) * len(shape), Lattice(shape), Lattice(target))
    assert reflection_violation(unsplit, pair, 0) > 1e-2
    symmetric, trivial = (field_on(SymmetryGroup(pair.source, point)) for point in ("full", "trivial"))
    trivial.kernel.set_values(symmetric.kernel.values())
    reflections = SymmetryGroup(pair.target, "reflections").point_elements

    def asymmetry() -> float:
        values = trivial.resized(pair.target).kernel.values()
        return max(float((g(values) - values).abs().max()) for g in reflections)

    assert asymmetry() < 1e-14
    expected = symmetric.resized(pair.target).kernel.values()
    plant(monkeypatch, offsets_on, unsplit)
    assert asymmetry() > 1e-3
    # The average over the orbits of a group with reflections splits the offset, too.
    torch.testing.assert_close(symmetric.resized(pair.target).kernel.values(), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("shape", "target"), [((4,), (8,)), ((4, 4), (8, 8)), ((6, 4), (3, 2)), ((4, 6), (6, 4))]
)
def test_a_spectrum_copied_by_index_is_seen_at_the_common_momenta(monkeypatch, shape, target):
    prior, target = random_prior(SymmetryGroup(Lattice(shape))), Lattice(target)

    def violation() -> float:
        return common_momenta_violation(
            prior.lattice, spectrum(prior), target, spectrum(prior.resized(target))
        )

    assert violation() < 1e-13
    plant(monkeypatch, momenta_on, by_index)
    assert violation() > 1e-2


def test_a_spectrum_that_shoots_over_is_seen_by_its_extremes(monkeypatch):
    def shooting_over(values: Tensor, source: Lattice, target: Lattice) -> Tensor:
        return torch.fft.fftn(offsets_on(torch.fft.ifftn(values).real, source, target)).real

    prior = FreeField(Lattice((8,))).double()
    with torch.no_grad():
        prior.log_sigma[:3] += 1.0  # the first orbits are those of |k| <= 2: a step
    assert float(log_ratio(prior.resized(Lattice((24,)))).max()) == pytest.approx(1.0, abs=1e-13)
    plant(monkeypatch, momenta_on, shooting_over)
    assert float(log_ratio(prior.resized(Lattice((24,)))).max()) > 1.05
