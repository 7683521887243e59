"""What is known of a class besides its examples stands in for shots: descriptions, attributes, a knowledge graph."""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp

from metajax._tree import count_tasks, reference_rows, row_weights
from metajax.outer.evaluation import Summary, evaluate
from metajax.types import Adaptation, Apply, Array, Batch, Params, PyTree, Task, TaskLoss


class Describe(Protocol):
    """Class features from side information, such as a text encoder with its parameters in `params.slow`."""

    def __call__(self, params: Params, info: PyTree, key: Array | None = None) -> Array:
        """`support.info`, leading axis = ways, -> [ways, d]."""


def adaptive_prototypes(
    embed: Apply, describe: Describe, ways: int, width: int, *, head: str = "head"
) -> Adaptation:
    """Writes the head of class means that lean on what is known of the class: c = λ p + (1 - λ) w, λ = σ(h·w + b).

    p is the mean of the support features of the class, w = describe(info) what is known of it. A class without support
    has λ = 0: with no shot at all this is zero-shot classification, `adaptive_prototypes` at its K = 0 end.

    Args:
        embed: (params, x, key, reference=...) -> features [examples, width].
        describe: (params, support.info, key) -> [ways, width].
        ways: number of classes.
        width: of the features; h and b are the rule.
        head: the entry of `params.fast` to write, {"kernel": [width, ways], "bias": [ways]}.

    Raises:
        ValueError: when traced, a support set without info, or class features of another shape.

    Source: AM3, Xing et al. 2019, arXiv 1902.07104; zero-shot with a graph, Wang et al. 2018, arXiv 1803.08035.
    """

    def init(params: Params, key: Array) -> Params:
        return params._replace(rule={"kernel": jnp.zeros(width), "bias": jnp.zeros(())})

    def adapt(params: Params, support: Batch, key: Array) -> Params:
        if not isinstance(params.rule, dict) or "kernel" not in params.rule:
            raise ValueError(
                "adaptive_prototypes has no rule yet; call params = adaptation.init(params, key) first."
            )
        mean_WxD, count_W = _class_means(embed, params, support, ways, key)
        known_WxD = _described(describe, params, support, (ways, mean_WxD.shape[1]), key)
        share_W = jax.nn.sigmoid(known_WxD @ params.rule["kernel"] + params.rule["bias"])
        share_Wx1 = jnp.where(count_W > 0, share_W, 0)[:, None]
        return _write(params, head, share_Wx1 * mean_WxD + (1 - share_Wx1) * known_WxD)

    return Adaptation(init, adapt)


def cross_modal_prototypes(
    embed: Apply, describe: Describe, ways: int, *, head: str = "head"
) -> Adaptation:
    """Writes the head of class means that count what is known of a class as one more shot: c = (Σ f + w) / (K + 1).

    Arguments and errors are those of `adaptive_prototypes`; there is nothing to learn but `embed` and `describe`.

    Source: Lin et al. 2023, arXiv 2301.06267.
    """

    def adapt(params: Params, support: Batch, key: Array) -> Params:
        mean_WxD, count_W = _class_means(embed, params, support, ways, key)
        known_WxD = _described(describe, params, support, (ways, mean_WxD.shape[1]), key)
        return _write(
            params, head, (count_W[:, None] * mean_WxD + known_WxD) / (count_W[:, None] + 1)
        )

    return Adaptation(lambda params, key: params._replace(rule=()), adapt)


def described_head(
    describe: Describe, ways: int, width: int, *, hidden: int = 64, head: str = "head"
) -> Adaptation:
    """A hypernetwork writes the head from what is known of the classes: (kernelₖ, biasₖ) = B gelu(A wₖ + a) + b.

    FuMI is `chain(described_head(...), inner_loop(...))`: the written head starts a few steps of descent on the shots.

    Args:
        describe: (params, support.info, key) -> [ways, width].
        ways: number of classes.
        width: of the features that the head reads.
        hidden: width of the hypernetwork, which is the rule.
        head: the entry of `params.fast` to write, {"kernel": [width, ways], "bias": [ways]}.

    Raises:
        ValueError: a rule that was never initialised; when traced, a support set without info.

    Source: Jackson et al. 2022, arXiv 2210.04843.
    """

    def init(params: Params, key: Array) -> Params:
        first, second = jax.random.split(key)
        into = jax.random.normal(first, (width, hidden)) / width**0.5
        out = jax.random.normal(second, (hidden, width + 1)) / hidden**0.5
        rule = {"in": into, "shift": jnp.zeros(hidden), "out": out, "bias": jnp.zeros(width + 1)}
        return params._replace(rule=rule)

    def adapt(params: Params, support: Batch, key: Array) -> Params:
        rule = params.rule
        if not isinstance(rule, dict) or "in" not in rule:
            raise ValueError(
                "described_head has no rule yet; call params = adaptation.init(params, key) first."
            )
        known_WxD = _described(describe, params, support, (ways, width), key)
        hidden_WxH = jax.nn.gelu(known_WxD @ rule["in"] + rule["shift"][None])
        made_WxE = hidden_WxH @ rule["out"] + rule["bias"][None]
        written = {"kernel": made_WxE[:, :-1].T, "bias": made_WxE[:, -1]}
        return params._replace(fast={**params.fast, head: written})

    return Adaptation(init, adapt)


