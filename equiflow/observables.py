"""Another name of `equiflow.theories.scalar.observables`: observables of a scalar field."""

from equiflow.theories.scalar.observables import (
    abs_magnetisation,
    action_density,
    axis_two_point,
    magnetisation,
    nearest_neighbour,
    phi_fourth,
    phi_squared,
    structure_factor,
    susceptibility,
    two_point,
    zero_momentum_correlator,
)

__all__ = [
    "abs_magnetisation",
    "action_density",
    "axis_two_point",
    "magnetisation",
    "nearest_neighbour",
    "phi_fourth",
    "phi_squared",
    "structure_factor",
    "susceptibility",
    "two_point",
    "zero_momentum_correlator",
]
