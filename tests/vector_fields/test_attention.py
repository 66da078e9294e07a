"""Fields with attention between sites obey every law, with exact divergence in one and several layers."""

from __future__ import annotations

import itertools

import pytest
import torch

from equiflow import EquivariantCNF, Lattice, Phi4, Solver, SymmetryGroup, fit
from equiflow.nn import attention as nn_attention
from equiflow.nn.attention import LatticeAttention, Projections
from equiflow.testing import (
    assert_divergence_exact,
    assert_vector_field,
    check_vector_field,
    dense_jacobian,
    equivariance_error,
    randomise,
)
from equiflow.vector_fields import AttentionField, DeepAttentionField, EstimatedField
from tests.support.saved_flows import assert_saved_flow_loads_bitwise_equal
from tests.support.strategies import configurations

FAMILIES = [AttentionField, DeepAttentionField]
SMALL = {"n_heads": 2, "n_score": 2, "n_frequencies": 2, "n_time_modes": 2, "max_frequency": 2.0}


def random_field(kind=AttentionField, shape=(4, 4), *, point="full", z2=True, **options):
    lattice = Lattice(shape)
    field = kind(lattice, group=SymmetryGroup(lattice, point, z2), **SMALL | options).double()
    randomise(field)
    return field


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((3, 3), {}),
        ((5,), {"kernel_size": 2}),
        ((3, 2), {"kernel_size": (3, 2), "z2": False}),
        ((2, 2, 2), {"point": "rotations"}),
        ((1,), {}),
    ],
)
def test_every_law_holds(kind, shape, options):
    report = check_vector_field(random_field(kind, shape, **options))
    assert report.ok, str(report)


@pytest.mark.parametrize("kind", FAMILIES)
def test_laws_hold_after_training(kind):
    lattice = Lattice((2, 3))
    flow = EquivariantCNF(lattice, vector_field=kind(lattice, **SMALL), solver=Solver("rk4", steps=2))
    history = fit(flow, Phi4(lattice, m2=-4.0, lam=8.0), steps=8, batch_size=32, warmup=0, progress=False)
    assert min(history.loss[-3:]) < history.loss[0]
    assert_vector_field(flow.vector_field)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_resized_field_acts_alike_on_periodic_configurations(kind):
    field = random_field(kind, (3, 3), point="reflections", z2=False, kernel_size=3)
    larger = field.resized(Lattice((6, 3)))
    phi = configurations(field.lattice)
    torch.testing.assert_close(
        larger.velocity(phi.repeat(1, 2, 1), 0.3), field.velocity(phi, 0.3).repeat(1, 2, 1)
    )


def test_scores_of_offsets_that_are_new_are_those_of_the_nearest():
    field = random_field(shape=(3, 3))
    larger = field.resized(Lattice((6, 6)))
    assert_vector_field(larger)
    bias = [f.attention.bias[..., f.attention.orbits.index].detach() for f in (field, larger)]
    torch.testing.assert_close(bias[1][..., :2, :2], bias[0][..., :2, :2])
    torch.testing.assert_close(bias[1][..., 3, 0], bias[0][..., 1, 0])
    again = larger.resized(Lattice((3, 3)))
    phi = configurations(field.lattice)
    torch.testing.assert_close(again.velocity(phi, 0.3), field.velocity(phi, 0.3))


@pytest.mark.parametrize("kind", FAMILIES)
def test_an_untrained_field_stands_still_and_can_start(kind):
    field = kind(Lattice((3, 3)), **SMALL)
    phi = configurations(field.lattice)
    velocity = field.velocity(phi, 0.3)
    assert not velocity.any()
    (phi * velocity).sum().backward()
    last = field.attention if kind is AttentionField else field.layers[-1]
    assert last.value.grad.abs().max() > 1e-3


def test_a_site_attends_to_others_with_weights_that_depend_on_the_configuration():
    field = random_field()
    attention, phi = field.attention, configurations(field.lattice)
    time_values = field.time_basis(0.3)
    here = attention.project(attention.features(phi.flatten(1).unsqueeze(1)).value, time_values)
    A = attention.weights(here, time_values)
    assert bool((A > 0).all())
    assert bool((A.sum(-1) < 1).all())
    assert (A[0] - A[1]).abs().max() > 0.05


def test_a_site_listens_to_its_kernel_alone():
    field = random_field(shape=(5, 5), kernel_size=3)
    field.linear.weight.data.zero_()
    response = dense_jacobian(lambda x: field.velocity(x, 0.3), configurations(field.lattice, 1))
    response = response[0, :, 0].reshape(5, 5).abs()
    inside = field.group.offset_orbits(3).index >= 0
    assert response[~inside].max() < 1e-14
    assert response[inside].min() > 1e-9


@pytest.mark.parametrize("options", [{}, {"n_layers": 3, "z2": False}, {"kernel_size": (2, 3)}])
def test_jacobians_of_layers_make_the_trace_that_products_make(options):
    field = random_field(DeepAttentionField, (3, 3), point="inversion", **{"n_channels": 3} | options)
    phi = configurations(field.lattice)
    closed = field.velocity_and_divergence(phi, 0.3)
    by_products = EstimatedField.velocity_and_divergence(field, phi, 0.3)
    torch.testing.assert_close(closed, by_products, rtol=1e-12, atol=1e-12)
    layer, time_values = field.layers[1], field.time_basis(0.3)
    u = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(0))
    out, jacobian = layer.with_jacobian(u, time_values)
    torch.testing.assert_close(out, layer(u, time_values))
    torch.testing.assert_close(jacobian, dense_jacobian(lambda x: layer(x, time_values), u))


