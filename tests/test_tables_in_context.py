"""In-context learners of tables: the prior, symmetries, missing cells, learning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from problems import cast

import metajax as mj
from metajax import algorithms
from metajax.nets import TableTransformer

KEY = jax.random.key(0)
predict = jax.jit(mj.predict, static_argnums=(0, 1))


@functools.cache
def learner(classes=3):
    """A small net, in float64."""
    sizes = {"width": 8, "rounds": 2, "row_width": 8, "row_layers": 1, "heads": 2}
    net = TableTransformer(classes, **sizes, rngs=nnx.Rngs(0))
    loss = mj.losses.gaussian_log_loss if classes is None else mj.losses.cross_entropy
    made = algorithms.in_context(net, loss=loss)
    return made._replace(params=cast(made.params, jnp.float64))


def table(rows=9, columns=4, classes=3, seed=0):
    """A table with missing cells; the last column is missing."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, columns))
    x[rng.uniform(size=x.shape) < 0.2] = np.nan
    x[:, -1] = np.nan
    y = rng.integers(classes, size=rows) if classes else rng.normal(size=(rows, 1))
    return mj.Batch(jnp.asarray(x), jnp.asarray(y))


def answer(of, support, x):
    """Logits, or mean and variance side by side."""
    found = predict(of.adaptation, of.apply, of.params, support, x, KEY)
    return jnp.concatenate(found, axis=1) if isinstance(found, mj.Gaussian) else found


@pytest.mark.parametrize("classes", [3, None])
def test_the_order_of_rows_and_columns_does_not_matter(classes):
    of, support, queries = learner(classes), table(classes=classes), table(5, seed=1).x
    expected = answer(of, support, queries)
    rows = jnp.array([4, 2, 0, 8, 1, 3, 5, 7, 6])
    np.testing.assert_allclose(answer(of, mj.take(support, rows), queries), expected, rtol=1e-8)
    columns = jnp.array([2, 3, 0, 1])
    turned = support._replace(x=support.x[:, columns])
    np.testing.assert_allclose(answer(of, turned, queries[:, columns]), expected, rtol=1e-8)
    others = queries.at[:2].add(3)
    np.testing.assert_allclose(answer(of, support, others)[2:], expected[2:], rtol=1e-8)
    more = mj.Batch(
        jnp.concatenate([support.x, jnp.full((2, 4), 7.0)]),
        jnp.concatenate([support.y, support.y[:2]]),
        jnp.append(jnp.ones(9), jnp.zeros(2)),
    )
    np.testing.assert_allclose(answer(of, more, queries), expected, rtol=1e-8)
    scale, shift = jnp.array([[3.0, 0.1, 100.0, 1.0]]), jnp.array([[5.0, -1.0, 0.0, 2.0]])
    scaled = answer(of, support._replace(x=scale * support.x + shift), scale * queries + shift)
    np.testing.assert_allclose(scaled, expected, rtol=1e-8)
    narrow = answer(of, support._replace(x=support.x[:, :3]), queries[:, :3])
    np.testing.assert_allclose(narrow, expected, rtol=1e-8)  # a column of gaps does not count


def test_the_order_of_classes_does_not_matter_and_more_of_them_need_no_other_weights():
    of, support, queries = learner(), table(), table(5, seed=1).x
    expected = answer(of, support, queries)
    names = jnp.array([2, 0, 1])
    turned = answer(of, support._replace(y=names[support.y]), queries)
    np.testing.assert_allclose(turned[:, names], expected, rtol=1e-8)
    more = answer(learner(5)._replace(params=of.params), support, queries)
    np.testing.assert_allclose(more[:, :3], expected, rtol=1e-8)
    assert (more[:, 3:] == -1e9).all()


def test_labels_that_are_missing_or_wrong_and_numbers_of_any_type():
    of, support, queries = learner(), table(), table(5, seed=1).x
    expected = answer(of, mj.take(support, jnp.arange(8)), queries)
    unlabelled = support._replace(y=support.y.at[8].set(-1))
    np.testing.assert_allclose(answer(of, unlabelled, queries), expected, rtol=1e-8)
    assert jnp.isnan(answer(of, support._replace(y=support.y.at[8].set(7)), queries)).all()
    whole = mj.Batch(jnp.array([[2_000_000_000], [1_000_000_000]]), jnp.array([0, 1]))
    floats = whole._replace(x=whole.x.astype(float))
    asked = jnp.array([[1_500_000_000]])
    np.testing.assert_allclose(
        answer(of, whole, asked), answer(of, floats, asked.astype(float)), rtol=1e-4, atol=1e-4
    )
    large = mj.Batch(jnp.array([[300.0], [900.0]]), jnp.array([0, 1]))
    halves = large._replace(x=large.x.astype(jnp.float16))
    half, wide = (answer(of, one, one.x) for one in (halves, large))
    np.testing.assert_allclose(half, wide, atol=1e-2)
    steady = mj.Batch(jnp.full((7, 1), 0.1, jnp.float32), jnp.arange(7) % 2)
    apart = answer(of, steady, jnp.array([[0.1], [0.1 + 1e-6]], jnp.float32))
    np.testing.assert_allclose(*apart, atol=1e-4)


