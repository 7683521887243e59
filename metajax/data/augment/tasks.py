"""Augmentation of what a sampler draws: of examples, of whole classes, and of pairs of examples.

Each function takes a sampler of tasks or batches and returns another one, so that
`meta_batch(augmented(episodes(...), flip()), 16)` is compiled as a whole. A keyword `step` is
handed on if the sampler takes one. Turned images as new classes are `rotated(dataset)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import check_names, shapes
from metajax._tree import along, count_rows, row_weights
from metajax.data.augment.images import Augmentation
from metajax.data.tasks.drawing import at_step, with_step_of
from metajax.types import Array, Batch, Drawn, Modalities, PyTree, Sample


@checked
def augmented(
    sample: Sample[Drawn],
    augmentation: Augmentation | Mapping[str, Augmentation],
    *,
    group: Callable[[Batch], Any] | None = None,
    support: bool = True,
    query: bool = True,
) -> Sample[Drawn]:
    """Augments the examples that a sampler draws. Labels, weights and side information stay.

    By default each example has a draw of its own. With a group, examples of the same number share
    a draw, in the support and in the query set alike: `group=lambda batch: batch.y` transforms each
    class of a task as a whole, which makes new classes, and `group=lambda batch: 0` the whole task.

    Args:
        sample: sampler of tasks or batches.
        augmentation: (x, key) -> x of one example; {name: augmentation} where the inputs are
            `Modalities`. Absent values stay, and the draws of a modality do not depend on which
            other modalities are named.
        group: batch -> int[examples] or one integer. If it reads labels, augment first, and hide
            labels or make them noisy after that.
        support: whether the support set of a task is augmented.
        query: whether the query set of a task is augmented.

    Returns:
        Sampler (dataset, key) -> what `sample` draws with the first half of the key, augmented.

    Raises:
        ValueError: when called, one augmentation for `Modalities` or several for an array, a name
            that is not a modality, or a group of another shape or not of integers.

    >>> from metajax.data.datasets import dataset
    >>> from metajax.data.tasks.few_shot import episodes
    >>> source = dataset(jnp.ones((4, 1), jnp.float32), jnp.array([0, 0, 1, 1]))
    >>> double = lambda x, key: 2 * x
    >>> sample = augmented(episodes(ways=2, shots=1, queries=1), double, support=False)
    >>> task = sample(source, jax.random.key(0))
    >>> task.support.x.tolist(), task.query.x.tolist()
    ([[1.0], [1.0]], [[2.0], [2.0]])

    Source: Ni et al. 2021, arXiv 2010.07092, who compare where to augment and at which level.
    """

    def change(batch: Batch, key: Array) -> Batch:
        if group is None:
            keys = jax.random.split(key, count_rows(batch))
        else:
            numbers = _group_numbers(group, batch)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
        return batch._replace(x=_augment(batch.x, augmentation, keys))

    return _changed(sample, change, support, query, share_key=group is not None)


@checked
def mixup(
    sample: Sample[Drawn], alpha: float, *, support: bool = False, query: bool = True
) -> Sample[Drawn]:
    """Mixes each example with another one of its set, and keeps its own label.

    x̃ᵢ = λᵢ xᵢ + (1 - λᵢ) xⱼ. Mixup has λ ~ Beta(α, α) and the loss
    λ ℓ(x̃, yᵢ) + (1 - λ) ℓ(x̃, yⱼ). Exchanging i with j and λ with 1 - λ changes neither x̃ nor its
    probability, so the mean of this loss is E[2λ ℓ(x̃, yᵢ)], which is that of ℓ(x̃, yᵢ) with λ drawn
    from 2λ Beta(λ; α, α) = Beta(λ; α + 1, α), as here. Labels stay integers, as every loss and
    adaptation takes them; the price is a larger variance, because the label is drawn as well. For
    squared errors the mean differs from that of mixed targets by a term that no model changes.

    The other example is drawn in proportion to its weight, so that padding is never drawn. It may
    be the same example.

    Args:
        sample: sampler of tasks or batches, with inputs of floats.
        alpha: α above 0; small values hardly mix. The paper takes 0.1 to 0.4 for ImageNet and 1 for
            CIFAR.
        support: whether the support set of a task is mixed.
        query: whether the query set of a task is mixed.

    Returns:
        Sampler (dataset, key) -> what `sample` draws with the first half of the key, mixed. A
        modality that is not present in both examples stays that of the first.

    Raises:
        ValueError: an alpha that is not above 0; when called, inputs that are not floats.

    >>> batch = Batch(x=jnp.eye(2, dtype=jnp.float32), y=jnp.arange(2, dtype=jnp.int32))
    >>> mixed = mixup(lambda dataset, key: batch, alpha=1.0)((), jax.random.key(1))
    >>> mixed.x.sum(axis=1).tolist(), mixed.y.tolist()
    ([1.0, 1.0], [0, 1])

    Source: Zhang et al. 2018, arXiv 1710.09412; that labels need not be mixed is an observation of
    Huszár 2017, inference.vc/mixup-data-dependent-data-augmentation.
    """
    if not 0 < alpha < float("inf"):
        raise ValueError(
            f"{alpha=} must be a number above 0; without mixup, use the sampler as it is."
        )

    def change(batch: Batch, key: Array) -> Batch:
        share_key, other_key = jax.random.split(key)
        rows = count_rows(batch)
        share = jax.random.beta(share_key, alpha + 1, alpha, (rows,), jnp.float32)
        weight = row_weights(batch)
        weight = weight.astype(jnp.promote_types(weight.dtype, jnp.float32))
        other = jax.random.choice(other_key, rows, (rows,), p=weight)
        if not isinstance(batch.x, Modalities):
            return batch._replace(x=_mix(batch.x, other, share, jnp.ones(rows, bool)))
        value = {}
        for name, part in batch.x.value.items():
            present = batch.x.present[name]
            value[name] = _mix(part, other, share, present & present[other])
        return batch._replace(x=batch.x._replace(value=value))

    return _changed(sample, change, support, query)


def _changed(
    sample: Sample[Drawn],
    change: Callable[[Batch, Array], Batch],
    support: bool,
    query: bool,
    *,
    share_key: bool = False,
) -> Sample[Drawn]:
    """The sampler with its batch changed, or those sets of its task that are asked for.

    Args:
        sample: sampler of tasks or batches.
        change: (batch, key) -> batch.
        support: whether the support set is changed.
        query: whether the query set is changed.
        share_key: whether both sets are given the same key.
    """

    @checked
    def sample_changed(dataset: PyTree, key: Array, *, step: Array | None = None) -> Any:
        sample_key, key = jax.random.split(key)
        drawn: Any = at_step(sample, step)(dataset, sample_key)
        if isinstance(drawn, Batch):
            return change(drawn, key)
        support_key, query_key = (key, key) if share_key else jax.random.split(key)
        if support:
            drawn = drawn._replace(support=change(drawn.support, support_key))
        if query:
            drawn = drawn._replace(query=change(drawn.query, query_key))
        return drawn

    return with_step_of(sample_changed, sample)


def _augment(
    x: PyTree, augmentation: Augmentation | Mapping[str, Augmentation], keys: Array
) -> PyTree:
    """Each example augmented with its key."""
    if not isinstance(x, Modalities) and callable(augmentation):
        return jax.vmap(augmentation)(x, keys)
    if not isinstance(x, Modalities) or not isinstance(augmentation, Mapping):
        raise ValueError(
            f"Modalities need {{name: augmentation}} and other inputs one augmentation; got "
            f"{augmentation} for {shapes(x)}."
        )
    check_names(augmentation, x.value)
    value = dict(x.value)
    # The index counts all modalities, so that it does not depend on which are augmented.
    for index, name in enumerate(sorted(x.value)):
        if name in augmentation:
            own_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
            new = jax.vmap(augmentation[name])(value[name], own_keys)
            value[name] = _where_present(x.present[name], new, value[name])
    return x._replace(value=value)


def _where_present(present: Array, new: PyTree, old: PyTree) -> PyTree:
    """New values where a modality is present, old ones elsewhere."""
    return jax.tree.map(lambda a, b: jnp.where(along(present, a), a, b), new, old)


def _mix(x: PyTree, other: Array, share: Array, both: Array) -> PyTree:
    """Each row mixed with another one.

    Args:
        x: pytree of arrays [n, ...].
        other: int[n], the other row.
        share: [n], how much of the first row is kept.
        both: bool[n], whether both rows are present; other rows stay.
    """

    def mix(leaf: Array) -> Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"Mixup needs inputs of floats, got {shapes(x)}; mix features of them instead."
            )
        part = along(share, leaf).astype(leaf.dtype)
        mixed = part * leaf + (1 - part) * leaf[other]
        return jnp.where(along(both, leaf), mixed, leaf)

    return jax.tree.map(mix, x)


def _group_numbers(group: Callable[[Batch], Any], batch: Batch) -> Array:
    """The group of each row, int32[examples]."""
    numbers = jnp.asarray(group(batch))
    rows = count_rows(batch)
    if not jnp.issubdtype(numbers.dtype, jnp.integer) or numbers.shape not in ((), (rows,)):
        raise ValueError(
            f"group must give one integer or int[{rows}], one for each example, got "
            f"{shapes(numbers)}."
        )
    return jnp.broadcast_to(numbers.astype(jnp.int32), (rows,))
