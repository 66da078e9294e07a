"""phi^4 in the conventions of others: the same density, there and back."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equiflow import FreeScalar, Lattice, Phi4
from tests.support.explicit_actions import site_by_site
from tests.support.strategies import configurations, lattices, log_integral, seeds

# The actions written out from their couplings alone.
EXPLICIT = {
    "hopping": lambda phi, kappa, lam_hopping: site_by_site(
        phi, hop=-2 * kappa, square=1 - 2 * lam_hopping, quartic=lam_hopping
    ),
    "continuum": lambda phi, mu2, g: site_by_site(phi, kinetic=0.5, square=mu2 / 2, quartic=g / 4),
    "factorial": lambda phi, mu2, g: site_by_site(phi, kinetic=0.5, square=mu2 / 2, quartic=g / 24),
}
BACK = {"hopping": Phi4.from_hopping, "continuum": Phi4.from_continuum, "factorial": Phi4.from_factorial}
names = pytest.mark.parametrize("name", EXPLICIT)


# A constructor and its explicit action for each convention, both from two numbers.
CONVENTIONS = {
    "hopping": (
        lambda lattice, a, b: Phi4.from_hopping(lattice, kappa=0.1 + a, lam_hopping=b),
        lambda phi, a, b: site_by_site(phi, hop=-2 * (0.1 + a), square=1 - 2 * b, quartic=b),
    ),
    "continuum": (
        lambda lattice, a, b: Phi4.from_continuum(lattice, mu2=a - 1, g=b),
        lambda phi, a, b: site_by_site(phi, kinetic=0.5, square=(a - 1) / 2, quartic=b / 4),
    ),
    "factorial": (
        lambda lattice, a, b: Phi4.from_factorial(lattice, mu2=a - 1, g=b),
        lambda phi, a, b: site_by_site(phi, kinetic=0.5, square=(a - 1) / 2, quartic=b / 24),
    ),
}


def violation(action: Phi4, name: str, seed: int, *, scale: float = 1.0, power: float = 1.0) -> float:
    """Return `|S_there(phi_there) - S_here(phi_here)|` relative to the size of the terms."""
    form = action.conventions()[name]
    phi = configurations(action.lattice, seed=seed)
    there = EXPLICIT[name](scale * form.field_scale**power * phi, **form.couplings)
    # The size before terms cancel: on one site the kinetic term is 2d phi^2 - 2d phi^2.
    size = site_by_site(phi, square=abs(action.m2) + 4 * action.lattice.dim, quartic=action.lam)
    return float(((action(phi) - there) / size).abs().max())


@names
@given(lattices(max_volume=30), st.floats(-8, 8), st.floats(1e-3, 50), seeds)
def test_both_actions_agree_on_random_fields(name, lattice, m2, lam, seed):
    assert violation(Phi4(lattice, m2=m2, lam=lam), name, seed) < 1e-12


@names
@given(lattices(max_volume=30), st.floats(-8, 8), st.floats(1e-3, 50))
def test_there_and_back(name, lattice, m2, lam):
    form = Phi4(lattice, m2=m2, lam=lam).conventions()[name]
    back = BACK[name](lattice, **form.couplings)
    # m2 is what remains of terms of the size of lam and 2 d.
    assert back.action.m2 == pytest.approx(m2, rel=1e-12, abs=1e-12 * (lam + lattice.dim))
    assert back.action.lam == pytest.approx(lam, rel=1e-12)
    assert back.field_scale == pytest.approx(form.field_scale, rel=1e-14)
    assert back.log_z_shift == pytest.approx(form.log_z_shift, rel=1e-12, abs=1e-12)


@names
@pytest.mark.parametrize("shape", [(1,), (1, 1), (2,)])
def test_the_constant_is_that_of_log_z(name, shape):
    action = Phi4(Lattice(shape), m2=-0.5, lam=0.7)
    form = action.conventions()[name]
    here = log_integral(lambda phi: -action(phi), action.lattice)
    there = log_integral(lambda phi: -EXPLICIT[name](phi, **form.couplings), action.lattice)
    assert there == pytest.approx(here + form.log_z_shift, abs=1e-10)


@names
def test_a_free_field_has_every_convention(name):
    action = FreeScalar(Lattice((3, 4)), m2=0.7)
    assert violation(action, name, 0) < 1e-12
    assert BACK[name](action.lattice, **action.conventions()[name].couplings).action.lam == 0


@names
@pytest.mark.parametrize("wrong", [{"scale": 1.001}, {"power": -1.0}], ids=str)
def test_another_scale_of_the_field_is_seen(name, wrong):
    assert violation(Phi4(Lattice((3, 4)), m2=-1.0, lam=0.5), name, 0, **wrong) > 1e-4


@pytest.mark.parametrize("m2", [-1e6, -1e3, 1e3, 1e6])
def test_the_hopping_parameter_does_not_cancel(m2):
    couplings = Phi4(Lattice((4, 4)), m2=m2, lam=1e-3).conventions()["hopping"].couplings
    kappa, lam = couplings["kappa"], couplings["lam_hopping"]
    assert kappa > 0
    assert (m2 + 4) * kappa + 2 * lam == pytest.approx(1, rel=1e-9, abs=1e-9 * lam)


def test_describe_states_each_number():
    action = Phi4(Lattice((6, 6)), m2=-4.0, lam=6.975)
    text = action.describe()
    for form in action.conventions().values():
        assert form.formula in text
        for number in [*form.couplings.values(), form.field_scale, form.log_z_shift]:
            assert f"{number:.10g}" in text
    # By hand: with m2 = -4 in two dimensions the hopping form has lam_hopping = 1/2.
    assert f"kappa = {math.sqrt(0.5 / 6.975):.10g}, lam_hopping = 0.5" in text
    assert f"log Z_here + {18 * math.log(2):.10g}" in text


@pytest.mark.parametrize("name", CONVENTIONS)
@given(lattice=lattices(max_volume=30), a=st.floats(0, 1), b=st.floats(0.05, 1), seed=seeds)
def test_conventions_give_one_action(name, lattice, a, b, seed):
    convert, explicit = CONVENTIONS[name]
    convention = convert(lattice, a, b)
    phi = configurations(lattice, seed=seed)
    there = explicit(convention.field_scale * phi, a, b)
    torch.testing.assert_close(convention.action(phi), there, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_conventions_disagree_without_the_rescaling(name):
    convert, explicit = CONVENTIONS[name]
    lattice = Lattice((3, 4))
    phi = configurations(lattice)
    difference = convert(lattice, 0.3, 0.5).action(phi) - explicit(phi, 0.3, 0.5)
    assert difference.abs().min() > 0.1


@pytest.mark.parametrize("name", CONVENTIONS)
@pytest.mark.parametrize("shape", [(1,), (1, 1), (2,)])
def test_conventions_shift_log_z_as_they_say(name, shape):
    lattice = Lattice(shape)
    convert, explicit = CONVENTIONS[name]
    convention = convert(lattice, 0.3, 0.6)
    here = log_integral(lambda phi: -convention.action(phi), lattice)
    there = log_integral(lambda phi: -explicit(phi, 0.3, 0.6), lattice)
    assert there == pytest.approx(here + convention.log_z_shift, abs=1e-10)
    assert abs(convention.log_z_shift) > 0.1


@pytest.mark.parametrize("kappa", [0.0, -0.2, math.nan])
def test_hopping_needs_a_positive_kappa(kappa):
    with pytest.raises(ValueError, match=r"kappa must be positive|must be finite"):
        Phi4.from_hopping(Lattice((4, 4)), kappa=kappa, lam_hopping=0.1)


@names
@given(lattices(max_volume=30), st.floats(0.05, 1), st.floats(0.05, 1))
def test_a_constructor_returns_the_couplings_that_it_was_given(name, lattice, a, b):
    given_couplings = dict(
        zip(Phi4(lattice, m2=1.0, lam=1.0).conventions()[name].couplings, (a, b), strict=True)
    )
    there = BACK[name](lattice, **given_couplings)
    assert there.couplings == given_couplings
    assert there.formula == there.action.conventions()[name].formula


def test_a_convention_is_one_of_the_action_itself():
    action = FreeScalar(Lattice((3, 4)), m2=0.7)
    assert all(there.action is action for there in action.conventions().values())
