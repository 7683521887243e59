"""The workloads of `workloads.py` in metajax, and in plain JAX: `vmap` over tasks of `lax.conv`."""

import collections
import os
import re

import harness
import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import PartitionSpec as P

import metajax as mj


def native(x, kernel):
    """XLA's own convolution."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)


LOWERINGS = {
    "native": native,
    "patches": mj.nets.in_one_pass,
    "two passes": mj.nets.in_two_passes,
}


class Convolution(nnx.Module):
    """A convolution, lowered as `lower(x, kernel)`."""

    def __init__(self, kernel, lower):
        self.kernel = nnx.Param(kernel)
        self.lower = lower

    def __call__(self, x):
        return self.lower(x, self.kernel[...])


def variants(workload, plain):
    """{name: options of `build`}: what is compared with the peers."""
    ours = {"metajax": {}, "metajax, `mixed_mode()`": {"mixed_mode": True}}
    if workload.steps_a_turn > 1:
        fuse = workload.steps_a_turn
        ours[f"metajax, `fit(fuse={fuse})`"] = {"fuse": fuse}
    cores = len(os.sched_getaffinity(0))
    if workload.tasks % cores == 0:
        ours[f"metajax, {cores} devices"] = {"devices": cores}
    if plain:
        ours["plain JAX"] = {"lower": "native", "tasks_at_once": workload.tasks}
    return ours


def make_net(weights, lower=None):
    """(apply, params) of the net with these weights."""
    outputs = len(weights["head/bias"])
    if "layers/0/kernel" in weights:
        net = make_mlp(weights, outputs)
    else:
        net = make_conv4(weights, outputs)
    if lower is not None:
        layers = [Convolution(one.kernel[...], LOWERINGS[lower]) for one in net.convolutions]
        net.convolutions = nnx.List(layers)
    apply, params = mj.nets.functional(net)
    leaves = [weights[name] for name in by_name(params.fast)]
    fast = jax.tree.unflatten(jax.tree.structure(params.fast), leaves)
    return apply, params._replace(fast=fast)


def make_mlp(weights, outputs):
    inputs = len(weights["layers/0/kernel"])
    width = len(weights["head/kernel"])
    return mj.nets.MLP(inputs, (width, width), outputs, rngs=nnx.Rngs(0))


def make_conv4(weights, outputs):
    width = weights["norms/0/scale"].size
    places = len(weights["head/kernel"]) / width
    size = 16 * round(places**0.5)
    return mj.nets.Conv4(outputs, width=width, pool=True, size=size, rngs=nnx.Rngs(0))


def by_name(tree):
    """{"layers/0/kernel": leaf}, in the order of the leaves."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def make_outer(workload, lower, mixed_mode, tasks_at_once):
    """(outer loop, params)."""
    apply, params = make_net(workload.weights, lower)
    if workload.data["query"][1].dtype.kind == "f":
        loss = mj.losses.squared_error(apply)
    else:
        loss = mj.losses.cross_entropy(apply)
    strategy = mj.mixed_mode() if mixed_mode else mj.unroll()
    optimizer = optax.sgd(workload.inner_rate)
    descent = mj.inner_loop(loss, optimizer, steps=workload.steps, differentiate=strategy)
    outer = mj.outer_loop(
        mj.query_loss(descent, loss),
        optax.adam(workload.outer_rate),
        tasks_at_once=tasks_at_once,
    )
    return outer, params


def make_tasks(workload):
    """All tasks of the workload, on the device."""
    support = mj.Batch(*workload.data["support"])
    query = mj.Batch(*workload.data["query"])
    return jax.tree.map(jax.numpy.asarray, mj.Task(support, query))


