"""The table of algorithms under test, built from `metajax.algorithms`."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import metajax as mj
from metajax import algorithms

WAYS, FEATURES = 3, 4


def make_tasks(number=4, ways=WAYS, shots=2, queries=4, dtype=jnp.float64, seed=0):
    """Classes are random directions, which a shared linear map hides: that is to be learned."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).normal(size=(FEATURES, FEATURES))
    centres = rng.normal(size=(number, ways, 1, FEATURES))

    def batch(rows):
        x = centres + 0.3 * rng.normal(size=(number, ways, rows, FEATURES))
        y = np.broadcast_to(np.arange(ways)[:, None], (number, ways, rows))
        x = (x @ mixing).reshape(number, -1, FEATURES)
        return mj.Batch(jnp.asarray(x, dtype), jnp.asarray(y.reshape(number, -1), jnp.int32))

    return mj.Task(batch(shots), batch(queries))


def make_module(ways=WAYS, inputs=FEATURES):
    """A small net, whose head has an output for each way."""
    return mj.nets.MLP(inputs, (8,), ways, rngs=nnx.Rngs(0))


def make_net(fast=nnx.Param, dtype=jnp.float64, ways=WAYS):
    """(apply, params) of the small net, in a dtype."""
    apply, params = mj.nets.functional(make_module(ways), fast=fast)
    return apply, cast(params, dtype)


