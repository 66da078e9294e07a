"""Every law of an action at once: `check_action`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor

from equiflow.runtime.checks import check_type
from equiflow.runtime.precision import in_double
from equiflow.testing.large_fields import fall_and_flatness
from equiflow.testing.probes import N_CONFIGURATIONS, elements_of, worse
from equiflow.testing.reports import Check, CheckReport, checks_by_kind
from equiflow.theories.base.action import Action
from equiflow.theories.base.group import Element, Group
from equiflow.theories.base.kind import group_on, kind_of

#: Steps of the finite differences, whose error is of fourth order; where S varies fast a small one is best.
STEPS = (1e-3, 1e-4, 1e-5)

_WRONG_VALUE = (
    "Return one real number for each configuration: sum over all axes but the first, .flatten(1).sum(1)."
)
_RANDOM = (
    "S must be a function of phi: draw random numbers once, in the constructor, call .eval() on modules with "
    "dropout, and do not change phi in place."
)
_MIXES = "Configurations of one batch must not see each other (means and sums over axis 0, batch norms)."
_WRONG_GRADIENT = (
    "grad must be dS/dphi, sign and factors included: leave it to the base class if unsure. If it is, see "
    "whether forward detaches phi, takes .item() or is not smooth."
)
_ASYMMETRIC = (
    "A flow with this group cannot reach the target. If the theory has the symmetry, S singles out sites, "
    "axes or a sign; else build the flow with a smaller group, such as SymmetryGroup(lattice, z2=False)."
)
_WINDS = "A full turn of one angle must change nothing: use theta only through functions of period 2 pi."
_UNBOUNDED = (
    "S must rise for large fields, or exp(-S) has no finite integral: look at the sign of the highest power."
)
_FLAT = (
    "Z is infinite: along some ray, such as uniform fields, S stays flat or rises slower than the logarithm. "
    "Add a mass, a quartic term or a trap; or hold the flat direction fixed."
)


def check_action(action: Action, group: Group | None = None) -> CheckReport:
    """Run every law of an action: values, batching, gradient, symmetry, periods, rise on large fields.

    It computes in float64 on a few random fields. A law that raises an error fails, with the error as its
    case. Fields where S is +inf are left out.

    Args:
        action: the action.
        group: the group of the flow that will be used with it; by default the largest one of its space. If
            no `Kind` is registered for the space, symmetry is not tested, and the report says so.

    Returns:
        A report of all results.

    Raises:
        TypeError: if `action` is not an `Action`, or `group` is not a `Group`.
        ValueError: if the group acts on another space.

    >>> from equiflow import Lattice, Phi4
    >>> check_action(Phi4(Lattice((4, 4)), m2=-4.0, lam=6.0)).ok
    True
    """
    check_type(action, Action, "action")
    elements, notes = _elements_of(action, group)
    subject = f"{type(action).__name__} on {action.space.shape}"
    action = copy.copy(in_double(action))
    action._largest_batch = math.inf  # what its first call would refuse is measured here
    with torch.no_grad():
        value = _measured("one value per configuration", 0.0, _WRONG_VALUE, lambda: _error_of_values(action))
        if not value.ok:  # nothing else can be measured
            return CheckReport(subject, (value,), notes)
        phi = _fields(action)
        twice = _measured("the same value twice", 1e-11, _RANDOM, lambda: _change(action(phi), action(phi)))
        if not twice.ok:
            return CheckReport(subject, (value, twice), notes)
        checks = [
            value,
            twice,
            _measured("one configuration at a time", 1e-11, _MIXES, lambda: _error_of_batches(action, phi)),
            _measured(
                "grad = finite differences", 1e-6, _WRONG_GRADIENT, lambda: _error_of_grad(action, phi)
            ),
            *checks_by_kind("S invariant", _changes(action, phi, elements), 1e-10, _ASYMMETRIC),
        ]
        if action.space.has_windings:
            errors = _changes(action, phi, action.space.windings())
            checks += checks_by_kind("periodicity", errors, 1e-10, _WINDS)
        elif action.space.is_flat:
            checks += _large_fields(action, phi[-1:])
    return CheckReport(subject, tuple(checks), notes)


def _elements_of(action: Action, group: Group | None) -> tuple[dict[str, Element], tuple[str, ...]]:
    """Return the elements of the group to test, none if no group is known, and what to say then."""
    if group is None:
        try:
            kind_of(action.space)
        except TypeError as unknown:
            return {}, (f"no symmetry was tested, since no group was given. {unknown}",)
    return elements_of(group_on(action.space, group, "action"), 4), ()


def _large_fields(action: Action, base: Tensor) -> list[Check]:
    """Return the checks of S on large fields, see `fall_and_flatness`."""
    try:
        fall, flatness = fall_and_flatness(action, base)
    except Exception as failure:  # an action of somebody may raise anything
        case = f"{type(failure).__name__}: {failure}"
        return [Check("bounded below", case, math.inf, 1e-6, _UNBOUNDED)]
    bounded = Check("bounded below", "", fall, 1e-6, _UNBOUNDED)
    return [bounded, Check("rises on large fields", "", flatness, 0.0, _FLAT)] if bounded.ok else [bounded]


def _measured(law: str, tolerance: float, remedy: str, error: Callable[[], float]) -> Check:
    """Return the check of a law, which fails if measuring it raises an error."""
    try:
        return Check(law, "", error(), tolerance, remedy)
    except Exception as failure:  # an action of somebody may raise anything
        return Check(law, f"{type(failure).__name__}: {failure}", math.inf, tolerance, remedy)


def _candidates(action: Action) -> Tensor:
    """Return probes of the space and fields where chains start, in double precision."""
    device = next(
        (tensor.device for tensor in (*action.parameters(), *action.buffers())), torch.device("cpu")
    )
    generator = torch.Generator().manual_seed(0)
    probes = action.space.probes(N_CONFIGURATIONS, generator)
    return torch.cat([probes, action.initial(N_CONFIGURATIONS, generator)]).to(device)


def _fields(action: Action) -> Tensor:
    """Return the candidates where S is finite."""
    phi = _candidates(action)
    return phi[action(phi).isfinite()]


def _error_of_values(action: Action) -> float:
    """Return 0 if `action(phi)` accepts its values, or raise; infinity if all values are infinite."""
    for n in (1, 2):
        action(_candidates(action)[:n])
    return 0.0 if len(_fields(action)) else math.inf


def _error_of_batches(action: Action, phi: Tensor) -> float:
    """Return the relative change of S if configurations are passed one at a time, or in another order."""
    together = action(phi)
    alone = torch.cat([action(phi[i : i + 1]) for i in range(len(phi))])
    return worse(_change(together, alone), _change(together, action(phi.flip(0)).flip(0)))


def _change(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of values, relative to the largest value."""
    return float((one - other).abs().max() / one.abs().max().clamp(min=1e-300))


