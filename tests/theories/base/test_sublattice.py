"""Translations by several sites x point group x Z2."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equiflow import Lattice, SymmetryGroup
from equiflow.theories.base.sublattice import SublatticeGroup
from tests.support.strategies import configurations, seeds

LATTICE = Lattice((4, 8))


@given(st.sampled_from([1, 2, 4]), seeds)
def test_elements_map_the_sublattice_to_itself(step, seed):
    group = SublatticeGroup(LATTICE, step)
    marks = torch.zeros(LATTICE.shape)
    marks[::step, ::step] = 1.0
    elements = [*group.generators().values(), group.random_element(torch.Generator().manual_seed(seed))]
    for element in elements:
        assert torch.equal(element(marks).abs(), marks)


def test_every_translation_by_the_step_is_drawn_and_no_other():
    group, generator = SublatticeGroup(LATTICE, 2, "trivial", z2=False), torch.Generator().manual_seed(0)
    site = torch.zeros(1, *LATTICE.shape)
    site[0, 0, 0] = 1.0
    images = {int(group.random_element(generator)(site).flatten().argmax()) for _ in range(200)}
    assert images == {8 * x + y for x in range(0, 4, 2) for y in range(0, 8, 2)}


def test_generators_are_named_by_what_they_do():
    names = list(SublatticeGroup(Lattice((4, 4)), 2).generators())
    assert names[:2] == ["translation by 2 along axis 0", "translation by 2 along axis 1"]
    assert names[-1] == "Z2 phi -> -phi"
    phi = configurations(Lattice((4, 4)))
    moved = SublatticeGroup(Lattice((4, 4)), 2).generators()[names[0]](phi)
    assert torch.equal(moved, phi.roll(2, 1))


def test_inclusion():
    lattice = Lattice((8, 8))
    two, four = SublatticeGroup(lattice, 2), SublatticeGroup(lattice, 4)
    assert four <= two <= SymmetryGroup(lattice)
    assert not two <= four
    assert not two <= SymmetryGroup(lattice, z2=False)
    assert not SymmetryGroup(lattice) <= two
    assert not two <= SublatticeGroup(Lattice((4, 4)), 2)
    assert all(small <= two and small.step == 2 for small in two.subgroups())
    assert two.subgroups()[0] == two
    assert SublatticeGroup(lattice, 2, z2=False) in two.subgroups()


def test_it_is_rebuilt_from_its_options():
    group = SublatticeGroup(LATTICE, 2, "reflections", z2=False)
    assert SublatticeGroup(LATTICE, **group.config()) == group
    assert group.on(Lattice((8, 8))).step == 2
    assert str(SublatticeGroup(Lattice((4, 4)), 2, z2=False)) == "translations by 2 x D4"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"step": 3}, ValueError, "multiples of step=3"),
        ({"step": 0}, ValueError, "step"),
        ({"step": 2.0}, TypeError, "step"),
        ({"step": 2, "z2": 1}, TypeError, "z2"),
        ({"step": 2, "point": "C4"}, ValueError, "C4"),
    ],
)
def test_what_cannot_be_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        SublatticeGroup(LATTICE, **options)
