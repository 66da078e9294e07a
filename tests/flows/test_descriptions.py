"""What `save` accepts, `load` reads back; what could not be read back is refused before a file is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from equiflow import (
    AngleGroup,
    Angles,
    AugmentedFlow,
    ConditionalFlow,
    CouplingFlow,
    EquivariantCNF,
    Flow,
    FreeField,
    Lattice,
    OrbitConvField,
    PotentialField,
    Solver,
    StandardNormal,
    SymmetryGroup,
    VectorField,
)
from equiflow.nn.couplings.site_maps import AffineMap
from equiflow.runtime.storage import CheckpointError
from equiflow.testing import randomise
from equiflow.theories import Kind
from equiflow.theories.base.kind import registered
from tests.support.strategies import configurations

LATTICE = Lattice((2, 4))
RK4 = Solver("rk4", steps=2)


class Tilted(Angles):
    """A space of one's own, whose fields and priors below are registered with it."""

    kind: ClassVar[str] = "tilted"


class TiltedGroup(AngleGroup):
    pass


class Field(VectorField):
    """`v = weights . (phi, phi, ...)`, of a class that is registered."""

    def __init__(self, space: Any, *, group: Any = None, n: int = 2) -> None:
        super().__init__(TiltedGroup(space) if group is None else group)
        self.weights = nn.Parameter(torch.full((n,), 0.1))

    def velocity_and_divergence(self, phi: Tensor, t: Any) -> tuple[Tensor, Tensor]:
        total = self.weights.sum()
        return total * phi.sin(), total * phi.cos().sum((1, 2))


class WithoutGroup(Field):
    def __init__(self, space: Any, *, n: int = 2) -> None:
        super().__init__(space, n=n)


class WithoutSpace(Field):
    def __init__(self, *, group: Any = None, n: int = 2) -> None:
        super().__init__(SPACE, group=group, n=n)


class OtherWeights(Field):
    """Its number of weights is no option of the constructor."""

    n = 2

    def __init__(self, space: Any, *, group: Any = None) -> None:
        super().__init__(space, group=group, n=self.n)


class OfAFunction(Field):
    def __init__(self, space: Any, *, group: Any = None, function: Any = torch.sin) -> None:
        super().__init__(space, group=group)


class OfANamedFunction(OfAFunction):
    def config(self) -> dict[str, object]:
        return {}


class Raises(Field):
    def __init__(self, space: Any, *, group: Any = None, n: int = 3) -> None:
        super().__init__(space, group=group, n=n + 1)
        self._options = {"n": "three"}


class NamedOption(Field):
    def __init__(self, space: Any, *, group: Any = None, function: Any = torch.sin) -> None:
        super().__init__(space, group=group)

    def config(self) -> dict[str, object]:
        return {"function": "sin"}


class Uniform(StandardNormal):
    def __init__(self, space: Any, *, group: Any = None) -> None:
        super(StandardNormal, self).__init__(space, group=group)


class UniformWithoutGroup(Uniform):
    def __init__(self, space: Any) -> None:
        super().__init__(space)


SPACE = Tilted(LATTICE)


def kind(field: type = Field, prior: type = Uniform) -> Kind:
    return Kind(space=Tilted, group=TiltedGroup, priors=(prior,), vector_fields=(field,))


REFUSED = {
    WithoutGroup: (lambda: WithoutGroup(SPACE), r"WithoutGroup cannot be saved, .*argument 'group'"),
    WithoutSpace: (lambda: WithoutSpace(), r"WithoutSpace cannot be saved, .*positional argument"),
    OfAFunction: (lambda: OfAFunction(SPACE, function=torch.cos), r"option function is no number"),
    Raises: (lambda: Raises(SPACE), r"Raises cannot be saved, .*could not be loaded again"),
}


@pytest.mark.parametrize("field", REFUSED)
def test_a_registered_field_that_could_not_be_rebuilt_is_not_saved(field, tmp_path):
    make, message = REFUSED[field]
    with registered(kind(field)):
        flow = EquivariantCNF(SPACE, vector_field=make(), solver=RK4)
        with pytest.raises(TypeError, match=message):
            flow.save(tmp_path / "flow.pt")
    assert not list(tmp_path.iterdir())


