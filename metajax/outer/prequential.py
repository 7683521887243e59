"""Streams: each chunk is scored before it is learned from."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import check_loss_value, shapes
from metajax._tree import count_rows, row_weights
from metajax.types import Adaptation, Array, Batch, Loss, Metrics, Params, PyTree, Size, Task


class Scores(NamedTuple):
    """What a learner said of each chunk of a stream, before it learned from it.

    Attributes:
        losses: [chunks].
        metrics: of each chunk, leaves [chunks].
        weights: [chunks], the sum of the weights of the rows of each chunk.
        params: the params after the last chunk.
    """

    losses: Array
    metrics: Metrics
    weights: Array
    params: Params


class Online(NamedTuple):
    """Learning from a stream.

    Attributes:
        adaptation: learns from the whole support set in its order. With `query_loss`, the outer
            loss is that of other examples after the stream, as in OML.
        task_loss: (params, task, key) -> the mean of the scores of the rows of `task.support`, and
            the means of their metrics. It does not read `task.query`.
        scores: (params, stream, key) -> `Scores`.
    """

    adaptation: Adaptation
    task_loss: Callable[[Params, Task, Array], tuple[Array, Metrics]]
    scores: Callable[[Params, Batch, Array], Scores]


@checked
def online(
    adaptation: Adaptation, loss: Loss, *, chunk: Size, window: Size | None = None
) -> Online:
    """Learns from a stream chunk by chunk, and scores each chunk before it is learned from.

    Lₜ = loss(θₜ₋₁, chunk t),  θₜ = adapt(θₜ₋₁, the last `window` rows up to chunk t)

    The fast weights carry on from chunk to chunk, and the derivative of the scores passes through
    all of them, as the strategy of the adaptation has it. Which weights are fast is decided where
    the net is divided (`nets.functional(net, fast=...)`). The optimizer of an `inner_loop` starts
    anew in each chunk: momentum does not carry on.

    Args:
        adaptation: how one chunk changes the fast weights, such as an `inner_loop` of one step.
        loss: (params, batch, key) -> (scalar, metrics), a mean over rows weighted by
            `batch.weight`, and 0 of a batch of weight 0, as the losses of metajax. It scores the
            chunks. A chunk of weight 0 is not learned from.
        chunk: rows that are scored together. The last chunk is padded by rows of weight 0.
        window: rows that are learned from after a chunk, its own the last of them; None means those
            of the chunk. Before the start there are rows of weight 0, and the padding of the last
            chunk counts among the rows.

    Raises:
        ValueError: a window shorter than a chunk, or an adaptation with `path`; when traced, a
            stream without rows, or an adaptation that changes the shapes of the fast weights.

    >>> import optax
    >>> from metajax.inner import inner_loop
    >>> from metajax.losses import squared_error
    >>> loss = squared_error(lambda params, x, key, reference: params.fast * x)
    >>> stream = Batch(x=jnp.ones(3), y=jnp.array([4.0, 4.0, 4.0]))
    >>> learner = online(inner_loop(loss, optax.sgd(0.25), steps=1), loss, chunk=1)
    >>> found = learner.scores(Params(jnp.array(0.0), ()), stream, jax.random.key(0))
    >>> found.losses.tolist(), found.params.fast.tolist()
    ([16.0, 4.0, 1.0], 3.5)

    Source: the prequential score, Dawid 1984, J. R. Stat. Soc. A 147; as an outer loss, Caccia et
    al. 2020, arXiv 2003.05856.
    """
    window = chunk if window is None else window
    if window < chunk:
        raise ValueError(f"{window=} must be {chunk=} or more: a chunk is learned from once whole.")
    if adaptation.path:
        raise ValueError("online() takes an adaptation without path=True.")

    def scores(params: Params, stream: Batch, key: Array) -> Scores:
        if not count_rows(stream):
            raise ValueError("A stream needs a row or more, got none.")
        chunks = math.ceil(count_rows(stream) / chunk)
        padded = _padded(stream, window - chunk, chunks * chunk)

        def step(fast: PyTree, number: Array) -> tuple[PyTree, tuple[Array, Metrics, Array]]:
            current = params._replace(fast=fast)
            score_key, adapt_key = jax.random.split(jax.random.fold_in(key, number))
            rows = functools.partial(_rows, padded, number * chunk)
            asked = rows(window - chunk, chunk)
            returned = loss(current, asked, score_key)
            weight = row_weights(asked).sum()
            counts = lambda value: jnp.where(weight > 0, value, 0)
            score = counts(check_loss_value(returned)), jax.tree.map(counts, returned[1]), weight
            seen = rows(0, window)
            learned = adaptation.adapt(current, seen, adapt_key).fast
            if shapes(learned) != shapes(fast):
                raise ValueError(
                    "online() takes an adaptation that keeps the shapes of the fast weights, got "
                    f"{shapes(learned)} from {shapes(fast)}."
                )
            has_rows = row_weights(seen).sum() > 0
            after = jax.tree.map(lambda new, old: jnp.where(has_rows, new, old), learned, fast)
            return after, score

        fast, found = jax.lax.scan(step, params.fast, jnp.arange(chunks))
        return Scores(*found, params._replace(fast=fast))

    def adapt(params: Params, support: Batch, key: Array) -> Params:
        return scores(params, support, key).params

    def task_loss(params: Params, task: Task, key: Array) -> tuple[Array, Metrics]:
        losses, metrics, weights, _ = scores(params, task.support, key)
        total = weights.sum()
        share = weights.astype(losses.dtype) / jnp.where(total > 0, total, 1)
        mean = lambda values: (values * share).sum()
        return mean(losses), jax.tree.map(mean, metrics)

    return Online(Adaptation(adaptation.init, checked(adapt)), checked(task_loss), checked(scores))


def _padded(stream: Batch, before: int, length: int) -> Batch:
    """The stream between rows of weight 0: so many before it, and behind it up to a length."""
    rows = count_rows(stream)
    behind = length - rows
    if not before and not behind:
        return stream
    pad = lambda leaf: jnp.pad(leaf, [(before, behind)] + [(0, 0)] * (jnp.ndim(leaf) - 1))
    padded = jax.tree.map(pad, stream._replace(weight=row_weights(stream), info=()))
    return padded._replace(info=stream.info)


def _rows(stream: Batch, start: Array, offset: int, number: int) -> Batch:
    """So many rows of the stream."""
    take = lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start + offset, number)
    return jax.tree.map(take, stream._replace(info=()))._replace(info=stream.info)
