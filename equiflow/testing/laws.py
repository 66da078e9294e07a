"""The laws: each `*_error` measures one, each `assert_*` demands it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from equiflow.flows import Flow
from equiflow.runtime.autograd import as_leaf
from equiflow.theories.base.group import Element, Group, on_velocities
from equiflow.theories.base.space import Space
from equiflow.vector_fields import VectorField

TIMES = (0.0, 0.37, 1.0)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def randomise(module: nn.Module, *, scale: float = 0.3, seed: int = 0) -> None:
    """Add Gaussian noise of size `scale` to every parameter, in place and reproducibly."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(scale * noise.to(parameter))


def equivariance_error(
    field: VectorField,
    space: Space | None = None,
    *,
    group: Group | None = None,
    phi: Tensor | None = None,
    times: tuple[float, ...] = TIMES,
    n_random: int = 4,
) -> dict[str, float]:
    """`max |v(g phi) - g v(phi)| / max |v(phi)|` for each generator and some random elements.

    The divergence is compared too, `|div(g phi) - div(phi)| / max |div|`; the larger one is returned.

    Args:
        field: the vector field.
        space: must be the field's own if given.
        group: by default the group that the field claims.
        phi: configurations to test on; random ones by default.
        times: flow times to test at.
        n_random: number of random group elements besides the generators.

    Returns:
        Name of the group element -> relative violation.
    """
    group = _group_of(field, space, group)
    phi = configurations(field, group.space) if phi is None else phi
    return _violations(field, phi, times, _elements(group, n_random))


def assert_equivariant(
    field: VectorField,
    space: Space | None = None,
    *,
    group: Group | None = None,
    tolerance: float | None = None,
) -> None:
    """Raise an AssertionError that names the violated generators and by how much."""
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
    """What `equivariance_error` measures, for maps that leave a configuration the same.

    On angles: a full turn of one of them, which may change neither velocity nor divergence. Empty on
    spaces where every array of numbers is another configuration.

    Returns:
        Name of the map -> relative violation.
    """
    phi = configurations(field, field.space) if phi is None else phi
    return _violations(field, phi, TIMES, field.space.windings())


def assert_periodic(field: VectorField, *, tolerance: float | None = None) -> None:
    """Raise an AssertionError if the field notices how a configuration is written down."""
    refuse_zero(field)
    for name, error in winding_error(field).items():
        _demand(field, f"change under {name}", error, tolerance_of(field, 1.0, tolerance))


def divergence_error(
    field: VectorField, *, phi: Tensor | None = None, times: tuple[float, ...] = TIMES
) -> float:
    """`max |div v - tr dv/dphi|` relative to the largest trace, with the dense Jacobian on all sites."""
    field.demand_exact_trace()
    phi = configurations(field, field.space) if phi is None else phi
    worst = 0.0
    for t in times:
        divergence = field.velocity_and_divergence(phi, t)[1].detach()
        jacobian = dense_jacobian(partial(field.velocity, t=t), phi)
        trace = jacobian.diagonal(dim1=1, dim2=2)
        scale = trace.abs().sum(1).max().clamp(min=torch.finfo(phi.dtype).tiny)
        worst = _worse(worst, float((divergence - trace.sum(1)).abs().max() / scale))
    return worst


def assert_divergence_exact(field: VectorField, *, tolerance: float | None = None) -> None:
    """Raise an AssertionError if the divergence is not the trace of the dense Jacobian."""
    refuse_zero(field)
    _demand(
        field,
        "divergence minus dense trace",
        divergence_error(field),
        tolerance_of(field, 10.0, tolerance),
    )


def path_rates_error(field: VectorField, *, phi: Tensor | None = None) -> float:
    """Largest relative difference between `path_rates` and automatic differentiation."""
    phi = configurations(field, field.space) if phi is None else phi
    score = configurations(field, field.space, seed=1)
    worst = 0.0
    for t in TIMES:
        rates = field.path_rates(phi, t, score)
        expected = VectorField.path_rates(field, phi, t, score)
        for name in ("velocity", "divergence", "score_rate"):
            wanted = getattr(expected, name).detach()
            difference = (getattr(rates, name).detach() - wanted).abs().max()
            scale = wanted.abs().max().clamp(min=torch.finfo(phi.dtype).tiny)
            worst = _worse(worst, float(difference / scale))
    return worst


def assert_vector_field(field: VectorField, space: Space | None = None) -> None:
    """Run every law of a vector field: equivariance, periodicity, exact divergence, rates of the score."""
    assert_equivariant(field, space)
    assert_periodic(field)
    assert_divergence_exact(field)
    _demand(field, "path_rates minus autograd", path_rates_error(field), tolerance_of(field, 10.0))


def log_density_error(flow: Flow, *, n_samples: int = 3, seed: int = 0) -> float:
    """`max |log q - (log prior(z) - log |det dphi/dz|)|` with the dense Jacobian of the whole flow."""
    z = noise_like(flow, n_samples, seed)
    with torch.no_grad():
        phi, _ = flow.transform_and_log_det(z)
        log_q = flow.log_prob(phi)
    jacobian = dense_jacobian(lambda x: flow.transform_and_log_det(x)[0], z)
    dense = flow.prior.log_prob(z).detach() - torch.linalg.slogdet(jacobian).logabsdet
    return float((log_q - dense).abs().max())


