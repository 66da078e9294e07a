"""A harness for your own fields, flows and actions: are symmetries real, densities and gradients exact?

Start with `check_vector_field(field)`, `check_flow(flow)` or `check_action(action)` on a small lattice. They
run every law and return a report that prints as a table, with `.ok` and hints for what fails. A field with
zero weights obeys every law and is refused, so give it weights first: `randomise(field)`.

In your test suite, use the `assert_*` functions: they raise an AssertionError that names the law, the group
element and the size of the violation. The `*_error` functions return these sizes.

>>> from equiflow import Lattice, OrbitConvField
>>> field = OrbitConvField(Lattice((4, 4)), n_frequencies=2).double()
>>> randomise(field)
>>> report = check_vector_field(field)
>>> report.ok
True
"""

from equiflow.testing.checks import check_flow, check_vector_field
from equiflow.testing.laws_of_actions import check_action
from equiflow.testing.laws_of_fields import (
    ZeroFieldError,
    assert_divergence_exact,
    assert_equivariant,
    assert_periodic,
    assert_vector_field,
    divergence_error,
    equivariance_error,
    path_rates_error,
    winding_error,
)
from equiflow.testing.laws_of_flows import assert_log_density_exact, invariance_error, log_density_error
from equiflow.testing.laws_of_mechanics import assert_symplectic, symplectic_error
from equiflow.testing.probes import dense_jacobian, randomise
from equiflow.testing.reports import Check, CheckReport

__all__ = [
    "Check",
    "CheckReport",
    "ZeroFieldError",
    "assert_divergence_exact",
    "assert_equivariant",
    "assert_log_density_exact",
    "assert_periodic",
    "assert_symplectic",
    "assert_vector_field",
    "check_action",
    "check_flow",
    "check_vector_field",
    "dense_jacobian",
    "divergence_error",
    "equivariance_error",
    "invariance_error",
    "log_density_error",
    "path_rates_error",
    "randomise",
    "symplectic_error",
    "winding_error",
]
