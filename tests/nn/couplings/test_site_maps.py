"""Maps of a site: increasing, invertible, odd, with exact slopes."""

from __future__ import annotations

import pytest
import torch

from equiflow.flows import AffineMap, CouplingFlow, SplineMap
from equiflow.theories.base.lattice import Lattice
from tests.support.coupling_flows import (
    DENSE,
    generator,
    largest,
)
from tests.support.strategies import needs


@pytest.mark.parametrize("n_bins", [None, *(pytest.param(n, marks=needs("zuko")) for n in (2, 5, 8))])
@pytest.mark.parametrize("scale", [0.5, 20.0])
def test_site_maps_are_increasing_invertible_and_odd(n_bins, scale):
    site_map = AffineMap() if n_bins is None else SplineMap(n_bins=n_bins, bound=2.0)
    x = (3 * torch.randn(50, 40, generator=generator())).requires_grad_()
    even = scale * torch.randn(50, site_map.n_even, 40, generator=generator(1))
    odd = scale * torch.randn(50, site_map.n_odd, 40, generator=generator(2))
    moved, log_slope = site_map.forward(x, even, odd)
    (slope,) = torch.autograd.grad(moved.sum(), x)
    assert largest(slope.log() - log_slope) < DENSE
    back, back_log_slope = site_map.inverse(moved, even, odd)
    assert largest(back - x) < DENSE
    assert largest(back_log_slope + log_slope) < DENSE
    mirrored, mirrored_log_slope = site_map.forward(-x, even, -odd)
    assert largest(mirrored + moved) < DENSE
    assert largest(mirrored_log_slope - log_slope) < DENSE
    assert largest(site_map.forward(-x, even, odd)[0] + moved) > 1e-2  # odd must change sign too


@needs("zuko")
def test_a_spline_is_the_identity_outside_its_bound_with_a_continuous_slope():
    spline = SplineMap(n_bins=4, bound=2.0)
    x = torch.tensor([[-7.0, -2.0 - 1e-9, -2.0 + 1e-9, 0.3, 2.0 - 1e-9, 2.0 + 1e-9, 50.0]])
    even = torch.randn(1, spline.n_even, 7, generator=generator(1))
    odd = torch.randn(1, spline.n_odd, 7, generator=generator(2))
    moved, log_slope = spline.forward(x, even, odd)
    outside = x.abs() > 2
    assert torch.equal(moved[outside], x[outside])
    assert not bool(log_slope[outside].any())
    torch.testing.assert_close(moved[x.abs() > 1], x[x.abs() > 1], rtol=0, atol=1e-8)
    assert float(log_slope[x.abs() > 1].abs().max()) < 1e-6
    assert abs(float(log_slope[0, 3])) > 1e-2


def test_a_missing_zuko_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zuko", None)
    with pytest.raises(ImportError, match=r"needs zuko; install it by pip install '\.\[splines\]'"):
        SplineMap()
    CouplingFlow(Lattice((4, 4)))


@needs("zuko")
def test_wrong_splines_are_named():
    with pytest.raises(ValueError, match="n_bins must be an integer >= 2, got 1"):
        SplineMap(n_bins=1)
    with pytest.raises(ValueError, match="positive, finite bound; got 0"):
        SplineMap(bound=0)
    with pytest.raises(TypeError, match="bound must be of type float or int"):
        SplineMap(bound="5")
