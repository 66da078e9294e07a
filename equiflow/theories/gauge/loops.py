"""Products of links along paths, and derivatives of functions of loops.

A path is a sequence of steps `(direction, sign)`; a step of sign -1 goes against the link. All functions take
the planes of each direction, see `Links.planes`, and treat the paths from every site at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from equiflow.theories.gauge.lie_group import LieGroup

Step = tuple[int, int]


def rectangle(mu: int, nu: int, r: int = 1, t: int = 1) -> tuple[Step, ...]:
    """Return the path around a rectangle, r links along mu and t along nu; by default a plaquette.

    Args:
        mu: the first direction.
        nu: the second direction.
        r: number of links along mu.
        t: number of links along nu.

    Returns:
        The steps.
    """
    return ((mu, 1),) * r + ((nu, 1),) * t + ((mu, -1),) * r + ((nu, -1),) * t


def transporter(lie: LieGroup, planes: Sequence[Tensor], path: Sequence[Step]) -> Tensor:
    """Multiply the links along a path from every site x.

    Args:
        lie: group of the links.
        planes: links of each direction, `(..., batch, *lattice)`.
        path: the steps, at least one.

    Returns:
        Planes, indexed by x.
    """
    at, product = [0] * len(planes), None
    for mu, sign in path:
        if sign > 0:
            link = shifted(planes[mu], at)
            at[mu] += 1
        else:
            at[mu] -= 1
            link = lie.dagger(shifted(planes[mu], at))
        product = link if product is None else lie.product(product, link)
    assert product is not None
    return product


def add_loop_gradient(
    lie: LieGroup,
    planes: Sequence[Tensor],
    path: Sequence[Step],
    vector: Tensor,
    gradient: list[Tensor | float],
) -> None:
    """Add the derivative of `sum_x f(loop at x)` by every link, for a class function f.

    A class function of a loop has the same derivative at every corner, only parallel transported: at a link
    along the loop it is the vector at the beginning of the link, at a link against it minus the one at the
    end. So the vector of f at x is carried along both halves of the loop.

    Args:
        lie: group of the links.
        planes: links of each direction, `(..., batch, *lattice)`.
        path: the steps of the loop.
        vector: `d/ds f(exp(s T_a) loop)` at s = 0, `(generator, batch, *lattice)`.
        gradient: the sums for each direction, changed in place; 0.0 to begin with.
    """
    corners = _corners(path, len(planes))
    deposits = [(n, mu, 1.0) if sign > 0 else (n + 1, mu, -1.0) for n, (mu, sign) in enumerate(path)]
    half = len(path) // 2
    carried = {0: vector, len(path): vector}
    for n in range(max((d[0] for d in deposits if d[0] <= half), default=0)):
        carried[n + 1] = _carried(lie, planes, path[n], corners[n], carried[n])
    for n in range(len(path), min((d[0] for d in deposits if d[0] > half), default=len(path)), -1):
        mu, step = path[n - 1]
        carried[n - 1] = _carried(lie, planes, (mu, -step), corners[n], carried[n])
    for n, mu, sign in deposits:
        here = shifted(carried[n], [-side for side in corners[n]])
        gradient[mu] = gradient[mu] + here if sign > 0 else gradient[mu] - here


def loop_rate(
    lie: LieGroup, planes: Sequence[Tensor], path: Sequence[Step], vectors: Sequence[Tensor]
) -> Tensor:
    """Return how loops turn when the links move, `d/dt loop = rate loop` for `dU/dt = v U`.

    This is the transposed of `add_loop_gradient`, for loops from every site.

    Args:
        lie: group of the links.
        planes: links of each direction, `(..., batch, *lattice)`.
        path: the steps of the loop.
        vectors: coefficients of v for each direction, `(generator, batch, *lattice)`.

    Returns:
        Coefficients of the rate, `(generator, batch, *lattice)`.
    """
    corners, total = _corners(path, len(planes)), None
    for (mu, sign), corner in zip(reversed(path), reversed(corners[:-1]), strict=True):
        at = [side - (axis == mu and sign < 0) for axis, side in enumerate(corner)]
        own, link = shifted(vectors[mu], at), shifted(planes[mu], at)
        if sign > 0:  # U L: its rate is v + U rate U^-1
            total = own if total is None else own + lie.adjoint(link, total)
        else:  # U^-1 L
            total = lie.adjoint(lie.dagger(link), -own if total is None else total - own)
    assert total is not None
    return total


def _corners(path: Sequence[Step], dim: int) -> list[tuple[int, ...]]:
    """Return the offset from x before every step, and after the last."""
    at = [0] * dim
    found = [tuple(at)]
    for mu, sign in path:
        at[mu] += sign
        found.append(tuple(at))
    return found


def _carried(
    lie: LieGroup, planes: Sequence[Tensor], step: Step, corner: tuple[int, ...], vector: Tensor
) -> Tensor:
    """Return a vector at x + corner after the parallel transport along one step."""
    if lie.is_abelian:
        return vector
    mu, sign = step
    if sign > 0:
        return lie.adjoint(lie.dagger(shifted(planes[mu], corner)), vector)
    at = [side - (axis == mu) for axis, side in enumerate(corner)]
    return lie.adjoint(shifted(planes[mu], at), vector)


def shifted(values: Tensor, offset: Sequence[int]) -> Tensor:
    """Return the values at `x + offset` for every site x.

    Args:
        values: `(..., *lattice)`.
        offset: along each axis of the lattice.

    Returns:
        `(..., *lattice)`.
    """
    moved = {axis - len(offset): -side for axis, side in enumerate(offset) if side}
    return values.roll(tuple(moved.values()), tuple(moved)) if moved else values
