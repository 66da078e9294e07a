"""Tableaus satisfy the order conditions exactly, and every formula is that of its tableau."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations_with_replacement

import pytest
import torch

from equiflow.ode.equal_steps import FORMULAS, Formula
from equiflow.ode.solver import FIXED_STEP_ORDER
from equiflow.ode.tableaus import TABLEAUS, Tableau

#: a rooted tree is the tuple of the subtrees at its root
Tree = tuple["Tree", ...]


def size(tree: Tree) -> int:
    return 1 + sum(map(size, tree))


def density(tree: Tree) -> int:
    """Return `gamma(t) = |t| prod gamma(subtrees)`."""
    product = size(tree)
    for branch in tree:
        product *= density(branch)
    return product


def trees(n: int) -> Iterator[Tree]:
    """Yield all rooted trees with n vertices."""
    smaller = [tree for m in range(1, n) for tree in trees(m)]
    for count in range(n):
        for branches in combinations_with_replacement(smaller, count):
            if size(branches) == n:
                yield branches


def stage_weights(tableau: Tableau, tree: Tree) -> list[Fraction]:
    """Return `Phi_i(t) = prod_{subtrees s} sum_j a_ij Phi_j(s)` for each stage i."""
    weights = [Fraction(1)] * tableau.n_stages
    for branch in tree:
        inner = stage_weights(tableau, branch)
        for i, row in enumerate(((), *tableau.rows)):
            weights[i] *= sum((a * b for a, b in zip(row, inner, strict=False)), Fraction(0))
    return weights


def holds(tableau: Tableau, tree: Tree) -> bool:
    """Return whether `sum_i b_i Phi_i(t) = 1 / gamma(t)`, the order condition of a tree (Butcher 1963)."""
    stages = zip(tableau.weights, stage_weights(tableau, tree), strict=True)
    return sum(b * phi for b, phi in stages) == Fraction(1, density(tree))


def test_there_are_as_many_rooted_trees_as_known():
    assert [len(list(trees(n))) for n in range(1, 7)] == [1, 1, 2, 4, 9, 20]


@pytest.mark.parametrize("method", TABLEAUS)
def test_the_order_conditions_hold_up_to_the_order_and_no_further(method):
    tableau = TABLEAUS[method]
    assert tableau.order == FIXED_STEP_ORDER[method]
    assert all(holds(tableau, tree) for n in range(1, tableau.order + 1) for tree in trees(n))
    assert not all(holds(tableau, tree) for tree in trees(tableau.order + 1))


@pytest.mark.parametrize("method", TABLEAUS)
def test_tableaus_are_explicit_and_consistent(method):
    tableau = TABLEAUS[method]
    assert len(tableau.nodes) == len(tableau.weights) == len(tableau.rows) + 1 == tableau.n_stages
    assert [len(row) for row in tableau.rows] == list(range(1, tableau.n_stages))
    assert tableau.nodes[0] == 0
    assert tableau.nodes[1:] == tuple(sum(row, Fraction(0)) for row in tableau.rows)


def test_a_misprint_breaks_an_order_condition():
    rk4 = TABLEAUS["classic_rk4"]
    misprinted = Tableau(4, rk4.nodes, (*rk4.rows[:2], (Fraction(0), Fraction(1), Fraction(0))), rk4.weights)
    assert not all(holds(misprinted, tree) for n in range(1, 5) for tree in trees(n))


@pytest.mark.parametrize("method", TABLEAUS)
def test_each_formula_is_that_of_its_tableau(method):
    def rates(t, y):
        return torch.sin(3 * y + t) + t**2

    t, end = torch.tensor(0.3), torch.tensor(0.55)
    y = torch.randn(50, generator=torch.Generator().manual_seed(0))
    increments = {name: Formula(tableau).increment(rates, t, end, y) for name, tableau in TABLEAUS.items()}
    found = FORMULAS[method].increment(rates, t, end, y)
    torch.testing.assert_close(found, increments.pop(method), rtol=1e-13, atol=1e-14)
    assert not any(torch.allclose(found, other, rtol=1e-9, atol=1e-9) for other in increments.values())
