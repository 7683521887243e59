"""A script: `fit` on a mesh of simulated devices, and in one of several processes.

`test_training_meshes.py` runs it in processes of their own, because a process that has started JAX
cannot get more devices.

    python tests/mesh_fits.py devices                 # prints the names of what it compared
    python tests/mesh_fits.py process --index 0 --count 2 --port 12345 --folder /tmp/run
"""

import argparse
import collections
import functools
import json
import pathlib
import re
import tempfile
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import metajax as mj

TASKS = 24
EXACT = 1e-12

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("role", choices=["devices", "process"])
parser.add_argument("--index", type=int)
parser.add_argument("--count", type=int)
parser.add_argument("--port", type=int)
parser.add_argument("--folder", type=pathlib.Path)
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--streams", action="store_true", help="compares streams, too")
parser.add_argument("--bad_log", action="store_true", help="a log that cannot be written")
parser.add_argument("--slow", action="store_true", help="so that it can be stopped")


class Problem(NamedTuple):
    """MAML on sinusoids.

    Attributes:
        task_loss: of MAML.
        with_skips: the same, but not finite for tasks that begin above 1.5.
        params: in float64.
        key: of the run.
    """

    task_loss: Any
    with_skips: Any
    params: Any
    key: Any


@functools.cache
def problem():
    """Made when it is first used, because it starts JAX."""
    apply, params = mj.nets.functional(mj.nets.MLP(1, (8,), 1, rngs=nnx.Rngs(0)))
    loss = mj.losses.squared_error(apply)
    task_loss = mj.query_loss(mj.inner_loop(loss, optax.sgd(0.1), steps=1), loss)

    def with_skips(params, task, key):
        value, metrics = task_loss(params, task, key)
        return jnp.where(task.query.y[0, 0] > 1.5, jnp.nan, value), metrics

    params = jax.tree.map(lambda leaf: leaf.astype(float), params)
    return Problem(task_loss, with_skips, params, jax.random.key(0))


def draw(dataset, key):
    """A task of five points of noise for each set."""
    x, y = jax.random.normal(key, (2, 10, 1))
    return mj.Task(mj.Batch(x[:5], y[:5]), mj.Batch(x[5:], y[5:]))


def train(mesh, tasks=TASKS, tasks_at_once=1, sample=None, params=None, **options):
    """(params as one vector on the host, records) of a short run."""
    outer = mj.outer_loop(problem().with_skips, optax.adam(1e-3), tasks_at_once=tasks_at_once)
    state = outer.init(problem().params if params is None else params)
    sample = mj.data.meta_batch(draw, tasks) if sample is None else sample
    options = {"steps": 20, "every": 10, "progress": False} | options
    state, records = mj.training.fit(outer, state, sample, (), problem().key, mesh=mesh, **options)
    return flat(state.params), records


def flat(params):
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(params)])


def some_devices(number):
    return Mesh(np.array(jax.devices()[:number]), ("tasks",))


def check_equal(found, expected):
    """Compares the params and records of two runs, times aside."""
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=EXACT)
    for one, other in zip(found[1], expected[1], strict=True):
        for name in one.keys() - {"seconds", "tasks_per_second"}:
            np.testing.assert_allclose(one[name], other[name], atol=EXACT, err_msg=name)


def evaluation(mesh):
    """Evaluates ten tasks, divided over the mesh, for every record."""
    tests = mj.data.meta_batch(draw, 10)((), jax.random.key(5))
    return lambda params, key: mj.evaluate(problem().task_loss, params, tests, key, mesh=mesh)


def devices_that_divide():
    expected = train(None, evaluate=evaluation(None), fuse=5)
    assert sum(record["skipped"] for record in expected[1]) > 0
    for number in (2, 8):
        mesh = some_devices(number)
        check_equal(train(mesh, evaluate=evaluation(mesh), fuse=5), expected)


