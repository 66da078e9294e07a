"""A stencil convolves as its definition says, and has the derivatives of what it computes."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from equiflow import Lattice
from equiflow.nn.kernels.stencil import Stencil, _Collect, _Gather


def small_stencil() -> Stencil:
    return Stencil(Lattice((3, 2)), torch.tensor([[0, 0], [0, 1], [-1, 0], [2, -1]]))  # the last two are one


def test_gathering_and_its_adjoint_have_each_other_s_derivatives():
    stencil = small_stencil()
    generator = torch.Generator().manual_seed(0)
    fields = torch.randn(2, 6, 2, generator=generator, requires_grad=True)
    spread = torch.randn(2, 4, 6, 2, generator=generator, requires_grad=True)
    for function, x in ((_Gather, fields), (_Collect, spread)):
        arguments = (x, stencil._behind, stencil._ahead)
        assert gradcheck(function.apply, arguments)
        assert gradgradcheck(function.apply, arguments)
    gathered = _Gather.apply(fields, stencil._behind, stencil._ahead)
    collected = _Collect.apply(spread, stencil._behind, stencil._ahead)
    torch.testing.assert_close((gathered * spread).sum(), (fields * collected).sum())


@pytest.mark.parametrize(("out", "into"), [(1, 1), (3, 2), (2, 3)])  # the last gathers what goes out
def test_a_stencil_convolves_as_it_is_written(out, into):
    stencil, offsets = small_stencil(), [(0, 0), (0, 1), (-1, 0), (2, -1)]
    generator = torch.Generator().manual_seed(0)
    kernels = torch.randn(out, into, 4, generator=generator)
    h, g = torch.randn(5, into, 3, 2, generator=generator), torch.randn(5, out, 3, 2, generator=generator)
    shifted = torch.stack([h.roll(offset, (-2, -1)) for offset in offsets], 2)
    found = stencil.convolve(h, kernels)
    torch.testing.assert_close(found, torch.einsum("ijo,bjo...->bi...", kernels, shifted))
    torch.testing.assert_close((g * found).sum(), (stencil.transpose(g, kernels) * h).sum())
