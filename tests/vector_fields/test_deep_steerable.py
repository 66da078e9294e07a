"""Deep fields with steerable channels obey every law, and planted mistakes are seen."""

from __future__ import annotations

import sys

import pytest
import torch

from equiflow import DeepSteerableField, EquivariantCNF, Lattice, Phi4, Solver, SymmetryGroup, fit
from equiflow.nn.traces import far_apart
from equiflow.testing import (
    assert_divergence_exact,
    assert_vector_field,
    check_vector_field,
    equivariance_error,
    randomise,
)
from tests.support.saved_flows import assert_saved_flow_loads_bitwise_equal
from tests.support.strategies import configurations, needs


def random_field(shape=(3, 3), *, point="full", z2=True, **options) -> DeepSteerableField:
    lattice = Lattice(shape)
    options = {"multiplicity": 1, "n_layers": 1, "n_time_modes": 2, "max_frequency": 3.0} | options
    field = DeepSteerableField(lattice, group=SymmetryGroup(lattice, point, z2), **options).double()
    randomise(field)
    return field


@needs("escnn")
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((3, 3), {"representation": ["trivial", "vector"]}),
        ((4, 2), {"point": "rotations", "z2": False}),
        ((2, 2), {"representation": ["trivial", "regular"]}),
        ((1, 4), {}),
        pytest.param((4, 4), {"multiplicity": 2}, marks=pytest.mark.slow),
        pytest.param((6, 6), {"representation": "irrep_1,2", "kernel_size": 4}, marks=pytest.mark.slow),
        pytest.param((5, 5), {"point": "C4", "n_layers": 2}, marks=pytest.mark.slow),
        pytest.param((5, 4), {"point": "inversion"}, marks=pytest.mark.slow),
    ],
)
def test_every_law_holds(shape, options):
    report = check_vector_field(random_field(shape, **options))
    assert report.ok, str(report)


@needs("escnn")
@pytest.mark.parametrize("shape", [(2, 3), (2, 2)])
def test_laws_hold_after_training(shape):
    lattice = Lattice(shape)
    field = DeepSteerableField(lattice, multiplicity=1, n_layers=1, trace="hutchinson")
    flow = EquivariantCNF(lattice, vector_field=field, solver=Solver("rk4", steps=2))
    history = fit(flow, Phi4(lattice, m2=-4.0, lam=8.0), steps=8, batch_size=32, warmup=0, progress=False)
    assert len(history) == 8
    assert bool(field.descend.weight.any())
    assert_vector_field(field.with_trace("dense"))


@needs("escnn")
def test_an_untrained_field_stands_still_and_can_start():
    field = DeepSteerableField(Lattice((4, 4)))
    phi = configurations(field.lattice)
    velocity = field.velocity(phi, 0.3)
    assert not velocity.any()
    (phi * velocity).sum().backward()
    assert field.descend.weight.grad.abs().max() > 1e-3


@needs("escnn")
@torch.no_grad()
def test_a_layer_keeps_the_size_of_its_channels_at_the_start():
    field = DeepSteerableField(Lattice((8, 8)), representation=["regular", "vector"], multiplicity=8)
    u = torch.randn(4, 80, 8, 8, generator=torch.Generator().manual_seed(0))
    out = field.layers[0](u, field.time_basis(0.0))
    assert 0.8 < float(out.std() / u.std()) < 1.25


@needs("escnn")
def test_a_saved_flow_loads_bitwise_equal(tmp_path):
    field = random_field((3, 2), representation=["trivial", "regular"])
    assert_saved_flow_loads_bitwise_equal(field, tmp_path)


@needs("escnn")
def test_the_exact_trace_takes_as_many_products_as_the_layers_reach():
    field = random_field((7, 8), n_layers=1, kernel_size=(3, 2), point="reflections")
    assert field.reach == (3, 3)
    assert len(far_apart((7, 8), field.reach)) == 7 * 4
    assert_divergence_exact(field)
    wide = random_field((10, 4), representation="vector")
    assert (wide.reach, len(far_apart((10, 4), wide.reach))) == ((3, 3), 5 * 4)
    assert_divergence_exact(wide)
    wide.descend.reach = (0, 0)  # planted
    with pytest.raises(AssertionError, match="divergence minus dense trace"):
        assert_divergence_exact(wide)


@needs("escnn")
def test_planted_mistakes_are_seen():
    field = random_field()
    noise = torch.randn(field.layers[0].basis.shape, generator=torch.Generator().manual_seed(0))
    field.layers[0].basis.mul_(1 + 1e-6 * noise)  # as rounded as escnn's own kernels
    errors = equivariance_error(field)
    assert max(error for name, error in errors.items() if name.startswith("rotation")) > 1e-9
    assert errors["translation along axis 0"] < 1e-12
    shifted = random_field()
    stencil = shifted.descend.stencil
    stencil._ahead, stencil._behind = (sites.roll(1, 0) for sites in (stencil._ahead, stencil._behind))
    assert max(equivariance_error(shifted).values()) > 1e-3
    even = random_field(z2=False)
    assert equivariance_error(even, group=SymmetryGroup(even.lattice))["Z2 phi -> -phi"] > 1e-3


@needs("escnn")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"lattice": Lattice((3, 3, 3))}, ValueError, "two dimensions"),
        ({"representation": "spin"}, ValueError, "expected at least one of trivial, regular"),
        ({"kernel_size": 9}, ValueError, "does not fit the lattice"),
        ({"n_layers": 0}, ValueError, "n_layers must be an integer >= 1"),
        ({"representation": "vector", "kernel_size": 1}, ValueError, "No steerable kernel"),
        ({"trace": "exact"}, ValueError, "Unknown trace"),
    ],
)
def test_impossible_fields_are_refused(change, error, message):
    options = {"lattice": Lattice((4, 4))} | change
    with pytest.raises(error, match=message):
        DeepSteerableField(options.pop("lattice"), **options)


def test_without_escnn_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "escnn", None)
    with pytest.raises(ImportError, match=r"pip install '\.\[steerable\]'"):
        DeepSteerableField(Lattice((4, 4)), representation=["trivial"])
