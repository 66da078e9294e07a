"""Training a flow on an action.

Start with `fit`, which trains one flow. `fit_ladder` trains on a series of lattices, and `fit_segments` the
layers of a `StochasticFlow`. The objectives say what is minimised.
"""

from equiflow.training.callbacks import EarlyStopping, LogTo, StopTraining
from equiflow.training.continuity import fit_by_continuity
from equiflow.training.history import History
from equiflow.training.ladder import Rung, fit_ladder
from equiflow.training.natural_gradient import NaturalGradient
from equiflow.training.objectives.adaptive import AdaptivePathGradient
from equiflow.training.objectives.base import Objective, ObjectiveValue
from equiflow.training.objectives.conditional import OverCouplings
from equiflow.training.objectives.flow_matching import FlowMatching
from equiflow.training.objectives.forward import ForwardKL
from equiflow.training.objectives.mixture import Mixture
from equiflow.training.objectives.reverse import InversePathGradient, PathGradient, ReverseKL
from equiflow.training.run import TrainingDivergedError
from equiflow.training.segments import fit_segments
from equiflow.training.thermal import fit_thermal_state
from equiflow.training.trainer import fit
from equiflow.training.trajectories import fit_trajectories

__all__ = [
    "AdaptivePathGradient",
    "EarlyStopping",
    "FlowMatching",
    "ForwardKL",
    "History",
    "InversePathGradient",
    "LogTo",
    "Mixture",
    "NaturalGradient",
    "Objective",
    "ObjectiveValue",
    "OverCouplings",
    "PathGradient",
    "ReverseKL",
    "Rung",
    "StopTraining",
    "TrainingDivergedError",
    "fit",
    "fit_by_continuity",
    "fit_ladder",
    "fit_segments",
    "fit_thermal_state",
    "fit_trajectories",
]