def test_scale_and_shift_of_a_target_are_those_of_its_predictions():
    of, support, queries = learner(None), table(classes=None), table(5, seed=1).x
    plain = predict(of.adaptation, of.apply, of.params, support, queries, KEY)
    moved = support._replace(y=10 * support.y - 3)
    found = predict(of.adaptation, of.apply, of.params, moved, queries, KEY)
    np.testing.assert_allclose(found.mean, 10 * plain.mean - 3, rtol=1e-8)
    np.testing.assert_allclose(found.variance, 100 * plain.variance, rtol=1e-8)


def test_tables_without_information():
    of, queries = learner(), table(5, seed=1).x
    one_class = table()._replace(y=jnp.zeros(9, jnp.int32))
    assert (answer(of, one_class, queries).argmax(axis=1) == 0).all()
    assert (answer(of, one_class, queries)[:, 1:] == -1e9).all()
    constant = table()._replace(x=jnp.ones((9, 4)))
    assert jnp.isfinite(answer(of, constant, queries)).all()
    gaps = table()._replace(x=jnp.full((9, 4), jnp.nan))
    found = answer(of, gaps, queries)
    np.testing.assert_allclose(found, jnp.broadcast_to(found[:1], found.shape), rtol=1e-8)
    slopes = jax.grad(
        lambda params: of.apply(of.adaptation.adapt(params, gaps, KEY), queries).sum()
    )
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes(of.params)))


@pytest.mark.parametrize("classes", [3, None])
def test_every_weight_gets_a_gradient_from_a_drawn_table(classes):
    of = learner(classes)
    task = mj.data.structural_tables(40, 8, columns=4, classes=classes)((), KEY)
    slopes = jax.jit(jax.grad(lambda params: of.task_loss(params, task, KEY)[0]))(of.params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(slopes):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        # The bias of a logit is that of every class.
        is_shared = classes is not None and name.endswith("predictor/head/bias")
        assert (abs(leaf) > 1e-9).any() != is_shared, name


def one_column_tells(source, key):
    """A task whose class is the sign of one of two columns, in either direction."""
    x_key, *keys = jax.random.split(key, 3)
    x = jax.random.normal(x_key, (24, 2), jnp.float32)
    is_first, is_turned = map(jax.random.bernoulli, keys)
    y = ((jnp.where(is_first, x[:, 0], x[:, 1]) > 0) ^ is_turned).astype(jnp.int32)
    return mj.Task(mj.Batch(x[:16], y[:16]), mj.Batch(x[16:], y[16:]))


def test_it_learns_to_find_in_context_which_column_tells():
    net = TableTransformer(2, width=16, rounds=2, heads=2, rngs=nnx.Rngs(0))
    of = algorithms.in_context(net)
    draw = lambda number: mj.data.meta_batch(one_column_tells, tasks=number)
    outer = mj.outer_loop(of.task_loss, optax.adam(3e-3))
    state, _ = mj.training.fit(
        outer, outer.init(of.params), draw(16), (), KEY, steps=250, every=250, progress=False
    )
    tasks = draw(100)((), jax.random.key(9))
    found = mj.evaluate(of.task_loss, state.params, tasks, KEY)["accuracy"]
    assert found.mean > 0.75  # without the labelled rows it is 0.5


def test_drawn_tables_are_as_declared():
    tasks = mj.data.meta_batch(mj.data.structural_tables(40, 10, columns=6, classes=5), tasks=200)(
        (), KEY
    )
    x, y = np.asarray(tasks.support.x), np.asarray(tasks.support.y)
    used = (~np.isnan(x)).any(axis=1).sum(axis=1)
    assert set(used) == set(range(1, 7))
    assert (
        0.05 < np.mean([np.isnan(one[:, :n]).any() for one, n in zip(x, used, strict=True)]) < 0.4
    )
    number = np.array([len(np.unique(one)) for one in y])
    assert number.max() == 5
    assert (number >= 2).mean() > 0.9
    assert set(np.unique(y)) == set(range(5))
    known = np.array([np.isin(q, s) for q, s in zip(tasks.query.y, y, strict=True)])
    np.testing.assert_array_equal(known, np.asarray(tasks.query.weight) == 1)
    assert np.nanmax(np.abs(x)) < 1e6
    numbers = mj.data.structural_tables(40, 10, columns=6, classes=None)((), KEY)
    assert numbers.support.y.shape == (40, 1)
    together = jnp.concatenate([numbers.support.y, numbers.query.y])
    np.testing.assert_allclose([together.mean(), together.std()], [0, 1], atol=1e-4)
    with pytest.raises(ValueError, match="columns must be at most 46"):
        mj.data.structural_tables(5, 5, columns=48)
    with pytest.raises(ValueError, match="classes must be 2 or more, or None"):
        mj.data.structural_tables(5, 5, classes=1)
