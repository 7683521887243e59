"""How well clusters agree with classes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import check_integers, not_classes, signed
from metajax.types import Array, Size


@checked
def adjusted_rand_index(
    labels: Array, clusters: Array, ways: Size, *, weight: Array | None = None
) -> Array:
    """The adjusted Rand index: agreement on pairs of rows, 1 for equal clusters and 0 by chance.

    (Σᵢⱼ C(nᵢⱼ) - E) / (½ (Σᵢ C(aᵢ) + Σⱼ C(bⱼ)) - E) with C(n) = n (n - 1) / 2, the number nᵢⱼ of
    rows of class i in cluster j, its sums aᵢ and bⱼ, and E = Σᵢ C(aᵢ) Σⱼ C(bⱼ) / C(Σ n). The names
    of classes and clusters do not matter.

    Args:
        labels: int[examples].
        clusters: int[examples].
        ways: number of classes and largest number of clusters; both are 0 … ways - 1.
        weight: [examples]; a row of weight 0 does not count. None counts all.

    Returns:
        A float, at most 1; 1 where there is one class and one cluster.

    Raises:
        ValueError: labels or clusters that are not int[examples]; where they are concrete, numbers
            outside 0 … ways - 1 in rows that count. In compiled code the index is then NaN.

    >>> one = jnp.array([0, 0, 1, 1])
    >>> float(adjusted_rand_index(one, 1 - one, ways=2))
    1.0

    Source: Hubert and Arabie 1985.
    """
    check_integers("Labels", labels, jnp.shape(labels)[:1])
    check_integers("Clusters", clusters, jnp.shape(labels))
    wrong_N = not_classes(labels, ways, weight) | not_classes(clusters, ways, weight)
    one_or_nan = jnp.where(wrong_N.any(), jnp.nan, 1)
    counts_N = jnp.ones(len(labels)) if weight is None else (weight > 0).astype(float)
    classes_NxW = jax.nn.one_hot(signed(labels), ways) * counts_N[:, None]
    together_WxW = classes_NxW.T @ jax.nn.one_hot(signed(clusters), ways)
    pairs = lambda number: (number * (number - 1) / 2).sum()
    of_classes = pairs(together_WxW.sum(axis=1))
    of_clusters = pairs(together_WxW.sum(axis=0))
    all_pairs = pairs(together_WxW.sum())
    expected = of_classes * of_clusters / jnp.where(all_pairs > 0, all_pairs, 1)
    most = (of_classes + of_clusters) / 2 - expected
    index = (pairs(together_WxW) - expected) / jnp.where(most == 0, 1, most)
    return one_or_nan * jnp.where(most == 0, 1, index)
