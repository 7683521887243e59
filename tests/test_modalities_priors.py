"""Priors are the centres of clusters of what is present."""

import jax.numpy as jnp
import numpy as np
import pytest

from metajax import Modalities
from metajax.modalities import modality_priors


def test_well_separated_clusters_are_found():
    """Rows without the modality are NaN and are not read."""
    rng = np.random.default_rng(0)
    centres = 50 * rng.normal(size=(4, 3))
    members = centres.repeat(5, axis=0) + rng.normal(size=(20, 3))
    rows = jnp.asarray(np.concatenate([members, np.full((2, 3), np.nan)]))
    features = Modalities({"a": rows}, {"a": jnp.arange(22) < 20})
    priors = modality_priors(features, 4)["a"]
    expected = members.reshape(4, 5, 3).mean(axis=1)
    np.testing.assert_allclose(np.sort(priors, axis=0), np.sort(expected, axis=0))
    again = modality_priors(features, 4, seed=1)["a"]
    np.testing.assert_allclose(np.sort(again, axis=0), np.sort(expected, axis=0))


def test_there_must_be_as_many_different_examples():
    twice = Modalities({"a": jnp.array([[0.0], [0.0], [1.0]])}, {"a": jnp.ones(3, bool)})
    match = "number=3 of priors must be 1 to the 2 examples that differ in 'a'"
    with pytest.raises(ValueError, match=match):
        modality_priors(twice, 3)
    with pytest.raises(ValueError, match="number=0"):
        modality_priors(twice, 0)
