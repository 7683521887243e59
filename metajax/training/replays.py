"""The exact meta-gradient of a training of any length, in little memory, which may be killed."""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checked import checked
from metajax._checks import check_loss_value
from metajax._learnable import check_weights
from metajax.outer.task_losses import check_alike
from metajax.training.checkpoints import locked
from metajax.training.processes import digest_of
from metajax.training.replay_files import ReplayFiles
from metajax.training.segments import SegmentedTraining, State, floats_of, program_digest
from metajax.types import Adaptation, Array, Batch, Loss, Metrics, Params, PyTree, Size, Task


class Replayed(NamedTuple):
    """A meta-gradient through a whole training.

    Attributes:
        loss: of the query set, after the last step.
        metrics: of the query set.
        gradient: derivatives of the loss, as `Params`. That of `fast` is by where it started.
        params: the params, with the fast weights after the last step.
    """

    loss: Array
    metrics: Metrics
    gradient: Params
    params: Params


@checked
def replay(
    adaptation: Adaptation,
    loss: Loss,
    params: Params,
    support: Any,
    query: Batch,
    key: Array,
    *,
    most_states: Size = 64,
    fuse: Size = 1,
    folder: str | os.PathLike[str] | None = None,
) -> Replayed:
    """The exact meta-gradient of a training that is too long for one compiled program.

    It is the derivative of `query_loss(adaptation, loss)` with `unroll()`, computed step by step.
    The training runs forward, and its state is kept at k places. Then the parts between two places
    are taken from the last to the first. Each is run again, with states at k places within it, and
    so on, until a part is one segment of `fuse` steps, which is differentiated in reverse mode.
    With n segments, about k log n / log k states are kept, and each step runs 1 + log n / log k
    times forward.

    With a folder, the states of the first pass and the derivatives after each part are files. Where
    the process is killed, forward or backward, the same call goes on from there. It ends with the
    same numbers, bit for bit where the device computes the same program twice with equal results,
    as a CPU does.

    Args:
        adaptation: an `inner_loop`, alone and without `path`. Its `differentiate` is not used.
        loss: (params, batch, key) -> (scalar, metrics), of the query set.
        params: start, slow weights and rule.
        support: a `Batch`; or for data that are streamed a function from the number of a step to
            its `Batch`, such as `lambda step: batches[step]` of a `grain.MapDataset`. It must
            return the same batch each time that it is asked for the same step, also in the next
            process; only the first and the last batch are compared.
        query: the query set.
        key: as for `query_loss`.
        most_states: states in memory at once, those of the first pass included. A state is the fast
            weights and that of the optimizer.
        fuse: steps in one compiled program, whose memory grows with them.
        folder: of the files; None keeps everything in memory.

    Raises:
        ValueError: an adaptation that is not a single `inner_loop`, or with `path`; support that is
            neither a batch nor a function, or whose batches differ in shape; too few states for so
            many steps; a training that diverges, or a derivative that is not finite; a folder that
            another process works in, of another run, or with a damaged file; a loss that does not
            return (scalar, metrics).
        OSError: the folder cannot be written. What was written before is there.

    >>> import optax
    >>> from metajax.inner import inner_loop
    >>> from metajax.losses import squared_error
    >>> loss = squared_error(lambda params, x, key, reference: params.fast * x)
    >>> batch = Batch(x=jnp.ones(1), y=jnp.full(1, 3.0))
    >>> adaptation = inner_loop(loss, optax.sgd(0.25), steps=2)
    >>> params = Params(jnp.array(1.0), ())
    >>> found = replay(adaptation, loss, params, batch, batch, jax.random.key(0))
    >>> found.params.fast.tolist(), found.gradient.fast.tolist()
    (2.5, -0.25)

    Source: Engstrom et al. 2025, arXiv 2503.13751.
    """
    check_weights(params)
    if adaptation.inner is None or adaptation.path:
        raise ValueError("replay() takes an inner_loop, alone and without path=True.")
    if not isinstance(support, Batch) and not callable(support):
        raise ValueError(f"support must be a Batch or a function of the step, got {support!r}.")
    adapt_key, query_key = jax.random.split(key)
    training = SegmentedTraining(adaptation, params, support, adapt_key, fuse)
    branches = _branches(training.segments, most_states)
    check_alike(Task(training.batch(0), query))

    def value(adapted: Params) -> tuple[Array, Metrics]:
        returned = loss(adapted, query, query_key)
        return check_loss_value(returned), returned[1]

    of_query = jax.jit(jax.value_and_grad(value, has_aux=True))
    with contextlib.ExitStack() as stack:
        files = ReplayFiles(None, {})
        if folder is not None:
            about = {
                "the params, the query set and the key": digest_of((params, query, key)),
                "the support set": training.digest(),
                "the training": training.program(),
                "the loss of the query set": program_digest(of_query.lower(params)),
                "the number of states": most_states,
                "the version of JAX": jax.__version__,
            }
            pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(pathlib.Path(folder)))
            files = ReplayFiles(pathlib.Path(folder), about)
        places = _places(0, training.segments, branches)
        states = _forward(training, places, files)
        adapted = params._replace(fast=states[-1][0])
        (result, metrics), slope = of_query(adapted)
        of_fast = jax.tree.leaves(slope.fast)
        of_optimizer = [jnp.zeros_like(leaf) for leaf in floats_of(states[-1])[len(of_fast) :]]
        total = slope._replace(fast=jax.tree.map(jnp.zeros_like, slope.fast))
        backward = ([*of_fast, *of_optimizer], total)
        for number in reversed(range(len(places) - 1)):
            low, high = places[number : number + 2]
            done = files.read(f"backward-{low}", backward)
            if done is None:
                done = _backward(training, low, high, states[number], backward, branches)
                _check_derivatives(done, low * fuse, high * fuse)
                files.write(f"backward-{low}", done)
            backward = done
        return Replayed(result, metrics, training.to_start(*backward), adapted)