def compare_side_information(
    task_loss: TaskLoss,
    params: Params,
    tasks: Task,
    key: Array,
    *,
    names_only: PyTree | None = None,
    tasks_at_once: int | None = None,
) -> dict[str, dict[str, Summary]]:
    """A learner with side information, and beside it the controls that tell what the information was worth.

    "given" is the learner as it is. "permuted" gives each class the information of the next class of its task,
    "random" that of the same class of another task, "no shots" sets the weight of all support examples to zero, and
    "names only" puts `names_only` in the place of the info. All are on the same tasks, so that differences are paired.
    What does not fall under "permuted" and "random" was not learned from the information.

    Args:
        task_loss: (params, task, key) -> (scalar, metrics), such as `query_loss(adaptive_prototypes(...), loss)`.
        params: what the outer loop learned.
        tasks: two tasks or more along the leading axis, with `support.info`.
        key: as in `evaluate`.
        names_only: [tasks, ways, ...], a poorer info of the same structure.
        tasks_at_once: as in `evaluate`.

    Returns:
        {control: {"loss": Summary, and one for each metric}}.

    Raises:
        ValueError: tasks without info, or fewer than two.
    """
    info = tasks.support.info
    if not jax.tree.leaves(info) or count_tasks(tasks) < 2:
        raise ValueError(
            "Controls of side information need two tasks or more, each with support.info."
        )
    silent = jax.tree.map(jnp.zeros_like, jax.vmap(row_weights)(tasks.support))
    changes = {
        "given": tasks.support,
        "permuted": tasks.support._replace(
            info=jax.tree.map(lambda leaf: jnp.roll(leaf, 1, axis=1), info)
        ),
        "random": tasks.support._replace(
            info=jax.tree.map(lambda leaf: jnp.roll(leaf, 1, axis=0), info)
        ),
        "no shots": tasks.support._replace(weight=silent),
    }
    if names_only is not None:
        changes["names only"] = tasks.support._replace(info=names_only)
    return {
        name: evaluate(
            task_loss, params, tasks._replace(support=support), key, tasks_at_once=tasks_at_once
        )
        for name, support in changes.items()
    }


def _class_means(
    embed: Apply, params: Params, support: Batch, ways: int, key: Array
) -> tuple[Array, Array]:
    """Mean features [ways, d], zero without support, and how much support there is [ways]."""
    features_NxD = embed(params, support.x, key, reference=reference_rows(support))
    classes_NxW = row_weights(support)[:, None] * jax.nn.one_hot(support.y, ways, dtype=jnp.float32)
    classes_NxW = classes_NxW.astype(features_NxD.dtype)
    count_W = classes_NxW.sum(axis=0)
    return classes_NxW.T @ features_NxD / jnp.where(count_W > 0, count_W, 1)[:, None], count_W


def _described(
    describe: Describe, params: Params, support: Batch, shape: tuple[int, int], key: Array
) -> Array:
    """What is known of the classes, [ways, d]."""
    if not jax.tree.leaves(support.info):
        raise ValueError(
            "The support set has no info on its classes; make the data set with data.dataset(..., info=...)."
        )
    known = describe(params, support.info, key)
    if jnp.shape(known) != shape:
        raise ValueError(
            f"describe must give {list(shape)}, one row for each class, got {list(jnp.shape(known))}."
        )
    return known


def _write(params: Params, head: str, mean_WxD: Array) -> Params:
    """Params with the head of nearest means."""
    written = {"kernel": 2 * mean_WxD.T, "bias": -(mean_WxD**2).sum(axis=1)}
    return params._replace(fast={**params.fast, head: written})
