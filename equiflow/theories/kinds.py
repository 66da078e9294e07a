"""The one list of theories: what belongs to each kind of configurations.

A new theory is a folder beside this file, with its space, group, prior and actions, a file in
`equiflow/vector_fields/`, and an entry here.
"""

from __future__ import annotations

from equiflow.theories.angles import observables as angles
from equiflow.theories.angles.group import AngleGroup
from equiflow.theories.angles.prior import UniformAngles
from equiflow.theories.angles.space import Angles
from equiflow.theories.angles.xy import XYModel
from equiflow.theories.base.kind import Kind, register
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.symmetry import SymmetryGroup
from equiflow.theories.gauge import observables as links
from equiflow.theories.gauge.group import GaugeGroup
from equiflow.theories.gauge.links import Links
from equiflow.theories.gauge.prior import HaarPrior
from equiflow.theories.gauge.wilson import WilsonAction
from equiflow.theories.multiplets.group import MultipletGroup
from equiflow.theories.multiplets.on_model import ONModel
from equiflow.theories.multiplets.space import Multiplet
from equiflow.theories.particles.coulomb import CoulombGas
from equiflow.theories.particles.group import EuclideanGroup
from equiflow.theories.particles.prior import TrappedGaussian
from equiflow.theories.particles.space import Particles
from equiflow.theories.scalar.ising import ContinuousIsing
from equiflow.theories.scalar.phi4 import FreeScalar, Phi4
from equiflow.theories.scalar.priors import FreeField, SmoothFreeField, StandardNormal

KINDS = (
    Kind(
        space=Lattice,
        group=SymmetryGroup,
        priors=(FreeField, StandardNormal, SmoothFreeField),
        # Vector fields are named, not imported: they live on a higher floor of the package.
        vector_fields=(
            "equiflow.vector_fields.potential.PotentialField",
            "equiflow.vector_fields.attention.AttentionField",
            "equiflow.vector_fields.attention.DeepAttentionField",
            "equiflow.vector_fields.deep_steerable.DeepSteerableField",
            "equiflow.vector_fields.factorised.FactorisedConvField",
            "equiflow.vector_fields.o3.O3Field",
            "equiflow.vector_fields.orbit_conv.OrbitConvField",
            "equiflow.vector_fields.steerable.SteerableField",
        ),
        actions={"phi4": Phi4, "free": FreeScalar, "ising": ContinuousIsing},
    ),
    Kind(
        space=Multiplet,
        group=MultipletGroup,
        priors=(FreeField, StandardNormal, SmoothFreeField),
        vector_fields=("equiflow.vector_fields.multiplet.MultipletField",),
        actions={"on": ONModel},
    ),
    Kind(
        space=Angles,
        group=AngleGroup,
        priors=(UniformAngles,),
        vector_fields=("equiflow.vector_fields.angles.AngleField",),
        actions={"xy": XYModel},
        observables=angles.standard,
    ),
    Kind(
        space=Links,
        group=GaugeGroup,
        priors=(HaarPrior,),
        vector_fields=(
            "equiflow.vector_fields.gauge_u1.U1Field",
            "equiflow.vector_fields.gauge_sun.SUNField",
        ),
        actions={"wilson": WilsonAction},
        observables=links.standard,
    ),
    Kind(
        space=Particles,
        group=EuclideanGroup,
        priors=(TrappedGaussian,),
        vector_fields=(
            "equiflow.vector_fields.particles.ParticleField",
            "equiflow.vector_fields.backflow.BackflowField",
        ),
        actions={"coulomb": CoulombGas},
    ),
)

for kind in KINDS:
    register(kind)
