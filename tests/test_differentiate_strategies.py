"""Strategies: exact ones agree, biased ones have the bias that they state, the rest are errors."""

import functools
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.test_util import check_grads
from problems import assert_close, first, make_tasks

import metajax as mj

KEY = jax.random.key(0)
STEPS = 3
# docs/differentiate.md says what JAX refuses in its experiment.
NO_HESSIAN = getattr(jax.config, "jax_remat3", False) and jax.__version_info__ >= (0, 11)
EXACT = {
    "step remat": mj.unroll(remat=1),
    "recursive remat": mj.unroll(remat=3),
    "truncated to all": mj.truncated(STEPS),
    "mixed": mj.mixed_mode(),
    "mixed, all stored": mj.mixed_mode(remat=0),
    "mixed, recursive": mj.mixed_mode(remat=2, save_gradients=False),
}
OPTIMIZERS = {
    "sgd": optax.sgd,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "adam": functools.partial(optax.adam, eps_root=1e-8),
}


def learned_rate(make, initial=0.05):
    """Any optimizer with a learned step size."""
    return mj.Rule(lambda params, key: jnp.asarray(initial, jnp.float64), make)


def mlp():
    w = jax.random.split(jax.random.key(1), 2)
    fast = {"head": jax.random.normal(w[0], (8, 3))}
    slow = {"body": 0.5 * jax.random.normal(w[1], (4, 8))}
    apply = lambda params, x, key=None, **_: jnp.tanh(x @ params.slow["body"]) @ params.fast["head"]
    return apply, mj.Params(fast, slow), first(make_tasks())


def conv4():
    net = mj.nets.Conv4(3, channels=1, width=4, pool=True, size=16, rngs=nnx.Rngs(0))
    apply, params = mj.nets.functional(net, fast=nnx.Not(nnx.PathContains(0)))
    x, y = jax.random.normal(KEY, (2, 6, 16, 16, 1)), jnp.arange(6) % 3
    return apply, params, mj.Task(mj.Batch(x[0], y), mj.Batch(x[1], y))


def transformer():
    shapes = {
        "query": (8, 8),
        "key": (8, 8),
        "value": (8, 8),
        "up": (8, 16),
        "down": (16, 8),
        "head": (8, 3),
    }
    keys = jax.random.split(KEY, len(shapes))
    weights = {
        name: 0.4 * jax.random.normal(k, shapes[name]) for name, k in zip(shapes, keys, strict=True)
    }
    slow = {name: weights.pop(name) for name in ("value", "down")}

    def apply(params, x, key=None, **_):
        w = {**params.fast, **params.slow}
        normed = jax.nn.standardize(x)
        scores = (normed @ w["query"]) @ (normed @ w["key"]).swapaxes(1, 2) / math.sqrt(8)
        x = x + jax.nn.softmax(scores) @ (normed @ w["value"])
        x = x + jax.nn.gelu(jax.nn.standardize(x) @ w["up"]) @ w["down"]
        return x.mean(axis=1) @ w["head"]

    x, y = jax.random.normal(KEY, (2, 6, 5, 8)), jnp.arange(6) % 3
    return apply, mj.Params(weights, slow), mj.Task(mj.Batch(x[0], y), mj.Batch(x[1], y))


NETS = {"mlp": mlp, "conv4": conv4, "transformer": transformer}


def slopes(net, optimizer, strategy=None):
    """Gradient by every leaf of Params, the support data and the weights of its examples."""
    apply, params, task = NETS[net]()
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
    loss = mj.losses.cross_entropy(apply)
    rule = learned_rate(OPTIMIZERS[optimizer])
    adaptation = mj.inner_loop(loss, rule, steps=STEPS, differentiate=EXACT.get(strategy))
    params = adaptation.init(params, KEY)

    def value(params, x, weight):
        support = task.support._replace(x=x, weight=weight)
        return mj.query_loss(adaptation, loss)(
            params, task._replace(query=task.query, support=support), KEY
        )[0]

    weight = jnp.linspace(0.5, 1.5, len(task.support.y))
    return jax.jit(jax.grad(value, (0, 1, 2)))(params, task.support.x, weight)


