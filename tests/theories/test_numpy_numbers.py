"""Numbers and shapes of numpy build what those of Python build: the same value, repr and file."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equiflow import (
    HMC,
    ActionFamily,
    Angles,
    CoulombGas,
    EquivariantCNF,
    FreeField,
    Lattice,
    Multiplet,
    ONModel,
    OrbitConvField,
    Particles,
    Phi4,
    Solver,
    XYModel,
    annealed_importance_sample,
    importance_sample,
)
from equiflow.theories.base.symmetry import SymmetryGroup
from equiflow.theories.scalar.external_field import ExternalField

LATTICE = Lattice((4, 4))
PAIR = Multiplet(LATTICE, 2)

#: what is built -> (with numpy, with Python)
BUILT = {
    "Lattice": lambda i, _, shape: Lattice(shape),
    "Lattice of sides": lambda i, _, shape: Lattice((i(4), i(4))),
    "Multiplet": lambda i, _, shape: Multiplet(LATTICE, i(2)),
    "Particles": lambda i, _, shape: Particles(i(3), i(2)),
    "equal steps": lambda i, _, shape: Solver("rk4", steps=i(4)),
    "tolerances": lambda i, f, shape: Solver(rtol=f(0.25), atol=f(0.5), max_steps=i(9)),
    "Phi4": lambda i, f, shape: Phi4(LATTICE, m2=f(-0.5), lam=i(2)),
    "ONModel": lambda i, f, shape: ONModel(PAIR, m2=i(-1), lam=f(0.5)),
    "XYModel": lambda i, f, shape: XYModel(Angles(LATTICE), beta=f(0.5)),
    "XYModel, integer": lambda i, f, shape: XYModel(Angles(LATTICE), beta=i(1)),
    "CoulombGas": lambda i, f, shape: CoulombGas(Particles(3, 2), beta=f(0.5)),
    "ExternalField": lambda i, f, shape: ExternalField(Phi4(LATTICE, m2=1.0, lam=1.0), h=f(0.5)),
    "ActionFamily": lambda i, f, shape: ActionFamily(Phi4, LATTICE, m2=f(-0.5), lam=(f(0.5), i(2))),
    "its member": lambda i, f, shape: ActionFamily(Phi4, LATTICE, m2=f(-0.5), lam=(1, 2)).at(lam=f(1.5)),
    "FreeField": lambda i, f, shape: (FreeField(LATTICE, m2=f(0.5)), FreeField(LATTICE, m2=f(0.5)).config()),
    "OrbitConvField": lambda i, f, shape: OrbitConvField(
        LATTICE, n_frequencies=i(2), kernel_size=i(3)
    ).config(),
    "kernel per axis": lambda i, f, shape: OrbitConvField(LATTICE, kernel_size=shape).config(),
    "offsets": lambda i, f, shape: SymmetryGroup(LATTICE).offset_orbits(shape).index,
}


@pytest.mark.parametrize("what", BUILT)
@pytest.mark.parametrize(
    ("integer", "number"), [(np.int64, np.float32), (np.int8, np.float64)], ids=["float32", "float64"]
)
def test_numbers_of_numpy_build_what_python_s_build(what, integer, number):
    build = BUILT[what]
    found = build(integer, number, np.array([4, 4], dtype=integer))
    assert repr(found) == repr(build(int, float, (4, 4)))
    assert "np." not in repr(found)


def test_a_range_is_an_array_too():
    family = ActionFamily(Phi4, LATTICE, m2=-0.5, lam=np.array([0.5, 2.0]))
    assert repr(family) == repr(ActionFamily(Phi4, LATTICE, m2=-0.5, lam=(0.5, 2.0)))


@pytest.mark.parametrize(
    "shape", [np.array([4.0, 4.0]), np.array([[4, 4]]), np.array([True, True]), np.array(4)]
)
def test_arrays_that_are_no_shape_are_refused(shape):
    with pytest.raises((TypeError, ValueError), match=r"sides must be integers|must be a sequence of sides"):
        Lattice(shape)


def test_a_flow_with_options_of_numpy_is_saved_and_loaded(tmp_path):
    field = OrbitConvField(LATTICE, n_frequencies=np.int64(2), max_frequency=np.float64(2.0))
    flow = EquivariantCNF(LATTICE, vector_field=field, solver=Solver("rk4", steps=np.int64(2)))
    flow.save(tmp_path / "flow.pt")
    assert repr(EquivariantCNF.load(tmp_path / "flow.pt")) == repr(flow)


def test_counts_of_numpy_draw_the_same_samples():
    action = Phi4(LATTICE, m2=1.0, lam=1.0)
    flow = EquivariantCNF(LATTICE)

    def drawn(i, f, betas):
        rng = torch.Generator().manual_seed(1)
        hmc = HMC(action, step_size=f(0.25), trajectory_length=f(0.5))
        chain = hmc.sample(i(4), n_chains=i(2), n_thermalisation=i(3), thin=i(2), generator=rng)
        options = {"batch_size": i(3), "certify": i(2), "generator": rng}
        return [
            flow.sample(i(4), generator=rng),
            importance_sample(flow, action, i(4), **options).phi,
            annealed_importance_sample(flow, action, i(4), betas=i(2), **options).phi,
            annealed_importance_sample(flow, action, i(4), betas=betas, **options).phi,
            chain.samples,
        ]

    for found, expected in zip(
        drawn(np.int64, np.float32, np.array([0.0, 0.5, 1.0])),
        drawn(int, float, [0.0, 0.5, 1.0]),
        strict=True,
    ):
        assert torch.equal(found, expected)
