"""Groups: closed forms against matrices, Haar sampling, rounding removed."""

from __future__ import annotations

import math

import pytest
import torch

from equiflow.theories.gauge.groups import SU2, SUN, lie_group
from equiflow.theories.gauge.matrices import cos_and_sinc, exp_su3, orthonormal
from tests.support.gauge import GROUPS, rng

MATRICES = GROUPS[1:]
SHAPE = (5, 7)


def vectors(lie, scale=1.0, seed=1):
    size = (lie.n_generators, *SHAPE)
    return scale * torch.randn(size, generator=rng(seed), dtype=torch.float64)


def matrix(lie, vector):
    """Return `sum_a c_a T_a` by the matrices of the generators, `(..., N, N)`."""
    return torch.einsum("a...,aij->...ij", vector.to(torch.complex128), lie.generators())


def coefficients(lie, v):
    """Return `-2 Re tr(T_a v)`, `(generator, ...)`."""
    return -2 * torch.einsum("aij,...ji->a...", lie.generators(), v).real


@pytest.mark.parametrize("name", [*MATRICES, "SU(5)"])
def test_generators_are_anti_hermitian_traceless_and_normalised(name):
    t = lie_group(name).generators()
    assert len(t) == lie_group(name).n_generators == len(t[0]) ** 2 - 1
    torch.testing.assert_close(t.mH, -t, rtol=0, atol=0)
    products = torch.einsum("aij,bji->ab", t, t)
    torch.testing.assert_close(products, -torch.eye(len(t), dtype=t.dtype) / 2, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", [*MATRICES, "SU(5)"])
def test_generators_add_up_to_the_casimir(name):
    lie = lie_group(name)
    squares = sum(t @ t for t in lie.generators())
    expected = -(lie.n**2 - 1) / (2 * lie.n) * torch.eye(lie.n, dtype=torch.complex128)
    torch.testing.assert_close(squares, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e-5, 1e-2, 1.0, 10.0])
def test_exponentials_are_those_of_matrices_and_stay_in_the_group(name, scale):
    lie = lie_group(name)
    vector = vectors(lie, scale)
    found = lie.elements(lie.exp(vector))
    torch.testing.assert_close(
        found, torch.linalg.matrix_exp(matrix(lie, vector)), rtol=0, atol=1e-14 * (1 + 5 * scale)
    )
    assert float(lie.defect(found).max()) < 1e-14 * (1 + 5 * scale)


def test_the_exponential_of_su3_is_exact_where_eigenvalues_coincide():
    lie = lie_group("SU(3)")
    # lambda_8 has a double eigenvalue: where closed forms with eigenvalues divide 0 by 0.
    for near in (0.0, 1e-15, 1e-10, 1e-8, 1e-5, 1e-3):
        for sign in (1.0, -1.0):
            vector = near * vectors(lie)
            vector[7] += sign * 2.0
            expected = torch.linalg.matrix_exp(matrix(lie, vector))
            torch.testing.assert_close(lie.elements(lie.exp(vector)), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0])
def test_exponentials_have_derivatives_everywhere(name, scale):
    lie = lie_group(name)
    vector = vectors(lie, scale)[:, :1, :2].requires_grad_()
    assert torch.autograd.gradcheck(lambda c: lie.exp(c), vector)


def test_float32_exponentials_are_exact_to_their_rounding():
    for name in MATRICES:
        lie = lie_group(name)
        vector = vectors(lie, 2.0)
        found = lie.elements(lie.exp(vector.float()))
        assert found.dtype == torch.complex64
        exact = lie.elements(lie.exp(vector)).to(torch.complex64)
        torch.testing.assert_close(found, exact, rtol=0, atol=3e-6)


