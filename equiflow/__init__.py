"""Symmetry-equivariant continuous normalizing flows for lattice field theory."""

from importlib.metadata import version as _version

from equiflow.actions import Action, ExternalField, FreeScalar, ONModel, Phi4
from equiflow.families import ActionFamily
from equiflow.flows import (
    AugmentedFlow,
    Certificate,
    ConditionalFlow,
    CouplingFlow,
    EquivariantCNF,
    ExtendedAction,
    Flow,
    SplineMap,
    SymplecticFlow,
)
from equiflow.group import Group
from equiflow.lattice import Lattice, Multiplet, Particles, Space
from equiflow.orthogonal import EuclideanGroup, MultipletGroup
from equiflow.particles import CoulombGas, TrappedGaussian
from equiflow.priors import FreeField, Prior, StandardNormal
from equiflow.samplers import (
    HMC,
    Chain,
    Ensemble,
    IndependenceMetropolis,
    importance_sample,
    log_weights,
    log_z_along,
    log_z_bridge,
    measure,
)
from equiflow.solvers import Solver, SolverError
from equiflow.statistics import Estimate, effective_sample_size, forward_effective_sample_size
from equiflow.storage import CheckpointError
from equiflow.symmetry import SymmetryGroup
from equiflow.training import (
    FlowMatching,
    ForwardKL,
    InversePathGradient,
    Mixture,
    NaturalGradient,
    OverCouplings,
    PathGradient,
    ReverseKL,
    TrainingDivergedError,
    fit,
    fit_ladder,
)
from equiflow.vector_fields import (
    MultipletField,
    O3Field,
    OrbitConvField,
    ParticleField,
    PotentialField,
    SteerableField,
    VectorField,
)

__version__ = _version("equiflow")

__all__ = [
    "HMC",
    "Action",
    "ActionFamily",
    "AugmentedFlow",
    "Certificate",
    "Chain",
    "CheckpointError",
    "ConditionalFlow",
    "CoulombGas",
    "CouplingFlow",
    "Ensemble",
    "EquivariantCNF",
    "Estimate",
    "EuclideanGroup",
    "ExtendedAction",
    "ExternalField",
    "Flow",
    "FlowMatching",
    "ForwardKL",
    "FreeField",
    "FreeScalar",
    "Group",
    "IndependenceMetropolis",
    "InversePathGradient",
    "Lattice",
    "Mixture",
    "Multiplet",
    "MultipletField",
    "MultipletGroup",
    "NaturalGradient",
    "O3Field",
    "ONModel",
    "OrbitConvField",
    "OverCouplings",
    "ParticleField",
    "Particles",
    "PathGradient",
    "Phi4",
    "PotentialField",
    "Prior",
    "ReverseKL",
    "Solver",
    "SolverError",
    "Space",
    "SplineMap",
    "StandardNormal",
    "SteerableField",
    "SymmetryGroup",
    "SymplecticFlow",
    "TrainingDivergedError",
    "TrappedGaussian",
    "VectorField",
    "__version__",
    "effective_sample_size",
    "fit",
    "fit_ladder",
    "forward_effective_sample_size",
    "importance_sample",
    "log_weights",
    "log_z_along",
    "log_z_bridge",
    "measure",
]
