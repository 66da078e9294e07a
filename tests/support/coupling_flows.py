"""Flows of layers on a checkerboard for tests, and copies of them with a planted mistake."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn

from equiflow.flows import AffineMap, CouplingFlow, SiteMap, SplineMap
from equiflow.testing import randomise
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.point_groups import PointElement
from equiflow.theories.base.symmetry import Transformation
from tests.support.strategies import configurations, needs, seeds

SHAPES = ((2,), (6,), (2, 4), (4, 4), (4, 6), (2, 2, 4), (2, 4, 2))
EXACT = 1e-12  # of sums and products
DENSE = 1e-10  # of splines, which may be as flat as 1e-3, and of dense Jacobians

#: name -> (kind of site map, Z2)
KINDS = {
    "real_nvp": (AffineMap, False),
    "z2 real_nvp": (AffineMap, True),
    "spline": (SplineMap, False),
    "z2 spline": (SplineMap, True),
}
marked = [
    pytest.param(name, marks=[needs("zuko")] if family is SplineMap else [])
    for name, (family, _) in KINDS.items()
]
kinds = pytest.mark.parametrize("kind", marked)
plain_kinds = pytest.mark.parametrize("kind", marked[::2])
z2_kinds = pytest.mark.parametrize("kind", marked[1::2])
drawn = settings(max_examples=5)


def make(kind: str, shape: tuple[int, ...] = (4, 4), *, seed: int = 0, **options: object) -> CouplingFlow:
    family, z2 = KINDS[kind]
    options = {"n_layers": 4, "hidden_channels": (3, 2)} | options
    site_map = family(n_bins=5, bound=3.0) if family is SplineMap else family()
    torch.manual_seed(seed)
    flow = CouplingFlow(Lattice(shape), **{"site_map": site_map, "z2": z2} | options).double()
    randomise(flow, scale=0.1, seed=seed)
    return flow


@st.composite
def options(draw: st.DrawFn, max_volume: int = 24) -> dict[str, object]:
    """Everything that `make` takes but the kind."""
    return {
        "shape": draw(st.sampled_from([s for s in SHAPES if math.prod(s) <= max_volume])),
        "seed": draw(seeds),
        "n_layers": draw(st.integers(2, 4)),
        "hidden_channels": draw(st.sampled_from([(2,), (3, 2), (1, 2, 1)])),
        "kernel_size": draw(st.sampled_from([3, 5])),
    }


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def largest(difference: Tensor) -> float:
    return float(difference.detach().abs().max())


def moved_apart(flow: CouplingFlow, element: Transformation) -> float:
    """`max |f(g z) - g f(z)|` and the change of log_det."""
    z = configurations(flow.lattice)
    with torch.no_grad():
        phi, log_det = flow.transform_and_log_det(z)
        other, other_log_det = flow.transform_and_log_det(element(z))
    return max(largest(other - element(phi)), largest(other_log_det - log_det))


def round_trip_error(flow: CouplingFlow) -> float:
    z = 2 * configurations(flow.lattice)  # reaches beyond the splines' bound
    with torch.no_grad():
        phi, log_det = flow.transform_and_log_det(z)
        back, back_log_det = flow.inverse_and_log_det(phi)
    return max(largest(back - z), largest(log_det + back_log_det))


class Wrong(SiteMap):
    """A site map with a mistake, for the laws to find."""

    def __init__(self, good: SiteMap, what: str) -> None:
        self.good, self.what = good, what
        self.n_even, self.n_odd = good.n_even, good.n_odd

    def forward(self, x: Tensor, even: Tensor, odd: Tensor) -> tuple[Tensor, Tensor]:
        if self.what == "ignores odd":
            odd = torch.zeros_like(odd)
        moved, log_slope = self.good.forward(x, even, odd)
        return moved, -log_slope if self.what == "sign of log_det" else log_slope

    def inverse(self, x: Tensor, even: Tensor, odd: Tensor) -> tuple[Tensor, Tensor]:
        if self.what == "inverse is forward":
            return self.good.forward(x, even, odd)
        moved, log_slope = self.good.inverse(x, even, odd)
        return moved, -log_slope if self.what == "sign of log_det" else log_slope


def with_wrong_map(flow: CouplingFlow, what: str) -> CouplingFlow:
    flow = copy.deepcopy(flow)
    for layer in flow.layers:
        layer.site_map = Wrong(layer.site_map, what)
    return flow


def with_overlap(flow: CouplingFlow) -> CouplingFlow:
    """A copy whose first layer reads a site that it moves."""
    flow = copy.deepcopy(flow)
    layer = flow.layers[0]
    layer._frozen.view(-1)[layer._active[0]] = True
    return flow


def with_bias(flow: CouplingFlow, where: str) -> CouplingFlow:
    """A copy with a bias in the odd part of a network."""
    flow = copy.deepcopy(flow)
    net = flow.layers[1].net
    layer = net.odd if where == "odd" else net.layers[0]
    layer.bias = nn.Parameter(torch.full((layer.out_channels,), 0.1))
    return flow


def translation(shift: tuple[int, ...]) -> Transformation:
    return Transformation(PointElement(tuple(range(len(shift))), (1,) * len(shift)), shift)
