"""Tasks of two modalities, and learners that weigh them, for the tests of `metajax.modalities`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from problems import assert_close

import metajax as mj
from metajax.modalities import late_head, leave_one_out_loss, modal_prototypes, support_weights

WAYS, NAMES, WIDTH, KEY = 3, ("audio", "image"), 4, jax.random.key(0)


def make_tasks(number, seed, *, shots=3, queries=4, missing=0.0, width=WIDTH):
    """In each task each modality has noise of its own size, which the support set shows."""
    rng = np.random.default_rng(seed)
    noise = {name: rng.uniform(0.2, 2.0, (number, 1, 1, 1)) for name in NAMES}
    centre = {name: rng.normal(size=(number, WAYS, 1, width)) for name in NAMES}

    def batch(rows):
        value, present = {}, {}
        for name in NAMES:
            x = centre[name] + noise[name] * rng.normal(size=(number, WAYS, rows, width))
            value[name] = jnp.asarray(x.reshape(number, -1, width))
        for name in NAMES:
            present[name] = jnp.asarray(rng.uniform(size=(number, WAYS * rows)) >= missing)
        y = np.tile(np.repeat(np.arange(WAYS, dtype=np.int32), rows), (number, 1))
        return mj.Batch(mj.Modalities(value, present), jnp.asarray(y))

    return mj.Task(batch(shots), batch(queries))


def encode(params, x, key=None, *, reference=None):
    """A linear encoder, which NaN in any row would reach."""
    return {name: part @ params.slow[name] for name, part in x.value.items()}


def slow():
    """The weights of `encode`."""
    rng = np.random.default_rng(9)
    return {name: jnp.asarray(rng.normal(size=(WIDTH, WIDTH)) / 2) for name in NAMES}


def equal():
    """Log-weights at the start."""
    return {"modality_weights": dict.fromkeys(NAMES, jnp.zeros(()))}


def with_x(function, tree):
    """The same task or batch with another x."""
    if isinstance(tree, mj.Task):
        return mj.Task(with_x(function, tree.support), with_x(function, tree.query))
    return tree._replace(x=function(tree.x))


def spoil(x):
    """NaN where a modality is absent."""
    value = {
        name: jnp.where(x.present[name][:, None], part, jnp.nan) for name, part in x.value.items()
    }
    return x._replace(value=value)


@functools.cache
def learner(name):
    """(task loss, params): prototypes, with computed or with descended weights."""
    write = modal_prototypes(encode, WAYS)
    if name == "prototypes":
        adaptation, fast = write, {}
    elif name == "computed weights":
        adaptation, fast = mj.chain(support_weights(encode, WAYS), write), equal()
    else:
        loss = leave_one_out_loss(encode, WAYS)
        adaptation = mj.chain(mj.inner_loop(loss, mj.learned_rates(0.5), steps=2), write)
        fast = equal()
    params = adaptation.init(mj.Params(fast, slow()), KEY)
    if name == "computed weights":
        params.rule[0]["out"] = params.rule[0]["out"] + 0.3
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
    return mj.query_loss(adaptation, mj.losses.cross_entropy(late_head(encode))), params


@functools.cache
def compiled(name):
    """(params, task) -> ((loss, metrics), gradients by both)."""
    task_loss, _ = learner(name)
    run = lambda params, task: task_loss(params, task, KEY)
    return jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True, allow_int=True))


def check_that_absent_values_are_ignored(name):
    """NaN in absent modalities of both sets changes no output and no gradient."""
    run, (_, params) = compiled(name), learner(name)
    task = jax.tree.map(lambda leaf: leaf[0], make_tasks(1, 0, missing=0.4))
    values, (to_params, to_task) = run(params, task)
    again, (to_params_again, to_task_again) = run(params, with_x(spoil, task))
    assert_close((values, to_params), (again, to_params_again), 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((values, to_params)))
    for batch, ours, other in zip(task[:2], to_task[:2], to_task_again[:2], strict=True):
        for modality in NAMES:
            gradient = np.asarray(ours.x.value[modality])
            np.testing.assert_array_equal(gradient, other.x.value[modality])
            assert not gradient[~np.asarray(batch.x.present[modality])].any()
            assert gradient.any()


def check_gradients_and_names(name, written=()):
    """Every parameter receives gradient, and the order of names does not matter.

    `written` are entries of fast that the adaptation replaces, so that their start has no gradient.
    """
    run, (_, params) = compiled(name), learner(name)
    tasks = make_tasks(3, 1)
    rows = [jax.tree.map(lambda leaf, i=i: leaf[i], tasks) for i in range(3)]
    gradients = [run(params, task)[1][0] for task in rows]
    summed = jax.tree.map(lambda *leaves: sum(np.abs(leaf) for leaf in leaves), *gradients)
    fast = {entry: part for entry, part in summed.fast.items() if entry not in written}
    assert all((leaf > 0).all() for leaf in jax.tree.leaves(summed._replace(fast=fast)))

    swap = lambda tree: {modality: tree[modality] for modality in reversed(NAMES)}
    again = with_x(lambda x: mj.Modalities(*map(swap, x)), rows[0])
    assert_close(run(params, again)[0], run(params, rows[0])[0], 0)
