"""Neural canonical transformations: `CanonicalFlow`, a chain of canonical layers.

The latent variables are independent oscillators with learned frequencies, so slow modes of motion are read
off a trained flow (arXiv:1910.00024).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from equiflow.flows.base import Flow
from equiflow.flows.descriptions import name_in
from equiflow.flows.oscillators import Oscillators
from equiflow.flows.parts import UnknownPartError, rebuild
from equiflow.flows.phase_space import PhaseSpace
from equiflow.flows.point_transformations import FieldTransformation, PointTransformation
from equiflow.flows.slow_modes import SlowModes, slow_modes_of, sorted_frequencies
from equiflow.nn.couplings.canonical import (
    CanonicalLayer,
    CouplingPointLayer,
    HamiltonianLayer,
    LinearCanonicalLayer,
    LinearPointLayer,
)
from equiflow.runtime.checks import check_type
from equiflow.runtime.precision import full_precision
from equiflow.theories.base.lattice import Lattice
from equiflow.vector_fields import known_fields

#: layers that a saved flow can name
LAYERS: dict[str, type[CanonicalLayer]] = {
    "CouplingPointLayer": CouplingPointLayer,
    "FieldTransformation": FieldTransformation,
    "HamiltonianLayer": HamiltonianLayer,
    "LinearCanonicalLayer": LinearCanonicalLayer,
    "LinearPointLayer": LinearPointLayer,
    "PointTransformation": PointTransformation,
}


class CanonicalFlow(Flow):
    r"""A canonical map from independent oscillators `(Q, P)` to a mechanical system `(q, p)`.

    The layers keep `dq ^ dp`, hence the volume: `log_det = 0`, and `log q(q, p)` is that of the oscillators
    at `(Q, P)`. Train the flow on a `Hamiltonian` by `fit`, with the objective `InversePathGradient`, or on
    trajectories by `fit_trajectories`. The learned frequencies say how slow each oscillator is.

    Of a linear flow the frequencies are those of the best harmonic approximation. Through nonlinear layers a
    slow oscillator becomes a collective coordinate. `SymplecticFlow` is the equivariant flow of this kind for
    fields.

    Args:
        lattice: its sites are the degrees of freedom; states are `(batch, 2, *lattice)`.
        layers: applied in turn to oscillators, the last one gives the physical state.
        prior: the oscillators; by default `Oscillators(lattice)`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if there are no layers, or a part lives on another lattice.

    >>> lattice = Lattice((4,))
    >>> flow = CanonicalFlow(lattice, [LinearPointLayer(lattice), HamiltonianLayer(lattice, n_features=8)])
    >>> state, log_q = flow.sample_and_log_prob(8)
    >>> state.shape, flow.latent_frequencies().shape
    (torch.Size([8, 2, 4]), torch.Size([4]))
    """

    prior: Oscillators
    how_to_give: ClassVar[str] = (
        "Give an instance, such as CanonicalFlow(lattice, [LinearPointLayer(lattice)])."
    )

    def __init__(
        self, lattice: Lattice, layers: Sequence[CanonicalLayer], *, prior: Oscillators | None = None
    ) -> None:
        prior = Oscillators(lattice) if prior is None else prior
        check_type(prior, Oscillators, "prior", "Write Oscillators(lattice, beta=1.0).")
        super().__init__(prior.space, prior)
        check_type(layers, (list, tuple, nn.ModuleList), "layers", "Write [LinearPointLayer(lattice)].")
        if not len(layers):
            raise ValueError("A flow needs at least one layer, got none; write [LinearPointLayer(lattice)].")
        for layer in layers:
            check_type(
                layer, CanonicalLayer, "a layer", "Give an instance, such as LinearPointLayer(lattice)."
            )
        owners: list[CanonicalLayer | PhaseSpace] = [prior.space, *layers]
        for part in owners:
            if part.lattice != lattice:
                raise ValueError(
                    f"A {type(part).__name__} of the flow lives on {part.lattice.shape}, the flow on "
                    f"{lattice.shape}. Build all parts from one Lattice."
                )
        self.layers = nn.ModuleList(layers)

    @full_precision
    def transform_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """See `Flow.transform_and_log_det`; states are `(batch, 2, *lattice)`, and `log_det = 0`."""
        q, p = self.prior.space.split(self._check_input(z, "z"))
        for layer in self.layers:
            q, p = layer(q, p)
        return self.prior.space.join(q, p), z.new_zeros(len(z))

    @full_precision
    def inverse_and_log_det(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """See `Flow.inverse_and_log_det`; states are `(batch, 2, *lattice)`, and `log_det = 0`."""
        q, p = self.prior.space.split(self._check_input(phi, "phi"))
        for layer in reversed(self.layers):
            assert isinstance(layer, CanonicalLayer)
            q, p = layer.inverse(q, p)
        return self.prior.space.join(q, p), phi.new_zeros(len(phi))

    def latent_frequencies(self) -> Tensor:
        """Return the learned frequencies of the oscillators, ascending, `(V,)`."""
        return sorted_frequencies(self.prior)

    def slow_modes(self, data: Tensor, n: int) -> SlowModes:
        """Return the slowest oscillators behind given states, see `SlowModes`.

        Args:
            data: states, `(batch, 2, *lattice)`.
            n: number of modes.

        Returns:
            The modes, slowest first.

        Raises:
            TypeError: if the states are no tensor of the flow's dtype, or n is no integer.
            ValueError: if the states have another shape, or there are fewer than n oscillators.
        """
        return slow_modes_of(self, data, n)

    def recipe(self) -> dict[str, Any]:
        """See `Flow.recipe`."""
        return {
            "flow": type(self).__name__,
            "lattice": list(self.lattice.shape),
            "layers": [_describe(layer) for layer in self.layers],
            "prior": self.prior.config(),
        }

    @classmethod
    def from_recipe(
        cls, recipe: dict[str, Any], *, layers: Sequence[CanonicalLayer] | None = None
    ) -> CanonicalFlow:
        """See `Flow.from_recipe`.

        Args:
            recipe: what `recipe` returned.
            layers: all layers as instances, if some are of your own.
        """
        lattice = Lattice(tuple(recipe["lattice"]))
        if layers is None:
            layers = [_layer_from(entry, lattice) for entry in recipe["layers"]]
        return cls(lattice, layers, prior=Oscillators(lattice, **recipe["prior"]))

    def extra_repr(self) -> str:
        """Return what `repr` shows besides the modules."""
        return f"lattice={self.lattice.shape}"


def _describe(layer: nn.Module) -> dict[str, Any]:
    """Return name and options of a layer, as plain values."""
    assert isinstance(layer, CanonicalLayer)
    return {"name": name_in(LAYERS, type(layer)), "config": layer.config()}


def _layer_from(entry: dict[str, Any], lattice: Lattice) -> CanonicalLayer:
    """Return the layer that `_describe` described, with fresh weights."""
    name, config = entry["name"], entry["config"]
    if name not in LAYERS:
        raise UnknownPartError(name, "layers=[{}(lattice), OtherLayer(lattice), ...]")
    if name == PointTransformation.__name__:
        recipe = config["bijection"]
        return PointTransformation(lattice, Flow._class_in(recipe).from_recipe(recipe))
    if name == FieldTransformation.__name__:
        field = rebuild(config["vector_field"], known_fields(), lattice)
        return FieldTransformation(lattice, field, n_steps=config["n_steps"])
    return LAYERS[name](lattice, **config)
