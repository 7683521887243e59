"""Arguments of public functions are compared with their annotations."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from flax import nnx

import metajax as mj
from metajax._checked import checked
from metajax.types import Apply, Array, Count, Loss, Params, PyTree, Sample, Scalar, Size, Task

KEY = jax.random.key(0)
OBJECTS = np.array([object(), None])
BATCH = mj.Batch(np.ones((2, 3)), np.ones(2, int))
BAD_BATCHES = [
    BATCH._replace(y=np.ones(3, int)),
    BATCH._replace(y=np.array(0)),
    BATCH._replace(x=[object(), None]),
    BATCH._replace(weight=1.0),
]

GOOD_AND_BAD = [
    (int, [0, np.int64(2)], [True, 2.0, "2", None, jnp.ones((), int), np.ones(1, int)]),
    (Count, [0, np.int64(2)], [-1, True, 2.0, None]),
    (Size, [1, np.int64(2)], [0, -1, True, 2.0, None]),
    (Sequence[Size], [(1, 2), ()], [(0,), (1, 2.0), 3]),
    (
        float,
        [0, 0.5, np.float32(1), jnp.ones(())],
        [math.inf, math.nan, np.float32(np.nan), True, "1", None, np.ones(1), 1j, OBJECTS],
    ),
    (bool, [True, np.bool_(False)], [0, 1, None, "True", np.ones(1, bool)]),
    (str, ["", "text"], [None, 1, b"text", ["text"]]),
    (Array, [np.ones(2, ml_dtypes.bfloat16), jax.ShapeDtypeStruct((), float)], []),
    (
        Array,
        [1.5, np.ones(2), jnp.ones(())],
        [None, "1", OBJECTS, KEY, [1.0], np.array(["a"]), optax.sgd(0.1), {"a": 1}, object()],
    ),
    (jax.typing.ArrayLike, [1, [1, 2], [[1.0], np.ones(1)], np.ones(2)], [["a"], None, "1"]),
    (float | Array, [0.5, np.ones(2)], [None, "text"]),
    (int | None, [None, 3], [2.5, "3"]),
    (Scalar, [0.5, jnp.ones(())], [None, "1", np.ones(1)]),
    (Callable[..., int], [len, lambda: None, max], [None, 3, "len", jnp.ones(2)]),
    (
        Callable[[int], int],
        [len, nnx.relu, print, lambda step: step],
        [None, lambda: None, lambda x, y: x],
    ),
    (Loss, [lambda params, batch, key: 0, print, pow], [None, 0.5, len]),
    (Apply, [lambda params, x, key=None, *, reference=None: x], [None, nnx.List([]), len, pow]),
    (Apply, [lambda params, x, key, reference: x], [lambda a, b, c, d, e: a]),
    (Apply, [lambda *args, **options: 0], [lambda params, x: x, lambda params, x, key: x]),
    (mj.TaskLoss, [lambda params, task, key, step=None: 0], [None, lambda params: 0]),
    (Sample[Task], [lambda source, key, *, step: source, lambda source, key, step: source], [len]),
    (Sample[Task], [lambda source, key: source], [None, (), lambda source: source]),
    (Sequence[str], [["a"], ("a", "b"), np.array(["a"]), ()], ["ab", None, [1], ["a", 2], KEY]),
    (Iterable[str], [["a"], iter([1]), {"a": 1}, {"a"}], ["ab", None, 3, [1]]),
    (tuple[int, int], [(1, 2), [1, 2]], [(1,), (1, 2, 3), (1, 2.0), 1, None, "ab"]),
    (tuple[int, ...], [(), (1,), [1, 2]], [1, (1, "2"), None]),
    (Mapping[str, float], [{}, {"a": 1.0}], [None, {"a": "b"}, [("a", 1.0)], "a"]),
    (dict[str, Array], [{"a": np.ones(2)}], [{"a": "b"}, np.ones(2), None]),
    (Params, [Params({}, {})], [None, {}, ({}, {}, ()), mj.Batch(1, 2)]),
    (mj.Batch, [BATCH, BATCH._replace(y=(), info=np.ones(3))], [None, (), *BAD_BATCHES]),
    (Task, [Task(BATCH, BATCH)], [BATCH, *(Task(BATCH, bad) for bad in BAD_BATCHES)]),
    (nnx.Rngs, [nnx.Rngs(0)], [None, 0, KEY]),
    (
        optax.GradientTransformation,
        [optax.sgd(0.1), optax.MultiSteps(optax.sgd(0.1), 2)],
        [None, optax.sgd, 0.1],
    ),
    (PyTree, [None, 1, (), {"a": KEY}, Params(1.0, ())], ["text", OBJECTS, object(), [len]]),
    (Any, [None, 1, "text", OBJECTS, object()], []),
]


@pytest.mark.parametrize("row", range(len(GOOD_AND_BAD)))
def test_kinds(row):
    annotation, good, bad = GOOD_AND_BAD[row]

    def function(item):
        return item

    function.__annotations__ = {"item": annotation}
    # Kinds are kept by code, and each row is a function of its own.
    function.__code__ = function.__code__.replace(co_name=f"function_{row}")
    run = checked(function)
    for value in good:
        assert run(value) is value
        assert run(item=value) is value
    for value in bad:
        with pytest.raises(ValueError, match=r"item must be .*, got .*; an argument of function"):
            run(value)
        with pytest.raises(ValueError, match=r"item must be .*, got .*; an argument of function"):
            run(item=value)


def test_a_key_is_one_random_key_of_either_kind():
    @checked
    def draw(key: Array, other: Array | None = None):
        return jax.random.uniform(key)

    old = jax.random.PRNGKey(0)
    assert draw(KEY) == draw(old)
    assert jax.vmap(draw)(jax.random.split(KEY, 3)).shape == (3,)
    assert jax.vmap(draw)(jax.random.split(old, 3)).shape == (3,)
    for wrong in (0, None, jax.random.split(KEY), jax.random.split(old), jnp.ones(2)):
        with pytest.raises(
            ValueError, match=r"key must be one random key, such as jax.random.key\(0\)"
        ):
            draw(wrong)


def test_traced_values_and_shapes_are_arrays():
    @checked
    def double(x: Array, rate: float):
        return 2 * rate * x

    ones = jnp.ones(3)
    np.testing.assert_array_equal(jax.jit(double)(ones, 1.0), 2 * ones)
    np.testing.assert_array_equal(jax.vmap(double)(ones, ones), 2 * ones)
    np.testing.assert_array_equal(jax.grad(lambda x: double(x, 1.0).sum())(ones), 2 * ones)
    assert jax.eval_shape(double, ones, 1.0).shape == (3,)


def test_the_message_says_what_the_documentation_says():
    with pytest.raises(ValueError) as error:  # noqa: PT011
        mj.nets.MLP(4, (5,), 3, rngs=jnp.ones(2))
    first, second = str(error.value).splitlines()
    assert first == "rngs must be a flax.nnx.Rngs, got float64[2]; an argument of MLP."
    assert second == "rngs: for the weights."


def test_labels_that_are_texts_are_told_how_to_become_integers():
    @checked
    def read(task: mj.Task) -> None:
        """Reads."""

    y = np.array(["dog", "cat"])
    texts = mj.Batch(np.ones((2, 3)), y)
    with pytest.raises(ValueError, match=r"y=.<U3\[2\].*; of labels that are texts, names, y = np"):
        read(mj.Task(texts, texts))
    integers = texts._replace(y=np.unique(y, return_inverse=True)[1])
    read(mj.Task(integers, integers))
    ragged = integers._replace(y=np.ones(3, int))
    with pytest.raises(ValueError, match="same number of rows, got") as error:
        read(mj.Task(ragged, ragged))
    assert "texts" not in str(error.value)


def test_a_function_that_was_not_called_is_said_where_no_function_is_needed():
    with pytest.raises(ValueError, match="got the function unroll, which was not called; an"):
        mj.inner_loop(print, optax.sgd(0.1), steps=1, differentiate=mj.unroll)
    with pytest.raises(
        ValueError, match="a function of 3 arguments, got the function <lambda>; an"
    ):
        mj.inner_loop(lambda params: 0, optax.sgd(0.1), steps=1)


def test_a_class_is_checked_when_made_and_when_called():
    net = mj.nets.MLP(4, (5,), 3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x must be an array of numbers, got .*of MLP.__call__"):
        net("text")
    with pytest.raises(ValueError, match=r"x must be an array of numbers, got .*of MLP.embed"):
        net.embed(None)


def test_a_class_shows_the_parameters_of_its_init():
    """And not those of the metaclass of Flax. A class that is derived from it shows its own."""

    class Wider(mj.nets.MLP):
        def __init__(self, width: int):
            super().__init__(4, (width,), 3, rngs=nnx.Rngs(0))

    names = lambda item: list(inspect.signature(item).parameters)
    assert names(mj.nets.MLP) == ["inputs", "hidden", "outputs", "rngs"]
    assert names(Wider) == ["width"]
    assert names(Wider(5)) == ["x"]


def test_a_function_inside_another_is_checked_without_being_kept():
    @checked
    def make(shift: float):
        @checked
        def add(x: Array):
            return x + shift

        return add

    assert make(1.0)(2.0) == 3.0
    assert make(2.0)(2.0) == 4.0
    with pytest.raises(ValueError, match=r"x must be an array of numbers, got .*of add"):
        make(3.0)("text")


def test_python_says_what_is_missing_or_unknown():
    run = checked(functools.partial(mj.nets.MLP, 4).func)
    with pytest.raises(TypeError, match="missing"):
        run(4)
    with pytest.raises(TypeError, match="unexpected"):
        run(4, (5,), 3, rngs=nnx.Rngs(0), depth=3)
