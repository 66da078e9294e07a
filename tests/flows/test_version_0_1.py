"""Flows that version 0.1 saved load, and have the log-densities that version 0.1 gave them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from equiflow.flows import (
    AugmentedFlow,
    ConditionalFlow,
    CouplingFlow,
    EquivariantCNF,
    Flow,
    SymplecticFlow,
)
from equiflow.runtime.storage import CheckpointError
from tests.support.strategies import needs

DATA = Path(__file__).parents[1] / "data" / "version_0_1"
EXPECTED = torch.load(DATA / "expected.pt", weights_only=True)
CLASSES = {
    "augmented": AugmentedFlow,
    "coupling": CouplingFlow,
    "coupling_splines": CouplingFlow,
    "symplectic": SymplecticFlow,
}
NEEDED = {"coupling_splines": "zuko", "o3": "e3nn", "steerable": "escnn"}

stems = [path.stem for path in DATA.glob("*.pt")]
saved = sorted(stem for stem in stems if stem in EXPECTED and stem != "conditional")
flows = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[needs(NEEDED[name])] if name in NEEDED else []) for name in saved]
)
ROUNDING = {"rtol": 1e-12, "atol": 0.0}


def test_there_are_flows_of_every_class():
    assert len(saved) == 15
    assert set(CLASSES) < set(saved)


@flows
def test_a_flow_has_the_log_density_that_it_had(name):
    flow = CLASSES.get(name, EquivariantCNF).load(DATA / f"{name}.pt")
    phi, log_q = EXPECTED[name]["phi"], EXPECTED[name]["log_q"]
    assert flow.dtype == phi.dtype == torch.float64
    torch.testing.assert_close(flow.log_prob(phi).detach(), log_q, **ROUNDING)
    # A tolerance that sees a change of the weights in the tenth digit.
    with torch.no_grad():
        for weight in flow.parameters():
            weight.mul_(1 + 1e-10)
    changed = flow.log_prob(phi).detach()
    assert not torch.allclose(changed, log_q, **ROUNDING) or not any(p.any() for p in flow.parameters())


@flows
def test_a_flow_is_loaded_as_what_it_is(name, tmp_path):
    flow = Flow.load(DATA / f"{name}.pt")
    assert type(flow) is CLASSES.get(name, EquivariantCNF)
    flow.save(tmp_path / "again.pt")
    again = Flow.load(tmp_path / "again.pt")
    assert repr(again) == repr(flow)
    phi = EXPECTED[name]["phi"]
    assert torch.equal(again.log_prob(phi), flow.log_prob(phi))


def test_a_conditional_flow_has_the_log_density_that_it_had():
    flow = ConditionalFlow.load(DATA / "conditional.pt")
    expected = EXPECTED["conditional"]
    log_q = flow.at(lam=expected["lam"]).log_prob(expected["phi"]).detach()
    torch.testing.assert_close(log_q, expected["log_q"], **ROUNDING)
    other = flow.at(lam=expected["lam"] + 1e-9).log_prob(expected["phi"]).detach()
    assert not torch.allclose(other, expected["log_q"], **ROUNDING)


def test_a_conditional_flow_is_no_flow():
    with pytest.raises(CheckpointError, match="not an equiflow flow; it holds 'conditional flow'"):
        Flow.load(DATA / "conditional.pt")


@pytest.mark.parametrize("name", ["augmented", "coupling"])
def test_the_weights_of_layers_load_under_their_old_name(name):
    content = torch.load(DATA / f"{name}.pt", weights_only=True)
    old = content["state_dict"]
    assert any(key.startswith("couplings.") for key in old)
    flow = Flow.load(DATA / f"{name}.pt")
    assert any(key.startswith("layers.") for key in flow.state_dict())
    assert not any(key.startswith("couplings.") for key in flow.state_dict())
    expected = {key: value.clone() for key, value in flow.state_dict().items()}
    with torch.no_grad():
        for weight in flow.parameters():
            weight.zero_()
    flow.load_state_dict(old)
    assert all(torch.equal(value, expected[key]) for key, value in flow.state_dict().items())
    # As a part of another module, too.
    whole = torch.nn.ModuleDict({"flow": Flow.load(DATA / f"{name}.pt")})
    whole.load_state_dict({f"flow.{key}": value for key, value in old.items()})
    with pytest.raises(RuntimeError, match="layers"):
        flow.load_state_dict({key: value for key, value in old.items() if "couplings.1." not in key})


def test_weights_of_another_dtype_under_their_old_name_are_refused(tmp_path):
    content = torch.load(DATA / "coupling.pt", weights_only=True)
    key = next(key for key in content["state_dict"] if key.startswith("couplings."))
    content["state_dict"][key] = content["state_dict"][key].float()
    torch.save(content, tmp_path / "flow.pt")
    with pytest.raises(CheckpointError, match=r"layers\..* has dtype torch.float32"):
        Flow.load(tmp_path / "flow.pt")
