"""Exact and estimated traces of a Jacobian J that is known only by its products `w -> J^T w`.

`dense_trace` is exact; `hutchinson` and `hutch_plus_plus` are estimates. All take a batch of Jacobians. The
estimates are unbiased, and so are their gradients. They are smooth in J if the probes are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

#: The product `w -> J^T w`, both `(batch, *lattice)`.
Product = Callable[[Tensor], Tensor]


def dense_trace(product: Product, probes: Tensor) -> Tensor:
    """Return the trace `sum_k m_k . J^T m_k`, exact if `J_xy` vanishes for all `x != y` in one probe.

    Args:
        product: see `Product`.
        probes: indicators `m_k` of sets of sites, `(probe, batch, *lattice)`. Each site is in one set, see
            `far_apart`.

    Returns:
        `(batch,)`.
    """
    return torch.stack([(product(m) * m).flatten(1).sum(1) for m in probes]).sum(0)


def far_apart(shape: Sequence[int], reach: Sequence[int] | None = None) -> Tensor:
    """Return sets of sites of a torus whose members do not reach each other.

    Each axis is cut into intervals longer than its reach. Sites at the same place within their intervals form
    a set. This gives about `prod_a (reach_a + 1)` sets, however large the lattice.

    Args:
        shape: number of sites per axis.
        reach: per axis, the largest distance at which two sites depend on each other; None for any distance.

    Returns:
        `(set, *shape)` bool. Each site is in exactly one set.
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
    """Return Hutchinson's estimate `mean_k eps_k . J^T eps_k` of `tr J` (arXiv:1810.01367).

    It is unbiased, because `E eps eps^T = 1`. Its variance is `sum_{x != y} (J_xy + J_yx)^2 / 2` divided by
    the number of probes.

    Args:
        product: see `Product`.
        probes: random signs `eps_k`, `(probe, batch, *lattice)`.

    Returns:
        `(batch,)`.
    """
    return torch.stack([(product(eps) * eps).flatten(1).sum(1) for eps in probes]).mean(0)


def hutch_plus_plus(product: Product, probes: Tensor) -> Tensor:
    """Return the Hutch++ estimate `tr Q^T A Q + mean_k g_k . P A P g_k` of `tr J` (arXiv:2010.09649).

    Here `A = J^T` and `P = 1 - Q Q^T`. The columns of Q span the image of half of the probes under A. The
    trace on that space is exact, and only the rest is estimated. The variance falls fast with the number of
    probes if the singular values of J fall fast. It vanishes if the rank of J is at most the number of
    columns.

    Q is treated as a constant by differentiation. The estimate is unbiased for any Q, so its gradients are
    unbiased, too.

    Args:
        product: see `Product`.
        probes: random signs, `(2 n, batch, *lattice)`: n of them for Q and n for the rest. 3 n products are
            taken.

    Returns:
        `(batch,)`.
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
