"""The trace of a Jacobian J that is known by its products `w -> J^T w` alone: exact, or estimated.

All take a batch of Jacobians at once. The estimates are unbiased in the value and in its gradients, and
smooth in J as long as their probes stay the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

#: `w -> J^T w`, both `(batch, *lattice)`
Product = Callable[[Tensor], Tensor]


def dense_trace(product: Product, probes: Tensor) -> Tensor:
    """`sum_k m_k . J^T m_k`, exact if `J_xy` vanishes for all `x != y` of one probe; `(batch,)`.

    Args:
        product: see `Product`.
        probes: 1 at some sites and 0 elsewhere, each site in one of them: `(probe, batch, *lattice)`, see
            `far_apart`.
    """
    return torch.stack([(product(m) * m).flatten(1).sum(1) for m in probes]).sum(0)


def far_apart(shape: Sequence[int], reach: Sequence[int] | None = None) -> Tensor:
    """Sets of sites of a torus that do not reach each other, `(set, *shape)` bool; one set has each site.

    Each axis is cut into intervals longer than its reach, and sites at the same place of theirs make a set:
    about `prod_a (reach_a + 1)` sets, however large the lattice.

    Args:
        shape: sites per axis.
        reach: per axis, the largest distance at which two sites are coupled; `None` for any.
    """
    places = []
    for side, far in zip(shape, shape if reach is None else reach, strict=True):
        n = max(1, side // (far + 1))
        lengths = [side // n + (i < side % n) for i in range(n)]
        places.append(torch.cat([torch.arange(length) for length in lengths]))
    label = torch.zeros((), dtype=torch.long)
    for place in places:
        label = label.unsqueeze(-1) * (int(place.max()) + 1) + place
    return torch.stack([label == n for n in range(int(label.max()) + 1)])


def hutchinson(product: Product, probes: Tensor) -> Tensor:
    """`mean_k eps_k . J^T eps_k`, which is `tr J` on average, as `E eps eps^T = 1` (arXiv:1810.01367).

    Args:
        product: see `Product`.
        probes: signs, `(probe, batch, *lattice)`.

    Returns:
        `(batch,)`; the variance is `sum_{x != y} (J_xy + J_yx)^2 / 2` over the number of probes.
    """
    return torch.stack([(product(eps) * eps).flatten(1).sum(1) for eps in probes]).mean(0)


def hutch_plus_plus(product: Product, probes: Tensor) -> Tensor:
    """`tr Q^T A Q + mean_k g_k . P A P g_k` with `A = J^T` and `P = 1 - Q Q^T` (arXiv:2010.09649).

    The columns of Q span the range of A on half of the probes, and the trace there is exact; only the
    rest is estimated. The variance falls faster with the number of probes the faster the singular
    values of J do; it vanishes for a Jacobian of lower rank than there are columns.

    Q is a constant of differentiation: the estimate is unbiased for any Q, so its gradients are, too.

    Args:
        product: see `Product`.
        probes: signs, `(2 n, batch, *lattice)`: n to find Q, n for the rest; 3 n products are taken.
    """
    sketch, noise = probes.chunk(2)
    site = sketch.shape[2:]
    range_of = torch.stack([product(eps).detach().flatten(1) for eps in sketch], 2)
    Q = torch.linalg.qr(range_of)[0]
    columns = Q.unbind(2)
    inside = sum((product(q.unflatten(1, site)).flatten(1) * q).sum(1) for q in columns)
    outside = noise.flatten(2).movedim(0, 2)
    outside = outside - Q @ (Q.mT @ outside)
    rest = [(product(g.unflatten(1, site)).flatten(1) * g).sum(1) for g in outside.unbind(2)]
    return inside + torch.stack(rest).mean(0)
