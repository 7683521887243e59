"""What every floor speaks of: batches, tasks, parameters and the functions over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax

Array: TypeAlias = jax.Array
PyTree: TypeAlias = Any
Metrics: TypeAlias = dict[str, Array]


class Modalities(NamedTuple):
    """Several views of the same examples, any of which may be missing.

    Attributes:
        value: {name: pytree of arrays [examples, ...]}.
        present: {name: bool[examples]}; what stands in `value` where it is False has no meaning.
    """

    value: dict[str, PyTree]
    present: dict[str, Array]


class Series(NamedTuple):
    """Sequences of different lengths, padded to one; where all have one length, the array alone will do.

    Attributes:
        value: [examples, time, channels].
        length: int[examples]; what stands in `value` from there on has no meaning.
    """

    value: Array
    length: Array


class Batch(NamedTuple):
    """Labelled examples, along the leading axis of every leaf.

    Attributes:
        x: pytree of arrays [examples, ...]; a `Modalities` where there are several.
        y: pytree of arrays [examples, ...]; for classification int[examples], from 0 to ways - 1.
        weight: [examples], what the loss counts; None counts every row once. A padded row has weight 0.
        reference: bool[examples], the rows that give normalisation statistics; None means those of positive weight.
        info: class-level side information, leading axis = ways; of a support set only.
    """

    x: PyTree
    y: PyTree
    weight: Array | None = None
    reference: Array | None = None
    info: PyTree = ()


class Task(NamedTuple):
    """A support set to adapt on and a query set to be judged on.

    Attributes:
        support: what the fast weights are rewritten from.
        query: what the adapted model is judged on.
        context: per task and not learned: the mode that it came from, this outer step's loss weights.
    """

    support: Batch
    query: Batch
    context: PyTree = ()


class Params(NamedTuple):
    """What the outer loop learns.

    Attributes:
        fast: rewritten for every task; its value is where adaptation starts.
        slow: shared by every task.
        rule: of the rewriting itself: step sizes, a regulariser, a learned optimizer. `Adaptation.init` fills it.
    """

    fast: PyTree
    slow: PyTree
    rule: PyTree = ()


Loss: TypeAlias = Callable[[Params, Batch, Array], tuple[Array, Metrics]]
"""(params, batch, key) -> (scalar, metrics): all that the core knows of a model."""

TaskLoss: TypeAlias = Callable[[Params, Any, Array], tuple[Array, Metrics]]
"""(params, task, key) -> (scalar, metrics): what the outer loop descends and `evaluate` reports."""
