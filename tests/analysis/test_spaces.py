"""Samples know their space, so nobody reads components or particles as a direction of a lattice."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from equiflow import (
    HMC,
    Angles,
    Chain,
    CoulombGas,
    Ensemble,
    EquivariantCNF,
    FreeScalar,
    IndependenceMetropolis,
    Lattice,
    Multiplet,
    ONModel,
    Particles,
    XYModel,
    annealed_importance_sample,
    importance_sample,
    measure,
)
from equiflow.analysis import diagnose, measure_standard
from equiflow.interop import append_samples, load_chain, load_ensemble, save_samples
from equiflow.observables import phi_squared
from equiflow.runtime.storage import CheckpointError

TWO = Multiplet(Lattice((4, 4)), 2)
ON = ONModel(TWO, m2=1.0, lam=0.5)
XY = XYModel(Angles(Lattice((3, 4))), beta=0.5)
GAS = CoulombGas(Particles(3, 2), beta=1.0)


def chain_of(action) -> Chain:
    generator = torch.Generator().manual_seed(0)
    return HMC(action, step_size=0.1).sample(20, n_chains=16, n_thermalisation=20, generator=generator)


def test_a_chain_of_multiplets_is_measured_as_multiplets():
    chain = chain_of(ON)
    assert chain.space == TWO
    measured, expected = measure(chain), measure(replace(chain, space=None), space=TWO)
    assert measured.scalars() == expected.scalars()
    assert measured.phi_squared.mean == pytest.approx(float(chain.samples.square().sum(2).mean()), rel=1e-12)
    # The counter-example: a lattice of three dimensions, whose phi^2 is half as large.
    wrong = measure(replace(chain, space=Lattice((2, 4, 4))))
    assert wrong.phi_squared.mean == pytest.approx(0.5 * measured.phi_squared.mean, rel=1e-12)


def test_a_theory_without_observables_is_refused():
    chain = chain_of(GAS)
    assert chain.space == GAS.space
    with pytest.raises(TypeError, match=r"source\.space must belong to a real field on a lattice"):
        measure(chain)
    with pytest.raises(TypeError, match=r"action\.space must belong to a real field on a lattice"):
        measure(replace(chain, space=None), action=GAS)


def test_angles_are_measured_by_what_they_list():
    chain = chain_of(XY)
    measured = measure(chain)
    assert measured.scalars() == measure_standard(chain)
    assert measure(replace(chain, space=None), action=XY)["energy"] == measured.energy


@pytest.mark.parametrize("shape", [(2, 4, 4), (3, 2), (4, 6)])
def test_a_shape_that_several_spaces_have_is_refused_without_a_space(shape):
    phi = torch.randn(100, *shape, generator=torch.Generator().manual_seed(0))
    for samples in (
        Ensemble(phi, *torch.zeros(2, 100)),
        Chain(phi.unflatten(0, (10, 10)), torch.ones(10, 10)),
    ):
        with pytest.raises(ValueError, match=re.escape(f"Give space=Lattice({shape}), space=Multiplet")):
            measure(samples)
        known = replace(samples, space=Lattice(shape))
        assert str(measure(known)) == str(measure(samples, space=Lattice(shape)))


def test_spaces_that_differ_are_named():
    chain = chain_of(XYModel(Angles(Lattice((4, 4))), beta=0.5))
    with pytest.raises(ValueError, match=r"action\.space is Lattice.* but source.space is Angles"):
        measure(chain, action=FreeScalar(Lattice((4, 4)), m2=1.0))
    with pytest.raises(ValueError, match=r"^space is Lattice.* but source.space is Angles"):
        measure(chain, space=Lattice((4, 4)))


@pytest.mark.parametrize("action", [ON, XY], ids=["multiplet", "angles"])
def test_ensembles_know_their_space(action):
    flow, generator = EquivariantCNF(action.space), torch.Generator().manual_seed(0)
    ensemble = importance_sample(flow, action, 64, certify=8, generator=generator)
    chain = IndependenceMetropolis(flow, action).sample(16, n_chains=8, certify=8, generator=generator)
    turned = IndependenceMetropolis.from_ensemble(ensemble, n_chains=4, generator=generator)
    assert {ensemble.space, chain.space, turned.space} == {action.space}


def test_an_annealed_ensemble_knows_its_space():
    flow, generator = EquivariantCNF(TWO), torch.Generator().manual_seed(0)
    assert annealed_importance_sample(flow, ON, 8, betas=3, certify=0, generator=generator).space == TWO


@pytest.mark.parametrize("action", [ON, XY, GAS], ids=["multiplet", "angles", "particles"])
def test_files_keep_the_space(action, tmp_path):
    chain = chain_of(action)
    save_samples(chain, tmp_path / "chain.npz")
    assert load_chain(tmp_path / "chain.npz").space == action.space
    for _ in range(2):
        append_samples(chain, tmp_path / "folder")
    assert load_chain(tmp_path / "folder").space == action.space
    # A chain that does not know it learns it from the action.
    save_samples(replace(chain, space=None), tmp_path / "chain.npz", action=action)
    assert load_chain(tmp_path / "chain.npz").space == action.space
    save_samples(replace(chain, space=None), tmp_path / "chain.npz")
    assert load_chain(tmp_path / "chain.npz").space is None


def test_files_of_two_spaces_do_not_belong_together(tmp_path):
    phi = torch.zeros(4, 2, 2)
    for space in (Lattice((2, 2)), Angles(Lattice((2, 2)))):
        append_samples(Ensemble(phi, *torch.zeros(2, 4), space=space), tmp_path / "folder")
    with pytest.raises(CheckpointError, match="some live on Lattice"):
        load_ensemble(tmp_path / "folder")
    ensemble = Ensemble(phi, *torch.zeros(2, 4), space=Angles(Lattice((2, 2))))
    with pytest.raises(ValueError, match="The samples live on Angles"):
        save_samples(ensemble, tmp_path / "other.npz", action=FreeScalar(Lattice((2, 2)), m2=1.0))


def test_a_diagnosis_asks_for_the_sign_of_what_has_one():
    generator = torch.Generator().manual_seed(0)
    for action in (ON, XY):
        flow = EquivariantCNF(action.space)
        ensemble = importance_sample(flow, action, 256, certify=0, generator=generator)
        chain = chain_of(action)
        found = diagnose(flow, action, ensemble, chain)
        if action is XY:
            assert found.positive_sector is None
            assert "P(M > 0)" not in str(found)
            continue
        first = chain.samples[:, :, 0].mean((2, 3))
        assert found.positive_sector[1].mean == pytest.approx(float((first > 0).double().mean()), rel=1e-12)
        assert "P(M > 0), target" in str(found)
        # The counter-example: the sign of the sum of both components.
        both = float((chain.samples.mean((2, 3, 4)) > 0).double().mean())
        assert both != pytest.approx(found.positive_sector[1].mean, abs=1e-3)


def test_squares_of_multiplets_do_not_depend_on_how_samples_are_held(tmp_path):
    chain = chain_of(ON)
    save_samples(chain, tmp_path / "chain.npz", action=ON)
    loaded = load_chain(tmp_path / "chain.npz")
    assert measure(loaded).scalars() == measure(chain).scalars()
    assert measure(loaded).phi_squared.mean == pytest.approx(2 * loaded.mean(phi_squared).mean, rel=1e-12)


def bare(phi) -> tuple[Ensemble, Chain]:
    """Return configurations in an ensemble and in a chain, neither of which knows its space."""
    n = len(phi)
    return Ensemble(phi, *torch.zeros(2, n)), Chain(phi.unflatten(0, (-1, 10)), torch.ones(n // 10, 10))


@pytest.mark.parametrize("shape", [(2, 2), (3, 3), (2, 2, 2), (3, 3, 3)])
def test_as_many_components_as_sites_are_refused_without_a_space(shape):
    phi = torch.randn(100, *shape, generator=torch.Generator().manual_seed(0))
    for samples in bare(phi):
        with pytest.raises(ValueError, match=re.escape(f"Give space=Lattice({shape}), space=Multiplet")):
            measure(samples)
        components = Multiplet(Lattice(shape[1:]), shape[0])
        one, other = measure(samples, space=Lattice(shape)), measure(samples, space=components)
        assert other.phi_squared.mean == pytest.approx(shape[0] * one.phi_squared.mean, rel=1e-12)


@pytest.mark.parametrize("middle", [0.0, torch.pi])
@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
def test_angles_on_a_square_lattice_are_refused_without_a_space(beta, middle):
    action, generator = XYModel(Angles(Lattice((4, 4))), beta=beta), torch.Generator().manual_seed(0)
    chain = HMC(action, step_size=0.2).sample(20, n_chains=50, n_thermalisation=50, generator=generator)
    phi = action.space.nearest(chain.configurations, middle)
    # An ordered phase turns as a whole, so that all angles occur.
    phi = action.space.nearest(phi + 2 * torch.pi * torch.rand(1000, 1, 1, generator=generator), middle)
    for samples in bare(phi):
        with pytest.raises(ValueError, match="fill an interval of 2 pi, as angles do"):
            measure(samples)
        assert measure(samples, space=Lattice((4, 4))).read_as == ""
        measure(bare(1.01 * phi)[0])  # the counter-example: numbers beyond
        measure(bare(0.9 * phi)[0])


@pytest.mark.parametrize("width", [0.3, 0.7, 0.9, 1.2, 3.0])
def test_a_result_says_as_what_bare_fields_were_read(width):
    phi = width * torch.randn(1000, 4, 4, generator=torch.Generator().manual_seed(0))
    for samples in bare(phi):
        measured = measure(samples)
        assert measured.read_as.startswith("a scalar field on Lattice(shape=(4, 4)): nothing but the shape")
        assert measured.read_as in str(measured)
        known = measure(replace(samples, space=Lattice((4, 4))))
        assert known.read_as == ""
        assert "read_as" not in str(known)
        shown = [line for line in repr(measured).splitlines() if not line.startswith("read_as")]
        assert repr(known).splitlines() == shown  # NaN is not equal to itself
        with pytest.raises(KeyError):
            measured["read_as"]
