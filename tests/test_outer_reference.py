"""Meta-gradients equal those of PyTorch: see tests/reference/make_reference.py."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import metajax
from metajax import Batch, Task, nets


def mlp():
    return nets.MLP(5, (8, 8), 3, rngs=nnx.Rngs(0))


def conv4(pool):
    return nets.Conv4(3, width=4, pool=pool, rngs=nnx.Rngs(0))


CASES = {  # name: (net, network, inner optimizer, steps)
    "mlp_sgd": ("mlp", mlp, optax.sgd(0.5), 3),
    "mlp_momentum": ("mlp", mlp, optax.sgd(0.2, momentum=0.9), 3),
    "mlp_adam": ("mlp", mlp, optax.adam(0.01, eps_root=1e-8), 3),
    "conv_stride": ("conv", lambda: conv4(pool=False), optax.sgd(0.1), 2),
    "conv_pool": ("conv", lambda: conv4(pool=True), optax.sgd(0.1), 2),
}


@pytest.fixture(scope="module")
def reference():
    with np.load(Path(__file__).parent / "reference" / "maml.npz") as file:
        return dict(file)


def by_name(tree):
    """{"layers/0/kernel": leaf}, in the order of the leaves."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


SLOW = ("conv_stride", "conv_pool")


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.thorough if case in SLOW else ()) for case in CASES],
)
def test_meta_gradient_is_that_of_pytorch(case, reference):
    net, network, optimizer, steps = CASES[case]
    support, query = (
        Batch(*(reference[f"{net}/{part}/{xy}"] for xy in "xy")) for part in ("support", "query")
    )
    apply, params = nets.functional(network())
    weights = [jnp.asarray(reference[f"{net}/weights/{name}"]) for name in by_name(params.fast)]
    params = params._replace(fast=jax.tree.unflatten(jax.tree.structure(params.fast), weights))
    loss = metajax.losses.cross_entropy(apply)
    task_loss = metajax.query_loss(metajax.inner_loop(loss, optimizer, steps=steps), loss)
    keys = jax.random.split(jax.random.key(0), len(query.x))

    def meta_loss(params):
        return jax.vmap(task_loss, (None, 0, 0))(params, Task(support, query), keys)[0].mean()

    value, gradient = jax.jit(jax.value_and_grad(meta_loss))(params)
    np.testing.assert_allclose(value, reference[f"{case}/loss"], rtol=1e-12)
    gradient = by_name(gradient.fast)
    assert gradient.keys() == {
        name.removeprefix(f"{case}/gradient/") for name in reference if f"{case}/g" in name
    }
    for name, leaf in gradient.items():
        expected = reference[f"{case}/gradient/{name}"]
        assert leaf.shape == expected.shape
        error = np.linalg.norm(leaf - expected) / np.linalg.norm(expected)
        assert error < 1e-10, name  # The largest seen is 4e-14.
