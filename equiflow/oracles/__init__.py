"""Oracles: results known without sampling, and balances that exact sampling must keep."""

from equiflow.oracles.balance import Z2Balance, z2_balance
from equiflow.oracles.exact import Exact
from equiflow.oracles.free import free_field, free_two_point
from equiflow.oracles.quadrature import quadrature
from equiflow.oracles.transfer import transfer_matrix

__all__ = [
    "Exact",
    "Z2Balance",
    "free_field",
    "free_two_point",
    "quadrature",
    "transfer_matrix",
    "z2_balance",
]
