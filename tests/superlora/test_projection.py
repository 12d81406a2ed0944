"""The projection: Eq. 3 written out with matrices, its scale in the mean, and that its seed is all of it."""

import pytest
import scipy.linalg
import torch

from glora_lib.superlora.projection import BLOCK, Fastfood, Shuffle, hadamard, hadamard_transform, projection

LIKE = torch.zeros(1, dtype=torch.float64)


@pytest.mark.parametrize("rows", [1, 2, 8, BLOCK, 8 * BLOCK, BLOCK**2])
def test_the_fast_transform_is_the_product_with_the_matrix(rows):
    v = torch.randn(rows, dtype=torch.float64)
    H = torch.from_numpy(scipy.linalg.hadamard(rows)).double()
    assert torch.equal(hadamard(rows, v), H)
    torch.testing.assert_close(hadamard_transform(v), v @ H, rtol=0, atol=1e-10)
    torch.testing.assert_close(hadamard_transform(hadamard_transform(v)), rows * v, rtol=0, atol=1e-8)


def test_the_fast_transform_needs_a_power_of_two():
    with pytest.raises(ValueError, match="needs a power of two, not 12 numbers"):
        hadamard_transform(torch.zeros(12))


@pytest.mark.parametrize(("m", "n"), [(1, 1), (3, 17), (17, 17), (40, 64), (5, 100)])
def test_fastfood_is_equation_3(m, n):
    """vec H' diag(G) Pi H diag(B), every matrix written out; H' is cut to m rows, and N columns are kept."""
    F = Fastfood(m, n, seed=3, like=LIKE)
    p = F.places
    assert p >= n > p // 2
    H = hadamard(p, LIKE)
    Pi = torch.zeros(p, p, dtype=torch.float64)
    Pi[F.Pi.long(), torch.arange(p)] = 1
    whole = H[:m] @ torch.diag(F.G) @ Pi @ H
    v = torch.randn(m, dtype=torch.float64)
    torch.testing.assert_close(F(v), v @ whole[:, :n] * F.B, rtol=0, atol=1e-12)
    assert sorted(F.Pi.tolist()) == list(range(p))
    assert set(F.B.tolist()) <= {-1, 1}


def test_fastfood_is_linear_and_so_is_its_gradient():
    F = Fastfood(30, 50, seed=0, like=LIKE)
    v, w = torch.randn(2, 30, dtype=torch.float64)
    torch.testing.assert_close(F(2 * v - w), 2 * F(v) - F(w), rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(F, v.requires_grad_())


@pytest.mark.parametrize(("m", "n"), [(1, 48), (12, 48), (48, 48), (64, 64)])
def test_its_scale_keeps_the_squared_norm_in_the_mean(m, n):
    v = torch.randn(m, dtype=torch.float64)
    ratios = torch.stack([Fastfood(m, n, seed, LIKE)(v).square().sum() / v.square().sum() for seed in range(1000)])
    assert abs(ratios.mean() - 1) < 4 * ratios.std() / 1000**0.5
    assert ratios.mean() == pytest.approx(1, abs=0.15)


def test_its_steps_are_dense_ones_cut_to_their_share_in_the_mean():
    """F F^T, through which a step of gradient descent on the numbers before F reaches those behind it, is m / N times I."""
    m, n, seeds = 12, 24, 600
    mean = torch.zeros(n, n, dtype=torch.float64)
    for seed in range(seeds):
        rows = torch.func.vmap(Fastfood(m, n, seed, LIKE))(torch.eye(m, dtype=torch.float64))
        mean += rows.T @ rows / seeds
    assert (mean - m / n * torch.eye(n)).abs().max() < 0.2
    assert mean.diagonal().mean() == pytest.approx(m / n, abs=0.03)


@pytest.mark.parametrize("kind", ["shuffle", "fastfood"])
def test_everything_comes_from_the_seed_and_nothing_is_stored(kind):
    first, again, other = (projection(kind, 20, 20, seed, LIKE) for seed in (5, 5, 6))
    v = torch.randn(20, dtype=torch.float64)
    assert torch.equal(first(v), again(v))
    assert not torch.equal(first(v), other(v))
    assert list(first.state_dict()) == []
    assert list(first.parameters()) == []


def test_the_same_seed_gives_the_same_projection_in_every_precision():
    exact, single = Fastfood(20, 30, 1, LIKE), Fastfood(20, 30, 1, LIKE.float())
    v = torch.randn(20, dtype=torch.float64)
    torch.testing.assert_close(exact(v).float(), single(v.float()), rtol=1e-4, atol=1e-5)


def test_shuffling_is_a_permutation():
    v = torch.arange(100.0)
    shuffled = Shuffle(100, 0, v)(v)
    assert sorted(shuffled.tolist()) == v.tolist()
    assert not torch.equal(shuffled, v)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fourier", 4, 4, 0), "projection 'fourier' is not known; valid: identity, shuffle, fastfood"),
        (("fastfood", 4, 8, None), "the projection 'fastfood' has no seed, without which it is lost"),
        (("shuffle", 4, 4, None), "the projection 'shuffle' has no seed"),
        (("shuffle", 4, 8, 0), "the projection 'shuffle' leaves 4 numbers as many, not 8; use 'fastfood'"),
        (("identity", 4, 8, None), "the projection 'identity' leaves 4 numbers"),
        (("fastfood", 9, 8, 0), "Fastfood makes 8 numbers of at most as many, not of 9"),
    ],
)
def test_a_projection_that_cannot_be_is_one_clear_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        projection(*arguments, LIKE)
