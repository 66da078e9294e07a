"""Flows: a prior carried to a model density by an invertible, symmetric map.

Start with `EquivariantCNF`. `Flow` is what all flows have in common.
"""

from equiflow.flows.base import Flow, FlowDistribution
from equiflow.flows.canonical import CanonicalFlow
from equiflow.flows.certificate import Certificate
from equiflow.flows.cnf import EquivariantCNF
from equiflow.flows.conditional import ConditionalFlow
from equiflow.flows.coupling import CouplingFlow
from equiflow.flows.extended import AugmentedFlow, ExtendedFlow, SymplecticFlow
from equiflow.flows.integrated import IntegratedFlow
from equiflow.flows.multiscale import MultiscaleFlow
from equiflow.flows.oscillators import Hamiltonian, Oscillators
from equiflow.flows.path import PathSample
from equiflow.flows.phase_space import ExtendedAction, PhaseSpace, PhaseSpacePrior
from equiflow.flows.point_transformations import FieldTransformation, PointTransformation
from equiflow.flows.slow_modes import SlowModes
from equiflow.flows.stochastic import Pool, StochasticFlow
from equiflow.flows.thermal import ThermalSample, ThermalState
from equiflow.nn.couplings.canonical import (
    CanonicalLayer,
    CouplingPointLayer,
    HamiltonianLayer,
    LinearCanonicalLayer,
    LinearPointLayer,
)
from equiflow.nn.couplings.site_maps import AffineMap, SiteMap
from equiflow.nn.couplings.splines import SplineMap

__all__ = [
    "AffineMap",
    "AugmentedFlow",
    "CanonicalFlow",
    "CanonicalLayer",
    "Certificate",
    "ConditionalFlow",
    "CouplingFlow",
    "CouplingPointLayer",
    "EquivariantCNF",
    "ExtendedAction",
    "ExtendedFlow",
    "FieldTransformation",
    "Flow",
    "FlowDistribution",
    "Hamiltonian",
    "HamiltonianLayer",
    "IntegratedFlow",
    "LinearCanonicalLayer",
    "LinearPointLayer",
    "MultiscaleFlow",
    "Oscillators",
    "PathSample",
    "PhaseSpace",
    "PhaseSpacePrior",
    "PointTransformation",
    "Pool",
    "SiteMap",
    "SlowModes",
    "SplineMap",
    "StochasticFlow",
    "SymplecticFlow",
    "ThermalSample",
    "ThermalState",
]
