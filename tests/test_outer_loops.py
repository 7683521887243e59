import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_close, first, make_net, make_problem, make_tasks

import metajax as mj
from metajax.outer.mapping import chunk_tasks

KEY = jax.random.key(0)

DEVICES = """
import sys, jax, numpy as np
sys.path.insert(0, {tests!r})
jax.config.update("jax_enable_x64", True)
from jax.sharding import PartitionSpec as P
from problems import assert_close, make_problem, make_tasks
assert jax.device_count() == 4
key, tasks = jax.random.key(0), make_tasks(number=8)
one = make_problem("meta_sgd")
state = one.outer.init(one.params)
expected = jax.jit(one.outer.step)(state, tasks, key)
mesh = jax.make_mesh((4,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
for tasks_at_once, check in ((None, True), (1, True), (1, False)):
    many = make_problem("meta_sgd", axis_name="devices", tasks_at_once=tasks_at_once)
    specs = {{"in_specs": (P(), P("devices"), P()), "out_specs": P(), "check_vma": check}}
    step = jax.shard_map(many.outer.step, mesh=mesh, **specs)
    assert_close(jax.jit(step)(state, tasks, key), expected)
import jax.numpy as jnp, metajax as mj, optax
from test_differentiate_strategies import ridge_loss, ridge_problem
params, task = ridge_problem()
tasks = jax.tree.map(lambda leaf: jnp.stack([leaf * scale for scale in (1.0, 0.5, 0.8, 1.2)]), task)
dense = mj.implicit(mj.dense())
reverse = jax.value_and_grad
for strategy, estimate in ((dense, reverse), (mj.mixed_mode(), reverse), (None, mj.forward)):
    inner = mj.inner_loop(ridge_loss, optax.sgd(0.1), steps=60, differentiate=strategy)
    task_loss = mj.query_loss(inner, ridge_loss)
    common = {{"optimizer": optax.sgd(0.1), "value_and_grad": estimate}}
    make = lambda **options: mj.outer_loop(task_loss, **common, **options)
    state = make().init(params)
    specs = {{"in_specs": (P(), P("devices"), P()), "out_specs": P()}}
    many = jax.shard_map(make(axis_name="devices").step, mesh=mesh, **specs)
    assert_close(jax.jit(many)(state, tasks, key), jax.jit(make().step)(state, tasks, key))
print("equal")
"""


@pytest.mark.thorough
def test_four_devices_give_what_one_gives():
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    programs = jax.config.jax_compilation_cache_dir
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_COMPILATION_CACHE_DIR": programs}
    code = DEVICES.format(tests=str(pathlib.Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "equal", done.stderr


def test_reptile_moves_toward_the_mean_of_the_adapted_weights():
    problem, tasks = make_problem("reptile"), make_tasks(number=3)
    state = problem.outer.init(problem.params)
    after, _ = problem.step(state, tasks, KEY)
    adapt = jax.jit(jax.vmap(problem.adaptation.adapt, (None, 0, None)))
    adapted = adapt(problem.params, tasks.support, KEY).fast
    halfway = jax.tree.map(
        lambda start, ends: start + 0.5 * (ends.mean(0) - start), problem.params.fast, adapted
    )
    assert_close(after.params.fast, halfway)
    wrong = make_problem("anil")
    with pytest.raises(ValueError, match="make all of the net fast"):
        mj.reptile(wrong.adaptation)(wrong.params, first(tasks), KEY)
    write = mj.prototypes(mj.nets.identity_encoder, 3)
    with pytest.raises(ValueError, match="Reptile needs"):
        mj.reptile(write)(problem.params, first(tasks), KEY)


@pytest.mark.thorough
def test_half_precision_gradients_are_summed_in_single():
    whole, parts = (make_problem("maml", jnp.bfloat16, tasks_at_once=size) for size in (None, 1))
    tasks = make_tasks(number=16, dtype=jnp.bfloat16)
    one, other = (problem.step(whole.state, tasks, KEY)[1].grad_norm for problem in (whole, parts))
    assert one.dtype == jnp.float32
    np.testing.assert_allclose(one, other, rtol=2e-2)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_means_of_half_precision_losses_and_metrics_are_single(dtype):
    number = jnp.arange(300, dtype=jnp.int32)
    value = lambda task: ((task % 100) + 300.0).astype(dtype)
    task_loss = lambda params, task, key: (
        params.slow.astype(dtype) * value(task),
        {"m": value(task)},
    )
    expected = np.asarray(value(number), float)
    outer = mj.outer_loop(task_loss, optax.sgd(0.1), tasks_at_once=100)
    _, info = outer.step(outer.init(mj.Params({}, jnp.float32(1))), number, KEY)
    summary = mj.evaluate(task_loss, mj.Params({}, jnp.float32(1)), number, KEY)["m"]
    interval = mj.summarize(jnp.asarray(expected)).interval
    for mean in (info.loss, info.metrics["m"], summary.mean):
        assert mean.dtype == jnp.float32
        np.testing.assert_allclose(mean, expected.mean(), rtol=1e-6)
    np.testing.assert_allclose(summary.interval, interval, rtol=1e-5)
    assert summary.per_task.dtype == dtype


def test_supervised_is_ordinary_training():
    apply, params = make_net()
    loss = mj.losses.cross_entropy(apply)
    batch = first(make_tasks()).query
    outer = mj.outer_loop(mj.supervised(loss), optax.sgd(0.1))
    batches = jax.tree.map(lambda leaf: leaf[None], batch)
    state, info = jax.jit(outer.step)(outer.init(params), batches, KEY)
    value_and_grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, metrics), gradient = value_and_grad(params, batch, KEY)
    assert_close(state.params, jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient))
    assert_close((info.loss, info.metrics), (value, metrics))
    with pytest.raises(ValueError, match=r"batch must be a metajax.Batch .* got Task"):
        outer.step(state, make_tasks(), KEY)


