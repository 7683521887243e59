"""An adaptation that writes the mean features of each class, and nets that read them."""

from __future__ import annotations

import jax.numpy as jnp

from metajax._checked import checked
from metajax._class_means import class_means, weighted_one_hot
from metajax.inner.amortised import amortize
from metajax.inner.heads import absent_bias, embed_support, written_head
from metajax.types import Adaptation, Apply, Array, Batch, Params, PyTree, Size


@checked
def mean_features(embed: Apply, ways: Size, *, entry: str = "head") -> Adaptation:
    """Writes the mean of the features of each class, for a head that is not linear.

    cₖ = Σᵢ wᵢ [yᵢ = k] f(xᵢ) / Σᵢ wᵢ [yᵢ = k]. The label -1 marks a row without a label.

    Args:
        embed: (params, x, key, reference=...) -> features [examples, d].
        ways: number of classes.
        entry: the entry of `params.fast` to write, {"mean": [ways, d], "bias": [ways]}. The bias is
            -1e9 for a class without support, and 0 for all if no class has any.

    Raises:
        ValueError: when traced, features that are not [examples, d], or labels that are not
            int[examples].

    >>> import jax
    >>> from metajax.nets import identity_encoder
    >>> support = Batch(jnp.array([[1.0], [3.0], [5.0]]), jnp.array([0, 0, 1]))
    >>> adaptation = mean_features(identity_encoder, ways=2)
    >>> adapted = adaptation.adapt(Params({}, {}), support, jax.random.key(0))
    >>> adapted.fast["head"]["mean"].tolist()
    [[2.0], [5.0]]
    """

    def encode(params: Params, support: Batch, key: Array) -> PyTree:
        features_NxD = embed_support(embed, params, support, key)
        classes_NxW = weighted_one_hot(support, ways)
        mean_WxD, _ = class_means(features_NxD, classes_NxW)
        return {"mean": mean_WxD, "bias": absent_bias(classes_NxW).astype(mean_WxD.dtype)}

    return amortize(lambda params, key: (), encode, entry=entry)


@checked
def relation_head(
    embed: Apply, relate: Apply, *, part: str = "relation", entry: str = "head"
) -> Apply:
    """The network that scores every pair of a class and a query by a learned net.

    logitsₖ = g([cₖ, f(x)]), with the class mean cₖ that `mean_features` wrote.

    Args:
        embed: (params, x, key, reference=...) -> features [examples, d].
        relate: the net g as a function of its own params and of pairs: [pairs, 2 d] -> [pairs, 1].
        part: the entry of `params.slow` with the weights of g.
        entry: the entry of `params.fast` with the class means.

    Returns:
        (params, x, key=None, *, reference=None) -> logits [examples, ways].

    Raises:
        ValueError: when called, fast weights without that entry, or a net g whose output is not
            [pairs, 1].

    Source: Sung et al. 2018, arXiv 1711.06025, equation 1.
    """

    def read(params: Params, head: PyTree, features_QxD: Array) -> Array:
        ways, width = head["mean"].shape
        shape = (len(features_QxD), ways, width)
        both = [jnp.broadcast_to(one, shape) for one in (head["mean"][None], features_QxD[:, None])]
        pairs_PxE = jnp.concatenate(both, axis=2).reshape(-1, 2 * width)
        scores_Px1 = relate(Params({}, params.slow[part]), pairs_PxE)
        if jnp.shape(scores_Px1) != (len(pairs_PxE), 1):
            raise ValueError(
                f"The relation net must give one score for each of {len(pairs_PxE)} pairs, shape "
                f"({len(pairs_PxE)}, 1), got {jnp.shape(scores_Px1)}."
            )
        return scores_Px1.reshape(shape[:2]) + head["bias"][None]

    return written_head(embed, read, entry=entry)


@checked
def predicted_head(
    embed: Apply, write: Apply, weights: PyTree, ways: Size, *, entry: str = "head"
) -> Adaptation:
    """Writes the head that a net computes from class means: one network writes another.

    (wₖ, bₖ) = h(cₖ), one class at a time, and the logits are f(x)·wₖ + bₖ. The net h is stored in
    `params.rule`. A class without support gets the bias -1e9, unless no class has any.

    Args:
        embed: (params, x, key, reference=...) -> features [examples, d].
        write: the net h as a function of its own params and of means: [ways, d] -> [ways, d + 1].
        weights: the initial weights of h.
        ways: number of classes.
        entry: the entry of `params.fast` to write, {"kernel": [d, ways], "bias": [ways]}.

    Raises:
        ValueError: when traced, features that are not [examples, d], labels that are not
            int[examples], or a net h whose output is not [ways, d + 1].

    Source: Qiao et al. 2018, arXiv 1706.03466, whose net has no bias; hypernetworks, Ha et al.
    2016, arXiv 1609.09106.
    """
    means = mean_features(embed, ways, entry=entry)

    def encode(params: Params, support: Batch, key: Array) -> PyTree:
        head = means.adapt(params, support, key).fast[entry]
        written_WxE = write(Params({}, params.rule), head["mean"])
        expected = (ways, head["mean"].shape[1] + 1)
        if jnp.shape(written_WxE) != expected:
            raise ValueError(
                f"The net must write {expected[1]} numbers for each class, the features and a "
                f"bias, shape {expected}, got {jnp.shape(written_WxE)}."
            )
        return {"kernel": written_WxE[:, :-1].T, "bias": written_WxE[:, -1] + head["bias"]}

    return amortize(lambda params, key: weights, encode, entry=entry)
