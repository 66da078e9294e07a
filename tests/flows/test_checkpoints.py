"""Files of flows: every class is saved and loaded by the same methods."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from equiflow.flows import (
    AugmentedFlow,
    ConditionalFlow,
    CouplingFlow,
    EquivariantCNF,
    ExtendedFlow,
    Flow,
    SymplecticFlow,
)
from equiflow.flows.checkpoints import with_current_names
from equiflow.ode.solver import Solver
from equiflow.runtime.storage import CheckpointError
from equiflow.testing import randomise
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.scalar.priors import StandardNormal
from equiflow.vector_fields import DeepAttentionField, OrbitConvField
from tests.support.strategies import configurations, small_flow

LATTICE = Lattice((2, 4))


def made(cls: type[Flow]) -> Flow:
    options: dict[type[Flow], dict[str, Any]] = {
        EquivariantCNF: {"solver": Solver("rk4", steps=2)},
        CouplingFlow: {"n_layers": 2, "hidden_channels": (2,)},
    }
    flow = cls(LATTICE, **options.get(cls, {"n_steps": 1, "n_channels": 1, "n_frequencies": 1})).double()
    randomise(flow, scale=0.1)
    return flow


CLASSES = (EquivariantCNF, CouplingFlow, SymplecticFlow, AugmentedFlow)
classes = pytest.mark.parametrize("cls", CLASSES)


@classes
def test_the_base_class_loads_a_flow_of_any_class(cls, tmp_path):
    flow = made(cls)
    flow.about = {"steps": 3}
    flow.save(tmp_path / "flow.pt")
    loaded = Flow.load(tmp_path / "flow.pt")
    assert type(loaded) is cls
    assert loaded.about == {"steps": 3}
    phi = configurations(flow.space)
    assert torch.equal(loaded.log_prob(phi), flow.log_prob(phi))
    again = Flow.from_dict(flow.to_dict())
    assert torch.equal(again.log_prob(phi), flow.log_prob(phi))


def test_what_is_known_about_a_flow_is_a_dictionary_that_shows_itself_as_a_table(tmp_path):
    flow = made(EquivariantCNF)
    assert str(flow.about) == "about  nothing is on record"
    flow.about["reverse_ess"] = 0.5
    flow.about |= {"reverse_ess_error": 0.01, "seconds": 2 / 3, "warnings": [], "by": {"lam": 6.008}}
    rows = dict(line.split(maxsplit=1) for line in str(flow.about).splitlines())
    expected = {
        "reverse_ess": "0.500 ± 0.010",
        "seconds": "0.666667",
        "warnings": "none",
        "by": "lam = 6.008",
    }
    assert rows == expected
    assert "<td>0.500 ± 0.010</td>" in flow.about._repr_html_()
    assert repr(flow.about) == str(flow.about)
    other = made(EquivariantCNF)
    assert other.about == {}  # nothing is shared
    flow.save(tmp_path / "flow.pt")
    loaded = Flow.load(tmp_path / "flow.pt")
    assert loaded.about == flow.about
    assert str(loaded.about) == str(copy.deepcopy(flow).about) == str(flow.about)


@classes
@pytest.mark.parametrize("other", [*CLASSES, ExtendedFlow])
def test_a_class_loads_its_own_flows_and_no_others(cls, other, tmp_path):
    made(cls).save(tmp_path / "flow.pt")
    if issubclass(cls, other):
        assert type(other.load(tmp_path / "flow.pt")) is cls
    else:
        with pytest.raises(CheckpointError, match=f"does not describe a flow: .*not a {other.__name__}"):
            other.load(tmp_path / "flow.pt")


OPTIONS = {
    EquivariantCNF: {"vector_field", "prior", "compile"},
    CouplingFlow: {"site_map", "prior"},
    SymplecticFlow: {"position", "momentum"},
    AugmentedFlow: {"position", "momentum"},
}


@classes
@pytest.mark.parametrize("load", ["its class", "the base class"])
def test_an_option_of_another_class_is_named(cls, load, tmp_path):
    made(cls).save(tmp_path / "flow.pt")
    how = cls.load if load == "its class" else Flow.load
    for option in set.union(*OPTIONS.values(), {"devise"}) - OPTIONS[cls]:
        with pytest.raises(TypeError, match=f"A {cls.__name__} is loaded without the option {option}"):
            how(tmp_path / "flow.pt", **{option: None})
    prior = StandardNormal(LATTICE).double()
    if "prior" in OPTIONS[cls]:
        flow = cls(LATTICE, prior=prior).double()
        flow.save(tmp_path / "white.pt")
        assert how(tmp_path / "white.pt", prior=prior).prior is prior


def test_an_option_of_the_template_is_passed_on_by_a_conditional_flow(tmp_path):
    flow = ConditionalFlow(made(EquivariantCNF), {"lam": (4.0, 6.0)})
    flow.save(tmp_path / "flow.pt")
    assert ConditionalFlow.load(tmp_path / "flow.pt", compile=True).template.compiled
    with pytest.raises(TypeError, match="without the option site_map"):
        ConditionalFlow.load(tmp_path / "flow.pt", site_map=None)


class Shifted(Flow):
    """A user's flow that does not say how it is rebuilt."""

    def transform_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z + 1, z.new_zeros(len(z))

    def inverse_and_log_det(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        return phi - 1, phi.new_zeros(len(phi))


class SavedShift(Shifted):
    """A user's flow that says how it is rebuilt."""

    def recipe(self) -> dict[str, Any]:
        return {"flow": "SavedShift", "lattice": list(self.lattice.shape)}

    @classmethod
    def from_recipe(cls, recipe: dict[str, Any]) -> SavedShift:
        lattice = Lattice(tuple(recipe["lattice"]))
        return cls(lattice, StandardNormal(lattice))


def test_a_flow_of_ones_own_is_saved_once_it_has_a_recipe(tmp_path):
    path = tmp_path / "flow.pt"
    with pytest.raises(TypeError, match="Shifted does not say how it is rebuilt; override `recipe`"):
        Shifted(LATTICE, StandardNormal(LATTICE)).save(path)
    assert not path.exists()
    SavedShift(LATTICE, StandardNormal(LATTICE)).double().save(path)
    assert type(Flow.load(path)) is SavedShift


def test_a_class_derived_from_a_flow_loads_as_itself(tmp_path):
    class Derived(EquivariantCNF):
        pass

    small_flow().save(tmp_path / "flow.pt")
    assert type(Derived.load(tmp_path / "flow.pt")) is Derived
    assert type(EquivariantCNF.load(tmp_path / "flow.pt")) is EquivariantCNF


def test_a_flow_of_a_derived_class_is_loaded_as_that_class_or_not_at_all(tmp_path):
    def derived(offset: float) -> type[EquivariantCNF]:
        class Doubled(EquivariantCNF):
            """Another density: the prior's weights, shifted."""

            def log_prob(self, phi: Tensor) -> Tensor:
                return super().log_prob(phi) + offset

        return Doubled

    first, path = derived(1.0), tmp_path / "flow.pt"
    flow = first(LATTICE, vector_field=OrbitConvField(LATTICE, n_frequencies=1, n_time_modes=1)).double()
    randomise(flow)
    flow.save(path)
    phi = configurations(LATTICE, 3)
    for cls in (Flow, EquivariantCNF, first):
        loaded = cls.load(path)
        assert type(loaded) is first
        assert torch.equal(loaded.log_prob(phi), flow.log_prob(phi))
    template = ConditionalFlow(flow, {"lam": (4.0, 6.0)})
    template.save(tmp_path / "conditional.pt")
    assert type(ConditionalFlow.load(tmp_path / "conditional.pt").template) is first
    again = derived(2.0)  # as a cell of a notebook that runs twice
    assert type(Flow.load(path)) is again
    # Where no such class is defined, the counter-example of a base class would give another density.
    content = torch.load(path, weights_only=True)
    torch.save({**content, "flow": "Elsewhere"}, path)
    for cls in (Flow, EquivariantCNF, first):
        with pytest.raises(CheckpointError, match=r"holds a Elsewhere, .* import the module that defines it"):
            cls.load(path)


def test_copies_of_a_flow_of_a_derived_class_are_of_that_class():
    class Kept(EquivariantCNF):
        pass

    flow = Kept(LATTICE, vector_field=DeepAttentionField(LATTICE))
    assert type(flow.with_trace("dense")) is Kept
    assert type(Kept(LATTICE).resized(Lattice((4, 8)))) is Kept


def test_only_whole_names_of_submodules_are_replaced():
    state = {"a.b.w": 1, "ab.w": 2, "x.a.w": 3, "a": 4}
    assert with_current_names(state, {"a": "c"}) == {"c.b.w": 1, "ab.w": 2, "x.a.w": 3, "a": 4}
    assert with_current_names(state, {"a": "c"}, "x.") == {"a.b.w": 1, "ab.w": 2, "x.c.w": 3, "a": 4}


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_here_is_no_damage_of_the_file(device, tmp_path):
    EquivariantCNF(Lattice((2, 2))).save(tmp_path / "flow.pt")
    with pytest.raises((ValueError, RuntimeError), match=r"device") as caught:
        EquivariantCNF.load(tmp_path / "flow.pt", device=device)
    assert not isinstance(caught.value, CheckpointError)
    assert "damaged" not in str(caught.value)
