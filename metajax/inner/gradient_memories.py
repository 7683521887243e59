"""Fast weights that a net writes from the gradient of every support example (MetaNet)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._class_means import weighted_one_hot
from metajax._tree import keep_rows, widened
from metajax.inner.amortised import amortize
from metajax.inner.heads import absent_bias, embed_support, written_head
from metajax.inner.support_sets import unit
from metajax.types import Adaptation, Apply, Array, Batch, Params, PyTree, Size

SMALLEST = 10.0
"""p of the numbers that a net reads of a gradient g: log|g|/p and the sign of g, or -1 and exp(p) g
where |g| is below exp(-p)."""


@checked
def gradient_memory(
    embed: Apply, write: Apply, weights: PyTree, ways: Size, *, entry: str = "memory"
) -> Adaptation:
    """Writes a change of the head for every support example, which a net makes of its gradient.

    The gradient of -log softmax(f(x) W + b)[y] at the head W, b of the net is one number for each
    weight, and the net m maps each number alone: Wᵢ = m(∇_W lᵢ), bᵢ = m(∇_b lᵢ). The weights of m
    are `params.rule`.

    Args:
        embed: (params, x, key, reference=...) -> features [examples, d].
        write: the net m as a function of its own params and of what it reads of numbers: [numbers,
            2] -> [numbers, 1].
        weights: the initial weights of m.
        ways: number of classes, those of `params.fast["head"]`.
        entry: the entry of `params.fast` to write, {"features": [examples, d], "weight":
            [examples], "kernel": [examples, d, ways], "bias": [examples, ways], "prior": [ways]}.
            The prior is -1e9 for a class without support, and 0 for all if no class has any.

    Raises:
        ValueError: when traced, features that are not [examples, d], labels that are not
            int[examples], or a head of another width or without a bias.

    Source: Munkhdalai and Yu 2017, arXiv 1703.00837; what is read of a gradient, Andrychowicz et
    al. 2016, arXiv 1606.04474.
    """

    def encode(params: Params, support: Batch, key: Array) -> PyTree:
        features_NxD = widened(embed_support(embed, params, support, key))
        classes_NxW = weighted_one_hot(support, ways).astype(features_NxD.dtype)
        weight_N = classes_NxW.sum(axis=1)
        features_NxD = keep_rows(weight_N > 0, features_NxD)
        head = params.fast["head"]
        if "bias" not in head:
            raise ValueError(
                "The head must have a bias, because fast weights are written for it; make it with "
                "use_bias=True."
            )
        if head["kernel"].shape != (features_NxD.shape[1], ways):
            raise ValueError(
                f"The head must be [{features_NxD.shape[1]}, {ways}], features and ways, got "
                f"{list(head['kernel'].shape)}."
            )
        logits_NxW = features_NxD @ head["kernel"] + head["bias"][None]
        error_NxW = jax.nn.softmax(logits_NxW) - (classes_NxW > 0)
        slope_NxDxW = features_NxD[:, :, None] * error_NxW[:, None]

        def mapped(slope: Array) -> Array:
            read = _as_read(slope).reshape(-1, 2)
            return write(Params({}, params.rule), read).reshape(slope.shape)

        return {
            "features": features_NxD,
            "weight": weight_N,
            "kernel": mapped(slope_NxDxW),
            "bias": mapped(error_NxW),
            "prior": absent_bias(classes_NxW),
        }

    return amortize(lambda params, key: weights, encode, entry=entry)


@checked
def memory_head(embed: Apply, *, entry: str = "memory") -> Apply:
    """The network whose head a query changes by the memory of the examples that it is like.

    logits = f(x) (W + Σᵢ aᵢ Wᵢ) + b + Σᵢ aᵢ bᵢ + prior, with the shares
    aᵢ = wᵢ exp cos(f(x), f(xᵢ)) / Σⱼ wⱼ exp cos(f(x), f(xⱼ)). Without any support it is the head W,
    b.

    Args:
        embed: (params, x, key, reference=...) -> features [examples, d].
        entry: the entry of `params.fast` that `gradient_memory` wrote.

    Returns:
        (params, x, key=None, *, reference=None) -> logits [examples, ways].

    Raises:
        ValueError: when called, fast weights without that entry.

    Source: Munkhdalai and Yu 2017, arXiv 1703.00837.
    """

    def read(params: Params, memory: PyTree, features_QxD: Array) -> Array:
        head = params.fast["head"]
        wide_QxD = widened(features_QxD)
        alike_QxN = jnp.exp(unit(wide_QxD) @ unit(memory["features"]).T) * memory["weight"][None]
        total_Qx1 = alike_QxN.sum(axis=1, keepdims=True)
        share_QxN = alike_QxN / jnp.where(total_Qx1 > 0, total_Qx1, 1)
        kernel_QxDxW = jnp.einsum("qn,ndw->qdw", share_QxN, memory["kernel"])
        logits_QxW = wide_QxD @ head["kernel"] + (head["bias"] + memory["prior"])[None]
        return (
            logits_QxW
            + jnp.einsum("qd,qdw->qw", wide_QxD, kernel_QxDxW)
            + (share_QxN @ memory["bias"])
        )

    return written_head(embed, read, entry=entry)


def _as_read(slope: Array) -> Array:
    """Size and sign of each number, [..., 2], both of order 1."""
    size = jnp.abs(slope)
    is_large = size >= math.exp(-SMALLEST)
    log_size = jnp.log(jnp.where(is_large, size, 1)) / SMALLEST
    first = jnp.where(is_large, log_size, -1)
    second = jnp.where(is_large, jnp.sign(slope), math.exp(SMALLEST) * slope)
    return jnp.stack([first, second], axis=-1)
