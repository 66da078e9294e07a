"""Fields with steerable channels obey every law, and planted mistakes are seen."""

from __future__ import annotations

import sys

import pytest
import torch

from equiflow.flows import EquivariantCNF
from equiflow.nn.pointwise.representations import FieldwisePointwise
from equiflow.testing import (
    assert_divergence_exact,
    assert_equivariant,
    assert_vector_field,
    check_vector_field,
    equivariance_error,
    randomise,
)
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.symmetry import SymmetryGroup
from equiflow.theories.scalar.phi4 import Phi4
from equiflow.training import fit
from equiflow.vector_fields import DeepSteerableField, SteerableField
from tests.support.saved_flows import assert_saved_flow_loads_bitwise_equal
from tests.support.strategies import configurations, needs


def random_field(shape=(4, 4), *, point="full", z2=True, seed=0, **options) -> SteerableField:
    lattice = Lattice(shape)
    options = {"multiplicity": 1, "n_time_modes": 2, "max_frequency": 3.0} | options
    field = SteerableField(lattice, group=SymmetryGroup(lattice, point, z2), **options).double()
    randomise(field, seed=seed)
    return field


@needs("escnn")
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((4, 4), {}),
        ((5, 5), {"representation": ["trivial", "vector"]}),
        ((6, 6), {"representation": ["irrep_1,2"], "kernel_size": 6}),
        ((6, 6), {"point": "C4", "kernel_size": 4}),
        ((5, 5), {"kernel_size": 2}),
        ((4, 6), {}),
        ((3, 6), {"point": "rotations", "z2": False}),
        ((5, 4), {"point": "inversion"}),
        ((5, 5), {"point": "reflections", "z2": False}),
        ((2, 2), {}),
        ((1, 4), {}),
    ],
)
def test_every_law_holds(shape, options):
    report = check_vector_field(random_field(shape, **options))
    assert report.ok, str(report)


@needs("escnn")
@pytest.mark.parametrize("shape", [(4, 4), (5, 5)])
def test_laws_hold_after_training_and_in_float32(shape):
    lattice = Lattice(shape)
    field = SteerableField(lattice, multiplicity=2).double()
    flow = EquivariantCNF(lattice, vector_field=field).double()
    history = fit(flow, Phi4(lattice, m2=-4.0, lam=8.0), steps=20, batch_size=32, warmup=0)
    assert history.loss[-1] < history.loss[0]
    assert_vector_field(flow.vector_field)
    assert_vector_field(flow.vector_field.float())


@needs("escnn")
def test_kernels_have_most_of_their_weight_at_the_origin_at_the_start():
    regular = SteerableField(Lattice((6, 6)))
    weight = torch.einsum("mk,kcxy->mcxy", regular.inner[0], regular.basis)
    at_origin, total = weight[..., 0, 0].square().sum(), weight.square().sum()
    assert 0.8 * total < at_origin < total
    # A vector has no kernel at the origin; the kernels next to it are as large.
    vector = SteerableField(Lattice((6, 6)), representation="vector")
    weight = torch.einsum("mk,kcxy->mcxy", vector.inner[0], vector.basis)
    assert weight[..., 0, 0].abs().max() < 1e-12
    torch.testing.assert_close(vector.inner[0].square().sum(-1), torch.ones(4))


@needs("escnn")
def test_an_untrained_field_stands_still_and_can_start():
    lattice = Lattice((4, 4))
    field = SteerableField(lattice)
    phi = configurations(lattice)
    velocity, divergence = field.velocity_and_divergence(phi, 0.3)
    assert not velocity.any()
    assert not divergence.any()
    (phi * velocity).sum().backward()
    assert field.outer.grad.abs().max() > 1e-3


@needs("escnn")
def test_a_saved_flow_loads_bitwise_equal(tmp_path):
    field = random_field((4, 6), representation=["trivial", "regular"])
    assert_saved_flow_loads_bitwise_equal(field, tmp_path)


