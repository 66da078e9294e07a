"""Every law of the harness on flows of links, also where configurations form no flat space."""

from __future__ import annotations

import copy

from hypothesis import given, settings
from hypothesis import strategies as st

from equiflow import EquivariantCNF, Lattice, Links, Solver, SUNField
from equiflow.testing import check_flow, randomise
from equiflow.theories.gauge.prior import HaarPrior
from tests.support.strategies import seeds, sun_fields, u1_fields


@settings(max_examples=2)
@given(st.one_of(u1_fields(), sun_fields()).filter(lambda field: field.lattice.volume <= 4), seeds)
def test_every_law_holds_for_flows_of_links(field, seed):
    flow = EquivariantCNF(field.space, vector_field=field, solver=Solver("rk4", steps=3)).double()
    randomise(flow.vector_field, scale=0.05, seed=seed)
    report = check_flow(flow, tolerance=1e-3)
    assert report.ok, str(report)


class WrongPrior(HaarPrior):
    """Says that its density depends on the links, which are still those of the Haar measure."""

    def log_prob(self, z):
        return super().log_prob(z) + 0.1 * self.space.lie.trace(self.space.planes(z)[0]).flatten(1).sum(1)


def test_a_wrong_density_on_a_group_is_found():
    links = Links(Lattice((2, 2)), "SU(2)")
    field = SUNField(links, shapes=("plaquette",), degree=1, n_time_modes=1)
    flow = EquivariantCNF(links, vector_field=field, solver=Solver("rk4", steps=3)).double()
    randomise(flow.vector_field, scale=0.1)
    wrong = copy.deepcopy(flow)
    wrong.prior = WrongPrior(links).double()
    violated = {check.law for check in check_flow(wrong, tolerance=1e-3).violations}
    assert "prior score = grad log_prob" in violated
    assert "log q invariant" in violated
    assert check_flow(flow, tolerance=1e-3).ok
