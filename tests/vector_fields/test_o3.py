"""Fields with irreps of O(3) obey every law, and planted mistakes are seen."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from equiflow import EquivariantCNF, Lattice, O3Field, Phi4, SymmetryGroup, fit
from equiflow.nn.irreps import e3nn_kernels as o3
from equiflow.nn.pointwise.gated import GatedPointwise
from equiflow.ode.solver import Solver
from equiflow.testing import (
    assert_divergence_exact,
    assert_equivariant,
    assert_vector_field,
    check_vector_field,
    divergence_error,
    equivariance_error,
    randomise,
)
from tests.support.saved_flows import assert_saved_flow_loads_bitwise_equal
from tests.support.strategies import configurations, needs

IRREPS = "3x0e + 2x1o + 1x2e + 1x3o"


def random_field(shape=(3, 3, 3), *, point="full", z2=True, seed=0, **options) -> O3Field:
    lattice = Lattice(shape)
    options = {"irreps": IRREPS, "n_time_modes": 2} | options
    field = O3Field(lattice, group=SymmetryGroup(lattice, point, z2), **options).double()
    randomise(field, seed=seed)
    return field


@needs("e3nn")
@pytest.mark.parametrize("point", ["full", "rotations", "reflections", "inversion", "trivial"])
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((3, 3, 3), {}),
        ((5, 5, 5), {"kernel_size": 4, "n_radial": 3}),
        ((4, 4, 4), {"kernel_size": None}),
        ((4, 4, 4), {"kernel_size": 2}),
        ((2, 2, 2), {"kernel_size": None}),
        ((4, 4, 3), {"kernel_size": 2}),
        ((2, 3, 4), {"kernel_size": (2, 3, 4), "n_radial": 2}),
        ((3, 1, 3), {"kernel_size": 1}),
    ],
)
def test_every_law_holds_on_every_lattice(shape, options, point):
    report = check_vector_field(random_field(shape, point=point, z2=point != "rotations", **options))
    assert report.ok, str(report)


@needs("e3nn")
@pytest.mark.parametrize(
    ("shape", "point"),
    [((3, 3, 3), "Oh"), ((4, 4, 4), "O"), ((3, 3, 3), "D2h"), ((4, 3, 4), "D2h")],
)
def test_groups_by_their_names(shape, point):
    field = random_field(shape, point=point)
    assert max(equivariance_error(field).values()) < 1e-12


@needs("e3nn")
def test_only_the_group_that_is_asked_for_is_kept():
    # The trivial group ties no offsets, so rotations are broken but translations are not.
    broken = equivariance_error(random_field(point="trivial"), group=SymmetryGroup(Lattice((3, 3, 3))))
    assert all(error > 1e-3 for name, error in broken.items() if name.startswith(("rotation", "reflection")))
    assert all(error < 1e-12 for name, error in broken.items() if name.startswith("translation"))
    without = random_field(z2=False)
    assert equivariance_error(without, group=SymmetryGroup(without.lattice))["Z2 phi -> -phi"] > 1e-3


@needs("e3nn")
@pytest.mark.parametrize("shape", [(3, 3, 3), (4, 4, 3)])
def test_laws_hold_after_training_and_in_float32(shape):
    lattice = Lattice(shape)
    field = O3Field(lattice, irreps=IRREPS, n_time_modes=2).double()
    flow = EquivariantCNF(lattice, vector_field=field, solver=Solver("rk4", steps=2)).double()
    history = fit(flow, Phi4(lattice, m2=-1.0, lam=1.0), steps=5, batch_size=8, warmup=1, progress=False)
    assert len(set(history.loss)) == 5
    assert_vector_field(field)
    field.float()
    assert max(equivariance_error(field).values()) < 1e-5
    assert divergence_error(field) < 1e-4


@needs("e3nn")
def test_an_untrained_field_stands_still_and_learns():
    field = O3Field(Lattice((4, 4, 4)), irreps=IRREPS).double()
    phi = configurations(field.lattice)
    velocity, divergence = field.velocity_and_divergence(phi, 0.4)
    assert not velocity.any()
    assert not divergence.any()
    optimiser = torch.optim.SGD(field.parameters(), lr=0.1)
    for moved in (("outer", "linear"), ("inner", "pointwise")):
        before = {name: p.detach().clone() for name, p in field.named_parameters()}
        velocity, divergence = field.velocity_and_divergence(phi, 0.4)
        optimiser.zero_grad()
        ((velocity - phi.sin()).square().sum() + divergence.sum()).backward()
        optimiser.step()
        changed = {n.split(".")[0] for n, p in field.named_parameters() if not torch.equal(p, before[n])}
        assert changed >= set(moved)


@needs("e3nn")
def test_the_same_options_give_the_same_field():
    torch.manual_seed(1)
    first = O3Field(Lattice((3, 3, 3))).state_dict()
    torch.manual_seed(2)
    second = O3Field(Lattice((3, 3, 3))).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@needs("e3nn")
def test_a_saved_flow_loads_bitwise_equal(tmp_path):
    field = random_field((4, 4, 3), kernel_size=2, n_radial=3, point="reflections")
    assert_saved_flow_loads_bitwise_equal(field, tmp_path)


@needs("e3nn")
@pytest.mark.parametrize("n_radial", [None, 3])
@pytest.mark.parametrize(
    ("shape", "tiles"), [((3, 3, 3), (2, 2, 2)), ((3, 3, 3), (1, 1, 2)), ((4, 3, 3), (2, 1, 1))]
)
def test_a_resized_field_acts_alike_on_periodic_configurations(shape, tiles, n_radial):
    field = random_field(shape, n_radial=n_radial)
    larger = field.resized(Lattice(tuple(side * n for side, n in zip(shape, tiles, strict=True))))
    phi = configurations(field.lattice)
    tiled = phi.tile(1, *tiles)
    velocity, divergence = field.velocity_and_divergence(phi, 0.3)
    found, its_divergence = larger.velocity_and_divergence(tiled, 0.3)
    torch.testing.assert_close(found, velocity.tile(1, *tiles), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(its_divergence, divergence * (tiled[0].numel() // phi[0].numel()))
    back = larger.resized(field.lattice)
    torch.testing.assert_close(list(back.inner.weights), list(field.inner.weights))
    # Counter-example: weights that forget the size of their orbits.
    with torch.no_grad():
        larger.inner.weights[0].mul_(1 + 1e-6)
    assert (larger.velocity(tiled, 0.3) - velocity.tile(1, *tiles)).abs().max() > 1e-9


@needs("e3nn")
@pytest.mark.parametrize(
    ("shape", "kernel_size", "other"),
    [
        ((2, 2, 2), 2, (4, 4, 4)),  # degree 1 vanishes on sides of 2
        ((4, 4, 4), 3, (2, 2, 2)),
        ((4, 4, 4), 4, (6, 6, 6)),  # harmonics are averaged at the offset 2 = -2
        ((5, 5, 5), None, (3, 3, 3)),
    ],
)
def test_kernels_that_do_not_carry_over_are_refused(shape, kernel_size, other):
    with pytest.raises(ValueError, match=r"do not carry over|does not hold the kernels|does not fit"):
        random_field(shape, kernel_size=kernel_size).resized(Lattice(other))


@needs("e3nn")
def test_gates_see_the_gradient_of_the_field():
    # Kernels of vectors vanish at the origin, so the velocity depends on neighbours alone.
    phi = configurations(Lattice((5, 5, 5)), 1)
    field = random_field((5, 5, 5), irreps="1x1o")
    with torch.no_grad():
        field.linear.weight.zero_()
    flat = torch.ones_like(phi)
    assert field.velocity(flat, 0.3).abs().max() < 1e-13
    assert field.velocity(phi, 0.3).abs().max() > 1e-3


class ForgetsTheGate(GatedPointwise):
    def forward(self, u, overlap):
        value, _ = super().forward(u, overlap)
        saturated = 1 - 1 / (1 + torch.einsum("kc,bc...->bk...", self._members, u**2))
        gates = torch.einsum("ck,bk...->bc...", self.gate[self._block], saturated)
        return value, torch.einsum("c,bc...->b...", overlap.diagonal(), gates)


class WrongTrace(GatedPointwise):
    def forward(self, u, overlap):
        return super().forward(u, overlap.diag().diag())


class ScaledGate(GatedPointwise):
    """A gate that looks at one component of each vector."""

    def __init__(self, sizes, **options):
        super().__init__(sizes, **options)
        self._members[:, -1] = 0.0


@needs("e3nn")
@pytest.mark.parametrize("mistake", [WrongTrace, ForgetsTheGate])
def test_a_wrong_trace_is_seen(mistake):
    field = random_field(irreps="2x0e + 2x1o")
    assert_divergence_exact(field)
    mistaken = mistake(field.inner.basis.sizes)
    mistaken.load_state_dict(field.pointwise.state_dict())
    field.pointwise = mistaken
    with pytest.raises(AssertionError, match="divergence minus dense trace"):
        assert_divergence_exact(field)


@needs("e3nn")
def test_a_gate_that_is_no_invariant_is_seen():
    field = random_field(irreps="1x0e + 1x1o")
    mistaken = ScaledGate([1, 3]).double()
    mistaken.load_state_dict(field.pointwise.state_dict())
    field.pointwise = mistaken
    with pytest.raises(AssertionError, match="rotation"):
        assert_equivariant(field)


@needs("e3nn")
def test_an_even_function_is_seen():
    field = random_field()
    field.pointwise = GatedPointwise(field.inner.basis.sizes, odd=False).double()
    randomise(field.pointwise)
    assert equivariance_error(field)["Z2 phi -> -phi"] > 1e-3


@needs("e3nn")
def test_a_harmonic_of_the_wrong_parity_is_seen():
    # (yz, zx, xy) are also three functions, but even. Together with the vectors of K1 they break O_h.
    field = random_field()
    functions = dict(field.outer.basis.functions)
    functions[1] = functions[1].roll((1, -1), (1, 1)) * 1.0
    products = functions[1][:, [1, 2, 0]] * functions[1][:, [2, 0, 1]]
    outer = random_field().outer
    outer.basis.functions[1] = products
    outer.load_state_dict(field.outer.state_dict())
    field.outer = outer
    errors = equivariance_error(field)
    assert max(error for name, error in errors.items() if name.startswith("reflection")) > 1e-3
    assert max(error for name, error in errors.items() if name.startswith("translation")) < 1e-12


@needs("e3nn")
def test_an_image_that_is_forgotten_is_seen(monkeypatch):
    nearest = o3._nearest_images
    monkeypatch.setattr(o3, "_nearest_images", lambda lattice: nearest(lattice)[:1])
    odd, even = random_field((3, 3, 3), kernel_size=None), random_field((4, 4, 4), kernel_size=None)
    assert max(equivariance_error(odd).values()) < 1e-12
    assert max(equivariance_error(even).values()) > 1e-3


@needs("e3nn")
@pytest.mark.parametrize("shape", [(3, 3, 3), (4, 3, 3)])
def test_gathering_agrees_with_fft(shape):
    field = random_field(shape)
    assert field.stencil is not None
    phi = configurations(field.lattice).requires_grad_()
    results = []
    for stencil in (field.stencil, None):
        field.stencil = stencil
        velocity, divergence = field.velocity_and_divergence(phi, 0.3)
        loss = velocity.sin().sum() + divergence.square().sum()
        results.append([velocity, divergence, *torch.autograd.grad(loss, [phi, *field.parameters()])])
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-11)


@needs("e3nn")
def test_path_rates_keep_a_graph_only_where_one_is_wanted():
    field = random_field()
    phi = configurations(field.lattice)
    assert field.path_rates(phi, 0.3, phi).velocity.requires_grad
    with torch.no_grad():
        rates = field.path_rates(phi, 0.3, phi)
    assert not any(part.requires_grad for part in (rates.velocity, rates.divergence, rates.score_rate))


@needs("e3nn")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"lattice": Lattice((4, 4))}, ValueError, "3 dimensions, got .* OrbitConvField takes any"),
        ({"lattice": (3, 3, 3)}, TypeError, "lattice must be of type Lattice"),
        ({"group": SymmetryGroup(Lattice((4, 4, 4)))}, ValueError, "acts on lattice"),
        ({"irreps": "2x0e + 1x1e"}, ValueError, "parity .*; write 1o"),
        ({"irreps": "1x0o"}, ValueError, "parity .*; write 0e"),
        ({"irreps": "8x0q"}, ValueError, "expected irreps like"),
        ({"irreps": 8}, TypeError, "irreps must be of type str"),
        ({"irreps": "2x1o", "kernel_size": 1}, ValueError, "add scalars"),
        ({"irreps": ""}, ValueError, "add scalars"),
        ({"kernel_size": 4}, ValueError, "does not fit the lattice"),
        ({"n_radial": 1}, ValueError, "n_radial must be an integer >= 2"),
        ({"n_time_modes": 0}, ValueError, "at least one mode"),
        ({"max_frequency": 0.0}, ValueError, "max_frequency > 0"),
    ],
)
def test_impossible_fields_are_refused(change, error, message):
    options = {"lattice": Lattice((3, 3, 3))} | change
    with pytest.raises(error, match=message):
        O3Field(options.pop("lattice"), **options)


def test_without_e3nn_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "e3nn", None)
    with pytest.raises(ImportError, match=r"pip install '\.\[o3\]'"):
        O3Field(Lattice((3, 3, 3)))


@needs("e3nn")
def test_e3nn_is_imported_when_a_field_is_built_and_no_earlier():
    check = (
        "import sys, equiflow; before = 'e3nn' in sys.modules;"
        "equiflow.O3Field(equiflow.Lattice((3, 3, 3))); print(before, 'e3nn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
