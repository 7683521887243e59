"""Tasks with a text about each class, for the tests of side information."""

import jax.numpy as jnp
import numpy as np

import metajax as mj

WAYS, WIDTH, TEXT = 3, 5, 4
MAP = np.random.default_rng(9).normal(size=(TEXT, WIDTH))
PARAMS = mj.Params({}, {"image": jnp.eye(WIDTH), "text": jnp.asarray(MAP)})


def embed(params, x, key=None, *, reference=None):
    return x @ params.slow["image"]


def describe(params, info, key=None):
    return info["text"] @ params.slow["text"]


def make_tasks(number=4, shots=2, seed=0):
    """The mean of a class is a linear map of its text."""
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(number, WAYS, TEXT))
    centre = text @ MAP

    def batch(rows):
        x = centre[:, :, None] + 2 * rng.normal(size=(number, WAYS, rows, WIDTH))
        y = np.tile(np.repeat(np.arange(WAYS, dtype=np.int32), rows), (number, 1))
        return mj.Batch(jnp.asarray(x.reshape(number, -1, WIDTH)), jnp.asarray(y))

    return mj.Task(batch(shots)._replace(info={"text": jnp.asarray(text)}), batch(6))
