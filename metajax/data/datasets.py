"""A few-shot data set as arrays on the device."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from metajax._checked import checked
from metajax._checks import check_no_list, shapes
from metajax.data.values import Scale, as_modalities, as_scale, check_values, scaled
from metajax.types import Array, Modalities, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dataset:
    """Labelled examples, sorted by class. A pytree: pass it to a compiled function as an argument.

    `dataset` makes one and checks it. It is the only dataclass of the library, because some of its
    fields (names, sizes, scale) are static and not arrays.

    Attributes:
        x: pytree of arrays [examples, ...], or a `Modalities`, as stored: uint8 and int16 keep
            their dtype, float64 becomes JAX's default float.
        y: int32[examples], the label of each row, ascending.
        start: int32[classes], the first row of each class.
        count: int32[classes], the number of rows of each class.
        names: one name for each class, static. The group of a class comes first: "Greek/alpha".
        sizes: the same numbers as `count`, static, so that compiled code can check the size of a
            draw and name the classes that are too small.
        info: pytree of arrays [classes, ...], side information about each class, such as a
            description. It is never scaled.
        scale: static. What values of x are divided by after a draw: one number, a sorted tuple of
            (modality, number) pairs, or None. `dataclasses.replace(source, scale=None)` draws
            values as they are stored.
        credit: licence and citation, static; "" where they are not known. `describe` shows it.
    """

    x: PyTree
    y: Array
    start: Array
    count: Array
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    sizes: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    info: PyTree = ()
    scale: Scale = dataclasses.field(default=None, metadata={"static": True})
    credit: str = dataclasses.field(default="", metadata={"static": True})

    def __repr__(self) -> str:
        """One line: how many examples and classes there are, and of which kind."""
        least, most = self.smallest, max(self.sizes)
        each = f"{least} each" if least == most else f"{least} to {most} each"
        names = ", ".join(self.names[:3]) + ", ..." * (self.classes > 3)
        x = self.x.value if isinstance(self.x, Modalities) else self.x
        parts = [
            f"{sum(self.sizes):,} examples of {self.classes:,} classes, {each}: {names}",
            f"x: {shapes(x)}".replace("'", ""),
            f"scale: {self.scale}",
        ]
        return f"Dataset({'; '.join(parts)})"

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.names)

    @property
    def smallest(self) -> int:
        """Number of rows of the smallest class."""
        return min(self.sizes)


@checked
def dataset(
    x: PyTree,
    y: ArrayLike | Sequence[str],
    *,
    names: Sequence[str] | None = None,
    info: PyTree = (),
    scale: float | Mapping[str, float] | Scale = None,
    credit: str = "",
) -> Dataset:
    """Makes a `Dataset` of arrays and puts it on the default device.

    Values are checked here, where they are concrete, so that compiled code need not check them.

    Args:
        x: pytree of arrays [examples, ...], or a `Modalities` of them. Values of absent modalities
            become zero.
        y: integers [examples], from 0 to classes - 1, or texts [examples]. Every class has an
            example. Texts are kept as the names of the classes.
        names: one for each class, in the order of their labels. By default the integers as texts,
            or the different texts, sorted.
        info: pytree of arrays [classes, ...]. `episodes` passes the rows of a task's classes on as
            `support.info`.
        scale: for integers that stand for numbers: after a draw they become float32 and are divided
            by it. 255 for images uint8, 32768 for waves int16; {modality: number} for `Modalities`.
            Other values stay as they are.
        credit: licence and citation of the data, for `describe`.

    Returns:
        The data set, with its rows sorted by class.

    Raises:
        ValueError: no examples, lengths that differ, labels that are neither integers nor texts,
            out of range, not in `names` or without an example, a name that two classes have, values
            that are not finite or too large for JAX's default dtype, or a scale that is not
            positive or does not fit x.

    >>> images = np.zeros((6, 28, 28, 1), np.uint8)
    >>> digits = dataset(images, np.array([1, 0, 1, 0, 1, 0]), scale=255)
    >>> digits.classes, digits.count.tolist(), digits.scale
    (2, [3, 3], 255.0)
    >>> dataset(np.ones((3, 8)), ["dog", "cat", "dog"]).names
    ('cat', 'dog')
    """
    if isinstance(x, Modalities):
        x = jax.tree.map(np.asarray, as_modalities(x.value, x.present))
        value = {name: _cleared(x.present[name], part) for name, part in x.value.items()}
        x = x._replace(value=value)
    check_no_list(x, "x")
    x = jax.tree.map(np.asarray, x)
    labels, names = _numbered(np.asarray(y), names)
    _check_rows(x, labels)
    names = _class_names(labels, names)
    count = _class_sizes(labels, len(names))
    info = jax.tree.map(np.asarray, info)
    _check_info(info, len(names))
    for path, leaf in jax.tree_util.tree_leaves_with_path({"x": x, "info": info}):
        check_values(path[0].key + jax.tree_util.keystr(path[1:]), leaf)
    scale = as_scale(scale)
    jax.eval_shape(lambda x: scaled(x, scale), x)
    order = np.argsort(labels, kind="stable")
    return Dataset(
        x=jax.tree.map(lambda leaf: jnp.asarray(leaf[order]), x),
        y=jnp.asarray(labels[order], jnp.int32),
        start=jnp.asarray(np.cumsum(count) - count, jnp.int32),
        count=jnp.asarray(count, jnp.int32),
        names=names,
        sizes=tuple(count.tolist()),
        info=jax.tree.map(jnp.asarray, info),
        scale=scale,
        credit=credit,
    )


@checked
def select(source: Dataset, keep: Callable[[str], bool] | ArrayLike) -> Dataset:
    """The classes that `keep` chooses, relabelled from 0 in the same order.

    Args:
        source: what to choose from.
        keep: a predicate on the name of a class, or bool[classes].

    Returns:
        A data set of these classes, with the same scale and credit.

    Raises:
        ValueError: no class is chosen, or there is not one bool for each class.

    >>> letters = dataset(np.eye(3), np.arange(3), names=["Greek/alpha", "Latin/a", "Latin/b"])
    >>> select(letters, lambda name: name.startswith("Latin/")).names
    ('Latin/a', 'Latin/b')
    """
    mask = _class_mask(source, keep)
    old_labels = np.asarray(source.y)
    rows = np.flatnonzero(mask[old_labels])
    new_label = np.cumsum(mask) - 1
    return dataset(
        jax.tree.map(lambda leaf: np.asarray(leaf)[rows], source.x),
        new_label[old_labels[rows]],
        names=[name for name, kept in zip(source.names, mask, strict=True) if kept],
        info=jax.tree.map(lambda leaf: np.asarray(leaf)[mask], source.info),
        scale=source.scale,
        credit=source.credit,
    )


def check_sizes(source: Dataset, **parts: int) -> None:
    """Checks that every class has as many examples as these parts of a task take together.

    Args:
        source: what is drawn from.
        **parts: examples of each class, by the name of the part: `shots=1, queries=5`.

    Raises:
        ValueError: the smallest classes that are too small, by name and size.
    """
    needed = sum(parts.values())
    if needed <= source.smallest:
        return
    sizes = dict(zip(source.names, source.sizes, strict=True))
    small = {name: size for name, size in sizes.items() if size < needed}
    shown = dict(sorted(small.items(), key=lambda pair: pair[1])[:10])
    asked = ", ".join(f"{name}={size}" for name, size in parts.items())
    raise ValueError(
        f"{asked} together must not exceed the {source.smallest} examples of the smallest class. "
        f"Too small are {len(small)} of {source.classes}, {shown}; ask for fewer, or use "
        f"select(dataset, dataset.count >= {needed})."
    )


def _cleared(present: np.ndarray, part: PyTree) -> PyTree:
    """Zeros where the mask is False, by NumPy: JAX would cast int64 before it is checked."""

    def clear(leaf: np.ndarray) -> np.ndarray:
        rows = present.reshape(len(present), *(1,) * (leaf.ndim - 1))
        return np.where(rows, leaf, np.zeros_like(leaf))

    return jax.tree.map(clear, part)


def _numbered(
    labels: np.ndarray, names: Sequence[str] | None
) -> tuple[np.ndarray, Sequence[str] | None]:
    """Labels that are texts as integers, with the names of their classes; others as they are."""
    if labels.dtype.kind not in "OTU" or not len(labels):
        return labels, names
    texts = [str(label) for label in labels.tolist()]
    if names is None:
        names = sorted(set(texts))
    number_of = {str(name): number for number, name in enumerate(names)}
    if unknown := sorted(set(texts) - set(number_of)):
        raise ValueError(
            f"Labels must be among names, got {unknown[:10]}; names are {list(names)[:10]}."
        )
    return np.array([number_of[text] for text in texts]), names


def _check_rows(x: PyTree, labels: np.ndarray) -> None:
    """Checks that x has one row for each label, and that labels are integers."""
    lengths = {leaf.shape[:1] for leaf in jax.tree.leaves(x)}
    if labels.ndim != 1 or not len(labels) or lengths != {labels.shape}:
        raise ValueError(
            f"x and y must have the same, positive number of rows, got {lengths} and "
            f"{labels.shape}."
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"Labels must be integers from 0 to classes - 1, or texts, got {labels.dtype}; convert "
            "them."
        )


def _class_names(labels: np.ndarray, names: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the classes, by default the labels; checks names and the range of labels."""
    classes = int(labels.max()) + 1 if names is None else len(names)
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"Labels must lie in 0 to {classes - 1}, got {labels.min()} to {labels.max()}."
        )
    names = tuple(str(name) for name in (range(classes) if names is None else names))
    times = collections.Counter(names)
    if twice := [name for name, number in times.items() if number > 1]:
        raise ValueError(f"Each class must have a name of its own, but several are {twice[:10]}.")
    return names


