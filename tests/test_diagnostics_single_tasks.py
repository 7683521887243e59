"""What a support set says of its own task: held-out outputs, trust, sets and calibration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj
from metajax import diagnostics, nets
from metajax.diagnostics import AccuracyPredictor, HeldOut, Reliability, Trust

KEY = jax.random.key(0)
WAYS = 3
APPLY = mj.linear_head(nets.identity_encoder)
PARAMS = mj.Params({}, {})
ADAPTATION = mj.prototypes(nets.identity_encoder, WAYS)


def make_task(key, shots, queries=40, distance=2.0):
    """(support, query) of classes with a Gaussian each."""
    centre_key, support_key, query_key = jax.random.split(key, 3)
    centres = distance * jax.random.normal(centre_key, (WAYS, 2))

    def draw(key, each):
        labels = jnp.tile(jnp.arange(WAYS), each)
        return mj.Batch(centres[labels] + jax.random.normal(key, (len(labels), 2)), labels)

    return draw(support_key, shots), draw(query_key, queries)


def hold_out(support, queries=None, **options):
    return diagnostics.cross_predict(
        ADAPTATION, APPLY, PARAMS, support, KEY, queries=queries, **options
    )


def means_without(support, left_out):
    """Logits of class means of the other examples, in NumPy."""
    x, y = np.asarray(support.x), np.asarray(support.y)
    kept = ~left_out
    means = np.stack([x[kept & (y == way)].mean(axis=0) for way in range(WAYS)])
    return lambda rows: 2 * np.asarray(rows) @ means.T - (means**2).sum(axis=1)[None]


@pytest.mark.parametrize(("folds", "at_once"), [(None, None), (None, 4), (3, None), (2, 1)])
def test_each_example_is_predicted_by_the_others(folds, at_once):
    support, query = make_task(KEY, 4)
    found = hold_out(support, query.x, folds=folds, at_once=at_once)
    assert isinstance(found, HeldOut) and found.usable.all()
    fold = np.asarray(found.fold)
    sizes = np.bincount(fold)
    assert sizes.max() - sizes.min() <= 1 and len(sizes) == (folds or 12)
    for row in range(12):
        say = means_without(support, fold == fold[row])
        np.testing.assert_allclose(found.support[row], say(support.x)[row], atol=1e-12)
        np.testing.assert_allclose(found.queries[fold[row]], say(query.x), atol=1e-12)
    say = means_without(support, fold < 0)
    np.testing.assert_allclose(found.fitted, say(support.x), atol=1e-12)
    np.testing.assert_allclose(found.answers, say(query.x), atol=1e-12)


def test_folds_have_their_share_of_every_class():
    support, _ = make_task(KEY, 6)
    order = jax.random.permutation(KEY, 18)
    found = hold_out(mj.inner.take(support, order), folds=3)
    counts = np.zeros((3, WAYS))
    np.add.at(counts, (np.asarray(found.fold), np.asarray(support.y[order])), 1)
    assert (counts == 2).all()


def test_rows_without_label_weight_or_company_are_not_usable():
    support, _ = make_task(KEY, 3)
    y = support.y.at[0].set(-1).at[1].set(-1).at[4].set(-1)  # one example of class 1 is left
    weight = jnp.ones(9).at[2].set(0)
    found = hold_out(mj.Batch(support.x, y, weight))
    assert found.usable.tolist() == [False, False, False, True, False, True, True, False, True]


def test_regression_has_held_out_outputs_too():
    x = jax.random.normal(KEY, (8, 2), jnp.float64)
    support = mj.Batch(x, x @ jnp.array([[1.0], [2.0]]))
    ridge = mj.ridge(nets.identity_encoder)
    params = ridge.init(PARAMS, KEY)._replace(
        rule={"log_lambda": jnp.array(-20.0), "scale": jnp.ones(()), "offset": jnp.zeros(())}
    )
    found = diagnostics.cross_predict(ridge, APPLY, params, support, KEY)
    np.testing.assert_allclose(found.support, support.y, atol=1e-6)
    assert found.usable.all()


def test_trust_is_right_on_average_and_its_interval_covers():
    """Over 300 tasks of 5 shots: the mean within 0.03, the true accuracy in 85 % of intervals."""

    def one(key):
        support, query = make_task(key, 5, 200)
        held_out = hold_out(support, query.x)
        right = held_out.answers.argmax(axis=1) == query.y
        return diagnostics.trust(held_out), right.mean()

    found, true = jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(KEY, 300))
    assert abs(found.accuracy.mean() - true.mean()) < 0.03
    covered = (found.low <= true) & (true <= found.high)
    assert 0.85 < covered.mean() <= 1
    assert (found.high - found.low).mean() < 0.5
    assert np.corrcoef(found.accuracy, true)[0, 1] > 0.5


def test_of_one_shot_nothing_is_known():
    support, query = make_task(KEY, 1)
    held_out = hold_out(support, query.x)
    found = diagnostics.trust(held_out)
    assert isinstance(found, Trust)
    assert jnp.isnan(found.accuracy) and found.number == 0
    assert (found.low, found.high) == (0, 1)
    assert diagnostics.conformal_sets(held_out).all()


def test_the_interval_is_that_of_scipy():
    import scipy.stats

    support, _ = make_task(KEY, 6, distance=0.7)
    found = diagnostics.trust(hold_out(support), confidence=0.9)
    right = round(float(found.accuracy) * int(found.number))
    expected = scipy.stats.binomtest(right, int(found.number)).proportion_ci(0.9, "wilson")
    np.testing.assert_allclose((found.low, found.high), expected, atol=1e-9)
    assert 0 < right < found.number


@pytest.mark.parametrize("coverage", [0.7, 0.9])
def test_sets_have_their_coverage(coverage):
    """Over 200 tasks of 15 examples, 3 queries each."""

    def one(key):
        support, query = make_task(key, 5, 1, distance=1.0)
        sets = diagnostics.conformal_sets(hold_out(support, query.x), coverage=coverage)
        return sets[jnp.arange(WAYS), query.y].mean(), sets.sum(axis=1).mean()

    covered, size = jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(KEY, 200))
    summary = mj.summarize(covered)
    assert summary.mean + summary.interval > coverage
    assert summary.mean < coverage + 0.12  # not by keeping everything
    assert size.mean() < WAYS


def test_a_set_is_counted_by_hand():
    support, query = make_task(KEY, 4, distance=0.5)
    held_out = hold_out(support, query.x)
    found = diagnostics.conformal_sets(held_out, coverage=0.8)
    own, of_query = jax.nn.softmax(held_out.support), jax.nn.softmax(held_out.queries)
    for index in range(5):
        for label in range(WAYS):
            below = sum(
                1 - own[row, support.y[row]] < 1 - of_query[row, index, label] for row in range(12)
            )
            assert bool(found[index, label]) == bool(below < 0.8 * 13)


def test_regression_intervals_have_their_coverage():
    """Over 150 tasks of 12 examples: by ridge regression, and by a Gaussian process."""
    ridge = mj.ridge(nets.identity_encoder)
    process = mj.inner.gaussian_process(nets.identity_encoder)

    def one(key, adaptation, apply):
        slope_key, x_key, noise_key = jax.random.split(key, 3)
        x = jax.random.normal(x_key, (22, 2))
        y = x @ jax.random.normal(slope_key, (2, 1)) + jax.random.normal(noise_key, (22, 1))
        params = adaptation.init(PARAMS, KEY)
        support = mj.Batch(x[:12], y[:12])
        held_out = diagnostics.cross_predict(
            adaptation, apply, params, support, KEY, queries=x[12:]
        )
        low, high = diagnostics.conformal_intervals(held_out, coverage=0.8)
        return ((low <= y[12:]) & (y[12:] <= high)).mean(), (high - low).mean()

    for adaptation, apply in ((ridge, APPLY), (process.adaptation, process.apply)):
        run = jax.jit(lambda keys, a=adaptation, b=apply: jax.lax.map(lambda k: one(k, a, b), keys))
        covered, width = run(jax.random.split(KEY, 150))
        summary = mj.summarize(covered)
        assert summary.mean + summary.interval > 0.8
        assert summary.mean < 0.9
        assert 2.56 < width.mean() < 5  # 2.56 would do if the slope were known


def test_an_interval_is_counted_by_hand():
    x = jax.random.normal(KEY, (9, 2))
    support = mj.Batch(x, x @ jnp.array([[1.0], [2.0]]) + 1)
    queries = jax.random.normal(jax.random.key(1), (3, 2))
    ridge = mj.ridge(nets.identity_encoder)
    held_out = diagnostics.cross_predict(
        ridge, APPLY, ridge.init(PARAMS, KEY), support, KEY, queries=queries
    )
    low, high = diagnostics.conformal_intervals(held_out, coverage=0.8)
    gap = np.abs(support.y - held_out.support)[:, 0]
    for index in range(3):
        below = np.sort(held_out.queries[:, index, 0] - gap)
        above = np.sort(held_out.queries[:, index, 0] + gap)
        np.testing.assert_allclose((low[index, 0], high[index, 0]), (below[1], above[7]))
    low, high = diagnostics.conformal_intervals(held_out, coverage=0.95)
    assert (low == -jnp.inf).all() and (high == jnp.inf).all()
    with pytest.raises(ValueError, match=r"\(9, 1\).*\(9,\)"):
        diagnostics.conformal_intervals(held_out._replace(y=support.y[:, 0]))
    with pytest.raises(ValueError, match=r"between 0.5 and 1"):
        diagnostics.conformal_intervals(held_out, coverage=0.4)
    broken = held_out._replace(y=support.y.at[0].set(jnp.nan))
    assert jnp.isnan(diagnostics.conformal_intervals(broken)[0]).all()


def test_examples_whose_modalities_are_absent_are_held_out_too():
    """A modality that nobody has changes nothing, and one that half of them have does."""
    support, _ = make_task(KEY, 4)
    encode = lambda params, x, key, reference: x.value
    adaptation = mj.modalities.modal_prototypes(encode, WAYS)
    apply = mj.modalities.late_head(encode)
    noise = jax.random.normal(KEY, (12, 2))

    def found(present):
        here = jnp.ones(12, bool)
        x = mj.Modalities({"a": support.x, "b": noise}, {"a": here, "b": present})
        held_out = diagnostics.cross_predict(adaptation, apply, PARAMS, mj.Batch(x, support.y), KEY)
        return diagnostics.trust(held_out), held_out.support

    nobody, some = found(jnp.zeros(12, bool)), found(jnp.arange(12) % 2 == 0)
    alone = hold_out(support).support.argmax(axis=1)
    assert (nobody[1].argmax(axis=1) == alone).all()
    assert nobody[0].number == some[0].number == 12
    assert not np.allclose(some[1], nobody[1])


def test_reliability_of_a_calibrated_source_is_nearly_perfect():
    logits = jax.random.normal(KEY, (20_000, 4))
    probabilities = jax.nn.softmax(2 * logits)
    y = jax.random.categorical(jax.random.key(1), 2 * logits)
    found = diagnostics.reliability(probabilities, y)
    assert isinstance(found, Reliability)
    assert found.error < 0.02
    np.testing.assert_allclose(found.share.sum(), 1)
    assert diagnostics.reliability(jax.nn.softmax(4 * logits), y).error > 0.1
    half = jnp.arange(20_000) < 10_000
    weighted = diagnostics.reliability(probabilities, y, weight=half.astype(float))
    alone = diagnostics.reliability(probabilities[:10_000], y[:10_000])
    np.testing.assert_allclose(weighted.error, alone.error, rtol=1e-9)


def test_the_calibration_error_is_that_of_a_loop():
    probabilities = np.asarray(jax.nn.softmax(jax.random.normal(KEY, (200, 3))))
    y = np.asarray(jax.random.randint(jax.random.key(1), (200,), 0, 3))
    expected = 0.0
    for low in np.arange(10) / 10:
        top = probabilities.max(axis=1)
        here = (top >= low) & (top < low + 0.1)
        if here.any():
            right = probabilities[here].argmax(axis=1) == y[here]
            expected += here.mean() * abs(right.mean() - top[here].mean())
    found = diagnostics.reliability(jnp.asarray(probabilities), jnp.asarray(y), bins=10)
    np.testing.assert_allclose(found.error, expected, atol=1e-9)


def test_the_best_temperature_has_the_least_cross_entropy():
    logits = jax.random.normal(KEY, (500, 4))
    y = jax.random.categorical(jax.random.key(1), logits / 2.5)
    found = diagnostics.best_temperature(logits, y)

    def entropy(temperature):
        return -jax.nn.log_softmax(logits / temperature)[jnp.arange(500), y].mean()

    assert abs(jax.grad(entropy)(found)) < 1e-9
    assert 1.8 < found < 3.5
    few = logits[:5], y[:5]
    shrunk = [
        diagnostics.best_temperature(*few, centre=2.0, strength=strength)
        for strength in (0.0, 3.0, 1e6)
    ]
    np.testing.assert_allclose(shrunk[2], 2.0, rtol=1e-3)
    assert min(shrunk[0], 2.0) < shrunk[1] < max(shrunk[0], 2.0)
    penalised = lambda t: (
        -5 * jax.nn.log_softmax(few[0] / t)[jnp.arange(5), few[1]].mean()
        + 3.0 / 2 * (2.0 / t - 1) ** 2
    )
    assert abs(jax.grad(penalised)(shrunk[1])) < 1e-8
    assert jnp.isnan(diagnostics.best_temperature(logits, y, weight=jnp.zeros(500)))
    sure = jnp.array([[10.0, 0.0], [0.0, 10.0]], jnp.float32)
    least = diagnostics.best_temperature(sure, jnp.arange(2))
    np.testing.assert_allclose(least, np.exp(-7), rtol=1e-4)
    right = diagnostics.best_temperature(logits, logits.argmax(axis=1))
    wrong = diagnostics.best_temperature(logits, logits.argmin(axis=1))
    np.testing.assert_allclose((right, wrong), (np.exp(-7), np.exp(7)), rtol=1e-6)


def test_a_predicted_temperature_follows_the_task():
    scale = jnp.exp(jax.random.uniform(jax.random.key(2), (40,), minval=-1, maxval=2))
    true = jax.random.normal(KEY, (40, 60, 4))
    y = jax.random.categorical(jax.random.key(1), true)
    logits = scale[:, None, None] * true
    statistics = {
        "entropy": jnp.log(scale) + 0.1 * jax.random.normal(KEY, (40,)),
        "ways": jnp.full(40, 4.0),
    }
    found: diagnostics.TemperaturePredictor
    found = diagnostics.fit_temperature(statistics, logits, y, penalty=0.5)
    of = lambda scale: {"entropy": jnp.log(scale), "ways": jnp.full(len(scale), 4.0)}
    unseen = jnp.array([0.5, 1.0, 5.0])
    np.testing.assert_allclose(
        diagnostics.predict_temperature(found, of(unseen)), unseen, rtol=0.25
    )
    assert found.weights["ways"] == 0  # it never varies

    def objective(values):
        log_temperature = values["b"] + values["w"] * (statistics["entropy"] - centre) / spread
        share = jax.nn.log_softmax(logits / jnp.exp(log_temperature)[:, None, None])
        own = jnp.take_along_axis(share, y[..., None], axis=2)
        return -own.mean(axis=(1, 2)).sum() + 0.25 * values["w"] ** 2

    centre, spread = statistics["entropy"].mean(), statistics["entropy"].std()
    at = {"b": found.log_mean, "w": found.weights["entropy"] * spread}
    slopes = jax.grad(objective)(at)
    np.testing.assert_allclose([slopes["b"], slopes["w"]], 0, atol=1e-6)
    np.testing.assert_allclose(
        found.shared, diagnostics.best_temperature(logits.reshape(-1, 4), y.reshape(-1))
    )
    compiled = jax.jit(diagnostics.fit_temperature)(statistics, logits, y)
    assert jnp.isfinite(compiled.log_mean)
    wrong = jax.jit(diagnostics.fit_temperature)(statistics, logits, y.at[0, 0].set(4))
    assert jnp.isnan(diagnostics.predict_temperature(wrong, of(unseen))).all()
    other = of(unseen) | {"ways": jnp.full(3, 5.0)}
    with pytest.raises(ValueError, match="of 4 … 4 ways, got 5 … 5"):
        diagnostics.predict_temperature(found, other)
    assert jnp.isnan(jax.jit(diagnostics.predict_temperature)(found, other)).all()
    with pytest.raises(ValueError, match=r"\['entropy', 'ways'\], got \['entropy'\]"):
        diagnostics.predict_temperature(found, {"entropy": jnp.ones(1)})


def test_temperatures_of_bad_input_are_refused():
    logits, y, of = jnp.zeros((4, 5, 3)), jnp.zeros((4, 5), int), {"a": jnp.arange(4.0)}
    fit = diagnostics.fit_temperature
    with pytest.raises(ValueError, match="or more, got none"):
        fit({}, logits, y)
    with pytest.raises(ValueError, match=r"of 3 tasks or more with queries, got \(2, 5, 3\)"):
        fit({"a": jnp.zeros(2)}, logits[:2], y[:2])
    with pytest.raises(ValueError, match=r"\(5, 3\)"):
        fit(of, logits[0], y[0])
    with pytest.raises(ValueError, match=r"with queries, got \(4, 0, 3\)"):
        fit(of, logits[:, :0], y[:, :0])
    with pytest.raises(ValueError, match="y must be"):
        fit(of, logits, y[0])
    with pytest.raises(ValueError, match=r"'a' is \(3,\), must be \[4\]"):
        fit({"a": jnp.zeros(3)}, logits, y)
    with pytest.raises(ValueError, match="'a' must be finite"):
        fit({"a": of["a"].at[1].set(jnp.nan)}, logits, y)
    with pytest.raises(ValueError, match="above 0"):
        fit(of, logits, y, penalty=0.0)
    with pytest.raises(ValueError, match="3"):
        fit(of, logits, y + 3)


def test_what_is_not_a_number_does_not_pass():
    support, query = make_task(KEY, 5, 20, distance=1.0)
    held_out = hold_out(support, query.x)
    broken = held_out._replace(support=held_out.support.at[0, 0].set(jnp.nan))
    assert jnp.isnan(diagnostics.support_statistics(broken)["accuracy"])
    wrong = held_out._replace(y=support.y.at[0].set(WAYS))
    assert jnp.isnan(jax.jit(diagnostics.support_statistics)(wrong)["accuracy"])
    with pytest.raises(ValueError, match="two or more ways"):
        diagnostics.support_statistics(held_out._replace(support=held_out.support[:, :1]))
    share, y = jnp.array([[0.5, 0.9]]), jnp.array([0])
    assert jnp.isnan(jax.jit(diagnostics.brier_score)(share, y))
    assert jnp.isnan(jax.jit(diagnostics.reliability)(share, y).error)
    values = {"a": jnp.array([0.0, jnp.nan, 1.0, 2.0])}
    with pytest.raises(ValueError, match="'a' must be finite"):
        diagnostics.fit_predictor(values, jnp.arange(4.0) / 4)
    with pytest.raises(ValueError, match="'accuracy' must be finite"):
        diagnostics.fit_predictor({"a": jnp.arange(4.0)}, values["a"])
    predictor = diagnostics.fit_predictor(
        {"a": jnp.arange(4.0), "ways": jnp.full(4, 5.0)}, jnp.arange(4.0) / 4
    )
    with pytest.raises(ValueError, match="of 5 … 5 ways, got 6 … 6"):
        diagnostics.predict_accuracy(predictor, {"a": 1.0, "ways": 6.0})
    with pytest.raises(ValueError, match="same shape"):
        diagnostics.predict_accuracy(predictor, {"a": jnp.ones(3), "ways": jnp.array(5.0)})
    logits = jnp.array([[1.0, 0.0], [jnp.nan, 0.0], [0.0, 1.0], [2.0, 0.0]])
    y, weight = jnp.array([0, 0, 0, 0]), jnp.array([1.0, 0.0, 1.0, 1.0])
    found = diagnostics.best_temperature(logits, y, weight=weight)
    kept = jnp.array([0, 2, 3])
    np.testing.assert_allclose(found, diagnostics.best_temperature(logits[kept], y[kept]))


def test_the_brier_score_is_that_of_scikit_learn():
    from sklearn.metrics import brier_score_loss

    share = jax.nn.sigmoid(jax.random.normal(KEY, (50,)))
    y = jax.random.bernoulli(jax.random.key(1), 0.5, (50,)).astype(jnp.int32)
    found = diagnostics.brier_score(jnp.stack([1 - share, share], axis=1), y)
    np.testing.assert_allclose(found / 2, brier_score_loss(y, share), rtol=1e-9)


def with_accuracy(key, shots):
    support, query = make_task(key, shots, 200, distance=1.0)
    held_out = hold_out(support, query.x)
    accuracy = (held_out.answers.argmax(axis=1) == query.y).mean()
    return diagnostics.support_statistics(held_out), accuracy


@pytest.mark.parametrize("shots", [1, 5])
def test_a_learned_prediction_is_better_than_the_mean_of_other_tasks(shots):
    run = jax.jit(lambda keys: jax.lax.map(lambda key: with_accuracy(key, shots), keys))
    known = run(jax.random.split(jax.random.key(1), 200))
    unseen, true = run(jax.random.split(jax.random.key(2), 200))
    predictor = diagnostics.fit_predictor(*known)
    assert isinstance(predictor, AccuracyPredictor)
    found, low, high = diagnostics.predict_accuracy(predictor, unseen)
    gain = mj.summarize((predictor.mean - true) ** 2 - (found - true) ** 2)
    assert gain.mean > gain.interval  # for one shot, by the probabilities of its own examples
    covered = (low <= true) & (true <= high)
    assert 0.9 < covered.mean() <= 1
    np.testing.assert_allclose(predictor.error, jnp.sqrt(((found - true) ** 2).mean()), rtol=0.2)


def test_the_error_of_a_predictor_is_that_of_fits_without_each_task():
    """Up to the scale of the statistics, which the closed form takes from all tasks."""
    statistics = {"a": jax.random.normal(KEY, (60,)), "b": jnp.ones(60)}
    accuracy = 0.5 + 0.1 * statistics["a"] + 0.05 * jax.random.normal(jax.random.key(1), (60,))
    gaps = []
    for task in range(60):
        rest = lambda values, task=task: jnp.delete(values, task)
        predictor = diagnostics.fit_predictor(jax.tree.map(rest, statistics), rest(accuracy))
        here = {name: values[task] for name, values in statistics.items()}
        gaps.append(diagnostics.predict_accuracy(predictor, here)[0] - accuracy[task])
    predictor = diagnostics.fit_predictor(statistics, accuracy)
    np.testing.assert_allclose(predictor.error, np.sqrt(np.mean(np.square(gaps))), rtol=0.01)
    assert predictor.weights["b"] == 0


def test_statistics_of_a_support_set_by_hand():
    support, _ = make_task(KEY, 3)
    found = diagnostics.support_statistics(hold_out(support))
    rows = np.arange(9)
    left_out = np.stack([means_without(support, rows == row)(support.x)[row] for row in rows])
    own = means_without(support, rows < 0)(support.x)
    for logits, name in ((left_out, ""), (own, "fitted_")):
        share = np.asarray(jax.nn.softmax(logits))
        np.testing.assert_allclose(found[name + "probability"], share[rows, support.y].mean())
        entropy = -(share * np.log(share)).sum(axis=1).mean()
        np.testing.assert_allclose(found[name + "entropy"], entropy)
    assert found["accuracy"] == (left_out.argmax(axis=1) == support.y).mean()
    assert found["usable"] == 1 and found["examples"] == 9 and found["ways"] == WAYS


def test_nothing_is_predicted_for_a_larger_support_set():
    draw = lambda shots: jax.vmap(lambda key: with_accuracy(key, shots))(jax.random.split(KEY, 20))
    predictor = diagnostics.fit_predictor(*draw(2))
    statistics, _ = draw(4)
    with pytest.raises(ValueError, match="6 … 6 examples, got 12 … 12"):
        diagnostics.predict_accuracy(predictor, statistics)
    assert jnp.isnan(jax.jit(diagnostics.predict_accuracy)(predictor, statistics)[0]).all()


def test_rows_without_a_label_stay_in_every_fold():
    """So that an adaptation that reads them always has them all."""
    support, _ = make_task(KEY, 4)
    half_labelled = support._replace(y=jnp.where(jnp.arange(12) < 6, support.y, -1))
    reads = mj.Adaptation(
        lambda params, key: params,
        lambda params, batch, key: params._replace(
            fast={
                "head": {
                    "kernel": jnp.zeros((2, WAYS)),
                    "bias": jnp.full(WAYS, batch.weight[6:].sum()),
                }
            }
        ),
    )
    found = diagnostics.cross_predict(reads, APPLY, PARAMS, half_labelled, KEY, folds=3)
    assert (found.support == 6).all()


def test_folds_are_of_equal_size():
    for shots, folds in ((5, 10), (2, 6), (5, 3), (5, 4)):
        labels = jnp.repeat(jnp.arange(5), shots)
        support = mj.Batch(jnp.zeros((len(labels), 2)), labels)
        adaptation = mj.prototypes(nets.identity_encoder, 5)
        fold = diagnostics.cross_predict(adaptation, APPLY, PARAMS, support, KEY, folds=folds).fold
        sizes = np.bincount(fold, minlength=folds)
        assert sizes.max() - sizes.min() <= 1


def test_wrong_arguments_are_refused():
    support, query = make_task(KEY, 3)
    held_out = hold_out(support, query.x)
    for folds in (1, 10):
        with pytest.raises(ValueError, match="from 2 to the number of examples, 9"):
            hold_out(support, folds=folds)
    with pytest.raises(ValueError, match="between 0 and 1"):
        diagnostics.trust(held_out, confidence=1.0)
    floats = held_out._replace(y=support.y.astype(float))
    with pytest.raises(ValueError, match="Labels"):
        diagnostics.trust(floats)
    shifted = held_out._replace(y=support.y + 1)
    with pytest.raises(ValueError, match="3"):
        diagnostics.conformal_sets(shifted, coverage=0.5)
    assert not diagnostics.conformal_sets(held_out, coverage=0.5).all()
    assert jax.jit(lambda held_out: diagnostics.conformal_sets(held_out, coverage=0.5))(
        shifted
    ).all()
    with pytest.raises(ValueError, match="two or more ways"):
        diagnostics.trust(held_out._replace(support=jnp.zeros((9, 1))))
    for coverage in (0.0, 1.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            diagnostics.conformal_sets(held_out, coverage=coverage)
    with pytest.raises(ValueError, match="queries="):
        diagnostics.conformal_sets(held_out._replace(queries=None))
    with pytest.raises(ValueError, match="sum to 1"):
        diagnostics.reliability(jnp.array([[0.5, 0.9]]), jnp.array([0]))
    with pytest.raises(ValueError, match="n, ways"):
        diagnostics.brier_score(jnp.array([0.5]), jnp.array([0]))
    with pytest.raises(ValueError, match="y must be"):
        diagnostics.best_temperature(jnp.zeros((2, 3)), jnp.array([0]))
    values = {"a": jnp.arange(4.0)}
    with pytest.raises(ValueError, match="3 or more"):
        diagnostics.fit_predictor({"a": jnp.zeros(2)}, jnp.zeros(2))
    with pytest.raises(ValueError, match="'a'"):
        diagnostics.fit_predictor(values, jnp.zeros(3))
    with pytest.raises(ValueError, match="above 0"):
        diagnostics.fit_predictor(values, jnp.zeros(4), penalty=0.0)
    with pytest.raises(ValueError, match="divide per cent"):
        diagnostics.fit_predictor(values, 25 * jnp.arange(4.0))
    with pytest.raises(ValueError, match="or more, got none"):
        diagnostics.fit_predictor({}, jnp.zeros(4))
    late = jnp.array([1, 2, 3])
    share = jnp.full((3, 3), 1 / 3)
    for function in (
        diagnostics.reliability,
        diagnostics.brier_score,
        diagnostics.best_temperature,
    ):
        with pytest.raises(ValueError, match="3"):
            function(share, late)
        assert jnp.isnan(jax.tree.leaves(jax.jit(function)(share, late))[0]).any()
    with pytest.raises(ValueError, match="3"):
        diagnostics.trust(held_out._replace(y=support.y + 1))
    broken = held_out._replace(support=jnp.full((9, WAYS), jnp.nan))
    assert jnp.isnan(diagnostics.trust(broken).accuracy)
    predictor = diagnostics.fit_predictor(values, jnp.arange(4.0) / 4)
    with pytest.raises(ValueError, match=r"\['a'\], got \['b'\]"):
        diagnostics.predict_accuracy(predictor, {"b": jnp.zeros(())})
