"""External fields: less symmetry on purpose."""

from __future__ import annotations

import math

import pytest
import torch

from equiflow import (
    HMC,
    ActionFamily,
    EquivariantCNF,
    Lattice,
    Phi4,
    SymmetryGroup,
    fit,
    importance_sample,
    log_z_along,
)
from equiflow.theories.angles.space import Angles
from equiflow.theories.angles.xy import XYModel
from equiflow.theories.multiplets.on_model import ONModel
from equiflow.theories.multiplets.space import Multiplet
from equiflow.theories.particles.coulomb import CoulombGas
from equiflow.theories.particles.space import Particles
from equiflow.theories.scalar.external_field import ExternalField
from equiflow.theories.scalar.phi4 import FreeScalar
from equiflow.vector_fields import OrbitConvField
from tests.support.strategies import configurations

PAIR = Multiplet(Lattice((3, 4)), 2)


@pytest.mark.parametrize("h", [(1.0,), (1.0, 2.0, 3.0), (math.nan, 0.0)])
def test_an_external_field_has_one_number_for_each_component(h):
    with pytest.raises(ValueError, match="2 finite numbers"):
        ExternalField(ONModel(PAIR, m2=1.0, lam=1.0), h=h)


@pytest.mark.parametrize(
    "action",
    [XYModel(Angles(Lattice((3, 4))), beta=0.5), CoulombGas(Particles(3, 2), beta=1.0)],
    ids=["angles", "particles"],
)
def test_only_real_fields_on_a_lattice_have_an_external_field(action):
    with pytest.raises(TypeError, match=rf"action is for {action.space.kind}.*real fields on a lattice"):
        ExternalField(action, h=0.1)


def test_training_says_which_symmetry_the_target_lacks():
    lattice = Lattice((3, 3))
    action = ExternalField(Phi4(lattice, m2=1.0, lam=1.0), h=0.5)
    with pytest.warns(UserWarning, match="changes under Z2"):
        fit(EquivariantCNF(lattice), action, steps=1, batch_size=4)
    group = SymmetryGroup(lattice, z2=False)
    flow = EquivariantCNF(lattice, vector_field=OrbitConvField(lattice, group=group))
    fit(flow, action, steps=1, batch_size=4)  # a warning would be an error


def test_an_external_field_turns_the_magnetisation():
    lattice = Lattice((2, 2))
    free = FreeScalar(lattice, m2=1.0)
    # A free field in an external one is a shifted free field: <phi> = h / (2 m2), log Z + V h^2 / (4 m2).
    action = ExternalField(free, h=0.6)
    group = SymmetryGroup(lattice, z2=False)
    flow = EquivariantCNF(lattice, vector_field=OrbitConvField(lattice, group=group)).double()
    fit(flow, action, steps=150, batch_size=64, learning_rate=1e-2)
    ensemble = importance_sample(flow, action, 4000, generator=torch.Generator().manual_seed(0))
    assert ensemble.effective_sample_size().mean > 0.9
    magnetisation = ensemble.mean(lambda phi: phi.mean((1, 2)))
    assert abs(magnetisation.mean - 0.3) < 4 * magnetisation.error < 0.05
    log_z = ensemble.log_z()
    exact = free.log_z() + 4 * 0.36 / 4
    assert abs(log_z.mean - exact) < 4 * log_z.error + log_z.systematic


@pytest.mark.parametrize(
    ("action", "names"),
    [
        (Phi4(Lattice((3, 4)), m2=1.0, lam=1.0), ["h"]),
        (ONModel(Multiplet(Lattice((3, 4)), 1), m2=1.0, lam=1.0), ["h"]),
        (ONModel(PAIR, m2=1.0, lam=1.0), ["h_0", "h_1"]),
    ],
    ids=["scalar", "one component", "two components"],
)
def test_the_derivative_in_the_field_is_that_of_the_action(action, names):
    phi = configurations(action.space, 5)
    at = [0.3, -0.2][: len(names)]
    bent = ExternalField(action, h=tuple(at) if len(at) > 1 else at[0])
    for i, name in enumerate(names):
        shifted = [h + 1e-3 * (j == i) for j, h in enumerate(at)]
        other = ExternalField(action, h=tuple(shifted) if len(shifted) > 1 else shifted[0])
        torch.testing.assert_close(bent.coupling_grad(phi, name), (other(phi) - bent(phi)) / 1e-3)
    for name in ("m2", "lam"):
        assert torch.equal(bent.coupling_grad(phi, name), action.coupling_grad(phi, name))
    with pytest.raises(ValueError, match="has the couplings m2 and lam"):
        bent.coupling_grad(phi, "h_2")


def test_log_z_of_a_free_field_along_a_path_of_external_fields():
    free = FreeScalar(Lattice((2, 3)), m2=0.7)
    family = ActionFamily(lambda _, h: ExternalField(free, h=h), free.space, h=(0.0, 1.0))
    generator = torch.Generator().manual_seed(0)

    def chain(h):
        hmc = HMC(family.at(h=h))
        return hmc.sample(200, n_chains=16, n_thermalisation=60, generator=generator)

    change = log_z_along(chain, family, {"h": 0.0}, {"h": 1.0}, n_points=3).change
    # The slope V h / (2 m2) is linear, so the rule is exact: V h^2 / (4 m2).
    assert abs(change.mean - 6 / (4 * 0.7)) < 4 * change.error < 0.2