def _class_sizes(labels: np.ndarray, classes: int) -> np.ndarray:
    """Number of examples of each class, int[classes]; checks that none is empty."""
    count = np.bincount(labels.astype(np.int64), minlength=classes)
    if not count.all():
        empty = np.flatnonzero(count == 0).tolist()
        raise ValueError(
            f"Classes {empty[:10]} have no example. Labels start at 0 and leave no number out: "
            "names, labels = np.unique(labels, return_inverse=True) numbers them so."
        )
    return count


def _check_info(info: PyTree, classes: int) -> None:
    """Checks that side information has one row for each class."""
    if any(leaf.shape[:1] != (classes,) for leaf in jax.tree.leaves(info)):
        raise ValueError(
            f"info must have one row for each of the {classes} classes, got {shapes(info)}."
        )


def _class_mask(source: Dataset, keep: Callable[[str], bool] | ArrayLike) -> np.ndarray:
    """Which classes are chosen, bool[classes]; checks that some are."""
    mask = np.array([bool(keep(name)) for name in source.names] if callable(keep) else keep)
    if mask.shape != (source.classes,) or mask.dtype != bool:
        got = f"{mask.dtype}{list(mask.shape)}"
        raise ValueError(
            f"keep must have one bool for each of the {source.classes} classes, got {got}."
        )
    if not mask.any():
        raise ValueError(
            f"No class is left of {source.classes}, such as {source.names[:3]}; loosen the choice."
        )
    return mask
