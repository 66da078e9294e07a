"""Sections made from classes: each option is a key of its type, and comes back as a keyword argument."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from equiflow import Lattice, SymmetryGroup
from equiflow.cli.config.derived import DerivedSection, first_sentence, section_of
from equiflow.cli.config.fields import families_of
from equiflow.cli.config.schema import ACTIONS, FIELDS, KINDS, OBJECTIVES, PRIORS
from equiflow.cli.config.theories import action_sections, prior_sections, theories_on_a_lattice
from equiflow.runtime.options import options_of
from equiflow.theories.base.kind import Kind
from equiflow.theories.scalar.phi4 import QuarticAction
from equiflow.theories.scalar.priors import StandardNormal
from equiflow.vector_fields import MultipletField


class Walk:
    """A walk on a lattice. It goes on and on.

    Args:
        lattice: where it happens.
        n_steps: number of steps.
        sides: offsets of a step; `None` for all.
        length: of a step. Long ones are rare.
        group: that it respects.
        name: whatever it is called.
    """

    def __init__(
        self,
        lattice: object,
        *,
        n_steps: int,
        sides: int | tuple[int, ...] | None = None,
        length: float = 0.5,
        group: object = None,
        name: object = "walk",
    ) -> None:
        self.given = (lattice, n_steps, sides, length, name)


WALK = section_of(Walk, "walk", DerivedSection, about="what kind of walk", without=("nothing",))


def test_a_section_has_the_options_of_its_class_and_their_first_sentences():
    texts = {name: described.description for name, described in WALK.model_fields.items()}
    assert texts == {
        "kind": "what kind of walk",
        "n_steps": "number of steps",
        "sides": "offsets of a step; `None` for all",
        "length": "of a step",
        "name": "whatever it is called",
    }
    assert WALK.__doc__ == "`Walk`: A walk on a lattice."


def test_the_options_of_a_section_build_its_class():
    section = WALK.model_validate({"n_steps": 3, "sides": [1, 2], "name": ["a", "b"]})
    assert section.kind == "walk"
    assert section.options() == {"n_steps": 3, "sides": (1, 2), "length": 0.5, "name": ["a", "b"]}
    assert Walk("here", **section.options()).given == ("here", 3, (1, 2), 0.5, ["a", "b"])
    assert WALK(n_steps=3).options() == {"n_steps": 3, "sides": None, "length": 0.5, "name": "walk"}


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"n_steps": 0},
        {"n_steps": 1.5},
        {"n_steps": True},
        {"n_steps": 3, "sides": [1.5]},
        {"n_steps": 3, "length": "long"},
        {"n_steps": 3, "lattice": 4},
        {"n_steps": 3, "group": None},
        {"n_steps": 3, "kind": "run"},
    ],
)
def test_what_an_option_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        WALK.model_validate(wrong)


def test_options_can_be_left_out():
    section = section_of(Walk, "walk", DerivedSection, about="", without=("n_steps", "name"))
    assert section().options() == {"sides": None, "length": 0.5}


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One. Two.", "One"),
        ("`v = K. phi` with\n    more words.\n\nAnother paragraph.", "`v = K. phi` with more words"),
        ("from (arXiv:2110.02673, 2207.00283). `Then` more", "from (arXiv:2110.02673, 2207.00283)"),
        ("no full stop", "no full stop"),
        ("", ""),
    ],
)
def test_a_sentence_ends_with_a_full_stop_before_another_sentence(text, first):
    assert first_sentence(text) == first


@pytest.mark.parametrize("sections", [FIELDS, PRIORS, ACTIONS], ids=["fields", "priors", "actions"])
def test_every_option_of_a_class_is_a_key(sections):
    for name, section in sections.items():
        assert set(section.option_names) == {option.name for option in options_of(section.stands_for)}, name


def test_the_sections_are_of_the_registered_theories():
    assert set(ACTIONS) == {"phi4", "free", "ising", "on", "xy", "wilson"}
    assert set(PRIORS) == {"free", "normal", "smooth", "angles", "links"}
    assert {"multiplet", "angles", "potential", "u1", "sun"} < set(FIELDS)
    assert [next(iter(kinds)) for kinds in KINDS.values()] == [
        "phi4",
        "potential",
        "free",
        "path",
        "path",
        "adam",
    ]


class Shifted(Lattice):
    """A space of somebody's own."""

    kind = "shifted"


class ShiftedAction(QuarticAction):
    """An action of somebody's own."""


def test_a_theory_that_is_registered_has_sections():
    theory = Kind(
        space=Shifted,
        group=SymmetryGroup,
        priors=(StandardNormal,),
        vector_fields=(MultipletField,),
        actions={"shifted": ShiftedAction},
    )
    assert theory not in theories_on_a_lattice()
    sections = action_sections((theory,))
    assert sections["shifted"].option_names == ("m2", "lam")
    assert sections["shifted"].theory is theory
    assert families_of(theory) == {"shifted": MultipletField}
    assert list(prior_sections((theory,))) == ["normal"]


def test_a_theory_without_a_lattice_is_not_offered():
    assert "coulomb" not in ACTIONS
    assert all(theory.name != "particles" for theory in theories_on_a_lattice())


def test_the_old_name_of_the_pairing_is_still_read():
    matching = OBJECTIVES["matching"]
    old = matching.model_validate({"kind": "matching", "samples": "hmc.npz", "coupling": "independent"})
    new = matching.model_validate({"kind": "matching", "samples": "hmc.npz", "pairing": "independent"})
    assert old == new
    assert old.options()["pairing"] == "independent"
    for wrong in ({"couplings": "independent"}, {"coupling": "independent", "pairing": "minibatch"}):
        with pytest.raises(ValidationError):
            matching.model_validate({"samples": "hmc.npz", **wrong})
