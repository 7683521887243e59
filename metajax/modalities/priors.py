"""Typical features of a modality: the centres of clusters."""

from __future__ import annotations

import warnings

import jax.numpy as jnp
import numpy as np

from metajax._checked import checked
from metajax._tree import as_floating
from metajax.types import Array, Modalities


@checked
def modality_priors(features: Modalities, number: int, *, seed: int = 0) -> dict[str, Array]:
    """Typical features of each modality: the centres of k-means, {name: [number, d]}.

    Use them as the priors of `init_completion`. Only examples in which the modality is present are
    read. It runs scipy's k-means for 100 rounds, so it cannot be compiled.

    Args:
        features: {name: [n, d]} of training examples, such as the method "encode" of
            `nets.Multimodal` gives.
        number: K, centres of each modality.
        seed: of k-means++, which chooses where the centres start.

    Raises:
        ValueError: number below 1, or above the number of different examples of a modality.

    >>> audio = jnp.array([[0.0], [2.0], [9.0]])
    >>> features = Modalities({"audio": audio}, {"audio": jnp.ones(3, bool)})
    >>> sorted(modality_priors(features, 2)["audio"].tolist())
    [[1.0], [9.0]]
    """
    priors = {}
    for name in sorted(features.value):
        present_N = np.asarray(features.present[name])
        rows_NxD = np.asarray(features.value[name], np.float64)[present_N]
        different = len(np.unique(rows_NxD, axis=0))
        if not 1 <= number <= different:
            raise ValueError(
                f"{number=} of priors must be 1 to the {different} examples that differ in "
                f"{name!r}."
            )
        centres_KxD = _cluster_centres(rows_NxD, number, seed)
        priors[name] = jnp.asarray(centres_KxD, as_floating(features.value[name]).dtype)
    return priors


def _cluster_centres(rows_NxD: np.ndarray, number: int, seed: int) -> np.ndarray:
    """The centres of k-means, [number, d]."""
    from scipy.cluster.vq import kmeans2

    with warnings.catch_warnings():
        # A cluster that loses all its members keeps its centre.
        warnings.filterwarnings("ignore", "One of the clusters is empty")
        rng = np.random.default_rng(seed)
        centres, _ = kmeans2(rows_NxD, number, 100, minit="++", rng=rng)
    return centres
