"""Gauge theories of the literature by name."""

from __future__ import annotations

import pytest

from equiflow.cli.config.file import parse_config
from equiflow.cli.presets import config_text
from equiflow.theories.gauge import presets


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_is_its_action_also_as_a_config(name):
    preset = presets.get(name)
    assert preset.name == name
    assert preset.source.startswith("arXiv:")
    assert (preset.action.space.group, preset.action.lattice.shape) == (preset.group, (16, 16))
    assert f"beta = {preset.beta:g}" in str(preset)
    config = parse_config(config_text(name), source=name)
    assert config.lattice.shape == [16, 16]
    assert (config.action.group, config.action.beta) == (preset.group, preset.beta)
    assert config.optimiser.kind == "least_squares"
    assert config.field.kind == ("u1" if preset.group == "U(1)" else "sun")


def test_an_unknown_name_lists_those_that_are_known():
    assert len(set(presets.names())) == 13
    with pytest.raises(ValueError, match=r"no gauge preset 'E1'\. Known are kanwar-u1-beta1,"):
        presets.get("E1")
