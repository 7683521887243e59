"""Meta-learners that compare, solve and spread, against other libraries and their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from problems import WAYS, assert_close, cast, first, make_module, make_tasks
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score
from sklearn.semi_supervised import LabelSpreading
from sklearn.svm import LinearSVC
from test_catalogue import EMPTY, KEY, features, head_of, numbers, outputs, padded

import metajax as mj
from metajax import algorithms, inner
from metajax.nets import MLP, functional, identity_encoder, join_params


def doubled(net):
    """(apply, params) of a module in float64, whose weights are all slow."""
    apply, params = functional(net)
    return apply, mj.Params({}, cast(join_params(params), jnp.float64))


def test_relation_networks_are_their_formula():
    x, queries, y = features(5), features(4, seed=1), np.array([0, 1, 1, 2, 0])
    relate, weights = doubled(MLP(6, (8,), 1, rngs=nnx.Rngs(0)))
    params = EMPTY._replace(slow={"relation": weights.slow})
    means = np.stack([x[y == k].mean(axis=0) for k in range(3)])
    layer, head = numbers(weights.slow["layers"][0]), numbers(weights.slow["head"])
    pairs = np.stack([[np.concatenate([mean, query]) for mean in means] for query in queries])
    hidden = np.maximum(pairs @ layer["kernel"] + layer["bias"], 0)
    expected = (hidden @ head["kernel"] + head["bias"])[..., 0]
    apply = inner.relation_head(identity_encoder, relate)
    support = mj.Batch(jnp.asarray(x), jnp.asarray(y))
    for batch in (support, padded(support)):
        adapted = head_of(inner.mean_features(identity_encoder, 4), batch, params)
        logits = apply(adapted, jnp.asarray(queries))
        np.testing.assert_allclose(logits[:, :3], expected, rtol=1e-10)
        assert (logits[:, 3] < -1e8).all()
    scores = 1 / (1 + np.exp(-expected))
    asked = mj.Batch(jnp.asarray(queries), jnp.array([0, 1, 2, 0]))
    value, metrics = mj.losses.one_hot_error(apply)(adapted, asked, KEY)
    wanted = ((scores - np.eye(3)[asked.y]) ** 2).sum(axis=1).mean()
    np.testing.assert_allclose(value, wanted, rtol=1e-10)
    assert metrics["accuracy"] == (expected.argmax(axis=1) == asked.y).mean()
    wide, _ = functional(MLP(6, (8,), 2, rngs=nnx.Rngs(0)))
    two = functional(MLP(6, (8,), 2, rngs=nnx.Rngs(0)))[1]
    wrong = adapted._replace(slow={"relation": join_params(two)})
    with pytest.raises(ValueError, match=r"one score for each of 16 pairs, shape \(16, 1\)"):
        inner.relation_head(identity_encoder, wide)(wrong, jnp.asarray(queries))


def test_full_context_embeddings_are_their_formula():
    x, queries, y = features(5), features(4, seed=1), np.array([0, 1, 1, 2, 0])
    context = mj.nets.FullContext(3, steps=2, rngs=nnx.Rngs(0))
    learner = algorithms.matching_nets((identity_encoder, EMPTY), 3, context)
    params = cast(learner.params, jnp.float64)
    weights = numbers(params.slow["context"])
    sigmoid = lambda z: 1 / (1 + np.exp(-z))

    def step(part, x, state, cell):
        gates = np.concatenate([x, state]) @ weights[part]["kernel"] + weights[part]["bias"]
        enter, forget, candidate, leave = np.split(np.asarray(gates), 4)
        cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(candidate)
        return sigmoid(leave) * np.tanh(cell), cell

    def states(part, rows):
        state, found = (np.zeros(3), np.zeros(3)), []
        for row in rows:
            state = step(part, row, *state)
            found.append(state[0])
        return np.stack(found)

    support = x + states("forward", x) + states("backward", x[::-1])[::-1]
    read = []
    for query in queries:
        state, cell = query, np.zeros(3)
        for _ in range(2):
            attention = np.exp(support @ state) / np.exp(support @ state).sum()
            both = np.concatenate([query, attention @ support])
            state, cell = step("reader", both, state, cell)
            state = state + query
        read.append(state)
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)
    share = np.exp(unit(np.stack(read)) @ unit(support).T)
    expected = np.log(share / share.sum(axis=1, keepdims=True) @ np.eye(3)[y])
    batch = mj.Batch(jnp.asarray(x), jnp.asarray(y))
    for one in (batch, padded(batch)):
        adapted = learner.adaptation.adapt(params, one, KEY)
        np.testing.assert_allclose(learner.apply(adapted, queries), expected, rtol=1e-8)


def test_gaussian_prototypes_are_their_formula():
    given, queries, y = features(5, 4), features(3, 4, seed=1), np.array([0, 1, 1, 2, 0])
    x, precision = given[:, :2], 1 + np.log1p(np.exp(given[:, 2:]))
    expected = []
    for k in range(3):
        own = y == k
        total = precision[own].sum(axis=0)
        centre = (precision[own] * x[own]).sum(axis=0) / total
        expected.append(-(total * (queries[:, :2] - centre) ** 2).sum(axis=1))
    support = mj.Batch(jnp.asarray(given), jnp.asarray(y))
    apply = inner.precision_head(identity_encoder)
    for batch in (support, padded(support)):
        logits = outputs(inner.gaussian_prototypes(identity_encoder, 4), apply, batch, queries)
        np.testing.assert_allclose(logits[:, :3].T, expected, rtol=1e-10)
        assert (logits[:, 3] < -1e8).all()
    odd = mj.Batch(jnp.ones((2, 3)), jnp.array([0, 1]))
    with pytest.raises(ValueError, match="even number of features"):
        head_of(inner.gaussian_prototypes(identity_encoder, 2), odd)


def test_a_hypernetwork_writes_a_head_from_class_means():
    x, queries, y = features(5), features(4, seed=1), np.array([0, 1, 1, 2, 0])
    write, weights = doubled(MLP(3, (8,), 4, rngs=nnx.Rngs(0)))
    adaptation = inner.predicted_head(identity_encoder, write, weights.slow, 4)
    layer, head = numbers(weights.slow["layers"][0]), numbers(weights.slow["head"])
    means = np.stack([x[y == k].mean(axis=0) for k in range(3)])
    written = np.maximum(means @ layer["kernel"] + layer["bias"], 0) @ head["kernel"] + head["bias"]
    support = mj.Batch(jnp.asarray(x), jnp.asarray(y))
    for batch in (support, padded(support)):
        logits = outputs(adaptation, mj.linear_head(), batch, queries)
        expected = queries @ written[:, :3].T + written[:, 3]
        np.testing.assert_allclose(logits[:, :3], expected, rtol=1e-10)
        assert (logits[:, 3] < -1e8).all()
    narrow = inner.predicted_head(identity_encoder, identity_encoder, weights.slow, 4)
    with pytest.raises(ValueError, match=r"write 4 numbers for each class"):
        head_of(narrow, support)


def test_tadam_is_prototypes_of_modulated_features():
    task = first(make_tasks())
    reader = lambda outputs: mj.nets.DeepSets(8, outputs, width=4, rngs=nnx.Rngs(1))
    net = make_module()
    learner = algorithms.tadam(net, WAYS, reader, initial_gate=0.5)
    params = cast(learner.params, jnp.float64)
    params = params._replace(slow={**params.slow, "log_scale": jnp.log(3.0)})
    adapted = learner.adaptation.adapt(params, task.support, KEY)
    layer = numbers(params.slow["layers"][0])
    hidden = lambda x, scale=1.0, shift=0.0: np.maximum(
        (np.asarray(x) @ layer["kernel"] + layer["bias"]) * scale + shift, 0
    )
    rule = params.rule["modulation"]
    read, _ = functional(reader(16))
    rows = mj.types.Series(jnp.asarray(hidden(task.support.x))[None], jnp.array([6]))
    change = rule["gate"] * read(mj.Params({}, rule["reader"]), rows)[0]
    scale, shift = 1 + np.asarray(change[:8]), np.asarray(change[8:])
    assert np.abs(change).max() > 1e-3
    support, query = (hidden(part.x, scale, shift) for part in task[:2])
    means = np.stack([support[task.support.y == k].mean(axis=0) for k in range(WAYS)])
    expected = 3 * (2 * query @ means.T - (means**2).sum(axis=1))
    np.testing.assert_allclose(learner.apply(adapted, task.query.x), expected, rtol=1e-9)
    still = algorithms.tadam(net, WAYS, reader, initial_gate=0.0)
    plain = algorithms.protonets(net, WAYS)
    found, wanted = (one.task_loss(one.params, task, KEY) for one in (still, plain))
    assert_close(found, wanted, 1e-6)


# Support vector machines


@pytest.mark.parametrize("penalty", [0.1, 3.0])
def test_a_support_vector_machine_is_that_of_scikit_learn(penalty):
    x, queries, y = features(12, 4), features(5, 4, seed=1), np.arange(12) % 3
    theirs = LinearSVC(
        multi_class="crammer_singer", C=penalty, fit_intercept=False, tol=1e-10, max_iter=10**6
    )
    expected = queries @ theirs.fit(x, y).coef_.T
    support = mj.Batch(jnp.asarray(x), jnp.asarray(y))
    unlabelled = mj.Batch(
        jnp.concatenate([support.x, 9 + jnp.zeros((1, 4))]), jnp.append(support.y, -1)
    )
    adaptation = inner.support_vectors(identity_encoder, 4, penalty=penalty)
    for batch in (support, padded(support), unlabelled):
        logits = outputs(adaptation, mj.linear_head(), batch, queries)
        np.testing.assert_allclose(logits[:, :3], expected, atol=2e-5)
        assert (logits[:, 3] == -1e9).all()
    # A row of weight 2 is two rows of weight 1.
    twice = mj.Batch(jnp.concatenate([support.x, support.x[:1]]), jnp.append(support.y, 0))
    weighted = support._replace(weight=jnp.ones(12).at[0].set(2))
    logits = [outputs(adaptation, mj.linear_head(), one, queries) for one in (twice, weighted)]
    np.testing.assert_allclose(*logits, atol=2e-5)


def test_the_derivative_of_a_support_vector_machine():
    x, y = jnp.asarray(features(9, 4)), jnp.arange(9) % 3
    adaptation = inner.support_vectors(identity_encoder, 3)
    direction = jnp.asarray(features(9, 4, seed=2))
    along = jnp.asarray(features(4, 3, seed=3))

    @jax.jit
    def value(step):
        head = head_of(adaptation, mj.Batch(x + step * direction, y)).fast["head"]
        return (head["kernel"] * along).sum()

    numeric = (value(1e-4) - value(-1e-4)) / 2e-4
    np.testing.assert_allclose(jax.grad(value)(0.0), numeric, rtol=1e-3)


def test_a_machine_in_float32_and_one_that_is_not_solved(monkeypatch):
    x, y = features(25, 64), np.arange(25) % 5
    narrow = mj.Batch(jnp.asarray(x, jnp.float32), jnp.asarray(y))
    wide = narrow._replace(x=jnp.asarray(x))
    adaptation = inner.support_vectors(identity_encoder, 5)
    heads = [head_of(adaptation, one).fast["head"]["kernel"] for one in (narrow, wide)]
    assert heads[0].dtype == jnp.float32
    np.testing.assert_allclose(*heads, atol=2e-3)
    # Small weights and a small penalty are no reason for a loose solution.
    light = wide._replace(weight=jnp.full(25, 0.04))
    heavy = inner.support_vectors(identity_encoder, 5, penalty=0.004)
    heads = [
        head_of(one, batch).fast["head"]["kernel"]
        for one, batch in ((adaptation, narrow._replace(weight=light.weight)), (heavy, wide))
    ]
    np.testing.assert_allclose(*heads, atol=1e-4)
    # Padding may be NaN where the net is differentiated, too.
    scaled = lambda params, x, key=None, *, reference=None: params.slow * x

    def size(factor, batch):
        adaptation = inner.support_vectors(scaled, 5)
        return (head_of(adaptation, batch, mj.Params({}, factor)).fast["head"]["kernel"] ** 2).sum()

    slopes = [jax.grad(size)(1.1, one) for one in (wide, padded(wide))]
    np.testing.assert_allclose(*slopes, rtol=1e-5)
    qpax = pytest.importorskip("qpax")
    monkeypatch.setattr(qpax, "solve_qp_primal", lambda quadratic, linear, *rest, **kw: 0 * linear)
    assert jnp.isnan(head_of(adaptation, wide).fast["head"]["kernel"]).all()
    with pytest.raises(ValueError, match="penalty must be above 0, got 0"):
        inner.support_vectors(identity_encoder, 5, penalty=0)
    with pytest.raises(ValueError, match=r"params\.rule is"):
        adaptation.adapt(EMPTY, wide, KEY)


# Transduction


def test_spread_labels_are_those_of_scikit_learn():
    x, queries, y = features(5), features(7, seed=1), np.array([0, 1, 1, 2, 0])
    length = 0.7
    theirs = LabelSpreading(
        kernel="rbf", gamma=1 / (2 * length**2), alpha=0.8, max_iter=10**5, tol=1e-14
    )
    theirs.fit(np.concatenate([x, queries]), np.concatenate([y, -np.ones(7, int)]))
    params = EMPTY._replace(slow={"log_length": jnp.log(length)})
    apply = inner.spread_labels(identity_encoder, spread=0.8)
    support = mj.Batch(jnp.asarray(x), jnp.asarray(y))
    for batch in (support, padded(support)):
        adapted = head_of(inner.support_set(identity_encoder, 3), batch, params)
        found = jax.nn.softmax(apply(adapted, jnp.asarray(queries)))
        np.testing.assert_allclose(found, theirs.label_distributions_[5:], rtol=1e-8)
        more = jnp.concatenate([queries, jnp.full((2, 3), jnp.nan)])
        with_padding = apply(adapted, more, reference=jnp.arange(9) < 7)
        np.testing.assert_allclose(jax.nn.softmax(with_padding[:7]), found, rtol=1e-10)
        assert jnp.isfinite(with_padding).all()
    # Rows far apart have affinities that float32 rounds to 0.
    narrow = lambda rows: jnp.asarray(8 * rows, jnp.float32)
    far = mj.Batch(narrow(x), support.y)
    found = apply(head_of(inner.support_set(identity_encoder, 4), far, params), narrow(queries))
    close = EMPTY._replace(slow={"log_length": jnp.log(length / 8)})
    wide = apply(head_of(inner.support_set(identity_encoder, 4), support, close), queries)
    best = wide.argmax(axis=1)
    assert (found.argmax(axis=1) == best).all() and (found[:, 3] == -1e9).all()
    slope = jax.grad(lambda x: apply(adapted, x)[:, 0].sum())(8 * jnp.asarray(queries))
    assert jnp.isfinite(slope).all() and slope.any()
    with pytest.raises(ValueError, match=r"spread must be between 0 and 1, got 1\.0"):
        inner.spread_labels(identity_encoder, spread=1.0)


def blobs(seed=3):
    """Two clusters, a labelled example at the edge of each, and 60 queries."""
    rng = np.random.default_rng(seed)
    centres = np.array([[0.0, 0.0], [3.0, 0.0]])
    x = np.concatenate([centre + rng.normal(size=(30, 2)) for centre in centres])
    support = mj.Batch(jnp.array([[1.3, 1.0], [1.8, -1.5]]), jnp.array([0, 1]))
    return mj.Task(support, mj.Batch(jnp.asarray(x), jnp.repeat(jnp.arange(2), 30)))


def test_queries_without_labels_help():
    task = blobs()
    net = (identity_encoder, EMPTY)
    of_task = lambda learner, task: learner.task_loss(learner.params, task, KEY)[1]["accuracy"]
    of = lambda learner: of_task(learner, task)
    means = algorithms.soft_kmeans_protonets(net, 2, refinements=3)
    alone = of(means)
    assert of(algorithms.transductive(means)) > alone + 0.03
    spread = algorithms.label_propagation(net, 2, spread=0.9)
    short = spread.params._replace(slow={"log_length": jnp.log(0.4)})
    assert of(spread._replace(params=short)) > alone + 0.03
    joint = mj.outer.with_queries(task._replace(query=task.query._replace(weight=jnp.zeros(60))))
    assert joint.support.y.tolist() == [0, 1] + 60 * [-1]
    assert joint.support.weight.tolist() == [1, 1] + 60 * [0]
    small = mj.Task(*(part._replace(y=part.y.astype(jnp.uint8)) for part in task[:2]))
    assert of_task(algorithms.transductive(means), small) == of(algorithms.transductive(means))
    with pytest.raises(ValueError, match="Labels"):
        mj.outer.with_queries(task._replace(query=task.query._replace(y=task.query.x)))


def test_the_entropy_of_queries_is_lowered():
    task = cast_inputs(first(make_tasks()))
    learner = algorithms.transductive_fine_tuning(make_module(), WAYS, rate=0.01)
    fixed = algorithms.transductive_fine_tuning(make_module(), WAYS, steps=0)
    joint = mj.outer.with_queries(task)

    def entropy(learner):
        logits = mj.predict(
            learner.adaptation, learner.apply, learner.params, joint.support, task.query.x, KEY
        )
        return optax.safe_softmax_cross_entropy(logits, jax.nn.softmax(logits)).mean()

    assert entropy(learner) < 0.8 * entropy(fixed)
    plain = algorithms.fine_tuning(make_module(), WAYS, steps=0)
    found, wanted = (one.task_loss(one.params, task, KEY) for one in (fixed, plain))
    assert_close(found, wanted, 1e-6)
    loss = mj.losses.semi_supervised_cross_entropy(lambda params, x, key, reference: x)
    logits = np.random.default_rng(0).normal(size=(4, 3))
    batch = mj.Batch(jnp.asarray(logits), jnp.array([0, -1, 2, -1]), jnp.array([1.0, 2, 3, 0]))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -(np.log(p[0, 0]) + 3 * np.log(p[2, 2])) / 4 - (p[1] * np.log(p[1])).sum()
    np.testing.assert_allclose(loss(EMPTY, batch, KEY)[0], expected, rtol=1e-6)
    absent = jnp.concatenate([batch.x, jnp.full((4, 1), -jnp.inf)], axis=1).astype(jnp.float16)
    value, slope = jax.value_and_grad(lambda x: loss(EMPTY, batch._replace(x=x), KEY)[0])(absent)
    np.testing.assert_allclose(value, expected, rtol=1e-2)
    assert jnp.isfinite(slope[:, :3]).all()


# Clusters


def test_clusters_of_equal_size_are_the_best_assignment():
    """At a low temperature it is k-means with equal sizes: an assignment problem in each step."""
    x = features(12, 3, seed=5)
    found = inner.sinkhorn_kmeans(jnp.asarray(x), 3, temperature=1e-3, steps=20)
    np.testing.assert_allclose(found.share.sum(axis=0), 4, rtol=1e-3)
    np.testing.assert_allclose(found.share.sum(axis=1), 1, rtol=1e-6)
    cost = ((x[:, None] - np.asarray(found.centre)[None]) ** 2).sum(axis=2)
    rows, places = linear_sum_assignment(np.repeat(cost, 4, axis=1))
    assert (places[rows.argsort()] // 4 == found.share.argmax(axis=1)).all()
    means = [x[found.share.argmax(axis=1) == k].mean(axis=0) for k in range(3)]
    np.testing.assert_allclose(found.centre, means, atol=1e-2)
    more = jnp.concatenate([x, jnp.full((2, 3), jnp.nan)])
    weight = jnp.arange(14) < 12
    padded = inner.sinkhorn_kmeans(more, 3, weight=1.0 * weight, temperature=1e-3, steps=20)
    np.testing.assert_allclose(padded.share[:12], found.share, atol=1e-6)
    assert not padded.share[12:].any()
    scaled = inner.sinkhorn_kmeans(jnp.asarray(1000 * x), 3, temperature=1e-3, steps=20)
    np.testing.assert_allclose(scaled.share, found.share, atol=1e-6)
    nothing = inner.sinkhorn_kmeans(jnp.asarray(x), 3, weight=jnp.zeros(12))
    assert jnp.isfinite(nothing.centre).all() and not nothing.share.any()
    same = inner.sinkhorn_kmeans(jnp.ones((4, 2)), 2)
    assert isinstance(same, inner.Clusters) and jnp.isfinite(same.centre).all()
    with pytest.raises(ValueError, match=r"with 3 examples or more.*got shape \(2, 3\)"):
        inner.sinkhorn_kmeans(jnp.ones((2, 3)), 3)
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        inner.sinkhorn_kmeans(jnp.ones((4, 3)), 3, temperature=0)


def test_the_adjusted_rand_index_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(5):
        labels, clusters = rng.integers(4, size=(2, 20))
        found = mj.outer.adjusted_rand_index(jnp.asarray(labels), jnp.asarray(clusters), 4)
        np.testing.assert_allclose(found, adjusted_rand_score(labels, clusters), atol=1e-6)
        kept = rng.integers(2, size=20)
        found = mj.outer.adjusted_rand_index(
            jnp.asarray(labels), jnp.asarray(clusters), 4, weight=jnp.asarray(kept)
        )
        expected = adjusted_rand_score(labels[kept > 0], clusters[kept > 0])
        np.testing.assert_allclose(found, expected, atol=1e-6)
    one = jnp.zeros(5, jnp.int32)
    assert mj.outer.adjusted_rand_index(one, one, 2) == adjusted_rand_score(one, one) == 1
    with pytest.raises(ValueError, match="Clusters"):
        mj.outer.adjusted_rand_index(one, jnp.zeros(5), 2)


def test_features_that_are_learned_with_labels_cluster_new_classes():
    learner = algorithms.centroid_networks(make_module(), WAYS)
    outer = mj.outer_loop(learner.task_loss, optax.adam(1e-2))
    state = outer.init(learner.params)
    step = jax.jit(outer.step)
    tasks = lambda number, seed: jax.vmap(cast_inputs)(make_tasks(number, queries=8, seed=seed))
    for number in range(60):
        state, _ = step(state, tasks(4, number), jax.random.key(number))
    unseen = tasks(64, 99)
    before, after = (
        mj.evaluate(learner.task_loss, params, unseen, KEY)["adjusted_rand"]
        for params in (learner.params, state.params)
    )
    assert after.mean - after.interval > before.mean + before.interval
    task = first(unseen)
    broken = task._replace(query=task.query._replace(x=task.query.x.at[0].set(jnp.nan)))
    assert jnp.isnan(learner.task_loss(state.params, broken, KEY)[1]["adjusted_rand"])


def cast_inputs(task):
    """The task with inputs in float32, as the modules here have them."""
    narrow = lambda part: part._replace(x=part.x.astype(jnp.float32))
    return task._replace(support=narrow(task.support), query=narrow(task.query))
