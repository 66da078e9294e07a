"""Training a flow on an action."""

from equiflow.training.history import History
from equiflow.training.inverse_path import InversePathGradient
from equiflow.training.ladder import Rung, fit_ladder
from equiflow.training.natural_gradient import NaturalGradient
from equiflow.training.objectives import Objective, ObjectiveValue, PathGradient, ReverseKL
from equiflow.training.over_couplings import OverCouplings
from equiflow.training.trainer import TrainingDivergedError, fit

__all__ = [
    "History",
    "InversePathGradient",
    "NaturalGradient",
    "Objective",
    "ObjectiveValue",
    "OverCouplings",
    "PathGradient",
    "ReverseKL",
    "Rung",
    "TrainingDivergedError",
    "fit",
    "fit_ladder",
]
