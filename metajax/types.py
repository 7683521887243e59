"""The types that all packages share: batches, tasks, parameters, and the functions over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, Protocol, TypeAlias, TypeVar

import jax

Array: TypeAlias = jax.Array
PyTree: TypeAlias = Annotated[Any, "arrays"]
Scalar: TypeAlias = Annotated[float | Array, "one number"]
Count: TypeAlias = Annotated[int, "0 or more"]
Size: TypeAlias = Annotated[int, "1 or more"]
Metrics: TypeAlias = dict[str, Array]


class Modalities(NamedTuple):
    """Several modalities of the same examples. Any of them may be missing in any example.

    `metajax.data.as_modalities` makes one and checks it.

    Attributes:
        value: {name: pytree of arrays [examples, ...]}. Values of absent modalities are ignored.
        present: {name: bool[examples]}, whether the example has this modality.
    """

    value: dict[str, PyTree]
    present: dict[str, Array]


class Series(NamedTuple):
    """Sequences of different lengths, padded to the longest.

    Where all sequences have the same length, use the array alone.

    Attributes:
        value: [examples, time, channels]. Values at and after `length` are ignored.
        length: int[examples], number of valid time steps.
    """

    value: Array
    length: Array


class Gaussian(NamedTuple):
    """Predictions with their uncertainty: independent normal distributions.

    Attributes:
        mean: [examples, ...].
        variance: of the shape of the mean, with the noise of an observation.
    """

    mean: Array
    variance: Array


class Batch(NamedTuple):
    """Labelled examples. The leading axis of every leaf counts the examples.

    Attributes:
        x: pytree of arrays [examples, ...], or a `Modalities`.
        y: pytree of arrays [examples, ...]. For classification int[examples], from 0 to ways - 1.
        weight: [examples], the weight of each example in the loss. None gives every example the
            weight 1. A padded row has weight 0. Its x and y must be finite all the same, such as
            zeros, because 0 times NaN is NaN.
        reference: bool[examples], the rows that normalisation statistics are computed from. None
            means the rows of positive weight.
        info: side information about each class, leading axis = ways. Only support sets have it.
    """

    x: PyTree
    y: PyTree
    weight: Array | None = None
    reference: Array | None = None
    info: PyTree = ()


class Task(NamedTuple):
    """A support set to adapt to, and a query set to evaluate the adapted model on.

    Attributes:
        support: the examples that the fast weights are adapted to.
        query: the examples that the adapted model is evaluated on.
        context: anything else that belongs to the task and is not learned, such as its mode.
    """

    support: Batch
    query: Batch
    context: PyTree = ()


class Params(NamedTuple):
    """What the outer loop learns.

    Attributes:
        fast: weights that an adaptation rewrites for every task. Their value is where adaptation
            starts.
        slow: weights that all tasks share.
        rule: parameters of the adaptation itself, such as learned step sizes. `Adaptation.init`
            fills it.
    """

    fast: PyTree
    slow: PyTree
    rule: PyTree = ()


Loss: TypeAlias = Callable[[Params, Batch, Array], tuple[Array, Metrics]]
"""(params, batch, key) -> (scalar, metrics). This is all that the core knows about a model."""


class Apply(Protocol):
    """A network as a function of params; the adapters of `metajax.nets` make one from a net."""

    def __call__(
        self,
        params: Params,
        x: PyTree,
        key: Array | None = None,
        *,
        reference: Array | None = None,
    ) -> Any:
        """Outputs [examples, ...] for inputs [examples, ...].

        Args:
            params: fast and slow weights.
            x: inputs.
            key: random key for dropout and the like. None is deterministic.
            reference: bool[examples], the rows that normalisation statistics are computed from.
                None means all rows.
        """


class TaskLoss(Protocol):
    """What the outer loop descends and `evaluate` reports, as a function of one task.

    A task loss may also take a keyword `step=None`. `outer_loop` then gives it the number of the
    outer step. `evaluate` leaves it at None, which stands for the end of training.
    """

    def __call__(self, params: Params, task: Any, key: Array, /) -> tuple[Array, Metrics]:
        """(scalar loss of the task, metrics)."""


Drawn = TypeVar("Drawn")
Sample: TypeAlias = Callable[[Any, Array], Drawn]
"""(source, key) -> what is drawn from the source: a task from a data set, rows from a batch.

The source is an argument, so that compiled code does not hold a copy of it.
"""


class Adaptation(NamedTuple):
    """A rule that rewrites fast weights, as a pair of pure functions.

    Some adaptations move the fast weights and keep their shapes (`inner_loop`). Others write the
    entries of `fast` that they declare (`prototypes`, `ridge`); such an entry may change its shape,
    and its old value gets no meta-gradient.

    Attributes:
        init: (params, key) -> the same params with `rule` filled in.
        adapt: (params, support, key) -> params with `fast` rewritten. `slow` and `rule` stay.
        path: whether `adapt` returns the fast weights after every step, leaves [steps, ...],
            instead of the last ones, as `query_loss(step_weights=...)` needs.
        inner: (params, support) -> the `metajax.differentiate.Inner` problem that `adapt` solves;
            None where it solves none. `check_meta_gradient` uses it.
    """

    init: Callable[[Params, Array], Params]
    adapt: Callable[[Params, Batch, Array], Params]
    path: bool = False
    inner: Callable[[Params, Batch], Any] | None = None


class Learner(NamedTuple):
    """A meta-learner that is ready to train: what `metajax.algorithms` returns.

    Attributes:
        apply: the network as a function of params.
        params: where training starts, with `rule` filled in.
        adaptation: how the fast weights are rewritten for a task.
        task_loss: what `outer_loop` descends and `evaluate` reports.
    """

    apply: Apply
    params: Params
    adaptation: Adaptation
    task_loss: TaskLoss

    def __repr__(self) -> str:
        """One line: what made its functions, and how many numbers there are in params."""
        if not isinstance(self.adaptation, Adaptation) or not isinstance(self.params, Params):
            return f"Learner{tuple.__repr__(self)}"  # a tree of something else
        made = f"adaptation: {_maker(self.adaptation.adapt)}; task loss: {_maker(self.task_loss)}"
        sizes = [f"{_count_numbers(part):,} {name}" for name, part in self.params._asdict().items()]
        return f"Learner({made}; numbers in params: {', '.join(sizes)})"


def _maker(function: Any) -> str:
    """The name of the function that a function was defined in, or its own."""
    return getattr(function, "__qualname__", type(function).__name__).partition(".")[0]


def _count_numbers(tree: PyTree) -> int:
    """How many numbers the arrays of a pytree have; what is no array counts as one."""
    return sum(getattr(leaf, "size", 1) for leaf in jax.tree.leaves(tree))