def devices_that_do_not_divide():
    expected = train(None, tasks=13)
    check_equal(train(some_devices(8), tasks=13), expected)


def chunks_that_do_not_divide():
    # Tasks are skipped by chunks, so that a problem without skips is compared.
    outer = mj.outer_loop(problem().task_loss, optax.adam(1e-3), tasks_at_once=5)
    tasks = mj.data.meta_batch(draw, 15)((), problem().key)
    expected, info = jax.jit(outer.step)(outer.init(problem().params), tasks, problem().key)
    for number in (2, 8):
        step = outer.sharded(some_devices(number)).step
        found, found_info = jax.jit(step)(outer.init(problem().params), tasks, problem().key)
        np.testing.assert_allclose(flat(found.params), flat(expected.params), atol=EXACT)
        np.testing.assert_allclose(found_info.loss, info.loss, atol=EXACT)
        assert found_info.skipped == 0


def one_message():
    """The only communication of a step is one sum, whether the tasks divide or not."""
    for tasks in (TASKS, 13):
        outer = mj.outer_loop(problem().task_loss, optax.adam(1e-3)).sharded(some_devices(4))
        sample = mj.data.meta_batch(draw, tasks)
        step = lambda state, key: outer.step(state, sample((), key), key)
        program = (
            jax.jit(step).lower(outer.init(problem().params), problem().key).compile().as_text()
        )
        kinds = "all-reduce|all-gather|collective-permute|all-to-all|reduce-scatter"
        found = collections.Counter(re.findall(rf" ({kinds})(?:-start)?\(", program))
        assert found == {"all-reduce": 1}, found


def another_number_of_devices():
    """A run on four devices goes on with two and with one, and ends as one that did not stop."""
    with tempfile.TemporaryDirectory() as folder:
        for mesh, steps in ((some_devices(4), 6), (some_devices(2), 12), (None, 20)):
            found, _ = train(mesh, steps=steps, every=2, checkpoint=folder)
    np.testing.assert_allclose(found, train(None)[0], rtol=0, atol=EXACT)


def persistent_pairs():
    """Pairs of inner problems that are divided over devices, and stay on them."""
    rule = mj.Rule(
        lambda params, key: jnp.array([-3.0, 0.5]),
        lambda rule: optax.sgd(jnp.exp(rule[0]), momentum=rule[1]),
    )
    loss = lambda params, batch, key: (((batch.x @ params.fast - batch.y) ** 2).mean(), {})
    params = mj.Params(jnp.zeros((1, 1)), {})
    params = params._replace(rule=rule.init(params, problem().key))
    outer = mj.persistent(rule, loss, optax.adam(1e-2), horizon=4, truncation=2, pairs=8, std=0.01)
    sample = mj.data.meta_batch(draw, 8)
    state = outer.init(params, sample((), problem().key), problem().key)
    fit = functools.partial(
        mj.training.fit, outer, state, sample, (), problem().key, steps=6, every=6, progress=False
    )
    expected, _ = fit()
    found, _ = fit(mesh=some_devices(4))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=EXACT)
    assert found.fast.sharding.spec == P(None, "tasks")


def streams():
    """Tasks that are read divide over four devices, or do not."""
    for tasks in (8, 6):
        compare_stream(some_devices(4), tasks)


def compare_stream(mesh, tasks):
    """Compares `fit` on a mesh, from a stream, with `fit` on one device, from memory."""
    images = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    labels = np.repeat(np.arange(8), 5)
    net = mj.nets.MLP(6, (8,), 2, rngs=nnx.Rngs(0))
    learner = mj.algorithms.protonets(net, 2)
    outer = mj.outer_loop(learner.task_loss, optax.adam(1e-2))
    rows = mj.data.dataset(np.arange(40, dtype=np.int32), labels)
    source = mj.data.dataset(jnp.asarray(images), labels)
    sample = mj.data.meta_batch(mj.data.episodes(2, 1, 2), tasks)
    feed = mj.data.stream(sample, rows, lambda numbers: images[numbers])
    fit = functools.partial(mj.training.fit, outer, outer.init(learner.params))
    options = {"steps": 6, "every": 6, "progress": False}
    expected, _ = fit(sample, source, problem().key, **options)
    found, _ = fit(feed, (), problem().key, mesh=mesh, **options)
    np.testing.assert_allclose(flat(found.params), flat(expected.params), atol=1e-6)


