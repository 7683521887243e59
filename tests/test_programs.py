"""What was compiled is kept for the next call, and not longer than the functions that it is of."""

import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_close

import metajax as mj

KEY = jax.random.key(0)
TARGETS = jax.random.normal(jax.random.key(1), (8, 3))
PARAMS = mj.Params({}, jnp.ones(3))


def counted_loss():
    """A task loss, and the list that it appends to whenever it is traced."""
    traces = []

    def task_loss(params, target, key):
        traces.append(target.shape)
        square = ((params.slow - target) ** 2).sum()
        return square, {"noise": jax.random.normal(key)}

    return task_loss, traces


def sample(targets, key):
    return jax.random.choice(key, targets, (4,))


def test_evaluate_is_traced_once_for_each_shape():
    task_loss, traces = counted_loss()
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


@pytest.mark.parametrize("wrap", [jax.jit, functools.partial])
def test_wrapped_functions_are_kept(wrap):
    task_loss, traces = counted_loss()
    wrapped = wrap(task_loss)
    mj.evaluate(wrapped, PARAMS, TARGETS, KEY)
    number = len(traces)
    mj.evaluate(wrapped, PARAMS, TARGETS, KEY)
    assert len(traces) == number > 0


def test_evaluate_inside_compiled_code_gives_the_same():
    task_loss, _ = counted_loss()
    outside = mj.evaluate(task_loss, PARAMS, TARGETS, KEY)
    inside = jax.jit(functools.partial(mj.evaluate, task_loss))(PARAMS, TARGETS, KEY)
    assert_close(inside, outside, 1e-12)
    gradient = jax.grad(lambda slow: mj.evaluate(task_loss, mj.Params({}, slow), TARGETS, KEY)[
        "loss"
    ].mean)(PARAMS.slow)  # fmt: skip
    assert_close(gradient, 2 * (PARAMS.slow - TARGETS.mean(axis=0)), 1e-12)


def test_fit_is_traced_once():
    task_loss, traces = counted_loss()
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
