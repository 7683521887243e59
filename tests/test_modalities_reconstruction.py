"""SMIL: missing features are reconstructed inside an ordinary loss, learned by the inner loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from problems import assert_close

import metajax as mj
from metajax.modalities import complete, completed, init_completion, prior_weights

NAMES, ROWS, WAYS, WIDTH, PRIORS, KEY = ("audio", "image", "text"), 8, 3, 4, 3, jax.random.key(0)
TWO = NAMES[:2]  # the modalities of the net; `complete` alone is tested with three
EVERY_SUBSET = np.array([[row >> m & 1 for m in range(3)] for row in range(8)], bool)
fill = jax.jit(complete)
weigh = jax.jit(prior_weights)


def make_task(seed=0):
    """Support rows with each subset of two modalities, the empty one too; a complete query set."""
    rng = np.random.default_rng(seed)

    def batch(masks):
        value = {name: jnp.asarray(rng.normal(size=(ROWS, 5))) for name in TWO}
        present = {name: jnp.asarray(masks[:, m]) for m, name in enumerate(TWO)}
        y = jnp.asarray(rng.integers(0, WAYS, ROWS), jnp.int32)
        return mj.Batch(mj.Modalities(value, present), y, weight=jnp.ones(ROWS))

    return mj.Task(batch(EVERY_SUBSET), batch(np.ones((ROWS, 3), bool)))


def wide(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)


@functools.cache
def make_net():
    """(apply of the net itself, apply of the net that completes, params)."""
    encoders = {name: nnx.Linear(5, WIDTH, rngs=nnx.Rngs(i)) for i, name in enumerate(TWO)}
    together = mj.nets.Multimodal(encoders, mj.nets.fusion.mean, WIDTH, WAYS, rngs=nnx.Rngs(4))
    net, params = mj.nets.functional(together)
    encode, decide = (functools.partial(net, method=method) for method in ("encode", "decide"))
    priors = {
        name: np.random.default_rng(i).normal(size=(PRIORS, WIDTH)) for i, name in enumerate(TWO)
    }
    slow = {"completion": init_completion(priors, KEY, hidden=5)}
    return net, completed(encode, decide), wide(params._replace(slow=slow))


@functools.cache
def compiled(steps):
    """(params, task) -> (loss, gradients by both), with so many inner steps."""
    loss = mj.losses.cross_entropy(make_net()[1])
    task_loss = mj.query_loss(mj.inner_loop(loss, optax.sgd(0.1), steps=steps), loss)
    one = lambda params, task: task_loss(params, task, KEY)[0]
    return jax.jit(jax.value_and_grad(one, (0, 1), allow_int=True))


@functools.cache
def sum_of_gradients(steps):
    """Of three tasks, without signs."""
    gradients = [compiled(steps)(make_net()[2], make_task(seed))[1][0] for seed in range(3)]
    return jax.tree.map(lambda *leaves: sum(np.abs(leaf) for leaf in leaves), *gradients)


def with_x(function, task):
    return mj.Task(*(batch._replace(x=function(batch.x)) for batch in task[:2]))


def spoil(x):
    """NaN where a modality is absent."""
    value = {n: jnp.where(x.present[n][:, None], f, jnp.nan) for n, f in x.value.items()}
    return x._replace(value=value)


def test_absent_values_are_ignored():
    run, params, task = compiled(1), make_net()[2], make_task()
    loss, (to_params, to_task) = run(params, task)
    again, (to_params_again, to_task_again) = run(params, with_x(spoil, task))
    assert_close((loss, to_params), (again, to_params_again), 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((loss, to_params)))
    for name in TWO:
        gradient = np.asarray(to_task.support.x.value[name])
        np.testing.assert_array_equal(gradient, to_task_again.support.x.value[name])
        assert not gradient[~np.asarray(task.support.x.present[name])].any()
        assert gradient.any() and np.asarray(to_task.query.x.value[name]).any()


def test_every_parameter_receives_gradient():
    summed = jax.tree_util.tree_leaves_with_path(sum_of_gradients(1))
    assert [jax.tree_util.keystr(path) for path, leaf in summed if not (leaf > 0).all()] == []


def test_the_reconstruction_is_learned_through_the_second_derivative_alone():
    """A complete query set reads no prior: only the inner step does. No step changes nothing."""
    none, one = (sum_of_gradients(steps).slow["completion"] for steps in (0, 1))
    for part in ("priors", "weigh"):
        assert not any(leaf.any() for leaf in jax.tree.leaves(none[part]))
        assert all((leaf > 0).any() for leaf in jax.tree.leaves(one[part]))
    _, apply, params = make_net()
    query_key = jax.random.split(KEY)[1]
    loss = jax.jit(mj.losses.cross_entropy(apply))
    expected = loss(params, make_task().query, query_key)[0]
    assert_close(compiled(0)(params, make_task())[0], expected, 1e-12)


def test_the_gradient_is_that_of_finite_differences():
    run, params, task = compiled(1), make_net()[2], make_task()
    draw = lambda leaf: np.random.default_rng(leaf.size).normal(size=leaf.shape)
    direction = jax.tree.map(draw, params)
    up, down = (jax.tree.map(lambda p, d, s=s: p + s * d, params, direction) for s in (1e-5, -1e-5))
    measured = (run(up, task)[0] - run(down, task)[0]) / 2e-5
    products = jax.tree.map(lambda g, d: (g * d).sum(), run(params, task)[1][0], direction)
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), measured, rtol=1e-6)


def test_padded_rows_have_no_influence():
    run, params, task = compiled(1), make_net()[2], make_task()
    weight = jnp.ones(ROWS).at[3].set(0.0)
    padded = task._replace(support=task.support._replace(weight=weight))
    value = {n: f.at[3].set(7.0) for n, f in task.support.x.value.items()}
    other = padded._replace(support=padded.support._replace(x=task.support.x._replace(value=value)))
    (loss, (gradient, _)), (again, (gradient_again, _)) = run(params, padded), run(params, other)
    assert_close((loss, gradient), (again, gradient_again), 0)


def test_where_nothing_is_missing_and_without_noise_it_is_the_net_itself():
    net, apply, params = make_net()
    x, plain = make_task().query.x, params._replace(slow={})
    assert_close(jax.jit(apply)(params, x), jax.jit(net)(plain, x), 1e-12)


def features_of(sizes=(2, 3, 4)):
    """Three modalities whose features differ in width, with each subset of them in a row."""
    rng = np.random.default_rng(0)
    value, present = {}, {}
    for m, name in enumerate(NAMES):
        value[name] = jnp.asarray(rng.normal(size=(ROWS, sizes[m])))
        present[name] = jnp.asarray(EVERY_SUBSET[:, m])
    return mj.Modalities(value, present)


@functools.cache
def weights_of(sizes=(2, 3, 4)):
    """Priors that differ in number and in width."""
    rng = np.random.default_rng(1)
    priors = {name: jnp.asarray(rng.normal(size=(n, n))) for name, n in zip(NAMES, sizes)}  # noqa: B905
    return init_completion(priors, KEY, hidden=3)


def test_names_and_not_their_order_tell_modalities_apart():
    """Not compiled: JAX sorts the names of what it compiles."""

    def backward(tree):
        return {n: backward(tree[n]) for n in reversed(tree)} if isinstance(tree, dict) else tree

    weights, features = weights_of((3, 3, 3)), features_of((3, 3, 3))
    swapped = mj.Modalities(*(backward(tree) for tree in features))
    assert_close(complete(backward(weights), swapped, KEY), complete(weights, features, KEY), 0)


def test_a_missing_modality_is_a_mean_of_priors_and_a_present_one_stays():
    features, weights = jax.device_get((features_of(), weights_of()))
    ours, omega = jax.device_get((fill(weights, features), weigh(weights, features)))
    for m, name in enumerate(NAMES):
        here = EVERY_SUBSET[:, m]
        assert ours.present[name].all() and omega[name].shape == (ROWS, 2 + m)
        np.testing.assert_array_equal(ours.value[name][here], features.value[name][here])
        np.testing.assert_allclose(omega[name].sum(axis=1), 1)
        mixed = omega[name] @ weights["priors"][name]
        np.testing.assert_allclose(ours.value[name][~here], mixed[~here])
    reads = weights["weigh"]["text"]
    logits = sum(
        np.tanh(features.value[n][3] @ reads[n]["in"]) @ reads[n]["out"] for n in ("audio", "image")
    )
    np.testing.assert_allclose(omega["text"][3], np.exp(logits) / np.exp(logits).sum())


def test_features_of_absent_modalities_are_ignored():
    """NaN from an encoder changes neither what is completed nor a gradient, bit for bit."""
    features, weights = features_of(), weights_of()

    def loss(weights, features):
        value = complete(weights, features, KEY).value
        return sum(jnp.sin(f).sum() for f in value.values()), value

    run = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True, allow_int=True))
    values, (to_weights, to_features) = run(weights, features)
    again, (to_weights_again, to_features_again) = run(weights, spoil(features))
    ours = (values, to_weights, to_features.value)
    assert_close(ours, (again, to_weights_again, to_features_again.value), 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(ours))


def test_without_any_modality_it_is_the_mean_of_the_priors():
    weights = weights_of()
    ours = fill(weights, spoil(features_of()))
    for name in NAMES:
        expected = np.asarray(weights["priors"][name]).mean(axis=0)
        np.testing.assert_allclose(ours.value[name][0], expected, rtol=1e-12)


def test_where_all_priors_are_equal_it_is_that_prior():
    weights = weights_of()
    same = {n: np.broadcast_to(prior[:1], prior.shape) for n, prior in weights["priors"].items()}
    ours = fill({**weights, "priors": same}, features_of())
    for m, name in enumerate(NAMES):
        missing = ~EVERY_SUBSET[:, m]
        expected = np.broadcast_to(same[name][0], (4, 2 + m))
        np.testing.assert_allclose(ours.value[name][missing], expected)


def test_noise_comes_from_the_key_and_has_the_width_of_its_weights():
    features, weights = features_of(), weights_of()
    once, again, other = (fill(weights, features, jax.random.key(seed)).value for seed in (0, 0, 1))
    assert_close(once, again, 0)
    assert all(not np.allclose(once[name], other[name]) for name in NAMES)
    narrow = {
        name: {"kernel": s["kernel"], "bias": s["bias"] - 40}
        for name, s in weights["spread"].items()
    }
    assert_close(fill({**weights, "spread": narrow}, features, KEY), fill(weights, features), 1e-12)
    one = mj.Modalities({"a": jnp.ones((20000, 1))}, {"a": jnp.ones(20000, bool)})
    factor = fill(init_completion({"a": jnp.ones((1, 1))}, KEY), one, KEY).value["a"]
    normal = np.random.default_rng(0).normal(size=100000)
    expected = np.logaddexp(0, np.log(np.e - 1) + np.log(2) * normal)
    moments = [factor.mean(), factor.std()]
    np.testing.assert_allclose(moments, [expected.mean(), expected.std()], rtol=0.02)


def test_an_encoder_need_not_know_of_absence():
    """NaN where a modality is absent reaches no gradient of an encoder that reads every row."""
    value = {"a": jnp.ones((3, 2)), "b": jnp.ones((3, 2)).at[1].set(jnp.nan)}
    x = mj.Modalities(value, {"a": jnp.ones(3, bool), "b": jnp.array([True, False, True])})

    def encode(params, x, key=None, *, reference=None):
        return {name: part * params.fast[name][None] for name, part in x.value.items()}

    def decide(params, features, key=None):
        return sum(features.value.values())

    priors = {"a": jnp.ones((2, 2)), "b": jnp.eye(2)}
    slow, fast = {"mine": init_completion(priors, KEY)}, {"a": jnp.ones(2), "b": jnp.ones(2)}
    net = completed(encode, decide, entry="mine")
    loss = mj.losses.cross_entropy(net)
    batch = mj.Batch(x, jnp.array([0, 1, 0]))
    slope = jax.jit(jax.grad(lambda fast: loss(mj.Params(fast, slow), batch, None)[0]))(fast)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))
    with pytest.raises(ValueError, match=r"x must be a metajax.Modalities, got"):
        net(mj.Params(fast, slow), value["a"])


def test_errors_say_what_to_do():
    _, apply, params = make_net()
    x, weights, features = make_task().query.x, weights_of(), features_of()
    with pytest.raises(ValueError, match="needs an entry 'completion', made by init_completion"):
        apply(params._replace(slow={}), x)
    with pytest.raises(ValueError, match="got tuple"):
        apply(params._replace(slow=()), x)
    with pytest.raises(ValueError, match="hidden must be a whole number, 1 or more, got 0"):
        init_completion({"a": jnp.ones((2, 3))}, KEY, hidden=0)
    with pytest.raises(ValueError, match=r"be real numbers \[K, d\], got shapes {'a': \(3,\)}"):
        init_completion({"a": jnp.ones(3)}, KEY)
    with pytest.raises(ValueError, match="be real numbers"):
        init_completion({"a": jnp.ones((2, 3), int)}, KEY)
    renamed = mj.Modalities(
        *({"sound" if n == "audio" else n: tree[n] for n in NAMES} for tree in features)
    )
    with pytest.raises(ValueError, match=r"got features of .*sound"):
        complete(weights, renamed)
    narrow = features._replace(value={**features.value, "text": features.value["text"][:, :1]})
    with pytest.raises(ValueError, match=r"'text': \(4, 4\).*'text': \(8, 1\)"):
        complete(weights, narrow)
    short = features._replace(present={**features.present, "text": jnp.ones(3, bool)})
    with pytest.raises(ValueError, match="a presence for each of the same examples"):
        prior_weights(weights, short)
