"""Every law at once: `check_vector_field` and `check_flow` return a report that prints as a table."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from equiflow.flows import EquivariantCNF, Flow
from equiflow.runtime.autograd import as_leaf
from equiflow.testing.laws_of_fields import (
    divergence_error,
    equivariance_error,
    path_rates_error,
    refuse_zero,
    winding_error,
)
from equiflow.testing.laws_of_flows import invariance_error, log_density_error
from equiflow.testing.probes import TIMES, configurations, prior_samples, tolerance_of
from equiflow.testing.reports import Check, CheckReport, checks_by_kind
from equiflow.theories.base.group import Group
from equiflow.theories.base.space import Space
from equiflow.vector_fields import VectorField

_ASYMMETRIC = (
    "Translations need periodic padding; rotations and reflections need weights tied on orbits "
    "(SymmetryGroup.offset_orbits); Z2 needs odd features, without even powers or constants. Or claim a "
    "smaller group, such as SymmetryGroup(lattice, z2=False)."
)
_WINDS = "A full turn of one angle must change nothing: use theta only through exp(i n theta), n an integer."
_WRONG_TRACE = "The divergence must be the trace of d velocity / d phi over all sites, sign included."
_WRONG_RATES = "path_rates must equal -(dv/dphi)^T s - grad div; leave it to the base class if unsure."
_DETACHED = "A parameter gets no gradient: it is unused, or detached inside velocity_and_divergence."
_MIXES = "Configurations of one batch must not see each other (batch norms, sums over axis 0)."
_WRONG_DENSITY = (
    "log q must be log prior(z) - log |det dphi/dz|: check the divergence; if it is exact, use a finer "
    "solver (flow.tune_solver)."
)
_NOT_INVERSE = "inverse_and_log_det must undo transform_and_log_det, with log_det negated."
_WRONG_PRIOR = "The prior's score must be the gradient of its log_prob."


def check_vector_field(
    field: VectorField,
    space: Space | None = None,
    *,
    group: Group | None = None,
    tolerance: float | None = None,
) -> CheckReport:
    """Run every law of a vector field: symmetry, periods, divergence, score rates, gradients, batching.

    Args:
        field: the vector field, with weights that are not zero (from `randomise` or training).
        space: if given, it must be the field's own.
        group: the group to test; by default the group that the field claims.
        tolerance: largest relative violation; by default 1e-12 in float64 and 1e-5 in float32.
            Comparisons with derivatives may violate ten times as much.

    Returns:
        A report of all results.

    Raises:
        ValueError: if the field lives on another lattice, or only estimates its divergence.
        ZeroFieldError: if the field is zero everywhere, because zero obeys every law. It is a ValueError.
    """
    refuse_zero(field)
    tight = tolerance_of(field, 1.0, tolerance)
    loose = tolerance_of(field, 10.0, None if tolerance is None else 10 * tolerance)
    errors = equivariance_error(field, space, group=group)
    return CheckReport(
        f"{type(field).__name__} on {field.space.shape}",
        (
            *checks_by_kind("equivariance", errors, tight, _ASYMMETRIC),
            *checks_by_kind("periodicity", winding_error(field), tight, _WINDS),
            Check("divergence = dense trace", "", divergence_error(field), loose, _WRONG_TRACE),
            Check("path_rates = autograd", "", path_rates_error(field), loose, _WRONG_RATES),
            _gradients_reach(field),
            Check("one configuration at a time", "", _batch_error(field), loose, _MIXES),
        ),
    )


def check_flow(flow: Flow, *, group: Group | None = None, tolerance: float = 1e-3) -> CheckReport:
    """Run every law of a flow: invariance of log q, dense log-determinant, inverse, prior.

    The laws of its vector field are run too, if it has one.

    Args:
        flow: any flow on a small lattice; its dense Jacobian has `V^2` entries.
        group: the group to test; by default the flow's own group.
        tolerance: largest absolute violation for log-densities and round trips, not smaller than the
            error of the flow's solver.

    Returns:
        A report of all results.

    Raises:
        ZeroFieldError: if its vector field is zero everywhere, because zero obeys every law.
    """
    group = group if group is not None else getattr(flow, "group", flow.prior.group)
    z = prior_samples(flow, 3, 0)
    with torch.no_grad():
        phi, log_det = flow.transform_and_log_det(z)
        back, back_log_det = flow.inverse_and_log_det(phi)
    own = check_vector_field(flow.vector_field).checks if isinstance(flow, EquivariantCNF) else ()
    invariance = invariance_error(flow, group)
    return CheckReport(
        f"{type(flow).__name__} on {flow.space.shape}",
        (
            *own,
            *checks_by_kind("log q invariant", invariance, tolerance, _ASYMMETRIC),
            Check("log q = prior - dense slogdet", "", log_density_error(flow), tolerance, _WRONG_DENSITY),
            Check("inverse(transform(z)) = z", "", _largest(back - z), tolerance, _NOT_INVERSE),
            Check("log_det of the inverse", "", _largest(log_det + back_log_det), tolerance, _NOT_INVERSE),
            Check("prior score = grad log_prob", "", _score_error(flow, z), tolerance, _WRONG_PRIOR),
        ),
    )


def _gradients_reach(field: VectorField) -> Check:
    """Return a check that velocity and divergence depend on every parameter; its error counts the others."""
    phi = configurations(field, field.space)
    with torch.enable_grad():
        total: Tensor | float = 0.0
        for t in TIMES:
            velocity, divergence = field.velocity_and_divergence(phi, t)
            total = total + velocity.square().sum() + divergence.square().sum()
        trained = {name: p for name, p in field.named_parameters() if p.requires_grad and p.numel()}
        if not trained or not isinstance(total, Tensor) or not total.requires_grad:
            missing = list(trained)
        else:
            found = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
            missing = [n for n, g in zip(trained, found, strict=True) if g is None or not bool(g.any())]
    return Check("gradients reach every parameter", ", ".join(missing), float(len(missing)), 0.0, _DETACHED)


def _batch_error(field: VectorField) -> float:
    """Return the relative change of the rates if configurations are passed one at a time."""
    phi = configurations(field, field.space)
    with torch.no_grad():
        together = field.velocity_and_divergence(phi, 0.37)
        alone = [field.velocity_and_divergence(phi[i : i + 1], 0.37) for i in range(len(phi))]
    return max(
        _largest(part - torch.cat([one[i] for one in alone])) / max(_largest(part), 1e-300)
        for i, part in enumerate(together)
    )


def _score_error(flow: Flow, z: Tensor) -> float:
    """Return `max |score(z) - grad log_prob(z)|` of the prior."""
    score, space = flow.prior.score(z), flow.space
    if space.is_flat:
        return _largest(score - _gradient(flow.prior.log_prob, z))
    along = _gradient(lambda velocity: flow.prior.log_prob(space.move(z, velocity)), torch.zeros_like(score))
    return _largest(score - along)


def _gradient(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Return the gradient of a function of each configuration, zero if it is constant."""
    with torch.enable_grad():
        leaf = as_leaf(z)
        total = function(leaf).sum()
        return torch.autograd.grad(total, leaf)[0] if total.requires_grad else torch.zeros_like(z)


def _largest(difference: Tensor) -> float:
    return float(difference.detach().abs().max())
