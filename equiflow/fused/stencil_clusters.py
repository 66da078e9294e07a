"""Cluster updates of the signs of scalar fields, chain by chain: bonds, then a walk along them."""

from __future__ import annotations

from typing import Any

import numpy as np

from equiflow.fused.just_in_time import jit
from equiflow.fused.stencil_noise import exponential, hashed, stream, two_uniform, uniform_64

U = np.uint64


@jit
def bind(phi: Any, ahead: Any, origin: Any, stride: Any, bound: Any) -> None:
    """Bind each link with probability `1 - exp(-4 phi_x phi_y)` if that is positive.

    Args:
        phi: of one chain, `(size,)`.
        ahead: number of the next site along each axis, `(d, size)`.
        origin: of the stream of the chain; link `(mu, x)` takes the number `mu size + x`.
        stride: of the stream.
        bound: where the answer goes, `(d, size)` uint8.
    """
    size = len(phi)
    zero, one, four = phi.dtype.type(0), phi.dtype.type(1), phi.dtype.type(4)
    for mu in range(len(ahead)):
        begin = origin + U(mu * size) * stride
        for x in range(size):
            strength = four * phi[x] * phi[ahead[mu, x]]
            bits = hashed(begin + U(x) * stride)
            uniform, _ = two_uniform(bits, bits, one)
            bound[mu, x] = uniform < one - exponential(-strength if strength > zero else zero)


@jit
def walk(seed_site: Any, ahead: Any, behind: Any, bound: Any, is_new: Any, stack: Any) -> Any:
    """Collect the cluster of a site at the front of `stack`, mark its sites as old, and return its size.

    Args:
        seed_site: the site.
        ahead: number of the next site along each axis, `(d, size)` int64.
        behind: number of the site before.
        bound: whether a link is bound, see `bind`.
        is_new: 1 for sites that are in no cluster yet, `(size,)` uint8.
        stack: where the sites of the cluster go, `(size,)` int64.

    Returns:
        The number of its sites, the first of `stack`.
    """
    stack[0], done, found = seed_site, 0, 1
    is_new[seed_site] = 0
    while done < found:
        x = stack[done]
        done += 1
        for mu in range(len(ahead)):
            y = ahead[mu, x]
            if bound[mu, x] and is_new[y]:
                is_new[y], stack[found] = 0, y
                found += 1
            y = behind[mu, x]
            if bound[mu, y] and is_new[y]:
                is_new[y], stack[found] = 0, y
                found += 1
    return found


@jit
def flip(
    phi: Any,
    out: Any,
    ahead: Any,
    behind: Any,
    is_single: Any,
    start: Any,
    stop: Any,
    seed: Any,
    stride: Any,
) -> None:
    """Flip clusters of chains `start ... stop - 1`: that of a random site, or each with probability 1/2.

    After the numbers of the links, the next one chooses the site; that at `d size + x` is the coin of the
    cluster whose first site is x.

    Args:
        phi: fields, `(batch, size)`.
        out: where the new fields go.
        ahead: number of the next site along each axis, `(d, size)` int64.
        behind: number of the site before.
        is_single: whether to flip one cluster.
        start: first chain.
        stop: the chain after the last one.
        seed: of the random numbers.
        stride: the same, odd.
    """
    dim, size = ahead.shape
    bound, is_new = np.empty((dim, size), np.uint8), np.empty(size, np.uint8)
    stack = np.empty(size, np.int64)
    for chain in range(start, stop):
        origin = stream(seed, stride, U(chain))
        bind(phi[chain], ahead, origin, stride, bound)
        is_new[:] = 1
        out[chain] = phi[chain]
        after = origin + U(dim * size) * stride
        if is_single:
            found = walk(int(uniform_64(hashed(after)) * size), ahead, behind, bound, is_new, stack)
            for k in range(found):
                out[chain, stack[k]] = -phi[chain, stack[k]]
        else:
            for x in range(size):
                if is_new[x]:
                    found = walk(x, ahead, behind, bound, is_new, stack)
                    if uniform_64(hashed(after + U(x) * stride)) < 0.5:
                        for k in range(found):
                            out[chain, stack[k]] = -phi[chain, stack[k]]
