"""The steps against NumPy in float64."""

import numpy as np
import pytest

import catmerge

D_OUT, D_IN = 7, 5


@pytest.fixture
def layer(rng):
    vectors = [rng.standard_normal((D_OUT, D_IN)) for _ in range(3)]
    features = [rng.standard_normal((n, D_IN)) for n in (4, 9, 3)]
    return vectors, features


def gram_of(k, vectors, features, lam):
    """G_k of Eq. 8."""
    own = features[k].T @ features[k]
    return sum(
        t @ (own - lam * x.T @ x) @ t.T
        for i, (t, x) in enumerate(zip(vectors, features))
        if i != k
    )


def test_with_task_vector(layer):
    (a, b, _), _ = layer
    # The product and the sum round once each, or together (FMA).
    bound = 2.0**-52 * (np.abs(a) + np.abs(0.3 * b))
    assert np.all(np.abs(catmerge.with_task_vector(a, b, 0.3) - (a + 0.3 * b)) <= bound)


def test_feature_shift(layer, rng):
    vectors, features = layer
    t, x = vectors[0], features[0]
    assert catmerge.feature_shift("linear", x, t) == pytest.approx(np.sum((x @ t.T) ** 2))
    gram = catmerge.statistics_view("gram", x.T @ x, len(x))
    assert catmerge.feature_shift("linear", gram, t) == pytest.approx(np.sum((x @ t.T) ** 2))
    factor = catmerge.statistics_view("factor", np.linalg.qr(x)[1], len(x))
    assert catmerge.feature_shift("linear", factor, t) == pytest.approx(np.sum((x @ t.T) ** 2))
    scale = rng.standard_normal(D_IN)
    assert catmerge.feature_shift("scale", x, scale) == pytest.approx(np.sum((x * scale) ** 2))
    moment = catmerge.statistics_view("second_moment", np.mean(x**2, axis=0), len(x))
    assert catmerge.feature_shift("scale", moment, scale) == pytest.approx(
        np.sum((x * scale) ** 2)
    )
    with pytest.raises(catmerge.Error, match="second moments"):
        catmerge.feature_shift("linear", moment, t)
    with pytest.raises(catmerge.Error, match="kind: expected linear"):
        catmerge.feature_shift("linar", x, t)


def test_conflict(layer):
    vectors, features = layer
    found = catmerge.conflict_matrix("linear", features, vectors)
    expected = [[np.sum((x @ t.T) ** 2) for t in vectors] for x in features]
    np.testing.assert_allclose(found, expected)
    rest = np.array(expected) - np.diag(np.diag(expected))
    np.testing.assert_allclose(catmerge.inter_task_conflict(found), rest.sum(axis=1))
    with pytest.raises(catmerge.Error, match="features of 2 tasks"):
        catmerge.conflict_matrix("linear", features[:2], vectors)


@pytest.mark.parametrize("k", [0, 1, 2])
def test_removal_basis(layer, k):
    vectors, features = layer
    values, directions = np.linalg.eigh(gram_of(k, vectors, features, 0.5))
    found = catmerge.removal_basis(k, vectors, features, lambda_=0.5, rank=2)
    basis = found["basis"]
    count = min(2, int(np.sum(values > 1e-12)))
    assert basis.shape == (D_OUT, count)
    np.testing.assert_allclose(found["eigenvalues"], values[::-1][:count], rtol=1e-7)
    top = directions[:, ::-1][:, :count]
    np.testing.assert_allclose(basis @ basis.T, top @ top.T, atol=1e-6)
    other = vectors[(k + 1) % 3]
    expected = other - basis @ (basis.T @ other)
    catmerge.project_out(basis, other)
    np.testing.assert_allclose(other, expected, atol=1e-12)


def test_removal_basis_errors(layer):
    vectors, features = layer
    with pytest.raises(catmerge.Error, match="task"):
        catmerge.removal_basis(3, vectors, features)
    with pytest.raises(catmerge.Error, match="has no setting 'lamda'"):
        catmerge.removal_basis(0, vectors, features, lamda=1)
    with pytest.raises(catmerge.Error, match="lambda"):
        catmerge.removal_basis(0, vectors, features, lambda_=-1)
    with pytest.raises(catmerge.Error, match="pass them transposed"):
        catmerge.removal_basis(0, vectors, [np.zeros((D_IN, 2))] * 3)


def test_masks(rng):
    vectors = [rng.standard_normal(12) for _ in range(3)]
    features = [rng.standard_normal((6, 12)) for _ in range(3)]
    moments = [np.mean(x**2, axis=0) for x in features]
    score = sum((moments[0] - 0.2 * moments[i]) * vectors[i] ** 2 for i in (1, 2))
    best = sorted(j for j in np.argsort(-score)[:3] if score[j] > 0)
    found = catmerge.scale_mask(0, vectors, features, scale_lambda=0.2, scale_rank=3)
    assert found == [int(j) for j in best]
    score = vectors[0] ** 2 + vectors[2] ** 2
    found = catmerge.shift_mask(1, vectors, shift_rank=4)
    assert found == sorted(int(j) for j in np.argsort(-score)[:4])
    expected = vectors[0].copy()
    expected[found] = 0
    catmerge.mask_out(found, vectors[0])
    np.testing.assert_array_equal(vectors[0], expected)
    with pytest.raises(catmerge.Error, match="coordinate 12"):
        catmerge.mask_out([12], vectors[0])


def test_bounds(rng):
    w = rng.standard_normal((6, 9))
    assert catmerge.spectral_norm(w) == pytest.approx(np.linalg.norm(w, 2))
    assert catmerge.lipschitz_bound(2, [3, 5], [1, 10]) == 2 * (5 * 1 + 10)


def test_feature_statistics(rng):
    batches = [rng.standard_normal((n, 8)).astype("f4") for n in (3, 4)]
    statistics = catmerge.feature_statistics()
    with pytest.raises(catmerge.Error, match="no rows"):
        statistics.data
    for batch in batches:
        statistics.update(batch)
    assert statistics.form == "rows" and statistics.count == len(statistics) == 7
    np.testing.assert_array_equal(statistics.data, np.concatenate(batches))
    more = catmerge.feature_statistics()
    more.update(rng.standard_normal((20, 8)))
    statistics.combine(more)
    assert statistics.form == "gram" and statistics.rows == 27
    rows = np.concatenate(batches).astype("f8")
    np.testing.assert_allclose(statistics.data - more.data, rows.T @ rows, atol=1e-5)
    with pytest.raises(catmerge.Error, match="rows of 7"):
        statistics.update(np.zeros((2, 7)))
    with pytest.raises(catmerge.Error, match="n x d_in"):
        statistics.update(np.zeros(8))


def test_moment_statistics(rng):
    rows = rng.standard_normal((10, 6))
    statistics = catmerge.moment_statistics()
    statistics.update(rows[:4])
    statistics.update(rows[4:])
    assert statistics.form == "second_moment" and statistics.count == 10
    np.testing.assert_allclose(statistics.data, np.mean(rows**2, axis=0))


def test_statistics_view_errors():
    with pytest.raises(catmerge.Error, match="form: expected rows"):
        catmerge.statistics_view("grams", np.zeros((2, 2)))
    with pytest.raises(catmerge.Error, match="number of rows"):
        catmerge.statistics_view("gram", np.zeros((2, 2)))
    with pytest.raises(catmerge.Error, match="one axis"):
        catmerge.statistics_view("second_moment", np.zeros((2, 2)), 3)
