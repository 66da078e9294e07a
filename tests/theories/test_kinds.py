"""What belongs to each kind of configurations, and how a new theory joins them."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from equiflow import EquivariantCNF, FreeField, Lattice, Solver, SymmetryGroup, fit, importance_sample
from equiflow.flows import AugmentedFlow, CouplingFlow, SymplecticFlow
from equiflow.runtime.storage import CheckpointError
from equiflow.testing import assert_vector_field, check_flow, check_vector_field, randomise
from equiflow.theories import KINDS, Kind, register
from equiflow.theories.angles.space import Angles
from equiflow.theories.base.action import Action
from equiflow.theories.base.checkerboard import CheckerboardGroup
from equiflow.theories.base.group import Element, Group
from equiflow.theories.base.kind import group_of, kind_named, kinds, registered
from equiflow.theories.base.lattice import lattice_of
from equiflow.theories.base.prior import LOG_2PI, Prior
from equiflow.theories.base.resizing import space_on
from equiflow.theories.base.space import Space
from equiflow.theories.base.symmetry import Transformation, spatial_part
from equiflow.theories.multiplets.group import MultipletGroup
from equiflow.theories.multiplets.space import Multiplet
from equiflow.theories.particles.group import EuclideanGroup
from equiflow.theories.particles.space import Particles
from equiflow.vector_fields import VECTOR_FIELDS, PotentialField, SUNField, VectorField, known_fields
from tests.support.strategies import configurations, fields_elsewhere, flows_elsewhere, lattices, seeds

spaces = st.one_of(
    lattices(),
    st.builds(Multiplet, lattices(max_volume=12), st.integers(1, 3)),
    st.builds(Angles, lattices(max_volume=12)),
    st.builds(Particles, st.integers(1, 4), st.integers(1, 3)),
)


@settings(max_examples=25)
@given(fields_elsewhere())
def test_every_law_holds_for_fields_on_every_space(field):
    report = check_vector_field(field)
    assert report.ok, str(report)


@settings(max_examples=6)
@given(flows_elsewhere())
def test_every_law_holds_for_flows_on_every_space(flow):
    report = check_flow(flow, tolerance=1e-6)
    assert report.ok, str(report)


@settings(max_examples=8)
@given(flows_elsewhere(solver=Solver("rk4", steps=3)), seeds)
def test_flows_on_every_space_are_saved_and_loaded(tmp_path_factory, flow, seed):
    path = tmp_path_factory.mktemp("flows") / "flow.pt"
    flow.save(path)
    loaded = EquivariantCNF.load(path)
    z = flow.prior.rsample(3, torch.Generator().manual_seed(seed)).detach()
    assert loaded.space == flow.space
    assert loaded.group == flow.group
    for mine, theirs in zip(flow.transform_and_log_det(z), loaded.transform_and_log_det(z), strict=True):
        assert torch.equal(mine, theirs)


# Laws of SUNField take seconds; `test_gauge_sun` checks them in single precision.
@settings(max_examples=6)
@given(fields_elsewhere().filter(lambda field: not isinstance(field, SUNField)))
def test_float32_obeys_the_laws_to_its_rounding(field):
    assert_vector_field(field.float())


@given(spaces)
def test_a_space_is_known_by_its_shape(space):
    assert type(space).of_shape(space.shape) == space
    assert kind_named(space.kind).space is type(space)
    assert space.size == math.prod(space.shape)


@given(spaces, seeds)
def test_groups_move_configurations_and_leave_their_size(space, seed):
    group = group_of(space)
    phi = configurations(space)
    element = group.random_element(torch.Generator().manual_seed(seed))
    linear = getattr(element, "linear", element)
    torch.testing.assert_close(linear(phi).square().flatten(1).sum(1), phi.square().flatten(1).sum(1))
    assert group_of(space, **group.config()) == group
    assert group <= group
    assert str(group)


def test_a_smaller_group_is_known_as_such():
    square, pair, four = Lattice((4, 4)), Multiplet(Lattice((4, 4)), 2), Particles(4, 2)
    assert SymmetryGroup(square, "C4", z2=False) <= SymmetryGroup(square)
    assert not SymmetryGroup(square) <= SymmetryGroup(square, "C4")
    assert not SymmetryGroup(square, "D2") <= SymmetryGroup(square, "C4")
    assert not SymmetryGroup(square) <= SymmetryGroup(Lattice((6, 6)))
    assert MultipletGroup(pair, rotations=False) <= MultipletGroup(pair)
    assert not MultipletGroup(pair) <= MultipletGroup(pair, rotations=False)
    assert EuclideanGroup(four) <= EuclideanGroup(four, translations=True)
    assert not EuclideanGroup(four, translations=True) <= EuclideanGroup(four)


def test_particles_have_no_lattice():
    with pytest.raises(TypeError, match="no lattice"):
        lattice_of(Particles(3, 2))
    with pytest.raises(TypeError, match="no lattice"):
        FreeField(Particles(3, 2))


def test_a_space_of_no_kind_says_what_to_register():
    with pytest.raises(TypeError, match="register a Kind"):
        group_of(Space())


# what a space and a group answer for themselves


@given(spaces)
def test_components_and_sites_share_out_the_values_of_a_configuration(space):
    volume = 1 if space.sites is None else lattice_of(space).volume
    assert space.values_per_site * volume == space.size
    components = math.prod(space.shape[axis] for axis in space.component_axes)
    assert components == space.values_per_site
    if space.sites is not None:
        assert (*space.component_axes, *lattice_of(space).axes) == space.event_axes


def test_only_several_components_have_an_axis():
    lattice = Lattice((3, 4))
    assert Multiplet(lattice, 2).component_axes == (-3,)
    assert lattice.component_axes == Angles(lattice).component_axes == ()


@given(spaces)
def test_only_angles_have_windings(space):
    assert space.has_windings == bool(space.windings()) == isinstance(space, Angles)


@given(spaces, st.data())
def test_a_space_on_another_lattice_differs_in_nothing_else(space, data):
    if space.sites is None:
        with pytest.raises(TypeError, match="no lattice"):
            space.on(Lattice((3,)))
        return
    lattice = data.draw(lattices(min_dim=space.sites.dim, max_dim=space.sites.dim))
    other = space_on(space, lattice)
    assert (type(other), lattice_of(other)) == (type(space), lattice)
    assert other.values_per_site == space.values_per_site
    assert other.on(lattice_of(space)) == space


@given(spaces, seeds)
def test_the_spatial_part_of_a_group_moves_sites_alone(space, seed):
    group = group_of(space)
    if space.sites is None:
        with pytest.raises(TypeError, match="acts on no lattice"):
            spatial_part(group)
        return
    spatial = spatial_part(group)
    assert spatial.lattice == lattice_of(space)
    phi = configurations(space, seed=seed)
    moved = spatial_part(spatial).random_element(torch.Generator().manual_seed(seed))(phi.abs())
    torch.testing.assert_close(moved.abs().flatten(1).sort(1).values, phi.abs().flatten(1).sort(1).values)


def test_a_group_that_moves_sites_by_other_rules_has_no_spatial_part():
    with pytest.raises(TypeError, match="acts on no lattice"):
        spatial_part(CheckerboardGroup(Lattice((4, 4))))


# what a wrong argument is called


@pytest.mark.parametrize(
    "cls",
    [
        *(cls for kind in KINDS for cls in (kind.group, *kind.priors, *kind.actions.values())),
        *VECTOR_FIELDS.values(),
        *(EquivariantCNF, CouplingFlow, SymplecticFlow, AugmentedFlow),
    ],
    ids=lambda cls: cls.__name__,
)
def test_a_wrong_space_is_called_as_the_parameter_is(cls):
    name, *others = inspect.signature(cls).parameters.values()
    options = {p.name: 1.0 for p in others if p.default is p.empty}
    with pytest.raises(TypeError, match=rf"^{name.name} must be of type \w+, got \(4, 4\)"):
        cls((4, 4), **options)


# a theory of your own


@dataclass(frozen=True)
class TwoSpecies(Space):
    """Two real fields on one lattice, which may be exchanged."""

    kind: ClassVar[str] = "two species"
    lattice: Lattice

    @classmethod
    def of_shape(cls, shape: tuple[int, ...]) -> TwoSpecies:
        return cls(Lattice(tuple(shape[1:])))

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (2, *self.lattice.shape)

    @property
    def sites(self) -> Lattice:
        return self.lattice

    def on(self, lattice: Lattice) -> TwoSpecies:
        return TwoSpecies(lattice)


@dataclass(frozen=True)
class Exchange:
    """A transformation of the sites, and an exchange of the species."""

    spatial: Transformation

    def __call__(self, phi: Tensor) -> Tensor:
        return self.spatial(phi).flip(1)


@dataclass(frozen=True)
class ExchangeGroup(Group):
    """Lattice symmetries x (optionally) the exchange of the species."""

    fields: TwoSpecies
    exchange: bool = True

    @property
    def space(self) -> TwoSpecies:
        return self.fields

    @property
    def spatial(self) -> SymmetryGroup:
        return SymmetryGroup(self.fields.lattice, z2=False)

    def generators(self) -> dict[str, Element]:
        exchange = {"exchange of the species": Exchange(self.spatial.identity)} if self.exchange else {}
        return self.spatial.generators() | exchange

    def random_element(self, generator: torch.Generator | None = None) -> Element:
        moved = self.spatial.random_element(generator)
        exchanged = self.exchange and bool(torch.randint(2, (), generator=generator))
        return Exchange(moved) if exchanged else moved

    def config(self) -> dict[str, object]:
        return {"exchange": self.exchange}

    def __str__(self) -> str:
        return f"{self.spatial}{' x exchange' if self.exchange else ''}"


class WideNoise(Prior):
    """Independent Gaussians with a learned width."""

    def __init__(self, fields: TwoSpecies, *, width: float = 1.0, group: Group | None = None) -> None:
        super().__init__(fields, group=group)
        self.log_sigma = nn.Parameter(torch.tensor(math.log(width)))

    def colour(self, noise: Tensor) -> Tensor:
        return self.log_sigma.exp() * noise

    def log_prob(self, z: Tensor) -> Tensor:
        white = z * (-self.log_sigma).exp()
        return -(0.5 * white.square() + self.log_sigma + 0.5 * LOG_2PI).sum(self.space.event_axes)

    def score(self, z: Tensor) -> Tensor:
        return -z * (-2 * self.log_sigma).exp()


class ExchangeField(VectorField):
    """`v_a = w_0 phi_a + w_1 sin(phi_a) + w_2 t phi_b`, with b the other species."""

    def __init__(self, fields: TwoSpecies, *, group: Group | None = None) -> None:
        super().__init__(group_of(fields) if group is None else group)
        self.weight = nn.Parameter(torch.zeros(3))

    def velocity_and_divergence(self, phi: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        own, sine, other = self.weight
        velocity = own * phi + sine * phi.sin() + other * t * phi.flip(1)
        return velocity, (own + sine * phi.cos()).sum(self.space.event_axes)


class Attraction(Action):
    """`S = sum_x [(phi_1 - phi_2)^2 + phi_1^4 + phi_2^4]`."""

    def forward(self, phi: Tensor) -> Tensor:
        return (phi[:, 0] - phi[:, 1]).square().flatten(1).sum(1) + phi.pow(4).flatten(1).sum(1)


TOY = Kind(
    space=TwoSpecies,
    group=ExchangeGroup,
    priors=(WideNoise,),
    vector_fields=(ExchangeField,),
    actions={"attraction": Attraction},
)
FIELDS = TwoSpecies(Lattice((2, 3)))


def toy_flow() -> EquivariantCNF:
    flow = EquivariantCNF(FIELDS, solver=Solver(rtol=1e-9, atol=1e-9)).double()
    randomise(flow)
    return flow


def test_one_registration_gives_a_theory_its_defaults():
    with registered(TOY):
        flow = EquivariantCNF(FIELDS)
        assert (type(flow.vector_field), type(flow.prior), type(flow.group)) == (
            ExchangeField,
            WideNoise,
            ExchangeGroup,
        )
        assert flow.lattice == FIELDS.lattice
        assert group_of(FIELDS, exchange=False) == ExchangeGroup(FIELDS, exchange=False)
        assert kind_named("two species") is TOY
        assert known_fields() == {**VECTOR_FIELDS, "ExchangeField": ExchangeField}


@pytest.mark.parametrize("field", [ExchangeField, f"{__name__}.ExchangeField"], ids=["class", "full name"])
def test_a_flow_of_a_registered_theory_is_saved_and_loaded(tmp_path, field):
    with registered(Kind(TwoSpecies, ExchangeGroup, (WideNoise,), (field,))):
        flow = toy_flow()
        flow.save(tmp_path / "flow.pt")
        loaded = EquivariantCNF.load(tmp_path / "flow.pt")
    assert repr(loaded) == repr(flow)
    phi = configurations(FIELDS)
    assert torch.equal(loaded.log_prob(phi), flow.log_prob(phi))
    with pytest.raises(CheckpointError, match="expected the shape of one of"):
        EquivariantCNF.load(tmp_path / "flow.pt")


def test_the_laws_hold_for_a_registered_theory():
    with registered(TOY):
        flow = toy_flow()
        report = check_flow(flow, tolerance=1e-6)
        assert report.ok, str(report)
        assert any("exchange" in check.case for check in report.checks)


class Unequal(ExchangeField):
    """Moves the first species alone."""

    def velocity_and_divergence(self, phi, t):
        velocity, divergence = super().velocity_and_divergence(phi, t)
        return velocity * torch.tensor([1.0, 0.0]).reshape(2, 1, 1), divergence


def test_the_harness_sees_a_broken_theory():
    with registered(TOY):
        field = Unequal(FIELDS)
        randomise(field)
        broken = {check.law for check in check_vector_field(field).violations}
    assert broken >= {"equivariance", "divergence = dense trace"}


def test_a_registered_theory_is_trained_and_measured():
    with registered(TOY):
        action, flow = Attraction(FIELDS), toy_flow()
        assert max(action.asymmetry(flow.group).values()) < 1e-12
        fit(flow, action, steps=150, batch_size=128, learning_rate=3e-2, progress=False)
        generator = torch.Generator().manual_seed(0)
        ensemble = importance_sample(flow, action, 500, generator=generator)
        assert ensemble.effective_sample_size().mean > 0.5


def test_a_theory_is_known_while_it_is_registered_alone():
    before = kinds()
    with registered(TOY):
        assert kinds() == (*before, TOY)
    assert kinds() == before == KINDS
    with pytest.raises(ZeroDivisionError), registered(TOY):
        1 / 0  # noqa: B018
    assert kinds() == before
    for need in (group_of, EquivariantCNF):
        with pytest.raises(TypeError, match="register a Kind"):
            need(FIELDS)


@dataclass(frozen=True)
class OtherLattice(Space):
    """Another class of spaces under a name that is taken."""

    kind: ClassVar[str] = "lattice"


@pytest.mark.parametrize("space", [Lattice, OtherLattice])
def test_a_kind_that_is_taken_is_refused(space):
    with pytest.raises(ValueError, match="clashes with Lattice"):
        register(Kind(space, ExchangeGroup, (WideNoise,), (ExchangeField,)))
    assert kinds() == KINDS


def test_what_is_registered_is_a_kind():
    with pytest.raises(TypeError, match="kind must be of type Kind"):
        register(TwoSpecies)


def test_a_flow_of_a_space_derived_from_a_known_one_is_of_its_kind():
    class Torus(Lattice):
        pass

    assert isinstance(EquivariantCNF(Torus((3, 3))).vector_field, PotentialField)
