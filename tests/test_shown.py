"""Results and the objects that make them show themselves as short tables, never as arrays of numbers."""

from __future__ import annotations

import re

import pytest
import torch

from equiflow import (
    HMC,
    MCLMC,
    ActionFamily,
    Alternate,
    Chain,
    ConditionalFlow,
    CouplingFlow,
    Ensemble,
    EquivariantCNF,
    IndependenceMetropolis,
    LatentHMC,
    Lattice,
    Links,
    LocalMetropolis,
    Phi4,
    Solver,
    SwendsenWang,
    SymplecticFlow,
    WilsonAction,
    Wolff,
    diagnose,
    fit,
    fit_ladder,
    importance_sample,
    measure,
)
from equiflow.analysis import Observable
from equiflow.samplers import TwoLevels

LATTICE = Lattice((4, 4))
ACTION = Phi4(LATTICE, m2=-4.0, lam=8.0)
FLOW = EquivariantCNF(LATTICE, solver=Solver("rk4", steps=2))
OPTIONS = {"steps": 16, "batch_size": 64, "progress": False}
HISTORY = fit(FLOW, ACTION, **OPTIONS)
GENERATOR = torch.Generator().manual_seed(0)
ENSEMBLE = importance_sample(FLOW, ACTION, 1024, generator=GENERATOR)
LEVELS = TwoLevels(Solver("rk4", steps=1))
CHAIN = HMC(ACTION, step_size=0.15).sample(64, n_chains=16, n_thermalisation=20, generator=GENERATOR)
OWN = Observable("profile", lambda phi: phi.square().mean(1))

ROW_OF_NUMBERS = re.compile(r"(-?\d+\.\d+,\s*){3}")

#: objects, and what their tables say
SHOWN = {
    "measurements": (lambda: measure(ENSEMBLE, action=ACTION, observables=[OWN]), ["binder", "profile[3]"]),
    "standard measurements": (
        lambda: measure(
            HMC(WilsonAction(Links(LATTICE, "U(1)"), beta=1.0), step_size=0.2).sample(8, n_chains=8)
        ),
        ["plaquette"],
    ),
    "diagnosis": (lambda: diagnose(FLOW, ACTION, ENSEMBLE, CHAIN), ["forward_ess", "log_z_bridge"]),
    "ensemble": (lambda: ENSEMBLE, ["log Z", "ESS per sample", "Lattice(shape=(4, 4))", "certificate"]),
    "two levels": (lambda: importance_sample(FLOW, ACTION, 256, levels=LEVELS), ["log Z corrected by"]),
    "ensemble of one": (lambda: importance_sample(FLOW, ACTION, 1, certify=0), ["samples", "none"]),
    "broken ensemble": (
        lambda: Ensemble(torch.zeros(4, 4, 4), torch.zeros(4), torch.full((4,), torch.nan)),
        ["shape (4, 4)", "unknown: "],
    ),
    "chain": (lambda: CHAIN, ["HMC", "16 of 64 samples each", "acceptance", "step size"]),
    "short chain": (lambda: Chain(torch.zeros(2, 1, 4, 4), torch.zeros(2, 1)), ["shape (4, 4)", "unknown"]),
    "Metropolis chain": (
        lambda: IndependenceMetropolis(FLOW, ACTION).sample(32, certify=8),
        ["independence Metropolis", "certificate"],
    ),
    "history": (lambda: HISTORY, ["steps", "16", "ESS on fresh samples", "±"]),
    "ladder": (lambda: fit_ladder([ACTION], flow=FLOW, **OPTIONS)[0], ["Phi4", "ESS on fresh samples"]),
    "HMC": (lambda: HMC(ACTION), ["HMC", repr(ACTION), "trajectory length", "tuned while"]),
    "tuned HMC": (lambda: CHAIN.kernel, ["step size"]),
    "MCLMC": (lambda: MCLMC(ACTION), ["MCLMC"]),
    "LatentHMC": (lambda: LatentHMC(FLOW, ACTION), ["LatentHMC", "EquivariantCNF"]),
    "Alternate": (lambda: Alternate(HMC(ACTION), Wolff(ACTION)), ["HMC, Wolff"]),
    "SwendsenWang": (lambda: SwendsenWang(ACTION), ["SwendsenWang"]),
    "LocalMetropolis": (lambda: LocalMetropolis(ACTION), ["LocalMetropolis"]),
    "IndependenceMetropolis": (lambda: IndependenceMetropolis(FLOW, ACTION), ["EquivariantCNF"]),
    "flow": (lambda: FLOW, ["translations x D4 x Z2", "rk4(steps=2)", "PotentialField", "float32 on cpu"]),
    "pretrained flow": (lambda: EquivariantCNF.pretrained("phi4-2d-L8"), ["trained on", "reverse ess"]),
    "coupling flow": (lambda: CouplingFlow(LATTICE), ["CheckerboardLayer"]),
    "symplectic flow": (lambda: SymplecticFlow(LATTICE), ["SymplecticFlow"]),
    "conditional flow": (lambda: ConditionalFlow(FLOW, {"lam": (6.0, 8.0)}), ["lam in [6.0, 8.0]"]),
}


@pytest.mark.filterwarnings("ignore::equiflow.statistics.LowEffectiveSampleSizeWarning")
@pytest.mark.parametrize("name", SHOWN)
def test_an_object_shows_itself_as_a_short_table(name):
    make, words = SHOWN[name]
    one = make()
    text = str(one)
    lines = text.splitlines()
    assert 2 <= len(lines) <= 40
    assert max(map(len, lines)) < 250
    assert "tensor(" not in text
    assert not ROW_OF_NUMBERS.search(text)
    for word in words:
        assert word in text
    html = one._repr_html_()
    assert html.startswith(f"<div><b>{type(one).__name__}</b><table><tr><th>")
    assert html.count("<tr>") == html.count("</tr>") >= 2
    assert "tensor(" not in html
    if not isinstance(one, torch.nn.Module):  # a module lists its parts, which checkpoints compare
        assert repr(one) == text


def test_a_dataclass_without_its_own_repr_would_show_arrays():
    """What the laws above would find."""
    named = {name: getattr(ENSEMBLE, name) for name in ("phi", "log_q")}
    assert "tensor(" in str(named)
    assert ROW_OF_NUMBERS.search(str(CHAIN.samples[0, 0]))
    assert ROW_OF_NUMBERS.search(str(HISTORY.loss))


def test_the_modules_of_a_flow_are_still_listed_by_its_repr():
    assert repr(FLOW).startswith("EquivariantCNF(")
    assert "(vector_field): PotentialField(" in repr(FLOW)
    family = ActionFamily(Phi4, LATTICE, m2=-4.0, lam=(6.0, 8.0))
    assert "ActionFamily(Phi4" in repr(family)
