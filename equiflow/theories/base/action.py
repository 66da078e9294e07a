"""The abstract action. The target density is `exp(-S[phi]) / Z`."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from equiflow.runtime.autograd import as_leaf
from equiflow.runtime.checks import check_type
from equiflow.theories.base.group import Group
from equiflow.theories.base.lattice import Lattice, lattice_of
from equiflow.theories.base.space import Space


class Action(nn.Module, ABC):
    """An action `S[phi]` of configurations; the abstract method is S, `grad` can be given in closed form."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        check_type(space, Space, "lattice", "Write Lattice((16, 16)).")
        self.space = space

    @property
    def lattice(self) -> Lattice:
        """The lattice of the fields."""
        return lattice_of(self.space)

    @abstractmethod
    def forward(self, phi: Tensor) -> Tensor:
        """`S[phi]` of each configuration.

        Args:
            phi: `(batch, *lattice)`.

        Returns:
            `(batch,)`.
        """

    def grad(self, phi: Tensor) -> Tensor:
        """`dS/dphi_x`, shaped like `phi`. By automatic differentiation unless a subclass knows better."""
        with torch.enable_grad():
            leaf = as_leaf(phi)
            (gradient,) = torch.autograd.grad(self(leaf).sum(), leaf)
        return gradient

    @torch.no_grad()
    def asymmetry(
        self, group: Group, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64
    ) -> dict[str, float]:
        """How much each generator of a group changes S of random fields, relative to the spread of S.

        A flow with a symmetry that its target lacks can come close to the target, but never reach it.

        Returns:
            Name of the generator -> `max |S(g phi) - S(phi)| / std S`.
        """
        generator = torch.Generator("cpu").manual_seed(0)
        noise = torch.randn((4, *self.space.shape), generator=generator, dtype=torch.float64, device="cpu")
        phi = noise.to(device, dtype)
        value = self(phi)
        spread = value.std().clamp(min=torch.finfo(dtype).tiny)
        return {
            name: float((self(element(phi)) - value).abs().max() / spread)
            for name, element in group.generators().items()
        }

    def coupling_grad(self, phi: Tensor, name: str) -> Tensor:
        """`dS/d coupling` of each configuration, `(batch,)`: `d log Z / d coupling = -<dS/d coupling>`.

        Raises:
            TypeError: if this kind of action does not say how it depends on its couplings.
        """
        raise TypeError(
            f"{type(self).__name__} has no derivative in its couplings; override `coupling_grad`."
        )

    def log_prob_unnormalised(self, phi: Tensor) -> Tensor:
        """`-S[phi]`, the log of the target density up to `-log Z`."""
        return -self(phi)
