"""Samplers: from a flow, or without one, to ensembles with errors."""

from equiflow.samplers.alternate import Alternate
from equiflow.samplers.annealing import annealed_importance_sample
from equiflow.samplers.cluster import SwendsenWang, Wolff
from equiflow.samplers.hmc import HMC
from equiflow.samplers.importance import Ensemble, importance_sample, log_weights
from equiflow.samplers.integrators import LEAPFROG, OMELYAN, Integrator
from equiflow.samplers.kernel import Chain, Kernel, Outcome
from equiflow.samplers.latent import LatentAction, LatentHMC
from equiflow.samplers.local import LocalMetropolis
from equiflow.samplers.metropolis import IndependenceMetropolis, IndependenceStep

__all__ = [
    "HMC",
    "LEAPFROG",
    "OMELYAN",
    "Alternate",
    "Chain",
    "Ensemble",
    "IndependenceMetropolis",
    "IndependenceStep",
    "Integrator",
    "Kernel",
    "LatentAction",
    "LatentHMC",
    "LocalMetropolis",
    "Outcome",
    "SwendsenWang",
    "Wolff",
    "annealed_importance_sample",
    "importance_sample",
    "log_weights",
]