def _forward(training: SegmentedTraining, places: list[int], files: ReplayFiles) -> list[State]:
    """The states at these places, those in files without running anything.

    Raises:
        ValueError: the training diverges.
    """
    state = training.start()
    states = []
    for low, place in itertools.pairwise([0, *places]):
        found = files.read(f"state-{place}", state)
        if found is None:
            for segment in range(low, place):
                state = training.run(segment, state)
            if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state[0])):
                raise ValueError(
                    f"The training diverges between steps {low * training.fuse} and "
                    f"{place * training.fuse}. Take a smaller step size, clip gradients, or look "
                    "at the examples of these steps."
                )
            files.write(f"state-{place}", state)
            found = state
        state = found
        states.append(state)
    return states


def _backward(
    training: SegmentedTraining, low: int, high: int, state: State, backward: PyTree, branches: int
) -> PyTree:
    """(derivatives by the state, and by the params) at a segment from those at a later one.

    Args:
        training: what is differentiated.
        low: the first segment.
        high: the segment after the last one.
        state: the state before the first segment.
        backward: the derivatives after the last segment.
        branches: parts that the segments are divided into.
    """
    if high - low == 1:
        return training.pull(low, state, backward)
    places = _places(low, high, branches)
    states = [state]
    for first, last in itertools.pairwise(places[:-1]):
        for segment in range(first, last):
            state = training.run(segment, state)
        states.append(state)
    for first, last in reversed(list(itertools.pairwise(places))):
        backward = _backward(training, first, last, states.pop(), backward, branches)
    return backward


def _check_derivatives(backward: PyTree, low: int, high: int) -> None:
    """Checks that the derivatives after a part of the training are finite.

    Raises:
        ValueError: they are not.
    """
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(backward)):
        raise ValueError(
            f"The derivative through steps {low} to {high} is not finite: give the optimizer a "
            "term under its square root (eps_root=1e-8), take a smaller step size, or compute in "
            "float64."
        )


def _places(low: int, high: int, branches: int) -> list[int]:
    """Where segments are divided into so many parts of about the same length, ends included."""
    return sorted({low + (high - low) * part // branches for part in range(branches + 1)})


def _branches(segments: int, most_states: int) -> int:
    """The largest number of parts at each level for which no more states are kept.

    Raises:
        ValueError: even halving keeps more.
    """
    for levels in itertools.count(1):
        branches = 2
        while branches**levels < segments:
            branches += 1
        kept = branches + 1 + (levels - 1) * (branches - 1)
        if kept <= most_states:
            return branches
        if branches == 2:
            raise ValueError(
                f"{most_states=} is too few for {segments} segments, which need {kept}; allow "
                "more, or give each segment more steps with fuse=."
            )
    raise AssertionError("The loop has no end.")
