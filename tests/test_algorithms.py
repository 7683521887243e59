"""One table of every public algorithm, times the properties that all of them must have."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import ALGORITHMS, WAYS, assert_close, first, make_problem, make_tasks

import metajax as mj

KEY = jax.random.key(3)
# One worker takes all tests of an algorithm, for they share what was compiled.
every = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.xdist_group(n)) for n in ALGORITHMS]
)
writers = pytest.mark.parametrize("name", [name for name, row in ALGORITHMS.items() if row.writes])


def gradient(name, tasks):
    """Mean loss and metrics over tasks, and the gradient of the loss."""
    problem = make_problem(name)
    return problem.gradient(problem.params, tasks, KEY)


@every
def test_adapt_rewrites_only_fast_and_jit_is_eager(name):
    problem, support = make_problem(name), first(make_tasks()).support
    adapted = problem.adaptation.adapt(problem.params, support, KEY)
    assert_close(jax.jit(problem.adaptation.adapt)(problem.params, support, KEY), adapted, 1e-8)
    assert_close(adapted._replace(fast=()), problem.params._replace(fast=()), 0)
    if not ALGORITHMS[name].writes:
        chex.assert_trees_all_equal_shapes_and_dtypes(adapted.fast, problem.params.fast)
    if "head" in ALGORITHMS[name].writes and "head" not in problem.params.fast:
        assert list(adapted.fast) == ["head"]
        return
    pairs = zip(jax.tree.leaves(adapted.fast), jax.tree.leaves(problem.params.fast), strict=False)
    changed = [not np.array_equal(after, before) for after, before in pairs]
    assert any(changed) == (name != "no_adaptation")


@writers
def test_writers_change_the_number_of_ways(name):
    trained, evaluated = make_problem(name, ways=6), make_problem(name, ways=3)
    state, _ = trained.step(trained.state, make_tasks(ways=6), KEY)
    summary = evaluated.score(state.params, make_tasks(ways=3), KEY)
    # After one step a relation net does not know yet what alike means.
    assert summary["accuracy"].mean > (0 if name == "relation_nets" else 0.5)


@every
def test_a_step_is_traced_once(name):
    problem = make_problem(name)
    after, _ = problem.step(problem.state, make_tasks(), KEY)
    number = len(problem.traces)
    problem.step(after, make_tasks(seed=1), jax.random.key(4))
    assert len(problem.traces) == number


@every
def test_chunks_and_a_python_loop_agree(name):
    tasks, whole = make_tasks(), make_problem(name)
    expected = whole.step(whole.state, tasks, KEY)
    for size in (1, 2) if name == "maml" else (1,):
        assert_close(
            make_problem(name, tasks_at_once=size).step(whole.state, tasks, KEY), expected, 1e-9
        )
    at_step = {"step": jnp.int32(0)} if name == "maml_plus_plus" else {}
    task_loss = jax.jit(functools.partial(whole.task_loss, **at_step))
    looped = [
        task_loss(
            whole.params,
            jax.tree.map(lambda leaf: leaf[number], tasks),
            jax.random.fold_in(KEY, number),
        )[0]
        for number in range(len(tasks.query.y))
    ]
    np.testing.assert_allclose(expected[1].loss, np.mean(looped), rtol=1e-9)


@every
def test_learning_lowers_the_loss_on_unseen_tasks(name):
    problem, unseen = make_problem(name), make_tasks(number=64, seed=99)
    state = problem.state
    for number in range(60):
        state, _ = problem.step(state, make_tasks(seed=number), jax.random.fold_in(KEY, number))
    before, after = (
        problem.score(params, unseen, KEY)["loss"].mean for params in (problem.params, state.params)
    )
    # Without adaptation only the mean over labels is there to learn.
    assert after < before - (0 if name == "no_adaptation" else 0.02)


@every
def test_every_leaf_receives_gradient(name):
    _, slopes = gradient(name, make_tasks())
    for path, slope in jax.tree_util.tree_leaves_with_path(slopes):
        where = jax.tree_util.keystr(path)
        is_written = path[0].name == "fast" and path[1].key in ALGORITHMS[name].writes
        if name == "r2d2" and where == ".rule['offset']":
            # The softmax does not change by an offset of all logits; rounding may leave a trace.
            assert abs(slope) < 1e-12
        else:
            assert bool((slope != 0).any()) != is_written, where


@every
def test_dtypes_are_kept(name):
    """In bfloat16 it also runs; what holds there holds in float32, which has a finer grid."""
    for dtype in (jnp.float32, jnp.bfloat16):
        problem = make_problem(name, dtype)
        after, _ = jax.eval_shape(problem.outer.step, problem.state, make_tasks(dtype=dtype), KEY)
        chex.assert_trees_all_equal_shapes_and_dtypes(problem.params, after.params)
    _, info = problem.step(problem.state, make_tasks(dtype=jnp.bfloat16), KEY)
    assert jnp.isfinite(info.loss)


@every
def test_padding_is_inert(name):
    tasks = make_tasks()

    def pad(batch):
        x = jnp.concatenate([batch.x, jnp.zeros_like(batch.x[:, :3])], axis=1)
        y = jnp.concatenate([batch.y, jnp.zeros_like(batch.y[:, :3])], axis=1)
        weight = jnp.concatenate([jnp.ones(batch.y.shape), jnp.zeros((len(batch.y), 3))], axis=1)
        return mj.Batch(x, y, weight)

    padded = mj.Task(pad(tasks.support), pad(tasks.query))
    assert_close(gradient(name, padded), gradient(name, tasks), 1e-9)


@every
def test_order_of_support_and_of_tasks_does_not_matter(name):
    tasks = make_tasks()
    expected = gradient(name, tasks)
    rows = jnp.array([3, 0, 5, 1, 4, 2])
    shuffled = tasks._replace(support=jax.vmap(mj.take, (0, None))(tasks.support, rows))
    assert_close(gradient(name, shuffled), expected, 1e-9)
    assert_close(gradient(name, jax.tree.map(lambda leaf: leaf[::-1], tasks)), expected, 1e-9)


@every
def test_relabelling_permutes_the_answers(name):
    problem, task = make_problem(name), first(make_tasks())
    order = jnp.array([2, 0, 1])
    assert len(order) == WAYS
    inverse = jnp.argsort(order)
    params = problem.params
    permuted = params._replace(
        fast=permute_head(params.fast, inverse), slow=permute_head(params.slow, inverse)
    )
    relabelled = task.support._replace(y=order[task.support.y])

    @jax.jit
    def predict(params, support):
        return mj.predict(problem.adaptation, problem.apply, params, support, task.query.x, KEY)

    logits = predict(params, task.support)
    answers = predict(permuted, relabelled)
    np.testing.assert_allclose(answers[:, order], logits, rtol=1e-9, atol=1e-12)


@every
def test_identity_is_the_unit_of_chain(name):
    problem, support = make_problem(name), first(make_tasks()).support
    own, rule, unit = problem.adaptation, problem.params.rule, mj.identity()
    expected = own.adapt(problem.params, support, KEY).fast
    for link, rules in (
        (mj.chain(own), (rule,)),
        (mj.chain(unit, own), ((), rule)),
        (mj.chain(own, unit), (rule, ())),
    ):
        params = link.init(problem.params, jax.random.key(1))
        chex.assert_trees_all_equal_shapes(params.rule, rules)
        assert_close(link.adapt(params._replace(rule=rules), support, KEY).fast, expected)


@every
def test_a_task_that_is_not_finite_is_left_out_and_counted(name):
    problem, tasks = make_problem(name, tasks_at_once=1), make_tasks()
    losses = [
        problem.step(problem.state, _repeat(tasks, number), KEY)[1].loss for number in (0, 2, 3)
    ]

    def poison(batch, where):
        return batch._replace(x=batch.x.at[where].set(jnp.nan))

    one = mj.Task(poison(tasks.support, 1), poison(tasks.query, 1))
    after, info = problem.step(problem.state, one, KEY)
    assert info.skipped == 1
    np.testing.assert_allclose(info.loss, np.mean(losses), rtol=1e-9)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(after))
    assert int(after.step) == 1
    whole = mj.Task(poison(tasks.support, ...), poison(tasks.query, ...))
    nothing, info = problem.step(problem.state, whole, KEY)
    assert info.skipped == 4
    assert jnp.isnan(info.loss)
    assert_close(nothing, problem.state._replace(step=jnp.int32(1)), 0)


def _repeat(tasks, number):
    """The task of this number in the place of all."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[number], leaf.shape), tasks)


def permute_head(weights, order):
    """The weights with the outputs of the head in another order, if the head is among them."""
    if "head" not in weights:
        return weights
    return {**weights, "head": jax.tree.map(lambda leaf: leaf[..., order], weights["head"])}
