"""Errors of a factorised field name its own options."""

from __future__ import annotations

import pytest

from equiflow import FactorisedConvField, Lattice, SymmetryGroup


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("group", SymmetryGroup(Lattice((5, 5))), "acts on lattice"),
        ("kernel_size", 5, "kernel_size 5 does not fit the lattice"),
        ("n_frequencies", 0, "n_frequencies >= 1"),
        ("n_feature_bonds", 0, "n_feature_bonds must be an integer >= 1"),
        ("n_harmonics", -1, "n_harmonics must be an integer >= 0"),
        ("n_time_bonds", 0, "n_time_bonds must be an integer >= 1"),
        ("max_frequency", 0.0, "max_frequency > 0"),
        ("convolution", "exact", "Unknown convolution"),
    ],
)
def test_impossible_fields_are_refused_by_the_names_of_their_options(option, value, message):
    with pytest.raises(ValueError, match=message) as caught:
        FactorisedConvField(Lattice((4, 4)), **{option: value})
    assert "OrbitConvField" not in str(caught.value)
