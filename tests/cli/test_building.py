"""From a config to the objects of the library."""

from __future__ import annotations

import pytest
import torch

from equiflow import NaturalGradient, PathGradient, Solver
from equiflow.cli import building
from equiflow.cli.config.errors import ConfigError
from tests.support.cli_runs import parse


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[solver]\nmethod = 'rk4'", r"\[solver\]: rk4 takes fixed steps"),
        ("[solver]\nmethod = 'rk45'", r"\[solver\]: Unknown method"),
        ("[symmetry]\npoint = 'C7'", r"\[symmetry\]: Unknown point group"),
        ("[field]\nkind = 'o3'", r"\[field\]: O3Field needs a lattice of 3 dimensions"),
        ("[field]\nkernel_size = 9", r"\[field\]: "),
        ("[compute]\ndevice = 'gpu'", r"\[compute\]: "),
    ],
)
def test_what_the_library_refuses_is_told_with_its_section(text, message):
    with pytest.raises(ConfigError, match=message):
        building.build_flow(parse(text))


def test_what_cannot_be_normalised_is_refused_with_its_section():
    with pytest.raises(ConfigError, match=r"\[action\]: exp\(-S\) cannot be normalised"):
        building.build_action(parse("", "action.lam=-1.0"))
    with pytest.raises(ConfigError, match=r"\[objective\]: dopri5 chooses its own steps"):
        building.build_objective(parse("[objective]\nmethod = 'dopri5'\nsteps = 4"))


def test_options_reach_the_flow_and_its_training():
    config = parse(
        "[symmetry]\npoint = 'rotations'\nz2 = false\n[field]\nn_time_modes = 2\nkernel_size = 3\n"
        "[prior]\nkind = 'normal'\n[solver]\nmethod = 'rk4'\nsteps = 3\n[compute]\ndtype = 'float64'\n"
        "[objective]\nkinetic_penalty = 0.5\nmethod = 'dopri5'\nrtol = 1e-3\n[optimiser]\nkind = 'natural'"
    )
    flow = building.build_flow(config)
    assert str(flow.group) == "translations x C4"
    assert flow.vector_field.config()["n_time_modes"] == 2
    assert flow.vector_field.config()["kernel_size"] == 3
    assert type(flow.prior).__name__ == "StandardNormal"
    assert (flow.solver, flow.dtype) == (Solver("rk4", steps=3), torch.float64)
    assert building.build_objective(config) == PathGradient(0.5, Solver("dopri5", rtol=1e-3))
    optimiser = building.build_optimiser(config, flow)(list(flow.parameters()), 1.0)
    assert isinstance(optimiser, NaturalGradient)


def test_a_flow_is_the_same_whatever_the_surroundings():
    config = parse("[compute]\ndtype = 'float64'")
    states = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        states.append(building.build_flow(config).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
