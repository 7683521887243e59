"""A script: `evaluate`, `predict` and outer steps on simulated devices give what one device gives.

`test_silence.py` runs it in a process of its own, because a process that has started JAX cannot
get more devices. It prints the names of the problems that it compared.
"""

import functools

import jax
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from problems import (
    ALGORITHMS,
    WAYS,
    assert_close,
    cast,
    make_module,
    make_net,
    make_problem,
    make_tasks,
)

import metajax as mj
from metajax import algorithms

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

KEY = jax.random.key(0)
TASKS = make_tasks(number=8)
NAMES = ("protonets", "r2d2")
LEARNERS = {
    "warp_grad": ALGORITHMS["warp_grad"].make,
    "ml3": ALGORITHMS["ml3"].make,
    "mt_net": lambda net, ways: algorithms.mt_net(net, inner_rate=0.2),
    "label_propagation": ALGORITHMS["label_propagation"].make,
    "learning_to_reweight": lambda net, ways: algorithms.learning_to_reweight(net),
    "leo": lambda net, ways: algorithms.leo(net, ways, 8, latent=4, initial_rate=0.5),
}
"""Whose outer step is compared: their losses have derivatives of their own inside."""

DESCENTS = {
    "unroll": {"sample": mj.minibatch(3)},  # so that the keys of the tasks matter
    "mixed_mode": {"differentiate": mj.mixed_mode()},
    "first_order": {"differentiate": mj.first_order()},
    "implicit": {"differentiate": mj.implicit(stop=1e-2)},
}


def descent(options):
    """(adaptation, apply, loss, params) of an inner loop."""
    apply, params = make_net()
    loss = mj.losses.cross_entropy(apply)
    adaptation = mj.inner_loop(loss, optax.sgd(0.2), steps=2, **options)
    return adaptation, apply, loss, params


def problems():
    """{name: (adaptation, apply, loss, params)}."""
    found = {name: descent(options) for name, options in DESCENTS.items()}
    for name in NAMES:
        problem = make_problem(name)
        found[name] = (problem.adaptation, problem.apply, problem.loss, problem.params)
    return found


def outputs(problem, params, tasks, axis_name=None):
    """The summary of all tasks, the metrics of every task, and the logits of its queries."""
    adaptation, apply, loss, _ = problem
    task_loss = mj.query_loss(adaptation, loss)
    summaries = mj.evaluate(task_loss, params, tasks, KEY, axis_name=axis_name)
    predict = lambda task: mj.predict(adaptation, apply, params, task.support, task.query.x, KEY)
    return summaries, jax.vmap(predict)(tasks)


def compare(problem):
    """Tasks on two and on four devices, divided by the compiler and by `jax.shard_map`."""
    run = functools.partial(outputs, problem)
    params = problem[-1]
    expected = jax.jit(run)(params, TASKS)
    for number in (2, 4):
        mesh = jax.make_mesh((number,), ("tasks",), axis_types=(jax.sharding.AxisType.Auto,))
        everywhere = jax.device_put(params, NamedSharding(mesh, P()))
        divided = jax.device_put(TASKS, NamedSharding(mesh, P("tasks")))
        assert len(divided.query.x.sharding.device_set) == number
        assert_close(jax.jit(run)(everywhere, divided), expected, 1e-12)
        mapped = jax.shard_map(
            functools.partial(run, axis_name="tasks"),
            mesh=mesh,
            in_specs=(P(), P("tasks")),
            out_specs=(P(), P("tasks")),
        )
        assert_close(jax.jit(mapped)(everywhere, divided), expected, 1e-12)


def compare_step(make):
    """One outer step on two devices, whose tasks are divided by `jax.shard_map`."""
    learner = make(make_module(WAYS), WAYS)
    one, many = (
        mj.outer_loop(learner.task_loss, optax.sgd(0.1), axis_name=name) for name in (None, "tasks")
    )
    state = one.init(cast(learner.params, float))
    expected, _ = jax.jit(one.step)(state, TASKS, KEY)
    mesh = jax.make_mesh((2,), ("tasks",), axis_types=(jax.sharding.AxisType.Auto,))
    step = jax.shard_map(many.step, mesh=mesh, in_specs=(P(), P("tasks"), P()), out_specs=P())
    found, _ = jax.jit(step)(state, TASKS, KEY)
    assert_close(found.params, expected.params, 1e-11)


if __name__ == "__main__":
    assert jax.device_count() == 4
    for name, problem in problems().items():
        compare(problem)
        print(name)
    for name, make in LEARNERS.items():
        compare_step(make)
        print(name)