def assert_log_density_exact(flow: Flow, *, tolerance: float = 1e-4) -> None:
    """Raise an AssertionError if `log_prob` is not prior minus slogdet to the solver's tolerance."""
    _demand(flow, "log q minus dense slogdet", log_density_error(flow), tolerance)


def invariance_error(flow: Flow, group: Group, *, n_samples: int = 3) -> dict[str, float]:
    """`max |log q(g phi) - log q(phi)|` for each generator, some random elements, and all windings."""
    phi = noise_like(flow, n_samples, 0)
    errors: dict[str, float] = {}
    for maps in _parts({**_elements(group, 4), **flow.space.windings()}):
        with torch.no_grad():  # with their images in one solve, so that adaptive steps are the same for all
            log_q = flow.log_prob(_images(phi, maps)).unflatten(0, (-1, n_samples))
        errors |= dict(zip(maps, (log_q[1:] - log_q[0]).abs().amax(1).tolist(), strict=True))
    return errors


def dense_jacobian(function: Callable[[Tensor], Tensor], phi: Tensor) -> Tensor:
    """`d function(phi)_x / d phi_y` of each configuration, `(batch, V, V)`, row by row."""
    with torch.enable_grad():
        leaf = as_leaf(phi)
        value = function(leaf).flatten(1)
        rows = [
            torch.autograd.grad(value[:, x].sum(), leaf, retain_graph=True, allow_unused=True)[0]
            for x in range(value.shape[1])
        ]
    return torch.stack([torch.zeros_like(phi) if r is None else r for r in rows], 1).flatten(2)


def _parts(maps: dict[str, Element]) -> Iterator[dict[str, Element]]:
    """A few maps at a time: on angles there are as many as sites."""
    names = list(maps)
    for start in range(0, len(names), 32):
        yield {name: maps[name] for name in names[start : start + 32]}


def _images(phi: Tensor, maps: dict[str, Element]) -> Tensor:
    """The configurations, then what each map makes of them, in one batch."""
    return torch.cat([phi, *(element(phi) for element in maps.values())])


def _violations(
    field: VectorField, phi: Tensor, times: tuple[float, ...], maps: dict[str, Element]
) -> dict[str, float]:
    worst = dict.fromkeys(maps, 0.0)
    tiny = torch.finfo(phi.dtype).tiny
    for t, part in itertools.product(times, _parts(maps)):
        with torch.no_grad():
            rates = field.velocity_and_divergence(_images(phi, part), t)
        (velocity, *moved), (divergence, *changed) = (rate.unflatten(0, (-1, len(phi))) for rate in rates)
        scale = velocity.abs().max().clamp(min=tiny)
        # A trace can vanish by cancellation between sites: compare on the scale of the velocity's volume.
        trace_scale = (divergence.abs().max() + scale * phi[0].numel()).clamp(min=tiny)
        for (name, element), v, div in zip(part.items(), moved, changed, strict=True):
            error = (v - on_velocities(element)(velocity)).abs().max() / scale
            trace_error = (div - divergence).abs().max() / trace_scale
            worst[name] = _worse(worst[name], _worse(float(error), float(trace_error)))
    return worst


def _worse(a: float, b: float) -> float:
    """The larger violation, where NaN is the largest of all."""
    return b if b != b or b > a else a


def _elements(group: Group, n_random: int) -> dict[str, Element]:
    generator = torch.Generator().manual_seed(0)
    named = group.generators()
    for n in range(n_random):
        element = group.random_element(generator)
        named[f"random element {n}: {element}"] = element
    return named


def _group_of(field: VectorField, space: Space | None, group: Group | None) -> Group:
    group = field.group if group is None else group
    if space is not None and space != field.space:
        raise ValueError(
            f"The field lives on {field.space.kind} {field.space.shape}, the test asks for {space.shape}."
        )
    return group


def _dtype_and_device(module: nn.Module) -> tuple[torch.dtype, torch.device]:
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype, tensor.device
    return torch.get_default_dtype(), torch.device("cpu")


def configurations(module: nn.Module, space: Space, seed: int = 0) -> Tensor:
    """Three random configurations in the dtype and on the device of the module."""
    generator = torch.Generator().manual_seed(seed)
    dtype, device = _dtype_and_device(module)
    noise = torch.randn((3, *space.shape), generator=generator, dtype=torch.float64)
    return noise.to(device, dtype)


def noise_like(flow: Flow, n_samples: int, seed: int) -> Tensor:
    """Samples of the flow's prior, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((n_samples, *flow.prior.event_shape), generator=generator, dtype=torch.float64)
    return flow.prior.colour(noise.to(flow.device, flow.dtype)).detach()


def tolerance_of(module: nn.Module, factor: float, given: float | None = None) -> float:
    """The given tolerance, or a multiple of what the dtype of the module allows."""
    return factor * TOLERANCE[_dtype_and_device(module)[0]] if given is None else given


def refuse_zero(field: VectorField) -> None:
    """Raise an AssertionError if the field is zero everywhere, which obeys every law."""
    phi = configurations(field, field.space)
    with torch.no_grad():
        if not any(bool(field.velocity(phi, t).any()) for t in TIMES):
            raise AssertionError(
                f"{type(field).__name__} is zero everywhere, which obeys every law. "
                "Give it weights first: equiflow.testing.randomise(field)."
            )


def _demand(module: nn.Module, law: str, error: float, tolerance: float) -> None:
    if not error <= tolerance:
        raise AssertionError(f"{type(module).__name__}: {law} is {error:.1e}, larger than {tolerance:.0e}.")
