"""Data sets whose examples are the numbers of their rows, and many tasks drawn from them."""

import jax
import jax.numpy as jnp
import numpy as np

import metajax as mj

KEY = jax.random.key(0)


def numbered(counts, **options):
    """Classes of these sizes. An example is 1 + the number of its row, so that 0 is padding."""
    x = np.arange(1, 1 + sum(counts), dtype=np.int32)[:, None]
    return mj.data.dataset(x, np.repeat(range(len(counts)), counts), **options)


def draw(sample, number, source=(), key=KEY):
    """That many tasks as NumPy arrays, along the first axis."""
    tasks = jax.jit(mj.data.meta_batch(sample, number))(source, key)
    return jax.tree.map(np.asarray, tasks)


def draw_list(sample, number, source=(), key=KEY):
    """That many tasks as NumPy arrays, in a list."""
    tasks = draw(sample, number, source, key)
    return [jax.tree.map(lambda leaf, n=n: leaf[n], tasks) for n in range(number)]


def joined(tasks):
    """The x and the y of support and query set together, float64[tasks, rows]."""
    parts = [
        np.concatenate([getattr(tasks.support, name), getattr(tasks.query, name)], axis=1)
        for name in "xy"
    ]
    return [part[..., 0].astype(float) for part in parts]


def augmented_examples(augment, x, number, seed=0):
    """That many augmented examples of one, as NumPy arrays along the first axis."""
    keys = jax.random.split(jax.random.key(seed), number)
    x = jax.tree.map(jnp.asarray, x)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(augment, (None, 0)))(x, keys))
