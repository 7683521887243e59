"""The core knows nothing of Flax: nets of other libraries learn through their adapters."""

import functools
import sys

import equinox as eqx
import flax.linen as linen
import haiku as hk
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

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 1)), jnp.float32)
KEY = jax.random.key(0)
WIDTH = 32


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x, train=False, reference=None):
        x = jax.nn.relu(linen.Dense(WIDTH)(x))
        if reference is not None:
            x = x - x.mean(0, where=reference[:, None], keepdims=True)
        shift = self.variable("constants", "shift", jnp.ones, (WIDTH,))
        x = linen.Dropout(0.5, deterministic=not train)(x + 0 * shift.value[None])
        return linen.Dense(1)(x)

    @linen.compact
    def double(self, x):
        return 2 * x


class EquinoxNet(eqx.Module):
    mlp: eqx.nn.MLP
    dropout: eqx.nn.Dropout

    def __init__(self, key):
        self.mlp = eqx.nn.MLP(1, WIDTH, WIDTH, 1, key=key)
        self.dropout = eqx.nn.Dropout(0.5)

    def __call__(self, x, *, key=None, times=1):
        return times * self.dropout(self.mlp(x), key=key)


class Scale(eqx.Module):
    factor: jax.Array

    def __init__(self):
        self.factor = jnp.array(2.0, jnp.float32)

    def __call__(self, x):
        return self.factor * x


def haiku_net(x, is_training=False):
    x = jax.nn.relu(hk.Linear(WIDTH)(x))
    if is_training:
        x = hk.dropout(hk.next_rng_key(), 0.5, x)
    return hk.Linear(1)(x)


def stateful_net(x):
    count = hk.get_state("count", (), init=jnp.zeros)
    hk.set_state("count", count + 1)
    return haiku_net(x) + count


def narrow(pair):
    """The weights in float32, as those libraries make them without x64."""
    apply, params = pair
    return apply, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)


def make_linen(fast=None):
    net = LinenNet()
    return narrow(nets.from_linen(net, net.init(KEY, X), fast))


def make_haiku(fast=None):
    net = hk.without_apply_rng(hk.transform(haiku_net))
    return narrow(nets.from_haiku(net, net.init(KEY, X), fast=fast))


def make_stateful_haiku(fast=None):
    net = hk.transform_with_state(stateful_net)
    return narrow(nets.from_haiku(net, *net.init(KEY, X), fast=fast))


def make_equinox(fast=None):
    return narrow(nets.from_equinox(eqx.nn.MLP(1, 1, WIDTH, 1, key=KEY), fast))


def make_flax(fast=None):
    apply, params = narrow(nets.functional(nets.MLP(1, (WIDTH,), 1, rngs=nnx.Rngs(0))))
    return apply, params if fast is None else nets.split_params(params, fast)


def make_function(fast=None):
    weights = {"in": jnp.ones((1, WIDTH), jnp.float32), "out": jnp.ones((WIDTH, 1), jnp.float32)}

    def forward(params, x):
        joined = nets.join_params(params)
        return jax.nn.relu(x @ joined["in"]) @ joined["out"]

    apply, params = nets.from_function(forward, mj.Params(weights, {}))
    return apply, params if fast is None else nets.split_params(params, fast)


# {name: (make, path of one weight)}
ADAPTERS = {
    "functional": (make_flax, "head/bias"),
    "from_function": (make_function, "out"),
    "from_linen": (make_linen, "Dense_1/bias"),
    "from_haiku": (make_haiku, "linear_1/b"),
    "from_haiku_with_state": (make_stateful_haiku, "linear_1/b"),
    "from_equinox": (make_equinox, "layers/1/bias"),
}
SAMPLE = mj.data.meta_batch(mj.data.sinusoids(shots=10, queries=10), tasks=8)


@pytest.mark.parametrize("name", ["from_linen", "from_haiku", "from_equinox"])
def test_maml_learns_through_a_net(name):
    apply, params = ADAPTERS[name][0]()
    loss = mj.losses.squared_error(apply)
    task_loss = mj.query_loss(mj.inner_loop(loss, optax.sgd(0.01), steps=1), loss)
    outer = mj.outer_loop(task_loss, optax.adam(1e-2))
    tasks = SAMPLE((), jax.random.key(9))

    def train(params):
        def step(state, key):
            draw, learn = jax.random.split(key)
            return outer.step(state, SAMPLE((), draw), learn)[0], None

        keys = jax.random.split(jax.random.key(2), 1000)
        state, _ = jax.lax.scan(step, outer.init(params), keys)
        ends = (params, state.params)
        return [mj.evaluate(task_loss, end, tasks, KEY)["loss"].mean for end in ends]

    before, after = jax.jit(train)(params)
    assert after < 0.7 * before


