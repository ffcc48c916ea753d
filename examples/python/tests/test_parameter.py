"""One parameter by any method."""

import numpy as np
import pytest

import catmerge
from support import same_bits


@pytest.fixture
def layer(rng):
    base = rng.standard_normal((7, 5))
    experts = {k: base + 0.1 * rng.standard_normal((7, 5)) for k in "abc"}
    features = {k: rng.standard_normal((4, 5)) for k in "abc"}
    return base, experts, features


def test_task_arithmetic(layer):
    base, experts, _ = layer
    merged, report = catmerge.task_arithmetic(base, experts, alpha=0.3)
    expected = base + 0.3 * sum(e - base for e in experts.values())
    np.testing.assert_allclose(merged, expected, rtol=1e-14)
    assert report["merged_by"] == "the method's own rule" and not report["trimmed"]
    same, _ = catmerge.merge_parameter(base, list(experts.values()), "task-arithmetic:alpha=0.3")
    assert same_bits(merged, same)


def test_ties(layer):
    """The paper's rule in plain NumPy: the largest entries of each, signs by sum, mean of those."""
    base, experts, _ = layer
    merged, _ = catmerge.ties(base, experts, density=0.4, alpha=1.0)
    kept = []
    for expert in experts.values():
        t = expert - base
        least = np.sort(np.abs(t).ravel())[::-1][round(0.4 * t.size) - 1]
        kept.append(np.where(np.abs(t) >= least, t, 0))
    sign = np.sign(sum(kept))
    agree = [np.where((t != 0) & (np.sign(t) == sign), t, 0) for t in kept]
    count = sum((t != 0).astype(int) for t in agree)
    expected = base + sum(agree) / np.maximum(count, 1)
    np.testing.assert_allclose(merged, expected, atol=1e-12)


def test_regmean(layer):
    base, experts, features = layer
    features = {k: np.concatenate([x, x[::-1] * 2 + 1]) for k, x in features.items()}
    merged, _ = catmerge.regmean_linear(base, experts, features, off_diagonal=1)
    grams = {k: x.T @ x for k, x in features.items()}
    expected = np.linalg.solve(
        sum(grams.values()), sum(grams[k] @ experts[k].T for k in grams)
    ).T
    np.testing.assert_allclose(merged, expected, rtol=1e-6, atol=1e-8)


def test_cat_linear(layer):
    """The trims one after the other, by eigenvectors of NumPy."""
    base, experts, features = layer
    lam, rank = 0.5, 2
    x = list(features.values())
    vectors = [e - base for e in experts.values()]
    trimmed = [t.copy() for t in vectors]
    for k in range(3):
        gram = sum(
            t @ (x[k].T @ x[k] - lam * x[i].T @ x[i]) @ t.T
            for i, t in enumerate(vectors)
            if i != k
        )
        values, directions = np.linalg.eigh(gram)
        basis = directions[:, ::-1][:, : min(rank, int(np.sum(values > 1e-12)))]
        for i in range(3):
            if i != k:
                trimmed[i] -= basis @ (basis.T @ trimmed[i])
    expected = base + 0.4 * sum(trimmed)
    merged, report = catmerge.cat_linear(base, experts, features, lambda_=lam, rank=rank)
    np.testing.assert_allclose(merged, expected, atol=1e-6)
    assert report["trimmed"] and [one["protects"] for one in report["removed"]] == list("abc")
    assert "conflict_before" not in report

    _, full = catmerge.cat_linear(base, experts, features, lambda_=lam, rank=rank, report=True)
    shifts = catmerge.conflict_matrix("linear", x, vectors)
    np.testing.assert_allclose(full["shifts_before"], shifts)
    drift = [np.sum((x[k] @ (merged - e).T) ** 2) for k, e in enumerate(experts.values())]
    np.testing.assert_allclose(full["drift"], drift, rtol=1e-6)

    grams = [catmerge.statistics_view("gram", rows.T @ rows, len(rows)) for rows in x]
    again, _ = catmerge.cat_linear(base, experts, grams, lambda_=lam, rank=rank)
    np.testing.assert_allclose(again, merged, atol=1e-6)


def test_cat_group_scale_shift(layer, rng):
    base, experts, features = layer
    group = catmerge.cat_group(
        [base, base[:3]], [[e, e[:3]] for e in experts.values()], list(features.values())
    )
    alone, _ = catmerge.cat_linear(base[:3], [e[:3] for e in experts.values()], features.values())
    assert same_bits(group[1][0], alone)
    scales = [e[0] for e in experts.values()]
    merged, report = catmerge.cat_scale(base[0], scales, features.values(), scale_rank=1)
    assert merged.shape == (5,) and report["kind"] == "scale" and report["trimmed"]
    merged, report = catmerge.cat_shift(base[0], scales, shift_rank=1, alpha=1)
    vectors = [s - base[0] for s in scales]
    for k, one in enumerate(report["removed"]):
        assert one["coordinates"] == catmerge.shift_mask(k, vectors, shift_rank=1)


