"""Abstention, queries of no class, and which label to ask for next."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.linear_model
import sklearn.metrics

import metajax as mj
from metajax import diagnostics
from metajax.diagnostics import RiskCoverage, Scope

KEY = jax.random.key(0)


def test_the_auroc_is_that_of_scikit_learn():
    scores = jax.random.randint(KEY, (80,), 0, 12).astype(float)  # with ties
    positive = jax.random.bernoulli(jax.random.key(1), 0.3, (80,))
    weight = jax.random.uniform(jax.random.key(2), (80,))
    for each in (None, weight):
        expected = sklearn.metrics.roc_auc_score(positive, scores, sample_weight=each)
        np.testing.assert_allclose(diagnostics.auroc(scores, positive, weight=each), expected)
    assert jnp.isnan(diagnostics.auroc(scores, jnp.ones(80, bool)))


def test_risk_against_coverage_is_that_of_a_loop():
    confidence = jax.random.uniform(KEY, (50,))
    right = jax.random.bernoulli(jax.random.key(1), confidence)
    found = diagnostics.risk_coverage(confidence, right)
    assert isinstance(found, RiskCoverage)
    order = np.argsort(-np.asarray(confidence))
    for number in (1, 7, 50):
        kept = order[:number]
        np.testing.assert_allclose(found.risk[number - 1], 1 - np.asarray(right)[kept].mean())
        np.testing.assert_allclose(found.coverage[number - 1], number / 50)
        np.testing.assert_allclose(found.threshold[number - 1], confidence[kept[-1]])
    np.testing.assert_allclose(found.area, found.risk.mean())
    assert found.area < 1 - right.mean()  # the confidence says something


def test_answers_of_equal_confidence_count_as_if_their_order_were_drawn():
    right = jnp.array([True, False, False, True])
    found = diagnostics.risk_coverage(jnp.full(4, 0.5), right)
    np.testing.assert_allclose(found.risk, 0.5)
    weighted = diagnostics.risk_coverage(
        jnp.array([0.9, 0.5, 0.4, 0.1]), right, weight=jnp.array([1.0, 0.0, 1.0, 2.0])
    )
    np.testing.assert_allclose(weighted.risk, [0, 0, 1 / 2, 1 / 4])
    np.testing.assert_allclose(weighted.coverage, [1 / 4, 1 / 4, 1 / 2, 1])


def scope_task(key, ways=4):
    """(scores, inside) of queries of the classes of a task, and of as many of others."""
    centre_key, support_key, query_key = jax.random.split(key, 3)
    centres = 2 * jax.random.normal(centre_key, (2 * ways, 3))
    y = jnp.repeat(jnp.arange(ways), 5)
    support = mj.Batch(centres[y] + jax.random.normal(support_key, (len(y), 3)), y)
    of_query = jnp.repeat(jnp.arange(2 * ways), 5)
    queries = centres[of_query] + jax.random.normal(query_key, (len(of_query), 3))
    means = jnp.stack([support.x[y == way].mean(axis=0) for way in range(ways)])
    logits = -((queries[:, None] - means[None]) ** 2).sum(axis=2)
    return diagnostics.scope_scores(logits, queries, support), of_query < ways


def test_a_learned_score_tells_queries_of_no_class():
    draw = lambda keys: jax.tree.map(jnp.ravel, jax.vmap(scope_task)(keys))
    scores, inside = draw(jax.random.split(jax.random.key(1), 20))
    unseen, truth = draw(jax.random.split(jax.random.key(2), 20))
    scope = diagnostics.fit_scope(scores, inside)
    assert isinstance(scope, Scope)
    learned = diagnostics.in_scope(scope, unseen)
    areas = {name: diagnostics.auroc(values, truth) for name, values in unseen.items()}
    assert min(areas.values()) > 0.5
    assert diagnostics.auroc(learned, truth) > max(areas.values()) - 0.01 > 0.75
    bins = diagnostics.reliability(jnp.stack([1 - learned, learned], axis=1), truth.astype(int))
    assert bins.error < 0.1


def test_a_scope_is_the_logistic_regression_of_scikit_learn():
    x = jax.random.normal(KEY, (60, 2))
    inside = jax.random.bernoulli(jax.random.key(1), jax.nn.sigmoid(2 * x[:, 0] - 1))
    scope = diagnostics.fit_scope({"a": x[:, 0], "b": 3 * x[:, 1] + 1}, inside, penalty=0.5)
    theirs = sklearn.linear_model.LogisticRegression(C=2.0, class_weight="balanced", tol=1e-10)
    x = np.asarray(x)
    rows = (x - x.mean(axis=0)) / x.std(axis=0)
    expected = theirs.fit(rows, inside).predict_proba(rows)[:, 1]
    found = diagnostics.in_scope(scope, {"a": x[:, 0], "b": 3 * x[:, 1] + 1})
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_scores_of_a_query_by_hand():
    support = mj.Batch(
        jnp.array([[0.0, 1.0], [0.0, 3.0], [4.0, 2.0], [9.0, 9.0]]), jnp.array([0, 0, 1, -1])
    )
    logits = jnp.array([[0.0, jnp.log(3.0), -1e9]])  # the third class has no support
    found = diagnostics.scope_scores(logits, jnp.array([[0.0, 1.0]]), support)
    np.testing.assert_allclose(found["probability"], 0.75)
    np.testing.assert_allclose(found["energy"], np.log(4))
    np.testing.assert_allclose(found["distance"], -1 / 4)
    np.testing.assert_allclose(found["neighbour"], 1)


def test_candidates_are_chosen_one_after_the_other():
    features = jnp.array([[0.0], [1.0], [5.0], [6.0], [11.0]])
    logits = jnp.zeros((5, 2)).at[1, 0].set(2.0)
    of = lambda chosen: diagnostics.candidate_statistics(
        logits, features, jnp.array([[0.0]]), chosen
    )
    covering = diagnostics.choose_labels(lambda chosen: of(chosen)["distance"], 5, 3)
    assert covering.tolist() == [4, 2, 1]  # after 11 and 5, both 1 and 6 are at the distance 1
    none = of(jnp.zeros(5, bool))
    np.testing.assert_allclose(none["entropy"][0], np.log(2))
    assert none["entropy"].argmin() == 1 and none["margin"].argmax() == 1
    unit = np.abs(features - features.T).mean()
    np.testing.assert_allclose(none["distance"] * unit, features[:, 0])
    np.testing.assert_allclose(none["remoteness"].mean(), 1)
    every = diagnostics.choose_labels(lambda chosen: none["entropy"], 5, 5)
    assert sorted(every.tolist()) == [0, 1, 2, 3, 4] and every[-1] == 1
    hopeless = diagnostics.choose_labels(lambda chosen: jnp.full(5, -jnp.inf), 5, 5)
    assert sorted(hopeless.tolist()) == [0, 1, 2, 3, 4]


def test_a_predictor_learns_what_a_label_gains():
    statistics = {"entropy": jax.random.uniform(KEY, (100,))}
    gain = 0.2 * statistics["entropy"] - 0.1
    predictor = diagnostics.fit_predictor(statistics, gain)
    found, *_ = diagnostics.predict_accuracy(predictor, statistics)
    assert found.min() < -0.05 and jnp.abs(found - gain).max() < 0.02


def test_what_a_modality_would_add():
    values = jax.random.uniform(KEY, (8,))
    subsets = np.asarray(mj.modalities.subsets(["a", "b", "c"]))
    gains = mj.modalities.acquisition_gains(values, jnp.asarray(subsets))
    for row in range(8):
        for modality in range(3):
            with_it = subsets[row].copy()
            with_it[modality] = True
            other = (subsets == with_it).all(axis=1).argmax()
            np.testing.assert_allclose(gains[row, modality], values[other] - values[row])
    with pytest.raises(ValueError, match="subsets of 3 modalities"):
        mj.modalities.acquisition_gains(values[:4], jnp.asarray(subsets))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="n"):
        diagnostics.auroc(jnp.zeros(3), jnp.zeros(2, bool))
    with pytest.raises(ValueError, match="right"):
        diagnostics.risk_coverage(jnp.zeros((2, 2)), jnp.zeros((2, 2), bool))
    assert jnp.isnan(diagnostics.auroc(jnp.array([jnp.nan, 1]), jnp.array([True, False])))
    found = diagnostics.risk_coverage(jnp.array([jnp.nan, 1]), jnp.array([True, False]))
    assert jnp.isnan(found.risk).all()
    support = mj.Batch(jnp.zeros((2, 3)), jnp.arange(2))
    with pytest.raises(ValueError, match="two or more classes"):
        diagnostics.scope_scores(jnp.zeros((4, 1)), jnp.zeros((4, 3)), support)
    with pytest.raises(ValueError, match=r"\(4, 2\)"):
        diagnostics.scope_scores(jnp.zeros((4, 2)), jnp.zeros((4, 2)), support)
    with pytest.raises(ValueError, match="got none"):
        diagnostics.fit_scope({}, jnp.zeros(3, bool))
    with pytest.raises(ValueError, match="'a'"):
        diagnostics.fit_scope({"a": jnp.zeros(2)}, jnp.zeros(3, bool))
    inside = jnp.array([True, False, True])
    scope = diagnostics.fit_scope({"a": jnp.arange(3.0)}, inside)
    with pytest.raises(ValueError, match=r"\['a'\], got \['b'\]"):
        diagnostics.in_scope(scope, {"b": jnp.zeros(2)})
    only = diagnostics.fit_scope({"a": jnp.arange(3.0)}, jnp.ones(3, bool))
    assert jnp.isnan(only.bias)
    with pytest.raises(ValueError, match="must not exceed"):
        diagnostics.choose_labels(lambda chosen: jnp.zeros(3), 3, 4)
    with pytest.raises(ValueError, match=r"\[3\], got \(2,\)"):
        diagnostics.choose_labels(lambda chosen: jnp.zeros(2), 3, 1)
    with pytest.raises(ValueError, match="every candidate"):
        diagnostics.choose_labels(lambda chosen: jnp.full(3, jnp.nan), 3, 1)
    gap = jnp.array([-1.0, jnp.nan, -3.0])
    order = jax.jit(lambda gap: diagnostics.choose_labels(lambda chosen: gap, 3, 3))(gap)
    assert order.tolist() == [0, 2, 1]  # what is not a number comes last
    rows, images = jnp.zeros((4, 2)), jnp.zeros((4, 3, 3))
    with pytest.raises(ValueError, match=r"features \[n, d\]"):
        diagnostics.candidate_statistics(rows, images, images, jnp.zeros(4, bool))
    with pytest.raises(ValueError, match="a labelled example"):
        diagnostics.candidate_statistics(rows, rows, rows[:0], jnp.zeros(4, bool))
    with pytest.raises(ValueError, match="embed the inputs first"):
        diagnostics.scope_scores(rows, images, mj.Batch(images, jnp.arange(4) % 2))
    with pytest.raises(ValueError, match="two or more classes"):
        diagnostics.candidate_statistics(
            jnp.zeros((3, 1)), jnp.zeros((3, 4)), jnp.zeros((1, 4)), jnp.zeros(3, bool)
        )
    with pytest.raises(ValueError, match="labelled"):
        diagnostics.candidate_statistics(
            jnp.zeros((3, 2)), jnp.zeros((3, 4)), jnp.zeros((1, 5)), jnp.zeros(3, bool)
        )
