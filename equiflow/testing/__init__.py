"""The public harness: is a vector field really symmetric, its divergence and log-density really exact?

`check_vector_field` and `check_flow` run every law and return a report that prints as a table and has
`.ok`. Every `*_error` returns relative sizes of violations; every `assert_*` raises an AssertionError
that names the law, the group element and the size. A field whose weights are zero obeys every law, so
the harness refuses it: call `randomise` first.
"""

from equiflow.testing.checks import Check, CheckReport, check_flow, check_vector_field
from equiflow.testing.laws import (
    assert_divergence_exact,
    assert_equivariant,
    assert_log_density_exact,
    assert_periodic,
    assert_vector_field,
    dense_jacobian,
    divergence_error,
    equivariance_error,
    invariance_error,
    log_density_error,
    path_rates_error,
    randomise,
    winding_error,
)

__all__ = [
    "Check",
    "CheckReport",
    "assert_divergence_exact",
    "assert_equivariant",
    "assert_log_density_exact",
    "assert_periodic",
    "assert_vector_field",
    "check_flow",
    "check_vector_field",
    "dense_jacobian",
    "divergence_error",
    "equivariance_error",
    "invariance_error",
    "log_density_error",
    "path_rates_error",
    "randomise",
    "winding_error",
]
