"""Translation: what a place may see, that padding and the order of pairs are inert, and greedy answers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from problems import assert_close

import metajax as mj
from metajax.nets.translation import Translator, matched, remember, translate, with_memory

CHARACTERS, SOURCE, TARGET, PAIRS = 7, 3, 5, 3


@pytest.fixture(scope="module")
def net():
    module = Translator(CHARACTERS, SOURCE, TARGET, width=8, heads=2, languages=2, rngs=nnx.Rngs(0))
    apply, params = mj.nets.functional(module)
    return apply, jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)


def draw(seed, pairs=PAIRS):
    """Pairs of lengths 1 to all."""
    generator = np.random.default_rng(seed)
    source, target = (
        generator.integers(2, CHARACTERS, (pairs, length)) for length in (SOURCE, TARGET)
    )
    source[np.arange(SOURCE)[None] > generator.integers(0, SOURCE, (pairs, 1))] = 0
    end = generator.integers(0, TARGET, (pairs, 1))
    target = np.where(np.arange(TARGET)[None] < end, target, np.arange(TARGET)[None] == end)
    x = {"source": jnp.asarray(source, jnp.int32), "target": jnp.asarray(target, jnp.int32)}
    return mj.Batch(x=x, y=x["target"])


def answer(apply):
    """(params, support, x) -> log-probabilities, compiled."""
    adapt = remember(apply).adapt
    return jax.jit(
        lambda params, support, x: with_memory(apply)(adapt(params, support, jax.random.key(0)), x)
    )


def test_probabilities_sum_to_one_and_no_place_sees_what_it_is_to_say(net):
    apply, params = net
    query, look_up = draw(1).x, answer(apply)
    likely = look_up(params, draw(0), query)
    assert likely.shape == (PAIRS, TARGET, CHARACTERS)
    np.testing.assert_allclose(jnp.exp(likely).sum(-1), 1, atol=1e-7)
    for place in range(TARGET):
        other = (
            query["target"].at[:, place].set(2 + (query["target"][:, place] + 1) % (CHARACTERS - 2))
        )
        moved = abs(look_up(params, draw(0), query | {"target": other}) - likely).max(axis=(0, 2))
        assert (moved[: place + 1] == 0).all() and (moved[place + 1 :] > 1e-6).all()


def test_memory_is_a_set_and_rows_of_no_weight_are_not_in_it(net):
    apply, params = net
    support, query, look_up = draw(0), draw(1).x, answer(apply)
    likely = look_up(params, support, query)
    assert_close(look_up(params, mj.take(support, jnp.array([2, 0, 1])), query), likely)
    padded = mj.take(support, jnp.array([0, 1, 2, 1, 0]))._replace(
        weight=jnp.array([1.0, 1.0, 1.0, 0.0, 0.0])
    )
    assert_close(look_up(params, padded, query), likely)
    assert abs(look_up(params, draw(5), query) - likely).max() > 1e-3
    empty = jax.tree.map(lambda leaf: leaf[:0], support)
    nothing = support._replace(weight=jnp.zeros(PAIRS))
    assert_close(look_up(params, empty, query), look_up(params, nothing, query))
    assert_close(look_up(params, empty, query), jax.jit(apply)(params, query), 1e-6)


def test_padding_of_a_source_is_inert_and_languages_differ(net):
    apply, params = net
    query, run = draw(1).x, jax.jit(apply)
    longer = query | {"source": jnp.pad(query["source"], ((0, 0), (0, 2)))}
    wider = jax.tree.map(lambda leaf: leaf, params)
    wider.fast["source_place"] = jnp.pad(
        wider.fast["source_place"], ((0, 2), (0, 0)), constant_values=9.0
    )
    assert_close(run(wider, longer), run(params, query))
    first, second = (run(params, query | {"language": jnp.full(PAIRS, label)}) for label in (0, 1))
    assert_close(first, run(params, query))
    assert abs(second - first).max() > 1e-3


def test_all_weights_learn_and_what_is_absent_does_not_matter(net):
    apply, params = net
    task_loss = mj.query_loss(remember(apply), mj.losses.sequence_cross_entropy(with_memory(apply)))
    support = mj.take(draw(0), jnp.array([0, 1, 2, 0]))._replace(
        weight=jnp.array([1.0, 1.0, 1.0, 0.0])
    )
    query = draw(1)._replace(weight=jnp.ones(PAIRS))
    grad = jax.jit(jax.grad(lambda params, task: task_loss(params, task, jax.random.key(0))[0]))
    gradient = grad(params, mj.Task(support, query))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert abs(leaf).max() > 0, jax.tree_util.keystr(path)
    other = jax.tree.map(lambda leaf: leaf.at[3].set(leaf[1]), support._replace(weight=None))
    assert_close(grad(params, mj.Task(other._replace(weight=support.weight), query)), gradient)


def test_matches_are_counted_along_both_strings():
    here = np.random.default_rng(0).integers(0, 3, (2, 12))
    there = np.concatenate([here[0, 3:], here[0, :10], here[1]])
    same = lambda a, b: (a == b).all() and a.all()
    found = matched(jnp.asarray(here), jnp.asarray(there))
    for row, t, s in np.ndindex(*found.shape):
        back = range(1, 1 + min(t + 1, s + 1, 6))
        assert found[row, t, s] == max(
            [n for n in back if same(here[row, t + 1 - n : t + 1], there[s + 1 - n : s + 1])] + [0]
        )
    assert found.max() == 6


def test_cross_entropy_counts_characters_by_weight_and_refuses_other_targets():
    likely = jnp.log(
        jnp.array([[[0.1, 0.7, 0.2], [0.2, 0.2, 0.6]], [[0.1, 0.5, 0.4], [1.0, 1e-9, 1e-9]]])
    )
    batch = mj.Batch(x=likely, y=jnp.array([[1, 1], [2, 0]]))
    loss = mj.losses.sequence_cross_entropy(lambda params, x, key: x)
    value, metrics = loss((), batch, None)
    np.testing.assert_allclose(value, -np.log([0.7, 0.2, 0.4]).mean())
    assert_close(metrics, {"accuracy": jnp.array(0.0), "characters": jnp.array(1 / 3)})
    value, metrics = loss(
        (), batch._replace(weight=jnp.array([0.0, 2.0]), y=jnp.array([[1, 1], [1, 0]])), None
    )
    np.testing.assert_allclose(value, -np.log(0.5))
    assert_close(metrics, {"accuracy": jnp.array(1.0), "characters": jnp.array(1.0)})
    assert loss((), batch._replace(weight=jnp.zeros(2)), None)[0] == 0
    with pytest.raises(ValueError, match=r"shape \[2, 2\], got float32\[2\]"):
        loss((), batch._replace(y=jnp.zeros(2, jnp.float32)), None)


def test_whole_targets_are_right_where_greedy_translation_says_them(net):
    apply, params = net
    query = draw(1, pairs=64)
    said = jax.jit(functools.partial(translate, apply, length=TARGET))(params, query.x["source"])
    judge = jax.jit(mj.losses.sequence_cross_entropy(apply))
    ends = (said == 1).argmax(axis=1)
    assert all(
        (row[:end] != 1).all() and (row[end + 1 :] == 0).all()
        for row, end in zip(said, ends, strict=True)
        if 1 in row
    )
    # Half of the targets are what it says, and half are not.
    target = jnp.where((jnp.arange(64) % 2 == 0)[:, None], said, query.y)
    same = ((said == target) | (target == 0)).all(axis=1)
    assert 32 <= same.sum() < 64
    batch = mj.Batch(x={"source": query.x["source"], "target": target}, y=target)
    assert_close(judge(params, batch, jax.random.key(0))[1]["accuracy"], same.mean())


def test_sizes_are_checked():
    with pytest.raises(ValueError, match=r"heads=3 must divide width=8"):
        Translator(CHARACTERS, SOURCE, TARGET, width=8, heads=3, rngs=nnx.Rngs(0))