def build(workload, *, lower=None, mixed_mode=False, tasks_at_once=None, devices=None, fuse=1):
    """A compiled step of training on the workload's tasks.

    Args:
        workload: of `workloads.py`.
        lower: one of LOWERINGS for the convolutions; None leaves the choice to the library.
        mixed_mode: whether to differentiate by `mixed_mode()` and not `unroll()`.
        tasks_at_once: as in `outer_loop`.
        devices: how many devices share the tasks. The cost then has the number of tasks that the
            compiled program has on one of them, and what it sends between them.
        fuse: number of steps in one call, as in `training.fit`.

    Returns:
        (step, gradient, cost): functions without arguments that take a step and that give the
        meta-gradient by name; and the cost of the compiled program.
    """
    outer, params = make_outer(workload, lower, mixed_mode, tasks_at_once)
    return build_step(outer, params, make_tasks(workload), devices=devices, fuse=fuse)


def build_step(outer, params, tasks, *, devices=None, parts=1, fuse=1):
    """The same of an outer loop whose optimizer is Adam.

    Args:
        outer: the outer loop.
        params: where it starts.
        tasks: of every step.
        devices: how many devices share the tasks, times `parts`; None is one without a mesh.
        parts: devices that the params of each task are divided over.
        fuse: number of steps in one call.
    """
    arguments = outer.init(params), tasks, jax.random.key(0)
    step = outer.step
    if devices is not None:
        step, arguments = spread(outer, arguments, devices // parts, parts)
    program, cost = harness.compile_timed(step, *arguments)
    if devices is not None:
        cost["tasks_on_a_device"] = local_tasks(program, tasks)
        cost["messages"] = messages(program)
        cost["argument_bytes"] = program.memory_analysis().argument_size_in_bytes

    def gradient():
        """Adam's first moment after its first step is a tenth of the meta-gradient."""
        state, _ = program(*arguments)
        moment = by_name(state.optimizer[0].mu.fast)
        whole = lambda leaf: leaf if leaf.is_fully_addressable else leaf.addressable_data(0)
        return {name: np.asarray(whole(leaf)) / 0.1 for name, leaf in moment.items()}

    timed = program
    if fuse > 1:
        timed, cost = harness.compile_timed(fused(step, fuse), *arguments)
    return lambda: timed(*arguments), gradient, cost


def fused(step, number):
    """Several steps on the same tasks as one function."""

    def steps(state, tasks, key):
        def one(state, _):
            state, _ = step(state, tasks, key)
            return state, None

        return jax.lax.scan(one, state, length=number)[0]

    return steps


def spread(outer, arguments, devices, parts):
    """A step with its tasks on the devices of all processes, and its arguments in place.

    With several parts, the last axis of each weight that they divide is divided over them.
    """
    auto = jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((devices, parts), ("tasks", "parts"), axis_types=(auto, auto))

    def place(tree, spec_of):
        def put(leaf):
            leaf = np.asarray(leaf)
            sharding = jax.NamedSharding(mesh, spec_of(leaf))
            return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

        return jax.tree.map(put, tree)

    def in_parts(leaf):
        is_divided = parts > 1 and leaf.ndim > 1 and leaf.shape[-1] % parts == 0
        return P(*[None] * (leaf.ndim - 1), "parts") if is_divided else P()

    def with_key_data(state, tasks, key_data):
        return outer.sharded(mesh).step(state, tasks, jax.random.wrap_key_data(key_data))

    state, tasks, key = arguments
    everywhere = lambda leaf: P()
    arguments = (
        place(state, in_parts),
        place(tasks, lambda leaf: P("tasks")),
        place(jax.random.key_data(key), everywhere),
    )
    return with_key_data, arguments


def messages(program):
    """{kind of communication between devices: how many there are in the compiled program}."""
    kinds = "all-reduce|all-gather|collective-permute|all-to-all|reduce-scatter"
    return dict(collections.Counter(re.findall(rf" ({kinds})(?:-start)?\(", program.as_text())))


def local_tasks(program, tasks):
    """The number of tasks of one device, from the shape of its query set in the program."""
    rows = ",".join(map(str, tasks.query.x.shape[1:]))
    parameters = program.as_text().split("\n", 1)[0]
    found = re.search(rf"[fs]\d+\[(\d+),{rows}\]", parameters)
    return int(found[1])
