"""Training of density matrices: an unbiased gradient, the variational bound, and what fits together."""

from __future__ import annotations

import math

import pytest
import torch

from equiflow import Particles, SlaterStates, Solver, ThermalState, TrappedElectrons, fit_thermal_state
from equiflow.oracles import two_fermions
from equiflow.training.thermal import free_energy_gradient

PAIR = Particles(2, 2)
ELECTRONS = TrappedElectrons(PAIR, Z=0.5)


def test_the_gradient_of_the_flow_is_that_of_the_free_energy():
    """Of a stretched ground state: `F = E_centre + E_relative (s^2 + s^-2) / 2` with `s = exp(N b)`."""
    rho = ThermalState(SlaterStates(PAIR), beta=math.inf, solver=Solver("rk5", steps=2))
    field, b, ideal = rho.vector_field, 0.1, TrappedElectrons(PAIR, Z=0.0)
    with torch.no_grad():
        field.pairs.weight[0, -1] = b
    energies, gradients = [], []
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        surrogate, local, _ = free_energy_gradient(rho, ideal, 400, generator=generator)
        energies.append(local.mean())
        gradients.append(torch.autograd.grad(surrogate, field.pairs.weight)[0][0, -1])
    found = torch.stack([torch.stack(energies), torch.stack(gradients)])
    error = found.std(1) / 20**0.5
    exact = torch.tensor([1 + 2 * math.cosh(4 * b), 8 * math.sinh(4 * b)], dtype=torch.float64)
    assert bool(((found.mean(1) - exact).abs() < 4.5 * error).all())
    assert float(exact[1]) > 15 * float(error[1])  # so that a factor 2 is seen


def test_the_gradient_of_the_probabilities_is_that_of_the_free_energy():
    """`dF/dlogit_n = p_n (log p_n / beta + E_n - F)`, with the energies E_n from all samples."""
    rho = ThermalState(SlaterStates(PAIR, cutoff=4.0), beta=2.0)
    ideal = TrappedElectrons(PAIR, Z=0.0)
    with torch.no_grad():
        rho.logits += torch.linspace(0, 1, len(rho.logits), dtype=torch.float64)
    log_p = rho.log_probabilities.detach()
    local = log_p / rho.beta + rho.states.energies
    exact = log_p.exp() * (local - log_p.exp() @ local)
    rows = []
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        surrogate, _, _ = free_energy_gradient(
            rho, ideal, 500, generator=generator, solver=Solver("euler", steps=1)
        )
        rows.append(torch.autograd.grad(surrogate, rho.logits)[0])
    found = torch.stack(rows)
    error = found.std(0) / 40**0.5
    assert bool(((found.mean(0) - exact).abs() < 4.5 * error).all())
    assert float(exact.abs().max()) > 20 * float(error.max())


def test_the_noise_vanishes_for_the_exact_state():
    rho = ThermalState(SlaterStates(PAIR, cutoff=5.0), beta=2.0)
    surrogate, local, _ = free_energy_gradient(rho, TrappedElectrons(PAIR, Z=0.0), 50)
    surrogate.backward()
    assert float(local.std()) < 1e-8
    assert max(float(p.grad.abs().max()) for p in rho.parameters()) < 1e-7
    rho.zero_grad()
    surrogate, _, _ = free_energy_gradient(rho, ELECTRONS, 50)
    surrogate.backward()
    assert max(float(p.grad.abs().max()) for p in rho.parameters()) > 1e-2


def test_free_energies_stay_above_the_exact_one_and_training_approaches_it():
    electrons = TrappedElectrons(PAIR, Z=2.0)
    exact = two_fermions(electrons, beta=2.0).free_energy
    rho = ThermalState(SlaterStates(PAIR, cutoff=7.0), beta=2.0)

    def excess(n: int) -> tuple[float, float]:
        with torch.no_grad():
            sample = rho.sample(n, generator=torch.Generator().manual_seed(0))
            terms = sample.local_energy(electrons) + sample.log_probability / rho.beta
        return float(terms.mean()) - exact, float(terms.std()) / n**0.5

    before, its_error = excess(3000)
    assert before > 4 * its_error
    history = fit_thermal_state(rho, electrons, steps=40, batch_size=64, progress=False)
    after, error = excess(1000)
    assert -4.5 * error < after < 0.5 * before
    assert len(history) == 40
    assert history.seconds[-1] > 0


def test_a_run_is_reproduced_by_its_seed_and_told_step_by_step():
    def logits(seed: int) -> torch.Tensor:
        rho = ThermalState(SlaterStates(PAIR, cutoff=4.0), beta=2.0)
        seen = []
        options = {"steps": 3, "batch_size": 16, "seed": seed, "progress": False}
        fit_thermal_state(rho, ELECTRONS, callback=lambda history: seen.append(len(history)), **options)
        assert seen == [1, 2, 3]
        return rho.logits.detach()

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))


def test_what_does_not_fit_is_refused():
    rho = ThermalState(SlaterStates(PAIR), beta=2.0)
    with pytest.raises(ValueError, match="Build both from the same Particles"):
        fit_thermal_state(rho, TrappedElectrons(Particles(3, 2), Z=1.0))
    with pytest.raises(ValueError, match="counts >= 1"):
        fit_thermal_state(rho, ELECTRONS, steps=0)
    with pytest.raises(TypeError, match="ThermalState"):
        fit_thermal_state(ELECTRONS, rho)
