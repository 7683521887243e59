"""Attributions against finite differences and closed forms, and what they predict."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import metajax as mj
from metajax import diagnostics

KEY = jax.random.key(3)
ROWS, QUERIES, FEATURES = 24, 5, 4


def squares(slow=False):
    """A linear model whose inner loss is decayed by a slow weight where that is asked for."""
    plain = mj.losses.squared_error(lambda params, x, key, reference: x @ params.fast)
    if not slow:
        return plain, plain

    def decayed(params, batch, key):
        value, metrics = plain(params, batch, key)
        return value + params.slow["decay"] * (params.fast**2).sum(), metrics

    return plain, decayed


def problem(slow=False, rows=ROWS):
    rng = np.random.default_rng(0)
    true = rng.normal(size=FEATURES)

    def batch(rows):
        x = rng.normal(size=(rows, FEATURES))
        return mj.Batch(jnp.asarray(x), jnp.asarray(x @ true + 0.3 * rng.normal(size=rows)))

    queries = jax.tree.map(lambda leaf: leaf[:, None], batch(QUERIES))
    decay = {"decay": jnp.asarray(0.1)} if slow else {}
    return mj.Params(jnp.zeros(FEATURES), decay), batch(rows), queries


def training(loss, strategy=None, steps=30, optimizer=None):
    optimizer = optimizer or optax.adam(0.05, eps_root=1e-8)
    sample = mj.inner.minibatch(8)
    return mj.inner_loop(loss, optimizer, steps=steps, sample=sample, differentiate=strategy)


@pytest.mark.parametrize("strategy", [mj.unroll(), mj.unroll(remat=2), mj.mixed_mode()])
def test_it_is_the_derivative_of_the_query_losses(strategy):
    params, support, queries = problem(slow=True)
    loss, inner_loss = squares(slow=True)
    adaptation = training(inner_loss, strategy)
    found = diagnostics.attribute(adaptation, loss, params, support, queries, KEY)
    task_loss = mj.query_loss(adaptation, loss)

    @jax.jit
    def losses(weight, decay):
        moved = params._replace(slow={"decay": decay})
        of_query = lambda query: task_loss(
            moved, mj.Task(support._replace(weight=weight), query), KEY
        )[0]
        return jax.vmap(of_query)(queries)

    step = 1e-5
    ones, decay = jnp.ones(ROWS), params.slow["decay"]
    for row in (0, 7, 23):
        move = step * jnp.eye(ROWS)[row]
        expected = (losses(ones + move, decay) - losses(ones - move, decay)) / (2 * step)
        np.testing.assert_allclose(found.examples[:, row], expected, rtol=1e-4, atol=1e-7)
    expected = (losses(ones, decay + step) - losses(ones, decay - step)) / (2 * step)
    np.testing.assert_allclose(found.slow["decay"], expected, rtol=1e-4)
    np.testing.assert_allclose(found.loss, losses(ones, decay), rtol=1e-10)
    assert found.smoothness > 0.9


def test_queries_in_parts_and_alone_give_the_same():
    params, support, queries = problem()
    loss, _ = squares()
    adaptation = training(loss)
    found = diagnostics.attribute(
        adaptation, loss, params, support, queries, KEY, smoothness_step=None
    )
    assert np.isnan(found.smoothness) and repr(found) == "5 queries, 24 examples"
    for at_once in (1, 2):
        parts = diagnostics.attribute(
            adaptation, loss, params, support, queries, KEY, queries_at_once=at_once
        )
        np.testing.assert_allclose(parts.examples, found.examples, rtol=1e-10)
        assert repr(parts).startswith("5 queries, 24 examples, metasmoothness ")


def test_a_learned_rule_is_attributed():
    params, support, queries = problem()
    loss, _ = squares()
    adaptation = mj.inner_loop(loss, mj.inner.learned_rates(0.1), steps=3)
    params = adaptation.init(params, KEY)
    found = diagnostics.attribute(adaptation, loss, params, support, queries, KEY)
    shapes = jax.tree.map(lambda leaf: (QUERIES, *leaf.shape), params.rule)
    assert jax.tree.map(jnp.shape, found.rule) == shapes
    assert any(np.any(leaf) for leaf in jax.tree.leaves(found.rule))


def test_it_predicts_what_trainings_without_some_examples_do():
    params, support, queries = problem(rows=200)
    loss, _ = squares()
    adaptation = training(loss)
    arguments = (adaptation, loss, params, support, queries)
    found = diagnostics.attribute(*arguments, KEY)
    right = diagnostics.lds(*arguments, found.examples, KEY, trainings=40)
    assert isinstance(right, diagnostics.Removals)
    assert right.predicted.shape == right.true.shape == (40, QUERIES)
    assert right.score.mean > 0.95
    noise = jax.random.normal(KEY, found.examples.shape)
    control = diagnostics.lds(*arguments, noise, KEY, trainings=40, at_once=7)
    assert abs(control.score.mean) < 0.4
    np.testing.assert_allclose(control.true, right.true, atol=1e-12)
    constant = diagnostics.lds(*arguments, jnp.ones_like(noise), KEY, trainings=40)
    assert constant.score.mean == 0
    exact = lambda params, batch, key: (0 * loss(params, batch, key)[0] * (batch.y[0] > 0), {})
    with pytest.raises(ValueError, match="No query has a loss that changes"):
        diagnostics.lds(adaptation, exact, params, support, queries, noise, KEY, trainings=3)
    some = lambda params, batch, key: (loss(params, batch, key)[0] * (batch.y[0] > 0), {})
    changing = int((queries.y[:, 0] > 0).sum())
    assert 0 < changing < QUERIES
    few = diagnostics.lds(adaptation, some, params, support, queries, noise, KEY, trainings=5)
    assert few.score.per_task.shape == (changing,)


def test_weights_and_padding_count_in_what_is_predicted():
    params, support, queries = problem(rows=200)
    weight = jnp.ones(200).at[:100].set(0.2).at[190:].set(0.0)
    support = support._replace(weight=weight)
    loss, _ = squares()
    arguments = (training(loss), loss, params, support, queries)
    found = diagnostics.attribute(*arguments, KEY)
    lost = diagnostics.lds(*arguments, found.examples, KEY, leave_out=0.011, trainings=40)
    assert lost.score.mean > 0.9
    padding = jnp.zeros((QUERIES, 200)).at[:, 190:].set(1.0)
    assert not diagnostics.lds(*arguments, padding, KEY, trainings=5).predicted.any()


def test_attributions_of_16_bit_nets_are_summed_in_32_bits():
    params, support, queries = problem()
    narrow = lambda leaf: leaf.astype(jnp.bfloat16)
    params, support, queries = jax.tree.map(narrow, (params, support, queries))
    loss, _ = squares()
    found = diagnostics.attribute(training(loss), loss, params, support, queries, KEY)
    assert found.examples.dtype == jnp.float32


def test_leaving_out_does_not_change_which_rows_are_drawn():
    """A weight of 0 would: `minibatch` draws such rows last."""
    params, support, queries = problem()
    loss, _ = squares()
    arguments = (loss, params, support, queries)
    scores = -jnp.broadcast_to(2.0 ** jnp.arange(ROWS), (QUERIES, ROWS))
    found = diagnostics.lds(training(loss), *arguments, scores, KEY, leave_out=0.1, trainings=5)

    def sample(batch, key):
        return mj.inner.take(batch, jnp.argsort(jax.random.uniform(key, (ROWS,)))[:8])

    optimizer = optax.adam(0.05, eps_root=1e-8)
    task_loss = mj.query_loss(mj.inner_loop(loss, optimizer, steps=30, sample=sample), loss)

    @jax.jit
    @jax.vmap
    def losses(weight):
        batch = support._replace(weight=weight)
        return jax.vmap(lambda query: task_loss(params, mj.Task(batch, query), KEY)[0])(queries)

    left_out = (found.predicted[:, :1].astype(int) >> np.arange(ROWS)) & 1
    assert (left_out.sum(axis=1) == 2).all()
    whole = losses(jnp.ones((1, ROWS)))
    np.testing.assert_allclose(found.true, losses(1.0 - left_out) - whole, atol=1e-12)


def test_smoothness_tells_smooth_trainings_from_rough_ones():
    params, support, _ = problem()
    loss, _ = squares()
    smooth = diagnostics.metasmoothness(training(loss), params, support, KEY)
    net = mj.nets.MLP(FEATURES, (16, 16), 1, rngs=nnx.Rngs(0))
    apply, weights = mj.nets.functional(net)
    weights = jax.tree.map(lambda leaf: 3.0 * leaf.astype(jnp.float64), weights)
    kinked = mj.losses.squared_error(lambda params, x, key, reference: apply(params, x)[:, 0])
    adaptation = training(kinked, optimizer=optax.adam(0.1, eps_root=1e-16), steps=100)
    rough = diagnostics.metasmoothness(adaptation, weights, support, KEY)
    assert smooth > 0.95 > 0.8 > rough
    shown = diagnostics.Attribution(jnp.ones((1, 2)), (), (), jnp.ones(1), rough)
    assert "a rough training" in repr(shown)


def test_bad_input_has_errors_that_say_what_to_do():
    params, support, queries = problem()
    loss, _ = squares()
    arguments = (params, support, queries, KEY)
    with pytest.raises(ValueError, match=r"the loss of step \d+ of 500 is not finite"):
        diagnostics.attribute(training(loss, optimizer=optax.sgd(1e3), steps=500), loss, *arguments)
    with pytest.raises(ValueError, match="its last step, 1, gives weights that are not finite"):
        diagnostics.attribute(
            training(loss, optimizer=optax.sgd(float("inf")), steps=1), loss, *arguments
        )
    with pytest.raises(ValueError, match="no finite derivative where a gradient is zero"):
        diagnostics.attribute(training(loss, optimizer=optax.adam(0.1)), loss, *arguments)
    rooted = lambda params, batch, key: (jnp.sqrt(0 * loss(params, batch, key)[0]), {})
    with pytest.raises(ValueError, match="derivative through the training is not finite"):
        diagnostics.attribute(training(loss), rooted, *arguments)
    with pytest.raises(ValueError, match="No example has any effect"):
        diagnostics.attribute(training(loss, mj.first_order()), loss, *arguments)
    negative = support._replace(weight=jnp.ones(ROWS).at[3].set(-1.0))
    with pytest.raises(ValueError, match="Weights must be 0 or more"):
        diagnostics.attribute(training(loss), loss, params, negative, queries, KEY)
    with pytest.raises(ValueError, match="One of three trainings diverges"):
        diagnostics.metasmoothness(
            training(loss, optimizer=optax.sgd(1e3), steps=500), params, support, KEY
        )
    flat = queries._replace(x=queries.x[:, 0], y=queries.y[:, :1])
    with pytest.raises(ValueError, match="Support and query examples must be alike"):
        diagnostics.attribute(training(loss), loss, params, support, flat, KEY)
    rows = jax.tree.map(lambda leaf: leaf[:, 0], queries)
    with pytest.raises(ValueError, match=r"must be \[queries, examples, ...\]"):
        diagnostics.attribute(training(loss), loss, params, support, rows, KEY)
    path = mj.inner_loop(loss, optax.sgd(0.1), steps=2, path=True)
    with pytest.raises(ValueError, match="without path"):
        diagnostics.attribute(path, loss, *arguments)
    scores = jnp.ones((QUERIES, ROWS))
    for share in (0.0, 0.01, 1.0):
        with pytest.raises(ValueError, match="must be from 1 / "):
            diagnostics.lds(training(loss), loss, *arguments[:3], scores, KEY, leave_out=share)
    with pytest.raises(ValueError, match=r"\[queries, examples\] = \[5, 24\]"):
        diagnostics.lds(training(loss), loss, *arguments[:3], scores.T, KEY, leave_out=0.1)
    with pytest.raises(ValueError, match="3 or more"):
        diagnostics.lds(
            training(loss), loss, *arguments[:3], scores, KEY, leave_out=0.1, trainings=2
        )
    with pytest.raises(ValueError, match="step must be above 0"):
        diagnostics.metasmoothness(training(loss), params, support, KEY, step=0.0)