@pytest.mark.parametrize(
    ("net", "optimizer", "strategies"),
    [
        ("mlp", "adam", tuple(EXACT)),
        pytest.param("mlp", "sgd", tuple(EXACT), marks=pytest.mark.thorough),
        pytest.param("mlp", "momentum", tuple(EXACT), marks=pytest.mark.thorough),
        pytest.param("conv4", "adam", ("step remat", "mixed"), marks=pytest.mark.thorough),
        pytest.param("transformer", "adam", ("step remat", "mixed"), marks=pytest.mark.thorough),
    ],
)
def test_exact_strategies_agree(net, optimizer, strategies):
    expected = slopes(net, optimizer)
    assert all(bool((leaf != 0).any()) for leaf in jax.tree.leaves(expected))
    for strategy in strategies:
        assert_close(slopes(net, optimizer, strategy), expected, 1e-9)


def ridge_loss(params, batch, key):
    """Squares with a regulariser that is slow: a strongly convex inner problem."""
    errors = (batch.x @ params.fast - batch.y) ** 2
    weight = 1.0 if batch.weight is None else batch.weight
    return (weight * errors).mean() + jnp.exp(params.slow) * (params.fast**2).sum(), {}


def ridge_problem():
    x = jax.random.normal(jax.random.key(2), (2, 12, 4))
    y = x @ jnp.array([1.0, -2.0, 0.5, 0.0]) + jax.random.normal(jax.random.key(3), (2, 12))
    params = mj.Params(0.1 * jnp.ones(4), jnp.array(-1.0))
    return params, mj.Task(mj.Batch(x[0], y[0], jnp.ones(12)), mj.Batch(x[1], y[1]))


TIGHT = mj.implicit(mj.conjugate_gradient(tolerance=1e-12), tolerance=1e-9)
STRATEGIES = {
    "unroll()": mj.unroll(),
    "first_order()": mj.first_order(),
    "truncated(2)": mj.truncated(2),
    "one_step()": mj.one_step(),
    "mixed_mode()": mj.mixed_mode(),
    "implicit()": TIGHT,
}
DOCS = (pathlib.Path(__file__).parents[1] / "docs" / "differentiate.md").read_text()
TABLE = [
    [cell.replace("`", "").strip() for cell in line.strip("|").split("|")]
    for line in re.search(r"<!-- compatibility -->\n(.*?)\n<!-- end -->", DOCS, re.DOTALL)[
        1
    ].splitlines()
]
COLUMNS = TABLE[0][1:]


def column(name, strategy):
    """The gradient that a column of the table is about."""
    params, task = ridge_problem()
    options = {"steps": 200}
    optimizer, step_weights, pick = optax.sgd(0.1), None, lambda params, x: params.slow
    if name == "start":
        pick = lambda params, x: params.fast
    elif name == "support data":
        pick = lambda params, x: x
    elif name == "rule":
        optimizer, options, pick = (
            learned_rate(optax.sgd),
            {"steps": 4},
            lambda params, x: params.rule,
        )
    elif name == "sample=":
        options["sample"] = mj.minibatch(4)
    elif name == "proximity=":
        options["proximity"], pick = 1.0, lambda params, x: params.fast
    elif name == "path=":
        options, step_weights = (
            {"steps": 4, "path": True},
            lambda step: jnp.array([0.1, 0.2, 0.3, 0.4]),
        )
    adaptation = mj.inner_loop(ridge_loss, optimizer, differentiate=strategy, **options)
    params = adaptation.init(params, KEY)
    task_loss = mj.query_loss(adaptation, ridge_loss, step_weights=step_weights)
    value = lambda params, x: task_loss(
        params, task._replace(support=task.support._replace(x=x)), KEY
    )[0]
    moving = lambda slow: value(params._replace(slow=slow), task.support.x)
    if name == "forward mode":
        return jax.jit(jax.jacfwd(moving))(params.slow)
    if name == "jax.hessian":
        return jax.jit(jax.hessian(moving))(params.slow)
    if name == "jacrev twice":
        return jax.jit(jax.jacrev(jax.jacrev(moving)))(params.slow)
    return pick(*jax.jit(jax.grad(value, (0, 1)))(params, task.support.x))


