import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from encoders import quick
from flax import nnx
from problems import assert_close

import metajax as mj
from metajax import nets

X = jnp.ones((2, 4))
KEYS = jax.random.split(jax.random.key(0))


class WithDropout(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(4, 4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.layer(x))


@functools.cache
def small_net():
    return nets.MLP(4, (3,), 2, rngs=nnx.Rngs(0))


def test_a_key_seeds_dropout_and_none_is_deterministic():
    plain, params = nets.functional(WithDropout(nnx.Rngs(0)))
    apply = quick(plain)
    assert_close(apply(params, X), apply(params, X))
    dropped = apply(params, X, KEYS[0])
    assert_close(apply(params, X, KEYS[0]), dropped)
    assert not np.allclose(dropped, apply(params, X, KEYS[1]))
    assert (dropped == 0).any()
    assert not (apply(params, X) == 0).any()


class Noise(nnx.Module):
    """Noise of its own, which a view turns off."""

    def __init__(self, rngs):
        self.scale = nnx.Param(jnp.ones(()))
        self.rngs = rngs
        self.deterministic = False

    def set_view(self, deterministic=None):
        if deterministic is not None:
            self.deterministic = deterministic

    def __call__(self, x):
        x = self.scale[...] * x
        return x if self.deterministic else x + jax.random.normal(self.rngs.noise(), x.shape)


def test_noise_of_a_module_s_own_is_turned_off_by_set_view():
    apply, params = nets.functional(Noise(nnx.Rngs(0)))
    noisy = [apply(params, X, key) for key in KEYS[:2]]
    assert not np.allclose(*noisy) and not np.allclose(noisy[0], X)
    assert_close(apply(params, X), X, 0)
    assert_close(nets.deterministic(apply)(params, X, KEYS[0]), X, 0)


def test_a_learner_of_a_deterministic_net_is_evaluated_without_dropout():
    apply, params = nets.functional(WithDropout(nnx.Rngs(0)))
    support = mj.Batch(X, jnp.arange(2))
    tasks = jax.tree.map(lambda leaf: leaf[None], mj.Task(support, support))

    def losses(net):
        learner = mj.algorithms.maml(net, inner_rate=0.1)
        return [mj.evaluate(learner.task_loss, params, tasks, key)["loss"].mean for key in KEYS]

    with_dropout = losses((apply, params))
    without = losses((nets.deterministic(apply), params))
    assert abs(with_dropout[0] - with_dropout[1]) > 1e-3
    assert_close(without[0], without[1])


class WithDropoutAndHead(WithDropout):
    def __init__(self, rngs):
        super().__init__(rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def embed(self, x):
        return super().__call__(x)

    def __call__(self, x):
        return self.head(self.embed(x))


def test_a_learner_of_a_deterministic_view_is_evaluated_without_dropout():
    """It keeps `embed` and `head`, which a pair (deterministic(apply), params) does not."""
    net = WithDropoutAndHead(nnx.Rngs(0))
    learner = mj.algorithms.protonets(net, 2)
    tester = mj.algorithms.protonets(nnx.view(net, deterministic=True), 2)
    x = jax.random.normal(KEYS[0], (4, 4))
    support = mj.Batch(x, jnp.array([0, 1, 0, 1]))
    tasks = jax.tree.map(lambda leaf: leaf[None], mj.Task(support, support))

    def losses(task_loss):
        return [mj.evaluate(task_loss, learner.params, tasks, key)["loss"].mean for key in KEYS]

    without = losses(tester.task_loss)
    assert_close(without[0], without[1])
    with_dropout = losses(learner.task_loss)  # the view has not changed the net
    assert abs(with_dropout[0] - with_dropout[1]) > 1e-3


def test_functional_splits_by_filter():
    net = nets.Conv4(5, width=4, rngs=nnx.Rngs(0))
    _, params = nets.functional(net, fast=nnx.PathContains("head"))
    assert list(params.fast) == ["head"]
    assert sorted(params.slow) == ["convolutions", "norms"]
    message = r"makes nothing fast; the module has .*\['head'\]\['kernel'\]"
    with pytest.raises(ValueError, match=message):
        nets.functional(net, fast=lambda path, value: False)


def test_weights_of_another_net_are_refused():
    apply, params = nets.functional(small_net())
    body = {"layers": params.fast["layers"]}
    other_head = {**body, "head": {**params.fast["head"], "scale": X}}
    with pytest.raises(ValueError, match=r"missing are \['head/bias', 'head/kernel'\], unknown"):
        apply(params._replace(fast=body), X)
    with pytest.raises(ValueError, match=r"missing are \[\], unknown are \['head/scale'\]"):
        apply(params._replace(fast=other_head), X)
    inside = {"head": {"scale": X}}
    with pytest.raises(ValueError, match=r"unknown are \['head/scale'\]"):
        apply(params._replace(slow=inside), X)
    with pytest.raises(ValueError, match="both have 'head/"):
        apply(params._replace(slow={"head": params.fast["head"]}), X)


def test_entries_that_an_adaptation_writes_for_others_are_ignored():
    apply, params = nets.functional(small_net())
    slow = mj.Params({"classifier": {"kernel": X}, "weights": X}, params.fast)
    assert_close(apply(slow, X), apply(params, X), 0)
    write = mj.prototypes(apply, 2, entry="classifier")
    batch = mj.Batch(jnp.eye(4), jnp.array([0, 0, 1, 1]))
    adapted = write.adapt(mj.Params({}, params.fast), batch, KEYS[0])
    logits = mj.linear_head(apply, entry="classifier")(adapted, batch.x)
    assert logits.shape == (4, 2)


def test_a_function_takes_only_what_it_uses():
    start = mj.Params({"scale": jnp.array(3.0)}, {})
    ways = [
        (lambda params, x: x, (1.0, 1.0)),
        (lambda params, x, key: x if key is None else 2 * x, (1.0, 2.0)),
        (lambda params, x, key=None, *, reference=None: (key is None, reference), None),
        (lambda params, x, *, reference: reference, None),
    ]
    for function, expected in ways:
        apply, params = nets.from_function(function, start)
        assert params is start
        if expected is not None:
            assert float(apply(params, 1.0)) == expected[0]
            assert float(apply(params, 1.0, KEYS[0], reference=X)) == expected[1]
    both, _ = nets.from_function(ways[2][0])
    assert both(start, X, KEYS[0], reference=X) == (False, X)
    only_reference, _ = nets.from_function(ways[3][0])
    assert only_reference(start, X, KEYS[0], reference=X) is X
    assert nets.from_function(ways[0][0])[1] == mj.Params({}, {})


def test_other_keywords_are_handed_on():
    apply, params = nets.from_function(lambda params, x, *, times=1: times * x)
    assert apply(params, 2.0, times=3) == 6.0
    with pytest.raises(TypeError, match="method"):
        apply(params, 2.0, method="embed")


def test_the_identity_encoder_returns_its_input():
    params = mj.Params({}, {})
    assert nets.identity_encoder(params, X) is X
    assert nets.identity_encoder(params, X, KEYS[0], reference=None) is X
    both = mj.Modalities({"audio": X, "image": 2 * X}, {"audio": X[:, 0], "image": X[:, 0]})
    assert nets.identity_encoder(params, both) is both.value


def test_a_net_computed_in_bfloat16_keeps_its_weights_and_small_steps():
    seen = []

    def times(params, x):
        seen.append((params.fast.dtype, x.dtype))
        return x * params.fast

    apply, start = nets.from_function(times, mj.Params(jnp.ones((), jnp.float32), ()))
    batch = mj.Batch(jnp.ones((2, 1), jnp.float32), jnp.zeros((2, 1), jnp.float32))

    def descend(apply, params):
        loss = mj.losses.squared_error(apply)
        adapt = mj.inner_loop(loss, optax.sgd(1e-4), steps=10).adapt
        return adapt(params, batch, KEYS[0]).fast

    moved = descend(mj.losses.computed_in(apply), start)
    assert moved.dtype == jnp.float32
    np.testing.assert_allclose(moved, (1 - 2e-4) ** 10, atol=1e-4)
    assert set(seen) == {(jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.bfloat16))}
    narrow = start._replace(fast=start.fast.astype(jnp.bfloat16))
    assert descend(apply, narrow) == 1, "weights that are bfloat16 themselves lose the steps"
