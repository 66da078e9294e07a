"""Kernels made of spherical harmonics, from e3nn (arXiv:2207.09453), which only this file imports.

`HarmonicKernels` are the kernels of `O3Field`, made of the functions in a `HarmonicBasis`. `harmonic_ladder`
builds harmonics degree by degree for particles.
"""

from __future__ import annotations

import itertools
from types import ModuleType

import torch
from torch import Tensor, nn

from equiflow.runtime.checks import check_count, check_type
from equiflow.runtime.constants import RoundedConstants
from equiflow.runtime.precision import default_dtype
from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.resizing import offsets_on
from equiflow.theories.base.symmetry import SymmetryGroup

#: A basis function that is smaller than this everywhere is zero up to rounding. Others are of order one.
ZERO_TOLERANCE = 1e-9


def import_e3nn() -> ModuleType:
    """Return the package e3nn, imported when it is first needed.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        import e3nn
        import e3nn.math
        import e3nn.o3
    except ImportError as failure:
        raise ImportError(
            "O3Field and ParticleField(l_max=2) need e3nn; install it with pip install '.[o3]'."
        ) from failure
    return e3nn


def harmonic_ladder(dim: int, l_max: int) -> list[Tensor]:
    r"""Return C with `Y_lm(x) = sum_{m'a} C_{mm'a} Y_{l-1,m'}(x) x_a`, for `l = 1 ... l_max`.

    Y_l are the solid harmonics of degree l, with `|Y_l(x)| = |x|^l`: 1, x, and in three dimensions higher
    ones. There C are Wigner's 3j symbols from e3nn, which combine `(l - 1) x 1` to l. The same symbols also
    combine l and l - 1 to a vector.

    Args:
        dim: dimension of space.
        l_max: highest degree.

    Returns:
        `(2l + 1, 2l - 1, 3)` for each l, in float64; `(dim, 1, dim)` for l = 1.

    Raises:
        ImportError: if `l_max > 1` and e3nn is not installed.
        ValueError: if `l_max > 1` and `dim` is not 3.
    """
    if l_max > 1 and dim != 3:
        raise ValueError(f"l_max = {l_max} needs 3 dimensions, got {dim}; expected l_max = 1 there.")
    ladder = [torch.eye(dim, dtype=torch.float64).unsqueeze(1)]
    harmonic = point = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    for degree in range(2, l_max + 1):
        step = import_e3nn().o3.wigner_3j(degree, degree - 1, 1, dtype=torch.float64)
        harmonic = torch.einsum("mna,n,a->m", step, harmonic, point)
        ladder.append(step / harmonic.norm())
        harmonic = harmonic / harmonic.norm()
    return ladder


def parse_irreps(irreps: str) -> dict[int, int]:
    """Return `{degree: multiplicity}` for irreps in e3nn's notation, sorted by degree.

    Raises:
        TypeError: if `irreps` is not a string.
        ValueError: if e3nn cannot read it, or an irrep has another parity than the harmonics of its degree.
    """
    check_type(irreps, str, "irreps", 'Write "8x0e + 4x1o + 2x2e".')
    try:
        parsed = import_e3nn().o3.Irreps(irreps)
    except ValueError as failure:
        raise ValueError(f'{failure}; expected irreps like "8x0e + 4x1o + 2x2e".') from failure
    count: dict[int, int] = {}
    for multiplicity, irrep in parsed:
        natural = "eo"[irrep.l % 2]
        if irrep.p != (-1) ** irrep.l:
            raise ValueError(
                f"irreps {irreps!r} ask for {irrep}, but harmonics of degree {irrep.l} have the parity "
                f"(-1)^{irrep.l}; write {irrep.l}{natural}."
            )
        count[irrep.l] = count.get(irrep.l, 0) + multiplicity
    return {degree: n for degree, n in sorted(count.items()) if n}


def harmonic_basis(
    group: SymmetryGroup,
    degree: int,
    kernel_size: int | tuple[int, ...] | None,
    n_radial: int | None = None,
) -> Tensor:
    r"""Return kernels `B_bm(x) = R_b(x) Y_lm(x / |x|)`, which transform by the irrep of degree l.

    `R_b` is constant on the orbits of the group, so `B_b(g x) = D(g) B_b(x)` for g in the group, as in tensor
    field networks (arXiv:1802.08219). An offset of half the side has two images, and the harmonic is averaged
    over them.

    Args:
        group: a group on a lattice of three dimensions.
        degree: l.
        kernel_size: offsets per axis, see `SymmetryGroup.offset_orbits`.
        n_radial: number of smooth functions of the distance; None for one indicator function on each orbit.

    Returns:
        `(basis, 2l + 1, *lattice)` in float64, without functions that vanish on the lattice.
    """
    orbits, lattice = group.offset_orbits(kernel_size), group.lattice
    images = _nearest_images(lattice)
    distance = images[0].norm(dim=-1)
    along = (-1,) + (1,) * lattice.dim
    if n_radial is None:
        inside = orbits.index == torch.arange(len(orbits)).view(along)
        radial = inside * orbits.multiplicity.double().rsqrt().view(along)
    else:
        reach = float(distance[orbits.index >= 0].max()) or 1.0
        with default_dtype(torch.float64):  # e3nn makes a constant in the default dtype
            smooth = import_e3nn().math.soft_one_hot_linspace(
                distance, 0.0, reach, n_radial, basis="smooth_finite", cutoff=False
            )
        radial = smooth.movedim(-1, 0) * (orbits.index >= 0) / len(orbits) ** 0.5
    harmonics = import_e3nn().o3.spherical_harmonics(degree, images, True, "norm").mean(0).movedim(-1, 0)
    basis = radial[:, None] * harmonics
    return basis[basis.flatten(1).abs().amax(1) > ZERO_TOLERANCE]


def _nearest_images(lattice: Lattice) -> Tensor:
    """Return the signed offset of each site from the origin to all nearest images, `(image, *lattice, 3)`."""
    index = torch.meshgrid(*(torch.arange(side) for side in lattice.shape), indexing="ij")
    shape = torch.tensor(lattice.shape)
    signed = torch.stack(index, -1)
    signed = torch.where(2 * signed > shape, signed - shape, signed)
    ties = torch.where(2 * signed == shape, -1, 1)
    flips = itertools.product((False, True), repeat=lattice.dim)
    return torch.stack([signed * torch.where(torch.tensor(flip), ties, 1) for flip in flips]).double()


class HarmonicBasis:
    """The basis functions of all degrees that a field uses, shared by its kernels.

    Args:
        group: a group on a lattice of three dimensions.
        irreps: hidden channels in e3nn's notation. Channels whose kernels all vanish are left out.
        kernel_size: offsets per axis.
        n_radial: see `harmonic_basis`.

    Raises:
        ValueError: if no channel is left.
    """

    def __init__(
        self,
        group: SymmetryGroup,
        irreps: str,
        kernel_size: int | tuple[int, ...] | None,
        n_radial: int | None = None,
    ) -> None:
        if n_radial is not None:
            check_count(n_radial, "n_radial", minimum=2)
        self.lattice = group.lattice
        found = {
            degree: (n, harmonic_basis(group, degree, kernel_size, n_radial))
            for degree, n in parse_irreps(irreps).items()
        }
        kept = {degree: (n, basis) for degree, (n, basis) in found.items() if len(basis)}
        if not kept:
            raise ValueError(
                f"No harmonic of {irreps!r} is different from zero on kernel_size {kernel_size} and lattice "
                f'{group.lattice.shape}; add scalars, as in "4x0e".'
            )
        self.multiplicities = {degree: n for degree, (n, _) in kept.items()}
        self.functions = {degree: basis for degree, (_, basis) in kept.items()}
        self._rounded = RoundedConstants()

    @property
    def sizes(self) -> list[int]:
        """The number of channels of each irrep."""
        return [2 * degree + 1 for degree, n in self.multiplicities.items() for _ in range(n)]

    @property
    def support(self) -> Tensor:
        """The offsets at which any function differs from zero, `(*lattice)` bool."""
        return torch.stack([(basis != 0).flatten(0, 1).any(0) for basis in self.functions.values()]).any(0)

    def like(self, weight: Tensor) -> list[Tensor]:
        """Return the functions of each degree, `(basis, (2l + 1) V)`, in the dtype of `weight`."""
        return self._rounded.like(weight, lambda: [basis.flatten(1) for basis in self.functions.values()])


class HarmonicKernels(nn.Module):
    """Kernels `K_im(x; t) = sum_jb T_j(t) w_jib B_bm(x)` for all channels of a field.

    Args:
        basis: the functions B.
        n_time_modes: size of the time basis.
        start: initial weights of the constant mode: `"zero"`, or `"spread"` for fixed random numbers, with
            which scalars start close to the field itself.
    """

    def __init__(self, basis: HarmonicBasis, n_time_modes: int, *, start: str) -> None:
        super().__init__()
        self.basis = basis
        generator = torch.Generator().manual_seed(0)
        weights = []
        for degree, n in basis.multiplicities.items():
            weight = torch.zeros(n_time_modes, n, len(basis.functions[degree]), dtype=torch.float64)
            if start == "spread":
                noise = torch.randn(weight[0].shape, generator=generator, dtype=torch.float64)
                weight[0] = noise * (0.3 if degree == 0 else 1.0)
                weight[0, :, 0] += float(degree == 0)
            weights.append(nn.Parameter(weight.to(torch.get_default_dtype())))
        self.weights = nn.ParameterList(weights)

    def forward(self, time_values: Tensor) -> Tensor:
        """Return the kernels at one time, `(channel, *lattice)`, from values of the time basis."""
        shape = self.basis.lattice.shape
        kernels = [
            (torch.tensordot(time_values, weight, 1) @ functions).view(-1, *shape)
            for weight, functions in zip(self.weights, self.basis.like(self.weights[0]), strict=True)
        ]
        return torch.cat(kernels)

    @torch.no_grad()
    def resize_from(self, other: HarmonicKernels) -> None:
        """Set the weights to the kernels of another lattice, as functions of the offset.

        Raises:
            ValueError: if this basis cannot represent the kernels.
        """
        if self.basis.multiplicities != other.basis.multiplicities:
            raise self._misfit(other)
        old = zip(other.basis.functions.values(), other.weights, strict=True)
        new = zip(self.basis.functions.values(), self.weights, strict=True)
        for (source, its_weight), (target, weight) in zip(old, new, strict=True):
            carried = offsets_on(source, other.basis.lattice, self.basis.lattice).flatten(1)
            kernels = torch.tensordot(its_weight.double().cpu(), carried, 1).flatten(0, 1).mT
            found = torch.linalg.lstsq(target.flatten(1).mT, kernels, driver="gelsd").solution
            missing = (target.flatten(1).mT @ found - kernels).abs().max()
            if missing > ZERO_TOLERANCE * kernels.abs().max().clamp(min=1.0):
                raise self._misfit(other)
            weight.copy_(found.mT.reshape(weight.shape))

    def _misfit(self, other: HarmonicKernels) -> ValueError:
        """Return the error for kernels that this basis cannot represent."""
        return ValueError(
            f"The kernels on {other.basis.lattice.shape} do not carry over to {self.basis.lattice.shape}: "
            "as functions of the offset they are cut there or wrap around. Use a kernel_size, odd, that is "
            "smaller than the sides of both."
        )