def test_the_compatibility_table_has_every_strategy():
    assert [row[0] for row in TABLE[2:]] == list(STRATEGIES)


@functools.cache
def exact(name):
    return column(name, mj.unroll())


@pytest.mark.xdist_group("compatibility")  # one worker, for what is exact is computed once
@pytest.mark.parametrize("row", TABLE[2:], ids=lambda row: row[0])
def test_the_compatibility_table_of_the_docs_is_true(row):
    strategy, cells = STRATEGIES[row[0]], dict(zip(COLUMNS, row[1:], strict=True))
    for name, cell in cells.items():
        if NO_HESSIAN and (row[0], name) == ("mixed_mode()", "jax.hessian"):
            cell = "error"
        if cell == "error":
            with pytest.raises((ValueError, TypeError), match=r"implicit|custom_vjp"):
                column(name, strategy)
            continue
        expected, found = exact(name), column(name, strategy)
        same = np.allclose(found, expected, rtol=1e-5, atol=1e-9)
        assert cell == ("exact" if same else "biased"), name


@pytest.mark.parametrize(
    "solver", [mj.conjugate_gradient(), mj.dense(), mj.neumann(terms=300, rate=0.1)]
)
@pytest.mark.parametrize("proximity", [0.0, 0.5])
def test_implicit_agrees_with_a_long_unroll(solver, proximity):
    params, task = ridge_problem()

    def slope(strategy):
        adaptation = mj.inner_loop(
            ridge_loss,
            optax.adam(0.05, eps_root=1e-12),
            steps=1500,
            proximity=proximity,
            differentiate=strategy,
        )
        value = lambda params, weight: mj.query_loss(adaptation, ridge_loss)(
            params, task._replace(support=task.support._replace(weight=weight)), KEY
        )[0]
        return jax.jit(jax.grad(value, (0, 1)))(params, task.support.weight)

    assert_close(slope(mj.implicit(solver)), slope(mj.unroll()), 1e-5)


@pytest.mark.parametrize(
    "strategy",
    [mj.mixed_mode(), TIGHT, pytest.param(mj.unroll(remat=2), marks=pytest.mark.thorough)],
)
def test_three_levels_nest(strategy):
    """The gradient of what two outer steps in a scan reach, with respect to where they start."""
    params, task = ridge_problem()
    tasks = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), task)
    adaptation = mj.inner_loop(
        ridge_loss, optax.sgd(0.1), steps=200, proximity=0.5, differentiate=strategy
    )
    task_loss = mj.query_loss(adaptation, ridge_loss)
    outer = mj.outer_loop(task_loss, optax.sgd(0.1), tasks_at_once=1)

    @jax.jit
    def reached(params):
        state = jax.lax.scan(
            lambda state, key: outer.step(state, tasks, key),
            outer.init(params),
            jnp.stack([KEY] * 2),
        )[0]
        return mj.evaluate(task_loss, state.params, tasks, KEY)["loss"].mean

    check_grads(reached, (params,), order=1, modes=("rev",), rtol=1e-5)


@pytest.mark.parametrize("strategy", [mj.mixed_mode(), mj.mixed_mode(save_gradients=False)])
def test_equal_shapes_are_not_mixed_up_where_derivatives_are_taken_twice(strategy):
    """Fast weights, slow weights and data of one shape: a wrong order would raise no error."""
    fast, slow, x = jax.random.normal(KEY, (3, 2, 2))
    batch = mj.Batch(x, x)

    def loss(params, batch, key):
        ridge = (jnp.exp(params.slow) @ params.fast**2).sum()
        return (jnp.tanh(batch.x @ params.fast) * params.slow).sum() + ridge, {}

    def twice(strategy):
        adaptation = mj.inner_loop(loss, optax.sgd(0.1), steps=3, differentiate=strategy)
        task_loss = mj.query_loss(adaptation, loss)
        value = lambda params: task_loss(params, mj.Task(batch, batch), KEY)[0]
        square = lambda params: (jax.grad(value)(params).slow ** 2).sum()
        return jax.jit(jax.grad(square))(mj.Params(fast, slow))

    assert_close(twice(strategy), twice(mj.unroll()), 1e-9)


