"""Tools behind the laws: random weights, test configurations, group elements, dense Jacobians, tolerances.

`randomise` and `dense_jacobian` are useful in tests of your own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from equiflow.flows import Flow
from equiflow.runtime.autograd import as_leaf
from equiflow.runtime.precision import in_precision
from equiflow.runtime.randomness import seeded
from equiflow.theories.base.group import Element, Group
from equiflow.theories.base.space import Space

#: flow times at which fields are tested
TIMES = (0.0, 0.37, 1.0)
#: largest relative violation that rounding explains
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
#: number of configurations that fields are tested on
N_CONFIGURATIONS = 3
#: number of group elements whose images are evaluated in one batch
MAX_ELEMENTS_AT_ONCE = 32
#: number of values of the copies of configurations that are differentiated in one batch
MAX_VALUES_AT_ONCE = 2**14


def randomise(module: nn.Module, *, scale: float = 0.3, seed: int = 0) -> None:
    """Add Gaussian noise to every parameter, in place and reproducibly.

    Args:
        module: the module to change.
        scale: standard deviation of the noise.
        seed: seed of the noise, which is the same on every device.
    """
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(scale * noise.to(parameter))


def dense_jacobian(function: Callable[[Tensor], Tensor], phi: Tensor) -> Tensor:
    """Compute `d function(phi)_x / d phi_y` for each configuration, row by row.

    Args:
        function: maps `(batch, *lattice)` to `(batch, *lattice)`, each configuration on its own.
        phi: configurations, `(batch, *lattice)` with V numbers each.

    Returns:
        The Jacobians, `(batch, V, V)`.
    """
    with torch.enable_grad():
        leaf = as_leaf(phi)
        value = function(leaf).flatten(1)
        rows = [
            torch.autograd.grad(value[:, x].sum(), leaf, retain_graph=True, allow_unused=True)[0]
            for x in range(value.shape[1])
        ]
    return torch.stack([torch.zeros_like(phi) if r is None else r for r in rows], 1).flatten(2)


def jacobian_along_moves(function: Callable[[Tensor], Tensor], space: Space, phi: Tensor) -> Tensor:
    """Compute the derivatives of a function along moves of each coordinate, see `Space.move`.

    Each row takes a copy of the configurations, and many copies one backward pass, which takes little longer
    than on few.

    Args:
        function: maps `(batch, *shape)` to `(batch, *tangent_shape)`, each configuration on its own.
        space: of the configurations, with V coordinates.
        phi: configurations, `(batch, *shape)`.

    Returns:
        The Jacobians, `(batch, V, V)`.
    """
    volume = math.prod(space.tangent_shape)
    coordinates = torch.arange(volume, device=phi.device)
    rows = []
    for part in coordinates.split(max(1, MAX_VALUES_AT_ONCE // (len(phi) * volume))):
        copies = phi.repeat_interleave(len(part), 0)
        still = phi.real.new_zeros(len(copies), *space.tangent_shape).requires_grad_()
        with torch.enable_grad():
            values = function(space.move(copies, still)).reshape(len(phi), len(part), volume)
            chosen = values[:, part - part[0], part].sum()
            (slopes,) = torch.autograd.grad(chosen, still, allow_unused=True)
        slopes = torch.zeros_like(still) if slopes is None else slopes
        rows.append(slopes.reshape(len(phi), len(part), volume))
    return torch.cat(rows, 1)


def configurations(module: nn.Module, space: Space, seed: int = 0) -> Tensor:
    """Draw random configurations, `(3, *shape)`, in the precision and on the device of the module.

    Args:
        module: field or flow to test.
        space: space of the configurations.
        seed: seed of the noise.

    Returns:
        The configurations, see `Space.probes`; the same on every device.
    """
    dtype, device = _dtype_and_device(module)
    return in_precision(space.probes(N_CONFIGURATIONS, seeded(seed)), dtype).to(device)


def tangents(module: nn.Module, space: Space, seed: int = 0) -> Tensor:
    """Draw random velocities, `(3, *tangent_shape)`, in the dtype and on the device of the module.

    Args:
        module: field or flow to test.
        space: space of the configurations.
        seed: seed of the noise.

    Returns:
        Standard normal numbers, the same on every device.
    """
    dtype, device = _dtype_and_device(module)
    size = (N_CONFIGURATIONS, *space.tangent_shape)
    return torch.randn(size, generator=seeded(seed), dtype=torch.float64).to(device, dtype)


def prior_samples(flow: Flow, n_samples: int, seed: int) -> Tensor:
    """Draw samples of the flow's prior, the same on every device.

    Args:
        flow: the flow to test.
        n_samples: number of samples.
        seed: seed of the noise.

    Returns:
        The samples, `(n_samples, *lattice)`, in the dtype and on the device of the flow.
    """
    generator = seeded(seed)
    noise = torch.randn((n_samples, *flow.prior.noise_shape), generator=generator, dtype=torch.float64)
    return flow.prior.colour(noise.to(flow.device, flow.dtype)).detach()


def elements_of(group: Group, n_random: int) -> dict[str, Element]:
    """Return the generators of a group and some random elements.

    Args:
        group: the group.
        n_random: number of random elements, the same in every call.

    Returns:
        Name -> element.
    """
    generator = torch.Generator().manual_seed(0)
    named = group.generators()
    for n in range(n_random):
        element = group.random_element(generator)
        named[f"random element {n}: {_shown(element)}"] = element
    return named


def _shown(element: Element) -> str:
    """Return an element as text: its `str`, or the name of a function or class that has none of its own."""
    if isinstance(element, partial):
        return f"{_shown(element.func)}{element.args}"
    if type(element).__repr__ is object.__repr__ and type(element).__str__ is object.__str__:
        return type(element).__qualname__
    name: str = getattr(element, "__qualname__", str(element))
    return name.replace("<locals>.", "")


def in_parts(elements: dict[str, Element]) -> Iterator[dict[str, Element]]:
    """Yield the elements a few at a time, because angles have one winding per site."""
    names = list(elements)
    for start in range(0, len(names), MAX_ELEMENTS_AT_ONCE):
        yield {name: elements[name] for name in names[start : start + MAX_ELEMENTS_AT_ONCE]}


def with_images(phi: Tensor, elements: dict[str, Element]) -> Tensor:
    """Return the configurations, then their images under each element, in one batch.

    Args:
        phi: configurations, `(batch, *shape)`.
        elements: n group elements by name.

    Returns:
        `((1 + n) * batch, *shape)`.
    """
    return torch.cat([phi, *(element(phi) for element in elements.values())])


def worse(a: float, b: float) -> float:
    """Return the larger violation; NaN counts as the largest.

    Args:
        a: one violation.
        b: another one.

    Returns:
        `a` or `b`.
    """
    return b if b != b or b > a else a


def tolerance_of(module: nn.Module, factor: float, given: float | None = None) -> float:
    """Return the given tolerance, or `factor` times the rounding tolerance of the module's dtype.

    Args:
        module: field or flow to test.
        factor: how much larger than rounding the tolerance is.
        given: what the caller gave; None for the default.

    Returns:
        The tolerance.
    """
    return factor * TOLERANCE[_dtype_and_device(module)[0]] if given is None else given


def demand(module: nn.Module, law: str, error: float, tolerance: float) -> None:
    """Raise an AssertionError that names the law unless `error <= tolerance`; NaN fails.

    Args:
        module: what was tested; messages name its class.
        law: the law.
        error: size of the violation.
        tolerance: largest size that passes.

    Raises:
        AssertionError: if the violation is larger.
    """
    if not error <= tolerance:
        raise AssertionError(f"{type(module).__name__}: {law} is {error:.1e}, larger than {tolerance:.0e}.")


def _dtype_and_device(module: nn.Module) -> tuple[torch.dtype, torch.device]:
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype, tensor.device
    return torch.get_default_dtype(), torch.device("cpu")
