"""What an action does on large fields: whether it is bounded below, and whether `exp(-S)` has an integral.

Start with `fall_and_flatness`. It looks along rays from a field where S is finite.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiflow.testing.probes import N_CONFIGURATIONS
from equiflow.theories.base.action import Action
from equiflow.theories.base.space import Space

#: distances along a ray; at none may S lie below its value at the first
SIZES = (10.0, 1e2, 1e4, 1e6)
#: of S in float64, relative to its largest value on any ray
ROUNDING = 1e-14
#: number of single sites, and of plane waves, along which S is followed at most
MAX_RAYS = 256


def fall_and_flatness(action: Action, base: Tensor) -> tuple[float, float]:
    """Return how far S falls along some ray, and how much it lacks of the slowest rise that is enough.

    The rays lead to noise, single numbers, plane waves, the uniform field and fields that are uniform along
    all axes but one, with either sign. The integral of `exp(-S)` along a ray is finite only if S rises faster
    than the logarithm of the distance.

    Args:
        action: S, in float64.
        base: the field where the rays start, `(1, *shape)`; S is finite there.

    Returns:
        By how much the last S lies below the first, relative to both, from 0 to 1; and the largest
        `1 - (rise of S) / (rise of the logarithm)`, at least 0. It is 1 where S is flat.

    Raises:
        ValueError: if S is -infinite, or NaN where fields are moderate.
    """
    if bool(action.forward(torch.zeros_like(base)).isneginf().any()):
        raise ValueError("S is -inf at the field zero, where the density is singular.")
    rays = torch.cat([directions(action.space).to(base), -directions(action.space).to(base)])
    values = torch.stack([action(base + size * rays) for size in SIZES])
    # NaN stands for an overflow; S before it counts.
    valid = (~values.isnan()).cummin(0).values
    last = (valid.sum(0) - 1).clamp(min=0)
    final = values.gather(0, last[None])[0]
    first, second = values[0], values[1]
    # Where large terms cancel, as on a flat direction, what is left is rounding.
    rounding = ROUNDING * final.nan_to_num(posinf=0.0).abs().max()
    fall = (first - final - rounding) / (first.abs() + final.abs()).clamp(min=1e-300)
    # inf - inf and inf / inf: S is infinite at the first size or at the last.
    fall = torch.where((final == math.inf) | (first == math.inf), 0.0, fall)
    distance = torch.tensor(SIZES, dtype=torch.float64, device=base.device).log()
    rise = (final - second) / (distance[last] - distance[1]).clamp(min=1e-300)
    flatness = torch.where((last < 2) | (final == math.inf), 0.0, 1 - rise)
    return max(0.0, float(fall.max())), max(0.0, float(flatness.max()))


def directions(space: Space) -> Tensor:
    """Return the directions of the rays, `(n, *shape)` in float64; their largest number is about 1.

    Args:
        space: of the configurations.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((N_CONFIGURATIONS, *space.shape), generator=generator, dtype=torch.float64)
    chosen = torch.randperm(space.size, generator=generator)[:MAX_RAYS]
    single = torch.zeros(len(chosen), space.size, dtype=torch.float64)
    single[torch.arange(len(chosen)), chosen] = 1.0
    single = single.reshape(-1, *space.shape)
    # The Hartley transform of one site is the real plane wave cos(kx) + sin(kx).
    axes = [axis for axis in space.event_axes if axis not in space.component_axes]
    waves = torch.fft.fftn(single, dim=axes) if axes else single
    planes = [
        torch.zeros(space.shape, dtype=torch.float64).index_fill_(axis, torch.tensor(k), 1.0)
        for axis, side in enumerate(space.shape)
        for k in range(min(side, MAX_RAYS))
    ]
    real = waves.real - waves.imag if axes else waves
    return torch.cat([noise, single, real, torch.stack(planes), torch.ones_like(noise[:1])])
