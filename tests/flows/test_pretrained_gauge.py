"""The gauge flows that come with the package do what their `about` says."""

from __future__ import annotations

import pytest
import torch

from equiflow import EquivariantCNF, Lattice, Links, WilsonAction, importance_sample
from equiflow.oracles import gauge_torus

FLOWS = {
    "u1-2d-L8-beta5.5": ("U(1)", 5.5, 512),
    "su3-2d-L8-beta6": ("SU(3)", 6.0, 64),
}


@pytest.mark.parametrize("name", FLOWS)
def test_a_pretrained_flow_of_links_reaches_what_it_says(name):
    group, beta, n = FLOWS[name]
    flow, action = EquivariantCNF.pretrained(name), WilsonAction(Links(Lattice((8, 8)), group), beta=beta)
    assert flow.about["action"] == repr(action)
    generator = torch.Generator().manual_seed(7)
    ensemble = importance_sample(flow, action, n, certify=0, generator=generator)
    assert ensemble.effective_sample_size().mean > flow.about["reverse_ess"] - 0.1
    log_z, exact = ensemble.log_z(), gauge_torus(action).log_z
    assert abs(log_z.mean - exact) < 5 * log_z.error + 0.02
    assert abs(flow.about["log_z"] - exact) < 4 * flow.about["log_z_error"] + 0.02
    assert flow.about["log_z_exact"] == pytest.approx(exact)


def test_a_pretrained_flow_of_links_is_of_use_on_its_own_action_only():
    flow = EquivariantCNF.pretrained("u1-2d-L8-beta5.5")
    other = WilsonAction(flow.space, beta=4.5)
    assert importance_sample(flow, other, 256, certify=0).effective_sample_size().mean < 0.7
