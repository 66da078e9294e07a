"""The flows that come with the package do what their `about` says."""

from __future__ import annotations

import pytest
import torch

from equiflow import EquivariantCNF, Lattice, Phi4, importance_sample
from equiflow.testing import assert_equivariant

LAM = {8: 6.008, 16: 4.97, 32: 4.572, 64: 4.398}
SIDES = [8, 16, *(pytest.param(side, marks=pytest.mark.slow) for side in (32, 64))]


def pretrained(side: int) -> tuple[EquivariantCNF, Phi4]:
    flow = EquivariantCNF.pretrained(f"phi4-2d-L{side}")
    return flow, Phi4(Lattice((side, side)), m2=-4.0, lam=LAM[side])


@pytest.mark.parametrize("side", SIDES)
def test_a_pretrained_flow_reaches_what_it_says(side):
    flow, action = pretrained(side)
    generator = torch.Generator().manual_seed(7)
    ensemble = importance_sample(flow, action, 1024, batch_size=128, certify=32, generator=generator)
    assert flow.about["action"] == repr(action)
    ess, log_z = ensemble.effective_sample_size(), ensemble.log_z()
    error = (ess.error**2 + flow.about["reverse_ess_error"] ** 2) ** 0.5
    assert abs(ess.mean - flow.about["reverse_ess"]) < 5 * error
    assert error < 0.03
    assert abs(log_z.mean - flow.about["log_z"]) < 5 * (log_z.error + flow.about["log_z_error"] + 1e-3)
    assert abs(ensemble.certificate.log_z_shift) < 2e-3


@pytest.mark.parametrize("side", SIDES)
def test_a_pretrained_flow_is_symmetric(side):
    assert_equivariant(pretrained(side)[0].vector_field.double())


def test_a_pretrained_flow_is_of_use_on_its_own_action_only():
    flow, _ = pretrained(8)
    other = Phi4(flow.lattice, m2=-4.0, lam=4.0)
    assert importance_sample(flow, other, 512, certify=0).effective_sample_size().mean < 0.9


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"no pretrained flow 'phi4-2d-L9'.*phi4-2d-L16, phi4-2d-L32, phi4-2d-L64"
    ):
        EquivariantCNF.pretrained("phi4-2d-L9")


def test_what_a_flow_is_about_is_saved_with_it(tmp_path):
    flow = EquivariantCNF(Lattice((4, 4)))
    flow.about = {"action": "Phi4", "reverse_ess": 0.5, "warnings": []}
    flow.save(tmp_path / "flow.pt")
    assert EquivariantCNF.load(tmp_path / "flow.pt").about == flow.about