def sharded_params():
    """Params divided over a second axis stay divided, and the result is the same."""
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("tasks", "model"))

    def place(leaf):
        spec = P("model") if leaf.ndim and leaf.shape[0] % 2 == 0 else P()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    params = jax.tree.map(place, problem().params)
    check_equal(train(mesh, params=params), train(None))
    outer = mj.outer_loop(problem().task_loss, optax.adam(1e-3))
    sample = mj.data.meta_batch(draw, 4)
    for shape in ((2, 2), (1, 4)):
        mesh = Mesh(np.array(jax.devices()[:4]).reshape(shape), ("tasks", "model"))
        start = outer.init(jax.tree.map(place, problem().params))
        state, _ = mj.training.fit(
            outer, start, sample, (), problem().key, steps=2, every=2, progress=False, mesh=mesh
        )
        for before, after in zip(jax.tree.leaves(start), jax.tree.leaves(state), strict=True):
            assert after.sharding.spec == getattr(before.sharding, "spec", P())


def sweeps():
    """Runs that are divided over devices are those of one device."""

    def make(setting):
        outer = mj.outer_loop(problem().task_loss, optax.adam(setting["rate"]))
        return outer, outer.init(problem().params), jax.random.key(setting["seed"])

    settings = mj.training.grid(seed=range(3), rate=[1e-4, 1e-2])
    sample = mj.data.meta_batch(draw, 4)
    run = lambda mesh: mj.training.sweep(
        make, settings, sample, (), steps=4, halve_at=[2], mesh=mesh
    )
    expected = run(None)
    found = run(Mesh(np.array(jax.devices()[:4]), ("runs",)))
    assert found.order.tolist() == expected.order.tolist()
    np.testing.assert_allclose(found.loss, expected.loss, atol=EXACT)


COMPARED = (
    devices_that_divide,
    devices_that_do_not_divide,
    chunks_that_do_not_divide,
    one_message,
    another_number_of_devices,
    persistent_pairs,
    streams,
    sharded_params,
    sweeps,
)


def in_process(options):
    """One of several processes that train together, with a log and checkpoints."""
    mesh = jax.make_mesh((jax.device_count(),), ("tasks",))
    if options.streams:
        compare_stream(mesh, 4)  # each process reads two of them
        compare_stream(Mesh(mesh.devices[None], ("tasks", "other")), 3)  # each reads all
        compare_stream(Mesh(mesh.devices[::-1], ("tasks",)), 4)
    pause = lambda record: time.sleep(1.0) if options.slow else None
    params = jax.tree.map(lambda leaf: leaf + options.seed, problem().params)
    found, records = train(
        mesh,
        params=params,
        steps=options.steps,
        every=2,
        evaluate=evaluation(mesh),
        log=options.folder / ("checkpoints" if options.bad_log else "log.jsonl"),
        checkpoint=options.folder / "checkpoints",
        on_record=pause,
        keep_best=None,
    )
    np.save(options.folder / f"params{options.index}.npy", found)
    (options.folder / f"records{options.index}.json").write_text(json.dumps(records))


if __name__ == "__main__":
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_num_cpu_devices", 8 if options.role == "devices" else 1)
    if options.role == "process":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            f"127.0.0.1:{options.port}",
            options.count,
            options.index,
            initialization_timeout=60,
            heartbeat_timeout_seconds=10,
        )
    if options.role == "devices":
        for compare in COMPARED:
            compare()
            print(compare.__name__, flush=True)
    else:
        in_process(options)
