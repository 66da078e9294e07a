"""The sizes of violations that the harness prints are those of the planted mistakes."""

from __future__ import annotations

import math

import pytest
import torch

from equiflow import Action, EquivariantCNF, ExternalField, Phi4, Solver, StandardNormal, SymmetryGroup
from equiflow.testing import (
    check_action,
    check_flow,
    check_vector_field,
    divergence_error,
    equivariance_error,
    invariance_error,
    log_density_error,
    path_rates_error,
)
from equiflow.testing.probes import configurations, prior_samples
from equiflow.vector_fields import PathRates
from tests.support.linear_flow import LATTICE, Linear, V, linear_flow

RATE = 0.5
PHI = configurations(Linear(RATE), LATTICE)


def test_the_error_of_a_divergence_is_relative_to_the_trace():
    assert divergence_error(Linear(RATE, excess=0.06)) == pytest.approx(0.06 / (RATE * V), rel=1e-9)
    assert divergence_error(Linear(RATE)) == 0.0


def test_the_error_of_equivariance_is_relative_to_the_velocity():
    class Pushed(Linear):
        """`v = c phi + b`, odd under Z2 only without b."""

        def velocity_and_divergence(self, phi, t):
            velocity, divergence = super().velocity_and_divergence(phi, t)
            return velocity + 0.01, divergence

    errors = equivariance_error(Pushed(RATE), phi=PHI)
    scale = float((RATE * PHI + 0.01).abs().max().detach())
    assert errors["Z2 phi -> -phi"] == pytest.approx(0.02 / scale, rel=1e-9)
    assert errors["translation along axis 0"] == 0.0

    class Counts(Linear):
        """A divergence that changes sign with the field."""

        def velocity_and_divergence(self, phi, t):
            velocity, divergence = super().velocity_and_divergence(phi, t)
            return velocity, divergence + 0.3 * phi.sum((1, 2))

    errors = equivariance_error(Counts(RATE), phi=PHI)
    total = PHI.sum((1, 2))
    scale = float((RATE * V + 0.3 * total).abs().max() + V * RATE * PHI.abs().max())
    assert errors["Z2 phi -> -phi"] == pytest.approx(0.6 * float(total.abs().max()) / scale, rel=1e-9)


def test_the_error_of_path_rates_is_relative_to_each_rate():
    class Stretched(Linear):
        def path_rates(self, phi, t, score):
            rates = super().path_rates(phi, t, score)
            return PathRates(rates.velocity, rates.divergence, 1.125 * rates.score_rate)

    assert path_rates_error(Stretched(RATE)) == pytest.approx(0.125, rel=1e-9)


def test_the_error_of_a_density_is_the_excess_of_the_divergence():
    flow = linear_flow(RATE, 200, excess=0.07)
    euler = log_density_error(linear_flow(RATE, 200))
    assert log_density_error(flow) == pytest.approx(0.07, abs=2 * euler)
    exact = EquivariantCNF(
        LATTICE,
        vector_field=Linear(RATE, excess=0.07),
        prior=StandardNormal(LATTICE),
        solver=Solver("dopri8", rtol=1e-10, atol=1e-10),
    ).double()
    assert log_density_error(exact) == pytest.approx(0.07, abs=1e-8)


def test_the_error_of_invariance_is_the_change_of_log_q():
    class Leaning(StandardNormal):
        """White noise around 0.1, which claims Z2."""

        def colour(self, noise):
            return noise + 0.1

        def log_prob(self, z):
            return super().log_prob(z - 0.1)

        def score(self, z):
            return 0.1 - z

    flow = EquivariantCNF(
        LATTICE, vector_field=Linear(0.0), prior=Leaning(LATTICE), solver=Solver("euler", steps=1)
    ).double()
    phi = prior_samples(flow, 16, 0)
    errors = invariance_error(flow, SymmetryGroup(LATTICE), n_samples=16)
    sums = phi.sum((1, 2)).abs()
    assert int(sums.argmax()) != 0  # else the first sample would do
    expected = 0.2 * float(sums.max())  # log q(phi) - log q(-phi) = 2 a sum phi
    assert errors["Z2 phi -> -phi"] == pytest.approx(expected, rel=1e-9)
    assert errors["translation along axis 1"] < 1e-12


def test_a_report_of_a_field_counts_dead_parameters_and_sizes_the_coupling_of_a_batch():
    class Coupled(Linear):
        def __init__(self, rate):
            super().__init__(rate)
            self.unused = torch.nn.Parameter(torch.ones(2))
            self.also = torch.nn.Parameter(torch.ones(()))

        def velocity_and_divergence(self, phi, t):
            velocity, divergence = super().velocity_and_divergence(phi, t)
            return velocity * (1 + 0.125 * (len(phi) - 1)), divergence

    found = {check.law: check for check in check_vector_field(Coupled(RATE)).checks}
    assert found["gradients reach every parameter"].error == 2.0
    assert found["gradients reach every parameter"].case == "unused, also"
    # three together against one alone: 1.25 v against v
    assert found["one configuration at a time"].error == pytest.approx(0.25 / 1.25, rel=1e-9)


def test_a_report_of_a_flow_sizes_inverse_and_score():
    class Louder(StandardNormal):
        def score(self, z):
            return 1.5 * super().score(z)

    steps = 4
    flow = EquivariantCNF(
        LATTICE, vector_field=Linear(RATE), prior=Louder(LATTICE), solver=Solver("euler", steps=steps)
    ).double()
    z = prior_samples(flow, 3, 0)
    found = {check.law: check.error for check in check_flow(flow).checks}
    there_and_back = (1 - (RATE / steps) ** 2) ** steps
    largest = float(z.abs().max())
    assert found["inverse(transform(z)) = z"] == pytest.approx((1 - there_and_back) * largest, rel=1e-9)
    assert found["prior score = grad log_prob"] == pytest.approx(0.5 * largest, rel=1e-9)
    assert found["log_det of the inverse"] < 1e-12


def test_the_asymmetry_of_an_action_is_its_change_in_units_of_its_spread():
    action = ExternalField(Phi4(LATTICE, m2=1.0, lam=0.5), h=0.3)
    generator = torch.Generator().manual_seed(0)
    phi = torch.randn((4, *LATTICE.shape), generator=generator, dtype=torch.float64)
    expected = 0.6 * float(phi.sum((1, 2)).abs().max()) / float(action(phi).std())
    found = action.asymmetry(SymmetryGroup(LATTICE))
    assert found["Z2 phi -> -phi"] == pytest.approx(expected, rel=1e-9)
    assert found["translation along axis 0"] < 1e-12


def test_a_report_of_an_action_sizes_its_mistakes():
    class Quartic(Action):
        def forward(self, phi):
            return (phi**4).sum((1, 2))

    class Steep(Quartic):
        def grad(self, phi):
            return 1.25 * super().grad(phi)

    class Coupled(Quartic):
        def forward(self, phi):
            return super().forward(phi) * (1 + 0.125 * (len(phi) - 1) / 5)

    class Falling(Quartic):
        def forward(self, phi):
            return -super().forward(phi)

    def error(action: Action, law: str) -> float:
        return {check.law: check.error for check in check_action(action).checks}[law]

    assert error(Steep(LATTICE), "grad = finite differences") == pytest.approx(0.25, rel=1e-6)
    # six together against one alone
    assert error(Coupled(LATTICE), "one configuration at a time") == pytest.approx(0.125 / 1.125, rel=1e-9)
    assert error(Falling(LATTICE), "bounded below") == pytest.approx(1.0, abs=1e-9)
    assert math.isfinite(error(Quartic(LATTICE), "rises on large fields"))
