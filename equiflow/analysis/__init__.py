"""From samples to physics: observables with errors, correlators, free energies, diagnoses.

Start with `measure` for lattice fields, angles and links, with `log_z_bridge` and
`log_z_along` for log Z, and with `diagnose` for the quality of a flow. `explain_weights` says what a flow
of scalar fields lacks. `Observable` adds a quantity of your own.
"""

from equiflow.analysis.averages import Observable, estimate_observables
from equiflow.analysis.correlators import CoshFit, fit_cosh
from equiflow.analysis.diagnosis import Diagnosis, compare_directions, diagnose
from equiflow.analysis.free_energy import CouplingIntegral, log_z_along, log_z_bridge
from equiflow.analysis.measurements import Measurements, measure
from equiflow.analysis.standard import (
    StandardMeasurements,
    frozen_charge,
    has_standard,
    measure_standard,
    plain_observables,
)
from equiflow.analysis.thermal import RadialProfile, ThermalAverages, thermal_averages
from equiflow.analysis.weight_shares import WeightShares, explain_weights, samples_to_explain

__all__ = [
    "CoshFit",
    "CouplingIntegral",
    "Diagnosis",
    "Measurements",
    "Observable",
    "RadialProfile",
    "StandardMeasurements",
    "ThermalAverages",
    "WeightShares",
    "compare_directions",
    "diagnose",
    "estimate_observables",
    "explain_weights",
    "fit_cosh",
    "frozen_charge",
    "has_standard",
    "log_z_along",
    "log_z_bridge",
    "measure",
    "measure_standard",
    "plain_observables",
    "samples_to_explain",
    "thermal_averages",
]
