"""Inputs of each kind of modality, and their compiled corruptions."""

import jax
import jax.numpy as jnp
import numpy as np

from metajax import Modalities, Series
from metajax.modalities import corruptions

N, TIME = 6, 9
RNG = np.random.default_rng(0)
LENGTH = jnp.array([9, 4, 1, 7, 9, 5])
STEPS = jnp.asarray(RNG.normal(size=(N, TIME, 4)))
VALID = np.arange(TIME)[None] < np.asarray(LENGTH)[:, None]
TOKENS = jnp.asarray(np.where(VALID, RNG.integers(3, 50, (N, TIME)), 0))
INPUTS = {
    "image": jnp.asarray(RNG.random((N, 2, 12, 10, 1))),  # a video
    "audio": jnp.asarray(RNG.normal(size=(N, 200))),
    "text": TOKENS,
    "stroke": Series(STEPS, LENGTH),
    "series": Series(STEPS, LENGTH),
    "tabular": jnp.asarray(RNG.normal(size=(N, 5))),
}
CORRUPTIONS = {name: jax.jit(getattr(corruptions, name)) for name in INPUTS}


def everything(here=None):
    """All inputs, present everywhere or in some of the rows."""
    here = np.ones(N, bool) if here is None else here
    return Modalities(dict(INPUTS), {name: jnp.asarray(here) for name in INPUTS})
