"""The network that spreads labels over the graph of support set and queries."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._tree import keep_rows, widened
from metajax.inner.heads import ABSENT, written_head
from metajax.types import Apply, Array, Params, PyTree


@checked
def spread_labels(embed: Apply, *, spread: float = 0.99, entry: str = "head") -> Apply:
    """The network that spreads the labels of a written support set over all rows (transductive).

    F = (I - α S)⁻¹ Y with S = D^-½ A D^-½, Aᵢⱼ = exp(-|f(xᵢ) - f(xⱼ)|² / (2 l²)) for i ≠ j, and D
    the sums of the rows of A, over support set and queries together. The logits are the logarithms
    of the queries' rows of F, up to a constant of each row. The answer to one query depends on the
    others. With `predict(..., inductive=True)` no query is in the graph, and all logits are equal.

    Args:
        embed: (params, x, key, reference=...) -> features [examples, d].
        spread: α, below 1: how much of a row's answer comes from its neighbours.
        entry: the entry of `params.fast` that `support_set` wrote. The length l is
            exp(params.slow["log_length"]).

    Returns:
        (params, x, key=None, *, reference=None) -> logits [examples, ways]. Rows that are not
        reference rows, such as padded ones, take no part and get equal logits.

    Raises:
        ValueError: a spread outside 0 … 1; when called, fast weights without that entry.

    Source: Zhou et al. 2004, "Learning with local and global consistency"; on learned features, Liu
    et al. 2019, arXiv 1805.10002.
    """
    if not 0 < spread < 1:
        raise ValueError(f"spread must be between 0 and 1, got {spread}.")

    def read(
        params: Params, head: PyTree, features_QxD: Array, *, reference: Array | None
    ) -> Array:
        asked_Q = jnp.ones(len(features_QxD), bool) if reference is None else reference
        counts_R = jnp.concatenate([head["classes"].any(axis=1), asked_Q])
        rows_RxD = widened(jnp.concatenate([head["features"], features_QxD]))
        rows_RxD = keep_rows(counts_R, rows_RxD) * jnp.exp(-params.slow["log_length"])
        links_RxR = _links(rows_RxD, counts_R)
        support = len(head["classes"])
        labels_NxW = head["classes"].astype(rows_RxD.dtype)
        # F = Y + α S F, of which only the rows of the queries are wanted.
        system_RxR = jnp.eye(len(rows_RxD), dtype=rows_RxD.dtype) - spread * links_RxR
        padding = ((0, len(features_QxD)), (0, 0))
        spread_QxW = jnp.linalg.solve(system_RxR, jnp.pad(labels_NxW, padding))[support:]
        return _log_shares(spread_QxW, labels_NxW)

    return written_head(embed, read, entry=entry)


def _links(rows_RxD: Array, counts_R: Array) -> Array:
    """The normalised affinities S, without those of rows that do not count.

    They are computed in logarithms, because exp(-d²/2) of rows far apart is 0.
    """
    square_RxR = ((rows_RxD[:, None] - rows_RxD[None]) ** 2).sum(axis=2)
    is_link_RxR = counts_R[:, None] & counts_R[None] & ~jnp.eye(len(rows_RxD), dtype=bool)
    lowest = jnp.finfo(rows_RxD.dtype).min / 4
    log_affinity_RxR = jnp.where(is_link_RxR, -square_RxR / 2, lowest)
    log_degree_R = jax.nn.logsumexp(log_affinity_RxR, axis=1)
    both_RxR = (log_degree_R[:, None] + log_degree_R[None]) / 2
    log_link_RxR = jnp.where(is_link_RxR, log_affinity_RxR - both_RxR, 0)
    return jnp.where(is_link_RxR, jnp.exp(log_link_RxR), 0)


def _log_shares(spread_QxW: Array, classes_NxW: Array) -> Array:
    """Logarithms of what the classes have of each row, -1e9 for a class without support."""
    tiny = jnp.finfo(spread_QxW.dtype).tiny
    logits_QxW = jnp.log(jnp.maximum(spread_QxW, tiny))
    logits_QxW -= logits_QxW.max(axis=1, keepdims=True)
    is_present_W = (classes_NxW != 0).any(axis=0)
    is_absent_W = ~is_present_W & is_present_W.any()
    return jnp.where(is_absent_W[None], ABSENT, logits_QxW)
