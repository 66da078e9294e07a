"""Every public name of the package. A new one is imported and listed here, and is then found in `equiflow`.

`import equiflow` imports this file, and torch with it, when the first of these names is asked for.
"""

from equiflow.analysis import diagnose, log_z_along, log_z_bridge, measure, thermal_averages
from equiflow.flows import (
    AugmentedFlow,
    CanonicalFlow,
    Certificate,
    ConditionalFlow,
    CouplingFlow,
    CouplingPointLayer,
    EquivariantCNF,
    ExtendedAction,
    FieldTransformation,
    Flow,
    Hamiltonian,
    HamiltonianLayer,
    LinearCanonicalLayer,
    LinearPointLayer,
    MultiscaleFlow,
    Oscillators,
    PointTransformation,
    SplineMap,
    StochasticFlow,
    SymplecticFlow,
    ThermalState,
)
from equiflow.ode.solver import Solver, SolverError
from equiflow.runtime.storage import CheckpointError
from equiflow.samplers import (
    HMC,
    MCLMC,
    OMELYAN,
    AdjustedMCLMC,
    Alternate,
    Chain,
    Ensemble,
    IndependenceMetropolis,
    IndependenceStep,
    Kernel,
    LatentHMC,
    LocalMetropolis,
    SpinClusters,
    SwendsenWang,
    Wolff,
    annealed_importance_sample,
    importance_sample,
    log_weights,
    stochastic_importance_sample,
)
from equiflow.statistics import Estimate, effective_sample_size, forward_effective_sample_size
from equiflow.theories.angles.group import AngleGroup
from equiflow.theories.angles.prior import UniformAngles
from equiflow.theories.angles.space import Angles
from equiflow.theories.angles.xy import XYModel
from equiflow.theories.base.action import Action
from equiflow.theories.base.bridge import Bridge, geometric_path
from equiflow.theories.base.coupling_ranges import ActionFamily
from equiflow.theories.base.group import Group
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.prior import Prior
from equiflow.theories.base.space import Space
from equiflow.theories.base.symmetry import SymmetryGroup
from equiflow.theories.fermions.electrons import TrappedElectrons
from equiflow.theories.fermions.slater import SlaterStates
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
from equiflow.theories.scalar.external_field import ExternalField
from equiflow.theories.scalar.ising import ContinuousIsing
from equiflow.theories.scalar.mechanics import HarmonicChain, RingPotential
from equiflow.theories.scalar.phi4 import FreeScalar, Phi4
from equiflow.theories.scalar.priors import FreeField, SmoothFreeField, StandardNormal
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
    fit_by_continuity,
    fit_ladder,
    fit_segments,
    fit_thermal_state,
    fit_trajectories,
)
from equiflow.vector_fields import (
    AngleField,
    AttentionField,
    BackflowField,
    DeepAttentionField,
    DeepSteerableField,
    EstimatedField,
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

__all__ = [
    "HMC",
    "MCLMC",
    "OMELYAN",
    "Action",
    "ActionFamily",
    "AdjustedMCLMC",
    "Alternate",
    "AngleField",
    "AngleGroup",
    "Angles",
    "AttentionField",
    "AugmentedFlow",
    "BackflowField",
    "Bridge",
    "CanonicalFlow",
    "Certificate",
    "Chain",
    "CheckpointError",
    "ConditionalFlow",
    "ContinuousIsing",
    "CoulombGas",
    "CouplingFlow",
    "CouplingPointLayer",
    "DeepAttentionField",
    "DeepSteerableField",
    "Ensemble",
    "EquivariantCNF",
    "Estimate",
    "EstimatedField",
    "EuclideanGroup",
    "ExtendedAction",
    "ExternalField",
    "FactorisedConvField",
    "FieldTransformation",
    "Flow",
    "FlowMatching",
    "ForwardKL",
    "FreeField",
    "FreeScalar",
    "GaugeGroup",
    "Group",
    "HaarPrior",
    "Hamiltonian",
    "HamiltonianLayer",
    "HarmonicChain",
    "IndependenceMetropolis",
    "IndependenceStep",
    "InversePathGradient",
    "Kernel",
    "LatentHMC",
    "Lattice",
    "LinearCanonicalLayer",
    "LinearPointLayer",
    "Links",
    "LocalMetropolis",
    "Mixture",
    "Multiplet",
    "MultipletField",
    "MultipletGroup",
    "MultiscaleFlow",
    "NaturalGradient",
    "O3Field",
    "ONModel",
    "OrbitConvField",
    "Oscillators",
    "OverCouplings",
    "ParticleField",
    "Particles",
    "PathGradient",
    "Phi4",
    "PointTransformation",
    "PotentialField",
    "Prior",
    "ReverseKL",
    "RingPotential",
    "SUNField",
    "SlaterStates",
    "SmoothFreeField",
    "Solver",
    "SolverError",
    "Space",
    "SpinClusters",
    "SplineMap",
    "StandardNormal",
    "SteerableField",
    "StochasticFlow",
    "SwendsenWang",
    "SymmetryGroup",
    "SymplecticFlow",
    "ThermalState",
    "TrainingDivergedError",
    "TrappedElectrons",
    "TrappedGaussian",
    "U1Field",
    "UniformAngles",
    "VectorField",
    "WilsonAction",
    "Wolff",
    "XYModel",
    "annealed_importance_sample",
    "diagnose",
    "effective_sample_size",
    "fit",
    "fit_by_continuity",
    "fit_ladder",
    "fit_segments",
    "fit_thermal_state",
    "fit_trajectories",
    "forward_effective_sample_size",
    "geometric_path",
    "importance_sample",
    "log_weights",
    "log_z_along",
    "log_z_bridge",
    "measure",
    "stochastic_importance_sample",
    "thermal_averages",
]
