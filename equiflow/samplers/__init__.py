"""Samplers: from a flow, or without one, to ensembles with errors."""

from equiflow.samplers.chain import Chain
from equiflow.samplers.diagnosis import Diagnosis, compare_directions, diagnose
from equiflow.samplers.free_energy import CouplingIntegral, log_z_along, log_z_bridge
from equiflow.samplers.hmc import HMC
from equiflow.samplers.importance import Ensemble, importance_sample, log_weights
from equiflow.samplers.measurements import Measurements, measure
from equiflow.samplers.metropolis import IndependenceMetropolis

__all__ = [
    "HMC",
    "Chain",
    "CouplingIntegral",
    "Diagnosis",
    "Ensemble",
    "IndependenceMetropolis",
    "Measurements",
    "compare_directions",
    "diagnose",
    "importance_sample",
    "log_weights",
    "log_z_along",
    "log_z_bridge",
    "measure",
]