@needs("escnn")
def test_a_resized_field_acts_alike_on_periodic_configurations():
    # The sides exceed the kernel's reach, so nothing wraps around on either lattice.
    field = random_field((5, 5), kernel_size=3)
    larger = field.resized(Lattice((10, 10)))
    phi = configurations(field.lattice)
    velocity, divergence = field.velocity_and_divergence(phi, 0.3)
    found, its_divergence = larger.velocity_and_divergence(phi.tile(1, 2, 2), 0.3)
    torch.testing.assert_close(found, velocity.tile(1, 2, 2), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(its_divergence, 4 * divergence)
    with pytest.raises(ValueError, match="point group that both lattices have"):
        field.resized(Lattice((5, 6)))


@needs("escnn")
def test_a_basis_as_rounded_as_escnn_s_own_is_seen():
    field = random_field()
    noise = torch.randn(field.basis.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    field.basis.mul_(1 + 1e-7 * noise)
    with pytest.raises(AssertionError, match="rotation"):
        assert_equivariant(field)
    assert equivariance_error(field)["translation along axis 0"] < 1e-12


@needs("escnn")
def test_a_kernel_off_its_site_is_seen():
    field = random_field((5, 5))
    field._site.copy_((field._site + 1) % field.lattice.volume)
    field.outer.data.zero_()[0] = 1.0
    field.inner.data[0, :, 1:] = 0.0
    errors = equivariance_error(field)
    assert errors["translation along axis 0"] < 1e-12
    # Shifts of both kernels cancel, one on the way in and one on the way out; a single shift does not.
    shifted = random_field((5, 5))
    kernels = shifted.kernels

    def off_centre(t):
        now = kernels(t)
        return type(now)(now.inner.roll(1, -1), now.outer, now.linear)

    shifted.kernels = off_centre
    assert max(equivariance_error(shifted).values()) > 1e-3


class ForgetsTheRadius(FieldwisePointwise):
    """Planted: `dG_c/du_c' = g delta_cc'`, as if the Gaussian were constant."""

    def _radials(self, u, overlap, channels):
        value, _ = super()._radials(u, overlap, channels)
        return value, torch.einsum("c,bcxy->bxy", overlap.diagonal()[channels], value / u)


@needs("escnn")
def test_a_wrong_trace_is_seen():
    field = random_field((5, 5), representation="vector", multiplicity=2)
    assert_divergence_exact(field)
    field.pointwise.__class__ = ForgetsTheRadius
    with pytest.raises(AssertionError, match="divergence minus dense trace"):
        assert_divergence_exact(field)


@needs("escnn")
def test_an_even_function_is_seen():
    field = random_field(z2=False)
    errors = equivariance_error(field, group=SymmetryGroup(field.lattice))
    assert errors["Z2 phi -> -phi"] > 1e-3


@needs("escnn")
def test_field_types_of_escnn_name_the_channels():
    from equiflow.nn.irreps import escnn_kernels as steerable

    escnn = steerable._escnn()
    gspace = escnn.gspaces.flipRot2dOnR2(4)
    field_type = escnn.nn.FieldType(gspace, [gspace.trivial_repr, gspace.regular_repr])
    field = random_field(representation=field_type)
    assert field.config()["representation"] == ["trivial", "regular"]
    assert_vector_field(field)
    with pytest.raises(ValueError, match="expected C4"):
        random_field(point="C4", representation=field_type)


@needs("escnn")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"lattice": Lattice((3, 3, 3))}, ValueError, "two dimensions"),
        ({"lattice": (4, 4)}, TypeError, "lattice must be of type Lattice"),
        ({"group": SymmetryGroup(Lattice((5, 5)))}, ValueError, "acts on lattice"),
        ({"representation": "spin"}, ValueError, "expected at least one of trivial, regular"),
        ({"representation": 3}, TypeError, "must be a name, a list of names or an escnn FieldType"),
        ({"kernel_size": 9}, ValueError, "does not fit the lattice"),
        ({"multiplicity": 0}, ValueError, "multiplicity must be an integer >= 1"),
        ({"representation": "vector", "kernel_size": 1}, ValueError, "No steerable kernel"),
    ],
)
def test_impossible_fields_are_refused(change, error, message):
    options = {"lattice": Lattice((4, 4))} | change
    with pytest.raises(error, match=message):
        SteerableField(options.pop("lattice"), **options)


def test_without_escnn_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "escnn", None)
    with pytest.raises(ImportError, match=r"pip install '\.\[steerable\]'"):
        SteerableField(Lattice((4, 4)), representation=["trivial"])


@needs("escnn")
@pytest.mark.parametrize("family", [SteerableField, DeepSteerableField])
@pytest.mark.parametrize("value", [-1, 0.0, float("nan"), float("inf"), True, "8"])
def test_a_largest_frequency_that_is_no_positive_number_is_refused(family, value):
    expected = TypeError if value is True or isinstance(value, str) else ValueError
    with pytest.raises(expected, match=r"max_frequency"):
        family(Lattice((4, 4)), max_frequency=value)