def test_a_field_whose_weights_are_no_option_is_not_saved(tmp_path):
    with registered(kind(OtherWeights)):
        field = OtherWeights(SPACE)
        flow = EquivariantCNF(SPACE, vector_field=field, solver=RK4)
        flow.save(tmp_path / "flow.pt")
        field.weights = nn.Parameter(torch.zeros(3))
        with pytest.raises(
            TypeError, match=r"loaded with other weights.*called as MyField\(space, group=group"
        ):
            flow.save(tmp_path / "other.pt")
    assert not (tmp_path / "other.pt").exists()


def test_a_registered_prior_that_could_not_be_rebuilt_is_not_saved(tmp_path):
    with registered(kind(prior=UniformWithoutGroup)):
        flow = EquivariantCNF(SPACE, vector_field=Field(SPACE), prior=UniformWithoutGroup(SPACE))
        with pytest.raises(TypeError, match="UniformWithoutGroup cannot be saved"):
            flow.save(tmp_path / "flow.pt")


def test_saving_changes_no_random_numbers(tmp_path):
    class Drawn(Field):
        def __init__(self, space: Any, *, group: Any = None, n: int = 2) -> None:
            super().__init__(space, group=group, n=n)
            nn.init.normal_(self.weights)

    with registered(kind(Drawn)):
        flow = EquivariantCNF(SPACE, vector_field=Drawn(SPACE), prior=Uniform(SPACE))
        before = torch.get_rng_state()
        flow.save(tmp_path / "flow.pt")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("field", [Field, NamedOption, OfANamedFunction])
def test_what_is_saved_of_ones_own_kind_is_read_back(field, tmp_path):
    if field is OfANamedFunction:  # the option is lost, and with it what the field is
        with registered(kind(field)):
            flow = EquivariantCNF(SPACE, vector_field=field(SPACE, function=torch.cos), prior=Uniform(SPACE))
            with pytest.raises(TypeError, match="option function"):
                flow.save(tmp_path / "flow.pt")
        return
    with registered(kind(field)):
        flow = EquivariantCNF(SPACE, vector_field=field(SPACE), prior=Uniform(SPACE), solver=RK4).double()
        randomise(flow)
        flow.save(tmp_path / "flow.pt")
        loaded = EquivariantCNF.load(tmp_path / "flow.pt")
        assert type(loaded.vector_field) is field
        phi = configurations(SPACE)
        assert torch.equal(loaded.solve(phi, 0.0, 1.0).state[0], flow.solve(phi, 0.0, 1.0).state[0])


def test_a_space_without_a_kind_is_refused_with_the_remedy(tmp_path):
    class Strange(Lattice):
        """Of the kind of its parent, as which it would be loaded."""

    @dataclass(frozen=True)
    class Unknown(Angles):
        kind: ClassVar[str] = "unknown"

    for space, field in ((Strange((2, 4)), OrbitConvField), (Unknown(LATTICE), Field)):
        made = field(space) if field is OrbitConvField else Field(space, group=TiltedGroup(space))
        prior = StandardNormal if field is OrbitConvField else Uniform
        flow = EquivariantCNF(space, vector_field=made, prior=prior(space, group=made.group))
        with pytest.raises(TypeError, match=r"flow on (Strange|Unknown) cannot be saved: .*register a Kind"):
            flow.save(tmp_path / "flow.pt")
    assert not list(tmp_path.iterdir())


def test_a_field_without_a_registered_kind_is_saved_and_given_to_load(tmp_path):
    class Mine(OrbitConvField):
        def __init__(self, lattice: Lattice) -> None:
            super().__init__(lattice, n_frequencies=2)

    flow = EquivariantCNF(LATTICE, vector_field=Mine(LATTICE), solver=RK4).double()
    randomise(flow)
    flow.save(tmp_path / "flow.pt")
    with pytest.raises(CheckpointError, match="Mine is no class that equiflow can build"):
        EquivariantCNF.load(tmp_path / "flow.pt")
    loaded = EquivariantCNF.load(tmp_path / "flow.pt", vector_field=Mine(LATTICE))
    phi = configurations(LATTICE)
    assert torch.equal(loaded.log_prob(phi), flow.log_prob(phi))


