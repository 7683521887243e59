"""Neural processes and in-context learners: a net reads the support set in one pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from metajax._checked import checked
from metajax.algorithms.learners import MakeLoss, loss_of
from metajax.inner import amortize, written_head
from metajax.losses import cross_entropy, gaussian_log_loss
from metajax.nets import functional, join_params
from metajax.outer import query_loss
from metajax.types import Array, Batch, Learner, Params, PyTree


@checked
def neural_process(net: nnx.Module) -> Learner:
    """A neural process: a net reads the support set, and predicts a Gaussian for every query.

    It is trained by the likelihood of the query set. A support set without examples is allowed.
    The papers also predict the support set itself; put its examples among the queries for that.
    What is read is written into `params.fast["context"]`. Weights of rows scale the mean of a CNP
    and the densities of a ConvCNP; the attention of ANP and TNP-D reads a row or, with weight 0,
    does not.

    Args:
        net: `nets.ConditionalProcess` (CNP), `nets.AttentiveProcess` (ANP without a latent),
            `nets.ConvolutionalProcess` (ConvCNP), `nets.TransformerProcess` (TNP-D), or a module of
            your own with methods `read(x, y, weight)` and `predict(x, context)`.

    Returns:
        A learner whose `apply` gives a `Gaussian`. It regresses y [examples, outputs].

    Raises:
        ValueError: a net without `read` and `predict`.

    Sources: Garnelo et al. 2018, arXiv 1807.01613; Kim et al. 2019, arXiv 1901.05761; Gordon et al.
    2020, arXiv 1910.13556; Nguyen and Grover 2022, arXiv 2207.04179.

    Checked against: CNP and TNP-D the formula in NumPy, ANP the attention of Flax, ConvCNP its
    equivariance, and all of them the exact Gaussian process.
    """
    return in_context(net, loss=gaussian_log_loss)


@checked
def in_context(net: nnx.Module, *, loss: MakeLoss = cross_entropy) -> Learner:
    """An in-context learner: a net reads the support set, and answers every query, in one pass.

    There is no gradient descent in a task. Train the net on tasks drawn from a prior, such as
    `data.structural_tables`, and it answers for real tables.

    Args:
        net: a module with methods `read(x, y, weight)` and `predict(x, context)`, such as
            `nets.TableTransformer(classes=10)`.
        loss: what makes the loss of the network; `gaussian_log_loss` where it predicts numbers.

    Returns:
        A learner whose `apply` gives what `predict` gives.

    Raises:
        ValueError: a net without `read` and `predict`.

    Source: Hollmann et al. 2023, arXiv 2207.01848.

    Checked against: the symmetries of tables, and scikit-learn's estimators on real ones.
    """
    check_reader(net)
    apply, params = functional(net)
    call: Callable[..., Any] = apply

    def encode(params: Params, support: Batch, key: Array) -> PyTree:
        support = with_a_row(support)
        return call(params, support.x, key, method="read", y=support.y, weight=support.weight)

    def predict(params: Params, context: PyTree, x: Array) -> Any:
        return call(params, x, method="predict", context=context)

    adaptation = amortize(lambda params, key: (), encode, entry="context")
    head = written_head(None, predict, entry="context")
    params = Params(fast={}, slow=join_params(params))
    return Learner(head, params, adaptation, query_loss(adaptation, loss_of(loss, head)))


def check_reader(net: nnx.Module) -> None:
    """Checks that a net can read a support set and predict from what it read.

    Raises:
        ValueError: the methods that are missing.
    """
    missing = [name for name in ("read", "predict") if not hasattr(net, name)]
    if missing:
        raise ValueError(
            f"The net has no method {' and no '.join(missing)}; give a net of "
            "metajax.nets such as ConditionalProcess, or one of your own with both."
        )


def with_a_row(support: Batch) -> Batch:
    """The support set, or one row of weight 0 where it has none: attention needs a row."""
    if len(support.y):
        return support
    return jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape[1:]), leaf.dtype), support)
