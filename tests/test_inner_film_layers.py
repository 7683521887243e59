"""Fast weights written by an encoder of the support set, and nets that they modulate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree
from problems import FEATURES, WAYS, assert_close, first, make_tasks

import metajax as mj
from metajax.inner.amortised import amortize
from metajax.inner.film_layers import FiLM, film, modulate, modulated

KEY = jax.random.key(0)


def wide(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)


def make_task(rows=6, seed=0):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2 * rows, 2)), rng.normal(size=(2 * rows, 1))
    return mj.Task(
        *(
            mj.Batch(jnp.asarray(x[s]), jnp.asarray(y[s]))
            for s in (slice(0, rows), slice(rows, None))
        )
    )


def freeze(rate):
    """Descent of everything but the modulation."""
    label = lambda fast: {name: "freeze" if name == "modulation" else "move" for name in fast}
    return optax.multi_transform({"move": optax.sgd(rate), "freeze": optax.set_to_zero()}, label)


apply, net = mj.nets.functional(mj.nets.MLP(2, (6, 5), 1, rngs=nnx.Rngs(1)))
net = wide(net)
PLAIN = mj.losses.squared_error(apply)
LOSS = modulated(PLAIN)
START = net._replace(fast={**net.fast, "modulation": wide(film({"layers": net.fast["layers"]}))})
SIZE = ravel_pytree(START.fast["modulation"])[0].size
read, reader = mj.nets.functional(mj.nets.DeepSets(3, SIZE, width=12, rngs=nnx.Rngs(3)))
reader = wide(reader)


def context_apply(params, x):
    """A net with a context as one more input."""
    context = jnp.broadcast_to(params.fast["context"][None], (len(x), 3))
    return jnp.tanh(jnp.concatenate([x, context], axis=1) @ params.slow["kernel"])


def mean_of_pairs(params, support, key):
    """An encoder of one layer that lets rows count by their weight."""
    items = jnp.tanh(jnp.concatenate([support.x, support.y], axis=1) @ params.rule)
    return support.weight @ items / jnp.maximum(support.weight.sum(), 1)


def kernel(*shape, seed=3):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


WRITE_CONTEXT = amortize(lambda params, key: kernel(3, 3), mean_of_pairs, entry="context")
CONTEXT = mj.losses.squared_error(mj.nets.from_function(context_apply)[0])
CASES = {
    "mmaml": (
        mj.chain(modulate(read, reader), mj.inner_loop(LOSS, freeze(0.1), steps=2)),
        LOSS,
        START,
    ),
    "neural_process": (WRITE_CONTEXT, CONTEXT, mj.Params({}, {"kernel": kernel(5, 1)})),
    "written_cavia": (
        mj.chain(WRITE_CONTEXT, mj.inner_loop(CONTEXT, optax.sgd(0.1), steps=2)),
        CONTEXT,
        mj.Params({}, {"kernel": kernel(5, 1)}),
    ),
}
every = pytest.mark.parametrize("name", CASES)


@functools.cache
def make(name):
    """(params, compiled value and gradient of the episode)."""
    adaptation, loss, params = CASES[name]
    task_loss = mj.query_loss(adaptation, loss)
    value = lambda params, task: task_loss(params, task, KEY)[0]
    return adaptation.init(params, KEY), jax.jit(jax.value_and_grad(value)), value


def padded(task, junk=0.0):
    """Two more rows in the support set, among the others, of weight 0 and with junk in them."""
    rows = mj.Batch(
        *(jnp.concatenate([leaf, jnp.full((2, leaf.shape[1]), junk)]) for leaf in task.support[:2])
    )
    rows = rows._replace(weight=jnp.array([1.0] * 6 + [0.0] * 2))
    return task._replace(support=mj.take(rows, jnp.array([0, 6, 1, 2, 7, 3, 4, 5])))


@every
def test_order_and_padding_and_what_stands_in_it_change_nothing(name):
    params, run, value = make(name)
    task = padded(make_task())
    expected = run(params, task)
    shuffled = mj.take(task.support, jnp.array([3, 0, 7, 5, 1, 4, 2, 6]))
    assert_close(run(params, task._replace(support=shuffled)), expected, 1e-9)
    assert_close(run(params, padded(make_task(), 7.0)), expected, 1e-9)
    if (
        name == "neural_process"
    ):  # compiled is eager and padded is not; no inner loss multiplies a NaN by weight 0
        assert_close(value(params, make_task()), expected[0], 1e-9)
        assert_close(run(params, padded(make_task(), jnp.nan)), expected, 1e-9)


@every
def test_every_parameter_receives_its_gradient(name):
    params, run, _ = make(name)
    task = padded(make_task())
    _, slopes = run(params, task)
    for path, slope in jax.tree_util.tree_leaves_with_path(slopes):
        assert bool((slope != 0).any()), jax.tree_util.keystr(path)
    way = jax.tree.map(
        lambda leaf: np.random.default_rng(leaf.size).normal(size=leaf.shape), slopes
    )
    moved = lambda step: jax.tree.map(lambda leaf, along: leaf + step * along, params, way)
    along = sum(
        jax.tree.leaves(jax.tree.map(lambda slope, along: (slope * along).sum(), slopes, way))
    )
    difference = run(moved(1e-6), task)[0] - run(moved(-1e-6), task)[0]
    np.testing.assert_allclose(difference / 2e-6, along, rtol=1e-5)


def test_nan_in_padding_does_not_reach_the_modulation():
    adaptation, params = modulate(read, reader), mj.chain(modulate(read, reader)).init(START, KEY)
    params = params._replace(rule=params.rule[0])
    support = make_task().support._replace(weight=jnp.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0]))
    junk = support._replace(x=support.x.at[1].set(jnp.nan), y=support.y.at[4].set(jnp.inf))

    @jax.jit
    @jax.value_and_grad
    def size(params, support):
        return sum(
            (leaf**2).sum() for leaf in jax.tree.leaves(adaptation.adapt(params, support, KEY).fast)
        )

    assert_close(size(params, junk), size(params, support), 0)
    few = mj.take(make_task().support, jnp.array([0, 2, 3, 5]))  # eager, and without weights
    assert_close(
        size(params, support)[0],
        sum((leaf**2).sum() for leaf in jax.tree.leaves(adaptation.adapt(params, few, KEY).fast)),
        1e-12,
    )


def test_a_modulation_that_changes_nothing_is_maml():
    """In value and gradient, when the reader gives zero, and scale and shift stay 1 and 0."""
    params, run, _ = make("mmaml")
    silent = params._replace(
        rule=(params.rule[0]._replace(fast=jax.tree.map(jnp.zeros_like, reader.fast)), ())
    )
    value, slopes = run(silent, padded(make_task()))
    maml = mj.query_loss(mj.inner_loop(PLAIN, optax.sgd(0.1), steps=2), PLAIN)
    expected, slope = jax.jit(jax.value_and_grad(lambda params: maml(params, make_task(), KEY)[0]))(
        net
    )
    assert_close(value, expected, 1e-12)
    assert_close(
        {name: leaf for name, leaf in slopes.fast.items() if name != "modulation"},
        slope.fast,
        1e-12,
    )


def test_what_is_frozen_stays():
    params = make("mmaml")[0]
    modulation = modulate(read, reader).adapt(
        params._replace(rule=reader), make_task().support, KEY
    )
    all_move = mj.chain(modulate(read, reader), mj.inner_loop(LOSS, optax.sgd(0.1), steps=2))
    frozen, moved = (
        jax.jit(link.adapt)(params, make_task().support, KEY).fast
        for link in (CASES["mmaml"][0], all_move)
    )
    assert_close(frozen["modulation"], modulation.fast["modulation"], 1e-12)
    for one, other in zip(*map(jax.tree.leaves, (moved, modulation.fast)), strict=True):
        assert bool((one != other).any())


class Normed(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(2, 4, use_bias=False, rngs=rngs)
        self.norm = mj.nets.GroupNorm(4, groups=2)
        self.layer_norm = nnx.LayerNorm(4, rngs=rngs)
        self.table = nnx.Param(jnp.ones((4, 4)))
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x, by=None):
        """The same layers, with FiLM of what they give spelled out."""
        say = lambda name, y: y if by is None else y * by[name].scale[None] + by[name].shift[None]
        x = jax.nn.relu(say("norm", self.norm(self.first(x)))) @ self.table[...]
        return say("head", self.head(jax.nn.relu(say("layer_norm", self.layer_norm(x)))))


@pytest.mark.parametrize("fast", [nnx.Param, nnx.PathContains("head"), nnx.PathContains("bias")])
def test_film_is_what_it_says_in_layers_and_norms_fast_or_slow(fast):
    module = Normed(nnx.Rngs(0))
    run, params = mj.nets.functional(module, fast=fast)
    _, whole = mj.nets.functional(module)
    neutral = film(whole.fast)
    assert sorted(neutral) == [
        "head",
        "layer_norm",
        "norm",
    ]  # no bias: nothing to modulate in the others
    rng = np.random.default_rng(0)
    by = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), neutral)
    x = jnp.asarray(rng.normal(size=(5, 2)), jnp.float32)
    filmed = jax.jit(
        lambda by: modulated(run)(params._replace(fast={**params.fast, "modulation": by}), x)
    )
    expected = jax.jit(lambda by: module(x, by))
    for modulation in (by, {"norm": by["norm"]}):
        np.testing.assert_allclose(
            filmed(modulation), expected({**neutral, **modulation}), rtol=2e-5, atol=2e-5
        )
    np.testing.assert_array_equal(filmed(neutral), jax.jit(run)(params, x))


@pytest.mark.thorough  # the core's tests run without Haiku
def test_film_modulates_a_haiku_net():
    import haiku as hk

    haiku = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([3, 1])(x)))
    x = jnp.ones((2, 2), jnp.float32)
    weights = haiku.init(KEY, x)
    by = {"mlp/~/linear_1": FiLM(jnp.array([2.0]), jnp.array([3.0]))}
    assert film(weights).keys() == weights.keys()
    run = modulated(lambda params, x: haiku.apply(params.fast, x))
    got = run(mj.Params({**weights, "modulation": by}, ()), x)
    np.testing.assert_allclose(got, 2 * haiku.apply(weights, x) + 3, rtol=1e-5)


def test_cavia_moves_nothing_but_the_modulation_of_a_slow_net():
    params = mj.Params({"modulation": START.fast["modulation"]}, net.fast)
    cavia = mj.inner_loop(LOSS, optax.sgd(0.5), steps=3)
    support = make_task().support
    adapted = jax.jit(cavia.adapt)(params, support, KEY)
    assert adapted.fast.keys() == {"modulation"}
    assert LOSS(adapted, support, KEY)[0] < 0.97 * PLAIN(net, support, KEY)[0]
    slope = jax.jit(
        jax.grad(lambda params: mj.query_loss(cavia, LOSS)(params, make_task(), KEY)[0])
    )(params)
    assert all(bool((leaf != 0).any()) for leaf in jax.tree.leaves(slope))


def test_a_hypernetwork_writes_a_head_of_any_number_of_ways():
    """From class means, as `described_head` does from descriptions, through the query loss."""

    def encode(params, support, key):
        ways = int(support.info.shape[0])
        classes = support.weight[:, None] * jax.nn.one_hot(support.y, ways)
        mean_WxD = classes.T @ support.x / jnp.maximum(classes.sum(axis=0), 1)[:, None]
        written = mean_WxD @ params.rule
        return {"kernel": written[:, :-1].T, "bias": written[:, -1]}

    adaptation = amortize(
        lambda params, key: jnp.zeros((FEATURES, FEATURES + 1)), encode, entry="head"
    )
    task_loss = mj.query_loss(adaptation, mj.losses.cross_entropy(mj.linear_head()))

    @jax.jit
    def judge(rule, tasks):
        def mean(rule):
            run = lambda task: task_loss(mj.Params({}, {}, rule), task, KEY)
            losses, metrics = jax.vmap(run)(tasks)
            return losses.mean(), metrics["accuracy"].mean()

        return jax.value_and_grad(mean, has_aux=True)(rule)

    def tasks(ways, seed):
        made = make_tasks(64, ways=ways, seed=seed)
        return made._replace(support=made.support._replace(info=jnp.zeros((64, ways))))

    rule, trained = adaptation.init(mj.Params({}, {}), KEY).rule, tasks(WAYS, 0)
    for _ in range(100):
        rule -= 0.05 * judge(rule, trained)[1]
    assert judge(rule, tasks(5, 99))[0][1] > 0.5


def test_images_are_read_through_a_slow_body_by_any_function():
    def features(params, x):
        return jnp.tanh(x @ params.slow["body"]["kernel"] + params.slow["body"]["bias"][None])

    body = {"kernel": kernel(FEATURES, 3), "bias": jnp.zeros(3)}
    head = {"kernel": kernel(3, WAYS, seed=4), "bias": jnp.zeros(WAYS)}
    params = mj.Params({"head": head, "modulation": film({"body": body})}, {"body": body})
    said = lambda rule, rows, key: (rows.value @ rule).sum(axis=1)
    adaptation = modulate(
        said,
        kernel(3, 6),
        items=lambda params, support, key: modulated(features)(params, support.x),
    )
    params, task = adaptation.init(params, KEY), first(make_tasks())
    loss = mj.query_loss(
        adaptation,
        modulated(mj.losses.cross_entropy(mj.linear_head(mj.nets.from_function(features)[0]))),
    )
    slope = jax.jit(jax.grad(lambda params: loss(params, task, KEY)[0]))(params)
    assert all(bool((leaf != 0).any()) for leaf in jax.tree.leaves(slope))
    with pytest.raises(ValueError, match=r"Rows with integers.*int32.*items=lambda"):
        modulate(said, kernel(3, 6)).adapt(params, task.support, KEY)


def test_without_a_shot_the_modulation_is_the_readers_own():
    adaptation = modulate(read, reader)
    params = adaptation.init(START, KEY)
    write = jax.jit(lambda support: adaptation.adapt(params, support, KEY).fast["modulation"])
    nothing, other = (
        write(make_task(seed=n).support._replace(weight=jnp.zeros(6))) for n in (0, 1)
    )
    assert_close(nothing, other, 0)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(nothing))


def test_errors_say_what_to_do():
    support, params = make_task().support, modulate(read, reader).init(START, KEY)
    with pytest.raises(ValueError, match=r"params.rule is empty; call params = adaptation.init"):
        modulate(read, reader).adapt(START, support, KEY)
    with pytest.raises(
        ValueError, match=r"must be a dict to write its entry 'modulation', got tuple"
    ):
        modulate(read, reader).adapt(params._replace(fast=()), support, KEY)
    with pytest.raises(ValueError, match=r"\['head', 'layers'\], but no 'modulation' to move"):
        modulate(read, reader).adapt(params._replace(fast=net.fast), support, KEY)
    with pytest.raises(ValueError, match=rf"must give shape \(1, {SIZE}\).*got \(1, 3\)"):
        modulate(lambda rule, x, key: read(rule, x)[:, :3], reader).adapt(params, support, KEY)
    with pytest.raises(
        ValueError,
        match=r"must have 'modulation', as film\(...\) makes it; it is \['head', 'layers'\]",
    ):
        LOSS(net, support, KEY)
    with pytest.raises(
        ValueError, match=r"no layer with a bias to modulate in \{'kernel': 'float64\[2, 3\]'\}"
    ):
        film({"kernel": jnp.ones((2, 3))})
    for layer, channels in {"body": 4, "head": 7}.items():
        by = {layer: FiLM(jnp.ones(channels), jnp.zeros(channels))}
        with pytest.raises(
            ValueError, match=rf"\['{layer}'\] is to be modulated by .*\[{channels}\]"
        ):
            LOSS(net._replace(fast={**net.fast, "modulation": by}), support, KEY)
    with pytest.raises(ValueError, match="is to be modulated by"):
        LOSS(net._replace(fast={**net.fast, "modulation": jnp.ones(3)}), support, KEY)