def test_every_method(layer, rng):
    """Every method of the catalogue merges a matrix, and in float32 what it does in float64."""
    base, experts, features = layer
    importance = {k: np.abs(rng.standard_normal(base.shape)) for k in experts}
    for method in catmerge.methods():
        merged, _ = catmerge.merge_parameter(
            base,
            experts,
            method["name"],
            statistics=features if method["needs_features"] else None,
            importance=importance if method["needs_importance"] else None,
        )
        assert merged.shape == base.shape and np.isfinite(merged).all()
        assert not np.array_equal(merged, base), method["name"]
    for function in ("weight_average", "breadcrumbs", "consensus", "pcb", "tsv_m", "iso", "wudi",
                     "dc_merge"):
        assert getattr(catmerge, function)(base, experts)[0].shape == base.shape
    assert catmerge.fisher(base, experts, importance)[0].shape == base.shape
    assert catmerge.lot_linear(base, experts, features)[0].shape == base.shape


def test_before_after_weights(layer):
    base, experts, _ = layer
    merged, _ = catmerge.task_arithmetic(
        base, experts, alpha=1, weights={"b": 0, "c": 2}, after=["lines:first=0.5,last=0.5"]
    )
    expected = base + 0.5 * ((experts["a"] - base) + 2 * (experts["c"] - base))
    np.testing.assert_allclose(merged, expected, rtol=1e-12)
    dropped, _ = catmerge.task_arithmetic(base, experts, before="dare:drop=0.5,seed=3", name="w")
    other, _ = catmerge.task_arithmetic(base, experts, before="dare:drop=0.5,seed=4", name="w")
    assert not np.array_equal(dropped, other)


def test_errors(layer):
    base, experts, features = layer
    refused = [
        (dict(method="tiez"), "no method 'tiez'"),
        (dict(method="ties", density=2), "density"),
        (dict(method="ties", sharpness=2), "sharpness: ties has no such setting"),
        (dict(method="ties", samples={"a": "f"}), "merge_checkpoints alone"),
        (dict(method="cat"), "features are needed"),
        (dict(method="fisher"), "importance is needed"),
        (dict(method="ties", kind="linaer"), "kind: expected"),
        (dict(method="cat", statistics={"a": features["a"]}), "the expert 'b' has none"),
        (dict(method="cat", statistics={**features, "d": 1}), "there is no expert 'd'"),
        (dict(method="ties", weights={"d": 1}), "weight: there is no expert 'd'"),
        (dict(method="ties", threads=-1), "threads"),
    ]
    for arguments, words in refused:
        with pytest.raises(catmerge.Error, match=words):
            catmerge.merge_parameter(base, experts, **arguments)
    experts["b"] = experts["b"][:, :4]
    with pytest.raises(catmerge.Error, match="expert 'b'"):
        catmerge.ties(base, experts)
    with pytest.raises(catmerge.Error):
        catmerge.ties(base, {})
    with pytest.raises(catmerge.Error, match="not finite"):
        catmerge.ties(base * np.nan, {"a": base})


def test_warnings(layer):
    base, experts, _ = layer
    with pytest.warns(catmerge.MergeWarning, match="lambda: has no meaning"):
        catmerge.merge_parameter(base, experts, "ties", lambda_=1)


def test_threads_do_not_matter(rng):
    base = rng.standard_normal((300, 200), "f4")
    experts = [base + 0.1 * rng.standard_normal((300, 200), "f4") for _ in range(3)]
    rows = [rng.standard_normal((50, 200), "f4") for _ in range(3)]
    one, _ = catmerge.cat_linear(base, experts, rows, threads=1)
    three, _ = catmerge.cat_linear(base, experts, rows, threads=3)
    assert same_bits(one, three)


def test_catalogue():
    names = [one["name"] for one in catmerge.methods()]
    assert {"auto", "cat", "lot", "regmean", "tsv-m", "iso-c", "wudi"} <= set(names)
    ties = next(one for one in catmerge.methods() if one["name"] == "ties")
    assert ties["looks_at_whole_model"] and ties["arxiv"] == "2306.01708"
    density = next(s for s in ties["settings"] if s["name"] == "density")
    assert float(density["default"]) > 0 and density["type"] == "number"
    assert "dare" in [one["name"] for one in catmerge.transforms()]
    assert "svc" in [one["name"] for one in catmerge.merged_transforms()]
