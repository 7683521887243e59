"""Inputs of every kind of encoder, and modules as functions without compiling their start."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metajax import nets
from metajax.types import Series

OUTPUTS = 3
RNG = np.random.default_rng(0)
SERIES = Series(jnp.asarray(RNG.normal(size=(3, 6, 2))), jnp.array([6, 3, 0]))
SPEECH = Series(jnp.asarray(RNG.normal(size=(3, 64, 1))), jnp.array([64, 40, 30]))
VIDEO = Series(jnp.asarray(RNG.normal(size=(2, 3, 4, 4, 1))), jnp.array([3, 1]))
TEXT = jnp.array([[5, 1, 2, 3], [4, 6, 0, 0], [0, 0, 0, 0]])
IMAGES = jnp.asarray(RNG.normal(size=(2, 8, 8, 2)))
EDGES = np.array([[0, 1], [1, 2], [3, 1], [1, 3]])
NODES = SERIES.value[0, :5]


def shape_of(make):
    """(apply, params) of make(rngs): a module as a function, and the shapes of its weights.

    Nothing is compiled. It is for modules without constants that are made by JAX.
    """
    found = []

    def init():
        apply, params = nets.functional(make(nnx.Rngs(0)))
        found.append(apply)
        return params

    shapes = jax.eval_shape(init)
    return found[0], shapes


def draw(make, number=1):
    """(apply, params, ...) of make(rngs), with random weights of variance 1 / inputs."""
    apply, shapes = shape_of(make)
    rng = np.random.default_rng(0)

    def normal(leaf):
        inputs = max(np.prod(leaf.shape[:-1]), 2)
        return jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(inputs))

    return apply, *(jax.tree.map(normal, shapes) for _ in range(number))


def quick(function, **options):
    """Compiled in a hurry: what takes the time here is compiling, not running."""
    hurry = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(function, compiler_options=hurry, **options)


@functools.cache
def compiled(make):
    """(apply, params) of make(rngs), compiled, once for all tests of a file."""
    apply, params = draw(make)
    return quick(apply, static_argnames="method"), params


def lengthen(x):
    """The same with more padding."""
    if isinstance(x, Series):
        more = [(0, 0), (0, 3)] + [(0, 0)] * (x.value.ndim - 2)
        return x._replace(value=jnp.pad(x.value, more, constant_values=jnp.nan))
    return jnp.pad(x, [(0, 0), (0, 3)]) if x is TEXT else x
