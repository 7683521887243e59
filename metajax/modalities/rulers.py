"""Compares modalities, and ways to weigh them, by their accuracy in many tasks."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import not_classes
from metajax._programs import jit_with
from metajax._tree import keep_rows, row_weights
from metajax.modalities.encoding import Encode
from metajax.modalities.measurement import (
    count_shots,
    encode_tasks,
    first_shots,
    grid_accuracies,
    learned_weights,
    simplex_grid,
)
from metajax.modalities.ruler_results import ROWS, Ruler, make_ruler
from metajax.types import Array, Modalities, Params, Size, Task

LEAK = 0.15
"""A warning is given where validation tasks are easier than test tasks by more than this."""


@checked
def ruler(
    encode: Encode,
    params: Params,
    validation: Task,
    test: Task,
    key: Array,
    *,
    ways: Size,
    shots: Sequence[int] = (1, 5),
    grid: Size = 10,
    steps: Size = 400,
    tasks_at_once: Size = 16,
) -> dict[int, Ruler]:
    """Compares ways to weigh modalities, on features that are already trained.

    Use it to see whether a distribution of tasks gains from several modalities, and from learned
    weights. A task is classified by nearest class means in each modality and a weighted sum of
    their scores (`modal_prototypes`, `late_head`). The rows of the result are

    - each modality alone;
    - "equal": the plain sum of scores, so bring them to one scale in `encode`;
    - "static": the point of a grid over the simplex that is best on the validation tasks;
    - "learned": `support_weights`, trained on the validation tasks, on features whose scale
      calibrates the sum of scores there, so that the scale of the features does not matter;
    - "chosen": the best single modality or the learned weights, whichever is better on the
      validation tasks. It is what to use;
    - "oracle": for each test task the point of the grid that classifies its query set best. It has
      seen the query labels, so it is an upper bound for weights from this grid.

    Equal weights are a point of the grid. An encoder that normalises by batch takes its statistics
    from the shots that count, and from the query set: it is transductive.

    It trains and chooses, and compiles its own parts: do not call it under `jax.jit`.

    Args:
        encode: (params, x, key, reference=...) -> {name: [examples, d]}.
        params: of `encode`.
        validation: tasks along the leading axis, of classes that the features were not trained on.
        test: tasks along the leading axis, of yet other classes.
        key: for the training of the learned weights.
        ways: number of classes in a task.
        shots: numbers of support examples of each class to measure with. The tasks must have at
            least as many. `Ruler.curve` has these, and the powers of two up to the shots of the
            test tasks.
        grid: number of steps on each edge of the simplex.
        steps: outer steps of Adam, 32 tasks each, for the learned weights.
        tasks_at_once: tasks in one vmap of the encoders.

    Returns:
        {shots: Ruler}.

    Raises:
        ValueError: tasks that have fewer than two modalities, different modalities, a modality with
            the name of a row, features that are not finite, labels that are no class, or fewer
            shots of a class than asked for; ways, grid or steps below 1.
    """
    names = _check_names(validation, test)
    most_shots = _check_shots(validation, test, ways, shots)
    compiled = _programs(tuple(names), ways, grid, steps)
    encode_all = jit_with(_encode_shots, encode, static_argnums=(3, 4))

    def features(tasks: Task, number: int) -> Task:
        return encode_all(params, tasks, number, ways, tasks_at_once)

    powers = [2**power for power in range(most_shots.bit_length())]
    numbers = sorted({*shots, *powers, most_shots})
    test_features = {number: features(test, number) for number in numbers}
    _check_finite("test", test_features[most_shots])
    _check_finite("validation", features(validation, most_shots))
    test_grids = {number: compiled.grid(tasks) for number, tasks in test_features.items()}

    points_GxM = simplex_grid(len(names), grid)
    measured = {}
    for number, learn_key in zip(shots, jax.random.split(key, len(shots)), strict=True):
        validation_features = features(validation, number)
        validation_G = compiled.grid(validation_features).mean(axis=0)
        learned = compiled.learn(validation_features, test_features[number], learn_key)
        _warn_of_leak(number, validation_G, test_grids[number].mean(axis=0))
        measured[number] = make_ruler(names, points_GxM, validation_G, test_grids, learned, number)
    return measured


def _encode_shots(
    encode: Encode, params: Params, tasks: Task, number: int, ways: int, tasks_at_once: int
) -> Task:
    """Tasks of features, whose support has this number of shots of each class."""
    fewer = jax.vmap(lambda task: first_shots(task, number, ways))(tasks)
    return encode_tasks(encode, params, fewer, tasks_at_once=tasks_at_once)


class _Programs(NamedTuple):
    """What `ruler` compiles for features.

    Attributes:
        grid: tasks of features -> [tasks, G], the accuracy of each point of the grid.
        learn: (validation tasks, test tasks, key) -> (accuracy [validation tasks], accuracy [test
            tasks], weights [test tasks, M]) of the learned weights.
    """

    grid: Callable[[Task], Array]
    learn: Callable[[Task, Task, Array], tuple[Array, Array, Array]]


@functools.lru_cache(maxsize=8)
def _programs(names: tuple[str, ...], ways: int, grid: int, steps: int) -> _Programs:
    """Compiles for `ruler`. A second call for modalities of the same names compiles nothing."""
    points_GxM = jnp.asarray(simplex_grid(len(names), grid))
    return _Programs(
        grid=jax.jit(functools.partial(grid_accuracies, names, ways, points_GxM)),
        learn=jax.jit(functools.partial(learned_weights, names, ways, steps)),
    )


def _warn_of_leak(shots: int, validation_G: Array, test_G: Array) -> None:
    """Warns where validation tasks are much easier than test tasks."""
    validation, test = float(validation_G.max()), float(test_G.max())
    if validation - test > LEAK:
        warnings.warn(
            f"With {shots} shots, the best weights of the grid have an accuracy of "
            f"{validation:.2f} on the validation tasks and {test:.2f} on the test tasks. If rows "
            "or classes of the validation tasks were used to train the encoder, what is chosen "
            "and learned on them is not what is best for new tasks; draw them from classes of "
            "their own.",
            stacklevel=4,
        )


def _check_finite(part: str, tasks: Task) -> None:
    """Checks the features of all modalities where they are present: with NaN, none is the largest.

    Args:
        part: of the tasks, for the message.
        tasks: tasks of features, along the leading axis.
    """
    for batch in (tasks.support, tasks.query):
        counts_TxN = jax.vmap(row_weights)(batch) > 0
        for name, features_TxNxD in batch.x.value.items():
            given_TxN = batch.x.present[name] & counts_TxN
            is_bad = ~jnp.isfinite(keep_rows(given_TxN, features_TxNxD)).all(axis=(1, 2))
            if is_bad.any():
                raise ValueError(
                    f"The features of {name!r} are not finite in {int(is_bad.sum())} {part} tasks, "
                    f"the first of which is {int(is_bad.argmax())}; mend the encoder or the data, "
                    "or mark the modality as absent there."
                )


def _check_names(validation: Task, test: Task) -> list[str]:
    """The names of the modalities, after a check that all tasks have the same ones."""
    for tasks in (validation, test):
        x = tasks.support.x
        if not isinstance(x, Modalities) or len(x.value) < 2:
            raise ValueError(
                "The ruler compares modalities: x of the tasks must be a Modalities of two or more."
            )
    names, others = sorted(test.support.x.value), sorted(validation.support.x.value)
    if names != others or set(names) & set(ROWS):
        raise ValueError(
            f"Validation and test tasks need the same modalities, none called {ROWS}; got {names} "
            f"in the test and {others} in the validation tasks."
        )
    return names


def _check_shots(validation: Task, test: Task, ways: int, shots: Sequence[int]) -> int:
    """The number of shots of the test tasks, after a check that all tasks have enough."""
    for tasks in (validation, test):
        for batch in (tasks.support, tasks.query):
            weight = jnp.ones(batch.y.shape) if batch.weight is None else batch.weight
            not_classes(batch.y.reshape(-1), ways, weight.reshape(-1))
    number, other = count_shots(test, ways), count_shots(validation, ways)
    if not shots or not 1 <= min(shots) <= max(shots) <= min(number, other):
        raise ValueError(
            f"{shots=} must be 1 to the {other} and {number} shots of validation and test tasks."
        )
    return number