def test_one_step_is_the_product_that_it_says():
    """θ' = θ - α∇L: η gets -α vᵀ∂²L/∂θ∂η, with v the query gradient at θ'."""
    params, task = ridge_problem()
    results = []
    for difference in (None, 1e-3):
        adaptation = mj.inner_loop(
            ridge_loss, optax.sgd(0.1), steps=1, differentiate=mj.one_step(difference=difference)
        )
        value = lambda params: adaptation.adapt(params, task.support, KEY).fast @ jnp.arange(4.0)
        results.append(jax.grad(value)(params))
    by_hand = -0.1 * 2 * jnp.exp(params.slow) * params.fast @ jnp.arange(4.0)
    for found in results:
        np.testing.assert_allclose(found.slow, by_hand, rtol=1e-9)
        np.testing.assert_allclose(found.fast, jnp.arange(4.0))


def test_an_implicit_solve_that_misses_its_tolerance_is_counted():
    params, task = ridge_problem()
    tasks = jax.tree.map(lambda leaf: leaf[None], task)

    def skipped(strategy, steps=200):
        adaptation = mj.inner_loop(ridge_loss, optax.sgd(0.1), steps=steps, differentiate=strategy)
        outer = mj.outer_loop(mj.query_loss(adaptation, ridge_loss), optax.sgd(0.1))
        return int(outer.step(outer.init(params), tasks, KEY)[1].skipped)

    hasty = mj.conjugate_gradient(steps=1)
    assert skipped(mj.implicit(hasty)) == 1
    assert skipped(mj.implicit(hasty, tolerance=math.inf)) == 0
    assert skipped(mj.implicit(stop=1e-6)) == 0
    assert skipped(mj.implicit(stop=1e-6), steps=5) == 1


def test_implicit_stops_where_the_gradient_is_small():
    params, task = ridge_problem()
    norms = []
    for stop in (1e-2, 1e-8):
        adaptation = mj.inner_loop(
            ridge_loss, optax.sgd(0.1), steps=500, differentiate=mj.implicit(stop=stop)
        )
        adapted = adaptation.adapt(params, task.support, KEY)
        norms.append(
            float(
                jnp.linalg.norm(
                    jax.grad(lambda p: ridge_loss(p, task.support, KEY)[0])(adapted).fast
                )
            )
        )
    assert 1e-3 < norms[0] <= 1e-2
    assert norms[1] <= 1e-8


def test_integers_and_keys_among_the_inputs_have_no_derivative():
    """Labels are integers and dropout reads a key; strategies with products of their own work."""
    apply, params, task = mlp()

    def loss(params, batch, key):
        kept = jax.random.bernoulli(jax.random.fold_in(batch.info, 0), 0.8, (len(batch.y), 3))
        logits = jnp.where(kept, apply(params, batch.x), 0)
        ridge = 0.1 * sum((leaf**2).sum() for leaf in jax.tree.leaves(params.fast))
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.y).mean() + ridge, {}

    task = jax.tree.map(lambda leaf: leaf, mj.Task(*(b._replace(info=KEY) for b in task[:2])))
    found = []
    for strategy in (mj.unroll(), mj.mixed_mode(), TIGHT):
        adaptation = mj.inner_loop(loss, optax.sgd(0.5), steps=400, differentiate=strategy)
        found.append(
            jax.jit(jax.grad(lambda p: mj.query_loss(adaptation, loss)(p, task, KEY)[0]))(params)
        )
    assert_close(found[1], found[0], 1e-9)
    assert_close(found[2].slow, found[0].slow, 1e-5)


@pytest.mark.parametrize("steps", [0, 1, 7])
@pytest.mark.parametrize("strategy", [mj.unroll(remat=2), mj.mixed_mode(remat=3), mj.one_step()])
def test_any_number_of_steps(steps, strategy):
    params, task = ridge_problem()
    adapted = [
        mj.inner_loop(ridge_loss, optax.sgd(0.1), steps=steps, differentiate=s).adapt(
            params, task.support, KEY
        )
        for s in (None, strategy)
    ]
    assert_close(*adapted, 1e-12)


