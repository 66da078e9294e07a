"""Configs as text: every key is shown, and what is written is read again."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from equiflow import EquivariantCNF
from equiflow.cli import building
from equiflow.cli.config.file import parse_config
from equiflow.cli.config.render import render, render_defaults
from equiflow.cli.config.schema import LISTS, Config, every_key
from tests.support.cli_runs import parse


def test_the_defaults_are_shown_for_every_kind_and_can_be_run():
    text = render_defaults()
    for section, model, key, described in every_key():
        assert f"{key} =" in text or f"[[{section}.{key}]]" in text
        assert described.description in text
        assert f"{section}]{']' * (section in LISTS)}  # {model.__doc__.splitlines()[0]}" in text
    config = parse_config(text, source="defaults")
    assert config == parse_config(
        "[lattice]\nshape = [8, 8]\n[action]\nm2 = -4.0\nlam = 6.008", source="short"
    )
    flow = building.build_flow(config)
    default = EquivariantCNF(flow.lattice).to(dtype=torch.float32)
    assert (repr(flow), flow.dtype) == (repr(default), torch.float32)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(min_value=1e-300, exclude_min=True),
    st.none() | st.integers(1, 100),
    st.sampled_from(["adam", "natural"]),
    st.text(st.characters(exclude_categories=["Cs", "Cc"])),
)
def test_what_is_written_is_read_again(shape, m2, clip, kernel_size, optimiser, point):
    config = Config.model_validate(
        {
            "lattice": {"shape": shape},
            "action": {"kind": "free", "m2": m2},
            "field": {"kernel_size": kernel_size} if kernel_size else {},
            "optimiser": {"kind": optimiser, "clip_norm": clip},
            "symmetry": {"point": point},
        }
    )
    assert parse_config(render(config), source="again") == config


def test_infinity_can_be_written():
    assert math.isinf(parse("[optimiser]\nkind = 'natural'").optimiser.clip_norm)
    assert parse("[optimiser]\nclip_norm = inf").optimiser.clip_norm == math.inf