@pytest.mark.parametrize("name", MATRICES)
def test_planes_compute_what_matrices_do(name):
    lie = lie_group(name)
    u, w, c, d = lie.random(SHAPE, rng(1)), lie.random(SHAPE, rng(2)), vectors(lie), vectors(lie, seed=2)
    a, b, v, x = lie.planes(u), lie.planes(w), matrix(lie, c), matrix(lie, d)
    pairs = [
        (lie.elements(a), u),
        (lie.elements(lie.product(a, b)), u @ w),
        (lie.elements(lie.dagger(a)), u.mH),
        (lie.elements(lie.conjugate(a)), u.conj()),
        (lie.elements(lie.identity(SHAPE, c)), torch.eye(lie.n, dtype=u.dtype).expand_as(u)),
        (lie.trace(a), torch.einsum("...ii", u).real / lie.n),
        (lie.slope(a), coefficients(lie, u) / (2 * lie.n)),
        (lie.adjoint(a, c), coefficients(lie, u @ v @ u.mH)),
        (lie.bracket(c, d), coefficients(lie, v @ x - x @ v)),
        (lie.conjugate_vector(c), coefficients(lie, v.conj())),
    ]
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_angles_compute_what_phases_do():
    lie = lie_group("U(1)")
    a, b, c = lie.random(SHAPE, rng(1)), lie.random(SHAPE, rng(2)), vectors(lie)
    phase = torch.exp(1j * a)
    torch.testing.assert_close(torch.exp(1j * lie.product(a, b)), phase * torch.exp(1j * b))
    torch.testing.assert_close(torch.exp(1j * lie.dagger(a)), phase.conj())
    torch.testing.assert_close(torch.exp(1j * lie.conjugate(a)), phase.conj())
    torch.testing.assert_close(lie.trace(a), phase.real)
    torch.testing.assert_close(lie.slope(a)[0], -(1j * phase).real)
    assert torch.equal(lie.adjoint(a, c), c)
    assert not lie.bracket(c, c).any()
    assert torch.equal(lie.exp(c), c[0])


@pytest.mark.parametrize("name", GROUPS)
def test_the_slope_is_the_derivative_of_the_trace(name):
    lie = lie_group(name)
    u = lie.planes(lie.random(SHAPE, rng(3)))
    for a in range(lie.n_generators):
        step = torch.zeros(lie.n_generators, *SHAPE, dtype=torch.float64)
        step[a] = 1e-5
        ahead, behind = (lie.trace(lie.product(lie.exp(s * step), u)) for s in (1, -1))
        torch.testing.assert_close(lie.slope(u)[a], -(ahead - behind) / 2e-5, rtol=0, atol=1e-9)


#: integrals of (Re tr U)^k for k = 1 ... 4: numbers of invariants in products of representations
MOMENTS = {
    "U(1)": (0, 1 / 2, 0, 3 / 8),
    "SU(2)": (0, 1, 0, 2),
    "SU(3)": (0, 1 / 2, 1 / 4, 3 / 4),
    "SU(4)": (0, 1 / 2, 0, 7 / 8),
}


def moment_errors(lie, u):
    """Return by how many standard errors each moment of the trace differs from the Haar measure's."""
    trace = lie.trace(u) * lie.n
    powers = [trace**k for k in range(1, 5)]
    exact = MOMENTS[str(lie)]
    return [
        abs(float(p.mean()) - m) / float(p.std()) * len(p) ** 0.5 for p, m in zip(powers, exact, strict=True)
    ]


@pytest.mark.parametrize("name", GROUPS)
def test_random_elements_have_the_moments_of_the_haar_measure(name):
    lie = lie_group(name)
    u = lie.planes(lie.random((100_000,), rng(4)))
    fixed = lie.planes(lie.random((), rng(5)))[..., None]
    for moved in (u, lie.product(u, lie.dagger(fixed).expand_as(u))):
        assert max(moment_errors(lie, moved)) < 4


@pytest.mark.parametrize("name", GROUPS)
def test_elements_of_another_measure_would_be_seen(name):
    lie = lie_group(name)
    # Elements exp(v) of normal v: symmetric, but too close to one; for SU(2), noise with heavy tails.
    vector = 2.0 * torch.randn(lie.n_generators, 100_000, generator=rng(4), dtype=torch.float64)
    assert max(moment_errors(lie, lie.exp(vector))) > 8
    if name == "SU(2)":
        noise = torch.randn(100_000, 4, generator=rng(4), dtype=torch.float64)
        assert max(moment_errors(lie, lie.planes(lie.from_noise(noise.sinh())))) > 8


