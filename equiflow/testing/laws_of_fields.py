"""Laws of vector fields: each `*_error` measures the violation of one law, each `assert_*` demands it."""

from __future__ import annotations

import itertools
from functools import partial

import torch
from torch import Tensor

from equiflow.testing.probes import (
    TIMES,
    configurations,
    demand,
    elements_of,
    in_parts,
    jacobian_along_moves,
    tangents,
    tolerance_of,
    with_images,
    worse,
)
from equiflow.theories.base.group import Element, Group, on_velocities
from equiflow.theories.base.space import Space
from equiflow.vector_fields import VectorField


class ZeroFieldError(AssertionError, ValueError):
    """A vector field that is zero everywhere was to be tested."""


def equivariance_error(
    field: VectorField,
    space: Space | None = None,
    *,
    group: Group | None = None,
    phi: Tensor | None = None,
    times: tuple[float, ...] = TIMES,
    n_random: int = 4,
) -> dict[str, float]:
    """Measure `max |v(g phi) - g v(phi)| / max |v(phi)|` for each generator g and some random elements.

    The divergence is compared too, `|div(g phi) - div(phi)| / (max |div| + V max |v|)`, and the larger
    violation counts.

    Args:
        field: the vector field.
        space: if given, it must be the field's own.
        group: the group to test; by default the group that the field claims.
        phi: configurations to test on, `(batch, *lattice)`; random ones by default.
        times: flow times to test at.
        n_random: number of random group elements besides the generators.

    Returns:
        Name of the group element -> relative violation.

    Raises:
        ValueError: if the field lives on another space.
    """
    group = _group_of(field, space, group)
    phi = configurations(field, group.space) if phi is None else phi
    return _violations(field, phi, times, elements_of(group, n_random))


def assert_equivariant(
    field: VectorField,
    space: Space | None = None,
    *,
    group: Group | None = None,
    tolerance: float | None = None,
) -> None:
    """Demand that a field is equivariant; see `equivariance_error`.

    Args:
        field: the vector field, with weights that are not zero.
        space: if given, it must be the field's own.
        group: the group to test; by default the group that the field claims.
        tolerance: largest relative violation; by default 1e-12 in float64 and 1e-5 in float32.

    Raises:
        AssertionError: if the field is not equivariant, with the violated elements, or zero everywhere
            (a `ZeroFieldError`).
        ValueError: if the field lives on another space.
    """
    tolerance = tolerance_of(field, 1.0) if tolerance is None else tolerance
    refuse_zero(field)
    errors = equivariance_error(field, space, group=group)
    # Written so that NaN counts as a violation.
    broken = {name: error for name, error in errors.items() if not error <= tolerance}
    if broken:
        lines = "\n".join(f"  {name}: {error:.1e}" for name, error in broken.items())
        raise AssertionError(
            f"{type(field).__name__} is not equivariant (relative violation > {tolerance:.0e}):\n{lines}"
        )


def winding_error(field: VectorField, *, phi: Tensor | None = None) -> dict[str, float]:
    """Measure how velocity and divergence change under maps that leave every configuration the same.

    A full turn of one angle is such a map. Many spaces have none. The violation is defined like in
    `equivariance_error`.

    Args:
        field: the vector field.
        phi: configurations to test on, `(batch, *lattice)`; random ones by default.

    Returns:
        Name of the map -> relative violation; empty if the space has no such maps.
    """
    phi = configurations(field, field.space) if phi is None else phi
    return _violations(field, phi, TIMES, field.space.windings())


def assert_periodic(field: VectorField, *, tolerance: float | None = None) -> None:
    """Demand that a field does not depend on the numbers chosen for a configuration; see `winding_error`.

    Args:
        field: the vector field, with weights that are not zero.
        tolerance: largest relative violation; by default 1e-12 in float64 and 1e-5 in float32.

    Raises:
        AssertionError: if the field changes, or is zero everywhere.
    """
    refuse_zero(field)
    for name, error in winding_error(field).items():
        demand(field, f"change under {name}", error, tolerance_of(field, 1.0, tolerance))


def divergence_error(
    field: VectorField, *, phi: Tensor | None = None, times: tuple[float, ...] = TIMES
) -> float:
    """Measure `max |div v - tr dv/dphi|` with the dense Jacobian, relative to the sum of its |diagonal|.

    On a curved space `d/dphi` is the derivative along moves of the configurations, see `Space.move`.

    Args:
        field: a vector field with an exact divergence.
        phi: configurations to test on, `(batch, *lattice)`; random ones by default.
        times: flow times to test at.

    Returns:
        The largest relative violation.

    Raises:
        ValueError: if the field only estimates its divergence.
    """
    field.demand_exact_trace()
    phi = configurations(field, field.space) if phi is None else phi
    worst = 0.0
    for t in times:
        divergence = field.velocity_and_divergence(phi, t)[1].detach()
        jacobian = jacobian_along_moves(partial(field.velocity, t=t), field.space, phi)
        trace = jacobian.diagonal(dim1=1, dim2=2)
        scale = trace.abs().sum(1).max().clamp(min=torch.finfo(phi.dtype).tiny)
        worst = worse(worst, float((divergence - trace.sum(1)).abs().max() / scale))
    return worst


