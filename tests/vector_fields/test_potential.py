"""A potential field is the gradient of an invariant potential, with a symmetric Jacobian."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from equiflow import (
    ActionFamily,
    ConditionalFlow,
    EquivariantCNF,
    Lattice,
    PathGradient,
    Phi4,
    PotentialField,
    SymmetryGroup,
    fit,
)
from equiflow.nn.pointwise.ridges import Ridges
from equiflow.ode.solver import Solver
from equiflow.testing import (
    assert_divergence_exact,
    assert_vector_field,
    check_vector_field,
    dense_jacobian,
    divergence_error,
    equivariance_error,
    randomise,
)
from equiflow.vector_fields import TwoConvolutionField, TwoKernels, VectorField
from tests.support.pointwise import SinePointwise
from tests.support.saved_flows import assert_saved_flow_loads_bitwise_equal
from tests.support.strategies import configurations, lattices, potential_fields, seeds
from tests.support.strategies import groups as groups_on

CASES = [
    ((4, 4), "full", True, {}),
    ((5, 5), "rotations", True, {"kernel_size": 3}),
    ((3, 4), "full", False, {"convolution": "fourier"}),
    ((4, 4), "trivial", False, {"kernel_size": 2}),
    ((3, 5), "trivial", True, {"convolution": "fourier"}),
    ((6,), "trivial", True, {}),
    ((3, 3, 3), "rotations", True, {}),  # without x -> -x
    ((2, 3, 4), "full", True, {"kernel_size": (2, 3, 2)}),
    ((1,), "full", False, {}),
]


def random_field(shape=(4, 4), point="full", z2=True, seed=0, **options) -> PotentialField:
    lattice = Lattice(shape)
    options = {"n_channels": 3, "n_ridges": 5, "n_time_modes": 2, "max_frequency": 3.0} | options
    field = PotentialField(lattice, group=SymmetryGroup(lattice, point, z2), **options).double()
    randomise(field, seed=seed)
    return field


@st.composite
def any_potential(draw: st.DrawFn) -> PotentialField:
    field = draw(potential_fields(draw(groups_on(draw(lattices()))))).double()
    randomise(field, seed=draw(seeds))
    return field


def gradient_error(field: PotentialField, phi: Tensor, t: float = 0.3) -> float:
    """Return `max |v - grad Phi|` relative to the largest velocity."""
    point = phi.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(field.potential(point, t).sum(), point)
    velocity = field.velocity(phi, t).detach()
    return float((gradient - velocity).abs().max() / velocity.abs().max())


def curl(field: VectorField, phi: Tensor, t: float = 0.3) -> float:
    """Return `max |dv_x/dphi_y - dv_y/dphi_x|` relative to the largest element."""
    jacobian = dense_jacobian(partial(field.velocity, t=t), phi)
    return float((jacobian - jacobian.mT).abs().max() / jacobian.abs().max())


def invariance_error(potential, group: SymmetryGroup, phi: Tensor) -> dict[str, float]:
    """Return `max |Phi(g phi) - Phi(phi)|` for each generator, relative to the largest `Phi`."""
    value = potential(phi, 0.3).detach()
    return {
        name: float((potential(element(phi), 0.3).detach() - value).abs().max() / value.abs().max())
        for name, element in group.generators().items()
    }


@pytest.mark.parametrize(("shape", "point", "z2", "options"), CASES)
def test_every_law_holds(shape, point, z2, options):
    report = check_vector_field(random_field(shape, point, z2, **options))
    assert report.ok, str(report)


@given(any_potential(), seeds)
def test_the_velocity_is_the_gradient_of_the_potential(field, seed):
    assert gradient_error(field, configurations(field.lattice, seed=seed)) < 1e-12


@settings(max_examples=30)
@given(any_potential())
def test_the_jacobian_is_symmetric(field):
    assert curl(field, configurations(field.lattice)) < 1e-12


@given(any_potential())
def test_the_potential_is_invariant(field):
    errors = invariance_error(field.potential, field.group, configurations(field.lattice))
    assert max(errors.values(), default=0.0) < 1e-12


class TwoKernelsThatDiffer(TwoConvolutionField):
    """A pointwise function between two convolutions, which is a gradient if their kernels are the same."""

    def __init__(self, group: SymmetryGroup, *, same: bool) -> None:
        super().__init__(group, SinePointwise(2, group.lattice.dim, n_frequencies=2))
        self.inner = nn.Parameter(torch.zeros(2, *group.lattice.shape))
        self.outer = self.inner if same else nn.Parameter(torch.zeros(2, *group.lattice.shape))
        randomise(self.double())

    def kernels(self, t: Tensor | float) -> TwoKernels:
        return TwoKernels(self.inner, self.outer)


def test_a_field_that_is_no_gradient_has_a_curl():
    group = SymmetryGroup(Lattice((3, 3)), "trivial")
    phi = configurations(group.lattice)
    assert curl(TwoKernelsThatDiffer(group, same=True), phi) < 1e-12
    assert curl(TwoKernelsThatDiffer(group, same=False), phi) > 1e-2


def test_a_linear_kernel_that_is_not_symmetric_is_seen():
    field = random_field((3, 3), "trivial", convolution="fourier")
    shifted = field.linear._modes
    wave = torch.exp(1j * torch.arange(2)).expand(3, 2)  # shifts by a fraction of a site: K_0(x) != K_0(-x)

    def modes(weight: Tensor):
        values = shifted(weight)
        return type(values)(values.operand * wave, values.at_origin)

    field.linear._modes = modes
    assert curl(field, configurations(field.lattice)) > 1e-3
    assert gradient_error(field, configurations(field.lattice)) > 1e-3


def test_a_planted_asymmetry_of_the_potential_is_named():
    field = random_field((4, 4))
    phi = configurations(field.lattice)
    bump = torch.zeros(4, 4).index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(0.1))

    def site_dependent(phi: Tensor, t: float) -> Tensor:
        return field.potential(phi, t) + (bump * phi.square()).sum((1, 2))

    def odd(phi: Tensor, t: float) -> Tensor:
        return field.potential(phi, t) + 0.1 * phi.sum((1, 2))

    broken = invariance_error(site_dependent, field.group, phi)
    assert broken.pop("Z2 phi -> -phi") < 1e-12
    assert all(error > 1e-4 for name, error in broken.items() if name.startswith("translation"))
    broken = invariance_error(odd, field.group, phi)
    assert broken.pop("Z2 phi -> -phi") > 1e-4
    assert max(broken.values()) < 1e-12


def test_only_the_group_that_is_asked_for_is_kept():
    full = SymmetryGroup(Lattice((5, 5)))
    phi = configurations(full.lattice)
    for field in (random_field((5, 5), "trivial"), random_field((5, 5), z2=False)):
        broken = invariance_error(field.potential, full, phi)
        kept = invariance_error(field.potential, field.group, phi).keys()
        assert all((error < 1e-12) == (name in kept) for name, error in broken.items())


class ForgetsMixing(Ridges):
    """The overlap of different channels is left out of the Laplacian."""

    def curvature(self, overlap, amplitude):
        return super().curvature(overlap.diag().diag(), amplitude)


class ForgetsPhase(Ridges):
    """Without Z2, the phase is missing from the angle, which makes F even."""

    def map_to_angles(self):
        return super().map_to_angles()[0], None


def planted(field: PotentialField, mistake: type[Ridges]) -> PotentialField:
    ridges = mistake(3, 5, even=field.group.z2).double()
    ridges.load_state_dict(field.ridges.state_dict())
    field.ridges = ridges
    return field


def test_a_laplacian_without_the_overlap_of_different_channels_is_seen():
    assert_divergence_exact(random_field())
    with pytest.raises(AssertionError, match="divergence minus dense trace"):
        assert_divergence_exact(planted(random_field(), ForgetsMixing))


def test_without_z2_ridges_are_neither_even_nor_odd():
    group = SymmetryGroup(Lattice((4, 4)))
    field = random_field(z2=False)
    with torch.no_grad():
        field.drift.zero_()
    assert equivariance_error(field, group=group)["Z2 phi -> -phi"] > 1e-3
    assert equivariance_error(planted(field, ForgetsPhase), group=group)["Z2 phi -> -phi"] < 1e-12


def test_dense_and_fourier_agree():
    fields = [random_field((4, 5), "trivial", False, convolution=name) for name in ("dense", "fourier")]
    phi = configurations(fields[0].lattice)
    found = [
        (f.potential(phi, 0.3), *f.velocity_and_divergence(phi, 0.3), f.path_rates(phi, 0.3, phi).score_rate)
        for f in fields
    ]
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("convolution", ["dense", "fourier"])
def test_an_empty_batch_stays_empty(convolution):
    field = random_field(convolution=convolution)
    phi = configurations(field.lattice, 0)
    assert field.potential(phi, 0.3).shape == field.velocity_and_divergence(phi, 0.3)[1].shape == (0,)
    assert field.path_rates(phi, 0.3, phi).score_rate.shape == phi.shape


def test_an_untrained_field_stands_still_and_every_weight_learns():
    field = PotentialField(Lattice((4, 4)), group=SymmetryGroup(Lattice((4, 4)), z2=False)).double()
    phi = configurations(field.lattice)
    velocity, divergence = field.velocity_and_divergence(phi, 0.4)
    assert not velocity.any()
    assert not divergence.any()
    before = {name: p.detach().clone() for name, p in field.named_parameters()}
    optimiser = torch.optim.SGD(field.parameters(), lr=0.01)
    for _ in range(2):
        velocity, divergence = field.velocity_and_divergence(phi, 0.4)
        optimiser.zero_grad()
        ((velocity - phi.sin()).square().sum() + divergence.sum()).backward()
        optimiser.step()
    assert all(bool((p != before[name]).any()) for name, p in field.named_parameters())


@pytest.mark.parametrize(("shape", "kernel_size"), [((3, 3), None), ((3, 4), 3), ((5,), 3)])
def test_laws_hold_after_training_and_in_float32(shape, kernel_size):
    lattice = Lattice(shape)
    field = PotentialField(lattice, kernel_size=kernel_size, n_ridges=6, n_time_modes=2).double()
    flow = EquivariantCNF(lattice, vector_field=field, solver=Solver("rk4", steps=4)).double()
    action = Phi4(lattice, m2=-1.0, lam=1.0)
    history = fit(
        flow, action, steps=20, batch_size=64, warmup=2, objective=PathGradient(), progress=False, seed=0
    )
    assert history.ess[-1] > history.ess[0]
    assert_vector_field(field)
    phi = configurations(lattice)
    assert gradient_error(field, phi) < 1e-12
    assert max(invariance_error(field.potential, field.group, phi).values()) < 1e-12
    field.float()
    assert max(equivariance_error(field).values()) < 1e-5
    assert divergence_error(field) < 1e-4
    assert gradient_error(field, phi.float()) < 1e-5


def test_a_saved_flow_loads_bitwise_equal(tmp_path):
    field = random_field((4, 3), "reflections", False, kernel_size=3)
    assert_saved_flow_loads_bitwise_equal(field, tmp_path)


@pytest.mark.parametrize(("shape", "tiles", "kernel_size"), [((3, 3), (2, 1), 3), ((4, 3), (1, 3), None)])
def test_a_resized_field_acts_alike_on_periodic_configurations(shape, tiles, kernel_size):
    field = random_field(shape, "reflections", False, kernel_size=kernel_size)
    larger = field.resized(Lattice(tuple(side * n for side, n in zip(shape, tiles, strict=True))))
    phi, times = configurations(field.lattice), tiles[0] * tiles[1]
    tiled = phi.tile(1, *tiles)
    torch.testing.assert_close(larger.velocity(tiled, 0.3), field.velocity(phi, 0.3).tile(1, *tiles))
    torch.testing.assert_close(larger.potential(tiled, 0.3), times * field.potential(phi, 0.3))


def test_weights_that_depend_on_couplings():
    lattice = Lattice((3, 3))
    template = EquivariantCNF(lattice, vector_field=random_field((3, 3)), solver=Solver("rk4", steps=4))
    conditional = ConditionalFlow(template.double(), {"lam": (0.5, 1.5)})
    family = ActionFamily(Phi4, lattice, m2=-1.0, lam=(0.5, 1.5))
    fit(conditional, family, steps=3, batch_size=16, warmup=1, progress=False)
    low, high = (conditional.at(lam=lam).vector_field for lam in (0.5, 1.5))
    phi = configurations(lattice)
    assert (low.potential(phi, 0.3) - high.potential(phi, 0.3)).abs().max() > 1e-6
    for field in (low, high):
        assert gradient_error(field, phi) < 1e-12


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"lattice": (4, 4)}, TypeError, "lattice must be of type Lattice"),
        ({"group": SymmetryGroup(Lattice((5, 5)))}, ValueError, "acts on lattice"),
        ({"kernel_size": 5}, ValueError, "does not fit the lattice"),
        ({"n_channels": 0}, ValueError, "n_channels must be an integer >= 1"),
        ({"n_ridges": 1.5}, TypeError, "n_ridges must be an integer"),
        ({"n_time_modes": 0}, ValueError, "at least one mode"),
        ({"max_frequency": 0.0}, ValueError, "max_frequency > 0"),
    ],
)
def test_impossible_fields_are_refused(change, error, message):
    options = {"lattice": Lattice((4, 4))} | change
    with pytest.raises(error, match=message):
        PotentialField(options.pop("lattice"), **options)
