"""The field of SU(N) links: its laws, and planted mistakes that they see."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from equiflow.testing import check_vector_field, equivariance_error, randomise
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.gauge.links import Links
from equiflow.theories.gauge.loops import rectangle, transporter
from equiflow.theories.gauge.wilson import WilsonAction
from equiflow.vector_fields import VectorField, default_field
from equiflow.vector_fields.gauge_ladder_terms import LadderTerms
from equiflow.vector_fields.gauge_ladders import Ladders
from equiflow.vector_fields.gauge_sun import SUNField
from equiflow.vector_fields.gauge_u1 import U1Field
from tests.support.gauge import divergence_of_small_moves


def random_field(group: str, *shape: int, seed: int = 0, **options: object) -> SUNField:
    field = SUNField(Links(Lattice(shape), group), **({"n_time_modes": 2} | options)).double()
    randomise(field, seed=seed)
    return field


def drawn(links: Links, n: int = 2, seed: int = 0) -> torch.Tensor:
    return links.probes(n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("group", "shape", "shapes"),
    [
        ("SU(2)", (3, 3), ("plaquette", "rectangle", "square")),
        ("SU(3)", (2, 2), ("plaquette",)),
        ("SU(2)", (2, 2, 2), ("plaquette", "chair")),
    ],
)
def test_the_field_obeys_every_law(group, shape, shapes):
    # Large ladders, of SU(3) and of three dimensions have a test of their own, which is quicker.
    reach = 0 if group == "SU(3)" or len(shape) == 3 else min(shape) // 2
    field = random_field(group, *shape, shapes=shapes, reach=reach, n_time_modes=1)
    report = check_vector_field(field)
    assert report.ok, str(report)


@pytest.mark.parametrize(("group", "shape"), [("SU(3)", (2, 2)), ("SU(2)", (2, 2, 2)), ("SU(2)", (4, 4))])
def test_large_ladders_are_equivariant_and_have_the_divergence_of_small_moves(group, shape):
    field = random_field(group, *shape, shapes=("plaquette",), reach=min(shape) // 2, n_time_modes=1)
    assert max(equivariance_error(field, n_random=1, times=(0.3,)).values()) < 1e-12
    u = drawn(field.space, 1)
    divergence = field.velocity_and_divergence(u, 0.3)[1]
    torch.testing.assert_close(divergence_of_small_moves(field, u, 0.3), divergence, rtol=0, atol=1e-5)
    assert divergence.abs() > 0.1


def test_the_field_obeys_every_law_in_single_precision():
    report = check_vector_field(random_field("SU(2)", 3, 3, degree=2, reach=1, n_time_modes=1).float())
    assert report.ok, str(report)


@pytest.mark.parametrize(("group", "degree"), [("SU(2)", 3), ("SU(3)", 3), ("SU(4)", 2)])
def test_the_velocity_is_the_gradient_of_the_potential(group, degree):
    field = random_field(group, 3, 3, degree=degree, reach=0)
    u = drawn(field.space)
    omega = torch.zeros(2, *field.space.tangent_shape, dtype=torch.float64).requires_grad_()
    (expected,) = torch.autograd.grad(field.potential(field.space.move(u, omega), 0.3).sum(), omega)
    torch.testing.assert_close(field.velocity(u, 0.3), expected, rtol=1e-10, atol=1e-11)
    assert expected.abs().max() > 1e-2


@pytest.mark.parametrize("group", ["SU(2)", "SU(3)"])
def test_the_gradient_flow_of_the_action_is_contained(group):
    links = Links(Lattice((3, 4)), group)
    field = SUNField(links, n_time_modes=1).double()
    with torch.no_grad():
        field.amplitude[0, 0, field.powers.index((1, 0))] = 0.7
    action, u = WilsonAction(links, beta=0.7), drawn(links)
    torch.testing.assert_close(field.velocity(u, 0.2), -action.grad(u))
    assert (field.velocity(u, 0.2) + 1.01 * action.grad(u)).abs().max() > 1e-3


def test_the_laplacian_of_a_loop_is_the_casimir_times_its_links():
    """`sum_a L_a L_a Re tr(loop) / N = -(N^2 - 1) / (2N) Re tr(loop) / N` for every link of the loop."""
    links, (n, length) = Links(Lattice((3, 3)), "SU(3)"), (3, 6)
    field = SUNField(links, shapes=("rectangle",), degree=1, reach=0, n_time_modes=1).double()
    with torch.no_grad():
        field.amplitude.fill_(1.0)
    u = drawn(links)
    divergence = field.velocity_and_divergence(u, 0.0)[1]
    torch.testing.assert_close(divergence, -length * (n * n - 1) / (2 * n) * field.potential(u, 0.0))


def test_the_squared_gradient_of_a_plaquette_is_that_of_the_literature():
    """`sum_a (L_a Re tr P)^2 = (N - |tr P|^2 / N) / 4 - Re(tr P^2 - (tr P)^2 / N) / 4` for each link."""
    links, n = Links(Lattice((2, 2)), "SU(3)"), 3
    lie, u = links.lie, drawn(links)
    p = lie.random((5,), torch.Generator().manual_seed(4))
    squared = (n * lie.slope(lie.planes(p))).square().sum(0)
    trace, of_square = (torch.einsum("bii->b", m) for m in (p, p @ p))
    expected = (n - trace.abs() ** 2 / n) / 4 - (of_square - trace**2 / n).real / 4
    torch.testing.assert_close(squared, expected)
    assert u.shape == (2, 2, 2, 2, 3, 3)


@pytest.mark.parametrize("group", ["SU(2)", "SU(3)"])
def test_a_ladder_moves_one_plaquette_alone_and_turns_those_on_the_way(group):
    """Rungs from behind a plaquette to two ahead change two traces: its own, and that of the last."""
    links = Links(Lattice((6, 4)), group)
    lie, u = links.lie, drawn(links, 1)
    planes = links.planes(u)
    loop = transporter(lie, planes, rectangle(1, 0))
    ladders = Ladders(lie, planes, rung=1, along=0, reach=3)
    here = torch.zeros(1, 6, 4, dtype=torch.float64)
    here[0, 2, 1] = 1.0
    vector = -lie.slope(ladders.framed(loop)) * ladders.around(here)
    arrives = ladders.basis(-1.0, here)[:2].sum(0)  # two rungs on each side
    moved = ladders.out_of_frames((vector.movedim(ladders.axis, -1) @ arrives.mT).movedim(-1, ladders.axis))
    velocity = links.from_vectors((torch.zeros_like(moved), moved))
    h = 1e-5
    ahead, behind = (links.planes(links.move(u, s * velocity)) for s in (h, -h))
    rate = (
        lie.trace(transporter(lie, ahead, rectangle(1, 0)))
        - lie.trace(transporter(lie, behind, rectangle(1, 0)))
    ) / (2 * h)
    # Two rungs on each side: the plaquette moves, and the ends of both sides move against it.
    changed = (rate.abs() > 1e-8).nonzero().tolist()
    assert changed == [[0, 0, 1], [0, 2, 1], [0, 4, 1]]
    assert float(rate[0, 2, 1]) == pytest.approx(2 * float(lie.slope(loop)[:, 0, 2, 1].square().sum()))


@pytest.mark.parametrize(("group", "shape"), [("SU(2)", (3, 4)), ("SU(3)", (3, 3)), ("SU(2)", (2, 2, 2))])
def test_linear_rates_agree_with_automatic_differentiation(group, shape):
    other = "chair" if len(shape) > 2 else "rectangle"
    shapes = ("plaquette",) if group == "SU(3)" else ("plaquette", other)
    field = random_field(group, *shape, shapes=shapes, degree=2, reach=1)
    u = drawn(field.space)
    score = torch.randn((2, *field.space.tangent_shape), generator=torch.Generator().manual_seed(2))
    score = score.double()
    rates = field.parameter_rates(u, 0.3, score)
    torch.testing.assert_close(rates, VectorField.parameter_rates(field, u, 0.3, score))
    velocity, divergence = field.velocity_and_divergence(u, 0.3)
    weights = torch.cat([p.detach().flatten() for p in field.linear_parameters])
    torch.testing.assert_close(rates @ weights, (velocity * score).flatten(1).sum(1) + divergence)


def test_an_untrained_field_stands_still_and_moves_when_asked():
    links = Links(Lattice((3, 3)), "SU(2)")
    field = SUNField(links).double()
    velocity, divergence = field.velocity_and_divergence(drawn(links), 0.3)
    assert not velocity.any()
    assert not divergence.any()
    (velocity.square().sum() + velocity.sum() + divergence.sum()).backward()
    assert bool(field.amplitude.grad.all())


def test_coefficients_are_the_same_on_every_lattice():
    whole, part = (random_field("SU(2)", 4, 4, reach=reach).resized(Lattice((8, 6))) for reach in (2, 1))
    assert (whole.reach, part.reach) == (3, 1)  # half of the lattice stays half of it
    assert float(whole.ladder.detach().abs().max()) > 0
    field = random_field("SU(2)", 3, 3, reach=0)
    larger = field.resized(Lattice((4, 6)))
    assert larger.space == Links(Lattice((4, 6)), "SU(2)")
    assert torch.equal(larger.amplitude, field.amplitude)
    tiled = drawn(field.space).repeat(1, 1, 2, 2, 1, 1)
    again = field.resized(Lattice((6, 6))).velocity(tiled, 0.3)
    torch.testing.assert_close(again[..., :3, :3], field.velocity(tiled[:, :, :3, :3], 0.3))


def test_ladders_are_stretched_and_the_rungs_beside_a_plaquette_turn_as_before():
    field = random_field("SU(2)", 4, 4, reach=2)
    larger = field.resized(Lattice((16, 16)))
    terms = {}
    for one in (field, larger):
        planes = one.space.planes(drawn(one.space, 1))
        terms[one] = next(its for _, its in one._ladders(planes))

    def sent_at(one, reach, distance):
        left = 1 - (distance - 0.5) / reach
        return (one.ladder.unflatten(1, (-1, 3)) * left ** torch.arange(3.0)[:, None]).sum(2)

    for one, its in terms.items():
        weights = one.ladder.unflatten(1, (-1, 3))
        torch.testing.assert_close(
            torch.einsum("p,jspf->jsf", its.beside, weights), sent_at(one, one.reach, 1)
        )
    torch.testing.assert_close(sent_at(larger, 8, 1), sent_at(field, 2, 1))
    # Distances are measured from the rung beside the plaquette to the opposite one, half a step ahead.
    torch.testing.assert_close(sent_at(larger, 8, 1 + 7.5 / 1.5), sent_at(field, 2, 2))
    assert (larger.ladder - field.ladder).abs().max() > 0.1


class Planted(VectorField):
    """A correct field plus a planted mistake."""

    def __init__(self, inner: SUNField) -> None:
        super().__init__(inner.group)
        self.inner = inner

    def velocity_and_divergence(self, phi, t):
        velocity, divergence = self.inner.velocity_and_divergence(phi, t)
        return velocity + 1e-9 * self.mistake(phi, velocity), divergence

    def mistake(self, phi, velocity):
        raise NotImplementedError


class SeesLinks(Planted):
    """The gradient of `Re tr U` of every link."""

    def mistake(self, phi, velocity):
        planes = self.space.planes(phi)
        return self.space.from_vectors(tuple(-self.space.lie.slope(p) for p in planes))


class OneDirection(Planted):
    """Faster along the first direction."""

    def mistake(self, phi, velocity):
        return torch.cat([velocity[:, :1], torch.zeros_like(velocity[:, 1:])], 1)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [(SeesLinks, "equivariance gauge transformation"), (OneDirection, "equivariance rotation")],
)
def test_the_harness_sees_a_planted_mistake_and_names_it(mistake, law):
    report = check_vector_field(mistake(random_field("SU(2)", 3, 3, reach=0)))
    assert any(re.search(law, f"{check.law} {check.case}") for check in report.violations), str(report)


class ForgetsTheCurvature(SUNField):
    """A Laplacian without the Casimir term."""

    def velocity_and_divergence(self, phi, t):
        velocity, divergence = super().velocity_and_divergence(phi, t)
        return velocity, divergence + 0.1 * self.potential(phi, t)


def test_the_harness_sees_a_forgotten_curvature():
    field = ForgetsTheCurvature(Links(Lattice((3, 3)), "SU(2)"), reach=0, n_time_modes=2).double()
    randomise(field)
    assert [check.law for check in check_vector_field(field).violations] == ["divergence = dense trace"]


def test_the_harness_sees_that_rungs_forget_how_they_look_at_plaquettes(monkeypatch):
    looks = LadderTerms._looks

    def blind(self, kernel):
        seen = looks(self, kernel).items()
        return {power: replace(look, own=0 * look.own, next=0 * look.next) for power, look in seen}

    monkeypatch.setattr(LadderTerms, "_looks", blind)
    field = random_field("SU(2)", 2, 2, shapes=("plaquette",), degree=1, reach=1, n_time_modes=1)
    assert [check.law for check in check_vector_field(field).violations] == ["divergence = dense trace"]


def test_the_harness_sees_transport_along_one_side_only(monkeypatch):
    monkeypatch.setattr(Ladders, "_on_sides", lambda self, left, right: torch.stack([left, left], 1))
    field = random_field("SU(2)", 4, 4, shapes=("plaquette",), degree=1, reach=2, n_time_modes=1)
    violations = check_vector_field(field).violations
    assert any("equivariance" in check.law for check in violations)


def test_a_flow_has_the_field_that_suits_its_links():
    lattice = Lattice((3, 3))
    assert type(default_field(Links(lattice, "U(1)"))) is U1Field
    assert type(default_field(Links(lattice, "SU(3)"))) is SUNField


def test_wrong_arguments_are_explained():
    links = Links(Lattice((3, 3)), "SU(2)")
    with pytest.raises(ValueError, match=r"moves links in SU\(N\), got U\(1\)"):
        SUNField(Links(Lattice((3, 3)), "U(1)"))
    with pytest.raises(TypeError, match="links must be of type Links"):
        SUNField(Lattice((3, 3)))
    with pytest.raises(ValueError, match="Unknown shape 'circle'"):
        SUNField(links, shapes=("circle",))
    with pytest.raises(ValueError, match="at least one shape"):
        SUNField(links, shapes=())
    with pytest.raises(ValueError, match="three dimensions"):
        SUNField(links, shapes=("chair",))
    with pytest.raises(ValueError, match="meet themselves"):
        SUNField(Links(Lattice((2, 3)), "SU(2)"), shapes=("rectangle",))
    with pytest.raises(ValueError, match="degree"):
        SUNField(links, degree=0)
    with pytest.raises(ValueError, match="at most half a side, 1, got 2"):
        SUNField(links, reach=2)
