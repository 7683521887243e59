"""Tasks from data that is larger than the device: rows are drawn as ever, and read on the host ahead of time."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checks import shapes
from metajax._tree import count_tasks
from metajax.data.datasets import Dataset
from metajax.data.tasks.drawing import scaled
from metajax.data.tasks.row_numbers import decode, numbered
from metajax.types import Array, Batch, PyTree, Sample

_REFUSED = (
    "A stream's sampler may pick rows, turn them by quarters and pad; what else is done to examples belongs into "
    "augment=, such as `augment=lambda drawn: augmented(drawn, flip())`."
)


class Stream(NamedTuple):
    """What `training.fit` takes in place of a sampler whose data set is on the device; `stream` makes it.

    Attributes:
        sample: (rows, key) -> tasks.
        rows: data set whose x are numbers of rows, int32[examples].
        fetch: int[...] -> x of these rows, with their axes first, on the host.
        augment: what else happens to a task: sampler of it -> another; or None.
        tasks: how many the sampler draws.
        options: whether values are scaled, how many threads and processes read, how far ahead, and for which shard.
    """

    sample: Sample[PyTree]
    rows: Dataset
    fetch: Callable[[np.ndarray], PyTree]
    augment: Callable[[Sample[PyTree]], Sample[PyTree]] | None
    tasks: int
    options: dict[str, Any]

    def finish(self, read: PyTree, key: Array) -> PyTree:
        """Tasks as they are learned from, of those as read and the key that they were drawn with; to be compiled."""
        read = scaled(read) if self.options["scale"] else read
        if self.augment is None:
            return read
        number, count = self.options["shard"]
        keys = jax.random.split(
            jax.random.fold_in(key, self.tasks), self.tasks
        )  # none that a task was drawn with
        return jax.vmap(self.augment(lambda task, key: task))(read, jnp.split(keys, count)[number])


def stream(
    sample: Sample[PyTree],
    rows: Dataset,
    fetch: Callable[[np.ndarray], PyTree],
    *,
    augment: Callable[[Sample[PyTree]], Sample[PyTree]] | None = None,
    scale: bool = True,
    threads: int = 2,
    workers: int = 0,
    ahead: int = 4,
    shard: tuple[int, int] = (0, 1),
) -> Stream:
    """For `fit`, in place of a sampler, where the data set stays on disk.

    The sampler draws row numbers, which fit into memory, and `fetch` reads those rows only, a few steps ahead in
    threads or processes of grain. Step n has the tasks that `sample` would draw from the data set itself with the same
    key, so that the number of the step is the whole position: a checkpoint has it, and resuming reads on from there.
    Rotations and padding are as in memory, too; rows that pad are not read.

    Args:
        sample: (dataset, key) -> tasks, such as `meta_batch(episodes(...), tasks=32)`.
        rows: `dataset(np.arange(examples, dtype=np.int32), labels)`; `tfds_rows` makes it with its `fetch`.
        fetch: such as `lambda rows: images[rows]` of a memory-mapped array.
        augment: what else happens to a task, on the device and with keys of its own: it is given a sampler of the task
            as read, and returns another, such as `lambda drawn: augmented(drawn, flip())`.
        scale: as in `episodes`, done on the device.
        threads: that read in this process, or in each of the workers.
        workers: processes; 0 for none. `fetch` and `sample` are then pickled.
        ahead: batches of tasks that are kept ready.
        shard: (number, count) of this process among several that train together; it reads its own part of the tasks,
            with `tasks_of`, for a loop of your own: `fit` trains on all of them.

    Raises:
        ValueError: numbers below 1 (`workers` below 0), a shard that there is not or that does not divide the tasks,
            rows whose x are no numbers, or what the sampler raises; when read, a sampler that changes examples.

    >>> from metajax.data.datasets import dataset
    >>> from metajax.data.tasks.few_shot import episodes, meta_batch
    >>> images, labels = np.zeros((12, 8, 8, 1), np.uint8), np.repeat(np.arange(3), 4)
    >>> rows = dataset(np.arange(12, dtype=np.int32), labels)
    >>> feed = stream(meta_batch(episodes(2, 1, 3), tasks=5), rows, lambda numbers: images[numbers])
    >>> next(tasks_of(feed, jax.random.key(0))).query.x.shape
    (5, 6, 8, 8, 1)
    """
    if min(threads, ahead, workers + 1) < 1 or not 0 <= shard[0] < shard[1]:
        raise ValueError(
            f"{threads=} and {ahead=} must be 1 or more, {workers=} 0 or more, and {shard=} one of its count."
        )
    if (
        not isinstance(rows.x, jax.Array)
        or rows.x.ndim != 1
        or not jnp.issubdtype(rows.x.dtype, jnp.integer)
    ):
        raise ValueError(
            f"x of the rows must be their numbers, int32[examples], got {shapes(rows.x)}."
        )
    try:
        drawn = jax.eval_shape(lambda key: sample(numbered(rows), key), jax.random.key(0))
    except ValueError as error:
        error.add_note(_REFUSED)
        raise
    tasks = count_tasks(drawn)
    if tasks % shard[1]:
        raise ValueError(
            f"The {tasks} tasks of a step are not divisible by the {shard[1]} of {shard=}."
        )
    options = {
        "scale": scale,
        "threads": threads,
        "workers": workers,
        "ahead": ahead,
        "shard": shard,
    }
    return Stream(sample, rows, fetch, augment, tasks, options)


def tasks_of(feed: Stream, key: Array, *, first: int = 0) -> Iterator[PyTree]:
    """Tasks of step `first` and all that follow, as fetched: those that `fit` sees with this key.

    `feed.finish(tasks, split(fold_in(key, step))[0])` makes of them what is learned from.

    Raises:
        ImportError: grain is missing.
        RuntimeError: JAX was told to leave out the CPU, where tasks are drawn.
    """
    try:
        import grain
    except ImportError as error:
        raise ImportError("Streams need grain: pip install 'metajax[data]'.") from error
    try:
        jax.local_devices(backend="cpu")
    except RuntimeError as error:
        raise RuntimeError(
            f"Streams draw on the CPU ({error}); add it: JAX_PLATFORMS=cuda,cpu."
        ) from error
    options = feed.options
    host = feed._replace(
        rows=jax.device_get(feed.rows), augment=None
    )  # or a process would ask for the device
    wide = (
        jax.dtypes.canonicalize_dtype(np.int64) == np.int64
    )  # of this thread, which those of grain do not ask
    key_data, kind = np.asarray(jax.random.key_data(key)), str(jax.random.key_impl(key))
    read = functools.partial(_tasks, host, key_data, kind, wide)
    steps = grain.MapDataset.range(first, 2**31 - 1).map(read)
    batches = steps.to_iter_dataset(
        grain.ReadOptions(options["threads"], max(options["threads"], options["ahead"]))
    )
    if options["workers"]:
        from absl import flags

        if (
            not flags.FLAGS.is_parsed()
        ):  # grain asks for flags, which a script of the user's has not parsed
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(options["workers"], options["ahead"])
        )
    return iter(batches)


def _tasks(feed: Stream, key_data: np.ndarray, kind: str, wide: bool, step: int) -> PyTree:
    """Of one step, read from where they are."""
    if multiprocessing.parent_process() is not None:
        jax.config.update("jax_platforms", "cpu")  # the accelerator is the parent's
    with jax.enable_x64(wide), jax.default_device(jax.local_devices(backend="cpu")[0]):
        drawn = jax.device_get(_draw(feed.sample, feed.rows, key_data, kind, step))
    number, count = feed.options["shard"]
    mine = jax.tree.map(lambda leaf: np.split(leaf, count)[number], drawn)
    fetched = lambda part: (
        part._replace(x=_fetched(feed, part.x)) if isinstance(part, Batch) else part
    )
    return jax.tree.map(fetched, mine, is_leaf=lambda part: isinstance(part, Batch))


def _fetched(feed: Stream, drawn: np.ndarray) -> PyTree:
    """The examples of these pictures of row numbers, zeros for padding."""
    picked = decode(drawn)
    if picked is None:
        raise ValueError(_REFUSED)
    row, turns = picked
    known, numbers = row >= 0, np.asarray(feed.rows.x)[row]
    x = feed.fetch(numbers if known.all() else numbers[known])
    if not known.all():
        x = jax.tree.map(functools.partial(_spread, known), x)
    return _turned(x, turns) if turns.any() else x


def _spread(known: np.ndarray, leaf: np.ndarray) -> np.ndarray:
    """Zeros, with the rows of the leaf in the places that are known."""
    whole = np.zeros(known.shape + leaf.shape[1:], leaf.dtype)
    whole[known] = leaf
    return whole


def _turned(x: PyTree, turns: np.ndarray) -> np.ndarray:
    """Square images, each turned by so many quarters: `episodes.turn`, on the host."""
    if not isinstance(x, np.ndarray) or x.ndim != turns.ndim + 3 or x.shape[-3] != x.shape[-2]:
        sizes = jax.tree.map(np.shape, x)
        raise ValueError(f"Rotations need square images [..., size, size, channels], got {sizes}.")
    x = x.copy()
    for quarters in (1, 2, 3):
        x[turns == quarters] = np.rot90(x[turns == quarters], quarters, axes=(1, 2))
    return x


@functools.partial(jax.jit, static_argnums=(0, 3))
def _draw(sample: Sample[PyTree], rows: Dataset, key_data: Array, kind: str, step: int) -> PyTree:
    """The tasks of a step, as `fit` draws them."""
    key = jax.random.fold_in(jax.random.wrap_key_data(key_data, impl=kind), step)
    return sample(numbered(rows), jax.random.split(key)[0])