def test_another_estimator_of_the_gradient_is_an_argument():
    def forward(function, has_aux):
        def estimate(params, *others):
            value, aux = function(params, *others)
            return (value, aux), jax.jacfwd(lambda params: function(params, *others)[0])(params)

        return estimate

    problem = make_problem("maml", value_and_grad=forward)
    plain = make_problem("maml")
    state = plain.outer.init(plain.params)
    expected = plain.step(state, make_tasks(), KEY)
    assert_close(problem.step(state, make_tasks(), KEY), expected, 1e-8)


def test_a_program_grows_in_proportion_to_the_number_of_weights():
    """Whether all are finite is found once, and not again in the update of each."""

    def size(leaves):
        params = mj.Params({}, [jnp.ones(2)] * leaves)
        task_loss = lambda params, task, key: (sum((w**2).sum() for w in params.slow), {})
        outer = mj.outer_loop(task_loss, optax.sgd(0.1))
        step = jax.jit(outer.step)
        program = step.lower(outer.init(params), jnp.ones(2), jax.random.key(0)).compile()
        return program.as_text().count(" = ")

    assert size(40) < 2.5 * size(20)


def test_a_task_s_key_depends_only_on_its_index():
    def task_loss(params, task, key):
        noise = jax.random.normal(key)
        return noise * params.fast, {"noise": noise}

    params, tasks = mj.Params(jnp.array(1.0), ()), jnp.zeros((6, 1))
    expected = [jax.random.normal(jax.random.fold_in(KEY, index)) for index in range(6)]
    for size in (None, 1, 2, 3):
        per_task = mj.evaluate(task_loss, params, tasks, KEY, tasks_at_once=size)["noise"].per_task
        np.testing.assert_allclose(per_task, expected)


def test_evaluate_gives_mean_and_interval():
    def task_loss(params, task, key):
        return task.sum(), {"vector": jnp.stack([task.sum(), -task.sum()])}

    values = np.random.default_rng(0).normal(size=(10, 1))
    summary = mj.evaluate(task_loss, mj.Params((), ()), jnp.asarray(values), KEY)
    assert summary["vector"].mean.shape == (2,)
    np.testing.assert_allclose(summary["loss"].mean, values.mean())
    # Student's t for 9 degrees of freedom, from a printed table.
    np.testing.assert_allclose(
        summary["loss"].interval, 2.262 * values.std(ddof=1) / np.sqrt(10), rtol=2e-4
    )
    assert np.isnan(mj.summarize(jnp.ones(1)).interval)


