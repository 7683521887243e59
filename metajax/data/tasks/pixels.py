"""Images as functions to regress on: from a pixel's place to its colour."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax.data.datasets import Dataset
from metajax.data.tasks.drawing import take_examples
from metajax.types import Array, Batch, Sample, Size, Task


@checked
def image_completion(pixels: Size, queries: Size | None = None) -> Sample[Task]:
    """Draws images to complete: a task is one image, and an example is one of its pixels.

    x is the place of a pixel and y its colour.

    Args:
        pixels: support pixels, drawn without replacement.
        queries: query pixels, drawn from the others. None takes all pixels of the image, in order,
            the support pixels too.

    Returns:
        Sampler (dataset, key) -> Task with x float32[n, 2], row and column from -1 to 1, and y
        [n, channels], scaled as the data set declares. The image is drawn uniformly from all rows.

    Raises:
        ValueError: sizes below 1; when called, data that are not images, or more pixels than an
            image has.

    >>> import numpy as np
    >>> from metajax.data.datasets import dataset
    >>> source = dataset(np.zeros((3, 8, 8, 1), np.uint8), np.arange(3), scale=255)
    >>> task = image_completion(pixels=10)(source, jax.random.key(0))
    >>> task.support.x.shape, task.query.y.shape
    ((10, 2), (64, 1))

    Source: Garnelo et al. 2018, arXiv 1807.01613, section 4.2.
    """

    @checked
    def sample(dataset: Dataset, key: Array) -> Task:
        height, width, channels = _image_shape(dataset)
        size = height * width
        if pixels + (queries or 0) > size:
            raise ValueError(
                f"{pixels=} and {queries=} must not exceed the {size} pixels of an image."
            )
        image_key, pixel_key = jax.random.split(key)
        row = jax.random.randint(image_key, (1,), 0, len(dataset.y), jnp.int32)
        y = take_examples(dataset, row).reshape(size, channels)
        x = _places(height, width)
        order = jax.random.permutation(pixel_key, size)
        support = order[:pixels]
        query = jnp.arange(size) if queries is None else order[pixels : pixels + queries]
        return Task(support=Batch(x=x[support], y=y[support]), query=Batch(x=x[query], y=y[query]))

    return sample


def _image_shape(dataset: Dataset) -> tuple[int, int, int]:
    """Height, width and channels of the images of a data set."""
    if not hasattr(dataset.x, "ndim") or dataset.x.ndim != 4:
        got = jax.tree.map(jnp.shape, dataset.x)
        raise ValueError(f"Completion needs images [examples, height, width, channels], got {got}.")
    return dataset.x.shape[1:]


def _places(height: int, width: int) -> Array:
    """Row and column of each pixel, from -1 to 1, float32[height * width, 2]."""
    rows = jnp.linspace(-1, 1, height, dtype=jnp.float32)
    columns = jnp.linspace(-1, 1, width, dtype=jnp.float32)
    grid = jnp.stack(jnp.meshgrid(rows, columns, indexing="ij"), axis=-1)
    return grid.reshape(height * width, 2)
