"""Wrong arguments of samplers and measurements are named, and what never changes is said to be constant."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equiflow import (
    HMC,
    ConditionalFlow,
    EquivariantCNF,
    IndependenceMetropolis,
    Lattice,
    Phi4,
    importance_sample,
    measure,
)
from equiflow.observables import phi_squared
from equiflow.statistics import mean_of_series

LATTICE = Lattice((4, 4))
ACTION = Phi4(LATTICE, m2=1.0, lam=1.0)


class TwoPercentTooLarge(Phi4):
    def grad(self, phi):
        return 1.02 * super().grad(phi)


@pytest.fixture(scope="module")
def chain():
    generator = torch.Generator().manual_seed(0)
    return HMC(ACTION, step_size=0.2).sample(8, n_chains=4, n_thermalisation=4, generator=generator)


@pytest.fixture(scope="module")
def ensemble():
    generator = torch.Generator().manual_seed(0)
    return importance_sample(EquivariantCNF(LATTICE), ACTION, 32, certify=0, generator=generator)


@pytest.mark.parametrize("name", ["n_samples", "n_chains", "n_thermalisation", "thin", "certify"])
@pytest.mark.parametrize("value", [2.0, "2", None])
def test_counts_that_are_no_integers_are_named(name, value):
    arguments = {"n_samples": 2, name: value}
    with pytest.raises(TypeError, match=f"{name} must be an integer"):
        HMC(ACTION, step_size=0.2).sample(**arguments)


@pytest.mark.parametrize("source", ["chain", "ensemble"])
def test_an_observable_without_one_number_per_configuration_is_refused(source, request):
    samples = request.getfixturevalue(source)
    assert samples.mean(phi_squared).error > 0
    wrong = [
        lambda phi: phi.mean(),
        lambda phi: phi.mean((1, 2))[:, None],
        lambda phi: phi,
        lambda phi: phi[:4, 0, 0],
    ]
    for observable in wrong:
        with pytest.raises(ValueError, match=r"expected one value per configuration, \(32,\)"):
            samples.mean(observable)
    for observable in [lambda phi: float(phi.mean()), lambda phi: phi_squared(phi).numpy()]:
        with pytest.raises(TypeError, match=r"expected a tensor, \(32,\)"):
            samples.mean(observable)


@pytest.mark.parametrize("use", [importance_sample, IndependenceMetropolis])
def test_a_conditional_flow_is_refused_with_how_to_take_one_of_its_flows(use):
    conditional = ConditionalFlow(EquivariantCNF(LATTICE), {"lam": (0.5, 2.0)})
    rest = (8,) if use is importance_sample else ()
    with pytest.raises(TypeError, match=r"(?s)flow must be of type Flow.*\.at\(lam=\.\.\.\)") as caught:
        use(conditional, ACTION, *rest)
    assert "no attribute" not in str(caught.value)
    use(conditional.at(lam=1.0), ACTION, *rest)


def test_the_first_time_of_a_fit_is_an_integer(chain):
    assert measure(chain, t_min=np.int64(1)).pole_mass == measure(chain, t_min=1).pole_mass
    with pytest.raises(TypeError, match="t_min must be of type int"):
        measure(chain, t_min=1.0)


def test_small_differences_of_a_gradient_are_not_zero_percent():
    from equiflow.theories.base.action_gradients import fault_of_gradient

    phi = torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wrong = fault_of_gradient(TwoPercentTooLarge(LATTICE, m2=1.0, lam=1.0), phi, phi.flip(0))
    assert "differs" in wrong
    assert " 0%" not in wrong
    assert not fault_of_gradient(ACTION, phi, phi.flip(0))


def test_a_series_that_never_changes_says_so():
    frozen = mean_of_series(torch.zeros(50, 4))
    assert (frozen.mean, frozen.error) == (0.0, 0.0)
    assert str(frozen) == "0 ± 0 (the same in all samples)"
    moved = torch.zeros(50, 4)
    moved[::5] = 1.0
    assert "the same" not in mean_of_series(moved).note
