"""What was compiled is kept for the next call, and not longer than what it was compiled of."""

import dataclasses
import functools
import gc
import weakref
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from problems import ALGORITHMS, assert_close, make_problem

import metajax as mj
from metajax._programs import jit_with

KEY = jax.random.key(0)
TARGETS = jax.random.normal(jax.random.key(1), (8, 3))
PARAMS = mj.Params({}, jnp.ones(3))


@pytest.fixture
def traces(monkeypatch):
    """The shapes that `counted_loss` was traced for. It reads nothing that may change."""
    shapes = []
    square = jnp.square
    monkeypatch.setattr(jnp, "square", lambda x: shapes.append(x.shape) or square(x))
    return shapes


def counted_loss():
    def task_loss(params, target, key):
        return jnp.square(params.slow - target).sum(), {"noise": jax.random.normal(key)}

    return task_loss


def sample(targets, key):
    return jax.random.choice(key, targets, (4,))


def test_evaluate_is_traced_once_for_each_shape(traces):
    task_loss = counted_loss()
    first = mj.evaluate(task_loss, PARAMS, TARGETS, KEY)
    number = len(traces)
    moved = PARAMS._replace(slow=jnp.zeros(3))
    second = mj.evaluate(task_loss, moved, TARGETS + 1, jax.random.key(2))
    assert len(traces) == number > 0
    np.testing.assert_allclose(second["loss"].per_task, ((TARGETS + 1) ** 2).sum(axis=1))
    assert (first["noise"].per_task != second["noise"].per_task).all()
    assert_close(mj.evaluate(task_loss, PARAMS, TARGETS, KEY, tasks_at_once=2), first, 1e-12)
    mj.evaluate(task_loss, PARAMS, TARGETS[:6], KEY)
    assert len(traces) == 3 * number


def test_a_new_function_is_compiled_even_where_an_old_one_was():
    """The address of a function that is gone may be that of the next one."""
    for number in range(50):
        task_loss = eval(f"lambda params, task, key: ({number}.0 * task.sum(), {{}})")
        summary = mj.evaluate(task_loss, PARAMS, jnp.ones((2, 1)), KEY)
        assert summary["loss"].mean == number
        del task_loss


class Scaled:
    """A task loss with an attribute that may change."""

    scale = 1.0

    def __call__(self, params, task, key):
        return self.scale * task.sum(), {}

    def method(self, params, task, key):
        return self.scale * task.sum(), {}


@pytest.mark.parametrize("which", ["__self__", "method"])
def test_an_object_with_attributes_is_compiled_anew(which):
    scaled = Scaled()
    for scale in (1.0, 2.0):
        scaled.scale = scale
        task_loss = scaled if which == "__self__" else scaled.method
        assert mj.evaluate(task_loss, PARAMS, jnp.ones((2, 1)), KEY)["loss"].mean == scale


def run_task(task_loss, *args):
    return task_loss(*args)


def mean_loss(task_loss):
    return mj.evaluate(task_loss, PARAMS, jnp.ones((2, 1)), KEY)["loss"].mean


@dataclasses.dataclass(frozen=True)
class Frozen:
    numbers: list


class Pair(NamedTuple):
    numbers: list


def test_a_dict_of_a_sampler_may_change():
    twice, augment = (lambda x, key: 2 * x), {"a": lambda x, key: x}
    x = mj.data.as_modalities({"a": np.ones((4, 1))})
    data = mj.data.dataset(x, np.repeat(np.arange(2), 2))
    sample = mj.data.augmented(mj.data.episodes(2, 1, 1), augment)
    task_loss = lambda params, key, _: (sample(data, key).support.x.value["a"].mean(), {})
    for factor in (1.0, 2.0):
        summary = mj.evaluate(task_loss, PARAMS, jax.random.split(KEY, 2), KEY)
        assert summary["loss"].mean == factor
        augment["a"] = twice


SCALES = [1.0]


