"""The workloads of `workloads.py` in metajax, and what plain JAX makes of them: `vmap` over tasks of `lax.conv`."""

import harness
import jax
import numpy as np
import optax
from flax import nnx

import metajax as mj

VARIANTS = {
    "metajax": {},
    "metajax, `mixed_mode()`": {"mixed_mode": True},
    "plain JAX": {"native": True},
}


class NativeConv(nnx.Module):
    """The same layer through `lax.conv_general_dilated`."""

    def __init__(self, kernel):
        self.kernel = nnx.Param(kernel)

    def __call__(self, x):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, self.kernel[...], (1, 1), "SAME", dimension_numbers=dimensions)


def make_net(weights, native=False):
    """(apply, params) of the net that has these weights."""
    outputs = len(weights["head/bias"])
    if "layers/0/kernel" in weights:
        width = weights["head/kernel"].shape[0]
        net = mj.nets.MLP(len(weights["layers/0/kernel"]), (width, width), outputs, rngs=nnx.Rngs(0))
    else:
        width = weights["norms/0/scale"].size
        size = 16 * round((len(weights["head/kernel"]) / width) ** 0.5)
        net = mj.nets.Conv4(outputs, width=width, pool=True, size=size, rngs=nnx.Rngs(0))
        if native:
            net.convolutions = nnx.List([NativeConv(layer.kernel[...]) for layer in net.convolutions])
    apply, params = mj.nets.functional(net)
    leaves = [weights[name] for name in by_name(params.fast)]
    return apply, params._replace(fast=jax.tree.unflatten(jax.tree.structure(params.fast), leaves))


def by_name(tree):
    """{"layers/0/kernel": leaf}, in the order of the leaves."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def build(workload, *, native=False, mixed_mode=False):
    """(step, gradient, cost): a step of training on the workload's tasks, compiled, and the meta-gradient by name."""
    apply, params = make_net(workload.weights, native)
    regression = workload.data["query"][1].dtype.kind == "f"
    loss = (mj.losses.squared_error if regression else mj.losses.cross_entropy)(apply)
    strategy = mj.mixed_mode() if mixed_mode else mj.unroll()
    descent = mj.inner_loop(loss, optax.sgd(workload.inner_rate), steps=workload.steps, differentiate=strategy)
    tasks = jax.tree.map(jax.numpy.asarray, mj.Task(*(mj.Batch(*workload.data[part]) for part in ("support", "query"))))
    at_once = {"tasks_at_once": workload.tasks} if native else {}
    outer = mj.outer_loop(mj.episode(descent, loss), optax.adam(workload.outer_rate), **at_once)
    state, key = outer.init(params), jax.random.key(0)
    program, cost = harness.compile_timed(outer.step, state, tasks, key)

    def gradient():
        """Adam's first moment after its first step is a tenth of the meta-gradient."""
        moment = program(state, tasks, key)[0].optimizer[0].mu.fast
        return {name: np.asarray(leaf) / 0.1 for name, leaf in by_name(moment).items()}

    return lambda: program(state, tasks, key), gradient, cost
