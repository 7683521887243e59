"""Many runs as one: seeds and hyperparameters side by side, the hopeless ones stopped early."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from metajax._checked import checked
from metajax._checks import check_rows
from metajax._programs import jit_with
from metajax.outer.outer_loops import OuterLoop
from metajax.training.records import NOTHING_KEPT
from metajax.training.steps import scan
from metajax.types import Array, Count, PyTree, Sample, Size

RUNS = "runs"
"""The axis of a mesh that the runs of a sweep are divided over."""

MakeRun: TypeAlias = Callable[[Any], tuple[OuterLoop, Any, Array]]
"""(settings of one run) -> (what is learned and how, the state where it starts, its key)."""

ScoreParams: TypeAlias = Callable[[Any, Array], Array]
"""(params, key) -> how good they are; more is better."""


class Sweep(NamedTuple):
    """What the runs of a sweep came to.

    Attributes:
        order: int32[left], the runs that were trained to the end, the best first.
        state: their last states in this order, leaves [left, ...].
        scores: float[runs], the last score of every run; more is better, and -inf is a score that
            was not finite. Runs that were stopped at different steps cannot be compared by it.
        steps: int32[runs], the outer steps that every run took.
        loss: float[runs, steps], the loss of every outer step; NaN where a run was stopped before.
    """

    order: np.ndarray
    state: Any
    scores: np.ndarray
    steps: np.ndarray
    loss: np.ndarray


@checked
def grid(**values: Sequence[Any]) -> dict[str, Array]:
    """All combinations of some values as settings for `sweep`. The last name changes fastest.

    Args:
        values: numbers for each name.

    Raises:
        ValueError: no name, or one without a value.

    >>> {name: leaf.tolist() for name, leaf in grid(seed=range(2), rate=[0.5, 0.25]).items()}
    {'seed': [0, 0, 1, 1], 'rate': [0.5, 0.25, 0.5, 0.25]}
    """
    if not values or not all(len(one) for one in values.values()):
        raise ValueError(f"grid() needs a value for every name, got {values}.")
    rows = zip(*itertools.product(*values.values()), strict=True)
    return {name: jnp.asarray(row) for name, row in zip(values, rows, strict=True)}


@checked
def sweep(
    make: MakeRun,
    settings: PyTree,
    sample: Sample[PyTree],
    dataset: PyTree,
    *,
    steps: Size,
    halve_at: Sequence[Count] = (),
    score: ScoreParams | None = None,
    key: Array | None = None,
    mesh: Mesh | None = None,
) -> Sweep:
    """Trains one run for each of the settings, all of them side by side in one program.

    Each run takes the steps of `scan`, by itself. With `halve_at`, the worse half of the runs is
    stopped after each of these steps, so that the better ones take most of the time (successive
    halving). Each half has a program of its own to compile. All runs are in memory at once, and
    nothing is written: for a run that takes hours, use `fit`.

    Args:
        make: the settings of one run -> (outer, state, key), as for `scan`. It is traced, so that a
            setting may be a step size or `jax.random.key(setting["seed"])`, but not the number of
            layers.
        settings: leaves [runs, ...], such as those of `grid`.
        sample: as in `scan`.
        dataset: what `sample` draws from; () if it needs nothing.
        steps: outer steps of a run that is not stopped.
        halve_at: ascending numbers of steps, all less than `steps`.
        score: (params, key) -> scalar, more is better, such as the accuracy on validation tasks.
            None is minus the mean loss since the halving before, over the steps in which a task was
            kept. NaN is the worst.
        key: for `score`, the same for all runs; None is `jax.random.key(0)`.
        mesh: of devices of this process. Its axis "runs" divides the runs over them, and they do
            not talk to each other.

    Raises:
        ValueError: settings whose leaves differ in length, `halve_at` that does not ascend from 1
            to less than `steps`, a mesh without the axis "runs" or with devices of other processes,
            or what `make` raises.
        FloatingPointError: no run that is left has a finite score.

    >>> import optax
    >>> from metajax.outer import outer_loop
    >>> from metajax.types import Params
    >>> task_loss = lambda params, target, key: ((params.slow - target) ** 2, {})
    >>> def make(setting):
    ...     outer = outer_loop(task_loss, optax.sgd(setting["rate"]))
    ...     return outer, outer.init(Params({}, jnp.zeros(()))), jax.random.key(setting["seed"])
    >>> sample = lambda targets, key: targets
    >>> settings = grid(seed=range(2), rate=[0.01, 0.25])
    >>> found = sweep(make, settings, sample, jnp.array([1.0, 3.0]), steps=30, halve_at=[10])
    >>> found.order.tolist(), found.steps.tolist(), found.state.params.slow.round(3).tolist()
    ([1, 3], [10, 30, 10, 30], [2.0, 2.0])

    Source: successive halving, Jamieson and Talwalkar 2016, arXiv 1502.07943.
    """
    runs = check_rows(settings, "settings")
    stops = [*halve_at, steps]
    if stops != sorted(set(stops)) or stops[0] < 1:
        raise ValueError(f"halve_at={list(halve_at)} must ascend from 1 to less than {steps=}.")
    if mesh is not None and RUNS not in mesh.shape:
        raise ValueError(
            f"The mesh has the axes {mesh.axis_names}, and none of them is {RUNS!r}, over which "
            f"runs are divided: jax.make_mesh(({mesh.size},), ({RUNS!r},))."
        )
    if mesh is not None:
        if any(device.process_index != jax.process_index() for device in mesh.devices.flat):
            raise ValueError(
                "The mesh has devices of other processes; make it of jax.local_devices(), and give "
                "each process a part of the settings."
            )
        mesh = Mesh(mesh.devices, mesh.axis_names)  # without explicit axes
    key = jax.random.key(0) if key is None else key
    result = Sweep(
        order=np.arange(runs, dtype=np.int32),
        state=None,
        scores=np.full(runs, -np.inf),
        steps=np.zeros(runs, np.int32),
        loss=np.full((runs, steps), np.nan),
    )
    for before, stop in itertools.pairwise([0, *stops]):
        left = result.order
        states, losses = _train(make, settings, result, sample, dataset, stop - before, mesh)
        result.steps[left] = stop
        result.loss[left, before:stop] = losses
        if score is None:
            found = -_mean_of_finite(np.asarray(losses, np.float64))
        else:
            found = np.asarray(jit_with(_score, score)(states.params, key), np.float64)
        found = np.where(np.isfinite(found), found, -np.inf)
        if not np.isfinite(found).any():
            raise FloatingPointError(f"No run has a finite score at step {stop}. {NOTHING_KEPT}")
        result.scores[left] = found
        best_first = np.argsort(-result.scores[left], kind="stable")
        places = best_first if stop == steps else np.sort(best_first[: -(-len(left) // 2)])
        result = result._replace(order=left[places], state=_rows(states, places))
    return result


def _train(
    make: MakeRun,
    settings: PyTree,
    so_far: Sweep,
    sample: Sample[PyTree],
    dataset: PyTree,
    number: int,
    mesh: Mesh | None,
) -> tuple[Any, Array]:
    """The states of the runs that are left after this number of steps, and losses [left, number].

    Where there are fewer runs than a multiple of the devices, the last one is repeated.
    """
    left = len(so_far.order)
    devices = 1 if mesh is None else mesh.shape[RUNS]
    places = np.minimum(np.arange(-(-left // devices) * devices), left - 1)
    settings = _rows(settings, so_far.order[places])
    states = None if so_far.state is None else _rows(so_far.state, places)
    take = jit_with(_take_side_by_side, make, sample, static_argnums=(3, 4))
    return _rows(take(settings, states, dataset, number, mesh), np.arange(left))


def _take_side_by_side(
    make: MakeRun,
    sample: Sample[PyTree],
    settings: PyTree,
    states: Any,
    dataset: PyTree,
    number: int,
    mesh: Mesh | None,
) -> tuple[Any, Array]:
    """Takes this number of steps of all runs, which start anew where states is None."""

    def run(setting: PyTree, state: Any, dataset: PyTree) -> tuple[Any, Array]:
        outer, start, key = make(setting)
        state, info = scan(
            outer, start if state is None else state, sample, dataset, key, steps=number
        )
        return state, info.loss

    runs = jax.vmap(run, (0, 0, None))
    if mesh is not None:
        specs = (P(RUNS), P(RUNS), P())
        runs = jax.shard_map(runs, mesh=mesh, in_specs=specs, out_specs=P(RUNS), check_vma=False)
    return runs(settings, states, dataset)


def _score(score: ScoreParams, params: PyTree, key: Array) -> Array:
    """The score of the params of every run, leaves [runs, ...]."""
    return jax.vmap(score, (0, None))(params, key)


def _mean_of_finite(losses: np.ndarray) -> np.ndarray:
    """The mean of the losses [runs, steps] of each run that are finite; NaN where none is."""
    finite = np.isfinite(losses)
    number = np.maximum(finite.sum(axis=1), 1)
    mean = np.where(finite, losses, 0).sum(axis=1) / number
    return np.where(finite.any(axis=1), mean, np.nan)


def _rows(tree: PyTree, places: np.ndarray) -> PyTree:
    """The tree with these rows of every leaf."""
    return jax.tree.map(lambda leaf: leaf[places], tree)