def test_the_path_ends_where_the_loop_ends_and_counts_as_weighted():
    params, task = ridge_problem()
    for strategy in (mj.unroll(), mj.unroll(remat=2), mj.truncated(2), mj.mixed_mode()):
        make = functools.partial(mj.inner_loop, ridge_loss, optax.sgd(0.1), differentiate=strategy)
        path = make(steps=5, path=True).adapt(params, task.support, KEY).fast
        ends = [make(steps=n).adapt(params, task.support, KEY).fast for n in (2, 3, 4, 5)]
        assert_close(path[1:], jnp.stack(ends), 1e-12)
    weights = jnp.array([0.0, 0.5, 0.0, 0.0, 0.5])
    weighted = mj.query_loss(
        make(steps=5, path=True), ridge_loss, step_weights=lambda step: weights
    )
    one, _ = weighted(params, task, KEY)
    halves = [ridge_loss(params._replace(fast=ends[n]), task.query, KEY)[0] / 2 for n in (0, 3)]
    np.testing.assert_allclose(one, sum(halves), rtol=1e-12)


def test_proximity_draws_toward_the_start():
    params, task = ridge_problem()
    far, near = (
        mj.inner_loop(ridge_loss, optax.sgd(0.01), steps=2000, proximity=p)
        .adapt(params, task.support, KEY)
        .fast
        for p in (0.0, 50.0)
    )
    assert jnp.linalg.norm(near - params.fast) < 0.1 * jnp.linalg.norm(far - params.fast)


def test_a_learned_proximity_gets_its_gradient():
    params, task = ridge_problem()
    params = params._replace(slow={"ridge": params.slow, "decay": jnp.array(0.3)})
    loss = lambda params, *rest: ridge_loss(params._replace(slow=params.slow["ridge"]), *rest)

    def slope(strategy):
        adaptation = mj.inner_loop(
            loss,
            optax.sgd(0.1),
            steps=200,
            proximity=lambda p: jnp.exp(p.slow["decay"]),
            differentiate=strategy,
        )
        return jax.grad(lambda params: mj.query_loss(adaptation, loss)(params, task, KEY)[0])(
            params
        )

    expected = slope(mj.unroll())
    assert all(bool((leaf != 0).any()) for leaf in jax.tree.leaves(expected))
    assert_close(slope(mj.mixed_mode()), expected)
    assert_close(slope(TIGHT), expected, 1e-6)


def test_minibatches_differ_from_step_to_step():
    params, task = ridge_problem()
    seen = []

    def sample(support, key):
        batch = mj.minibatch(3)(support, key)
        jax.debug.callback(lambda y: seen.append(tuple(y.tolist())), batch.y)
        return batch

    mj.inner_loop(ridge_loss, optax.sgd(0.1), steps=4, sample=sample).adapt(
        params, task.support, KEY
    )
    jax.effects_barrier()
    assert len(set(seen)) == 4


@pytest.mark.parametrize(
    "strategy", [mj.unroll(), mj.unroll(remat=2), mj.mixed_mode(), mj.truncated(9)]
)
@pytest.mark.parametrize("make_key", [jax.random.key, jax.random.PRNGKey])
def test_steps_walk_through_the_rows_in_order(strategy, make_key):
    """Nine steps of five rows each, of twelve rows: the walk begins anew after the last row."""
    params, task = ridge_problem()
    optimizer = optax.sgd(0.05, momentum=0.9)
    walk = mj.inner_loop(
        ridge_loss, optimizer, steps=9, differentiate=strategy, sample=mj.inner.in_order(5)
    )

    def by_hand(params):
        fast, state = params.fast, optimizer.init(params.fast)
        for step in range(9):
            rows = jnp.array([(5 * step + row) % 12 for row in range(5)])
            batch = mj.inner.take(task.support, rows)
            value = lambda fast, batch=batch: ridge_loss(params._replace(fast=fast), batch, KEY)[0]
            updates, state = optimizer.update(jax.grad(value)(fast), state, fast)
            fast = optax.apply_updates(fast, updates)
        return ridge_loss(params._replace(fast=fast), task.query, KEY)[0]

    value = lambda params: mj.query_loss(walk, ridge_loss)(params, task, make_key(0))[0]
    assert_close(jax.value_and_grad(value)(params), jax.value_and_grad(by_hand)(params), 1e-11)