def assert_divergence_exact(field: VectorField, *, tolerance: float | None = None) -> None:
    """Demand that the divergence is the trace of the dense Jacobian; see `divergence_error`.

    Args:
        field: the vector field, with weights that are not zero.
        tolerance: largest relative violation; by default 1e-11 in float64 and 1e-4 in float32.

    Raises:
        AssertionError: if the divergence is wrong, or the field zero everywhere.
        ValueError: if the field only estimates its divergence.
    """
    refuse_zero(field)
    demand(
        field,
        "divergence minus dense trace",
        divergence_error(field),
        tolerance_of(field, 10.0, tolerance),
    )


def path_rates_error(field: VectorField, *, phi: Tensor | None = None) -> float:
    """Measure the largest relative difference between `path_rates` and automatic differentiation.

    Args:
        field: the vector field.
        phi: configurations to test on, `(3, *lattice)`; random ones by default.

    Returns:
        The largest relative difference of velocity, divergence and score rate.
    """
    phi = configurations(field, field.space) if phi is None else phi
    score = tangents(field, field.space, seed=1)
    worst = 0.0
    for t in TIMES:
        rates = field.path_rates(phi, t, score)
        expected = VectorField.path_rates(field, phi, t, score)
        for name in ("velocity", "divergence", "score_rate"):
            wanted = getattr(expected, name).detach()
            difference = (getattr(rates, name).detach() - wanted).abs().max()
            scale = wanted.abs().max().clamp(min=torch.finfo(phi.dtype).tiny)
            worst = worse(worst, float(difference / scale))
    return worst


def assert_vector_field(field: VectorField, space: Space | None = None) -> None:
    """Demand every law of a vector field: equivariance, periodicity, exact divergence, rates of the score.

    Args:
        field: the vector field, with weights that are not zero.
        space: if given, it must be the field's own.

    Raises:
        AssertionError: if a law is violated, or the field is zero everywhere.
        ValueError: if the field lives on another space, or only estimates its divergence.
    """
    assert_equivariant(field, space)
    assert_periodic(field)
    assert_divergence_exact(field)
    demand(field, "path_rates minus autograd", path_rates_error(field), tolerance_of(field, 10.0))


def refuse_zero(field: VectorField) -> None:
    """Raise a `ZeroFieldError` if the field is zero everywhere, because zero obeys every law."""
    phi = configurations(field, field.space)
    with torch.no_grad():
        if any(bool(field.velocity(phi, t).any()) for t in TIMES):
            return
    times = ", ".join(f"{t:g}" for t in TIMES)
    has_weights = any(p.numel() for p in field.parameters())
    raise ZeroFieldError(
        f"{type(field).__name__} is zero everywhere: its velocity on {len(phi)} random configurations at t = "
        f"{times} is exactly 0. Expected a field that moves them, because zero obeys every law. "
        + (
            "Its weights may start at zero: test it after equiflow.testing.randomise(field), or trained."
            if has_weights
            else "It has no weights: look at its formula."
        )
    )


def _violations(
    field: VectorField, phi: Tensor, times: tuple[float, ...], elements: dict[str, Element]
) -> dict[str, float]:
    """Return the largest relative violation of equivariance by each element."""
    worst = dict.fromkeys(elements, 0.0)
    tiny = torch.finfo(phi.dtype).tiny
    for t, part in itertools.product(times, in_parts(elements)):
        with torch.no_grad():
            rates = field.velocity_and_divergence(with_images(phi, part), t)
        (velocity, *moved), (divergence, *changed) = (rate.unflatten(0, (-1, len(phi))) for rate in rates)
        scale = velocity.abs().max().clamp(min=tiny)
        # The divergence may cancel between sites: its scale includes the velocity times the volume.
        trace_scale = (divergence.abs().max() + scale * velocity[0].numel()).clamp(min=tiny)
        for (name, element), v, div in zip(part.items(), moved, changed, strict=True):
            error = (v - on_velocities(element, phi)(velocity)).abs().max() / scale
            trace_error = (div - divergence).abs().max() / trace_scale
            worst[name] = worse(worst[name], worse(float(error), float(trace_error)))
    return worst


def _group_of(field: VectorField, space: Space | None, group: Group | None) -> Group:
    """Return the group to test, or raise a ValueError if the field lives on another space."""
    group = field.group if group is None else group
    if space is not None and space != field.space:
        raise ValueError(
            f"The field lives on {field.space.kind} {field.space.shape}, the test asks for {space.shape}."
        )
    return group
