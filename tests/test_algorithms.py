"""One table of every public algorithm, times the properties that all of them must have."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import ALGORITHMS, WAYS, assert_close, first, make_problem, make_tasks

import metajax as mj

KEY = jax.random.key(3)
every = pytest.mark.parametrize("name", ALGORITHMS)
writers = pytest.mark.parametrize("name", ["prototypes", "ridge", "proto_maml"])


def gradient(problem, tasks):
    """Mean loss over tasks and its gradient."""

    def total(params):
        return jax.vmap(problem.task_loss, (None, 0, 0))(params, tasks, jax.random.split(KEY, len(tasks.query.y)))[
            0
        ].mean()

    return jax.jit(jax.value_and_grad(total))(problem.params)


@every
def test_adapt_rewrites_only_fast(name):
    problem = make_problem(name)
    adapted = problem.adaptation.adapt(problem.params, first(make_tasks()).support, KEY)
    assert_close(adapted._replace(fast=()), problem.params._replace(fast=()), 0)
    if not ALGORITHMS[name].writes:
        chex.assert_trees_all_equal_shapes_and_dtypes(adapted.fast, problem.params.fast)
    changed = [not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (adapted.fast, problem.params.fast)))]  # noqa: B905
    assert any(changed) == (name != "identity")


@writers
def test_writers_change_the_number_of_ways(name):
    trained, evaluated = make_problem(name, ways=6), make_problem(name, ways=3)
    state, _ = trained.outer.step(trained.outer.init(trained.params), make_tasks(ways=6), KEY)
    summary = mj.evaluate(evaluated.task_loss, state.params, make_tasks(ways=3), KEY)
    assert summary["accuracy"].mean > 0.5


@every
def test_jit_is_eager_and_traces_once(name):
    problem, tasks = make_problem(name), make_tasks()
    state = problem.outer.init(problem.params)
    chex.clear_trace_counter()
    compiled = jax.jit(chex.assert_max_traces(problem.outer.step, n=1))
    after, info = compiled(state, tasks, KEY)
    compiled(after, make_tasks(seed=1), jax.random.key(4))
    with jax.disable_jit():
        eager, eager_info = problem.outer.step(state, tasks, KEY)
    assert_close((after, info), (eager, eager_info), 1e-8)


@every
def test_chunks_and_a_python_loop_agree(name):
    tasks = make_tasks(number=4)
    whole = make_problem(name)
    state = whole.outer.init(whole.params)
    expected, info = jax.jit(whole.outer.step)(state, tasks, KEY)
    for size in (1, 2):
        chunked = make_problem(name, tasks_at_once=size)
        after, chunked_info = jax.jit(chunked.outer.step)(state, tasks, KEY)
        assert_close((after, chunked_info), (expected, info), 1e-9)
    keys = [jax.random.fold_in(KEY, number) for number in range(4)]
    looped = [
        whole.task_loss(whole.params, jax.tree.map(lambda leaf: leaf[number], tasks), keys[number])[0]  # noqa: B023
        for number in range(4)
    ]
    np.testing.assert_allclose(info.loss, np.mean(looped), rtol=1e-9)


@every
def test_learning_lowers_the_loss_on_unseen_tasks(name):
    problem = make_problem(name)
    row, state, unseen = ALGORITHMS[name], problem.outer.init(problem.params), make_tasks(number=64, seed=99)
    judge = mj.episode(problem.adaptation, problem.loss)
    step = jax.jit(problem.outer.step)
    before = mj.evaluate(judge, state.params, unseen, KEY)["loss"].mean
    for number in range(60):
        state, _ = step(state, make_tasks(number=8, seed=number), jax.random.fold_in(KEY, number))
    after = mj.evaluate(judge, state.params, unseen, KEY)["loss"].mean
    if row.labels:
        assert after < before - 0.02
    else:
        assert after < before  # without adaptation only the mean over labels is there to learn


@every
def test_every_leaf_receives_gradient(name):
    problem = make_problem(name)
    _, slopes = gradient(problem, make_tasks())
    written = ALGORITHMS[name].writes
    for path, slope in jax.tree_util.tree_leaves_with_path(slopes):
        is_written = path[0].name == "fast" and path[1].key in written
        assert bool((slope != 0).any()) != is_written, jax.tree_util.keystr(path)


@every
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtypes_are_kept(name, dtype):
    problem = make_problem(name, dtype)
    state = problem.outer.init(problem.params)
    after, info = problem.outer.step(state, make_tasks(dtype=dtype), KEY)
    chex.assert_trees_all_equal_shapes_and_dtypes(state.params, after.params)
    assert jnp.isfinite(info.loss)


@every
def test_padding_is_inert(name):
    problem, tasks = make_problem(name), make_tasks()

    def pad(batch):
        x = jnp.concatenate([batch.x, jnp.zeros_like(batch.x[:, :3])], axis=1)
        y = jnp.concatenate([batch.y, jnp.zeros_like(batch.y[:, :3])], axis=1)
        weight = jnp.concatenate([jnp.ones(batch.y.shape), jnp.zeros((len(batch.y), 3))], axis=1)
        return mj.Batch(x, y, weight)

    padded = mj.Task(pad(tasks.support), pad(tasks.query))
    assert_close(gradient(problem, padded), gradient(problem, tasks), 1e-9)
    plain, other = (mj.evaluate(problem.task_loss, problem.params, some, KEY) for some in (tasks, padded))
    assert_close(plain, other, 1e-9)


@every
def test_order_of_support_and_of_tasks_does_not_matter(name):
    problem, tasks = make_problem(name), make_tasks()
    rows = jnp.array([3, 0, 5, 1, 4, 2])
    shuffled = tasks._replace(support=jax.vmap(mj.take, (0, None))(tasks.support, rows))
    assert_close(gradient(problem, shuffled), gradient(problem, tasks), 1e-9)
    reverse = jax.tree.map(lambda leaf: leaf[::-1], tasks)
    assert_close(gradient(problem, reverse), gradient(problem, tasks), 1e-9)


@every
def test_relabelling_permutes_the_answers(name):
    problem, task = make_problem(name), first(make_tasks())
    order = jnp.array([2, 0, 1])
    assert len(order) == WAYS
    inverse = jnp.argsort(order)
    params = problem.params
    head = jax.tree.map(lambda leaf: leaf[..., inverse], params.fast["head"])
    permuted = params._replace(fast={**params.fast, "head": head})
    relabelled = task.support._replace(y=order[task.support.y])
    logits = mj.predict(problem.adaptation, problem.apply, params, task.support, task.query.x, KEY)
    answers = mj.predict(problem.adaptation, problem.apply, permuted, relabelled, task.query.x, KEY)
    np.testing.assert_allclose(answers[:, order], logits, rtol=1e-9, atol=1e-12)


@every
def test_identity_is_the_unit_of_chain(name):
    problem, support = make_problem(name), first(make_tasks()).support
    expected = problem.adaptation.adapt(problem.params, support, KEY).fast
    for link in (
        mj.chain(problem.adaptation),
        mj.chain(mj.identity(), problem.adaptation),
        mj.chain(problem.adaptation, mj.identity()),
    ):
        params = link.init(problem.params, jax.random.key(1))
        assert_close(link.adapt(params, support, KEY).fast, expected)


@every
def test_a_task_that_is_not_finite_is_left_out_and_counted(name):
    problem = make_problem(name, tasks_at_once=1)
    tasks = make_tasks(number=3)
    state = problem.outer.init(problem.params)
    poisoned = tasks._replace(
        support=tasks.support._replace(x=tasks.support.x.at[1].set(jnp.nan)),
        query=tasks.query._replace(x=tasks.query.x.at[1].set(jnp.nan)),
    )
    if name == "reptile":
        assert not jnp.isfinite(problem.task_loss(problem.params, jax.tree.map(lambda a: a[1], poisoned), KEY)[0])
    after, info = jax.jit(problem.outer.step)(state, poisoned, KEY)
    clean, _ = jax.jit(problem.outer.step)(state, jax.tree.map(lambda leaf: leaf[jnp.array([0, 2])], tasks), KEY)
    assert info.skipped == 1
    assert jnp.isfinite(info.loss)
    assert_close(after, clean, 1e-9)
    nothing, info = problem.outer.step(state, jax.tree.map(lambda leaf: leaf[1:2], poisoned), KEY)
    assert info.skipped == 1
    assert jnp.isnan(info.loss)
    assert_close(nothing, state._replace(step=state.step + 1), 0)
