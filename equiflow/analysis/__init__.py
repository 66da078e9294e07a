"""From samples to physics: observables with errors, correlators, free energies, diagnoses.

Start with `measure` for a lattice field or `measure_standard` for angles and links, with `log_z_bridge` and
`log_z_along` for log Z, and with `diagnose` for the quality of a flow. `Observable` adds a quantity of your
own.
"""

from equiflow.analysis.averages import Observable, estimate_observables
from equiflow.analysis.correlators import CoshFit, fit_cosh
from equiflow.analysis.diagnosis import Diagnosis, compare_directions, diagnose
from equiflow.analysis.free_energy import CouplingIntegral, log_z_along, log_z_bridge
from equiflow.analysis.measurements import Measurements, measure
from equiflow.analysis.standard import measure_standard

__all__ = [
    "CoshFit",
    "CouplingIntegral",
    "Diagnosis",
    "Measurements",
    "Observable",
    "compare_directions",
    "diagnose",
    "estimate_observables",
    "fit_cosh",
    "log_z_along",
    "log_z_bridge",
    "measure",
    "measure_standard",
]
