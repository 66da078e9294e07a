"""The field of U(1) links: its laws, and planted mistakes that they see."""

from __future__ import annotations

import math
import re

import pytest
import torch

from equiflow.nn.kernels import mixing
from equiflow.testing import check_vector_field, dense_jacobian, randomise
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.gauge.group import GaugeGroup
from equiflow.theories.gauge.links import Links
from equiflow.theories.gauge.wilson import WilsonAction
from equiflow.vector_fields.base import VectorField
from equiflow.vector_fields.gauge_u1 import U1Field, curl, curl_transposed
from tests.support.planted import Planted

SMALL = {"n_local": 2, "n_mixed": 2, "n_frequencies": 2, "n_harmonics": 2, "n_time_modes": 2} | {
    "charge_ranges": (1.5, math.inf)
}


def links_on(*shape: int) -> Links:
    return Links(Lattice(shape), "U(1)")


def random_field(*shape: int, seed: int = 0, **options: object) -> U1Field:
    links = links_on(*shape)
    field = U1Field(links, group=GaugeGroup(links), **(SMALL | options)).double()
    randomise(field, seed=seed)
    return field


def angles(links: Links, n: int = 3, seed: int = 0) -> torch.Tensor:
    return links.probes(n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(3, 4), (4, 4), (2, 3), (1, 3), (2, 2, 3)])
def test_the_field_obeys_every_law_in_both_precisions(shape):
    field = random_field(*shape)
    for dtype in (torch.float64, torch.float32):
        report = check_vector_field(field.to(dtype))
        assert report.ok, str(report)


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_the_velocity_is_the_sum_that_the_docstring_says(kernel_size):
    field = random_field(3, 4, kernel_size=kernel_size)
    theta, lattice, t = angles(field.space), field.lattice, 0.4
    time, differences = field.time_basis(t), lattice.differences()
    laplacian = torch.fft.ifftn(lattice.squared_momenta(), dim=(0, 1)).real.flatten()[differences]
    hopping = torch.tensordot(time, field.kernel.values(), 1).detach().flatten(1)[:, differences]
    kernels = torch.linalg.pinv(laplacian) @ hopping
    rows, columns = (torch.tensor([0, 1, -1]), torch.tensor([0, 1, 2, -1]))
    squares = (rows.square()[:, None] + columns.square()).flatten()[differences]
    plaquettes = curl(theta).flatten(1)
    charge = sum(field.charge[:, m - 1, None, None] * (m * plaquettes).sin() for m in (1, 2))
    near, far = charge[0] @ (-squares / 4.5).exp(), charge[1].sum(1, keepdim=True).expand(-1, 12)
    tilts = torch.einsum("jc,cbx->jbx", field.frequency, torch.stack([near, far]))
    features = [(n * plaquettes).sin() for n in (1, 2)]
    for tilt in tilts:
        features += [(n * plaquettes).sin() * tilt.cos() for n in (1, 2)]
        features += [(n * plaquettes).cos() * tilt.sin() for n in (0, 1, 2)]
    assert len(features) == len(kernels)
    psi = sum(f @ kernel for f, kernel in zip(features, kernels, strict=True))
    expected = curl_transposed(psi.view(-1, 1, *lattice.shape), 2)
    torch.testing.assert_close(field.velocity(theta, t), expected, rtol=1e-11, atol=1e-12)


