"""The abstract prior: the density from which a flow starts."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from equiflow.runtime.checks import check_type
from equiflow.runtime.options import RecordsOptions
from equiflow.runtime.precision import FIELD_DTYPES
from equiflow.runtime.randomness import check_draw, own_rows
from equiflow.theories.base.group import Group
from equiflow.theories.base.kind import group_on, kind_of, kinds
from equiflow.theories.base.lattice import Lattice, lattice_of
from equiflow.theories.base.space import Space

LOG_2PI = math.log(2 * math.pi)


class Prior(RecordsOptions, nn.Module, ABC):
    """A density on configurations that can be sampled by reparametrisation.

    A subclass defines `colour`, `log_prob` and `score`. It overrides `whiten` if it is not Gaussian.

    Args:
        space: of the configurations.
        group: symmetry of the density; by default the largest one of the space.

    Raises:
        TypeError: if `space` is not a `Space` or `group` is not a `Group`.
        ValueError: if the group acts on another space.
    """

    def __init__(self, space: Space, *, group: Group | None = None) -> None:
        super().__init__()
        check_type(space, Space, "space", "Write Lattice((16, 16)).")
        self.space = space
        self.group = group_on(space, group, "prior")
        # A prior without parameters needs a tensor that follows `.to(device, dtype)`.
        self.register_buffer("_anchor", torch.zeros((), dtype=torch.get_default_dtype()), False)

    _anchor: Tensor

    @property
    def lattice(self) -> Lattice:
        """The lattice of the fields; a TypeError if the configurations do not live on one."""
        return lattice_of(self.space)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the samples."""
        return self._anchor.dtype

    @property
    def device(self) -> torch.device:
        """Device of the samples."""
        return self._anchor.device

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one sample, `(*lattice)` or `(component, *lattice)`."""
        return self.space.shape

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the white noise behind one sample; that of the sample itself, unless overridden."""
        return self.event_shape

    def noise(self, n_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw white noise on the device and in the dtype of the prior.

        If several processes share the generator, this process gets its own rows. See `SharedGenerator`.

        Args:
            n_samples: number of samples, of all processes together.
            generator: source of randomness, on the prior's device; the global one by default.

        Returns:
            `(n_samples, *lattice)`.

        Raises:
            TypeError: if the prior is neither float32 nor float64, or `generator` is no generator.
            ValueError: if the prior is on the meta device.
        """
        if self.dtype not in FIELD_DTYPES:
            raise TypeError(
                f"The prior computes in {self.dtype}; expected torch.float32 or torch.float64. "
                "Convert the flow with .float() or .double()."
            )
        if self.device.type == "meta":
            raise ValueError("The prior lives on the meta device and has no values; move it to cpu or cuda.")
        check_draw(generator)
        noise = torch.randn(
            (n_samples, *self.noise_shape),
            generator=generator,
            dtype=self.dtype,
            device=self.device,
        )
        return own_rows(noise, generator)

    def rsample(self, n_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw samples that are differentiable in the parameters of the prior.

        Args:
            n_samples: number of samples.
            generator: source of randomness, see `noise`.

        Returns:
            `(n_samples, *lattice)`.
        """
        return self.colour(self.noise(n_samples, generator))

    @abstractmethod
    def colour(self, noise: Tensor) -> Tensor:
        """Turn white noise into samples of the prior, both `(batch, *lattice)`."""

    def whiten(self, z: Tensor) -> Tensor:
        """Return the noise that `colour` turns into `z`; here for Gaussians, `colour = Sigma^{1/2}`."""
        return self.colour(-self.score(z))

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Return the normalised `log q(z)`, `(batch,)`."""

    @abstractmethod
    def score(self, z: Tensor) -> Tensor:
        """Return `d log q / dz`, shaped like `z`."""

    def parameter_score(self, z: Tensor) -> Tensor:
        """Return `d log q(z) / d theta` of each sample; here by automatic differentiation.

        Args:
            z: samples, `(batch, *lattice)`.

        Returns:
            `(batch, parameter)`, the trained parameters flattened in the order of `parameters()`.
        """
        trained = [p for p in self.parameters() if p.requires_grad]
        rows = []
        for one in torch.split(z.detach(), 1) if trained else ():
            with torch.enable_grad():
                gradients = torch.autograd.grad(self.log_prob(one).sum(), trained)
            rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
        return torch.stack(rows) if rows else z.new_zeros(len(z), 0)

    def resized(self, lattice: Lattice) -> Prior:
        """Return the same density on another lattice, with the learned parameters carried over.

        Raises:
            ValueError: if the lattice has another number of dimensions or lacks the symmetry.
            TypeError: if this class of priors cannot carry its parameters over.
        """
        raise TypeError(f"{type(self).__name__} does not carry over to another lattice; override `resized`.")

    @classmethod
    def for_flow(cls, space: Space, group: Group) -> Prior:
        """Return the prior of this class that a flow on `space` starts from by default.

        Args:
            space: of the configurations.
            group: symmetry of the flow's vector field.

        Returns:
            The prior, with its default options.
        """
        return cls(space, group=group)

    def extra_repr(self) -> str:
        """Return what `repr` shows besides the modules."""
        return ", ".join(f"{name}={value}" for name, value in self.config().items())


def default_prior(space: Space, group: Group) -> Prior:
    """Return the prior that a flow starts from unless told otherwise.

    Args:
        space: of the configurations.
        group: symmetry of the flow's vector field.

    Returns:
        The first prior of the space's `Kind`, see `Prior.for_flow`.

    Raises:
        TypeError: if the kind of the space is not registered.
    """
    prior: Prior = kind_of(space).priors[0].for_flow(space, group)
    return prior


def known_priors() -> dict[str, type[Prior]]:
    """Return the classes of priors that a saved flow can name, by their names."""
    return {prior.__name__: prior for kind in kinds() for prior in kind.priors}
