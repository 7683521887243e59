"""Meta-learners with a Gaussian process on learned features, whose predictions have a variance."""

from __future__ import annotations

import jax

from metajax._checked import checked
from metajax._tree import concatenate
from metajax.algorithms.learners import Net, as_features
from metajax.inner import gaussian_process, linear_kernel, rbf_kernel
from metajax.inner.deep_kernels import Kernel
from metajax.losses import cross_entropy, gaussian_log_loss
from metajax.outer import query_loss
from metajax.types import Apply, Array, Learner, Metrics, Params, PyTree, Size, Task


@checked
def dkt(
    net: Net, ways: Size | None = None, *, kernel: Kernel = rbf_kernel, entry: str = "head"
) -> Learner:
    """Deep kernel transfer: a Gaussian process on learned features, trained by its evidence.

    The task loss is -log p(y | x) of support and query set together, divided by the number of
    targets; there is no inner loop. Its metrics are those of the query set after adaptation to the
    support set. The covariance is s² k(f(x)/l, f(x')/l) + σ² [x = x'], and s, l and σ are learned
    in `params.rule` with the net. All classes share them; in the paper each class has its own, and
    the released code has a kernel of cosines for classes.

    Args:
        net: a Flax module with `embed` and `head`, or any net whose outputs are features.
        ways: number of classes of a task, each of which has a process with the targets 1 and -1.
            None regresses y [examples, k].
        kernel: covariance of the features, (features [n, d], features [m, d]) -> [n, m].
        entry: the entry of `params.fast` that the posterior is written into.

    Returns:
        A learner whose `apply` gives the means as logits, or a `Gaussian` where `ways` is None.

    Raises:
        ValueError: weights of the net where the posterior is written; when traced, labels or
            targets of another shape.

    Source: Patacchiola et al. 2020, arXiv 1910.05199.

    Checked against: scikit-learn's Gaussian process, with its evidence.
    """
    embed, params = as_features(net, entry)
    process = gaussian_process(embed, ways, kernel=kernel, entry=entry)
    apply = process.apply if ways is None else _mean_of(process.apply)
    loss = gaussian_log_loss(apply) if ways is None else cross_entropy(apply)
    params = process.adaptation.init(params, jax.random.key(0))

    @checked
    def task_loss(params: Params, task: Task, key: Array) -> tuple[Array, Metrics]:
        query_key, evidence_key = jax.random.split(key)
        of_query, metrics = query_loss(process.adaptation, loss)(params, task, query_key)
        evidence = process.log_evidence(params, concatenate(task.support, task.query), evidence_key)
        return -evidence, {"query_loss": of_query, **metrics}

    return Learner(apply, params, process.adaptation, task_loss)


@checked
def bayesian_linear(net: Net, *, entry: str = "head", inductive: bool = False) -> Learner:
    """Bayesian linear regression on learned features, with the variance of its predictions.

    y = wᵀf(x) + ε with w ~ N(0, s²/l² I) and ε ~ N(0, σ²); s², l and σ² are learned. It is trained
    by the likelihood of the query set given the support set, and has no intercept.

    Args:
        net: a Flax module with `embed` and `head`, or any net whose outputs are features.
        entry: the entry of `params.fast` that the posterior is written into.
        inductive: whether normalisation statistics of the query pass come from the support set
            only.

    Returns:
        A learner whose `apply` gives a `Gaussian`. It regresses y [examples, k].

    Raises:
        ValueError: weights of the net where the posterior is written; when traced, targets that are
            not [examples, k].

    Source: after ALPaCA, Harrison et al. 2018, arXiv 1807.08912, whose prior also has a learned
    mean and a full covariance of w.

    Checked against: scikit-learn's Gaussian process; it finds the variances that tasks were made
    with.
    """
    embed, params = as_features(net, entry)
    process = gaussian_process(embed, kernel=linear_kernel, entry=entry)
    params = process.adaptation.init(params, jax.random.key(0))
    loss = gaussian_log_loss(process.apply)
    task_loss = query_loss(process.adaptation, loss, inductive=inductive)
    return Learner(process.apply, params, process.adaptation, task_loss)


def _mean_of(predict: Apply) -> Apply:
    """The network that gives the mean of a `Gaussian` only."""

    def apply(
        params: Params, x: PyTree, key: Array | None = None, *, reference: Array | None = None
    ) -> Array:
        return predict(params, x, key, reference=reference).mean

    return apply