def cast(tree, dtype):
    """The tree with all arrays in a dtype."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


class Row(NamedTuple):
    """An algorithm under test.

    Attributes:
        make: (net, ways) -> Learner.
        optimizer: outer optimizer.
        writes: entries of `fast` that are replaced, so that their old value gets no gradient.
        labels: whether the adaptation reads labels.
        inputs: features of the net's input.
    """

    make: Callable[[nnx.Module, int], mj.Learner]
    optimizer: optax.GradientTransformation = optax.adam(1e-2, eps_root=1e-8)
    writes: tuple[str, ...] = ()
    labels: bool = True
    inputs: int = FEATURES


def descent(optimizer):
    """MAML with another inner optimizer, composed of the parts."""

    def make(net, ways):
        apply, params = mj.nets.functional(net)
        loss = mj.losses.cross_entropy(apply)
        adaptation = mj.inner_loop(loss, optimizer, steps=2)
        return mj.Learner(apply, params, adaptation, mj.query_loss(adaptation, loss))

    return make


def no_adaptation(net, ways):
    """The baseline that ignores the support set."""
    apply, params = mj.nets.functional(net)
    loss = mj.losses.cross_entropy(apply)
    return mj.Learner(apply, params, mj.identity(), mj.query_loss(mj.identity(), loss))


def dense_imaml(net, ways):
    """IMAML with an exact solve, so that properties hold to rounding."""
    learner = algorithms.imaml(net, inner_rate=0.3, inner_steps=10, proximity=0.3)
    loss = mj.losses.cross_entropy(learner.apply)
    adaptation = mj.inner_loop(
        loss,
        optax.sgd(0.3),
        steps=10,
        proximity=0.3,
        differentiate=mj.implicit(mj.dense(), tolerance=math.inf),
    )
    return learner._replace(adaptation=adaptation, task_loss=mj.query_loss(adaptation, loss))


def mmaml(net, ways):
    """A set encoder reads the features and modulates the body before descent."""
    apply, _ = mj.nets.functional(net)
    embed = mj.modulated(functools.partial(apply, method="embed"))
    return algorithms.mmaml(
        net,
        lambda outputs: mj.nets.DeepSets(8, outputs, width=4, rngs=nnx.Rngs(1)),
        loss=mj.losses.cross_entropy,
        items=lambda params, support, key: embed(params, support.x),
        inner_rate=0.2,
        inner_steps=2,
    )


def mlp(inputs, outputs):
    """A second small net, of which an algorithm learns a part of itself."""
    return mj.nets.MLP(inputs, (8,), outputs, rngs=nnx.Rngs(2))


ALGORITHMS = {
    "maml": Row(lambda net, ways: algorithms.maml(net, inner_rate=0.2, inner_steps=2)),
    "maml_momentum": Row(descent(optax.sgd(0.1, momentum=0.9))),
    "maml_adam": Row(descent(optax.adam(0.02, eps_root=1e-8))),
    "maml_plus_plus": Row(
        lambda net, ways: algorithms.maml_plus_plus(
            net, initial_rate=0.25, inner_steps=2, multi_step_until=20, first_order_until=5
        )
    ),
    "imaml": Row(dense_imaml),
    "fomaml": Row(lambda net, ways: algorithms.fomaml(net, inner_rate=0.2, inner_steps=2)),
    "anil": Row(lambda net, ways: algorithms.anil(net, inner_rate=0.2, inner_steps=2)),
    "boil": Row(lambda net, ways: algorithms.boil(net, inner_rate=0.2, inner_steps=2)),
    "meta_sgd": Row(lambda net, ways: algorithms.meta_sgd(net, initial_rate=0.25, inner_steps=2)),
    "reptile": Row(
        lambda net, ways: algorithms.reptile(net, inner_rate=0.02, inner_steps=2), optax.sgd(0.5)
    ),
    "cavia": Row(
        lambda net, ways: algorithms.cavia(
            net, context=2, loss=mj.losses.cross_entropy, inner_rate=1.0, inner_steps=2
        ),
        inputs=FEATURES + 2,
    ),
    "mmaml": Row(mmaml),
    "protonets": Row(algorithms.protonets, writes=("head",)),
    "r2d2": Row(algorithms.r2d2, writes=("head",)),
    "proto_maml": Row(
        lambda net, ways: algorithms.proto_maml(net, ways, inner_steps=2), writes=("head",)
    ),
    "fine_tuning": Row(
        lambda net, ways: algorithms.fine_tuning(net, ways, rate=0.01, steps=2), writes=("head",)
    ),
    "low_rank_fine_tuning": Row(
        lambda net, ways: algorithms.low_rank_fine_tuning(net, ways, rank=2, rate=0.01, steps=2),
        writes=("head",),
    ),
    "matching_nets": Row(algorithms.matching_nets, writes=("head",)),
    "soft_kmeans_protonets": Row(algorithms.soft_kmeans_protonets, writes=("head",)),
    "simple_cnaps": Row(algorithms.simple_cnaps, writes=("head",)),
    "dkt": Row(algorithms.dkt, writes=("head",)),
    "meta_curvature": Row(
        lambda net, ways: algorithms.meta_curvature(net, inner_rate=0.2, inner_steps=2)
    ),
    "alfa": Row(lambda net, ways: algorithms.alfa(net, initial_rate=0.2, inner_steps=2)),
    "t_net": Row(lambda net, ways: algorithms.t_net(net, inner_rate=0.2, inner_steps=2)),
    "low_rank_maml": Row(
        lambda net, ways: algorithms.low_rank_maml(net, rank=2, inner_rate=0.5, inner_steps=2)
    ),
    "metaopt_net": Row(algorithms.metaopt_net, writes=("head",)),
    "gaussian_protonets": Row(algorithms.gaussian_protonets, writes=("head",)),
    "relation_nets": Row(
        lambda net, ways: algorithms.relation_nets(net, ways, mlp(16, 1)), writes=("head",)
    ),
    "hypernetwork_head": Row(
        lambda net, ways: algorithms.hypernetwork_head(net, ways, mlp(8, 9)), writes=("head",)
    ),
    "tadam": Row(
        lambda net, ways: algorithms.tadam(
            net, ways, lambda size: mj.nets.DeepSets(8, size, width=4, rngs=nnx.Rngs(1))
        ),
        writes=("head",),
    ),
    "label_propagation": Row(algorithms.label_propagation, writes=("head",)),
    "warp_grad": Row(
        lambda net, ways: algorithms.warp_grad(
            net, algorithms.in_part("head"), inner_rate=0.2, inner_steps=2
        )
    ),
    "ml3": Row(lambda net, ways: algorithms.ml3(net, mlp(3, 1), inner_rate=0.2)),
    "no_adaptation": Row(no_adaptation, labels=False),
}
"""Every algorithm of `metajax.algorithms`, and compositions of their parts."""


class Problem(NamedTuple):
    """An algorithm, ready to run. `step`, `gradient` and `score` are compiled.

    `traces` has an entry for each time that `step` was traced.

    `gradient` gives ((mean loss, mean metrics), gradient).
    """

    apply: object
    loss: object
    params: mj.Params
    adaptation: mj.Adaptation
    task_loss: object
    outer: mj.OuterLoop
    step: object
    traces: list
    gradient: object
    score: object

    @property
    def state(self):
        """Where the outer loop starts."""
        return self.outer.init(self.params)


@functools.cache
def make_problem(name, dtype=jnp.float64, ways=WAYS, **options):
    """The problem of a row; `options` are those of `outer_loop`."""
    row = ALGORITHMS[name]
    learner = row.make(make_module(WAYS, row.inputs), ways)
    loss = mj.losses.cross_entropy(learner.apply)
    outer = mj.outer_loop(learner.task_loss, row.optimizer, **options)

    def mean(params, tasks, key):
        keys = jax.random.split(key, len(tasks.query.y))
        of_tasks = jax.vmap(learner.task_loss, (None, 0, 0))(params, tasks, keys)
        return jax.tree.map(lambda leaf: leaf.mean(axis=0), of_tasks)

    traces = []

    def step(state, tasks, key):
        traces.append(name)
        return outer.step(state, tasks, key)

    score = functools.partial(mj.evaluate, mj.query_loss(learner.adaptation, loss))
    return Problem(
        apply=learner.apply,
        loss=loss,
        params=cast(learner.params, dtype),
        adaptation=learner.adaptation,
        task_loss=learner.task_loss,
        outer=outer,
        step=jax.jit(step),
        traces=traces,
        gradient=jax.jit(jax.value_and_grad(mean, has_aux=True)),
        score=jax.jit(score),
    )


def first(tree):
    """The first task of several."""
    return jax.tree.map(lambda leaf: leaf[0], tree)


def assert_close(one, other, tolerance=1e-9):
    """Equal trees of equal dtypes."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