def test_linear_rates_agree_with_automatic_differentiation():
    for shape in ((3, 4), (2, 2, 3)):
        field = random_field(*shape)
        theta = angles(field.space)
        score = torch.randn(theta.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        every = field.parameter_rates(theta, 0.3, score)  # with derivatives by the frequencies
        for weight in field.parameters():
            weight.requires_grad_(any(weight is linear for linear in field.linear_parameters))
        rates = field.parameter_rates(theta, 0.3, score)
        torch.testing.assert_close(rates, VectorField.parameter_rates(field, theta, 0.3, score))
        assert every.shape[1] > rates.shape[1]
        # The velocity is linear in these weights.
        weights = torch.cat([p.detach().flatten() for p in field.linear_parameters])
        velocity, divergence = field.velocity_and_divergence(theta, 0.3)
        torch.testing.assert_close(rates @ weights, (velocity * score).flatten(1).sum(1) + divergence)


def test_the_transposed_curl_is_the_transposed():
    links = links_on(3, 2, 4)
    theta = angles(links)
    psi = torch.randn(3, 3, 3, 2, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close((curl(theta) * psi).sum(), (theta * curl_transposed(psi, 3)).sum())
    assert (curl_transposed(psi, 3) - curl_transposed(psi.roll(1, 2), 3)).abs().max() > 0.1


def test_the_gradient_flow_of_the_action_is_contained():
    links = links_on(3, 4)
    field = U1Field(
        links, group=GaugeGroup(links), n_time_modes=1, n_local=1, n_mixed=1, kernel_size=3
    ).double()
    hopping = torch.zeros(field.kernel.weight.shape[1], 3, 4, dtype=torch.float64)
    hopping[0] = torch.fft.ifftn(-0.7 * links.lattice.squared_momenta(), dim=(0, 1)).real
    field.kernel.set_values(hopping[None].where(hopping.abs() > 1e-12, 0.0))
    theta, action = angles(links), WilsonAction(links, beta=0.7)
    torch.testing.assert_close(field.velocity(theta, 0.2), -action.grad(theta))
    assert (field.velocity(theta, 0.2) + 1.01 * action.grad(theta)).abs().max() > 1e-3


def test_each_plaquette_moves_by_its_own_function_up_to_the_mean_of_all():
    links = links_on(3, 4)
    field = U1Field(links, group=GaugeGroup(links), n_time_modes=1).double()
    with torch.no_grad():
        field.kernel.weight[0, 1] = 0.3
    theta = angles(links)
    f = 0.3 * (2 * curl(theta)).sin()
    moved = curl(field.velocity(theta, 0.2))
    torch.testing.assert_close(moved, f - f.mean((2, 3), keepdim=True))
    assert (moved - f).abs().max() > 1e-2


def test_an_untrained_field_stands_still_and_moves_when_asked():
    links = links_on(4, 4)
    field = U1Field(links, group=GaugeGroup(links), charge_ranges=(2.0,)).double()
    velocity, divergence = field.velocity_and_divergence(angles(links), 0.3)
    assert not velocity.any()
    assert not divergence.any()
    velocity[0, 0, 0, 0].backward()
    assert bool(field.kernel.weight.grad[0].all())


def test_matrices_and_ffts_agree(monkeypatch):
    field, theta = random_field(3, 4), angles(links_on(3, 4))
    by_matrix = field.velocity_and_divergence(theta, 0.3)
    monkeypatch.setattr(mixing, "DENSE_VOLUME", 1)
    by_fourier = field.velocity_and_divergence(theta, 0.3)
    for one, other in zip(by_matrix, by_fourier, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_weights_are_the_same_on_every_lattice():
    field = random_field(3, 4, charge_ranges=(0.3,))  # so narrow that a charge is that of its plaquette
    larger = field.resized(Lattice((6, 8)))
    assert larger.space == links_on(6, 8)
    theta = angles(field.space)
    tiled = theta.repeat(1, 1, 2, 2)
    torch.testing.assert_close(larger.velocity(tiled, 0.3)[..., :3, :4], field.velocity(theta, 0.3))
    report = check_vector_field(random_field(3, 4).resized(Lattice((2, 3))))
    assert report.ok, str(report)


@pytest.mark.parametrize(("n_mixed", "sees"), [(2, True), (None, False)])
def test_charges_let_plaquettes_see_each_other(n_mixed, sees):
    """With local features alone, how two plaquettes drift apart does not depend on the others."""
    field = random_field(4, 4)
    with torch.no_grad():
        if n_mixed is None:
            field.kernel.weight[:, SMALL["n_local"] :] = 0
    here = angles(field.space, 1)
    elsewhere = here.clone()
    elsewhere[0, 0, 2, 2] += 1.0
    drift = [curl(field.velocity(theta, 0.3).detach())[0, 0] for theta in (here, elsewhere)]
    apart = [float(moved[0, 0] - moved[1, 0]) for moved in drift]
    assert (abs(apart[0] - apart[1]) > 1e-4) == sees
    assert sees or abs(apart[0] - apart[1]) < 1e-12


class SeesLinks(Planted):
    """A force on the links themselves: symmetric on the lattice, but not locally."""

    def mistake(self, phi):
        return phi.sin(), phi.cos().flatten(1).sum(1)


class Even(Planted):
    """`psi = cos P`, which is even and should be odd."""

    def mistake(self, phi):
        psi = curl(phi)
        return curl_transposed(psi.cos(), 2), -4 * psi.sin().flatten(1).sum(1)


class Unwinds(Planted):
    """`psi = P`, which does not turn with the plaquettes."""

    def mistake(self, phi):
        return curl_transposed(curl(phi), 2), phi.new_full((len(phi),), 4.0 * phi[0, 0].numel())


class ForgetsTheCharges(U1Field):
    """A divergence without the response of the charges."""

    def _response(self, waves):
        return torch.zeros_like(super()._response(waves))


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (SeesLinks, "equivariance gauge transformation"),
        (Even, "equivariance conjugation"),
        (Unwinds, "periodicity winding"),
    ],
)
def test_the_harness_sees_a_planted_mistake_and_names_it(mistake, law):
    report = check_vector_field(mistake(random_field(3, 3)))
    assert any(re.search(law, f"{check.law} {check.case}") for check in report.violations), str(report)
    assert "divergence = dense trace" not in {check.law for check in report.violations}


def test_the_harness_sees_forgotten_charges():
    links = links_on(3, 3)
    field = ForgetsTheCharges(links, group=GaugeGroup(links), **SMALL).double()
    randomise(field)
    assert [check.law for check in check_vector_field(field).violations] == ["divergence = dense trace"]


def test_the_jacobian_conserves_the_sum_of_all_plaquettes():
    field = random_field(3, 3)
    jacobian = dense_jacobian(lambda x: curl(field.velocity(x, 0.3)), angles(field.space))
    assert float(jacobian.sum(1).abs().max()) < 1e-12
    assert float(jacobian.abs().max()) > 1e-2


def test_wrong_arguments_are_explained():
    with pytest.raises(ValueError, match=r"moves links in U\(1\), got SU\(2\)"):
        U1Field(Links(Lattice((2, 2)), "SU(2)"))
    with pytest.raises(TypeError, match="links must be of type Links"):
        U1Field(Lattice((4, 4)))
    for options in ({"n_local": 0}, {"n_mixed": -1}, {"charge_ranges": ()}, {"max_frequency": 0.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            U1Field(links_on(2, 2), group=GaugeGroup(links_on(2, 2)), **options)
    with pytest.raises(ValueError, match="Nothing carries over"):
        random_field(3, 3).resized(Lattice((3, 3, 3)))
