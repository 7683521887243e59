"""The workloads of `workloads.py` in metajax, and what plain JAX makes of them: `vmap` over tasks of `lax.conv`."""

import os
import re

import harness
import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import PartitionSpec as P

import metajax as mj
from metajax.nets.layers import in_one_pass, in_two_passes


def variants(workload, plain):
    """What is compared with the peers: with short steps fused and a device for each core too, and plain JAX."""
    ours = {"metajax": {}, "metajax, `mixed_mode()`": {"mixed_mode": True}}
    if workload.steps_a_turn > 1:
        ours[f"metajax, `fit(fuse={workload.steps_a_turn})`"] = {"fuse": workload.steps_a_turn}
    cores = len(os.sched_getaffinity(0))
    if workload.tasks % cores == 0:
        ours[f"metajax, {cores} devices"] = {"devices": cores}
    return ours | (
        {"plain JAX": {"lower": "native", "tasks_at_once": workload.tasks}} if plain else {}
    )


def native(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


class Convolution(nnx.Module):
    """The layer, lowered as `lower(x, kernel)`."""

    def __init__(self, kernel, lower):
        self.kernel, self.lower = nnx.Param(kernel), lower

    def __call__(self, x):
        return self.lower(x, self.kernel[...])


def make_net(weights, lower=None):
    """(apply, params) of the net that has these weights."""
    outputs = len(weights["head/bias"])
    if "layers/0/kernel" in weights:
        width = weights["head/kernel"].shape[0]
        net = mj.nets.MLP(
            len(weights["layers/0/kernel"]), (width, width), outputs, rngs=nnx.Rngs(0)
        )
    else:
        width = weights["norms/0/scale"].size
        size = 16 * round((len(weights["head/kernel"]) / width) ** 0.5)
        net = mj.nets.Conv4(outputs, width=width, pool=True, size=size, rngs=nnx.Rngs(0))
        if lower is not None:
            layers = [
                Convolution(layer.kernel[...], LOWERINGS[lower]) for layer in net.convolutions
            ]
            net.convolutions = nnx.List(layers)
    apply, params = mj.nets.functional(net)
    leaves = [weights[name] for name in by_name(params.fast)]
    return apply, params._replace(fast=jax.tree.unflatten(jax.tree.structure(params.fast), leaves))


def by_name(tree):
    """{"layers/0/kernel": leaf}, in the order of the leaves."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


LOWERINGS = {"native": native, "patches": in_one_pass, "two passes": in_two_passes}


def build(workload, *, lower=None, mixed_mode=False, tasks_at_once=None, devices=None, fuse=1):
    """(step, gradient, cost): a step of training on the workload's tasks, compiled, and the meta-gradient by name.

    `lower` names one of LOWERINGS for the convolutions; with `devices`, each computes its own tasks, and the cost tells
    how many these are in the compiled program. With `fuse`, that many steps are one call, as in `training.fit`.
    """
    apply, params = make_net(workload.weights, lower)
    regression = workload.data["query"][1].dtype.kind == "f"
    loss = (mj.losses.squared_error if regression else mj.losses.cross_entropy)(apply)
    strategy = mj.mixed_mode() if mixed_mode else mj.unroll()
    descent = mj.inner_loop(
        loss, optax.sgd(workload.inner_rate), steps=workload.steps, differentiate=strategy
    )
    tasks = jax.tree.map(
        jax.numpy.asarray, mj.Task(*(mj.Batch(*workload.data[p]) for p in ("support", "query")))
    )
    axis_name = None if devices is None else "devices"
    optimizer = optax.adam(workload.outer_rate)
    outer = mj.outer_loop(
        mj.query_loss(descent, loss), optimizer, tasks_at_once=tasks_at_once, axis_name=axis_name
    )
    arguments = outer.init(params), tasks, jax.random.key(0)
    step = outer.step
    if devices is not None:
        step, arguments = spread(step, arguments, devices)
    program, cost = harness.compile_timed(step, *arguments)
    if devices is not None:
        cost |= {"tasks_on_a_device": local_tasks(program, workload)}

    def gradient():
        """Adam's first moment after its first step is a tenth of the meta-gradient."""
        moment = program(*arguments)[0].optimizer[0].mu.fast
        return {
            name: np.asarray(leaf.addressable_data(0)) / 0.1
            for name, leaf in by_name(moment).items()
        }

    if fuse == 1:
        return lambda: program(*arguments), gradient, cost
    steps = lambda state, *rest: jax.lax.scan(
        lambda state, _: (step(state, *rest)[0], None), state, length=fuse
    )[0]
    fused, cost = harness.compile_timed(steps, *arguments)
    return lambda: fused(*arguments), gradient, cost


def spread(step, arguments, devices):
    """The step under `shard_map` over this many devices, of all processes, with its arguments where they belong."""
    mesh = jax.make_mesh((devices,), ("devices",))
    everywhere, by_task = P(), P("devices")
    with_key = lambda state, tasks, key_data: step(state, tasks, jax.random.wrap_key_data(key_data))

    def place(tree, spec):
        sharding = jax.NamedSharding(mesh, spec)
        put = lambda leaf: jax.make_array_from_callback(
            leaf.shape, sharding, lambda index: leaf[index]
        )
        return jax.tree.map(lambda leaf: put(np.asarray(leaf)), tree)

    state, tasks, key = arguments
    arguments = (
        place(state, everywhere),
        place(tasks, by_task),
        place(jax.random.key_data(key), everywhere),
    )
    specs = everywhere, by_task, everywhere
    return jax.shard_map(with_key, mesh=mesh, in_specs=specs, out_specs=everywhere), arguments


def local_tasks(program, workload):
    """Tasks of one device, from the shape that the query set has among the compiled program's parameters."""
    rows = workload.data["query"][0].shape[1:]
    found = re.search(
        rf"f\d+\[(\d+),{','.join(map(str, rows))}\]", program.as_text().split("\n", 1)[0]
    )
    return int(found[1])
