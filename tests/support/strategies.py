"""Hypothesis strategies for everything that laws are tested on: lattices, groups, fields, priors, flows.

Lattices are tiny and of every parity. A new vector field gets an entry in `FIELDS` or `ELSEWHERE`, which puts
it under every law.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from equiflow.flows import EquivariantCNF
from equiflow.nn.kernels.convolution import CONVOLUTIONS
from equiflow.ode.solver import Solver
from equiflow.testing import randomise
from equiflow.theories.angles.group import AngleGroup
from equiflow.theories.angles.space import Angles
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.prior import Prior
from equiflow.theories.base.space import Space
from equiflow.theories.base.symmetry import SymmetryGroup
from equiflow.theories.gauge.group import GaugeGroup
from equiflow.theories.gauge.links import Links
from equiflow.theories.multiplets.group import MultipletGroup
from equiflow.theories.multiplets.space import Multiplet
from equiflow.theories.particles.prior import TrappedGaussian
from equiflow.theories.particles.space import Particles
from equiflow.theories.scalar.priors import FreeField, SmoothFreeField, StandardNormal
from equiflow.vector_fields import (
    AngleField,
    AttentionField,
    BackflowField,
    DeepAttentionField,
    DeepSteerableField,
    FactorisedConvField,
    MultipletField,
    O3Field,
    OrbitConvField,
    ParticleField,
    PotentialField,
    SteerableField,
    SUNField,
    U1Field,
    VectorField,
)

SHAPES = (
    (1,), (2,), (5,), (6,),
    (1, 4), (2, 2), (3, 3), (3, 4), (4, 4), (4, 6), (5, 5), (6, 3),
    (2, 2, 2), (2, 3, 4), (3, 3, 3), (4, 4, 3), (3, 1, 3),
    (2, 2, 2, 2), (3, 2, 3, 2),
)  # fmt: skip
POINT_GROUPS = ("full", "rotations", "reflections", "inversion", "trivial")

seeds = st.integers(0, 2**31 - 1)


def is_there(package: str) -> bool:
    """Return whether an optional package is installed; with CI set, True, so that no test is skipped."""
    return importlib.util.find_spec(package) is not None or "CI" in os.environ


def needs(package: str) -> pytest.MarkDecorator:
    """Return a mark that skips a test where an optional package is missing."""
    return pytest.mark.skipif(not is_there(package), reason=f"needs {package}")


def configurations(space: Space, n: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return reproducible white noise on a space, `(n, *shape)`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((n, *space.shape), generator=generator, dtype=torch.float64).to(dtype)


def log_integral(log_density: Callable[[Tensor], Tensor], lattice: Lattice, *, n_points: int = 481) -> float:
    """Return `log int exp(log_density)` over all fields on one or two sites.

    The trapezoid rule converges exponentially for smooth densities that decay.
    """
    line = torch.linspace(-12, 12, n_points, dtype=torch.float64)
    grid = torch.cartesian_prod(*[line] * lattice.volume).reshape(-1, *lattice.shape)
    log_cell = lattice.volume * math.log(line[1] - line[0])
    return float(log_density(grid).detach().logsumexp(0)) + log_cell


def lattices(*, min_dim: int = 1, max_dim: int = 4, max_volume: int = 48) -> st.SearchStrategy:
    """Draw one of the lattices in `SHAPES`."""
    shapes = [s for s in SHAPES if min_dim <= len(s) <= max_dim and math.prod(s) <= max_volume]
    return st.sampled_from(shapes).map(Lattice)


def groups(lattice: Lattice) -> st.SearchStrategy[SymmetryGroup]:
    """Draw any symmetry group of a scalar field on a lattice."""
    return st.builds(SymmetryGroup, st.just(lattice), point=st.sampled_from(POINT_GROUPS), z2=st.booleans())


def kernel_sizes(lattice: Lattice) -> st.SearchStrategy[int | tuple[int, ...] | None]:
    """Draw a kernel size: the whole lattice, one size for all axes, or one for each; of any parity."""
    return st.one_of(
        st.none(),
        st.integers(1, min(lattice.shape)),
        st.tuples(*(st.integers(1, side) for side in lattice.shape)),
    )


@st.composite
def orbit_conv_fields(draw: st.DrawFn, group: SymmetryGroup) -> OrbitConvField:
    """Draw a field of this family with a few features."""
    size = draw(kernel_sizes(group.lattice))
    return OrbitConvField(
        group.lattice,
        group=group,
        kernel_size=size,
        n_frequencies=draw(st.integers(1, 3)),
        n_time_modes=draw(st.integers(1, 3)),
        max_frequency=3.0,
        convolution=draw(st.sampled_from(["dense", "fourier"] if size is None else CONVOLUTIONS)),
    )


@st.composite
def factorised_fields(draw: st.DrawFn, group: SymmetryGroup) -> FactorisedConvField:
    """Draw a field of this family with a few features."""
    return FactorisedConvField(
        group.lattice,
        group=group,
        kernel_size=draw(kernel_sizes(group.lattice)),
        n_frequencies=draw(st.integers(1, 3)),
        n_feature_bonds=draw(st.integers(1, 3)),
        n_harmonics=draw(st.integers(0, 2)),
        n_time_bonds=draw(st.integers(1, 3)),
        max_frequency=3.0,
        convolution=draw(st.sampled_from(["dense", "fourier"])),
    )


@st.composite
def o3_fields(draw: st.DrawFn, group: SymmetryGroup) -> O3Field:
    """Draw a field of this family with a few irreducible representations."""
    return O3Field(
        group.lattice,
        group=group,
        kernel_size=draw(kernel_sizes(group.lattice)),
        irreps=draw(st.sampled_from(["2x0e", "1x0e + 2x1o", "2x0e + 1x1o + 1x2e", "1x0e + 1x2e + 1x3o"])),
        n_radial=draw(st.sampled_from([None, 2, 3])),
        n_time_modes=draw(st.integers(1, 3)),
        max_frequency=3.0,
    )


@st.composite
def potential_fields(draw: st.DrawFn, group: SymmetryGroup) -> PotentialField:
    """Draw a field of this family with a few ridges."""
    kernels = draw(st.sampled_from(["orbits", "smooth"]))
    return PotentialField(
        group.lattice,
        group=group,
        kernels=kernels,
        kernel_size=draw(kernel_sizes(group.lattice)) if kernels == "orbits" else None,
        n_channels=draw(st.integers(1, 3)),
        n_ridges=draw(st.integers(1, 4)),
        n_time_modes=draw(st.integers(1, 3)),
        max_frequency=3.0,
        convolution=draw(st.sampled_from(["dense", "fourier"])),
    )


@st.composite
def steerable_fields(draw: st.DrawFn, group: SymmetryGroup) -> SteerableField:
    """Draw a field of this family with one or two representations."""
    return SteerableField(
        group.lattice,
        group=group,
        representation=draw(st.sampled_from(["trivial", "regular", ["trivial", "regular"]])),
        multiplicity=draw(st.integers(1, 2)),
        kernel_size=draw(st.sampled_from([None, 1, min(2, *group.lattice.shape)])),
        n_time_modes=draw(st.integers(1, 3)),
        max_frequency=3.0,
    )


@st.composite
def attention_fields(draw: st.DrawFn, group: SymmetryGroup) -> AttentionField:
    """Draw a field of this family with one or two heads."""
    return AttentionField(
        group.lattice,
        group=group,
        kernel_size=draw(kernel_sizes(group.lattice)),
        n_heads=draw(st.integers(1, 2)),
        n_score=draw(st.integers(1, 2)),
        n_frequencies=draw(st.integers(1, 2)),
        n_time_modes=draw(st.integers(1, 2)),
        max_frequency=2.0,
    )


@st.composite
def deep_attention_fields(draw: st.DrawFn, group: SymmetryGroup) -> DeepAttentionField:
    """Draw a field of this family with two or three layers."""
    return DeepAttentionField(
        group.lattice,
        group=group,
        kernel_size=draw(kernel_sizes(group.lattice)),
        n_channels=draw(st.integers(1, 2)),
        n_layers=draw(st.integers(2, 3)),
        n_heads=1,
        n_score=draw(st.integers(1, 2)),
        n_frequencies=1,
        n_time_modes=draw(st.integers(1, 2)),
        max_frequency=2.0,
    )


@st.composite
def deep_steerable_fields(draw: st.DrawFn, group: SymmetryGroup) -> DeepSteerableField:
    """Draw a field of this family with one or two layers."""
    return DeepSteerableField(
        group.lattice,
        group=group,
        representation=draw(st.sampled_from(["trivial", "regular", ["trivial", "regular"]])),
        multiplicity=1,
        n_layers=draw(st.integers(1, 2)),
        kernel_size=draw(st.sampled_from([None, 1, min(2, *group.lattice.shape)])),
        n_time_modes=draw(st.integers(1, 2)),
        max_frequency=2.0,
    )


#: strategy for each family of fields on a lattice, by its name in `VECTOR_FIELDS`
FIELDS: dict[str, Callable[[SymmetryGroup], st.SearchStrategy[VectorField]]] = {
    "AttentionField": attention_fields,
    "DeepAttentionField": deep_attention_fields,
    "DeepSteerableField": deep_steerable_fields,
    "FactorisedConvField": factorised_fields,
    "O3Field": o3_fields,
    "OrbitConvField": orbit_conv_fields,
    "PotentialField": potential_fields,
    "SteerableField": steerable_fields,
}

#: the priors that a lattice can have
LATTICE_PRIORS: dict[str, type[Prior]] = {
    "FreeField": FreeField,
    "SmoothFreeField": SmoothFreeField,
    "StandardNormal": StandardNormal,
}

#: on which lattices a family is drawn, if not on all
SUITS: dict[str, Callable[[Lattice], bool]] = {
    # A dense trace takes nearly as many backward passes as there are sites of a small lattice.
    "DeepSteerableField": lambda lattice: lattice.dim == 2 and lattice.volume <= 12,
    "O3Field": lambda lattice: lattice.dim == 3,
    "SteerableField": lambda lattice: lattice.dim == 2,
}

#: the package that a family needs, if any
NEEDS: dict[str, str] = {"DeepSteerableField": "escnn", "O3Field": "e3nn", "SteerableField": "escnn"}


def families(lattice: Lattice) -> list[str]:
    """Return the names of the families that can be drawn on a lattice."""
    found = [name for name in sorted(FIELDS) if SUITS.get(name, lambda _: True)(lattice)]
    return [name for name in found if name not in NEEDS or is_there(NEEDS[name])]


@st.composite
def multiplet_fields(draw: st.DrawFn) -> VectorField:
    """Draw a field of one to three components."""
    lattice = draw(lattices(max_volume=18))
    multiplet = Multiplet(lattice, draw(st.integers(1, 3)))
    group = MultipletGroup(multiplet, draw(st.sampled_from(POINT_GROUPS)), draw(st.booleans()))
    return MultipletField(
        multiplet,
        group=group,
        n_frequencies=draw(st.integers(1, 3)),
        n_time_modes=draw(st.integers(1, 3)),
        max_frequency=3.0,
    )


@st.composite
def angle_fields(draw: st.DrawFn) -> AngleField:
    """Draw a field of angles on at least two sites."""
    angles = Angles(draw(lattices(max_volume=12).filter(lambda lattice: lattice.volume > 1)))
    return AngleField(
        angles,
        group=AngleGroup(angles, draw(st.sampled_from(POINT_GROUPS))),
        kernel_size=draw(kernel_sizes(angles.lattice)),
        n_harmonics=draw(st.integers(1, 3)),
        n_channels=draw(st.integers(1, 3)),
        n_ridges=draw(st.integers(1, 4)),
        n_time_modes=draw(st.integers(1, 3)),
        convolution=draw(st.sampled_from(["dense", "fourier"])),
    )


@st.composite
def u1_fields(draw: st.DrawFn) -> U1Field:
    """Draw a field of U(1) links in two or three dimensions."""
    links = Links(draw(st.sampled_from([(2, 2), (3, 2), (1, 3), (2, 2, 2)]).map(Lattice)), "U(1)")
    return U1Field(
        links,
        group=GaugeGroup(links, draw(st.sampled_from(POINT_GROUPS))),
        n_local=draw(st.integers(1, 2)),
        n_mixed=draw(st.integers(0, 2)),
        n_frequencies=draw(st.integers(1, 2)),
        max_frequency=2.0,
        charge_ranges=draw(st.sampled_from([(2.0,), (math.inf,), (1.0, math.inf)])),
        kernel_size=draw(st.sampled_from([None, 1])),
        n_harmonics=draw(st.integers(1, 2)),
        n_time_modes=draw(st.integers(1, 3)),
    )


@st.composite
def sun_fields(draw: st.DrawFn) -> SUNField:
    """Draw a field of SU(2) links in two or three dimensions."""
    # Rectangles need three sites a side, whose laws take ten times as long: `test_gauge_sun` has them.
    lattice, shapes = draw(st.sampled_from([((2, 2), ("plaquette",)), ((2, 2, 2), ("chair",))]))
    links = Links(Lattice(lattice), "SU(2)")
    return SUNField(
        links,
        group=GaugeGroup(links, draw(st.sampled_from(POINT_GROUPS))),
        shapes=shapes,
        degree=draw(st.integers(1, 3)),
        reach=draw(st.integers(0, 1)) if len(lattice) == 2 else 0,
        n_time_modes=draw(st.integers(1, 3)),
    )


def particle_spaces() -> st.SearchStrategy[Particles]:
    """Draw two to four particles in one to three dimensions."""
    return st.builds(Particles, st.integers(2, 4), st.integers(1, 3))


@st.composite
def particle_fields(draw: st.DrawFn, *, scale: float = 0.5) -> ParticleField:
    """Draw a field of a few particles, with random weights in float64."""
    space = draw(particle_spaces())
    highest = 3 if space.dim == 3 and is_there("e3nn") else 1
    field = ParticleField(
        space,
        l_max=draw(st.integers(1, highest)),
        n_radial=draw(st.integers(1, 3)),
        n_hidden=draw(st.integers(1, 4)),
        n_time_modes=draw(st.integers(1, 3)),
    ).double()
    randomise(field, scale=scale, seed=draw(seeds))
    return field


@st.composite
def backflow_fields(draw: st.DrawFn, *, scale: float = 0.5) -> BackflowField:
    """Draw a backflow of a few particles, with random weights in float64."""
    options = {"n_radial": st.integers(1, 3), "n_time_modes": st.integers(1, 3)}
    field = BackflowField(draw(particle_spaces()), **{name: draw(one) for name, one in options.items()})
    randomise(field.double(), scale=scale, seed=draw(seeds))
    return field


#: strategy for each family of fields on another space than a lattice, by its name in `VECTOR_FIELDS`
ELSEWHERE: dict[str, Callable[[], st.SearchStrategy[VectorField]]] = {
    "AngleField": angle_fields,
    "BackflowField": backflow_fields,
    "MultipletField": multiplet_fields,
    "ParticleField": particle_fields,
    "SUNField": sun_fields,
    "U1Field": u1_fields,
}


@st.composite
def fields_elsewhere(draw: st.DrawFn, *, scale: float = 0.3) -> VectorField:
    """Draw any field on another space than a lattice, with random weights in float64."""
    field = draw(ELSEWHERE[draw(st.sampled_from(sorted(ELSEWHERE)))]()).double()
    randomise(field, scale=scale, seed=draw(seeds))
    return field


@st.composite
def flows_elsewhere(draw: st.DrawFn, *, solver: Solver = Solver("dopri8", rtol=1e-8, atol=1e-8)):  # noqa: B008
    """Draw a flow on another flat space than a lattice, with random weights in float64."""
    field = draw(fields_elsewhere(scale=0.1).filter(lambda field: field.space.is_flat))
    flow = EquivariantCNF(field.space, vector_field=field, solver=solver).double()
    randomise(flow.prior, seed=draw(seeds))
    return flow


@st.composite
def vector_fields(
    draw: st.DrawFn,
    where: st.SearchStrategy[Lattice] | None = None,
    *,
    scale: float = 0.3,
) -> VectorField:
    """Draw any field of the library on a lattice, with random weights in float64."""
    lattice = draw(lattices() if where is None else where)
    family = draw(st.sampled_from(families(lattice)))
    field = draw(FIELDS[family](draw(groups(lattice)))).double()
    randomise(field, scale=scale, seed=draw(seeds))
    return field


@st.composite
def priors_of(draw: st.DrawFn, group: SymmetryGroup) -> Prior:
    """Draw a prior with the symmetry `group` and random parameters."""
    name = draw(st.sampled_from(sorted(LATTICE_PRIORS)))
    kind: Any = LATTICE_PRIORS[name]
    options = (
        {}
        if name == "StandardNormal"
        else {"m2": draw(st.floats(0.2, 3.0)), "learnable": draw(st.booleans())}
    )
    prior: Prior = kind(group.lattice, group=group, **options)
    prior.double()
    randomise(prior, seed=draw(seeds))
    return prior


@st.composite
def priors(draw: st.DrawFn, where: st.SearchStrategy[Lattice] | None = None) -> Prior:
    """Draw a prior on a lattice with random parameters."""
    lattice = draw(lattices() if where is None else where)
    return draw(priors_of(draw(groups(lattice))))


@st.composite
def flows(
    draw: st.DrawFn,
    where: st.SearchStrategy[Lattice] | None = None,
    *,
    solver: Solver = Solver("dopri8", rtol=1e-8, atol=1e-8),  # noqa: B008 (frozen)
) -> EquivariantCNF:
    """Draw a flow with random weights in float64, solved to 1e-8 by default."""
    small = lattices(max_volume=18) if where is None else where
    field = draw(vector_fields(small, scale=0.15))
    prior = draw(priors_of(field.group))
    return EquivariantCNF(field.lattice, vector_field=field, prior=prior, solver=solver)


@st.composite
def particle_flows(draw: st.DrawFn) -> EquivariantCNF:
    """Draw a flow of a few particles from a trapped Gaussian, solved to 1e-7."""
    field = draw(particle_fields(scale=0.3))
    prior = TrappedGaussian(field.space, beta=draw(st.floats(0.3, 5.0)), width=draw(st.floats(0.5, 2.0)))
    solver = Solver("dopri8", rtol=1e-7, atol=1e-7)
    return EquivariantCNF(field.space, vector_field=field, prior=prior, solver=solver).double()


def small_flow(
    shape: tuple[int, ...] = (3, 3),
    *,
    solver: Solver | None = None,
    prior: Prior | None = None,
    scale: float = 0.2,
    seed: int = 0,
    **options: object,
) -> EquivariantCNF:
    """Return one reproducible flow with few parameters, for tests that need a particular one."""
    lattice = Lattice(shape)
    options = {"n_frequencies": 2, "n_time_modes": 2, "max_frequency": 2.0} | options
    field = OrbitConvField(lattice, **options)
    flow = EquivariantCNF(lattice, vector_field=field, prior=prior, solver=solver).double()
    randomise(flow.vector_field, scale=scale, seed=seed)
    return flow
