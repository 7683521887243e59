"""Meta-learners of the catalogue against other libraries, exact solutions and their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from problems import FEATURES, WAYS, assert_close, first, make_module, make_net, make_tasks
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

import metajax as mj
from metajax import algorithms, inner
from metajax.nets import identity_encoder

KEY = jax.random.key(0)
EMPTY = mj.Params(fast={}, slow={})
RNG = np.random.default_rng(0)


def features(rows, width=3, seed=0):
    """Random features, float64[rows, width]."""
    return np.random.default_rng(seed).normal(size=(rows, width))


def numbers(tree):
    """The arrays of a tree as those of NumPy."""
    return jax.tree.map(np.asarray, tree)


def head_of(adaptation, support, params=EMPTY):
    """What an adaptation writes for features."""
    params = adaptation.init(params, KEY)
    return adaptation.adapt(params, support, KEY)


def outputs(adaptation, apply, support, x):
    """The outputs of a written head for features."""
    return apply(head_of(adaptation, support), x)


def padded(support):
    """The support set with two more rows of weight 0, of which nothing may come through."""
    rows = len(support.y)
    x = jnp.concatenate([support.x, jnp.full((2, support.x.shape[1]), jnp.nan)])
    y = jnp.concatenate([support.y, jnp.zeros((2, *support.y.shape[1:]), support.y.dtype)])
    return mj.Batch(x, y, jnp.concatenate([jnp.ones(rows), jnp.zeros(2)]))


# Gaussian processes


KERNELS = {
    "rbf": (inner.rbf_kernel, ConstantKernel(1.7) * RBF(0.8)),
    "linear": (inner.linear_kernel, ConstantKernel(1.7 / 0.8**2) * DotProduct(sigma_0=1e-6)),
}


@pytest.mark.parametrize("name", KERNELS)
def test_a_gaussian_process_is_that_of_scikit_learn(name):
    kernel, theirs = KERNELS[name]
    x, queries, y = features(9), features(4, seed=1), RNG.normal(size=(9, 2))
    noise = 0.3 + 1e-4
    rule = {"log_scale": np.log(1.7), "log_length": np.log(0.8), "log_noise": np.log(0.3)}
    params = EMPTY._replace(rule=jax.tree.map(jnp.asarray, rule))
    support = mj.Batch(jnp.asarray(x), jnp.asarray(y))
    process = inner.gaussian_process(identity_encoder, kernel=kernel)
    expected = GaussianProcessRegressor(theirs + WhiteKernel(noise), optimizer=None).fit(x, y)
    mean, deviation = expected.predict(queries, return_std=True)
    for batch in (support, padded(support)):
        ours = process.apply(process.adaptation.adapt(params, batch, KEY), jnp.asarray(queries))
        np.testing.assert_allclose(ours.mean, mean, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(ours.variance, deviation**2, rtol=1e-7)
        evidence = process.log_evidence(params, batch, KEY)
        np.testing.assert_allclose(evidence * y.size, expected.log_marginal_likelihood(), rtol=1e-8)


def test_a_weight_of_a_row_divides_its_noise():
    x, y, weight = features(5), RNG.normal(size=(5, 1)), np.array([1.0, 2.0, 0.5, 1.0, 3.0])
    rule = {"log_scale": 0.0, "log_length": 0.0, "log_noise": np.log(0.2)}
    params = EMPTY._replace(rule=jax.tree.map(jnp.asarray, rule))
    support = mj.Batch(jnp.asarray(x), jnp.asarray(y), jnp.asarray(weight))
    process = inner.gaussian_process(identity_encoder)
    ours = process.apply(process.adaptation.adapt(params, support, KEY), jnp.asarray(x))
    noise = 0.2 + 1e-4
    theirs = GaussianProcessRegressor(RBF(1.0), alpha=noise / weight, optimizer=None).fit(x, y)
    mean, deviation = theirs.predict(x, return_std=True)
    np.testing.assert_allclose(ours.mean[:, 0], mean.reshape(-1), rtol=1e-8)
    np.testing.assert_allclose(ours.variance[:, 0], deviation**2 + noise, rtol=1e-8)
    evidence = process.log_evidence(params, support, KEY)
    np.testing.assert_allclose(evidence * 5, theirs.log_marginal_likelihood(), rtol=1e-8)


def test_deep_kernels_classify_by_targets_of_one_and_minus_one():
    x, y = features(6), np.array([0, 1, 2, 0, 1, 2])
    learner = algorithms.dkt((identity_encoder, EMPTY), WAYS)
    support = mj.Batch(jnp.asarray(x), jnp.asarray(y))
    logits = mj.predict(learner.adaptation, learner.apply, learner.params, support, x, KEY)
    noise = np.exp(-1) + 1e-4
    theirs = GaussianProcessRegressor(RBF(1.0), alpha=noise, optimizer=None)
    np.testing.assert_allclose(logits, theirs.fit(x, 2 * np.eye(3)[y] - 1).predict(x), rtol=1e-8)
    one_less = mj.Batch(jnp.asarray(x), jnp.array([0, 1, 1, 0, 1, -1]))
    logits = mj.predict(learner.adaptation, learner.apply, learner.params, one_less, x, KEY)
    assert (logits[:, 2] < -1e8).all() and (jnp.abs(logits[:, :2]) < 2).all()
    expected = theirs.fit(x[:5], 2 * np.eye(2)[[0, 1, 1, 0, 1]] - 1).predict(x)
    np.testing.assert_allclose(logits[:, :2], expected, rtol=1e-8)


def test_a_linear_gaussian_process_learns_to_predict_its_errors():
    """The true slope has the variance 4 and the noise 0.25: both are found from tasks."""
    learner = algorithms.bayesian_linear((identity_encoder, EMPTY))
    rng = np.random.default_rng(1)
    slopes = 2 * rng.normal(size=(400, 1, 1))
    x = rng.normal(size=(400, 12, 1))
    y = x @ slopes + 0.5 * rng.normal(size=(400, 12, 1))
    part = lambda rows: mj.Batch(jnp.asarray(x[:, rows]), jnp.asarray(y[:, rows]))
    tasks = mj.Task(part(slice(0, 4)), part(slice(4, 12)))
    outer = mj.outer_loop(learner.task_loss, optax.adam(0.05))
    state = outer.init(learner.params)
    step = jax.jit(outer.step)
    for number in range(150):
        state, _ = step(state, tasks, jax.random.key(number))
    rule = state.params.rule
    scale = jnp.exp(rule["log_scale"] - 2 * rule["log_length"])
    np.testing.assert_allclose(jnp.exp(rule["log_noise"]), 0.25, rtol=0.1)
    np.testing.assert_allclose(scale, 4, rtol=0.25)
    # The exact Bayesian prediction of these tasks has this loss; nothing has less.
    exact = learner.params._replace(
        rule={"log_scale": np.log(4.0), "log_length": 0.0, "log_noise": np.log(0.25 - 1e-4)}
    )
    best = mj.evaluate(learner.task_loss, exact, tasks, KEY)["loss"]
    found = mj.evaluate(learner.task_loss, state.params, tasks, KEY)["loss"]
    assert abs(found.mean - best.mean) < 0.01


def test_the_wrong_targets_of_a_gaussian_process_are_refused():
    x = jnp.ones((2, 3))
    process = inner.gaussian_process(identity_encoder)
    with pytest.raises(ValueError, match=r"y must be \[examples, k\], got shape \(2,\)"):
        head_of(process.adaptation, mj.Batch(x, jnp.ones(2)))
    for function in (process.adaptation.adapt, process.log_evidence):
        with pytest.raises(ValueError, match=r"params\.rule is"):
            function(EMPTY, mj.Batch(x, jnp.ones((2, 1))), KEY)
    loss = mj.losses.gaussian_log_loss(lambda params, x, key, reference: x)
    with pytest.raises(ValueError, match="must return a Gaussian"):
        loss(EMPTY, mj.Batch(x, x), KEY)
    wider = lambda params, x, key, reference: mj.Gaussian(x, jnp.ones(3))
    with pytest.raises(ValueError, match=r"mean has shape \(2, 3\) and the variance \(3,\)"):
        mj.losses.gaussian_log_loss(wider)(EMPTY, mj.Batch(x, x), KEY)


def test_a_gaussian_process_far_from_zero_and_with_large_features():
    """In float32, where |a|² + |b|² - 2 a·b or a noise of 1e-4 would not be enough."""
    x = jnp.array([[0.0], [1.0], [2.0]], jnp.float32)
    y = jnp.array([[0.0], [1.0], [0.0]], jnp.float32)
    process = inner.gaussian_process(identity_encoder)
    assert isinstance(process, inner.GaussianProcess)
    params = process.adaptation.init(EMPTY, KEY)
    near, far = (
        process.apply(process.adaptation.adapt(params, mj.Batch(x + move, y), KEY), x + move)
        for move in (0, 5000)
    )
    np.testing.assert_allclose(near.mean, far.mean, rtol=1e-3)
    large = jnp.asarray(1000 * features(50, 8), jnp.float32)
    linear = inner.gaussian_process(identity_encoder, kernel=inner.linear_kernel)
    support = mj.Batch(large, jnp.asarray(features(50, 1), jnp.float32))
    found = linear.apply(linear.adaptation.adapt(params, support, KEY), large)
    assert jnp.isfinite(found.mean).all() and jnp.isfinite(found.variance).all()
    means = inner.class_covariances(identity_encoder, 2)
    support = mj.Batch(3 * jnp.abs(large[:10].repeat(8, axis=1)), jnp.arange(10) % 2)
    logits = outputs(means, inner.mahalanobis_head(identity_encoder), support, support.x)
    assert jnp.isfinite(logits).all()


def test_the_evidence_of_absent_classes_and_of_nothing():
    x, y = jnp.asarray(features(6)), jnp.array([0, 1, 1, 0, 1, 0])
    found = []
    for ways in (2, 5):
        process = inner.gaussian_process(identity_encoder, ways)
        params = process.adaptation.init(EMPTY, KEY)
        found.append(process.log_evidence(params, mj.Batch(x, y), KEY))
        assert process.log_evidence(params, mj.Batch(x, y, jnp.zeros(6)), KEY) == 0
    np.testing.assert_allclose(*found, rtol=1e-10)


def test_support_and_query_of_a_deep_kernel_may_differ_in_weights():
    task = first(make_tasks())
    learner = algorithms.dkt(make_module(), WAYS)
    weighted = task._replace(support=task.support._replace(weight=jnp.ones(len(task.support.y))))
    expected, _ = learner.task_loss(learner.params, task, KEY)
    np.testing.assert_allclose(learner.task_loss(learner.params, weighted, KEY)[0], expected)


# Metrics


def test_matching_networks_are_their_formula():
    x, queries, y = features(5), features(4, seed=1), np.array([0, 1, 1, 2, 0])
    cosine = (queries @ x.T) / np.outer(np.linalg.norm(queries, axis=1), np.linalg.norm(x, axis=1))
    attention = np.exp(cosine) / np.exp(cosine).sum(axis=1, keepdims=True)
    expected = np.log(attention @ np.eye(3)[y])
    support = mj.Batch(jnp.asarray(x), jnp.asarray(y))
    apply = inner.cosine_attention(identity_encoder)
    for batch in (support, padded(support)):
        logits = outputs(inner.support_set(identity_encoder, 3), apply, batch, queries)
        np.testing.assert_allclose(logits, expected, rtol=1e-12)
    fewer = outputs(inner.support_set(identity_encoder, 4), apply, support, queries)
    assert (fewer[:, 3] == -1e9).all()
    zero = jax.grad(lambda x: apply(head_of(adaptation_of(4), support), x).sum())(jnp.zeros((1, 3)))
    assert jnp.isfinite(zero).all()


def adaptation_of(ways):
    """The support set of features."""
    return inner.support_set(identity_encoder, ways)


@pytest.mark.parametrize("distractors", [False, True])
def test_soft_k_means_is_its_formula(distractors):
    x, y = features(7), np.array([0, 1, 1, 0, -1, -1, -1])
    labels = np.eye(2)[np.maximum(y, 0)] * (y >= 0)[:, None]
    means = (labels.T @ x) / labels.sum(axis=0)[:, None]
    radius = 1.5
    for _ in range(2):
        logits = -((x[:, None] - means[None]) ** 2).sum(axis=2)
        if distractors:
            of_none = -(x**2).sum(axis=1) / radius**2 - np.log(radius)
            logits = np.concatenate([logits, of_none[:, None]], axis=1)
        share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        shares = labels + share[:, :2] * (y < 0)[:, None]
        means = (shares.T @ x) / shares.sum(axis=0)[:, None]
    adaptation = inner.soft_kmeans(identity_encoder, 2, steps=2, distractors=distractors)
    support = mj.Batch(jnp.asarray(x), jnp.asarray(y))
    params = adaptation.init(EMPTY, KEY)
    assert bool(params.rule) == distractors
    if distractors:
        params = params._replace(rule={"log_radius": jnp.log(radius)})
    for batch in (support, padded(support)):
        head = adaptation.adapt(params, batch, KEY).fast["head"]
        np.testing.assert_allclose(head["kernel"], 2 * means.T, rtol=1e-10)
    without = inner.soft_kmeans(identity_encoder, 2, steps=0)
    plain = mj.prototypes(identity_encoder, 2)
    assert_close(head_of(without, support).fast, head_of(plain, support).fast)


def test_unlabelled_rows_help_prototypes():
    """Two clusters, one labelled example each at the edge: the unlabelled ones show the centres."""
    rng = np.random.default_rng(3)
    centres = np.array([[0.0, 0.0], [3.0, 0.0]])
    draw = lambda rows: np.concatenate([centre + rng.normal(size=(rows, 2)) for centre in centres])
    labelled = np.array([[1.3, 1.0], [1.8, -1.5]])
    x = jnp.asarray(np.concatenate([labelled, draw(30)]))
    support = mj.Batch(x, jnp.array([0, 1] + [-1] * 60))
    queries, y = draw(500), np.repeat([0, 1], 500)

    def accuracy(refinements):
        learner = algorithms.soft_kmeans_protonets(
            (identity_encoder, EMPTY), 2, refinements=refinements
        )
        logits = mj.predict(
            learner.adaptation, learner.apply, learner.params, support, queries, KEY
        )
        return float((logits.argmax(axis=1) == y).mean())

    assert accuracy(3) > accuracy(0) + 0.03


def test_the_distances_of_simple_cnaps_are_their_formula():
    x, queries, y = features(9), features(4, seed=1), np.array([0, 0, 0, 0, 1, 1, 1, 2, 1])
    covariance = lambda rows: np.cov(rows.T) if len(rows) > 1 else np.zeros((3, 3))
    expected = []
    for k in range(3):
        own = x[y == k]
        share = len(own) / (len(own) + 1)
        q = share * covariance(own) + (1 - share) * covariance(x) + np.eye(3)
        offset = queries - own.mean(axis=0)
        expected.append(-0.5 * np.einsum("qd,de,qe->q", offset, np.linalg.inv(q), offset))
    support = mj.Batch(jnp.asarray(x), jnp.asarray(y))
    apply = inner.mahalanobis_head(identity_encoder)
    for batch in (support, padded(support)):
        logits = outputs(inner.class_covariances(identity_encoder, 4), apply, batch, queries)
        np.testing.assert_allclose(logits[:, :3].T, expected, rtol=1e-10)
        assert (logits[:, 3] < -1e8).all()


# Descent


def test_the_curvature_multiplies_every_axis():
    _, params = make_net()
    kernel = RNG.normal(size=(3, 3, 2, 4))
    fast = {"conv": {"kernel": jnp.asarray(kernel), "bias": jnp.ones(4)}}
    rule = inner.learned_curvature(0.1)
    matrices = rule.init(mj.Params(fast, {}), KEY)
    assert jax.tree.map(jnp.shape, matrices) == {
        "conv": {"kernel": [(9, 9), (2, 2), (4, 4)], "bias": [(4, 4)]}
    }
    plain, _ = rule.optimizer(matrices).update(fast, ())
    assert_close(plain, jax.tree.map(lambda leaf: -0.1 * leaf, fast), 1e-12)
    drawn = jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape)), matrices)
    of_places, of_inputs, of_outputs = drawn["conv"]["kernel"]
    product = np.einsum(
        "pq,ij,ok,qjk->pio", of_places, of_inputs, of_outputs, kernel.reshape(9, 2, 4)
    )
    updates, _ = rule.optimizer(drawn).update(fast, ())
    expected = -0.1 * product.reshape(kernel.shape)
    np.testing.assert_allclose(updates["conv"]["kernel"], expected, rtol=1e-10)
    with pytest.raises(ValueError, match="The learned matrices have shapes"):
        rule.optimizer(matrices).update(params.fast, ())


def test_meta_curvature_starts_as_maml():
    task = first(make_tasks())
    _, params = net = make_net()
    ours = algorithms.meta_curvature(net, inner_rate=0.2, inner_steps=2)
    maml = algorithms.maml(net, inner_rate=0.2, inner_steps=2)
    adapted = ours.adaptation.adapt(ours.params, task.support, KEY)
    assert_close(adapted.fast, maml.adaptation.adapt(params, task.support, KEY).fast, 1e-10)


def test_a_t_net_is_the_net_with_a_map_after_each_layer():
    task = first(make_tasks())
    net = make_net()
    learner = algorithms.t_net(net, inner_rate=0.2)
    drawn = jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape)), learner.params.slow)
    params = learner.params._replace(slow=drawn)
    layer, head = params.fast["layers"][0], params.fast["head"]
    maps = drawn["transformation"]
    hidden = (task.query.x @ layer["kernel"] + layer["bias"][None]) @ maps["layers"][0]
    expected = (np.maximum(hidden, 0) @ head["kernel"] + head["bias"][None]) @ maps["head"]
    np.testing.assert_allclose(learner.apply(params, task.query.x), expected, rtol=1e-10)
    maml = algorithms.maml(net, inner_rate=0.2)
    adapted = learner.adaptation.adapt(learner.params, task.support, KEY)  # identity matrices
    assert_close(adapted.fast, maml.adaptation.adapt(net[1], task.support, KEY).fast, 1e-10)


def test_an_mt_net_moves_the_units_that_its_mask_lets_through():
    task = first(make_tasks())
    net = make_net()
    learner = algorithms.mt_net(net, inner_rate=0.2)
    without = algorithms.t_net(net, inner_rate=0.2)
    moved = without.adaptation.adapt(without.params, task.support, KEY).fast
    with_logit = lambda number: learner.params._replace(
        rule=jax.tree.map(lambda leaf: jnp.full_like(leaf, number), learner.params.rule)
    )
    adapt = lambda params, key=KEY: learner.adaptation.adapt(params, task.support, key).fast
    for logit, expected in ((50.0, moved), (-50.0, net[1].fast)):
        found = adapt(with_logit(logit))
        assert_close({"layers": found["layers"], "head": found["head"]}, expected, 1e-10)
    found, other = adapt(learner.params), adapt(learner.params, jax.random.key(1))
    assert (found["mask"]["head"] != other["mask"]["head"]).all()
    share = lambda name, part: (
        (part(found)[name] - part(net[1].fast)[name])
        / (part(moved)[name] - part(net[1].fast)[name])
    )
    head, mask = (lambda fast: fast["head"]), np.asarray(found["mask"]["head"])
    np.testing.assert_allclose(share("bias", head), mask, rtol=1e-6)
    kernel = np.asarray(share("kernel", head))
    np.testing.assert_allclose(kernel, np.broadcast_to(mask, kernel.shape), rtol=1e-6)
    keys = jax.random.split(KEY, 400)
    masks = jax.vmap(lambda key: adapt(with_logit(1.0), key)["mask"]["head"])(keys)
    assert abs((masks > 0.5).mean() - 1 / (1 + np.exp(-1))) < 0.05  # a probability
    slopes = jax.grad(lambda params: learner.task_loss(params, task, KEY)[0])(learner.params)
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(slopes.rule))
    with pytest.raises(ValueError, match="temperature must be positive"):
        algorithms.mt_net(net, temperature=0.0)
    with pytest.raises(ValueError, match="must have the entry 'mask'; put unit_masks before"):
        mj.inner_loop(mj.losses.cross_entropy(net[0]), inner.masked_descent(0.1), steps=1).adapt(
            net[1], task.support, KEY
        )


def test_low_rank_factors_are_added_to_kernels():
    task = first(make_tasks())
    apply, weights = make_net()
    learner = algorithms.low_rank_maml((apply, weights), rank=2, inner_rate=0.5, inner_steps=1)
    before = learner.apply(learner.params, task.query.x)
    np.testing.assert_allclose(before, apply(weights, task.query.x), rtol=1e-10)
    slow = mj.Params(weights.fast, learner.params.fast)  # the factors may stand in either place
    np.testing.assert_allclose(inner.with_low_rank(apply)(slow, task.query.x), before, rtol=1e-10)
    adapted = learner.adaptation.adapt(learner.params, task.support, KEY)
    changed = weights.fast
    factors = adapted.fast["low_rank"]
    for place, part in (("head", factors["head"]), ("layers", factors["layers"][0])):
        added = part["down"] @ part["up"]
        assert jnp.linalg.matrix_rank(added) == 2
        layer = changed[place] if place == "head" else changed[place][0]
        layer = {**layer, "kernel": layer["kernel"] + added}
        changed = {**changed, place: layer if place == "head" else {0: layer}}
    expected = apply(weights._replace(fast=changed), task.query.x)
    np.testing.assert_allclose(learner.apply(adapted, task.query.x), expected, rtol=1e-8)


def test_alfa_is_its_formula():
    task = first(make_tasks())
    _, params = net = make_net()
    learner = algorithms.alfa(net, initial_rate=0.2, inner_steps=2)
    rule = learner.params.rule
    loss = mj.losses.cross_entropy(learner.apply)
    weights, structure = jax.tree.flatten(params.fast)
    slope = jax.jit(jax.grad(lambda fast: loss(params._replace(fast=fast), task.support, KEY)[0]))
    for step in range(2):
        slopes = jax.tree.leaves(slope(jax.tree.unflatten(structure, weights)))
        means = np.array([leaf.mean() for leaf in weights + slopes])
        hidden = np.maximum(means @ rule["hidden"]["kernel"] + rule["hidden"]["bias"], 0)
        factors = hidden @ rule["out"]["kernel"] + rule["out"]["bias"]
        alphas = factors[:4] * rule["rate"][step]
        betas = factors[4:] * rule["decay"][step]
        weights = [
            (1 - beta) * leaf - alpha * gradient
            for alpha, beta, leaf, gradient in zip(alphas, betas, weights, slopes, strict=True)
        ]
    adapted = learner.adaptation.adapt(learner.params, task.support, KEY)
    assert_close(adapted.fast, jax.tree.unflatten(structure, weights), 1e-8)
    wrong = learner.params._replace(fast={"head": params.fast["head"]})
    with pytest.raises(ValueError, match="2 leaves"):
        inner.generated_rates(0.1, steps=2).optimizer(rule).update(
            wrong.fast, jnp.int32(0), wrong.fast
        )


def test_changes_of_layers_need_layers_and_their_entry():
    with pytest.raises(ValueError, match="no layer with a kernel"):
        inner.transformations({"scale": jnp.ones(3)})
    with pytest.raises(ValueError, match="no layer with a kernel"):
        inner.low_rank({"scale": jnp.ones(3)}, 1, KEY)
    apply = inner.transformed(lambda params, x: x)
    with pytest.raises(ValueError, match="must have the entry 'transformation'"):
        apply(mj.Params({"head": 1}, {}), jnp.ones(2))


def test_a_head_that_was_not_written_is_missed():
    apply = inner.written_head(None, lambda params, head, features: features * head, entry="scale")
    assert apply(mj.Params({"scale": 2.0}, {}), jnp.array([1, 3])).tolist() == [2.0, 6.0]
    with pytest.raises(ValueError, match="no entry 'scale'; adapt the params first"):
        apply(EMPTY, jnp.ones(2))


def test_features_of_a_module_leave_out_its_head():
    embed, params = algorithms.as_features(make_module(), "head")
    assert list(params.slow) == ["layers"] and params.fast == {}
    assert embed(params, jnp.ones((2, FEATURES), jnp.float32)).shape == (2, 8)
    linear = nnx.Linear(FEATURES, 2, rngs=nnx.Rngs(0))
    _, params = algorithms.as_features(linear, "head")
    assert set(params.slow) == {"kernel", "bias"}
    with pytest.raises(ValueError, match="weights of its own under 'kernel'"):
        algorithms.as_features(linear, "kernel")


@pytest.mark.parametrize(
    "make",
    [
        algorithms.matching_nets,
        algorithms.soft_kmeans_protonets,
        algorithms.simple_cnaps,
        algorithms.protonets,
    ],
)
def test_what_does_not_count_may_be_nan_and_nothing_may_count(make):
    """A net whose features are NaN for a row of zeros, a row that is NaN, and no support at all."""
    unit = lambda params, x, key=None, *, reference=None: (
        x / jnp.linalg.norm(x, axis=1, keepdims=True)
    )
    learner = make((unit, EMPTY), 2)
    x, y = jnp.asarray(features(5)), jnp.array([0, 1, 0, 1, 1])
    task = mj.Task(mj.Batch(x, y), mj.Batch(x + 0.1, y))
    expected, _ = learner.task_loss(learner.params, task, KEY)
    found, _ = learner.task_loss(learner.params, task._replace(support=padded(task.support)), KEY)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    nothing = task._replace(support=task.support._replace(weight=jnp.zeros(5)))
    value, metrics = learner.task_loss(learner.params, nothing, KEY)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)  # a guess
    assert jnp.isfinite(metrics["accuracy"])


def test_layers_in_a_list_are_not_passed_over():
    layer = {"kernel": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match="these are in a list"):
        inner.transformations({"layers": [layer, layer], "head": layer})
    heads = {"kernel": jnp.ones((4, 2, 3)), "bias": jnp.ones((2, 3))}  # of an attention layer
    factors = {"low_rank": inner.low_rank({"query": heads}, 1, KEY)}
    kernel_of = inner.with_low_rank(lambda params, x: params.slow["query"]["bias"] + x)
    assert kernel_of(mj.Params(factors, {"query": heads}), 0.0).shape == (2, 3)


def test_a_t_net_keeps_what_is_slow():
    affine = lambda params, x: x @ params.fast["w"]["kernel"] + params.slow["a"]
    shift, _ = mj.nets.from_function(affine)
    net = (shift, mj.Params({"w": {"kernel": jnp.ones((3, 2))}}, {"a": 5.0}))
    learner = algorithms.t_net(net)
    assert learner.apply(learner.params, jnp.ones((1, 3))).tolist() == [[8.0, 8.0]]