@pytest.mark.parametrize(
    "strategy", [mj.first_order(), mj.one_step(), mj.truncated(3), mj.implicit(), mj.unroll()]
)
def test_every_strategy_walks_through_the_same_rows(strategy):
    params, task = ridge_problem()
    make = functools.partial(
        mj.inner_loop, ridge_loss, optax.sgd(0.05), steps=7, sample=mj.inner.in_order(5)
    )
    key = jax.random.key(0, impl="rbg")
    adapt = lambda strategy: make(differentiate=strategy).adapt(params, task.support, key).fast
    assert_close(adapt(strategy), adapt(mj.mixed_mode()), 1e-12)
    no_walk = mj.inner_loop(ridge_loss, optax.sgd(0.05), steps=7).adapt(params, task.support, key)
    assert jnp.abs(adapt(strategy) - no_walk.fast).max() > 1e-3


def test_a_walk_that_nobody_counts_is_refused():
    params, task = ridge_problem()
    walk = mj.inner.in_order(5)
    with pytest.raises(ValueError, match="needs step="):
        walk(task.support, KEY)
    unaware = lambda support, key: walk(support, key)
    uncounted = mj.inner_loop(ridge_loss, optax.sgd(0.1), steps=2, sample=unaware)
    with pytest.raises(ValueError, match="needs step="):
        uncounted.adapt(params, task.support, KEY)
    with pytest.raises(ValueError, match="size=13 rows from 12"):
        mj.inner.in_order(13)(task.support, KEY, step=0)
    long = mj.Batch(jnp.zeros(65_537, jnp.int8), jnp.zeros(65_537, jnp.int8))
    with pytest.raises(ValueError, match="divides the 65537 rows"):
        mj.inner.in_order(65_536)(long, KEY, step=0)
    far = mj.inner.in_order(6)(task.support, KEY, step=jnp.int32(2**31 - 1))
    assert_close(far.x, task.support.x[6:], 0)


@pytest.mark.parametrize("make", [mj.learned_rates, mj.leaf_rates, mj.shared_rate])
def test_step_sizes_of_their_own_for_every_step(make):
    params, task = ridge_problem()
    params = params._replace(fast={"a": params.fast[:2], "b": params.fast[2:]})
    loss = lambda p, batch, key: ridge_loss(
        p._replace(fast=jnp.concatenate([p.fast["a"], p.fast["b"]])), batch, key
    )
    adaptation = mj.inner_loop(loss, make(0.1, steps=2), steps=3)
    params = adaptation.init(params, KEY)
    plain = mj.inner_loop(loss, optax.sgd(0.1), steps=3).adapt(params, task.support, KEY)
    assert_close(adaptation.adapt(params, task.support, KEY), plain)
    for number in range(2):  # no step size of step k matters before it, and each does from then on
        moved = params._replace(
            rule=jax.tree.map(lambda rate: rate.at[number].add(0.1), params.rule)
        )
        path = mj.inner_loop(loss, make(0.1, steps=2), steps=3, path=True)
        before, after = (path.adapt(p, task.support, KEY).fast["a"] for p in (params, moved))
        assert_close(before[:number], after[:number], 0)
        assert not np.allclose(before[number], after[number])
    shapes = {jnp.shape(leaf) for leaf in jax.tree.leaves(params.rule)}
    assert shapes == {(2, 2)} if make is mj.learned_rates else {(2,)}
    assert len(jax.tree.leaves(params.rule)) == (1 if make is mj.shared_rate else 2)
    with pytest.raises(ValueError, match="learned step sizes have shapes"):
        adaptation.adapt(params._replace(rule=jnp.ones((2, 7))), task.support, KEY)