def readers(numbers):
    """Task losses that read numbers[0], each in another way; `numbers` may be changed."""
    array, scale = np.array(numbers[0]), numbers[0]
    loss = lambda params, batch, key: (numbers[0] * batch.x.sum(), {})
    supervised = mj.supervised(loss)
    weighted = lambda array, params, batch, key: (array * batch.x.sum(), {})
    partial_of_ours = mj.supervised(functools.partial(weighted, array))
    frozen, pair = Frozen(numbers), Pair(numbers)

    class Holder:
        numbers = frozen.numbers

    def body(params, task, key):
        class Inner:
            number = SCALES[0]

        return Inner.number * task.sum(), {}

    def attribute(params, task, key):
        return attribute.scale * task.sum(), {}

    attribute.scale = scale

    def change(value):
        nonlocal scale
        scale = array[...] = numbers[0] = SCALES[0] = attribute.scale = value

    return change, {
        "closure": lambda params, task, key: (scale * task.sum(), {}),
        "inner function": lambda params, task, key: ((lambda: scale * task.sum())(), {}),
        "array": lambda params, task, key: (array * task.sum(), {}),
        "list": lambda params, task, key: (numbers[0] * task.sum(), {}),
        "dict": functools.partial(
            lambda of, params, task, key: (of["a"][0] * task.sum(), {}), {"a": numbers}
        ),
        "attribute": attribute,
        "wrapped": functools.wraps(supervised)(lambda params, task, key: (scale * task.sum(), {})),
        "class body": body,
        "globals": lambda params, task, key: (globals()["SCALES"][0] * task.sum(), {}),
        "subclass": lambda params, task, key: (pair[0][0] * task.sum(), {}),
        "class": lambda params, task, key: (Holder.numbers[0] * task.sum(), {}),
        "frozen dataclass": lambda params, task, key: (frozen.numbers[0] * task.sum(), {}),
        "partial of ours": lambda params, task, key: partial_of_ours(
            params, mj.Batch(task, task), key
        ),
        "recipe": lambda params, task, key: supervised(params, mj.Batch(task, task), key),
    }


@pytest.mark.parametrize("which", readers([1.0])[1])
def test_what_a_function_reads_may_change(which):
    change, losses = readers([1.0])
    for value in (1.0, 2.0, 2.0, 1.0):
        change(value)
        assert mean_loss(losses[which]) == value


SCALE = 1.0


def test_a_global_variable_may_change(monkeypatch):
    task_loss = lambda params, task, key: ((lambda: SCALE * task.sum())(), {})
    assert mean_loss(task_loss) == 1
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert mean_loss(task_loss) == 2


@pytest.mark.parametrize("first", [0, 1, 2, True])
@pytest.mark.parametrize("second", [0, 1, 3, False])
def test_a_small_number_may_change(first, second):
    """Python has one object for a small number, which functions of ours hold, too."""
    number = first
    apply, _ = mj.nets.from_function(lambda params, x: params.slow * x)
    loss = lambda params, batch, key: (number * apply(params, batch.x).sum(), {})
    adaptation = mj.inner_loop(loss, optax.sgd(0.0), steps=2)
    task_loss = mj.query_loss(adaptation, loss)
    ones = mj.Batch(jnp.ones((2, 1, 1)), jnp.ones((2, 1)))
    params = mj.Params(jnp.ones(()), jnp.ones(()))
    for number in (first, second, first):
        summary = mj.evaluate(task_loss, params, mj.Task(ones, ones), KEY)
        assert summary["loss"].mean == number


def test_one_of_two_functions_may_be_chosen():
    low, high = ((lambda x, scale=scale: scale * x) for scale in (1.0, 2.0))
    which = low
    task_loss = lambda params, task, key: (which(task.sum()) + 0 * low(1.0) * high(1.0), {})
    assert mean_loss(task_loss) == 1
    which = high
    assert mean_loss(task_loss) == 2


def test_a_net_may_be_updated_in_place():
    net = nnx.Linear(1, 1, use_bias=False, rngs=nnx.Rngs(0))
    task_loss = lambda params, task, key: (net(task).sum(), {})
    for scale in (1.0, 2.0):
        net.kernel[...] = jnp.full((1, 1), scale)
        assert mean_loss(task_loss) == scale


