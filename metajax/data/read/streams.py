"""Tasks from data that is larger than the device: rows are drawn and read ahead, on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checked import checked
from metajax._checks import shapes
from metajax._tree import count_tasks
from metajax.data.datasets import Dataset
from metajax.data.read.row_readers import REFUSED, row_reader
from metajax.data.tasks.drawing import at_step, map_inputs
from metajax.data.tasks.row_numbers import draw_numbers
from metajax.data.values import Scale, as_scale, is_row_numbers, scaled
from metajax.types import Array, Count, PyTree, Sample, Size


class Stream(NamedTuple):
    """Tasks that are read from disk while the device computes.

    `stream` makes one; `training.fit` takes it in place of a sampler.

    Attributes:
        sample: sampler (rows, key) -> tasks.
        rows: data set whose x are row numbers, int32[examples].
        fetch: row numbers int[...] -> x of these rows, leaves [..., ...], on the host.
        augment: sampler of a task -> another sampler, how tasks are changed on the device; or None.
        scale: what values are divided by on the device, as in `Dataset.scale`.
        tasks: number of tasks that the sampler draws.
        threads: threads that read, in this process or in each worker.
        workers: processes that read.
        ahead: batches of tasks that are kept ready.
        shard: (index, count) of this process among those that share the tasks.
    """

    sample: Sample[PyTree]
    rows: Dataset
    fetch: Callable[[np.ndarray], PyTree]
    augment: Callable[[Sample[PyTree]], Sample[PyTree]] | None
    scale: Scale
    tasks: int
    threads: int
    workers: int
    ahead: int
    shard: tuple[int, int]

    def finish(self, read: PyTree, key: Array) -> PyTree:
        """Scales and augments tasks on the device; call it in compiled code.

        Args:
            read: tasks as `tasks_of` reads them.
            key: the key that they were drawn with.
        """
        tasks = map_inputs(lambda x: scaled(x, self.scale), read)
        if self.augment is None:
            return tasks
        index, count = self.shard
        # No task was drawn with the key of a task after the last one.
        keys = jax.random.split(jax.random.fold_in(key, self.tasks), self.tasks)
        sample = self.augment(lambda task, key: task)
        return jax.vmap(sample)(tasks, jnp.split(keys, count)[index])


@checked
def stream(
    sample: Sample[PyTree],
    rows: Dataset,
    fetch: Callable[[np.ndarray], PyTree],
    *,
    augment: Callable[[Sample[PyTree]], Sample[PyTree]] | None = None,
    scale: float | Mapping[str, float] | Scale = None,
    threads: Size = 2,
    workers: Count = 0,
    ahead: Size = 4,
    shard: tuple[int, int] = (0, 1),
) -> Stream:
    """Makes a sampler for `training.fit` whose data set stays on disk.

    The sampler draws row numbers, which fit into memory, and `fetch` reads only those rows, a few
    steps ahead, in threads or processes of grain. Step n has the tasks that `sample` would draw
    from the data set itself with the same key. The number of the step is therefore the whole
    position: a checkpoint has it, and a resumed run reads on from there. Padding works as in
    memory, and padded rows are not read. For turned images as classes of their own, give what
    `rotated(rows, fetch=fetch)` returns.

    Args:
        sample: sampler (dataset, key) -> tasks, such as `meta_batch(episodes(...), tasks=32)`.
        rows: `dataset(np.arange(examples, dtype=np.int32), labels)`; `tfds_rows` makes it together
            with its `fetch`.
        fetch: row numbers -> x, such as `lambda rows: images[rows]` of a memory-mapped array.
        augment: how tasks are changed on the device, with keys of their own: it is given a sampler
            of the task as read and returns another, such as
            `lambda drawn: augmented(drawn, flip())`.
        scale: what integers that `fetch` reads are divided by on the device, as in `dataset`: a
            number such as 255 for images uint8, or {modality: number}.
        threads: threads that read, in this process or in each worker.
        workers: processes that read; 0 reads in this process. With processes, `fetch` and `sample`
            are pickled.
        ahead: batches of tasks that are kept ready.
        shard: (index, count) of this process among several that train together. It reads its own
            part of the tasks, with `tasks_of`, for a loop of your own: `fit` trains on all tasks.

    Raises:
        ValueError: numbers below 1 (`workers` below 0), a shard that does not exist or does not
            divide the tasks, rows whose x are not numbers, a scale that is not positive, or what
            the sampler raises; when tasks are read, a sampler that changes examples.

    >>> from metajax.data.datasets import dataset
    >>> from metajax.data.tasks.few_shot import episodes, meta_batch
    >>> images = np.zeros((12, 8, 8, 1), np.uint8)
    >>> rows = dataset(np.arange(12, dtype=np.int32), np.repeat(np.arange(3), 4))
    >>> sample = meta_batch(episodes(2, 1, 3), tasks=5)
    >>> feed = stream(sample, rows, lambda numbers: images[numbers], scale=255)
    >>> next(tasks_of(feed, jax.random.key(0))).query.x.shape
    (5, 6, 8, 8, 1)
    """
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"{shard=} must be (index, count), with an index from 0 to count - 1.")
    if not is_row_numbers(rows.x):
        raise ValueError(
            f"x of the rows must be their numbers, int32[examples], got {shapes(rows.x)}."
        )
    tasks = _count_drawn(sample, rows)
    if tasks % count:
        raise ValueError(
            f"The {tasks} tasks of a step are not divisible by the {count} of {shard=}."
        )
    return Stream(
        sample=sample,
        rows=rows,
        fetch=fetch,
        augment=augment,
        scale=as_scale(scale),
        tasks=tasks,
        threads=threads,
        workers=workers,
        ahead=ahead,
        shard=shard,
    )


@checked
def tasks_of(feed: Stream, key: Array, *, first: int = 0) -> Iterator[PyTree]:
    """The tasks of step `first` and all later steps as they are read: those that `fit` trains on.

    `feed.finish(tasks, jax.random.split(jax.random.fold_in(key, step))[0])` then scales and
    augments the tasks of a step.

    Args:
        feed: what `stream` returns.
        key: key of the whole run.
        first: number of the first step.

    Raises:
        ImportError: grain is missing.
        RuntimeError: JAX cannot use the CPU, on which rows are drawn.
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
    reader = row_reader(feed.sample, feed.rows, feed.fetch, feed.shard, key)
    steps = grain.MapDataset.range(first, 2**31 - 1).map(reader.read)
    options = grain.ReadOptions(feed.threads, max(feed.threads, feed.ahead))
    batches = steps.to_iter_dataset(options)
    if feed.workers:
        _mark_flags_as_parsed()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(feed.workers, feed.ahead))
    return iter(batches)


def _count_drawn(sample: Sample[PyTree], rows: Dataset) -> int:
    """The number of tasks that a sampler draws from rows."""

    def draw(key: Array) -> PyTree:
        return draw_numbers(at_step(sample, jnp.int32(0)), rows, key)[0]

    try:
        drawn = jax.eval_shape(draw, jax.random.key(0))
    except Exception as error:
        error.add_note(REFUSED)
        raise
    return count_tasks(drawn)


def _mark_flags_as_parsed() -> None:
    """Lets grain start processes in a script that does not parse the flags of absl."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
