"""The abstract action; the target density is `exp(-S[phi]) / Z`."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from equiflow.fused.stencil import Stencil
from equiflow.runtime.autograd import as_leaf, is_transformed
from equiflow.runtime.checks import check_type
from equiflow.runtime.compilation import is_compiling
from equiflow.runtime.precision import in_double, in_precision
from equiflow.runtime.randomness import check_draw
from equiflow.theories.base.action_growth import DISTANCES, growth_along_rays
from equiflow.theories.base.action_values import check_consistent, check_values, refuse_other_dtype
from equiflow.theories.base.group import Group
from equiflow.theories.base.lattice import Lattice, lattice_of
from equiflow.theories.base.space import Space


class NoDensityWarning(UserWarning):
    """`exp(-S)` seems to have no finite integral, so that averages and log Z mean nothing."""


class Action(nn.Module, ABC):
    """The action `S[phi]` of a theory; the target density is `exp(-S[phi]) / Z`.

    A subclass defines `forward`. It may override `grad` with a closed form and `initial` with a better start
    of Markov chains, and it overrides `coupling_grad` if its couplings can be varied. `action(phi)` calls
    `forward` and checks what goes in and comes out. `equiflow.testing.check_action` tests the rest.

    Args:
        space: of the configurations.

    Raises:
        TypeError: if `space` is not a `Space`.

    >>> class Quartic(Action):
    ...     def forward(self, phi):
    ...         return (phi**4).sum(self.lattice.axes)
    >>> Quartic(Lattice((2, 2)))(torch.ones(3, 2, 2))
    tensor([4., 4., 4.])
    """

    #: ends the message of an error where something else is given, see `check_type`
    how_to_give: ClassVar[str] = (
        "Derive a class from equiflow.Action, write S in its forward(self, phi), and give an instance, such "
        "as MyAction(lattice)."
    )

    #: size of the largest batch that `check_consistent` has seen
    _largest_batch: float = 0
    #: whether `check_density` has been passed
    _has_density: bool = False

    def __init__(self, space: Space) -> None:
        super().__init__()
        check_type(space, Space, "space", "Write Lattice((16, 16)).")
        self.space = space

    @property
    def lattice(self) -> Lattice:
        """The lattice of the fields; a TypeError if the configurations do not live on one."""
        return lattice_of(self.space)

    def __call__(self, phi: Tensor) -> Tensor:
        """Return `S[phi]` of each configuration: the result of `forward`, checked.

        The first call, and each with a larger batch than all before, computes two configurations again, to
        see that S depends on nothing else. On a curved space one must be of it, see `Space.check_finite`.

        Args:
            phi: `(batch, *lattice)`.

        Returns:
            `(batch,)`; +inf where the density is zero.

        Raises:
            TypeError: if `phi` or the result is no tensor of float32 or float64, or the result is less
                precise than `phi`.
            ValueError: if `phi` is not of this space, or the result is not one real number for each
                configuration on their device, see `check_values`. Also if it depends on the rest of the
                batch or on chance.
        """
        self.space.check(phi)
        try:
            value = check_values(super().__call__(phi), phi, type(self).__name__)
        except RuntimeError as error:
            refuse_other_dtype(error, phi, type(self).__name__)
            raise
        if len(phi) > self._largest_batch and not (is_compiling() or is_transformed()):
            if not self.space.is_flat:  # most arrays of this shape are no configurations
                # To single precision, since energies of such fields are computed in double.
                self.space.check_finite(phi[:1].detach().to(self.space.dtypes[0]))
            check_consistent(super().__call__, value, phi, type(self).__name__)
            self._largest_batch = len(phi)
        return value

    @abstractmethod
    def forward(self, phi: Tensor) -> Tensor:
        """Return `S[phi]` of each configuration.

        Args:
            phi: `(batch, *lattice)`.

        Returns:
            `(batch,)`.
        """

    def grad(self, phi: Tensor) -> Tensor:
        """Return `dS/dphi_x`; here by automatic differentiation.

        On a curved space it is the derivative along moves, `d/dv S[move(phi, v)]` at v = 0.

        Args:
            phi: `(batch, *lattice)`.

        Returns:
            Shaped like a velocity, `(batch, *tangent_shape)`.

        Raises:
            ValueError: if S does not depend on `phi` differentiably.
        """
        with torch.inference_mode(False), torch.enable_grad():
            leaf, cause = self._leaf(phi), None
            try:
                total = self(leaf if self.space.is_flat else self.space.move(phi, leaf)).sum()
            except RuntimeError as error:  # of .numpy() and of changes in place
                if "requires grad" not in str(error):
                    raise
                cause = error
            else:
                if total.requires_grad:
                    (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True)
                    if gradient is not None:
                        return gradient
        raise ValueError(
            f"The value of {type(self).__name__} does not depend on phi differentiably, so it has no "
            "gradient. Compute it by torch operations on phi itself, without .detach(), .item(), .numpy(), "
            "torch.no_grad() and changes in place; or override grad with dS/dphi."
        ) from cause

    def _leaf(self, phi: Tensor) -> Tensor:
        """Return what `grad` differentiates with respect to: phi itself, or velocities of zero."""
        if self.space.is_flat:
            return as_leaf(phi)
        return phi.real.new_zeros((len(phi), *self.space.tangent_shape)).requires_grad_()

    def stencil(self) -> Stencil | None:
        """Return S as links and a quartic potential, for fused kernels of samplers; None if it is not that.

        Override it together with `forward` and `grad`, if a `Stencil` can express the action.
        """
        return None

    @torch.no_grad()
    def asymmetry(
        self, group: Group, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64
    ) -> dict[str, float]:
        """Measure how much each generator of a group changes S of random fields.

        A flow with a symmetry that its target lacks can come close to the target, but never reach it.

        Args:
            group: the symmetry to test.
            device: where to compute.
            dtype: floating-point type to compute in.

        Returns:
            Name of the generator -> `max |S(g phi) - S(phi)| / std S`.

        Raises:
            TypeError: if `dtype` is neither float32 nor float64.
        """
        check_draw(None, dtype)
        generator = torch.Generator("cpu").manual_seed(0)
        phi = in_precision(self.space.probes(4, generator), dtype).to(device)
        value = self(phi)
        if not bool(value.isfinite().all()):  # noise may be beyond a hard wall
            phi = in_precision(self.initial(4, generator), dtype).to(device)
            value = self(phi)
        # Values that differ by rounding only have no spread.
        spread = value.std().clamp(min=1e3 * torch.finfo(dtype).eps * float(value.abs().max()))
        spread = spread.clamp(min=torch.finfo(dtype).tiny)
        return {
            name: float((self(element(phi)) - value).abs().max() / spread)
            for name, element in group.generators().items()
        }

    @torch.no_grad()
    def check_density(self, *, device: torch.device | str = "cpu", stacklevel: int = 2) -> None:
        """Warn if `exp(-S)` seems to have no finite integral, and raise if S falls without bound.

        Samplers and `fit` call this once for each action. S is followed along a few rays to large fields, see
        `growth_along_rays`. Angles and groups have no large fields. Where S cannot be evaluated, nothing is
        said.

        Args:
            device: where to compute.
            stacklevel: of the warning, 2 for the line that calls this.

        Raises:
            ValueError: if S falls along a ray.
        """
        if self._has_density or self.space.has_windings or not self.space.is_flat:
            return
        try:
            # `initial` of somebody may draw from the global generator, and numpy warn of an overflow.
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                double = in_double(self)
                base = self.initial(2, torch.Generator().manual_seed(0)).to(device, torch.float64)
                double(base)  # raises if S depends on the batch
                ray = growth_along_rays(double.forward, self.space, base[:1])
        except Exception:  # an action of somebody may raise anything: so will the calls that follow
            return
        if ray is not None and ray.falls:
            raise ValueError(
                f"S of {type(self).__name__} falls without bound along {ray.direction}: from {ray.near:.3g} "
                f"at size {DISTANCES[0]:.0e} to {ray.far:.3g} at {ray.distance:.0e}, so exp(-S) is no "
                "density. Look at the signs of its highest powers and kinetic terms, or return +inf beyond a "
                "wall."
            )
        self._has_density = True
        if ray is not None:
            warnings.warn(
                f"exp(-S) of {type(self).__name__} has no finite integral, so averages and log Z mean "
                f"nothing: along {ray.direction} S stays flat or rises slower than the logarithm, "
                f"from {ray.near:.6g} at size {DISTANCES[0]:.0e} to {ray.far:.6g} at {ray.distance:.0e}. "
                "Add a mass, a quartic term or a trap, or hold the flat direction fixed; angles live on "
                "Angles(lattice).",
                NoDensityWarning,
                stacklevel=stacklevel + 1,  # the decorator is a frame of its own
            )

    def coupling_grad(self, phi: Tensor, name: str) -> Tensor:
        """Return `dS/d coupling` of each configuration; `d log Z / d coupling = -<dS/d coupling>`.

        Args:
            phi: `(batch, *lattice)`.
            name: of the coupling.

        Returns:
            `(batch,)`.

        Raises:
            TypeError: if this class of actions has no derivative in its couplings.
            ValueError: if the action has no coupling of this name.
        """
        raise TypeError(
            f"{type(self).__name__} has no derivative in its couplings; override `coupling_grad`."
        )

    def initial(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """Draw fields from which Markov chains can start; here those of the space, see `Space.initial`.

        Override it if the action is infinite or stiff there.

        Args:
            n: number of fields.
            generator: source of randomness, on the device of the fields; the global one by default.
            device: of the fields.
            dtype: of the fields.

        Returns:
            `(n, *lattice)`.

        Raises:
            TypeError: if `generator` is no generator, or `dtype` neither float32 nor float64.
        """
        return self.space.initial(n, generator, device=device, dtype=dtype)

    def log_prob_unnormalised(self, phi: Tensor) -> Tensor:
        """Return `-S[phi]`, the log of the target density up to `-log Z`, `(batch,)`."""
        return -self(phi)