def test_whole_training_runs_vmap_over_seeds():
    problem = make_problem("maml")

    def train(key):
        start = jax.tree.map(
            lambda leaf: leaf + 0.1 * jax.random.normal(key, leaf.shape), problem.params
        )

        def step(state, number):
            state, info = problem.outer.step(state, make_tasks(), jax.random.fold_in(key, number))
            return state, info.loss

        return jax.lax.scan(step, problem.outer.init(start), jnp.arange(5))

    keys = jax.random.split(KEY, 3)
    states, losses = jax.jit(jax.vmap(train))(keys)
    assert losses.shape == (3, 5)
    assert (losses[:, -1] < losses[:, 0]).all()
    one, alone = jax.jit(train)(keys[1])
    assert_close((jax.tree.map(lambda leaf: leaf[1], states), losses[1]), (one, alone), 1e-8)


def test_errors_say_what_to_do():
    problem = make_problem("maml", tasks_at_once=3)
    state, tasks = problem.outer.init(problem.params), make_tasks(number=4)
    with pytest.raises(
        ValueError, match="tasks_at_once=3 must divide the number of tasks, which is 4"
    ):
        problem.outer.step(state, tasks, KEY)
    with pytest.raises(
        ValueError, match="tasks_at_once must be a whole number, 1 or more, or None, got 0"
    ):
        mj.evaluate(problem.task_loss, problem.params, tasks, KEY, tasks_at_once=0)
    with pytest.raises(ValueError, match="same, positive length"):
        problem.outer.step(state, tasks._replace(query=make_tasks(number=5).query), KEY)
    with pytest.raises(ValueError, match=r"must be an optax\.GradientTransformation"):
        mj.outer_loop(problem.task_loss, "adam")
    wrong = first(tasks)
    with pytest.raises(ValueError, match=r"must be alike, got .*\[4\].*\[3\]"):
        problem.task_loss(
            problem.params, wrong._replace(query=wrong.query._replace(x=wrong.query.x[:, :3])), KEY
        )
    with pytest.raises(ValueError, match=r"Labels must be integers of shape \[12\], got float64"):
        problem.loss(problem.params, wrong.query._replace(y=wrong.query.y.astype(float)), KEY)
    apply, params = make_net()
    with pytest.raises(ValueError, match="Targets have shape"):
        mj.losses.squared_error(apply)(params, wrong.query, KEY)


@pytest.mark.parametrize(
    ("backend", "numbers", "tasks", "expected"),
    [
        ("cpu", 10, 6, 6),
        ("cpu", 2**15, 6, 2),
        ("cpu", 2**15, 5, 1),
        ("cpu", 6_000, 12, 4),
        ("gpu", 2**15, 6, 6),
    ],
)
def test_tasks_at_once_by_default_are_what_fits_into_the_cache_of_a_cpu(
    monkeypatch, backend, numbers, tasks, expected
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    params = mj.Params(jnp.zeros(numbers, jnp.float32), ())
    _, keys = chunk_tasks(params, jnp.zeros((tasks, 3), jnp.float32), jax.random.key(0), None)
    assert keys.shape == (tasks // expected, expected)


@pytest.mark.parametrize(
    ("change", "missing", "foreign"),
    [
        (lambda p: mj.Params(p.slow, p.fast), r"mu\.fast\['body'\]", r"mu\.fast\['head'\]"),
        (lambda p: p._replace(slow={**p.slow, "new": p.fast["head"]}), r"mu\.slow\['new'\]", ""),
        (lambda p: p._replace(slow={}), "", r"mu\.slow\['body'\]"),
    ],
)
def test_params_that_the_optimizer_was_not_initialised_with_are_named(change, missing, foreign):
    task_loss = lambda params, task, key: (sum(map(jnp.sum, jax.tree.leaves(params))), {})
    outer = mj.outer_loop(task_loss, optax.adam(0.1))
    state = outer.init(mj.Params(fast={"head": jnp.ones(2)}, slow={"body": jnp.ones(3)}))
    changed = state._replace(params=change(state.params))
    error = f"other params .* missing are .*{missing}.*, foreign are .*{foreign}.*outer.init"
    with pytest.raises(ValueError, match=error):
        jax.jit(outer.step)(changed, jnp.ones(2), KEY)
    outer.step(state, jnp.ones(2), KEY)


def test_another_error_of_an_optimizer_stays_as_it_is():
    def fail(updates, state, params=None):
        raise TypeError("of its own")

    optimizer = optax.GradientTransformation(optax.sgd(0.1).init, fail)
    outer = mj.outer_loop(lambda params, task, key: (params.slow, {}), optimizer)
    with pytest.raises(TypeError, match="of its own"):
        outer.step(outer.init(mj.Params({}, jnp.ones(()))), jnp.ones(2), KEY)
