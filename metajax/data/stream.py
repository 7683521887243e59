"""Tasks from data that is larger than the device: rows are drawn as ever, and read on the host ahead of time."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from metajax._types import Array, Batch, PyTree
from metajax.data.arrays import Dataset
from metajax.data.episodes import Sample, scaled


class Stream(NamedTuple):
    """What `training.fit` takes in place of a sampler whose data set is on the device; `stream` makes it.

    Attributes:
        sample: (rows, key) -> tasks whose x are numbers of rows.
        rows: data set whose x are numbers of rows, int32[examples].
        fetch: int[...] -> x of these rows, with their axes first, on the host.
        finish: tasks, as fetched -> tasks, as they are learned from; compiled.
        options: how many threads and processes read, and how far ahead.
    """

    sample: Sample[PyTree]
    rows: Dataset
    fetch: Callable[[np.ndarray], PyTree]
    finish: Callable[[PyTree], PyTree]
    options: dict[str, Any]


def stream(
    sample: Sample[PyTree],
    rows: Dataset,
    fetch: Callable[[np.ndarray], PyTree],
    *,
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

    Args:
        sample: (dataset, key) -> tasks, such as `meta_batch(episodes(...), tasks=32)`.
        rows: `dataset(np.arange(examples, dtype=np.int32), labels)`; `tfds_rows` makes it with its `fetch`.
        fetch: such as `lambda rows: images[rows]` of a memory-mapped array.
        scale: as in `episodes`, done on the device.
        threads: that read in this process, or in each of the workers.
        workers: processes; 0 for none. `fetch` and `sample` are then pickled.
        ahead: batches of tasks that are kept ready.
        shard: (number, count) of this process among several that train together; it reads its own part of the tasks.

    Raises:
        ValueError: numbers below 1 (`workers` below 0), or a shard that there is not.
        ImportError: grain is missing.

    >>> from metajax.data.arrays import dataset
    >>> from metajax.data.episodes import episodes, meta_batch
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
    options = {"threads": threads, "workers": workers, "ahead": ahead, "shard": shard}
    return Stream(sample, rows, fetch, scaled if scale else lambda tasks: tasks, options)


def tasks_of(feed: Stream, key: Array, *, first: int = 0) -> Iterator[PyTree]:
    """Tasks of step `first` and all that follow, as fetched: those that `fit` sees with this key.

    Raises:
        ImportError: grain is missing.
    """
    try:
        import grain
    except ImportError as error:
        raise ImportError("Streams need grain: pip install 'metajax[data]'.") from error
    options = feed.options
    host = feed._replace(rows=jax.device_get(feed.rows))  # or a process that it is sent to would ask for the device
    read = functools.partial(_tasks, host, np.asarray(jax.random.key_data(key)), str(jax.random.key_impl(key)))
    steps = grain.MapDataset.range(first, 2**31 - 1).map(read)
    batches = steps.to_iter_dataset(grain.ReadOptions(options["threads"], max(options["threads"], options["ahead"])))
    if options["workers"]:
        from absl import flags

        if not flags.FLAGS.is_parsed():  # grain asks for flags, which a script of the user's has not parsed
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(options["workers"], options["ahead"]))
    return iter(batches)


def _tasks(feed: Stream, key_data: np.ndarray, kind: str, step: int) -> PyTree:
    """Of one step, read from where they are."""
    if multiprocessing.parent_process() is not None:
        jax.config.update("jax_platforms", "cpu")  # the accelerator is the parent's
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        drawn = jax.device_get(_draw(feed.sample, feed.rows, key_data, kind, step))
    number, count = feed.options["shard"]
    mine = lambda leaf: np.array_split(leaf, count)[number]
    fetched = lambda part: part._replace(x=feed.fetch(part.x)) if isinstance(part, Batch) else part
    return jax.tree.map(fetched, jax.tree.map(mine, drawn), is_leaf=lambda part: isinstance(part, Batch))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _draw(sample: Sample[PyTree], rows: Dataset, key_data: Array, kind: str, step: int) -> PyTree:
    """The tasks of a step, as `fit` draws them."""
    key = jax.random.fold_in(jax.random.wrap_key_data(key_data, impl=kind), step)
    return sample(rows, jax.random.split(key)[0])