def _error_of_grad(action: Action, phi: Tensor) -> float:
    """Return the relative error of `grad` along random directions, by differences of fourth order."""
    gradient = action.grad(phi)
    expected = (len(phi), *action.space.tangent_shape)
    if gradient.shape != expected:
        raise ValueError(f"grad returned shape {tuple(gradient.shape)}; expected {expected}.")
    generator, worst = torch.Generator().manual_seed(1), 0.0
    for _ in range(4):
        along = torch.randn(expected, generator=generator, dtype=torch.float64).to(phi.device)
        slope = (gradient.detach() * along).flatten(1).sum(1)
        found = torch.stack([_slope(action, phi, along, step) for step in STEPS])
        error = ((found - slope).abs() / found.abs().clamp(min=1e-300)).nan_to_num(nan=math.inf)
        worst = worse(worst, float(error.amin(0).max()))
    return worst


def _slope(action: Action, phi: Tensor, along: Tensor, step: float) -> Tensor:
    """Return the derivative of S along a direction by differences of fourth order, `(batch,)`."""
    move = action.space.move
    near, far = (action(move(phi, h * along)) - action(move(phi, -h * along)) for h in (step, 2 * step))
    return (8 * near - far) / (12 * step)


def _changes(
    action: Action, phi: Tensor, elements: dict[str, Callable[[Tensor], Tensor]]
) -> dict[str, float]:
    """Return `max |S(g phi) - S(phi)| / std S` for each element g."""
    value = action(phi)
    # Values that differ by rounding only have no spread.
    spread = max(float(value.std()) if len(phi) > 1 else 0.0, 1e-5 * float(value.abs().max())) or 1.0
    return {name: float((action(g(phi)) - value).abs().max()) / spread for name, g in elements.items()}
