"""HMC and a flow against the transfer matrix, and the balance of the two signs of the magnetisation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch

from equiflow.flows import EquivariantCNF
from equiflow.oracles import Exact, transfer_matrix, z2_balance
from equiflow.samplers import HMC, Chain, Ensemble, importance_sample
from equiflow.statistics import LowEffectiveSampleSizeWarning
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.scalar import observables
from equiflow.theories.scalar.phi4 import Phi4
from equiflow.training import fit


class DoubledLink(Phi4):
    """An action that counts one link of the lattice twice."""

    def forward(self, phi):
        return super().forward(phi) + (phi.flatten(1)[:, 0] - phi.flatten(1)[:, 1]).square()


def phi4(shape: tuple[int, ...], m2: float, lam: float) -> Phi4:
    return Phi4(Lattice(shape), m2=m2, lam=lam)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Samplers against oracles.


@cache
def chain_of(kind: Callable[..., Phi4], shape: tuple[int, ...]) -> Chain:
    action = kind(Lattice(shape), m2=-4.0, lam=6.975)
    return HMC(action).sample(400, n_chains=256, n_thermalisation=60, generator=generator(1))


def deviations(source: Chain | Ensemble, exact: Exact) -> list[float]:
    """Return the deviations of `<phi^2>`, `<phi^4>`, `|M|^2` and the neighbours, in standard errors."""
    found = [
        source.mean(observables.phi_squared).sigmas_from(exact.phi_squared),
        source.mean(observables.phi_fourth).sigmas_from(exact.phi_fourth),
        source.mean(observables.susceptibility).sigmas_from(exact.susceptibility),
    ]
    for axis, value in enumerate(exact.nearest_neighbour, start=1):
        product = lambda phi, axis=axis: (phi * phi.roll(-1, axis)).mean(tuple(range(1, phi.dim())))  # noqa: E731
        found.append(source.mean(product).sigmas_from(value))
    assert len(found) == 3 + len(source.configuration_shape)
    return found


@pytest.mark.parametrize("shape", [(3, 3), (3, 4)])
def test_hmc_agrees_with_the_transfer_matrix(shape):
    exact = transfer_matrix(phi4(shape, -4.0, 6.975))
    assert max(map(abs, deviations(chain_of(Phi4, shape), exact))) < 4


def test_hmc_of_a_wrong_action_disagrees():
    exact = transfer_matrix(phi4((3, 3), -4.0, 6.975))
    assert max(map(abs, deviations(chain_of(DoubledLink, (3, 3)), exact))) > 6


@cache
def ensemble() -> Ensemble:
    action = phi4((3, 3), -4.0, 6.975)
    torch.manual_seed(0)
    flow = EquivariantCNF(action.lattice).double()
    fit(flow, action, steps=60, batch_size=128, progress=False)
    return importance_sample(flow, action, 4096, generator=generator(2))


def test_a_flow_agrees_with_the_transfer_matrix():
    exact = transfer_matrix(phi4((3, 3), -4.0, 6.975))
    log_z = ensemble().log_z()
    assert log_z.error < 0.02
    assert abs(log_z.sigmas_from(exact.log_z)) < 4
    assert max(map(abs, deviations(ensemble(), exact))) < 4


def test_log_z_sees_a_lost_factor_in_log_q():
    exact = transfer_matrix(phi4((3, 3), -4.0, 6.975))
    wrong = replace(ensemble(), log_weight=ensemble().log_weight + 0.5 * math.log(2))
    assert abs(wrong.log_z().sigmas_from(exact.log_z)) > 10


# Balance of the Z2 sectors.


def half(source: Chain | Ensemble) -> Chain | Ensemble:
    """Return the same samples, with the sign of each chosen such that `M > 0`."""
    if isinstance(source, Ensemble):
        sign = observables.magnetisation(source.phi).sign().reshape(-1, 1, 1)
        return replace(source, phi=sign * source.phi)
    sign = source.samples.mean((-2, -1), keepdim=True).sign()
    return replace(source, samples=sign * source.samples)


def cubed(phi):
    return observables.magnetisation(phi) ** 3


@pytest.mark.parametrize("odd", [observables.magnetisation, cubed])
@pytest.mark.parametrize("source", [lambda: chain_of(Phi4, (3, 3)), ensemble])
def test_sectors_balance(source, odd):
    balance = z2_balance(source(), odd=odd)
    assert 0 < balance.positive.error < 0.02
    assert abs(balance.sigmas) < 4
    assert abs(balance.odd_sigmas) < 4
    assert "sigma from 1/2" in str(balance)


@pytest.mark.parametrize("source", [lambda: chain_of(Phi4, (3, 3)), ensemble])
def test_a_one_sided_sample_is_seen(source):
    balance = z2_balance(half(source()))
    assert balance.positive.mean == pytest.approx(1.0, rel=1e-12)
    assert balance.sigmas > 6
    assert balance.odd_sigmas > 6


def test_a_lopsided_sample_is_seen():
    mixed = ensemble().phi.clone()
    mixed[::4] = half(ensemble()).phi[::4]
    balance = z2_balance(replace(ensemble(), phi=mixed))
    assert balance.positive.mean < 0.7
    assert balance.sigmas > 4


def test_the_error_of_the_balance_is_honest():
    # Samples are independent here, so the scatter of P(M > 0) over repetitions is its error.

    def sigmas(seed: int) -> float:
        phi = torch.randn(256, 2, 2, generator=generator(seed))
        log_weight = torch.randn(256, generator=generator(1000 + seed))
        return z2_balance(Ensemble(phi, log_weight, log_weight)).sigmas

    with pytest.warns(LowEffectiveSampleSizeWarning):  # in a few of them
        found = [sigmas(seed) for seed in range(200)]
    assert float(torch.tensor(found).std()) == pytest.approx(1.0, abs=0.2)


def test_one_frozen_chain_is_one_observation():
    frozen = Chain(torch.rand(100, 1, 2, 2, generator=generator()) + 1, torch.ones(100, 1))
    assert z2_balance(frozen).sigmas == pytest.approx(1.0)
    constant = Chain(torch.ones(100, 16, 2, 2), torch.ones(100, 16))
    assert z2_balance(constant).sigmas == pytest.approx(4.0)
    assert z2_balance(constant).odd_sigmas == math.inf


def test_an_even_observable_or_no_samples_are_refused():
    with pytest.raises(ValueError, match="expected an odd one"):
        z2_balance(ensemble(), odd=observables.phi_squared)
    nothing = Ensemble(torch.zeros(0, 3, 3), torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match="no samples"):
        z2_balance(nothing)
