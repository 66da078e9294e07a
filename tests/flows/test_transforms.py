"""Transformations of `torch.func`: log-densities and velocities agree with batches and with autograd."""

import pytest
import torch
from torch.func import grad, jacfwd, jacrev, jvp, vmap

from equiflow import (
    AngleField,
    Angles,
    EquivariantCNF,
    FactorisedConvField,
    Lattice,
    Multiplet,
    MultipletField,
    OrbitConvField,
    ParticleField,
    Particles,
    PotentialField,
    Solver,
)
from equiflow.testing import randomise
from equiflow.vector_fields import AttentionField, EstimatedField, VectorField
from tests.support.strategies import configurations

LATTICE = Lattice((3, 4))
# torch itself calls a deprecated function of its own for forward derivatives.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


class Wave(EstimatedField):
    """A velocity without a closed form of its divergence."""

    def __init__(self, space, *, trace="dense"):
        super().__init__(OrbitConvField(space).group, trace=trace)
        self.scale = torch.nn.Parameter(torch.tensor(0.3))

    def velocity(self, phi, t):
        return self.scale * (phi + t * phi.roll(1, -1) + phi.roll(-1, -1)).sin()


FIELDS = {
    "potential": lambda: PotentialField(LATTICE),
    "orbit_conv": lambda: OrbitConvField(LATTICE, n_frequencies=2),
    "factorised": lambda: FactorisedConvField(LATTICE, n_frequencies=2),
    "attention": lambda: AttentionField(LATTICE),
    "estimated": lambda: Wave(LATTICE),
    "multiplet": lambda: MultipletField(Multiplet(LATTICE, 2)),
    "angles": lambda: AngleField(Angles(LATTICE)),
    "particles": lambda: ParticleField(Particles(3, dim=2)),
}


def flow_of(field: VectorField, solver: Solver = Solver("rk4", steps=2)) -> EquivariantCNF:  # noqa: B008
    flow = EquivariantCNF(field.space, vector_field=field, solver=solver).double()
    randomise(flow, scale=0.1)
    return flow


@pytest.mark.parametrize("name", FIELDS)
def test_transforms_of_log_prob_agree_with_a_batch_and_its_gradient(name):
    flow = flow_of(FIELDS[name]())
    phi = configurations(flow.space)
    leaf = phi.clone().requires_grad_()
    expected = flow.log_prob(leaf)
    (slope,) = torch.autograd.grad(expected.sum(), leaf)

    def one(x):
        return flow.log_prob(x[None])[0]

    torch.testing.assert_close(vmap(one)(phi), expected.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(grad(one)(phi[0]), slope[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(vmap(grad(one))(phi), slope, rtol=1e-9, atol=1e-9)
    along = torch.ones_like(phi)
    value, change = jvp(flow.log_prob, (phi,), (along,))
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(change, (slope * along).flatten(1).sum(1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", FIELDS)
def test_transforms_of_rates_give_the_dense_jacobian(name):
    field = flow_of(FIELDS[name]()).vector_field
    phi = configurations(field.space)

    def velocity(x):
        return field.velocity(x[None], 0.3)[0]

    jacobian = vmap(jacrev(velocity))(phi)
    n = phi[0].numel()
    torch.testing.assert_close(jacfwd(velocity)(phi[0]), jacobian[0], rtol=1e-9, atol=1e-9)
    _, divergence = vmap(lambda x: field.velocity_and_divergence(x[None], 0.3))(phi)
    trace = torch.einsum("bii->b", jacobian.reshape(len(phi), n, n))
    torch.testing.assert_close(divergence.squeeze(1), trace, rtol=1e-9, atol=1e-9)


def test_steerable_fields_are_transformed_too():
    pytest.importorskip("escnn")
    from equiflow.vector_fields import DeepSteerableField

    field = DeepSteerableField(Lattice((4, 4)), kernel_size=3)
    flow = flow_of(field)
    phi = configurations(flow.space)
    one = vmap(lambda x: flow.log_prob(x[None])[0])
    torch.testing.assert_close(one(phi), flow.log_prob(phi), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "solver",
    [
        Solver("dopri5"),
        Solver("rk4", steps=2, adjoint=True),
        Solver("rk4", steps=2, checkpoint=True),
    ],
)
@pytest.mark.parametrize("transform", [vmap, grad])
def test_other_solvers_are_refused_in_one_sentence(solver, transform):
    flow = flow_of(PotentialField(LATTICE), solver)
    phi = configurations(flow.space)
    phi = phi if transform is vmap else phi[0]
    with pytest.raises(ValueError, match=r"transforms equal steps .* only, got .*set flow.solver"):
        transform(lambda x: flow.log_prob(x[None])[0])(phi)


def test_nan_is_refused_where_values_are_known_and_returned_by_vmap():
    flow = flow_of(PotentialField(LATTICE))
    phi = configurations(flow.space)
    phi[1, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        jvp(flow.log_prob, (phi,), (phi,))
    finite = vmap(lambda x: flow.log_prob(x[None])[0])(phi).isfinite()
    assert finite.tolist() == [True, False, True]