@pytest.mark.parametrize("options", [{"kind": AttentionField}, {"kind": DeepAttentionField, "n_layers": 3}])
def test_configurations_are_taken_a_few_at_a_time(options, monkeypatch):
    field = random_field(**options, shape=(3, 2))
    phi = configurations(field.lattice, 5).requires_grad_()
    together = field.path_rates(phi, 0.3, phi)
    monkeypatch.setattr(nn_attention, "MAX_ATTENTION_WEIGHTS", 2 * 36 * 2)  # two of 2 heads and 6 x 6 sites
    layer = field.attention if isinstance(field, AttentionField) else field.layers[0]
    assert layer.rows == 2
    found = field.path_rates(phi, 0.3, phi)
    for part in ("velocity", "divergence", "score_rate"):
        torch.testing.assert_close(getattr(found, part), getattr(together, part), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(field.velocity(phi, 0.3), together.velocity, rtol=1e-13, atol=1e-13)
    assert field.velocity(phi[:0], 0.3).shape == (0, 3, 2)


class Uncentred(LatticeAttention):
    """Planted: every site attends with the weights of its neighbour."""

    def weights(self, here, time_values):
        return super().weights(here, time_values).roll(1, -1)


class EvenValues(LatticeAttention):
    """Planted: the values have a part that is even in phi."""

    def project(self, features, time_values):
        here = super().project(features, time_values)
        return Projections(here.query, here.key, here.value + here.key[..., :1])


class ForgetsTheQuery(LatticeAttention):
    """Planted: the slope of the query is left out of the divergence."""

    def project(self, features, time_values):
        here = super().project(features, time_values)
        self.calls = getattr(self, "calls", 0) + 1
        slope = self.calls % 2 == 0
        return Projections(here.query * 0, here.key, here.value) if slope else here


@pytest.mark.parametrize(
    ("mistake", "culprit"), [(Uncentred, "rotation x -> "), (EvenValues, "Z2 phi -> -phi")]
)
def test_a_planted_asymmetry_is_seen(mistake, culprit):
    field = random_field()
    field.attention.__class__ = mistake
    errors = equivariance_error(field)
    assert max(error for name, error in errors.items() if name.startswith(culprit)) > 1e-3


def test_a_wrong_divergence_is_seen():
    field = random_field()
    assert_divergence_exact(field)
    field.attention.__class__ = ForgetsTheQuery
    with pytest.raises(AssertionError, match="divergence minus dense trace"):
        assert_divergence_exact(field)


class ForgetsASlope(LatticeAttention):
    """Planted: one of the three derivatives is left out of a layer's Jacobian."""

    forgotten = ""

    def with_jacobian(self, u, time_values):
        calls = itertools.count()

        def project(features, time_values):
            found = LatticeAttention.project(self, features, time_values)
            part = getattr(found, self.forgotten)
            return found._replace(**{self.forgotten: 0 * part}) if next(calls) else found

        self.project = project
        answer = super().with_jacobian(u, time_values)
        del self.project
        return answer


@pytest.mark.parametrize("forgotten", Projections._fields)
@pytest.mark.parametrize("layer", [0, 1])
def test_a_wrong_jacobian_of_a_layer_is_seen(layer, forgotten):
    field = random_field(DeepAttentionField, (3, 2), n_channels=2)
    assert_divergence_exact(field)
    field.layers[layer].__class__ = ForgetsASlope
    field.layers[layer].forgotten = forgotten
    with pytest.raises(AssertionError, match="divergence minus dense trace"):
        assert_divergence_exact(field)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_saved_flow_loads_bitwise_equal(kind, tmp_path):
    field = random_field(kind, (3, 2), kernel_size=2)
    assert_saved_flow_loads_bitwise_equal(field, tmp_path)


@pytest.mark.parametrize(
    ("kind", "options", "error", "message"),
    [
        (AttentionField, {"lattice": (4, 4)}, TypeError, "lattice must be of type Lattice"),
        (AttentionField, {"group": SymmetryGroup(Lattice((5, 5)))}, ValueError, "acts on lattice"),
        (AttentionField, {"kernel_size": 5}, ValueError, "does not fit the lattice"),
        (AttentionField, {"n_heads": 0}, ValueError, "n_heads must be an integer >= 1"),
        (AttentionField, {"seed": -1}, ValueError, "seed must be an integer from 0 to"),
        (DeepAttentionField, {"n_layers": 1}, ValueError, "n_layers must be an integer >= 2"),
        (DeepAttentionField, {"n_channels": 0}, ValueError, "n_channels must be an integer >= 1"),
    ],
)
def test_impossible_fields_are_refused(kind, options, error, message):
    options = {"lattice": Lattice((4, 4))} | options
    with pytest.raises(error, match=message):
        kind(options.pop("lattice"), **options)
