"""Gauge theories in config files: `action.kind = "wilson"`, and from there to numbers."""

from __future__ import annotations

import pytest

from equiflow import HaarPrior, Lattice, Links, SUNField, U1Field, WilsonAction
from equiflow.cli import building
from equiflow.cli.config.errors import ConfigError
from equiflow.cli.config.file import parse_config
from equiflow.cli.config.render import render, render_defaults
from equiflow.cli.config.schema import Config

WILSON = """
[lattice]
shape = [3, 3]

[action]
kind = "wilson"
group = "U(1)"
beta = 1.0

[objective]
method = "rk4"
steps = 2

[training]
steps = 4
batch_size = 8

[compute]
dtype = "float64"

[run]
checkpoint_every = 2
evaluation_samples = 32
"""


def config(*overrides: str) -> Config:
    return parse_config(WILSON, source="my.toml", overrides=overrides)


@pytest.mark.parametrize(("group", "family"), [("U(1)", U1Field), ("SU(2)", SUNField), ("SU(3)", SUNField)])
def test_the_group_of_the_links_chooses_the_field(group, family):
    chosen = config(f"action.group={group}", "action.rectangle=-0.1")
    flow = building.build_flow(chosen)
    assert (type(flow.vector_field), type(flow.prior)) == (family, HaarPrior)
    links = Links(Lattice((3, 3)), group)
    assert repr(building.build_action(chosen)) == repr(WilsonAction(links, beta=1.0, rectangle=-0.1))
    assert str(flow.group) == f"local {group} x translations x D4 x C"
    assert parse_config(render(chosen), source="rendered") == chosen


def test_options_of_fields_and_symmetries_reach_the_flow():
    chosen = config(
        "action.group=SU(2)", "field.shapes=['plaquette', 'square']", "symmetry.z2=false", "symmetry.point=C4"
    )
    flow = building.build_flow(chosen)
    assert flow.vector_field.shapes == ("plaquette", "square")
    assert str(flow.group) == "local SU(2) x translations x C4"
    assert building.build_flow(config("field.n_mixed=2")).vector_field.config()["n_mixed"] == 2
    assert 'kind = "wilson"' in render_defaults()


def test_a_broken_charge_conjugation_is_left_out_of_the_symmetry():
    with pytest.raises(ConfigError, match=r"\[action\]: imaginary_theta breaks .* set z2 = false and point"):
        building.build_action(config("action.imaginary_theta=0.3"))
    with pytest.raises(ConfigError, match="conjugation"):
        building.build_action(config("action.imaginary_theta=0.3", "symmetry.point=rotations"))
    chosen = config("action.imaginary_theta=0.3", "symmetry.point=rotations", "symmetry.z2=false")
    assert building.build_action(chosen).imaginary_theta == 0.3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("action.group=SU(1)",), r'\[action\]: group must be "U\(1\)" or "SU\(N\)" with N >= 2'),
        (("action.group=3",), r"\[action\]: group must be .* got '3'"),
        (("action.beta=inf",), r"\[action\]: beta must be finite, got inf"),
        (("lattice.shape=[8]",), r"\[action\]: Links need a lattice of two dimensions or more, got \(8,\)"),
        (("action.group=SU(3)", "field.kind=u1"), r"\[field\]: kind = 'u1' is not for this space; 'sun' is"),
        (("field.kind=sun",), r"\[field\]: kind = 'sun' is not for this space; 'u1' is"),
        (("field.kind=orbit",), r"\[field\]: kind = 'orbit' is not for action.kind = 'wilson'; 'u1' is"),
        (("prior.kind=free",), r"\[prior\]: kind = 'free' is not for action.kind = 'wilson'; 'links' is"),
        (("action.m2=1.0",), r"\[action\] m2: unknown key"),
        (("lattice.shape=[3, 3, 3]", "action.imaginary_theta=0.3"), "topological charge is defined for U"),
    ],
)
def test_what_does_not_belong_to_links_is_refused(overrides, message):
    def build() -> None:
        chosen = config(*overrides)
        building.build_action(chosen)
        building.build_flow(chosen)

    with pytest.raises(ConfigError, match=message):
        build()


def test_a_missing_group_is_told():
    with pytest.raises(ConfigError, match=r"\[action\] group is missing"):
        parse_config(WILSON.replace('group = "U(1)"\n', ""), source="my.toml")
