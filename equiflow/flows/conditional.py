"""One flow for a range of couplings: the weights of a `ConditionalFlow` are polynomials in the couplings."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from equiflow.flows.checkpoints import SavedModule, load_weights
from equiflow.flows.cnf import EquivariantCNF
from equiflow.ode.solver import Solver
from equiflow.runtime.checks import check_count, check_type
from equiflow.theories.base.coupling_ranges import CouplingRanges
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.space import Space

M = TypeVar("M", bound=nn.Module)


class ConditionalFlow(SavedModule):
    r"""A continuous flow for every value of the couplings: `theta(c) = theta_0 + sum_k P_k(c) theta_k`.

    Every trained weight of a template, in its field or its prior, becomes a polynomial in the couplings. The
    `P_k` are the Chebyshev polynomials of the couplings scaled to `[-1, 1]`; for several couplings they are
    products of these up to a total degree. A flow has exact symmetry and an exact divergence whatever its
    weights are, so both hold at every coupling. `fit(conditional, family)` trains it. A flow with the
    couplings as inputs: arXiv:2207.00980.

    Args:
        template: the flow whose weights become polynomials. It is copied. Its weights are `theta_0`, and
            weights that are not trained stay as they are. All other `theta_k` start at zero.
        ranges: ranges of the couplings, for example `{"lam": (4.0, 6.0)}`, or a `CouplingRanges`.
        degree: largest total degree of the polynomials; 0 gives all couplings the same flow.

    Raises:
        TypeError: if the template is no `EquivariantCNF`.
        ValueError: for an empty range, or a template without trained weights.

    >>> conditional = ConditionalFlow(EquivariantCNF(Lattice((4, 4))), {"lam": (4.0, 6.0)})
    >>> flow = conditional.at(lam=5.0)  # an ordinary EquivariantCNF
    >>> flow.sample(8).shape
    torch.Size([8, 4, 4])
    """

    file_kind: ClassVar[str] = "conditional flow"

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
        #: `theta_k` of each trained weight for `k >= 1`, `(k, *weight)`; names have "/" instead of "."
        self.stacks = nn.ParameterDict({n.replace(".", "/"): stack for n, stack in stacks.items()})

    @property
    def space(self) -> Space:
        """The space of the configurations."""
        return self.template.space

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type in which the flow computes."""
        return self.template.dtype

    @property
    def device(self) -> torch.device:
        """Device on which the flow computes."""
        return self.template.device

    @property
    def training_solver(self) -> Solver:
        """See `Flow.training_solver`; the solver that suits the vector field of the template."""
        return self.template.training_solver

    @property
    def training_steps(self) -> int:
        """See `Flow.training_steps`."""
        return 600

    @property
    def training_batch_size(self) -> int:
        """See `Flow.training_batch_size`; several couplings share a batch."""
        return 128

    @property
    def learning_rate(self) -> float:
        """Learning rate of the template, at most 2e-2: the steps of the `theta_k` add up in a weight."""
        return min(self.template.learning_rate, 2e-2)

    def basis(self, **couplings: float) -> list[float]:
        """Return `P_k(c)` for every k; the first one is 1.

        Args:
            couplings: one value for each coupling.

        Raises:
            ValueError: for an unknown or missing coupling, or one outside of its range.
        """
        return _basis(self.couplings.normalised(couplings), self._powers)

    def modes(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return `theta_0`, `(*weight)`, and the other `theta_k`, `(k, *weight)`, by name of the weight."""
        weights = dict(self.template.named_parameters())
        names = {key.replace("/", "."): stack for key, stack in self.stacks.items()}
        return {name: (weights[name], stack) for name, stack in names.items()}

    def weights(self, **couplings: float) -> dict[str, Tensor]:
        """Return `theta(c)` by the name of the weight, differentiable in the `theta_k`.

        Args:
            couplings: one value for each coupling.

        Raises:
            ValueError: for an unknown or missing coupling, or one outside of its range.
        """
        _, *rest = self.basis(**couplings)
        return {name: zero + _combine(rest, stack) for name, (zero, stack) in self.modes().items()}

    @torch.no_grad()
    def at(self, **couplings: float) -> EquivariantCNF:
        """Return the flow at given couplings: an ordinary flow with weights of its own.

        `flow.about["couplings"]` names the couplings.

        Args:
            couplings: one value for each coupling.

        Raises:
            ValueError: for an unknown or missing coupling, or one outside of its range.
        """
        flow = copy.deepcopy(self.template)
        own = dict(flow.named_parameters())
        for name, weight in self.weights(**couplings).items():
            own[name].copy_(weight)
        flow.about = {**copy.deepcopy(self.about), "couplings": self.couplings.check(couplings)}
        return flow

    def sharing(self, **couplings: float) -> EquivariantCNF:
        """Return the flow at given couplings with its own trained weights, but sharing everything else.

        This is `at` for a single use, such as a step of training. Constants that the template has cached and
        functions that it has compiled are used again, and the template stays as it is. Moving or converting
        the result would change the shared parts, so take `at` for that.

        Args:
            couplings: one value for each coupling.

        Raises:
            ValueError: for an unknown or missing coupling, or one outside of its range.
        """
        zeros = {name: zero for name, (zero, _) in self.modes().items()}
        weights = self.weights(**couplings)
        return _with_parameters(
            self.template,
            {id(zero): nn.Parameter(weights[name].detach()) for name, zero in zeros.items()},
        )

    @torch.no_grad()
    def resized(self, lattice: Lattice) -> ConditionalFlow:
        """Return the flow on a lattice of another size; at every coupling it equals `at(...).resized`.

        The two are equal where weights carry over linearly, as all weights of this library do. Otherwise they
        are equal on average over a grid of couplings.

        Args:
            lattice: larger or smaller, of the same dimension.

        Raises:
            ValueError: if the lattice has another number of dimensions or lacks the symmetry.
            TypeError: if the field or the prior does not define how its weights carry over.
        """
        # Chebyshev polynomials are orthogonal on their nodes, so that a projection gives each theta_k.
        nodes = np.cos(np.pi * (np.arange(self.degree + 1) + 0.5) / (self.degree + 1))
        resized = ConditionalFlow(self.template.resized(lattice), self.couplings, degree=self.degree)
        modes = resized.modes()
        total = {name: torch.zeros_like(torch.cat([z[None], s])) for name, (z, s) in modes.items()}
        grid = list(itertools.product(nodes.tolist(), repeat=len(self.couplings.ranges)))
        for point in grid:
            flow = self.sharing(**self.couplings.denormalised(point))
            weights = dict(flow.resized(lattice).named_parameters())
            basis = _basis(point, self._powers)
            for name, of_mode in total.items():
                for k, (value, power) in enumerate(zip(basis, self._powers, strict=True)):
                    norm = 2 ** sum(map(bool, power)) / len(grid)
                    of_mode[k] += norm * value * weights[name]
        for name, (zero, stack) in modes.items():
            zero.copy_(total[name][0])
            stack.copy_(total[name][1:])
        return resized

    def to_dict(self) -> dict[str, Any]:
        """See `SavedModule.to_dict`."""
        return {
            "template": self.template.to_dict(),
            "ranges": {name: list(limits) for name, limits in self.couplings.ranges.items()},
            "degree": self.degree,
            "about": dict(self.about),
            "stacks": self.stacks.state_dict(),
        }

    @classmethod
    def from_dict(
        cls, content: dict[str, Any], *, device: torch.device | str = "cpu", **options: Any
    ) -> ConditionalFlow:
        """See `SavedModule.from_dict`; the options are those of the template."""
        template = EquivariantCNF.from_dict(content["template"], device=device, **options)
        for name, parameter in template.named_parameters():
            parameter.requires_grad_(name.replace(".", "/") in content["stacks"])
        flow = cls(template, content["ranges"], degree=content["degree"])
        load_weights(flow.stacks, content["stacks"])
        flow.about = dict(content["about"])
        return flow

    def extra_repr(self) -> str:
        """Return what `repr` shows besides the modules."""
        return f"{self.couplings}, degree={self.degree}"


def _with_parameters(module: M, parameters: Mapping[int, nn.Parameter]) -> M:
    """Return a module with other parameters, which shares everything else.

    Args:
        module: is left as it is.
        parameters: the new parameter by the `id` of the old one; parameters that are not listed are shared.
    """
    twins: dict[int, nn.Module] = {}  # A submodule that is used twice stays one module.

    def twin(part: nn.Module) -> nn.Module:
        if id(part) not in twins:
            twins[id(part)] = copied = copy.copy(part)
            old = part._parameters.items()
            copied._parameters = {name: parameters.get(id(weight), weight) for name, weight in old}
            copied._modules = {n: None if m is None else twin(m) for n, m in part._modules.items()}
        return twins[id(part)]

    copied = twin(module)
    assert isinstance(copied, type(module))
    return copied


def _powers(dim: int, degree: int) -> list[tuple[int, ...]]:
    """Return the degrees of each product of Chebyshev polynomials by total degree, the constant first."""
    every = itertools.product(range(degree + 1), repeat=dim)
    return sorted((p for p in every if sum(p) <= degree), key=lambda p: (sum(p), p))


def _basis(point: Sequence[float], powers: list[tuple[int, ...]]) -> list[float]:
    """Return `prod_i T_{n_i}(x_i)` for each tuple of degrees, at `x` in `[-1, 1]^dim`."""
    degree = max(map(max, powers))
    values = [_chebyshev(x, degree) for x in point]
    return [math.prod(row[n] for row, n in zip(values, power, strict=True)) for power in powers]


def _chebyshev(x: float, degree: int) -> list[float]:
    """Return `T_0(x) ... T_degree(x)` by the recurrence `T_n+1 = 2 x T_n - T_n-1`."""
    values = [1.0, x]
    while len(values) <= degree:
        values.append(values[-1] * (2 * x) - values[-2])
    return values


def _combine(basis: list[float], stack: Tensor) -> Tensor:
    """Return `sum_k P_k theta_k` over the first axis of `stack`."""
    combined: Tensor = torch.tensordot(stack.new_tensor(basis), stack, 1)
    return combined
