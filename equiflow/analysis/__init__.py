"""From samples to physics: observables with errors, correlators, free energies, diagnoses."""

from equiflow.analysis.correlators import CoshFit, fit_cosh
from equiflow.analysis.diagnosis import Diagnosis, compare_directions, diagnose
from equiflow.analysis.free_energy import CouplingIntegral, log_z_along, log_z_bridge
from equiflow.analysis.measurements import Measurements, measure

__all__ = [
    "CoshFit",
    "CouplingIntegral",
    "Diagnosis",
    "Measurements",
    "compare_directions",
    "diagnose",
    "fit_cosh",
    "log_z_along",
    "log_z_bridge",
    "measure",
]
