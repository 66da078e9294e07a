"""Every combination of lattice, group, kernel, prior, solver, dtype and batch is lawful or refused."""

from __future__ import annotations

import math

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from equiflow import (
    EquivariantCNF,
    FreeField,
    Lattice,
    OrbitConvField,
    Solver,
    StandardNormal,
    SymmetryGroup,
)
from equiflow.ode.solver import ADAPTIVE_ORDER, FIXED_STEP_ORDER
from equiflow.testing import divergence_error, equivariance_error, invariance_error, randomise
from tests.support.adversarial import RK4, generator
from tests.support.strategies import POINT_GROUPS, seeds


@st.composite
def wide_lattices(draw: st.DrawFn, max_volume: int = 42) -> Lattice:
    """1D to 4D, sides 1 to 7, mostly rectangles."""
    sides: list[int] = []
    for _ in range(draw(st.integers(1, 4))):
        sides.append(draw(st.integers(1, max(1, min(7, max_volume // math.prod(sides))))))
    return Lattice(tuple(draw(st.permutations(sides))))


solvers = st.one_of(
    st.builds(
        Solver,
        st.sampled_from(sorted(FIXED_STEP_ORDER)),
        steps=st.integers(3, 5),
        adjoint=st.booleans(),
    ),
    st.builds(
        Solver,
        st.sampled_from(sorted(ADAPTIVE_ORDER)),
        rtol=st.sampled_from([1e-2, 1e-4]),
        atol=st.sampled_from([1e-3, 1e-5]),
        adjoint=st.booleans(),
    ),
)


def fits(kernel_size: int | tuple[int, ...] | None, lattice: Lattice) -> bool:
    sizes = lattice.shape if kernel_size is None else kernel_size
    sizes = sizes if isinstance(sizes, tuple) else (sizes,) * lattice.dim
    return len(sizes) == lattice.dim and all(1 <= n <= s for n, s in zip(sizes, lattice.shape, strict=True))


@settings(max_examples=80)
@given(
    lattice=wide_lattices(),
    point=st.sampled_from((*POINT_GROUPS, "D4", "Oh", "nonsense")),
    z2=st.booleans(),
    kernel_size=st.one_of(
        st.none(), st.integers(-1, 8), st.lists(st.integers(0, 7), min_size=1, max_size=5).map(tuple)
    ),
    prior=st.sampled_from([FreeField, StandardNormal]),
    solver=solvers,
    dtype=st.sampled_from([torch.float32, torch.float64]),
    n=st.integers(0, 2),
    seed=seeds,
)
@example(Lattice((1,)), "full", True, None, FreeField, RK4, torch.float32, 1, 0)
@example(Lattice((7, 5)), "full", False, 4, StandardNormal, RK4, torch.float64, 0, 0)
@example(Lattice((1, 1, 1, 1)), "rotations", False, 1, FreeField, RK4, torch.float64, 2, 0)
@example(Lattice((2, 1, 7, 3)), "full", True, (2, 1, 4, 3), FreeField, RK4, torch.float64, 1, 0)
def test_every_combination_obeys_the_laws_or_is_refused(
    lattice, point, z2, kernel_size, prior, solver, dtype, n, seed
):
    try:
        group = SymmetryGroup(lattice, point, z2)
        field = OrbitConvField(
            lattice, group=group, kernel_size=kernel_size, n_frequencies=1, n_time_modes=2, max_frequency=2.0
        )
    except ValueError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert not (point in POINT_GROUPS and fits(kernel_size, lattice))
        expected = ("expected 1 to the side", "expected one of", f"does not have the point group {point}")
        assert any(words in refusal for words in expected)
        return
    assert fits(kernel_size, lattice)
    flow = EquivariantCNF(lattice, vector_field=field, prior=prior(lattice, group=group), solver=solver)
    flow.to(dtype)
    randomise(flow, scale=0.1, seed=seed)
    exact = 1e-5 if dtype == torch.float32 else 1e-12
    assert max(equivariance_error(field, n_random=1).values()) < exact
    assert divergence_error(field, times=(0.4,)) < 10 * exact
    phi, log_q = flow.sample_and_log_prob(n, generator=generator(seed))
    assert (phi.shape, log_q.shape) == ((n, *lattice.shape), (n,))
    assert (phi.dtype, log_q.dtype) == (dtype, dtype)
    volume = 1 + lattice.volume / 4
    rough = volume * (2.0 if solver.order < 3 else 0.05)
    torch.testing.assert_close(flow.log_prob(phi).detach(), log_q, rtol=0, atol=rough)
    if not solver.is_adaptive:
        assert max(invariance_error(flow, group, n_samples=1).values()) < 100 * volume * exact


def test_an_unlawful_combination_would_be_noticed():
    lattice = Lattice((7, 5))
    field = OrbitConvField(lattice, group=SymmetryGroup(lattice, "trivial", z2=False)).double()
    randomise(field, scale=0.1)
    assert max(equivariance_error(field, group=SymmetryGroup(lattice)).values()) > 1e-3