@pytest.mark.parametrize("name", ADAPTERS)
def test_any_division_into_fast_and_slow_gives_the_same_output(name):
    make, path = ADAPTERS[name]
    apply, params = make()
    run = quick(apply)
    expected = run(params, X)
    assert expected.shape == (3, 1)
    assert not jax.tree.leaves(params.slow)

    only = nets.split_params(params, lambda own: own == path)
    assert len(jax.tree.leaves(only.fast)) == 1
    others = nets.split_params(only, lambda own: own != path)
    assert len(jax.tree.leaves(others.slow)) == 1
    for divided in (only, others, nets.split_params(others, lambda own: True)):
        assert_close(run(divided, X), expected, 0)
    assert_close(make(lambda own: own == path)[1], only, 0)
    with pytest.raises(ValueError, match=f"makes nothing fast; the net has .*{path}"):
        make(lambda own: False)


@pytest.mark.parametrize("name", [name for name in ADAPTERS if name != "from_function"])
def test_weights_of_another_net_are_refused(name):
    apply, params = ADAPTERS[name][0]()
    with pytest.raises(ValueError, match=r"missing are \['.*unknown are \[\]"):
        apply(params._replace(fast={}, slow={}), X)
    assert_close(apply(params._replace(slow={"decay": jnp.ones(3)}), X), apply(params, X), 0)


def assert_random(apply, params, **options):
    """A key seeds dropout, and without one the output is deterministic."""
    run = quick(functools.partial(apply, **options))
    first, second = (run(params, X, jax.random.key(seed)) for seed in (1, 2))
    assert_close(run(params, X, jax.random.key(1)), first, 0)
    assert not np.allclose(first, second)


def test_linen_gets_keywords_a_key_a_method_and_the_reference():
    apply, params = make_linen()
    assert_random(apply, params, train=True)
    assert_close(apply(params, X, KEY), apply(params, X), 0)
    assert_close(apply(params, X, method="double"), 2 * X, 0)
    assert_close(apply(params, X, method=LinenNet.double), 2 * X, 0)
    reference = jnp.array([True, True, False])
    assert not np.allclose(apply(params, X, reference=reference), apply(params, X))


def test_linen_variables_may_be_frozen():
    net = LinenNet()
    variables = linen.FrozenDict(net.init(KEY, X))
    apply, params = nets.from_linen(net, variables)
    assert type(params.fast["Dense_0"]) is dict
    assert apply(params, X).shape == (3, 1)


def test_haiku_gets_keywords_and_a_key():
    net = hk.transform(haiku_net)
    apply, params = narrow(nets.from_haiku(net, net.init(KEY, X)))
    assert_random(apply, params, is_training=True)
    assert_close(apply(params, X), make_haiku()[0](params, X), 0)


def test_the_state_of_haiku_is_constant():
    apply, params = make_stateful_haiku()
    assert_close(apply(params, X), make_haiku()[0](params, X), 0)
    net = hk.transform_with_state(stateful_net)
    weights, state = net.init(KEY, X)
    later = jax.tree.map(lambda leaf: leaf + 2, state)
    moved, _ = nets.from_haiku(hk.without_apply_rng(net), weights, later)
    assert_close(moved(params, X), apply(params, X) + 2)
    assert_close(moved(params, X), apply(params, X) + 2)


def test_equinox_gets_keywords_and_a_key_for_each_example():
    apply, params = narrow(nets.from_equinox(EquinoxNet(KEY)))
    assert_random(apply, params)
    same = jnp.ones((64, 1), jnp.float32)
    dropped = quick(apply)(params, same, KEY) == 0
    assert len(np.unique(np.asarray(dropped), axis=0)) > 1, "the key is split over examples"
    inference = apply(params, X)
    assert not (inference == 0).any()
    assert_close(apply(params, X, times=3), 3 * inference)


def test_an_equinox_model_without_a_key_is_called_without_one():
    apply, params = narrow(nets.from_equinox(Scale()))
    assert_close(apply(params, X, KEY), 2 * X, 0)
    assert_close(apply(params, X), 2 * X, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nets.from_linen(nnx.Linear(1, 1, rngs=nnx.Rngs(0)), {}), "use functional"),
        (lambda: nets.from_linen(LinenNet(), {"batch_stats": {}}), r"got \['batch_stats'\]"),
        (lambda: nets.from_haiku(haiku_net, {}), "takes what hk.transform .* got function"),
        (lambda: nets.from_haiku(hk.transform(haiku_net), {}, {}), "Leave state out"),
        (
            lambda: nets.from_haiku(hk.transform_with_state(haiku_net), {}),
            "Give the state of transformed.init",
        ),
    ],
)
def test_what_is_not_a_net_of_that_library_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_missing_library_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "haiku", None)
    monkeypatch.setitem(sys.modules, "equinox", None)
    with pytest.raises(ImportError, match="pip install dm-haiku"):
        nets.from_haiku(None, {})
    with pytest.raises(ImportError, match="pip install equinox"):
        nets.from_equinox(None)
