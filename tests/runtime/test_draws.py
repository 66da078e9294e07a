"""A seed in place of a generator, and the name of a dtype, are refused wherever random numbers are drawn."""

from __future__ import annotations

import pytest
import torch

from equiflow import (
    HMC,
    ActionFamily,
    AngleGroup,
    Angles,
    DeepAttentionField,
    EquivariantCNF,
    EuclideanGroup,
    ExtendedAction,
    GaugeGroup,
    IndependenceMetropolis,
    Lattice,
    Links,
    Multiplet,
    MultipletGroup,
    Particles,
    Phi4,
    Solver,
    SymmetryGroup,
    annealed_importance_sample,
    importance_sample,
)
from equiflow.runtime.randomness import SharedGenerator, check_draw
from equiflow.samplers.latent import LatentAction
from equiflow.theories.base.checkerboard import CheckerboardGroup

LATTICE = Lattice((4, 4))
ACTION = Phi4(LATTICE, m2=-4.0, lam=8.0)
FLOW = EquivariantCNF(LATTICE, solver=Solver("rk4", steps=1))
LATENT = LatentAction(FLOW, ACTION, beta=0.5)
FAMILY = ActionFamily(Phi4, LATTICE, m2=-4.0, lam=(4.0, 6.0))
PHI = torch.zeros(4, 4, 4)
ANGLES, LINKS, PARTICLES, MULTIPLET = (
    Angles(LATTICE), Links(LATTICE, "U(1)"), Particles(3, 2), Multiplet(LATTICE, 2),
)  # fmt: skip
ENSEMBLE = importance_sample(FLOW, ACTION, 8, certify=0)
GROUPS = [
    SymmetryGroup(LATTICE),
    CheckerboardGroup(LATTICE),
    AngleGroup(ANGLES),
    EuclideanGroup(PARTICLES),
    MultipletGroup(MULTIPLET),
    GaugeGroup(LINKS),
]
BEGINNINGS = [ACTION, LATENT, ExtendedAction(ACTION), LATTICE, ANGLES, LINKS, PARTICLES, MULTIPLET]
#: public calls that draw random numbers, by name
DRAWS = {
    "prior noise": lambda g: FLOW.prior.noise(2, g),
    "prior": lambda g: FLOW.prior.rsample(2, g),
    "flow": lambda g: FLOW.sample(2, generator=g),
    "flow, log q": lambda g: FLOW.sample_and_log_prob(2, generator=g),
    "flow, differentiable": lambda g: FLOW.rsample_and_log_prob(2, generator=g),
    "flow, path": lambda g: FLOW.rsample_path(2, generator=g),
    "certificate": lambda g: FLOW.certificate(2, generator=g),
    "choice of a solver": lambda g: FLOW.tune_solver(n_samples=2, generator=g),
    "importance_sample": lambda g: importance_sample(FLOW, ACTION, 2, generator=g),
    "annealing": lambda g: annealed_importance_sample(FLOW, ACTION, 2, generator=g),
    "HMC": lambda g: HMC(ACTION).sample(2, generator=g),
    "Metropolis": lambda g: IndependenceMetropolis(FLOW, ACTION).sample(2, generator=g),
    "Metropolis of an ensemble": lambda g: IndependenceMetropolis.from_ensemble(ENSEMBLE, generator=g),
    "couplings": lambda g: FAMILY.draw(2, g),
    "momenta": lambda g: ExtendedAction(ACTION).with_momenta(PHI, g, batch_size=4),
    "signs of a trace": lambda g: DeepAttentionField(LATTICE, trace="hutchinson").for_solve(PHI, g),
    **{f"element of {type(one).__name__}": one.random_element for one in GROUPS},
    **{f"start of {type(one).__name__}": lambda g, one=one: one.initial(2, g) for one in BEGINNINGS},
    **{f"probes of {type(one).__name__}": lambda g, one=one: one.probes(2, g) for one in BEGINNINGS[3:]},
}
#: public calls that take a dtype, by name
TYPED = {
    "HMC": lambda d: HMC(ACTION).sample(2, n_chains=2, n_thermalisation=0, dtype=d),
    "asymmetry": lambda d: ACTION.asymmetry(SymmetryGroup(LATTICE), dtype=d),
    **{f"start of {type(one).__name__}": lambda d, one=one: one.initial(2, dtype=d) for one in BEGINNINGS},
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_seed_is_no_generator(name):
    with pytest.raises(TypeError, match=r"generator must be a torch.Generator or None, got 5. Write torch"):
        DRAWS[name](5)


@pytest.mark.parametrize("name", TYPED)
@pytest.mark.parametrize("dtype", ["float32", torch.int64, float])
def test_only_two_dtypes_are_dtypes_of_fields(name, dtype):
    with pytest.raises(TypeError, match=r"dtype must be torch.float32 or torch.float64, got "):
        TYPED[name](dtype)


def test_what_is_right_passes_and_the_message_repeats_the_seed():
    for generator in (None, torch.Generator(), SharedGenerator("cpu", rank=0, world_size=1)):
        for dtype in (None, torch.float32, torch.float64):
            check_draw(generator, dtype)
    with pytest.raises(TypeError, match=r"got 7\. Write torch\.Generator\(\)\.manual_seed\(7\)\."):
        check_draw(7)
    with pytest.raises(TypeError, match=r"got True\. .*manual_seed\(0\)"):
        check_draw(True)
    phi = ACTION.initial(2, dtype=torch.float32)
    assert phi.dtype == torch.float32