def test_haar_noise_without_the_determinant_would_be_seen():
    noise = torch.randn(3, 3, 1000, dtype=torch.complex128, generator=rng(6))
    u = orthonormal(noise)
    assert float(lie_group("SU(3)").defect(u.movedim((0, 1), (-2, -1))).max()) < 1e-14
    u[2] *= 1j
    assert float(lie_group("SU(3)").defect(u.movedim((0, 1), (-2, -1))).min()) > 0.1


@pytest.mark.parametrize("name", GROUPS)
def test_rounding_is_removed_and_elements_stay(name):
    lie = lie_group(name)
    u = lie.random(SHAPE, rng(7))
    torch.testing.assert_close(lie.nearest(u), u, rtol=0, atol=2e-15)
    noise = torch.randn(u.shape, generator=rng(8), dtype=u.dtype)
    cleaned = lie.nearest(u + 1e-9 * noise)
    assert float(lie.defect(cleaned).max()) < 1e-15 * 5
    torch.testing.assert_close(cleaned, u, rtol=0, atol=2e-8)
    torch.testing.assert_close(lie.from_noise(lie.to_noise(u)), u, rtol=0, atol=1e-13)


def test_nearly_parallel_rows_become_orthogonal_too():
    rows = torch.randn(4, 4, 50, dtype=torch.complex128, generator=rng(9))
    rows[1:3] = rows[0] + 1e-9 * rows[1:3]
    for n in (3, 4):
        found = orthonormal(rows[:n, :n]).movedim((0, 1), (-2, -1))
        assert float(SUN(n).defect(found).max()) < 1e-14


def test_cosine_and_sine_are_smooth_across_the_switch_to_series():
    x = torch.logspace(-6, 0.5, 400, dtype=torch.float64)
    cosine, sinc = cos_and_sinc(x.square())
    torch.testing.assert_close(cosine, x.cos(), rtol=0, atol=3e-16)
    torch.testing.assert_close(sinc, x.sin() / x, rtol=0, atol=3e-16)


def test_the_exponential_of_su3_works_within_vmap():
    lie = lie_group("SU(3)")
    q = -1j * lie.matrix(vectors(lie, 5.0))
    c1 = vectors(lie, 5.0).square().sum(0) / 4
    mapped = torch.func.vmap(exp_su3, in_dims=(2, 0), out_dims=2)(q, c1)
    torch.testing.assert_close(mapped, exp_su3(q, c1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("far", [1e3, 1e9, 1e200, math.inf, math.nan])
def test_one_link_far_away_leaves_the_others_as_they_are(name, far):
    lie = lie_group(name)
    vector = vectors(lie)
    alone = lie.exp(vector)
    vector[:, 0, 0] = far
    together = lie.exp(vector)
    torch.testing.assert_close(together[..., 1:, :], alone[..., 1:, :], rtol=0, atol=1e-14)
    if far == 1e3:
        defect = lie.defect(lie.elements(together))
        assert float(defect.max()) < 1e-9
    elif not math.isfinite(far):
        assert bool(together[..., 0, 0].abs().isnan().any())


def test_far_links_have_derivatives():
    lie = lie_group("SU(3)")
    vector = vectors(lie)[:, :1, :3]
    vector[:, 0, 1] *= 100
    assert torch.autograd.gradcheck(lie.exp, vector.requires_grad_(), eps=1e-7, atol=1e-4)


def test_equal_names_make_equal_groups():
    assert lie_group("SU(3)") == SUN(3) != lie_group("SU(4)")
    assert lie_group("SU(2)") == SU2() != SUN(2)
    assert [str(lie_group(name)) for name in GROUPS] == list(GROUPS)


@pytest.mark.parametrize("name", ["SU(1)", "SU(0)", "SU(03)", "U(2)", "su(3)", "SU(3) ", "", "SO(3)"])
def test_other_groups_are_refused(name):
    with pytest.raises(ValueError, match=r'must be "U\(1\)" or "SU\(N\)"'):
        lie_group(name)
    with pytest.raises(TypeError, match="group must be of type str"):
        lie_group(3)
