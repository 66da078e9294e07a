"""Samplers of a target `exp(-S)`, with a flow or without one.

`importance_sample`, `annealed_importance_sample` and `stochastic_importance_sample` draw a weighted
`Ensemble`. A `Kernel`, such as `HMC` or `Alternate(...)`, and `IndependenceMetropolis` draw a `Chain`. Both
kinds of `Samples` estimate averages with errors; `equiflow.analysis` takes them from there.
"""

from equiflow.samplers.acceptance import Outcome
from equiflow.samplers.alternate import Alternate
from equiflow.samplers.annealing import annealed_importance_sample, stochastic_importance_sample
from equiflow.samplers.cluster import SwendsenWang, Wolff
from equiflow.samplers.hmc import HMC
from equiflow.samplers.importance import Ensemble, importance_sample
from equiflow.samplers.integrators import LEAPFROG, OMELYAN, Integrator
from equiflow.samplers.kernel import Chain, Kernel
from equiflow.samplers.latent import LatentAction, LatentHMC
from equiflow.samplers.levels import Correction, LevelsChoice, TwoLevels, choose_levels
from equiflow.samplers.local import LocalMetropolis
from equiflow.samplers.mclmc import MCLMC, AdjustedMCLMC
from equiflow.samplers.metropolis import IndependenceMetropolis, IndependenceStep
from equiflow.samplers.samples import Samples
from equiflow.samplers.spins import SpinClusters
from equiflow.samplers.weighting import log_weights

__all__ = [
    "HMC",
    "LEAPFROG",
    "MCLMC",
    "OMELYAN",
    "AdjustedMCLMC",
    "Alternate",
    "Chain",
    "Correction",
    "Ensemble",
    "IndependenceMetropolis",
    "IndependenceStep",
    "Integrator",
    "Kernel",
    "LatentAction",
    "LatentHMC",
    "LevelsChoice",
    "LocalMetropolis",
    "Outcome",
    "Samples",
    "SpinClusters",
    "SwendsenWang",
    "TwoLevels",
    "Wolff",
    "annealed_importance_sample",
    "choose_levels",
    "importance_sample",
    "log_weights",
    "stochastic_importance_sample",
]
