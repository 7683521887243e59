"""Augmentation of what a sampler draws: of examples, of whole classes, of pairs and of labels.

Each takes a sampler (dataset, key) -> `Task` or `Batch` and returns another, so `meta_batch(augmented(episodes(...),
flip()), 16)` is compiled as one. Classes turned by a quarter as new classes are `episodes(..., rotations=True)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from metajax._checks import check_counts, shapes
from metajax._tree import count_rows, row_weights
from metajax.data.augment.images import Augmentation
from metajax.types import Array, Batch, Drawn, Modalities, PyTree, Sample, Task


def augmented(
    sample: Sample[Drawn],
    augmentation: Augmentation | Mapping[str, Augmentation],
    *,
    group: Callable[[Batch], Any] | None = None,
    support: bool = True,
    query: bool = True,
) -> Sample[Drawn]:
    """What a sampler draws, with its examples augmented; labels, weights and side information stay.

    By default each example has a draw of its own. With a group, examples of one number share a draw, in the support and
    in the query set alike: `group=lambda batch: batch.y` transforms each class of a task as a whole, which makes new
    classes, and `group=lambda batch: 0` the whole task.

    Args:
        sample: of tasks or of batches.
        augmentation: (x, key) -> x of one example; {name: augmentation} where the inputs are `Modalities`. Absent
            values stay, and what a modality is given does not depend on which others are named.
        group: batch -> int[examples] or one number. By labels, augment first and hide labels or make them noisy after.
        support: whether the support set of a task is augmented.
        query: whether the query set of a task is augmented.

    Returns:
        (dataset, key) -> what `sample` draws with the first half of the key.

    Raises:
        ValueError: when called, one augmentation for `Modalities` or several for an array, a name that is not a
            modality, or a group of another shape or of no integers.

    Source: where and at which level to augment is compared by Ni et al. 2021, arXiv 2010.07092.

    >>> from metajax.data.datasets import dataset
    >>> from metajax.data.tasks.few_shot import episodes
    >>> double = lambda x, key: 2 * x
    >>> sample = augmented(episodes(ways=2, shots=1, queries=1), double, support=False)
    >>> task = sample(dataset(jnp.ones((4, 1), jnp.float32), jnp.array([0, 0, 1, 1])), jax.random.key(0))
    >>> task.support.x.tolist(), task.query.x.tolist()
    ([[1.0], [1.0]], [[2.0], [2.0]])
    """

    def change(batch: Batch, key: Array) -> Batch:
        if group is None:
            keys = jax.random.split(key, count_rows(batch))
        else:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, _numbers(group, batch))
        return batch._replace(x=_augment(batch.x, augmentation, keys))

    return _changed(sample, change, support, query, alike=group is not None)


def mixup(
    sample: Sample[Drawn], alpha: float, *, support: bool = False, query: bool = True
) -> Sample[Drawn]:
    """Each example mixed with another of its set, x̃ᵢ = λᵢ xᵢ + (1 - λᵢ) xⱼ, under its own label.

    Mixup has λ ~ Beta(α, α) and the loss λ ℓ(x̃, yᵢ) + (1 - λ) ℓ(x̃, yⱼ). To exchange i for j and λ for 1 - λ changes
    neither x̃ nor how likely it is, so the mean of this loss is E[2λ ℓ(x̃, yᵢ)]: that of ℓ(x̃, yᵢ) with λ from
    2λ Beta(λ; α, α) = Beta(λ; α + 1, α), as it is drawn here. Labels stay integers, which every loss and adaptation
    takes; the price is a larger variance, for the label is drawn as well. With squared errors the mean is that of mixed
    targets but for a term that no model changes.

    The other example is drawn in proportion to its weight, so never from the padding; it may be the same one.

    Args:
        sample: of tasks or of batches, with inputs of floats.
        alpha: α above 0; small values hardly mix. The paper takes 0.1 to 0.4 for ImageNet, 1 for CIFAR.
        support: whether the support set of a task is mixed.
        query: whether the query set of a task is mixed.

    Returns:
        (dataset, key) -> what `sample` draws with the first half of the key; a modality that is not present in both
        examples stays that of the first.

    Raises:
        ValueError: an alpha that is not above 0; when called, inputs that are not floats.

    Source: Zhang et al. 2018, arXiv 1710.09412; that labels need not be mixed is an observation of Huszár 2017,
    inference.vc/mixup-data-dependent-data-augmentation.

    >>> batch = Batch(x=jnp.eye(2, dtype=jnp.float32), y=jnp.arange(2, dtype=jnp.int32))
    >>> mixed = mixup(lambda dataset, key: batch, alpha=1.0)((), jax.random.key(1))
    >>> mixed.x.sum(axis=1).tolist(), mixed.y.tolist()
    ([1.0, 1.0], [0, 1])
    """
    if not 0 < alpha < float("inf"):
        raise ValueError(
            f"{alpha=} must be a number above 0; without mixup, take the sampler as it is."
        )

    def change(batch: Batch, key: Array) -> Batch:
        share_key, other_key = jax.random.split(key)
        number = count_rows(batch)
        share = jax.random.beta(share_key, alpha + 1, alpha, (number,), jnp.float32)
        other = jax.random.choice(other_key, number, (number,), p=row_weights(batch))

        def mix(leaf: Array, both: Array) -> Array:
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise ValueError(
                    f"Mixup needs inputs of floats, got {shapes(batch.x)}; mix features of them instead."
                )
            part = _along(share, leaf).astype(leaf.dtype)
            return jnp.where(_along(both, leaf), part * leaf + (1 - part) * leaf[other], leaf)

        if not isinstance(batch.x, Modalities):
            return batch._replace(
                x=jax.tree.map(lambda leaf: mix(leaf, jnp.ones(number, bool)), batch.x)
            )
        value, present = batch.x
        both = {name: here & here[other] for name, here in present.items()}
        value = {
            name: jax.tree.map(lambda leaf, b=both[name]: mix(leaf, b), value[name])
            for name in value
        }
        return batch._replace(x=batch.x._replace(value=value))

    return _changed(sample, change, support, query)


def permuted_labels(sample: Sample[Task], ways: int) -> Sample[Task]:
    """The tasks with their classes renumbered at random, in support set, query set and `support.info` alike.

    `episodes` numbers them so by itself. It is for samplers that give a class the same number in every task: there the
    labels can be learned by heart and the support set ignored, which this prevents.

    Args:
        sample: of tasks with labels int[examples] from 0 to ways - 1.
        ways: classes in a task.

    Returns:
        (dataset, key) -> what `sample` draws with the first half of the key; rows stay where they are.

    Raises:
        ValueError: ways below 1; when called, labels that are not integers, information of another number of classes,
            or what is no `Task`.

    Source: Rajendran, Irpan and Jang 2020, arXiv 2007.05549.

    >>> x, y = jnp.zeros((3, 1)), jnp.arange(3, dtype=jnp.int32)
    >>> same = lambda dataset, key: Task(support=Batch(x, y), query=Batch(x, y[::-1]))
    >>> task = permuted_labels(same, ways=3)((), jax.random.key(1))
    >>> task.support.y.tolist(), task.query.y.tolist()
    ([2, 0, 1], [1, 0, 2])
    """
    check_counts(ways=ways)

    def drawn(dataset: Any, key: Array) -> Task:
        sample_key, order_key = jax.random.split(key)
        task = sample(dataset, sample_key)
        _check_labels(task, ways)
        new = jax.random.permutation(order_key, ways)  # of each old number

        def renumber(batch: Batch) -> Batch:
            return batch._replace(y=new.astype(batch.y.dtype)[batch.y])

        info = jax.tree.map(lambda leaf: leaf[jnp.argsort(new)], task.support.info)
        return task._replace(
            support=renumber(task.support)._replace(info=info), query=renumber(task.query)
        )

    return drawn


def _changed(
    sample: Sample[Drawn],
    change: Callable[[Batch, Array], Batch],
    support: bool,
    query: bool,
    *,
    alike: bool = False,
) -> Sample[Drawn]:
    """The sampler with its batch, or the sets asked for of its task, changed; `alike` with one key for both sets."""

    def drawn(dataset: Any, key: Array) -> Any:
        sample_key, key = jax.random.split(key)
        task: Any = sample(dataset, sample_key)
        if isinstance(task, Batch):
            return change(task, key)
        support_key, query_key = (key, key) if alike else jax.random.split(key)
        return task._replace(
            support=change(task.support, support_key) if support else task.support,
            query=change(task.query, query_key) if query else task.query,
        )

    return drawn


def _augment(
    x: PyTree, augmentation: Augmentation | Mapping[str, Augmentation], keys: Array
) -> PyTree:
    """Each example with its key."""
    if not isinstance(x, Modalities) and callable(augmentation):
        return jax.vmap(augmentation)(x, keys)
    if not isinstance(x, Modalities) or not isinstance(augmentation, Mapping):
        raise ValueError(
            f"Modalities need {{name: augmentation}} and other inputs one augmentation; got {augmentation} for "
            f"{shapes(x)}."
        )
    if unknown := sorted(augmentation.keys() - x.value.keys()):
        raise ValueError(f"{unknown} are not among the modalities, which are {sorted(x.value)}.")
    value = dict(x.value)
    for index, name in enumerate(sorted(x.value)):
        if name in augmentation:
            own = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
            new, here = jax.vmap(augmentation[name])(value[name], own), x.present[name]
            value[name] = jax.tree.map(
                lambda a, b, here=here: jnp.where(_along(here, a), a, b), new, value[name]
            )
    return x._replace(value=value)


def _numbers(group: Callable[[Batch], Any], batch: Batch) -> Array:
    """The group of each row, int[examples]."""
    number, rows = jnp.asarray(group(batch)), count_rows(batch)
    if not jnp.issubdtype(number.dtype, jnp.integer) or number.shape not in ((), (rows,)):
        raise ValueError(
            f"group must give one integer or int[{rows}], one for each example, got {shapes(number)}."
        )
    return jnp.broadcast_to(number.astype(jnp.int32), (rows,))


def _along(rows: Array, leaf: Array) -> Array:
    """What belongs to rows [n], in the rank of a leaf [n, ...]."""
    return rows.reshape(-1, *(1,) * (leaf.ndim - 1))


def _check_labels(task: Task, ways: int) -> None:
    if not isinstance(task, Task):
        raise ValueError(
            f"Labels are permuted within a Task, got {type(task).__name__}; sample with data.episodes."
        )
    for batch in (task.support, task.query):
        if not jnp.issubdtype(jnp.result_type(batch.y), jnp.integer) or jnp.ndim(batch.y) != 1:
            raise ValueError(f"Labels must be int[examples], got {shapes(batch.y)}.")
    if any(jnp.shape(leaf)[:1] != (ways,) for leaf in jax.tree.leaves(task.support.info)):
        raise ValueError(
            f"support.info must have one row for each of the {ways} ways, got {shapes(task.support.info)}."
        )
