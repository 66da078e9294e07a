"""A flow from coarse lattices to fine ones: `MultiscaleFlow`, one continuous flow for each scale."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from equiflow.flows.cnf import EquivariantCNF
from equiflow.flows.integrated import IntegratedFlow
from equiflow.flows.path import PathSample, PathStart
from equiflow.flows.scales import check_levels, lattices_of, log_det_of, log_normal, pass_on
from equiflow.nn.blocking import Blocking
from equiflow.ode.solver import Solver
from equiflow.runtime.checks import check_count, check_type
from equiflow.runtime.precision import full_precision, in_double
from equiflow.theories.base.group import Group
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.prior import LOG_2PI
from equiflow.theories.base.sublattice import SublatticeGroup
from equiflow.theories.base.symmetry import SymmetryGroup
from equiflow.theories.scalar.priors import StandardNormal
from equiflow.vector_fields import VectorField


class MultiscaleFlow(IntegratedFlow):
    r"""A hierarchy of continuous flows from a coarse lattice to fine ones, an inverse renormalisation group.

    On the coarsest lattice an `EquivariantCNF` draws a field. Each finer level adds the fluctuations that the
    lattice below it cannot hold, and carries both on by the flow of its own lattice:

        phi_l = F_l(C_l (E phi_{l+1} + z_l)),        phi_n = F_n(C_n z_n)

    E embeds the coarse fields orthogonally (`Blocking`), `z_l` is white noise in the complement of its
    image, `C_l` is the learned spectrum of the level's prior, and `F_l` integrates its vector field, by which
    the fluctuations come to depend on the coarse field and on each other. Every step is invertible, so
    log q is exact, and `coarsen` runs the renormalisation group: it returns the field of each level. The
    prior of the whole flow is white noise on the finest lattice; its parts in the images and complements of
    the embeddings are the latent fields of the scales.

    `F_l` respects all translations of its lattice, but E only those by an even number of sites. A hierarchy
    of n levels respects translations by `2^(n-1)` exactly, and all others as well as they have been learned;
    the property `group` says so.

    Train all levels together by `fit`, and go on to larger lattices by `resized`. Or train level by level:
    `refined` adds a level to a trained flow, and `flow.levels[:-1].requires_grad_(False)` keeps those below
    as they are. End with all levels together even then, because a theory on the coarse lattice is not what
    blocks of the fine one obey: its field shows the sites of its lattice, which no equivariant level can
    undo. Use a hierarchy where long wavelengths are hard, as for the two signs of a magnetisation near a
    critical point. Elsewhere one `EquivariantCNF` is simpler and has the larger group.

    Args:
        lattice: the finest lattice; its sides are multiples of `2^(n_levels - 1)`.
        point: name of the point group of every level, see `SymmetryGroup`.
        z2: whether every level is equivariant under phi -> -phi.
        n_levels: number of lattices; by default sides are halved down to 4, once at least.
        vector_field: makes the field of each level from its symmetry, such as
            `lambda group: PotentialField(group.lattice, group=group, n_ridges=32)`; by default that of
            `EquivariantCNF`.
        solver: how all levels integrate; by default that of `EquivariantCNF`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a side cannot be halved so often, or the lattice lacks the point group.

    References:
        Li and Wang, arXiv:1802.02840; coarse samples refined by continuous flows: arXiv:2412.12842; level by
        level at criticality: arXiv:2503.08918, 2604.10209.

    >>> flow = MultiscaleFlow(Lattice((8, 8)))
    >>> print(flow.group)
    translations by 2 x D4 x Z2
    >>> [tuple(phi.shape) for phi in flow.coarsen(flow.sample(3))]
    [(3, 8, 8), (3, 4, 4)]
    """

    def __init__(
        self,
        lattice: Lattice,
        *,
        point: str = "full",
        z2: bool = True,
        n_levels: int | None = None,
        vector_field: Callable[[SymmetryGroup], VectorField] | None = None,
        solver: Solver | None = None,
    ) -> None:
        check_type(lattice, Lattice, "lattice", "Write Lattice((16, 16)).")
        lattices = lattices_of(lattice, None if n_levels is None else check_count(n_levels, "n_levels"))
        levels = [_level(SymmetryGroup(on, point, z2), vector_field, solver) for on in lattices]
        for level in levels[1:]:
            pass_on(level)
        self._set_up(levels)

    @classmethod
    def from_levels(cls, levels: Sequence[EquivariantCNF]) -> MultiscaleFlow:
        """Return the hierarchy of given flows, whose priors become the spectra of their levels.

        Args:
            levels: from the coarsest lattice to the finest, each with sides twice as long as those before,
                and all with the same point group and Z2. They are not copied.

        Returns:
            The flow, with the solver of its finest level.

        Raises:
            TypeError: if a level is no `EquivariantCNF` on a lattice, or its prior not Gaussian.
            ValueError: if lattices or groups do not fit.
        """
        check_levels(levels)
        flow = cls.__new__(cls)
        flow._set_up(levels)
        return flow

    def _set_up(self, levels: Sequence[EquivariantCNF]) -> None:
        """Take over levels that fit together."""
        finest = levels[-1]
        super().__init__(finest.lattice, StandardNormal(finest.lattice).to(finest.device, finest.dtype))
        self.levels = nn.ModuleList(levels)
        self.solver = finest.solver
        self._blockings = [None, *(Blocking(level.lattice) for level in levels[1:])]
        group, step = finest.group, 2 ** (len(levels) - 1)
        assert isinstance(group, SymmetryGroup)
        coarse = SublatticeGroup(group.lattice, step, group.point, group.z2)
        #: the symmetry of the density
        self.group: Group = group if step == 1 else coarse

    @property
    def vector_fields(self) -> tuple[VectorField, ...]:
        """See `IntegratedFlow.vector_fields`."""
        return tuple(level.vector_field for level in self._levels())

    @property
    def learning_rate(self) -> float:
        """See `Flow.learning_rate`; a quarter of that of the finest level.

        What a level learns moves the starting points of those above it, so that at the rate of one
        level alone the training of several becomes erratic.
        """
        return self._levels()[-1].learning_rate / 4

    @property
    def training_steps(self) -> int:
        """See `Flow.training_steps`; that of the finest level."""
        return self._levels()[-1].training_steps

    @property
    def training_batch_size(self) -> int:
        """See `Flow.training_batch_size`; that of the finest level."""
        return self._levels()[-1].training_batch_size

    @property
    def training_solver(self) -> Solver:
        """See `Flow.training_solver`; that of the finest level."""
        return self._levels()[-1].training_solver

    def refined(self) -> MultiscaleFlow:
        """Return the flow with one more level, on the lattice with sides twice as long.

        The levels so far are copied. The new one starts from the finest among them, since near a critical
        point all steps between scales are alike; the second level of all starts untrained.

        >>> MultiscaleFlow(Lattice((4, 4)), n_levels=1).refined().sample(2).shape
        torch.Size([2, 8, 8])
        """
        levels = copy.deepcopy(self._levels())
        finest = levels[-1]
        lattice = Lattice(tuple(2 * side for side in self.lattice.shape))
        if len(levels) > 1:
            level = finest.resized(lattice)
        else:
            level = EquivariantCNF(lattice, group=finest.group.on(lattice)).to(self.device, self.dtype)
            pass_on(level)
        level.solver = self.solver
        return self.from_levels([*levels, level])

    def resized(self, lattice: Lattice) -> MultiscaleFlow:
        """Return a copy on a lattice of another size with as many levels, each carried over by itself.

        Args:
            lattice: larger or smaller, of the same dimension.

        Raises:
            ValueError: if a side cannot be halved as often, or the lattice lacks the symmetry.
            TypeError: if a vector field does not define how its weights carry over.
        """
        lattices = lattices_of(lattice, len(self.levels))
        return self.from_levels(
            [f._by(self.solver).resized(on) for f, on in zip(self._levels(), lattices, strict=True)]
        )

    @torch.no_grad()
    def coarsen(self, phi: Tensor) -> list[Tensor]:
        """Return the field of each level, from the finest lattice to the coarsest.

        Args:
            phi: configurations, `(batch, *lattice)`.

        Returns:
            `phi` itself, and `(batch, *lattice)` on each coarser lattice.
        """
        fields = [self._check_input(phi, "phi")]
        for level, blocking in reversed(list(self._steps())):
            if blocking is not None:
                start = level.solve(fields[-1], 1.0, 0.0, solver=self.solver).state[0]
                fields.append(blocking.restrict(level.prior.whiten(start)))
        return fields

    def inverse_and_log_det(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """See `Flow.inverse_and_log_det`."""
        self.demand_exact_trace()
        return self._inverse(self._check_input(phi, "phi"), self.solver, None)[:2]

    def log_prob_to_train(
        self, phi: Tensor, *, solver: Solver | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, int]:
        """See `Flow.log_prob_to_train`."""
        z, log_det, nfe = self._inverse(phi, solver or self.solver, generator)
        return self.prior.log_prob(z) + log_det, nfe

    @full_precision
    def rsample_path(
        self, n_samples: int, *, generator: torch.Generator | None = None, solver: Solver | None = None
    ) -> PathSample:
        """See `IntegratedFlow.rsample_path`; the kinetic energy is the sum of all levels'."""
        z = self.prior.noise(check_count(n_samples, "n_samples", minimum=0), generator)
        solver = solver or self.solver
        path: PathSample | None = None
        energy, nfe = z.new_zeros(len(z)), 0
        for (level, blocking), band in zip(self._steps(), self._bands(z), strict=True):
            noise, log_q, score = band, log_normal(band), -band
            if path is not None and blocking is not None:
                noise = blocking.prolong(path.phi) + band
                # The band has as many dimensions less as the coarse lattice has sites.
                log_q = path.log_q + log_q + 0.5 * blocking.coarse.volume * LOG_2PI
                score = blocking.prolong(path.score) - band
            prior = level.prior
            with torch.no_grad():
                # The spectrum is symmetric, so that scores become white as fields do.
                log_q, score = log_q - log_det_of(prior), prior.whiten(score)
            start = PathStart(prior.colour(noise), log_q, score)
            path = level.path_from(start, generator=generator, solver=solver)
            energy, nfe = energy + path.kinetic_energy, nfe + path.nfe
        assert path is not None
        return PathSample(path.phi, path.log_q, path.score, energy, nfe)

    def _transform_to_train(self, z: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._transform(self._check_input(z, "z"), generator)[:2]

    def _transform_and_count(self, z: Tensor) -> tuple[Tensor, Tensor, int]:
        self.demand_exact_trace()
        return self._transform(z, None)

    @full_precision
    def _transform(self, z: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor, int]:
        """Return `phi`, `log |det dphi/dz|` and the number of evaluations of vector fields."""
        phi, log_det, nfe = z, z.new_zeros(len(z)), 0
        for (level, blocking), band in zip(self._steps(), self._bands(z), strict=True):
            noise = band if blocking is None else blocking.prolong(phi) + band
            start = level.prior.colour(noise)
            solution = level.solve(start, 0.0, 1.0, solver=self.solver, generator=generator)
            phi, change = solution.state
            log_det, nfe = log_det + change + log_det_of(level.prior), nfe + solution.nfe
        return phi, log_det, nfe

    @full_precision
    def _inverse(
        self, phi: Tensor, solver: Solver, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, int]:
        """Return `z`, `log |det dz/dphi|` and the number of evaluations of vector fields."""
        bands: list[Tensor] = []
        log_det, nfe = phi.new_zeros(len(phi)), 0
        for level, blocking in reversed(list(self._steps())):
            solution = level.solve(phi, 1.0, 0.0, solver=solver, generator=generator)
            start, change = solution.state
            log_det, nfe = log_det + change - log_det_of(level.prior), nfe + solution.nfe
            noise = level.prior.whiten(start)
            if blocking is not None:
                phi = blocking.restrict(noise)
                noise = noise - blocking.prolong(phi)
            bands.append(noise)
        z = bands.pop()
        for (_, blocking), band in zip(list(self._steps())[1:], reversed(bands), strict=True):
            assert blocking is not None
            z = blocking.prolong(z) + band
        return z, log_det, nfe

    def _bands(self, z: Tensor) -> list[Tensor]:
        """Return the parts of white noise that belong to each level, from the coarsest to the finest."""
        bands = []
        for _, blocking in reversed(list(self._steps())):
            if blocking is None:
                bands.append(z)
            else:
                coarse = blocking.restrict(z)
                bands.append(z - blocking.prolong(coarse))
                z = coarse
        return bands[::-1]

    def _levels(self) -> list[EquivariantCNF]:
        """Return the levels, from the coarsest lattice to the finest."""
        return [level for level in self.levels if isinstance(level, EquivariantCNF)]

    def _steps(self) -> Iterator[tuple[EquivariantCNF, Blocking | None]]:
        """Yield each level with the embedding of the one below it, which the coarsest does not have."""
        return zip(self._levels(), self._blockings, strict=True)

    def _by(self, solver: Solver) -> MultiscaleFlow:
        """See `IntegratedFlow._by`."""
        flow = copy.copy(self)
        flow.solver = solver
        return flow

    def _reference(self, solver: Solver | None = None) -> MultiscaleFlow:
        """See `IntegratedFlow._reference`."""
        solver = solver or self.solver.refined()
        return self.from_levels([level._reference(solver) for level in in_double(self)._levels()])

    def recipe(self) -> dict[str, Any]:
        """See `Flow.recipe`."""
        levels = [level._by(self.solver).recipe() for level in self._levels()]
        return {"flow": type(self).__name__, "levels": levels}

    @classmethod
    def from_recipe(
        cls, recipe: dict[str, Any], *, levels: Sequence[EquivariantCNF] | None = None
    ) -> MultiscaleFlow:
        """See `Flow.from_recipe`.

        Args:
            recipe: what `recipe` returned.
            levels: instances, for vector fields of your own.

        Returns:
            The flow with fresh weights.
        """
        return cls.from_levels(
            [EquivariantCNF.from_recipe(level) for level in recipe["levels"]] if levels is None else levels
        )

    def extra_repr(self) -> str:
        """Return what `repr` shows besides the modules."""
        return f"lattice={self.lattice.shape}, group={self.group}, solver={self.solver}"


def _level(
    group: SymmetryGroup, vector_field: Callable[[SymmetryGroup], VectorField] | None, solver: Solver | None
) -> EquivariantCNF:
    """Return an untrained level of a symmetry."""
    if isinstance(vector_field, VectorField):
        raise TypeError("vector_field must make a field for each level: lambda group: PotentialField(...)")
    field = None if vector_field is None else vector_field(group)
    return EquivariantCNF(group.lattice, group=group, vector_field=field, solver=solver)
