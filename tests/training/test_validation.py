"""What `fit` says of an action that lacks a symmetry of the flow, and the flow that it then proposes."""

from __future__ import annotations

import re
import warnings

import pytest
import torch

import equiflow
from equiflow import (
    Action,
    Angles,
    CouplingFlow,
    EquivariantCNF,
    Lattice,
    Multiplet,
    OrbitConvField,
    Particles,
    Phi4,
    ReverseKL,
    SymmetryGroup,
    fit,
)
from equiflow.testing import invariance_error, randomise
from equiflow.theories.base.kind import group_of
from equiflow.training.validation import check_target

LATTICE = Lattice((4, 4))
SPACES = {
    "lattice": LATTICE,
    "multiplet": Multiplet(LATTICE, 2),
    "angles": Angles(LATTICE),
    "particles": Particles(3, dim=2),
}


class Formula(Action):
    def __init__(self, space, formula):
        super().__init__(space)
        self.formula = formula

    def forward(self, phi):
        return self.formula(phi).flatten(1).sum(1)


#: space, a formula, and the options of the largest group that the formula has
LESS_SYMMETRIC = {
    "no Z2": ("lattice", lambda phi: phi**4 + phi, {"z2": False}),
    "no exchange of axes": ("lattice", lambda phi: phi**4 + phi * phi.roll(1, -1), {"point": "reflections"}),
    "only inversion": (
        "lattice",
        lambda phi: phi**4 + phi * phi.roll((1, 1), (-2, -1)) + phi * phi.roll(1, -1),
        {"point": "inversion"},
    ),
    "no O(N)": ("multiplet", lambda phi: phi[:, :1] ** 4 + phi**2, {"rotations": False}),
    "neither O(N) nor D4": (
        "multiplet",
        lambda phi: phi[:, :1] ** 4 + 2 * phi**2 + phi * phi.roll(1, -1),
        {"point": "reflections", "rotations": False},
    ),
    "angles": (
        "angles",
        lambda theta: (theta - theta.roll(1, -1)).cos(),
        {"point": "reflections"},
    ),
}


def proposed(message: str, space: equiflow.Space) -> EquivariantCNF:
    """Return the flow that a warning proposes, by running its code."""
    code = re.search(r": write (.*)\.$", message)[1]
    return eval(code, vars(equiflow) | {space.kind: space})


@pytest.mark.parametrize("case", LESS_SYMMETRIC)
def test_the_warning_proposes_a_flow_with_the_largest_group_of_the_action(case):
    kind, formula, options = LESS_SYMMETRIC[case]
    space = SPACES[kind]
    action = Formula(space, formula)
    with pytest.warns(UserWarning, match="The flow cannot reach it") as caught:
        check_target(EquivariantCNF(space).double(), action)
    flow = proposed(str(caught[0].message), space).double()
    assert flow.group == flow.prior.group == flow.vector_field.group == group_of(space, **options)
    check_target(flow, action)  # a warning would be an error


def test_the_warning_of_a_coupling_flow_proposes_one_without_the_sign():
    action = Formula(LATTICE, lambda phi: phi**4 + phi)
    with pytest.warns(UserWarning, match=r"write CouplingFlow\(lattice, z2=False\)\.$"):
        fit(CouplingFlow(LATTICE, z2=True, n_layers=2), action, steps=1, batch_size=2, objective=ReverseKL())


@pytest.mark.parametrize(
    ("kind", "formula"),
    [
        ("lattice", lambda phi: phi**4 + phi * torch.arange(16.0).view(4, 4)),
        ("angles", lambda theta: theta.cos()),
        ("particles", lambda x: x**4),
    ],
)
def test_the_warning_says_if_no_group_can_be_built_in(kind, formula):
    flow = EquivariantCNF(SPACES[kind])
    with pytest.warns(UserWarning, match="No group that can be built in leaves these out"):
        check_target(flow, Formula(SPACES[kind], formula))


@pytest.mark.parametrize("kind", SPACES)
def test_subgroups_go_from_large_to_small_and_belong_to_the_group(kind):
    group = group_of(SPACES[kind])
    found = group.subgroups()
    assert found[0] == group
    assert all(one <= group for one in found)
    assert len(set(map(str, found))) == len(found)
    # No group contains one that stands before it.
    assert not any(found[i] <= found[j] for i in range(len(found)) for j in range(i + 1, len(found)))


def test_a_rectangle_has_each_group_once():
    found = map(str, SymmetryGroup(Lattice((4, 6))).subgroups())
    assert [*found] == [
        "translations x D2 x Z2",
        *("translations x D2", "translations x C2 x Z2"),
        *("translations x C2", "translations x Z2", "translations"),
    ]


@pytest.mark.parametrize("kind", SPACES)
def test_a_flow_with_a_group_is_symmetric_under_it_and_may_be_under_no_more(kind):
    space = SPACES[kind]
    group = group_of(space).subgroups()[-1]
    flow = EquivariantCNF(space, group=group).double()
    randomise(flow)
    assert flow.group == group
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert max(invariance_error(flow, group).values()) < 1e-3


def test_a_group_on_another_space_or_beside_another_field_is_refused():
    with pytest.raises(ValueError, match=r"acts on lattice \(4, 6\)"):
        EquivariantCNF(LATTICE, group=SymmetryGroup(Lattice((4, 6))))
    field = OrbitConvField(LATTICE)
    with pytest.raises(ValueError, match="The vector field has the group translations x D4 x Z2"):
        EquivariantCNF(LATTICE, group=SymmetryGroup(LATTICE, z2=False), vector_field=field)
    assert EquivariantCNF(LATTICE, group=field.group, vector_field=field).vector_field is field


def test_a_flow_with_a_group_is_saved_with_it(tmp_path):
    group = SymmetryGroup(LATTICE, "inversion", z2=False)
    EquivariantCNF(LATTICE, group=group).save(tmp_path / "flow.pt")
    assert EquivariantCNF.load(tmp_path / "flow.pt").group == group


def test_a_symmetric_action_gives_no_warning():
    check_target(EquivariantCNF(LATTICE), Phi4(LATTICE, m2=1.0, lam=1.0))