def test_a_class_that_has_the_name_of_one_of_the_library_is_not_taken_for_it(tmp_path):
    theirs = OrbitConvField, FreeField, AffineMap

    def named_alike() -> tuple[type, type, type]:
        class OrbitConvField(theirs[0]):
            def velocity_and_divergence(self, phi: Tensor, t: Any) -> tuple[Tensor, Tensor]:
                velocity, divergence = super().velocity_and_divergence(phi, t)
                return 2 * velocity, 2 * divergence

        class FreeField(theirs[1]):
            pass

        class AffineMap(theirs[2]):
            pass

        return OrbitConvField, FreeField, AffineMap

    field, prior, site_map = named_alike()
    flow = EquivariantCNF(LATTICE, vector_field=field(LATTICE), solver=RK4)
    flow.save(tmp_path / "flow.pt")
    with pytest.raises(
        CheckpointError, match=r"named_alike\.<locals>\.OrbitConvField is no class that equiflow can build"
    ):
        EquivariantCNF.load(tmp_path / "flow.pt")
    assert type(EquivariantCNF.load(tmp_path / "flow.pt", vector_field=field(LATTICE)).vector_field) is field
    AugmentedFlow(LATTICE, n_steps=1, position=prior(LATTICE)).save(tmp_path / "flow.pt")
    with pytest.raises(CheckpointError, match=r"FreeField is no class that equiflow can build"):
        Flow.load(tmp_path / "flow.pt")
    CouplingFlow(LATTICE, n_layers=2, site_map=site_map()).save(tmp_path / "flow.pt")
    with pytest.raises(CheckpointError, match=r"AffineMap is no class that equiflow can build"):
        Flow.load(tmp_path / "flow.pt")
    assert type(Flow.load(tmp_path / "flow.pt", site_map=site_map()).site_map) is site_map


class NotBack(Flow):
    """A flow of one's own that says what it is, but not how it is made from that."""

    def __init__(self, lattice: Lattice) -> None:
        super().__init__(lattice, StandardNormal(lattice))

    def transform_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z, z.new_zeros(len(z))

    inverse_and_log_det = transform_and_log_det

    def recipe(self) -> dict[str, Any]:
        return {"flow": "NotBack", "lattice": list(self.lattice.shape)}


class OtherName(NotBack):
    def recipe(self) -> dict[str, Any]:
        return {"lattice": list(self.lattice.shape)}

    @classmethod
    def from_recipe(cls, recipe: dict[str, Any]) -> OtherName:
        return cls(Lattice(tuple(recipe["lattice"])))


class NeedsMore(AugmentedFlow):
    def __init__(self, lattice: Lattice, *, depth: int, **options: Any) -> None:
        super().__init__(lattice, n_steps=depth, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NotBack(LATTICE), r"NotBack cannot be saved, .*override `from_recipe`"),
        (lambda: OtherName(LATTICE), r"OtherName cannot be saved, .*the entry \"flow\""),
        (lambda: NeedsMore(LATTICE, depth=1), r"NeedsMore cannot be saved, .*depth"),
    ],
)
def test_a_flow_of_ones_own_that_could_not_be_loaded_is_not_saved(make, message, tmp_path):
    with pytest.raises(TypeError, match=message):
        make().save(tmp_path / "flow.pt")
    assert not list(tmp_path.iterdir())


def test_the_parts_of_a_template_are_checked_too(tmp_path):
    with registered(kind(WithoutGroup)):
        template = EquivariantCNF(SPACE, vector_field=WithoutGroup(SPACE), prior=Uniform(SPACE))
        with pytest.raises(TypeError, match="WithoutGroup cannot be saved"):
            ConditionalFlow(template, {"beta": (0.5, 1.0)}).save(tmp_path / "flow.pt")


def test_a_group_of_ones_own_must_say_how_it_is_rebuilt(tmp_path):
    class Mute(SymmetryGroup):
        def config(self) -> dict[str, Any]:
            return super(SymmetryGroup, self).config()

    class Renamed(SymmetryGroup):
        pass

    flow = EquivariantCNF(LATTICE, vector_field=PotentialField(LATTICE, group=Renamed(LATTICE)))
    with pytest.raises(TypeError, match="group is a Renamed, and it would be loaded with a SymmetryGroup"):
        flow.save(tmp_path / "flow.pt")
    flow = EquivariantCNF(LATTICE, vector_field=PotentialField(LATTICE, group=Mute(LATTICE)))
    with pytest.raises(TypeError, match="Mute does not say how it is rebuilt; override `config`"):
        flow.save(tmp_path / "flow.pt")
