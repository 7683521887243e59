"""The exact meta-gradient of a training of any length, in little memory, which may be killed."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checked import checked
from metajax._checks import check_loss_value
from metajax._learnable import check_weights
from metajax.data.whole_files import open_whole
from metajax.differentiate.strategies import Inner, descend
from metajax.outer.task_losses import check_alike
from metajax.training.checkpoints import locked
from metajax.training.leaves import leaf_type
from metajax.training.processes import digest_of
from metajax.training.saving import load, save
from metajax.types import Adaptation, Array, Batch, Loss, Metrics, Params, PyTree, Size, Task

State: TypeAlias = tuple[PyTree, PyTree]
"""(fast weights, state of the optimizer)."""


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
    training = _Training(adaptation, params, support, adapt_key, fuse)
    branches = _branches(training.segments, most_states)
    check_alike(Task(training.batch(0), query))

    def value(adapted: Params) -> tuple[Array, Metrics]:
        returned = loss(adapted, query, query_key)
        return check_loss_value(returned), returned[1]

    of_query = jax.jit(jax.value_and_grad(value, has_aux=True))
    with contextlib.ExitStack() as stack:
        files = _Files(None, {})
        if folder is not None:
            about = {
                "the params, the query set and the key": digest_of((params, query, key)),
                "the support set": training.digest(),
                "the training": training.program(),
                "the loss of the query set": _text(of_query.lower(params)),
                "the number of states": most_states,
                "the version of JAX": jax.__version__,
            }
            pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(pathlib.Path(folder)))
            files = _Files(pathlib.Path(folder), about)
        places = _places(0, training.segments, branches)
        states = _forward(training, places, files)
        adapted = params._replace(fast=states[-1][0])
        (result, metrics), slope = of_query(adapted)
        of_fast = jax.tree.leaves(slope.fast)
        of_optimizer = [jnp.zeros_like(leaf) for leaf in _floats(states[-1])[len(of_fast) :]]
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


class _Training:
    """A training in segments of some steps, each compiled once.

    Attributes:
        steps: number of steps.
        fuse: steps of a segment. The last one may have fewer.
        segments: number of segments.
    """

    def __init__(
        self,
        adaptation: Adaptation,
        params: Params,
        support: Batch | Callable[[int], Batch],
        key: Array,
        fuse: int,
    ):
        assert adaptation.inner is not None
        self._inner: Callable[..., Inner] = adaptation.inner
        self._params = params
        self._support = support
        self.fuse = fuse
        self.steps = self._inner(params, self.batch(0)).steps
        self.segments = math.ceil(self.steps / fuse)
        self._keys = jax.random.split(key, self.steps)
        self._run = jax.jit(self._take_steps)
        self._pull = jax.jit(self._differentiate)

    def batch(self, step: int) -> Batch:
        """The support set, or what is streamed for a step."""
        return self._support if isinstance(self._support, Batch) else self._support(step)

    def digest(self) -> str:
        """A digest of the support set, or of the first and the last batch of a stream."""
        return digest_of((self.batch(0), self.batch(max(0, self.steps - 1))))

    def program(self) -> str:
        """A digest of what a segment computes, the optimizer included, and the number of steps."""
        if not self.steps:
            return "0 steps"
        lowered = self._run.lower(self._params, self.start(), *self._data(0))
        return f"{self.steps} steps of {_text(lowered)}"

    def start(self) -> State:
        """The state before the first step."""
        return jax.jit(self._start)(self._params)

    def run(self, segment: int, state: State) -> State:
        """The state after a segment."""
        return self._run(self._params, state, *self._data(segment))

    def pull(self, segment: int, state: State, backward: PyTree) -> PyTree:
        """(derivatives by the state before a segment, and by the params) from those after it."""
        return self._pull(self._params, state, backward, *self._data(segment))

    def to_start(self, floats: list[Array], total: Params) -> Params:
        """The derivatives by the params, of which the first state is made."""
        start = lambda params: _floats(self._start(params))
        (more,) = jax.jit(lambda params: jax.vjp(start, params)[1](floats))(self._params)
        return jax.tree.map(jnp.add, total, more)

    def _data(self, segment: int) -> tuple[Array, Any]:
        """The keys of a segment and its batches, stacked, or the one batch of all steps."""
        steps = range(self.steps)[segment * self.fuse : (segment + 1) * self.fuse]
        keys = self._keys[steps.start : steps.stop]
        if isinstance(self._support, Batch):
            return keys, self._support
        batches = [self._support(step) for step in steps]
        kinds = {str(jax.tree.map(leaf_type, batch)) for batch in batches}
        if len(kinds) > 1:
            raise ValueError(
                f"Batches of steps {steps.start} to {steps.stop - 1} differ: {sorted(kinds)}. Give "
                "all the same shapes and dtypes; rows of weight 0 are padding."
            )
        return keys, jax.tree.map(lambda *leaves: np.stack(leaves), *batches)

    def _start(self, params: Params) -> State:
        inner = self._inner(params, self.batch(0))
        return inner.fast, inner.optimizer.init(inner.fast)

    def _take_steps(self, params: Params, state: State, keys: Array, data: Any) -> State:
        streamed = not isinstance(self._support, Batch)

        def step(state: State, drawn: tuple[Array, Any]) -> tuple[State, None]:
            key, batch = drawn
            inner = self._inner(params, batch if streamed else data)._replace(path=False)
            descent = descend(jax.grad(inner.loss), inner, key[None], start=state)
            return (descent.fast, descent.optimizer), None

        return jax.lax.scan(step, state, (keys, data if streamed else None))[0]

    def _differentiate(
        self, params: Params, state: State, backward: PyTree, keys: Array, data: Any
    ) -> PyTree:
        floats, total = backward

        def forward(params: Params, moved: list[Array]) -> list[Array]:
            return _floats(self._take_steps(params, _with_floats(state, moved), keys, data))

        _, pull = jax.vjp(forward, params, _floats(state))
        slopes, before = pull(floats)
        return before, jax.tree.map(jnp.add, total, slopes)


class _Files:
    """The folder of a run: what it is a run of, states, and derivatives. None keeps nothing.

    Raises:
        ValueError: the folder has another run.
        OSError: it cannot be written.
    """

    def __init__(self, folder: pathlib.Path | None, about: dict[str, Any]):
        self._folder = folder
        if folder is None:
            return
        path = folder / "about.json"
        if path.exists():
            try:
                found = json.loads(path.read_text())
                differs = [name for name in about if found.get(name) != about[name]]
            except (AttributeError, ValueError) as error:
                raise ValueError(f"{path} is damaged ({error}); delete {folder}.") from error
            if differs:
                raise ValueError(
                    f"{folder} has a run that differs from this one in {' and '.join(differs)}; "
                    "give another folder, or delete it."
                )
            return
        if any(folder.glob("*.npz")):
            raise ValueError(f"{folder} has files of a run, but no about.json; delete it.")
        with _room_for(folder), open_whole(path) as file:
            file.write(json.dumps(about, indent=1).encode())
            file.flush()
            os.fsync(file.fileno())

    def read(self, name: str, like: PyTree) -> PyTree | None:
        """What was written under a name, or None."""
        if self._folder is None or not (path := self._folder / f"{name}.npz").exists():
            return None
        try:
            return load(path, like)
        except ValueError as error:
            raise ValueError(f"{error}; delete it, and call again: it is computed anew.") from error

    def write(self, name: str, tree: PyTree) -> None:
        """Writes a tree of arrays, whole or not at all."""
        if self._folder is not None:
            with _room_for(self._folder):
                save(self._folder / f"{name}.npz", tree)


@contextlib.contextmanager
def _room_for(folder: pathlib.Path) -> Iterator[None]:
    """Says what to do where nothing can be written."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{folder} cannot be written ({error}). What was written before is there: make room, "
            "and call again."
        ) from error


def _forward(training: _Training, places: list[int], files: _Files) -> list[State]:
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
    training: _Training, low: int, high: int, state: State, backward: PyTree, branches: int
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


def _text(lowered: Any) -> str:
    """A digest of a program, without the addresses of functions."""
    text = re.sub("0x[0-9a-f]+", "", lowered.as_text())
    return hashlib.sha256(text.encode()).hexdigest()


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


def _floats(tree: PyTree) -> list[Array]:
    """The leaves that have derivatives."""
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]


def _with_floats(tree: PyTree, floats: list[Array]) -> PyTree:
    """The tree with other values of the leaves that have derivatives."""
    others = iter(floats)
    is_float = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.inexact)
    return jax.tree.map(lambda leaf: next(others) if is_float(leaf) else leaf, tree)
