from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equiflow.theories.base.lattice import Lattice
from equiflow.theories.base.point_groups import PointElement, hyperoctahedral, point_group
from equiflow.theories.base.symmetry import SymmetryGroup
from tests.support.strategies import POINT_GROUPS, configurations, groups, kernel_sizes, lattices, seeds


def image(element: PointElement, x: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return `R x` modulo the lattice, by definition."""
    turned = (s * x[a] for s, a in zip(element.signs, element.permutation, strict=True))
    return tuple(c % side for c, side in zip(turned, shape, strict=True))


def sites(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, shape)))


def box(shape: tuple[int, ...], kernel_size: int | tuple[int, ...] | None) -> set:
    """Return the offsets of a kernel, centred as well as its parity allows, modulo the lattice."""
    sizes = shape if kernel_size is None else kernel_size
    sizes = (sizes,) * len(shape) if isinstance(sizes, int) else sizes
    along = [range(-((n - 1) // 2), n // 2 + 1) for n in sizes]
    return {tuple(c % side for c, side in zip(x, shape, strict=True)) for x in itertools.product(*along)}


def classes(index: torch.Tensor) -> set[frozenset]:
    """Return the sets of offsets with the same orbit label, without the label -1."""
    found: dict[int, set] = {}
    for x in sites(tuple(index.shape)):
        if int(index[x]) >= 0:
            found.setdefault(int(index[x]), set()).add(x)
    return {frozenset(orbit) for orbit in found.values()}


def brute_force_orbits(group: SymmetryGroup, inside: set) -> set[frozenset]:
    shape = group.lattice.shape
    return {frozenset(image(g, x, shape) for g in group.point_elements) for x in inside}


@st.composite
def lattices_with_groups(draw, **options):
    return draw(groups(draw(lattices(**options))))


@pytest.mark.parametrize(
    ("shape", "name", "order"),
    [
        ((5,), "full", 2),
        ((5,), "rotations", 1),
        ((4, 4), "full", 8),
        ((4, 4), "D4", 8),
        ((4, 4), "C4", 4),
        ((4, 4), "D2", 4),
        ((4, 4), "C2", 2),
        ((4, 4), "trivial", 1),
        ((4, 6), "full", 4),
        ((4, 6), "rotations", 2),
        ((4, 6), "inversion", 2),
        ((3, 3, 3), "Oh", 48),
        ((3, 3, 3), "O", 24),
        ((3, 3, 4), "full", 16),
        ((2, 3, 4), "full", 8),
        ((2, 3, 4), "D2h", 8),
        ((2, 2, 2, 2), "full", 384),
        ((2, 2, 2, 2), "rotations", 192),
        ((3, 2, 3, 2), "full", 64),
    ],
)
def test_group_order(shape, name, order):
    assert len(set(point_group(Lattice(shape), name))) == order


@given(lattices(max_dim=3), st.sampled_from(POINT_GROUPS))
def test_point_group_is_closed_under_products_and_inverses(lattice, name):
    elements = set(point_group(lattice, name))
    identity = PointElement(tuple(range(lattice.dim)), (1,) * lattice.dim)
    assert identity in elements
    for g in elements:
        row = {g @ h for h in elements}
        assert row == elements
        assert identity in row


def test_closure_fails_without_one_element():
    elements = set(hyperoctahedral(2)) - {PointElement((1, 0), (1, -1))}
    assert any({g @ h for h in elements} != elements for g in elements)


@given(lattices(max_dim=4), st.data())
def test_action_is_a_homomorphism(lattice, data):
    g, h = (data.draw(st.sampled_from(point_group(lattice))) for _ in range(2))
    phi = configurations(lattice)
    assert torch.equal(g(h(phi)), (g @ h)(phi))


def test_homomorphism_fails_in_the_wrong_order():
    phi = configurations(Lattice((4, 4)))
    elements = hyperoctahedral(2)
    assert any(not torch.equal(g(h(phi)), (h @ g)(phi)) for g in elements for h in elements)


@given(lattices_with_groups(max_volume=30), seeds)
def test_transformation_moves_values_as_its_formula_says(group, seed):
    shape = group.lattice.shape
    g = group.random_element(torch.Generator().manual_seed(seed))
    phi = configurations(group.lattice, 1)[0]
    moved = g(phi)
    for x in sites(shape):
        turned = image(g.point, x, shape)
        target = tuple((c + a) % n for c, a, n in zip(turned, g.shift, shape, strict=True))
        assert moved[target] == g.sign * phi[x]


def test_plain_flip_is_not_the_reflection_about_site_0():
    reflect = PointElement((0,), (-1,))
    phi = torch.arange(4.0)[None]
    assert reflect(phi).tolist() == [[0.0, 3.0, 2.0, 1.0]]
    assert not torch.equal(phi.flip(-1), reflect(phi))


@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_determinant_is_that_of_the_matrix(dim):
    for g in hyperoctahedral(dim):
        matrix = np.diag(g.signs) @ np.eye(dim)[list(g.permutation)]
        assert g.determinant == round(np.linalg.det(matrix))


@given(lattices_with_groups(max_dim=3))
def test_generators_generate_the_group(group):
    reached = {str(g) for g in group.elements()}
    assert len(reached) == len(group.point_elements) * (2 if group.z2 else 1)
    named = group.generators()
    points = {g.point for g in named.values()}
    closure = points | {g @ h for g in points for h in points}
    assert closure == set(group.point_elements)
    assert {g.shift for g in named.values()} >= {
        tuple(int(mu == nu) for nu in range(group.lattice.dim)) for mu in range(group.lattice.dim)
    }
    assert any(g.sign == -1 for g in named.values()) == group.z2


@given(lattices_with_groups(max_dim=3))
def test_random_elements_belong_to_the_group_and_repeat(group):
    first, again = (torch.Generator().manual_seed(1) for _ in range(2))
    for _ in range(10):
        g = group.random_element(first)
        assert g == group.random_element(again)
        assert g.point in group.point_elements
        assert all(0 <= a < n for a, n in zip(g.shift, group.lattice.shape, strict=True))
        assert g.sign == 1 or group.z2


def test_random_elements_reach_the_whole_group():
    group = SymmetryGroup(Lattice((2, 2)))
    generator = torch.Generator().manual_seed(0)
    drawn = {group.random_element(generator) for _ in range(1000)}
    assert len(drawn) == 8 * 4 * 2


@settings(max_examples=80)
@given(lattices(max_volume=40).flatmap(lambda lat: st.tuples(groups(lat), kernel_sizes(lat))))
def test_offset_orbits_are_the_brute_force_orbits_of_the_support(drawn):
    group, kernel_size = drawn
    orbits = group.offset_orbits(kernel_size)
    expected = brute_force_orbits(group, box(group.lattice.shape, kernel_size))
    assert classes(orbits.index) == expected
    assert sorted(orbits.multiplicity.tolist()) == sorted(map(len, expected))
    for label, size in enumerate(orbits.multiplicity.tolist()):
        assert int((orbits.index == label).sum()) == size
    assert len(orbits) == len(expected) == int(orbits.index.max()) + 1


@given(lattices().flatmap(lambda lat: st.tuples(groups(lat), kernel_sizes(lat))))
def test_offset_orbits_are_invariant(drawn):
    group, kernel_size = drawn
    index = group.offset_orbits(kernel_size).index
    assert all(torch.equal(g(index), index) for g in group.point_elements)


def test_an_even_kernel_centred_the_usual_way_is_not_invariant():
    lattice = Lattice((6, 6))
    naive = torch.zeros(lattice.shape, dtype=torch.bool)
    for x in box(lattice.shape, 4):
        naive[x] = True
    assert not all(torch.equal(g(naive), naive) for g in point_group(lattice))


@pytest.mark.parametrize(
    ("shape", "kernel_size", "n_offsets", "n_orbits"),
    [
        ((6, 6), 3, 9, 3),
        ((6, 6), 4, 25, 6),
        ((6, 6), None, 36, 10),
        ((5, 5), None, 25, 6),
        ((4, 6), 3, 9, 4),
        ((5, 5), (3, 1), 5, 2),
        ((1,), None, 1, 1),
    ],
)
def test_known_supports(shape, kernel_size, n_offsets, n_orbits):
    orbits = SymmetryGroup(Lattice(shape)).offset_orbits(kernel_size)
    assert (int(orbits.multiplicity.sum()), len(orbits)) == (n_offsets, n_orbits)


@pytest.mark.parametrize("point", POINT_GROUPS)
@given(lattice=lattices(max_volume=30))
def test_momentum_orbits_tie_images_and_opposite_momenta_only(point, lattice):
    group, shape = SymmetryGroup(lattice, point), lattice.shape
    inversion = PointElement(tuple(range(len(shape))), (-1,) * len(shape))
    tied = [h for g in group.point_elements for h in (g, inversion @ g)]
    expected = {frozenset(image(g, k, shape) for g in tied) for k in sites(shape)}
    orbits = group.momentum_orbits()
    assert classes(orbits.index) == expected
    counts = np.bincount(orbits.index.flatten().numpy())
    np.testing.assert_array_equal(orbits.multiplicity.numpy(), counts)


@given(lattices_with_groups())
def test_squared_momenta_are_constant_on_momentum_orbits(group):
    grids = np.meshgrid(*(2 * np.pi * np.arange(n) / n for n in group.lattice.shape), indexing="ij")
    squared = sum(2 - 2 * np.cos(p) for p in grids)
    index = group.momentum_orbits().index.numpy()
    for label in range(index.max() + 1):
        assert np.ptp(squared[index == label]) < 1e-12


def test_squared_momenta_are_not_constant_on_other_orbits():
    lattice = Lattice((4, 6))
    index = torch.arange(24).reshape(4, 6) // 2
    squared = lattice.squared_momenta()
    assert max(float(np.ptp(squared[index == label].numpy())) for label in range(12)) > 0.1


@pytest.mark.parametrize(
    ("shape", "name"), [((4, 6), "D4"), ((4, 6), "C4"), ((3, 3, 4), "Oh"), ((2, 3, 3), "O")]
)
def test_point_groups_that_the_sides_forbid_are_refused(shape, name):
    with pytest.raises(ValueError, match=f"does not have the point group {name}"):
        SymmetryGroup(Lattice(shape), name)


@pytest.mark.parametrize(("shape", "name"), [((4, 4), "Oh"), ((4,), "D4"), ((4, 4), "nonsense")])
def test_unknown_point_groups_are_refused_with_the_known_ones(shape, name):
    with pytest.raises(ValueError, match=f"Unknown point group '{name}'.*full, rotations"):
        SymmetryGroup(Lattice(shape), name)


@pytest.mark.parametrize("kernel_size", [0, -1, 5, (4, 7), (3,), (3, 3, 3), (0, 3)])
def test_kernels_that_do_not_fit_are_refused(kernel_size):
    with pytest.raises(ValueError, match="does not fit the lattice"):
        SymmetryGroup(Lattice((4, 6))).offset_orbits(kernel_size)


@pytest.mark.parametrize("kernel_size", [2.5, (2.5, 2.5)])
def test_kernels_that_are_no_counts_are_refused_by_name(kernel_size):
    with pytest.raises((TypeError, ValueError), match="kernel_size"):
        SymmetryGroup(Lattice((4, 6))).offset_orbits(kernel_size)


@pytest.mark.parametrize(
    ("shape", "point", "z2", "text"),
    [
        ((4, 4), "full", True, "translations x D4 x Z2"),
        ((4, 4), "rotations", False, "translations x C4"),
        ((4, 6), "full", True, "translations x D2 x Z2"),
        ((3, 3, 3), "full", True, "translations x Oh x Z2"),
        ((3, 3), "trivial", False, "translations"),
    ],
)
def test_groups_print_in_the_words_of_the_field(shape, point, z2, text):
    assert str(SymmetryGroup(Lattice(shape), point, z2)) == text
