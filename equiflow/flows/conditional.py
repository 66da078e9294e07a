"""One flow for a range of couplings: every weight is a short polynomial in them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from equiflow.flows.checkpoints import load_weights
from equiflow.flows.cnf import EquivariantCNF
from equiflow.runtime.checks import check_count, check_type
from equiflow.runtime.storage import CheckpointError, load_safely, save_atomically
from equiflow.theories.base.coupling_ranges import CouplingRanges
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.space import Space


class ConditionalFlow(nn.Module):
    r"""A continuous flow for every value of the couplings: `theta(c) = theta_0 + sum_k P_k(c) theta_k`.

    Every trained weight of a template, be it of the field or of the prior, becomes a polynomial in the
    couplings: `P_k` are the Chebyshev polynomials of the couplings scaled to `[-1, 1]`, products of
    them up to a total degree where there are several. The laws of a flow hold for any weights, so
    they hold at every coupling: exact symmetry, exact divergence. `fit(conditional, family)` trains it. A
    flow with the couplings as inputs: arXiv:2207.00980.

    Args:
        template: the flow whose weights become polynomials. It is copied; its weights are `theta_0`
            and those that are not trained stay what they are. All other `theta_k` start at zero.
        ranges: of the couplings, for example `{"lam": (4.0, 6.0)}`, or a `CouplingRanges`.
        degree: largest total degree of the polynomials; 0 gives all couplings the same flow.

    Raises:
        ValueError: for an empty range, or a template without trained weights.

    >>> conditional = ConditionalFlow(EquivariantCNF(Lattice((4, 4))), {"lam": (4.0, 6.0)})
    >>> flow = conditional.at(lam=5.0)  # an ordinary EquivariantCNF
    >>> flow.sample(8).shape
    torch.Size([8, 4, 4])
    """

    def __init__(
        self,
        template: EquivariantCNF,
        ranges: Mapping[str, tuple[float, float]] | CouplingRanges,
        *,
        degree: int = 3,
    ) -> None:
        super().__init__()
        check_type(template, EquivariantCNF, "template")
        self.couplings = ranges if isinstance(ranges, CouplingRanges) else CouplingRanges(ranges)
        self.degree = check_count(degree, "degree", minimum=0)
        self.template = copy.deepcopy(template)
        self._powers = _powers(len(self.couplings.ranges), degree)
        trained = {n: p for n, p in self.template.named_parameters() if p.requires_grad}
        if not trained:
            raise ValueError("The template has no trained weights that could depend on the couplings.")
        stacks = {n: nn.Parameter(p.new_zeros(len(self._powers) - 1, *p.shape)) for n, p in trained.items()}
        #: `theta_k` of each trained weight for `k >= 1`, `(k, *weight)`, "/" in its name for "."
        self.stacks = nn.ParameterDict({n.replace(".", "/"): stack for n, stack in stacks.items()})
        #: what a file should say about the flow: plain values, saved and loaded with it
        self.about: dict[str, Any] = {}

    @property
    def space(self) -> Space:
        """Where the field lives."""
        return self.template.space

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type that the flow computes in."""
        return self.template.dtype

    @property
    def device(self) -> torch.device:
        """Device that the flow lives on."""
        return self.template.device

    @property
    def learning_rate(self) -> float:
        """That of the template, at most 2e-2, since the steps of the `theta_k` add up in a weight."""
        return min(self.template.learning_rate, 2e-2)

    def basis(self, **couplings: float) -> list[float]:
        """`P_k(c)` for every k; the first is 1.

        Raises:
            ValueError: for an unknown or missing coupling, or one outside of its range.
        """
        return _basis(self.couplings.normalised(couplings), self._powers)

    def modes(self) -> dict[str, tuple[Tensor, Tensor]]:
        """`theta_0`, `(*weight)`, and the other `theta_k`, `(k, *weight)`, by the name of the weight."""
        weights = dict(self.template.named_parameters())
        names = {key.replace("/", "."): stack for key, stack in self.stacks.items()}
        return {name: (weights[name], stack) for name, stack in names.items()}

    def weights(self, **couplings: float) -> dict[str, Tensor]:
        """`theta(c)` by name, differentiable in the `theta_k`."""
        _, *rest = self.basis(**couplings)
        return {name: zero + _combine(rest, stack) for name, (zero, stack) in self.modes().items()}

    def at(self, **couplings: float) -> EquivariantCNF:
        """The flow at given couplings: an ordinary one with weights of its own.

        `flow.about` says which couplings.

        Raises:
            ValueError: for an unknown or missing coupling, or one outside of its range.
        """
        with self.filled(**couplings) as filled:
            flow = copy.deepcopy(filled)
        flow.about = {**copy.deepcopy(self.about), "couplings": self.couplings.check(couplings)}
        return flow

    @contextmanager
    def filled(self, **couplings: float) -> Iterator[EquivariantCNF]:
        """The template, for a moment with its weights at given couplings: `at` without the copy.

        At the end the weights are `theta_0` again, to the bit.
        """
        weights = {name: weight.detach() for name, weight in self.weights(**couplings).items()}
        before = {name: zero.detach().clone() for name, (zero, _) in self.modes().items()}
        try:
            self._fill(weights)
            yield self.template
        finally:
            self._fill(before)

    @torch.no_grad()
    def _fill(self, weights: Mapping[str, Tensor]) -> None:
        for name, (zero, _) in self.modes().items():
            zero.copy_(weights[name])

    @torch.no_grad()
    def resized(self, lattice: Lattice) -> ConditionalFlow:
        """The flow on a lattice of another size, at every coupling what `at(...).resized` gives.

        Exactly so where weights carry over linearly, as they do in this library, and else on average
        over a grid of couplings.

        Raises:
            ValueError: if the lattice has another number of dimensions or lacks the symmetry.
            TypeError: if the field or the prior does not say how its weights carry over.
        """
        # Chebyshev polynomials are orthogonal on their nodes, so that a projection gives each theta_k.
        nodes = np.cos(np.pi * (np.arange(self.degree + 1) + 0.5) / (self.degree + 1))
        larger = ConditionalFlow(self.template.resized(lattice), self.couplings, degree=self.degree)
        modes = larger.modes()
        total = {name: torch.zeros_like(torch.cat([z[None], s])) for name, (z, s) in modes.items()}
        grid = list(itertools.product(nodes.tolist(), repeat=len(self.couplings.ranges)))
        for point in grid:
            with self.filled(**self.couplings.denormalised(point)) as filled:
                weights = dict(filled.resized(lattice).named_parameters())
            basis = _basis(list(point), self._powers)
            for name, of_mode in total.items():
                for k, (value, power) in enumerate(zip(basis, self._powers, strict=True)):
                    norm = 2 ** sum(map(bool, power)) / len(grid)
                    of_mode[k] += norm * value * weights[name]
        for name, (zero, stack) in modes.items():
            zero.copy_(total[name][0])
            stack.copy_(total[name][1:])
        return larger

    def save(self, path: str | Path) -> None:
        """Write the flow to one file of tensors and plain values; `load` rebuilds it."""
        content = {
            "kind": "conditional flow",
            "template": self.template.to_dict(),
            "ranges": {name: list(limits) for name, limits in self.couplings.ranges.items()},
            "degree": self.degree,
            "about": self.about,
            "stacks": self.stacks.state_dict(),
        }
        save_atomically(content, path)

    @classmethod
    def load(cls, path: str | Path, *, device: torch.device | str = "cpu", **options: Any) -> ConditionalFlow:
        """Rebuild a saved flow. No code is run by loading.

        Args:
            path: a file written by `save`.
            device: where the flow goes.
            options: `vector_field`, `prior` and `compile` of the template, see `EquivariantCNF.load`.

        Raises:
            CheckpointError: if the file is damaged, no conditional flow, or holds a field this
                library lacks.
        """
        content = load_safely(path, "conditional flow", map_location=device)
        try:
            template = EquivariantCNF.from_dict(content["template"], device=device, **options)
            for name, parameter in template.named_parameters():
                parameter.requires_grad_(name.replace(".", "/") in content["stacks"])
            flow = cls(template, content["ranges"], degree=content["degree"])
            load_weights(flow.stacks, content["stacks"])
            flow.about = dict(content["about"])
        except Exception as error:  # whatever a recipe that fits nothing can make constructors raise
            raise CheckpointError(f"{path} does not describe a conditional flow: {error}") from error
        return flow

    def extra_repr(self) -> str:
        """What `repr` shows besides the modules."""
        return f"{self.couplings}, degree={self.degree}"


def _powers(dim: int, degree: int) -> list[tuple[int, ...]]:
    """Degrees of each product of Chebyshev polynomials, by total degree; the constant comes first."""
    every = itertools.product(range(degree + 1), repeat=dim)
    return sorted((p for p in every if sum(p) <= degree), key=lambda p: (sum(p), p))


def _basis(point: list[float], powers: list[tuple[int, ...]]) -> list[float]:
    """`prod_i T_{n_i}(x_i)` for each tuple of degrees, at `x` in `[-1, 1]^dim`."""
    chebyshev = np.polynomial.chebyshev.chebvander(np.array(point), max(map(max, powers)))
    return [float(np.prod([row[n] for row, n in zip(chebyshev, power, strict=True)])) for power in powers]


def _combine(basis: list[float], stack: Tensor) -> Tensor:
    """`sum_k P_k theta_k` over the first axis of `stack`."""
    return torch.tensordot(stack.new_tensor(basis), stack, 1)