def test_errors_say_what_to_do():
    params, task = ridge_problem()
    make = functools.partial(mj.inner_loop, ridge_loss, optax.sgd(0.1), steps=3)
    for bad in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f"last must be a whole number.* got {bad}"):
            mj.truncated(bad)
    with pytest.raises(ValueError, match=r"last 4 of 3 steps"):
        make(differentiate=mj.truncated(4)).adapt(params, task.support, KEY)
    with pytest.raises(ValueError, match="remat must be"):
        mj.unroll(remat=-1)
    with pytest.raises(ValueError, match="difference must be positive"):
        mj.one_step(difference=0)
    with pytest.raises(ValueError, match="proximity must be a number, 0 or more"):
        make(proximity=-1.0)
    with pytest.raises(ValueError, match="or a function of params"):
        jax.jit(lambda strength: make(proximity=strength).adapt(params, task.support, KEY))(1.0)
    with pytest.raises(ValueError, match="needs steps of 1"):
        mj.inner_loop(ridge_loss, optax.sgd(0.1), steps=0, path=True)
    with pytest.raises(ValueError, match="rate=0 must be positive"):
        mj.neumann(terms=3, rate=0)
    with pytest.raises(ValueError, match="no array that a step size"):
        mj.shared_rate(0.1).init(params._replace(fast=()), KEY)
    with pytest.raises(ValueError, match="learned Rule would get no gradient"):
        mj.inner_loop(ridge_loss, mj.learned_rates(0.1), steps=3, differentiate=mj.implicit())
    with pytest.raises(ValueError, match="must be positive"):
        mj.implicit(tolerance=0)
    with pytest.raises(ValueError, match="leave out sample="):
        make(differentiate=mj.implicit(stop=1e-3), sample=mj.minibatch(2)).adapt(
            params, task.support, KEY
        )
    with pytest.raises(ValueError, match="size=13 rows from 12"):
        make(sample=mj.minibatch(13)).adapt(params, task.support, KEY)
    with pytest.raises(ValueError, match="chain's last link"):
        mj.chain(make(path=True), mj.identity())
    with pytest.raises(ValueError, match="need each other"):
        mj.query_loss(make(path=True), ridge_loss)
    with pytest.raises(ValueError, match="need each other"):
        mj.query_loss(mj.chain(make()), ridge_loss, step_weights=lambda step: jnp.ones(3))
    weighted = mj.query_loss(
        mj.chain(make(path=True)), ridge_loss, step_weights=lambda step: jnp.ones(2)
    )
    chained = params._replace(rule=((),))
    with pytest.raises(ValueError, match=r"must give shape \(3,\)"):
        weighted(chained, task, KEY)


def test_predict_takes_the_last_step_of_a_path():
    params, task = ridge_problem()
    make = functools.partial(mj.inner_loop, ridge_loss, optax.sgd(0.1), steps=3)
    answer = lambda params, x: (params.fast, x)
    with_path, without = (
        mj.predict(adaptation, answer, params, task.support, task.query.x, KEY)
        for adaptation in (make(path=True), make())
    )
    assert_close(with_path, without, 1e-12)


@pytest.mark.parametrize("strategy", [mj.mixed_mode(), mj.implicit(), mj.one_step()])
def test_raw_keys_do_too(strategy):
    params, task = ridge_problem()
    adaptation = mj.inner_loop(
        ridge_loss, optax.sgd(0.1), steps=3, differentiate=strategy, sample=mj.minibatch(4)
    )
    slope = lambda key: jax.grad(lambda p: mj.query_loss(adaptation, ridge_loss)(p, task, key)[0])(
        params
    )
    assert_close(
        slope(jax.random.PRNGKey(0)), slope(jax.random.wrap_key_data(jax.random.PRNGKey(0)))
    )


@pytest.mark.parametrize("strategy", [mj.mixed_mode(), TIGHT])
def test_what_a_loss_closes_over_is_differentiated_too(strategy):
    """Floats from outside get their gradient; integers and keys made inside a trace work."""
    params, task = ridge_problem()

    def slope(strategy, key):
        rows = jnp.arange(12)  # a tracer here, under jit and map

        def reached(outside):
            def loss(params, batch, key):
                value, metrics = ridge_loss(params, mj.take(batch, rows), key)
                return value + outside * (params.fast**4).sum(), metrics

            adaptation = mj.inner_loop(loss, optax.sgd(0.1), steps=300, differentiate=strategy)
            return mj.query_loss(adaptation, ridge_loss)(params, task, key)[0]

        return jax.grad(reached)(0.5)

    found, expected = (
        jax.lax.map(jax.jit(lambda key: slope(s, key)), KEY[None]) for s in (strategy, mj.unroll())
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
