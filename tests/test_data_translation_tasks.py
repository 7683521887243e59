"""Translation tasks: what they ask for, and that more shots ask for the same."""

import functools

import jax
import numpy as np
import pytest
from data_sets import corpus

from metajax.data.sets.translation_tasks import phrase_pairs, translation_task, translations


@functools.cache
def drawn():
    """40 tasks of five shots, and for each source of a class the things that it names."""
    keys = jax.random.split(jax.random.key(0), 40)
    draw = jax.jit(jax.vmap(translations(5, 6), (None, 0)))
    return jax.device_get(draw(corpus().data, keys))


def rows_by_bytes(array):
    return [row.tobytes() for row in np.asarray(array)]


def test_a_task_asks_for_what_its_pairs_name():
    tasks = drawn()
    data = corpus().data
    assert len(np.unique(tasks.context)) > 20
    sources = rows_by_bytes(data.x["source"])
    words = dict(zip(sources, np.asarray(data.x["words"]), strict=True))
    for i, label in enumerate(tasks.context):
        support = rows_by_bytes(tasks.support.x["source"][i])
        query = rows_by_bytes(tasks.query.x["source"][i])
        assert len(set(support)) == 5 and not set(support) & set(query)
        seen = [{words[source][column] for source in support} for column in (0, 1)]
        named = [all(words[source][c] in seen[c] for c in (0, 1)) for source in query]
        is_number = data.names[label].endswith("number")
        assert all(named) or (is_number and not any(named)), "anything, if nothing is named"


def test_targets_are_those_of_the_class():
    tasks = drawn()
    data = corpus().data
    for i in range(5):
        first = int(data.start[tasks.context[i]])
        pairs = phrase_pairs(data, np.arange(first, first + 72))
        known = dict(zip(rows_by_bytes(pairs.x["source"]), rows_by_bytes(pairs.y), strict=True))
        asked = rows_by_bytes(tasks.query.x["source"][i])
        assert [known[source] for source in asked] == rows_by_bytes(tasks.query.y[i])
        np.testing.assert_array_equal(tasks.query.y[i], tasks.query.x["target"][i])


def test_a_pool_keeps_the_queries_while_shots_change():
    data = corpus().data
    label = data.names.index("de/date")

    @jax.jit
    def tasks(data, key):
        draw = functools.partial(translation_task, data, label, key, queries=4, pool=5)
        return [draw(shots=shots) for shots in (0, 2, 5)]

    none, two, five = jax.device_get(tasks(data, jax.random.key(3)))
    assert [len(task.support.y) for task in (none, two, five)] == [0, 2, 5]
    np.testing.assert_array_equal(none.query.y, two.query.y)
    np.testing.assert_array_equal(none.query.y, five.query.y)
    np.testing.assert_array_equal(two.support.y, five.support.y[:2])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"shots": -1}, "shots must be a whole number, 0 or more, got -1"),
        ({"queries": 0}, "queries must be a whole number, 1 or more, got 0"),
        ({"pool": 2}, "The pool must have at least shots=3 pairs .* got pool=2"),
        ({"shots": 0}, "The pool must have at least shots=0 pairs and 1, .* got pool=0"),
        ({"shots": 72}, "leave some of the 72 pairs of a class as queries, got pool=72"),
    ],
)
def test_sizes_are_checked(sizes, message):
    sample = translations(**{"shots": 3, "queries": 2} | sizes)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(sample, corpus().data, jax.random.key(0))