def test_a_sampler_may_read_what_changes():
    outer, numbers = (
        mj.outer_loop(lambda params, x, key: (params.slow.sum() * x, {}), optax.sgd(1.0)),
        [1.0],
    )
    sample = lambda data, key: data * numbers[0]
    for value in (1.0, 2.0):
        numbers[0] = value
        state, _ = mj.training.fit(
            outer, outer.init(PARAMS), sample, jnp.ones(4), KEY, steps=1, progress=False
        )
        np.testing.assert_allclose(state.params.slow, 1 - value)


def test_the_sampler_of_a_stream_may_read_what_changes():
    ways = 2
    rows = mj.data.dataset(np.arange(12, dtype=np.int32), np.repeat(np.arange(4), 3))
    draw = {n: mj.data.meta_batch(mj.data.episodes(n, 1, 1), tasks=1) for n in (2, 3)}
    sample = lambda data, key: draw[ways](data, key)
    for ways in (2, 3):
        feed = mj.data.stream(sample, rows, lambda numbers: numbers)
        assert next(mj.data.tasks_of(feed, KEY)).support.y.shape == (1, ways)


@pytest.mark.parametrize("wrap", [jax.jit, functools.partial])
def test_wrapped_functions_are_kept(wrap, traces):
    task_loss = counted_loss()
    wrapped = wrap(task_loss)
    mj.evaluate(wrapped, PARAMS, TARGETS, KEY)
    number = len(traces)
    mj.evaluate(wrapped, PARAMS, TARGETS, KEY)
    assert len(traces) == number > 0


def test_evaluate_inside_compiled_code_gives_the_same():
    task_loss = counted_loss()
    outside = mj.evaluate(task_loss, PARAMS, TARGETS, KEY)
    inside = jax.jit(functools.partial(mj.evaluate, task_loss))(PARAMS, TARGETS, KEY)
    assert_close(inside, outside, 1e-12)
    gradient = jax.grad(lambda slow: mj.evaluate(task_loss, mj.Params({}, slow), TARGETS, KEY)[
        "loss"
    ].mean)(PARAMS.slow)  # fmt: skip
    assert_close(gradient, 2 * (PARAMS.slow - TARGETS.mean(axis=0)), 1e-12)


def test_fit_is_traced_once(traces):
    task_loss = counted_loss()
    outer = mj.outer_loop(task_loss, optax.adam(0.1))
    state = outer.init(PARAMS)
    fit = functools.partial(mj.training.fit, outer, steps=6, fuse=2, every=4, progress=False)
    whole, _ = fit(state, sample, TARGETS, KEY)
    number = len(traces)
    other, _ = fit(outer.init(mj.Params({}, jnp.zeros(3))), sample, TARGETS + 1, jax.random.key(3))
    again, _ = fit(state, sample, TARGETS, KEY)
    assert len(traces) == number > 0
    assert_close(again, whole, 0)
    assert (other.params.slow != whole.params.slow).all()
    fit(state, lambda targets, key: targets[:4], TARGETS, KEY)
    assert len(traces) == 2 * number


@pytest.mark.parametrize("name", ALGORITHMS)
def test_learners_are_kept_and_let_go(name):
    problem = make_problem.__wrapped__(name)
    owner = problem.task_loss
    assert jit_with(run_task, owner) is jit_with(run_task, owner)
    reference = weakref.ref(owner)
    del problem, owner
    gc.collect()
    assert reference() is None


def test_functions_and_what_they_hold_are_not_kept():
    def learn():
        """A weak reference to data that a task loss and a sampler hold."""
        held = np.ones((4, 3))
        task_loss = lambda params, task, key: (((params.slow - held[0] - task) ** 2).sum(), {})
        draw = lambda targets, key: targets + held
        outer = mj.outer_loop(task_loss, optax.sgd(0.1))
        mj.evaluate(task_loss, PARAMS, TARGETS, KEY)
        state = outer.init(PARAMS)
        mj.training.fit(outer, state, draw, TARGETS[:4], KEY, steps=2, progress=False)
        return weakref.ref(task_loss), weakref.ref(draw), weakref.ref(held)

    references = learn()
    gc.collect()
    assert [reference() for reference in references] == [None, None, None]
