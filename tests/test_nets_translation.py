"""Translation: what a place sees, what changes nothing, and greedy translations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoders import quick
from flax import nnx
from problems import assert_close

import metajax as mj
from metajax import nets

CHARACTERS, SOURCE, TARGET, PAIRS = 7, 3, 5, 3
KEY = jax.random.key(0)


@functools.cache
def net():
    """(apply, params) in float64."""
    module = nets.Translator(
        CHARACTERS, SOURCE, TARGET, width=8, heads=2, languages=2, rngs=nnx.Rngs(0)
    )
    apply, params = nets.functional(module)
    return apply, jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)


@functools.cache
def look_up():
    """(params, support, x) -> log-probabilities, compiled."""
    apply, _ = net()
    adapt = nets.remember_pairs(apply).adapt
    recalled = nets.with_memory(apply)
    return quick(lambda params, support, x: recalled(adapt(params, support, KEY), x))


@functools.cache
def run():
    """The plain net, compiled."""
    return quick(net()[0])


def draw(seed, pairs=PAIRS):
    """Pairs of lengths 1 to all."""
    rng = np.random.default_rng(seed)
    source = rng.integers(2, CHARACTERS, (pairs, SOURCE))
    target = rng.integers(2, CHARACTERS, (pairs, TARGET))
    source[np.arange(SOURCE)[None] > rng.integers(0, SOURCE, (pairs, 1))] = 0
    end = rng.integers(0, TARGET, (pairs, 1))
    target = np.where(np.arange(TARGET)[None] < end, target, np.arange(TARGET)[None] == end)
    x = {"source": jnp.asarray(source, jnp.int32), "target": jnp.asarray(target, jnp.int32)}
    return mj.Batch(x=x | {"language": jnp.zeros(pairs, jnp.int32)}, y=x["target"])


def test_probabilities_sum_to_one_and_a_place_sees_only_what_is_before_it():
    _, params = net()
    query = draw(1).x
    log_p = look_up()(params, draw(0), query)
    assert log_p.shape == (PAIRS, TARGET, CHARACTERS)
    np.testing.assert_allclose(jnp.exp(log_p).sum(-1), 1, atol=1e-7)
    for place in range(TARGET):
        other = 2 + (query["target"][:, place] + 1) % (CHARACTERS - 2)
        changed = query | {"target": query["target"].at[:, place].set(other)}
        moved = abs(look_up()(params, draw(0), changed) - log_p).max(axis=(0, 2))
        assert (moved[: place + 1] == 0).all()
        assert (moved[place + 1 :] > 1e-6).all()


def test_memory_is_a_set_without_rows_of_weight_0():
    _, params = net()
    support = draw(0)
    query = draw(1).x
    log_p = look_up()(params, support, query)
    assert_close(look_up()(params, mj.take(support, jnp.array([2, 0, 1])), query), log_p)
    weight = jnp.array([1.0, 1.0, 1.0, 0.0, 0.0])
    padded = mj.take(support, jnp.array([0, 1, 2, 1, 0]))._replace(weight=weight)
    assert_close(look_up()(params, padded, query), log_p)
    assert abs(look_up()(params, draw(5), query) - log_p).max() > 1e-3
    empty = jax.tree.map(lambda leaf: leaf[:0], support)
    nothing = support._replace(weight=jnp.zeros(PAIRS))
    without = look_up()(params, empty, query)
    assert_close(look_up()(params, nothing, query), without)
    assert_close(run()(params, query), without, 1e-6)


def test_a_memory_has_a_row_for_each_place_of_each_target():
    apply, params = net()
    x = draw(0).x
    remember = lambda params: apply(params, x, method="remember", weight=jnp.ones(PAIRS))
    memory = jax.eval_shape(remember, params)
    shapes = {name: leaf.shape for name, leaf in memory._asdict().items()}
    places = PAIRS * TARGET
    assert isinstance(memory, nets.Memory)
    assert shapes == {
        "state": (places, 8),
        "value": (places, 8),
        "previous": (places,),
        "source": (PAIRS, 2 * SOURCE),
        "character": (places, CHARACTERS),
        "valid": (places,),
    }


def test_padding_of_a_source_is_inert_and_languages_differ():
    _, params = net()
    query = draw(1).x
    log_p = run()(params, query)
    longer = query | {"source": jnp.pad(query["source"], ((0, 0), (0, 2)))}
    places = jnp.pad(params.fast["source_place"], ((0, 2), (0, 0)), constant_values=9.0)
    wider = params._replace(fast=params.fast | {"source_place": places})
    assert_close(run()(wider, longer), log_p)
    second = run()(params, query | {"language": jnp.full(PAIRS, 1)})
    assert abs(second - log_p).max() > 1e-3


def test_all_weights_learn_and_padded_rows_do_not_matter():
    apply, params = net()
    loss = mj.losses.sequence_cross_entropy(nets.with_memory(apply))
    task_loss = mj.query_loss(nets.remember_pairs(apply), loss)
    weight = jnp.array([1.0, 1.0, 1.0, 0.0])
    support = mj.take(draw(0), jnp.array([0, 1, 2, 0]))._replace(weight=weight)
    query = draw(1)._replace(weight=jnp.ones(PAIRS))
    grad = quick(jax.grad(lambda params, task: task_loss(params, task, KEY)[0]))
    gradient = grad(params, mj.Task(support, query))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert abs(leaf).max() > 0, jax.tree_util.keystr(path)
    other = jax.tree.map(lambda leaf: leaf.at[3].set(leaf[1]), support._replace(weight=None))
    other = other._replace(weight=weight)
    assert_close(grad(params, mj.Task(other, query)), gradient)


def test_whole_targets_are_right_where_greedy_translation_gives_them():
    of_languages, params = net()
    first = {"language": jnp.zeros(32, jnp.int32)}
    apply = lambda params, x, *args, **kwargs: of_languages(params, x | first, *args, **kwargs)
    query = draw(1, pairs=32)
    greedy = quick(functools.partial(nets.translate, apply, length=TARGET))
    found = np.asarray(greedy(params, query.x["source"]))
    for row in found:
        if 1 in row:
            end = list(row).index(1)
            assert (row[end + 1 :] == 0).all()
    # Half of the targets are what is found, and most of the others are not.
    target = jnp.where((jnp.arange(32) % 2 == 0)[:, None], found, query.y)
    same = ((found == target) | (target == 0)).all(axis=1)
    assert 16 <= same.sum() < 32
    batch = mj.Batch(x={"source": query.x["source"], "target": target}, y=target)
    _, metrics = quick(mj.losses.sequence_cross_entropy(apply))(params, batch, KEY)
    assert_close(metrics["accuracy"], same.mean())


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match=r"heads=3 must divide width=8"):
        nets.Translator(CHARACTERS, SOURCE, TARGET, width=8, heads=3, rngs=nnx.Rngs(0))
