"""Oracles: exact results of small or free theories, and a balance that every exact sampler keeps.

Start with `transfer_matrix` for chains and narrow strips, `free_field` for a free theory on any lattice,
`quadrature` for up to three sites, `gauge_torus` for gauge theories and `ising_torus` for the Ising model in
two dimensions, `z2_balance` for samples of an even action.
"""

from equiflow.oracles.balance import Z2Balance, z2_balance
from equiflow.oracles.exact import Exact
from equiflow.oracles.fermions import ExactThermal, ideal_fermions, two_fermions
from equiflow.oracles.free import free_field, free_two_point
from equiflow.oracles.gauge_torus import ExactGauge, gauge_torus
from equiflow.oracles.ising_torus import ExactIsing, ising_torus
from equiflow.oracles.phonons import NormalModes, Phonons, normal_modes, self_consistent_phonons
from equiflow.oracles.quadrature import quadrature
from equiflow.oracles.transfer import transfer_matrix

__all__ = [
    "Exact",
    "ExactGauge",
    "ExactIsing",
    "ExactThermal",
    "NormalModes",
    "Phonons",
    "Z2Balance",
    "free_field",
    "free_two_point",
    "gauge_torus",
    "ideal_fermions",
    "ising_torus",
    "normal_modes",
    "quadrature",
    "self_consistent_phonons",
    "transfer_matrix",
    "two_fermions",
    "z2_balance",
]
