"""5-way 1-shot Omniglot: MAML and prototypical networks on characters never seen.

Reads `omniglot.npz` from the folder that METAJAX_DATA names. 1100 characters are for training, 100
for validation and 423 for the test, drawn at random (seed 0). Rotations by quarter turns are
classes of their own, as in the papers. MAML is transductive: the query set is normalised by its own
statistics. The test has 600 tasks with 15 queries of each class.

    METAJAX_DATA=... python examples/research/omniglot.py
"""

import functools
import pathlib
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import optax
from flax import nnx

import metajax as mj

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # the folder of common.py
import common

SIZES = {"train": 1100, "validation": 100, "test": 423}  # characters


class Config(NamedTuple):
    """The settings of a run."""

    ways: int = 5
    shots: int = 1
    queries: int = 15  # of each class, in the test
    training_queries: int = 5
    test_tasks: int = 600
    width: int = 64  # channels of the net
    # MAML
    maml_steps: int = 2150
    maml_tasks: int = 16  # in an outer step
    maml_rate: float = 6e-3
    inner_rate: float = 1.0  # of its one inner step
    # ProtoNets
    protonets_steps: int = 2500
    protonets_ways: int = 60  # in training
    protonets_rate: float = 3e-3


TINY = Config(
    maml_steps=10, protonets_steps=10, test_tasks=4, width=4, maml_tasks=2, protonets_ways=6
)


class Method(NamedTuple):
    """What to train and what to test.

    Attributes:
        learner: what is tested, and where training starts.
        outer: the outer loop.
        sample: draws the tasks of a step.
        steps: outer steps.
    """

    learner: mj.Learner
    outer: mj.OuterLoop
    sample: Callable
    steps: int


def main(config, out):
    """Trains and tests both methods, and writes their rows."""
    key = jax.random.key(0)

    # Data. Each character turned by 0, 90, 180 and 270 degrees makes four classes.
    characters = mj.data.omniglot()
    split = mj.data.draw_split(characters.names, SIZES, seed=0)
    parts = {
        part: mj.data.rotated(mj.data.select_part(characters, split, part)) for part in split.parts
    }

    def draw(part, seed):
        """Tasks of one part, stacked along a leading axis."""
        sample = mj.data.meta_batch(
            mj.data.episodes(config.ways, config.shots, config.queries), config.test_tasks
        )
        return jax.jit(sample)(parts[part], jax.random.key(seed))

    validation = draw("validation", 1)
    test = draw("test", 2)

    def make_net():
        return mj.nets.Conv4(config.ways, width=config.width, rngs=nnx.Rngs(0))

    def maml():
        """One step of descent, from a start that the outer loop learns."""
        learner = mj.algorithms.maml(make_net(), inner_rate=config.inner_rate, inner_steps=1)
        optimizer = optax.adam(optax.cosine_decay_schedule(config.maml_rate, config.maml_steps))
        outer = mj.outer_loop(learner.task_loss, optimizer, tasks_at_once=2)
        sample = mj.data.meta_batch(
            mj.data.episodes(config.ways, config.shots, config.training_queries), config.maml_tasks
        )
        return Method(learner, outer, sample, config.maml_steps)

    def protonets():
        """The nearest class mean, in a space of features that is learned on tasks of more ways."""
        learner = mj.algorithms.protonets(make_net(), config.ways)
        training = mj.algorithms.protonets(make_net(), config.protonets_ways)
        optimizer = optax.adam(
            optax.cosine_decay_schedule(config.protonets_rate, config.protonets_steps)
        )
        outer = mj.outer_loop(training.task_loss, optimizer)
        sample = mj.data.meta_batch(
            mj.data.episodes(config.protonets_ways, config.shots, config.training_queries), 1
        )
        return Method(learner, outer, sample, config.protonets_steps)

    methods = {"maml": maml, "protonets": protonets}

    def run(method):
        """The row of the report, after training, validation and test."""
        learner, outer, sample, steps = methods[method]()
        evaluate = jax.jit(functools.partial(mj.evaluate, learner.task_loss, tasks_at_once=4))
        started = time.perf_counter()
        state, records = mj.training.fit(
            outer,
            outer.init(learner.params),
            sample,
            parts["train"],
            key,
            steps=steps,
            fuse=10,
            every=steps,  # one record, at the end
            evaluate=lambda params, key: evaluate(params, validation, key),
        )
        accuracy = evaluate(state.params, test, key)["accuracy"]
        return {
            "method": method,
            "steps": int(state.step),
            "seconds": time.perf_counter() - started,
            "accuracy": 100 * accuracy.mean.item(),
            "interval": 100 * accuracy.interval.item(),
            "validation": [
                [record["step"], 100 * record["evaluate/accuracy"]] for record in records
            ],
        }

    rows = []
    for method in methods:
        print(method)
        row = run(method)
        rows.append(row)
        accuracy = common.cell([row["accuracy"], row["interval"]], digits=2)
        print(f"{method}: {accuracy} % on {config.test_tasks} test tasks, {row['seconds']:.0f} s")
    report = {
        **common.header(),
        "split": split.name,
        "digest": split.digest,
        "test_tasks": config.test_tasks,
        "rows": rows,
    }
    common.write_report(out / "omniglot.json", report)


if __name__ == "__main__":
    common.run(main, Config(), TINY, "maml_steps", "protonets_steps", description=__doc__)
