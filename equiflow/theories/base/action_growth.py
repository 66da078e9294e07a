"""Whether `exp(-S)` has a finite integral, as far as S along a few rays to large fields can tell.

`growth_along_rays` is cheap enough for the start of every sampler. `equiflow.testing.check_action` follows
many more rays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from equiflow.theories.base.space import Space

#: Distances along a ray. Far minima, as of phi^4 with a small quartic term, must lie before the last one.
DISTANCES = (1e2, 1e3, 1e4, 1e6, 1e8)
#: Factors and shifts of each distance: the range of S there tells whether it goes up and down, as cosines do.
NEAR_BY = ((1.0, 0.0), (1.0, 1.1), (1.0, 2.2), (1.0, 3.9), (1.3, 0.0), (1.7, 0.0))
#: S in units of the logarithm of the distance: `exp(-S)` has an integral along a ray only if it rises faster
SLOWEST_RISE = 0.9
#: rounding of S, relative to its largest value on any ray: on some rays large terms cancel
ROUNDING = 1e-15
#: a fall by more than this is no fluctuation
DEEP = 100.0
#: numbers in the configurations that are evaluated at a time
NUMBERS_AT_ONCE = 2**22


@dataclass(frozen=True)
class Ray:
    """A ray along which `exp(-S)` has no finite integral.

    Attributes:
        direction: of the ray, in words.
        near: S at the first of `DISTANCES`.
        far: S at the last one where it is a number.
        distance: of that one.
        falls: whether S falls without bound, as far as it was followed.
    """

    direction: str
    near: float
    far: float
    distance: float
    falls: bool


def growth_along_rays(forward: Callable[[Tensor], Tensor], space: Space, base: Tensor) -> Ray | None:
    """Return a ray along which S does not rise faster than the logarithm of the distance; None without one.

    The rays lead from a field to the same number everywhere, alternating signs, noise, single numbers and one
    component alone, with either sign. A ray counts only if S rises nowhere on it beyond its range at
    `DISTANCES[0]`. NaN and -inf stand for an overflow, after which nothing is known; +inf is a rise. The
    field must be one without symmetry, so that neighbouring rays are alike.

    Args:
        forward: S, a function of float64 fields `(batch, *shape)`.
        space: of the configurations.
        base: the field where the rays start, `(1, *shape)` in float64.

    Returns:
        The ray along which S falls lowest if there are several; None if S rises along all of them.
    """
    named = directions(space)
    rays = torch.stack([sign * ray for ray in named.values() for sign in (1, -1)]).to(base)
    names = [name for name in named for _ in (1, -1)]
    at_once = max(1, NUMBERS_AT_ONCE // space.size)

    def along(distance: float) -> Tensor:
        return torch.cat([forward(base + distance * part).double() for part in torch.split(rays, at_once)])

    near_by = [torch.stack([along(factor * d + shift) for factor, shift in NEAR_BY]) for d in DISTANCES]
    values = torch.stack(near_by).cpu()  # (distance, near by, ray)
    known = (~values.isnan() & ~values.isneginf()).all(1).cummin(0).values
    largest = torch.where(values.isfinite(), values.abs(), 0.0).amax((1, 2))
    low, high = values.amin(1), values.amax(1)
    enough = SLOWEST_RISE * (torch.tensor(DISTANCES, dtype=torch.float64) / DISTANCES[0]).log()
    # Where S is infinite, and the difference NaN, the density is zero from there on.
    rises = (low - high[0] > (enough + ROUNDING * largest)[:, None]) | values.isposinf().any(1)
    flat = known[1] & ~(rises & known).any(0)
    last = known.sum(0) - 1
    found = []
    for k in flat.nonzero().flatten().tolist():
        end = int(last[k])
        depth = float(low[0, k] - high[end, k])
        falls = depth > DEEP + abs(float(low[0, k])) and bool(high[end, k] < low[end - 1, k])
        found.append(Ray(names[k], float(values[0, 0, k]), float(values[end, 0, k]), DISTANCES[end], falls))
    return min(found, key=lambda ray: (not ray.falls, ray.far - ray.near), default=None)


def directions(space: Space) -> dict[str, Tensor]:
    """Return the directions of the rays by their names, each `(*shape)` in float64.

    Args:
        space: of the configurations.
    """
    ones = torch.ones(space.shape, dtype=torch.float64)
    signs = ones.clone()
    for axis in space.event_axes:
        if axis not in space.component_axes:
            shape = [-1 if axis == other else 1 for other in space.event_axes]
            signs = signs * (1 - 2 * (torch.arange(space.shape[axis]) % 2)).double().reshape(shape)
    noise = torch.randn(space.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first, last = torch.zeros_like(ones), torch.zeros_like(ones)
    first.view(-1)[0], last.view(-1)[-1] = 1.0, 1.0
    one_component = torch.zeros_like(ones)
    one_component[0] = 1.0
    of_components = {"fields whose first component alone is uniform": one_component}
    return {
        "uniform fields": ones,
        **(of_components if space.component_axes else {}),
        "fields of alternating signs": signs,
        "random fields": noise,
        "fields with one large number, the first": first,
        "fields with one large number, the last": last,
    }
