"""Samplers: from a flow, or without one, to ensembles with errors."""

from equiflow.samplers.alternate import Alternate
from equiflow.samplers.annealing import annealed_importance_sample
from equiflow.samplers.chain import Chain
from equiflow.samplers.cluster import SwendsenWang, Wolff
from equiflow.samplers.diagnosis import Diagnosis, compare_directions, diagnose
from equiflow.samplers.free_energy import CouplingIntegral, log_z_along, log_z_bridge
from equiflow.samplers.hmc import HMC
from equiflow.samplers.importance import Ensemble, importance_sample, log_weights
from equiflow.samplers.integrators import LEAPFROG, OMELYAN, Integrator
from equiflow.samplers.kernel import Kernel, Outcome
from equiflow.samplers.latent import LatentAction, LatentHMC
from equiflow.samplers.local import LocalMetropolis
from equiflow.samplers.measurements import Measurements, measure
from equiflow.samplers.metropolis import IndependenceMetropolis, IndependenceStep

__all__ = [
    "HMC",
    "LEAPFROG",
    "OMELYAN",
    "Alternate",
    "Chain",
    "CouplingIntegral",
    "Diagnosis",
    "Ensemble",
    "IndependenceMetropolis",
    "IndependenceStep",
    "Integrator",
    "Kernel",
    "LatentAction",
    "LatentHMC",
    "LocalMetropolis",
    "Measurements",
    "Outcome",
    "SwendsenWang",
    "Wolff",
    "annealed_importance_sample",
    "compare_directions",
    "diagnose",
    "importance_sample",
    "log_weights",
    "log_z_along",
    "log_z_bridge",
    "measure",
]
