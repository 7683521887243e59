"""Meta-learners with a Gaussian process on learned features, whose predictions have a variance."""

from __future__ import annotations

import jax

from metajax._checked import checked
from metajax._tree import concatenate
from metajax.algorithms.learners import Net, as_features
from metajax.inner import gaussian_process, linear_kernel, log_evidence, process_head, rbf_kernel
from metajax.inner.deep_kernels import Kernel
from metajax.losses import cross_entropy, gaussian_log_loss
from metajax.outer import query_loss
from metajax.types import Apply, Array, Learner, Metrics, Params, PyTree, Task


@checked
def dkt(
    net: Net, ways: int | None = None, *, kernel: Kernel = rbf_kernel, entry: str = "head"
) -> Learner:
    """Deep kernel transfer: a Gaussian process on learned features, trained by its evidence.

    The task loss is -log p(y | X) of support and query set together, for each of its numbers; there
    is no inner loop. Its metrics are those of the query set after adaptation to the support set.

    Args:
        net: a Flax module with `embed` and `head`, or any net whose outputs are features.
        ways: number of classes of a task, each of which has a process with the targets 1 and -1;
            the logits are the means. None regresses y [examples, k], and `apply` gives a
            `Gaussian`.
        kernel: covariance of the features, (features [n, d], features [m, d]) -> [n, m].
        entry: the entry of `params.fast` that the posterior is written into.

    Source: Patacchiola et al. 2020, arXiv 1910.05199.
    """
    embed, params = as_features(net)
    adaptation = gaussian_process(embed, ways, kernel=kernel, entry=entry)
    predict = process_head(embed, kernel=kernel, entry=entry)
    apply = predict if ways is None else _mean_of(predict)
    loss = gaussian_log_loss(apply) if ways is None else cross_entropy(apply)
    evidence = log_evidence(embed, ways, kernel=kernel)
    params = adaptation.init(params, jax.random.key(0))

    def task_loss(params: Params, task: Task, key: Array) -> tuple[Array, Metrics]:
        query_key, evidence_key = jax.random.split(key)
        of_query, metrics = query_loss(adaptation, loss)(params, task, query_key)
        both = concatenate(task.support, task.query)
        return -evidence(params, both, evidence_key), {"query_loss": of_query, **metrics}

    return Learner(apply, params, adaptation, task_loss)


@checked
def bayesian_linear(net: Net, *, entry: str = "head", inductive: bool = False) -> Learner:
    """Bayesian linear regression on learned features, with the variance of its predictions.

    y = wᵀf(x) + ε with w ~ N(0, s² I) and ε ~ N(0, σ²); s² and σ² are learned. It is trained by the
    likelihood of the query set given the support set.

    Args:
        net: a Flax module with `embed` and `head`, or any net whose outputs are features.
        entry: the entry of `params.fast` that the posterior is written into.
        inductive: as in `query_loss`.

    Returns:
        A learner whose `apply` gives a `Gaussian`.

    Source: ALPaCA, Harrison et al. 2018, arXiv 1807.08912. Its prior has a learned mean and
    covariance of w; in features that are learned, N(0, s² I) stands for any covariance.
    """
    embed, params = as_features(net)
    adaptation = gaussian_process(embed, kernel=linear_kernel, entry=entry)
    apply = process_head(embed, kernel=linear_kernel, entry=entry)
    params = adaptation.init(params, jax.random.key(0))
    task_loss = query_loss(adaptation, gaussian_log_loss(apply), inductive=inductive)
    return Learner(apply, params, adaptation, task_loss)


def _mean_of(predict: Apply) -> Apply:
    """The network that gives the mean of a `Gaussian` only."""

    def apply(
        params: Params, x: PyTree, key: Array | None = None, *, reference: Array | None = None
    ) -> Array:
        return predict(params, x, key, reference=reference).mean

    return apply
