"""A few-shot data set as arrays on the device."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from metajax._tree import clear_absent
from metajax.types import Array, Modalities, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dataset:
    """Labelled examples, sorted by class. A pytree: pass it to a compiled function as an argument.

    It is the one dataclass of the library, because what is static (names, sizes) is no array.

    Attributes:
        x: pytree of arrays [examples, ...], a `Modalities` where there are several; uint8 and int16 stay as they are,
            float64 becomes JAX's default float.
        y: int32[examples], the label of each row, ascending.
        start: int32[classes], the first row of each class.
        count: int32[classes], the number of rows of each class.
        names: one name a class, static. What a class belongs to comes first: "Greek/alpha".
        sizes: the same as `count`, static, so that compiled code can refuse too large a draw and name the classes.
        info: pytree of arrays [classes, ...]: what is known of a class besides its examples, such as a description.
    """

    x: PyTree
    y: Array
    start: Array
    count: Array
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    sizes: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    info: PyTree = ()

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.names)

    @property
    def smallest(self) -> int:
        """Number of rows of the smallest class."""
        return min(self.sizes)


def dataset(
    x: PyTree, y: ArrayLike, *, names: Sequence[str] | None = None, info: PyTree = ()
) -> Dataset:
    """Makes a `Dataset` of arrays and puts it on the default device.

    Values are checked here, while they are concrete, so that compiled code need not.

    Args:
        x: pytree of arrays [examples, ...], or a `Modalities` of them; absent values become zero.
        y: integers [examples], from 0 to classes - 1; every class has an example.
        names: one a class; by default the labels themselves.
        info: pytree of arrays [classes, ...]; `episodes` hands the rows of a task's classes on as `support.info`.

    Raises:
        ValueError: no examples, lengths that differ, labels that are not integers, out of range or
            without an example, a name that two classes have, or values that are not finite, or too large for JAX's
            default dtype.

    >>> digits = dataset(np.zeros((6, 28, 28, 1), np.uint8), np.array([1, 0, 1, 0, 1, 0]))
    >>> digits.classes, digits.count.tolist()
    (2, [3, 3])
    """
    x = clear_absent(as_modalities(x.value, x.present)) if isinstance(x, Modalities) else x
    x, labels = jax.tree.map(np.asarray, x), np.asarray(y)
    lengths = {leaf.shape[:1] for leaf in jax.tree.leaves(x)}
    if labels.ndim != 1 or not len(labels) or lengths != {labels.shape}:
        raise ValueError(
            f"x and y must have the same, positive number of rows, got {lengths} and {labels.shape}."
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"Labels must be integers from 0 to classes - 1, got {labels.dtype}; convert them first."
        )
    classes = int(labels.max()) + 1 if names is None else len(names)
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"Labels must lie in 0 to {classes - 1}, got {labels.min()} to {labels.max()}."
        )
    labels = labels.astype(np.int64)
    names = tuple(str(name) for name in (range(classes) if names is None else names))
    if twice := [name for name, times in collections.Counter(names).items() if times > 1]:
        raise ValueError(f"Classes must have names of their own, but several are {twice[:10]}.")
    count = np.bincount(labels, minlength=classes)
    if not count.all():
        empty = np.flatnonzero(count == 0).tolist()
        raise ValueError(
            f"Classes {empty[:10]} have no example; renumber the labels (np.unique, return_inverse=True)."
        )
    info = jax.tree.map(np.asarray, info)
    if any(leaf.shape[:1] != (classes,) for leaf in jax.tree.leaves(info)):
        sizes = jax.tree.map(np.shape, info)
        raise ValueError(
            f"info must have one row for each of the {classes} classes, got shapes {sizes}."
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path({"x": x, "info": info}):
        _check_values(path[0].key + jax.tree_util.keystr(path[1:]), leaf)
    order = np.argsort(labels, kind="stable")
    return Dataset(
        x=jax.tree.map(lambda leaf: jnp.asarray(leaf[order]), x),
        y=jnp.asarray(labels[order], jnp.int32),
        start=jnp.asarray(np.cumsum(count) - count, jnp.int32),
        count=jnp.asarray(count, jnp.int32),
        names=names,
        sizes=tuple(count.tolist()),
        info=jax.tree.map(jnp.asarray, info),
    )


def select(source: Dataset, keep: Callable[[str], bool] | ArrayLike) -> Dataset:
    """The classes that `keep` names, relabelled from 0 in the same order.

    Args:
        source: what to choose from.
        keep: a predicate on a class's name, or bool[classes].

    Raises:
        ValueError: nothing is left, or not one bool a class.

    >>> letters = dataset(np.eye(3), np.arange(3), names=["Greek/alpha", "Latin/a", "Latin/b"])
    >>> select(letters, lambda name: name.startswith("Latin/")).names
    ('Latin/a', 'Latin/b')
    """
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
    rows = np.flatnonzero(mask[np.asarray(source.y)])
    labels = (np.cumsum(mask) - 1)[np.asarray(source.y)[rows]]
    names = [name for name, kept in zip(source.names, mask, strict=True) if kept]
    x = jax.tree.map(lambda leaf: np.asarray(leaf)[rows], source.x)
    info = jax.tree.map(lambda leaf: np.asarray(leaf)[mask], source.info)
    return dataset(x, labels, names=names, info=info)


def check_sizes(source: Dataset, **parts: int) -> None:
    """Fails where a class has fewer examples than these parts of a task take together.

    Raises:
        ValueError: such classes, by name and size.
    """
    needed = sum(parts.values())
    if needed > source.smallest:
        small = {
            name: size
            for name, size in zip(source.names, source.sizes, strict=True)
            if size < needed
        }
        asked = ", ".join(f"{name}={size}" for name, size in parts.items())
        raise ValueError(
            f"{asked} must not exceed together the {source.smallest} examples of the smallest class. Too small are "
            f"{len(small)} of {source.classes}, {dict(sorted(small.items(), key=lambda pair: pair[1])[:10])}; ask for "
            f"fewer, or use select(dataset, dataset.count >= {needed})."
        )


def _check_values(name: str, leaf: np.ndarray) -> None:
    """Fails where a value is not finite, or is another one in the dtype that JAX gives it."""
    kept = jax.dtypes.canonicalize_dtype(leaf.dtype)
    real = jnp.issubdtype(kept, jnp.inexact)
    if real and (rows := _rows_with(~np.isfinite(leaf))):
        raise ValueError(f"{name} is not finite in rows {rows}; drop or repair them.")
    if kept == leaf.dtype:
        return
    with np.errstate(over="ignore"):
        cast = leaf.astype(kept)
    if rows := _rows_with(~np.isfinite(cast) if real else cast != leaf):
        raise ValueError(
            f"{name} is too large for {kept} in rows {rows}; rescale it, or set jax_enable_x64."
        )


def _rows_with(marked: np.ndarray) -> list[int]:
    """The first rows in which something is marked."""
    return np.flatnonzero(marked.reshape(len(marked), -1).any(axis=1))[:10].tolist()


def as_modalities(
    value: Mapping[str, PyTree], present: Mapping[str, Array] | None = None
) -> Modalities:
    """Several views of the same examples, checked; a modality that `present` does not name is there in all of them.

    Args:
        value: {name: pytree of arrays [examples, ...]}.
        present: {name: bool[examples]}.

    Raises:
        ValueError: no modality, an unknown name in `present`, or shapes that do not fit.

    >>> value = {"image": jnp.ones((2, 8, 8, 1)), "audio": jnp.ones((2, 99))}
    >>> as_modalities(value, {"audio": jnp.array([True, False])}).present["image"].tolist()
    [True, True]
    """
    present = dict(present or {})
    sizes = {
        name: {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(views)}
        for name, views in value.items()
    }
    shape: tuple[int, ...] = next(iter(next(iter(sizes.values()), ())), ())
    if not shape or any(size != {shape} for size in sizes.values()):
        raise ValueError(f"Every modality must have the same number of examples, got {sizes}.")
    if unknown := sorted(present.keys() - value.keys()):
        raise ValueError(f"present names {unknown}, but the modalities are {sorted(value)}.")
    for name in value:
        here = present.setdefault(name, jnp.ones(shape, bool))
        if not jnp.issubdtype(jnp.result_type(here), jnp.bool_) or jnp.shape(here) != shape:
            got = f"{jnp.result_type(here)}{list(jnp.shape(here))}"
            raise ValueError(
                f"present[{name!r}] must be bool{list(shape)}, one for each example, got {got}."
            )
    return Modalities(dict(value), present)
