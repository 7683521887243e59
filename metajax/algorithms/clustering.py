"""Learning to cluster: features that are learned on tasks with labels, for tasks without any."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._tree import reference_rows, row_weights
from metajax.algorithms.learners import Net, as_encoder
from metajax.inner import prototypes, sinkhorn_kmeans
from metajax.losses import cross_entropy
from metajax.outer import adjusted_rand_index, query_loss
from metajax.types import Array, Learner, Metrics, Params, Task


@checked
def centroid_networks(net: Net, ways: int, *, temperature: float = 0.1) -> Learner:
    """Centroid networks: features that are learned with labels, to cluster new classes without.

    Training, adaptation and `predict` are those of prototypical networks. For the metric
    "adjusted_rand", the queries of a task are clustered without their labels: `sinkhorn_kmeans`
    puts their features into clusters of equal size, which are then compared with their classes. To
    cluster rows of your own, call `sinkhorn_kmeans` of their features. The paper's centre loss, and
    its distances by the plan of transport in training, are not here.

    Args:
        net: a Flax module with `embed` and `head`, or any net whose outputs are features.
        ways: number of classes of a task, and of clusters.
        temperature: of `sinkhorn_kmeans`; a small one puts each row into one cluster.

    Source: Huang et al. 2019, arXiv 1902.08605.

    Checked against: SciPy's assignment, and scikit-learn's Rand index.
    """
    embed, apply, params = as_encoder(net, "head")
    adaptation = prototypes(embed, ways)
    with_labels = query_loss(adaptation, cross_entropy(apply))

    @checked
    def task_loss(params: Params, task: Task, key: Array) -> tuple[Array, Metrics]:
        loss, metrics = with_labels(params, task, key)
        query = task.query
        features = embed(params, query.x, reference=reference_rows(query))
        weight = row_weights(query)
        found = sinkhorn_kmeans(
            jax.lax.stop_gradient(features), ways, weight=weight, temperature=temperature
        )
        clusters = found.share.argmax(axis=1).astype(jnp.int32)
        index = adjusted_rand_index(query.y, clusters, ways, weight=weight)
        index = jnp.where(jnp.isfinite(found.share).all(), index, jnp.nan)
        return loss, {**metrics, "adjusted_rand": index}

    return Learner(apply, params, adaptation, task_loss)
