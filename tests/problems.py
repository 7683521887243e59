"""The table of public algorithms under test: a row is a filter, an adaptation, a task loss and an outer loop."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import metajax as mj

WAYS, FEATURES = 3, 4


def make_tasks(number=4, ways=WAYS, shots=2, queries=4, dtype=jnp.float64, seed=0):
    """Classes are random directions; a shared linear map hides them, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).normal(size=(FEATURES, FEATURES))
    centres = rng.normal(size=(number, ways, 1, FEATURES))

    def batch(rows):
        x = centres + 0.3 * rng.normal(size=(number, ways, rows, FEATURES))
        y = np.broadcast_to(np.arange(ways)[:, None], (number, ways, rows))
        x = (x @ mixing).reshape(number, -1, FEATURES)
        return mj.Batch(jnp.asarray(x, dtype), jnp.asarray(y.reshape(number, -1), jnp.int32))

    return mj.Task(batch(shots), batch(queries))


def make_net(fast=nnx.Param, dtype=jnp.float64, ways=WAYS):
    net = mj.nets.MLP(FEATURES, (8,), ways, rngs=nnx.Rngs(0))
    apply, params = mj.nets.functional(net, fast=fast)
    return apply, jax.tree.map(lambda leaf: leaf.astype(dtype), params)


class Row(NamedTuple):
    fast: object
    make: object  # (apply, ways) -> Adaptation
    task_loss: object = mj.query_loss  # (adaptation, loss) -> TaskLoss
    optimizer: optax.GradientTransformation = optax.adam(1e-2, eps_root=1e-8)
    writes: tuple = ()  # entries of fast that are replaced
    labels: bool = True  # whether the adaptation reads labels
    start: object = lambda apply, params: (apply, params)  # what is made of the net before


def _embed(apply):
    return functools.partial(apply, method="embed")


def _descend(optimizer, **options):
    return lambda apply, ways: mj.inner_loop(
        mj.losses.cross_entropy(apply), optimizer, steps=2, **options
    )


def _proto_maml(apply, ways):
    return mj.chain(mj.prototypes(_embed(apply), ways), _descend(optax.sgd(0.05))(apply, ways))


def _imaml(apply, ways):
    """The solve is dense, so that properties hold to rounding."""
    exact = mj.implicit(mj.dense(), tolerance=float("inf"))
    return mj.inner_loop(
        mj.losses.cross_entropy(apply), optax.sgd(0.3), steps=10, proximity=0.3, differentiate=exact
    )


def _mmaml(apply, ways):
    """A set encoder reads the features, and modulates the body before descent."""
    read, start = mj.nets.functional(mj.nets.DeepSets(8, 16, width=4, rngs=nnx.Rngs(1)))
    features = lambda params, support, key: apply(params, support.x, method="embed")
    modulate = mj.modulate(read, start, items=features)
    return mj.chain(modulate, _descend(optax.sgd(0.2))(apply, ways))


def _modulated(apply, params):
    modulation = mj.film({"layers": params.fast["layers"]})
    return mj.modulated(apply), params._replace(fast={**params.fast, "modulation": modulation})


HEAD = nnx.PathContains("head")
ALGORITHMS = {
    "maml": Row(nnx.Param, _descend(optax.sgd(0.2))),
    "maml_momentum": Row(nnx.Param, _descend(optax.sgd(0.1, momentum=0.9))),
    "maml_adam": Row(nnx.Param, _descend(optax.adam(0.02, eps_root=1e-8))),
    "maml_plus_plus": Row(
        nnx.Param, _descend(mj.leaf_rates(0.2, steps=2), differentiate=mj.mixed_mode())
    ),
    "imaml": Row(nnx.Param, _imaml),
    "fomaml": Row(nnx.Param, _descend(optax.sgd(0.2), differentiate=mj.first_order())),
    "anil": Row(HEAD, _descend(optax.sgd(0.2))),
    "meta_sgd": Row(nnx.Param, _descend(mj.learned_rates(0.2))),
    "reptile": Row(
        nnx.Param,
        _descend(optax.adam(0.02), differentiate=mj.first_order()),
        lambda adaptation, loss: mj.reptile(adaptation),
        optax.sgd(0.5),
    ),
    "prototypes": Row(
        HEAD, lambda apply, ways: mj.prototypes(_embed(apply), ways), writes=("head",)
    ),
    "ridge": Row(HEAD, lambda apply, ways: mj.ridge(_embed(apply), ways), writes=("head",)),
    "proto_maml": Row(nnx.Param, _proto_maml, writes=("head",)),
    "mmaml": Row(nnx.Param, _mmaml, start=_modulated),
    "identity": Row(nnx.Param, lambda apply, ways: mj.identity(), labels=False),
}


class Problem(NamedTuple):
    """`step`, `gradient` and `judge` are compiled."""

    apply: object
    loss: object
    params: mj.Params
    adaptation: mj.Adaptation
    task_loss: object
    outer: mj.OuterLoop
    step: object
    gradient: object
    judge: object

    @property
    def state(self):
        """Where the outer loop starts."""
        return self.outer.init(self.params)


@functools.cache
def make_problem(name, dtype=jnp.float64, ways=WAYS, **options):
    row = ALGORITHMS[name]
    apply, params = row.start(*make_net(row.fast, dtype, ways=WAYS))
    loss = mj.losses.cross_entropy(apply)
    adaptation = row.make(apply, ways)
    params = adaptation.init(params, jax.random.key(1))
    params = params._replace(rule=jax.tree.map(lambda leaf: leaf.astype(dtype), params.rule))
    task_loss = row.task_loss(adaptation, loss)
    outer = mj.outer_loop(task_loss, row.optimizer, **options)

    def mean(params, tasks, key):
        keys = jax.random.split(key, len(tasks.query.y))
        return jax.vmap(task_loss, (None, 0, 0))(params, tasks, keys)[0].mean()

    gradient = jax.jit(jax.value_and_grad(mean))
    judge = jax.jit(functools.partial(mj.evaluate, mj.query_loss(adaptation, loss)))
    return Problem(
        apply, loss, params, adaptation, task_loss, outer, jax.jit(outer.step), gradient, judge
    )


def first(tree):
    """The first task of several."""
    return jax.tree.map(lambda leaf: leaf[0], tree)


def assert_close(one, other, tolerance=1e-9):
    """Equal trees of equal dtypes."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
