"""Flows of layers on a checkerboard, such as RealNVP: the baselines that lattice flows are compared with."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from equiflow.flows.base import Flow
from equiflow.flows.descriptions import describe, name_in
from equiflow.flows.parts import UnknownPartError, rebuild
from equiflow.nn.couplings.checkerboard import CheckerboardLayer
from equiflow.nn.couplings.conditioners import ParityCNN, PeriodicCNN
from equiflow.nn.couplings.site_maps import AffineMap, SiteMap
from equiflow.nn.couplings.splines import SplineMap
from equiflow.runtime.checks import check_count, check_flag, check_type, plain
from equiflow.runtime.precision import full_precision
from equiflow.theories.base.checkerboard import CheckerboardGroup
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.prior import Prior, known_priors
from equiflow.theories.scalar.priors import StandardNormal

#: site maps that a saved flow can name
SITE_MAPS: dict[str, type[SiteMap]] = {"AffineMap": AffineMap, "SplineMap": SplineMap}


class CouplingFlow(Flow):
    r"""Layers that move the two sublattices of a checkerboard in turn; the log-density is exact to rounding.

    `x'_a = f(x_a; net(x_b))`, `log_det = sum_a log f'` (arXiv:1605.08803; on lattices arXiv:1904.12072). The
    defaults are the published ones of arXiv:2208.08903: 16 affine layers, networks with two hidden layers of
    8 channels, 3 x 3 kernels, white noise as prior. The mask breaks translations by one site, and the kernels
    break the point group. The property `group` is the symmetry that remains.

    Args:
        lattice: with even sides, one to three dimensions.
        site_map: f; by default `AffineMap()`, RealNVP. `SplineMap()` needs zuko.
        z2: whether the networks make the flow exactly equivariant under phi -> -phi.
        n_layers: number of layers, >= 2. One layer moves only half of the sites.
        hidden_channels: widths of the hidden layers of every network.
        kernel_size: odd extent of their kernels.
        prior: by default `StandardNormal`.

    Raises:
        TypeError: for an option of the wrong type.
        ValueError: for an odd side, four or more dimensions, or options out of range.

    >>> flow = CouplingFlow(Lattice((4, 4)), z2=True)
    >>> print(flow.group)
    even translations x Z2
    >>> phi, log_q = flow.sample_and_log_prob(8)
    >>> phi.shape, log_q.shape
    (torch.Size([8, 4, 4]), torch.Size([8]))
    """

    renamed: ClassVar = {"couplings": "layers"}

    def __init__(
        self,
        lattice: Lattice,
        *,
        site_map: SiteMap | None = None,
        z2: bool = False,
        n_layers: int = 16,
        hidden_channels: tuple[int, ...] = (8, 8),
        kernel_size: int = 3,
        prior: Prior | None = None,
    ) -> None:
        check_type(lattice, Lattice, "lattice", "Write Lattice((16, 16)).")
        super().__init__(lattice, StandardNormal(lattice) if prior is None else prior)
        self.site_map = AffineMap() if site_map is None else site_map
        check_type(self.site_map, SiteMap, "site_map", "Give an instance, such as AffineMap().")
        z2, hidden_channels, kernel_size = check_flag(z2, "z2"), plain(hidden_channels), plain(kernel_size)
        check_type(hidden_channels, (tuple, list), "hidden_channels", "Write (8, 8).")
        self.group = CheckerboardGroup(lattice, z2)
        self._config = {
            "z2": z2,
            "n_layers": check_count(n_layers, "n_layers", minimum=2),
            "hidden_channels": list(hidden_channels),
            "kernel_size": kernel_size,
        }
        network = ParityCNN if z2 else PeriodicCNN
        self.layers = nn.ModuleList(
            CheckerboardLayer(
                lattice,
                layer % 2,
                self.site_map,
                network(
                    lattice,
                    n_even=self.site_map.n_even,
                    n_odd=self.site_map.n_odd,
                    hidden_channels=tuple(hidden_channels),
                    kernel_size=kernel_size,
                ),
            )
            for layer in range(n_layers)
        )

    @full_precision
    def transform_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """See `Flow.transform_and_log_det`."""
        phi = self._check_input(z, "z")
        log_det = z.new_zeros(len(z))
        for layer in self.layers:
            phi, change = layer(phi)
            log_det = log_det + change
        return phi, log_det

    @full_precision
    def inverse_and_log_det(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """See `Flow.inverse_and_log_det`."""
        z = self._check_input(phi, "phi")
        log_det = phi.new_zeros(len(phi))
        for layer in reversed(self.layers):
            assert isinstance(layer, CheckerboardLayer)
            z, change = layer.inverse(z)
            log_det = log_det + change
        return z, log_det

    def recipe(self) -> dict[str, Any]:
        """See `Flow.recipe`."""
        return {
            "flow": type(self).__name__,
            "lattice": list(self.lattice.shape),
            "config": dict(self._config),
            "site_map": {"name": name_in(SITE_MAPS, type(self.site_map)), "config": self.site_map.config()},
            "prior": describe(self.prior, known_priors(), self.lattice),
        }

    @classmethod
    def from_recipe(
        cls, recipe: dict[str, Any], *, site_map: SiteMap | None = None, prior: Prior | None = None
    ) -> CouplingFlow:
        """See `Flow.from_recipe`.

        Args:
            recipe: what `recipe` returned.
            site_map: an instance, for a map of your own.
            prior: an instance, for a prior of your own.
        """
        lattice = Lattice(tuple(recipe["lattice"]))
        if site_map is None:
            site_map = _known_map(recipe["site_map"])
        prior = rebuild(recipe["prior"], known_priors(), lattice, given=prior, option="prior")
        return cls(lattice, site_map=site_map, prior=prior, **recipe["config"])

    def extra_repr(self) -> str:
        """Return what `repr` shows besides the modules."""
        return f"lattice={self.lattice.shape}, group={self.group}"


def _known_map(recipe: dict[str, Any]) -> SiteMap:
    """Return the site map of a recipe, or raise an `UnknownPartError` if the library lacks it."""
    if recipe["name"] not in SITE_MAPS:
        raise UnknownPartError(recipe["name"], "site_map={}()")
    return SITE_MAPS[recipe["name"]](**recipe["config"])
