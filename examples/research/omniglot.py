"""5-way 1-shot Omniglot: MAML and prototypical networks on characters never seen.

Reads `omniglot.npz` from the folder that METAJAX_DATA names. 1100 characters are for training, 100
for validation and 423 for the test, drawn at random (seed 0). Rotations by quarter turns are
classes of their own, as in the papers. MAML is transductive: the query set is normalised by its own
statistics. The test has 600 tasks with 15 queries of each class.

    METAJAX_DATA=... python examples/research/omniglot.py --method maml protonets
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

WAYS = 5
SHOTS = 1
QUERIES = 15  # of each class, in the test
TRAINING_QUERIES = 5
TEST_TASKS = 600
SIZES = {"train": 1100, "validation": 100, "test": 423}  # characters
WIDTH = 64  # channels of the net

# MAML
MAML_STEPS = 2150
MAML_TASKS = 16  # in an outer step
MAML_RATE = 6e-3
INNER_RATE = 1.0  # of its one inner step

# ProtoNets
PROTONETS_STEPS = 2500
PROTONETS_WAYS = 60  # in training
PROTONETS_RATE = 3e-3

parser = common.parser(__doc__, "omniglot.json")
parser.add_argument(
    "--method", nargs="+", default=["maml", "protonets"], choices=["maml", "protonets"]
)
parser.add_argument(
    "--steps",
    type=int,
    help="outer steps, a multiple of 10; by default those of the published result file",
)
options = common.parse(parser)
if options.tiny:
    options.steps = 10
    TEST_TASKS = 4
    WIDTH = 4
    MAML_TASKS = 2
    PROTONETS_WAYS = 6

key = jax.random.key(0)

# Data. Each character turned by 0, 90, 180 and 270 degrees makes four classes.
characters = mj.data.omniglot()
split = mj.data.draw_split(characters.names, SIZES, seed=0)
parts = {
    part: mj.data.rotated(mj.data.select_part(characters, split, part)) for part in split.parts
}


def draw(part, seed):
    """Tasks of one part, stacked along a leading axis."""
    sample = mj.data.meta_batch(mj.data.episodes(WAYS, SHOTS, QUERIES), TEST_TASKS)
    return jax.jit(sample)(parts[part], jax.random.key(seed))


validation = draw("validation", 1)
test = draw("test", 2)


def make_net():
    return mj.nets.Conv4(WAYS, width=WIDTH, rngs=nnx.Rngs(0))


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


def maml():
    """One step of descent, from a start that the outer loop learns."""
    steps = options.steps or MAML_STEPS
    learner = mj.algorithms.maml(make_net(), inner_rate=INNER_RATE, inner_steps=1)
    optimizer = optax.adam(optax.cosine_decay_schedule(MAML_RATE, steps))
    outer = mj.outer_loop(learner.task_loss, optimizer, tasks_at_once=2)
    sample = mj.data.meta_batch(mj.data.episodes(WAYS, SHOTS, TRAINING_QUERIES), MAML_TASKS)
    return Method(learner, outer, sample, steps)


def protonets():
    """The nearest class mean, in a space of features that is learned on tasks of more ways."""
    steps = options.steps or PROTONETS_STEPS
    learner = mj.algorithms.protonets(make_net(), WAYS)
    training = mj.algorithms.protonets(make_net(), PROTONETS_WAYS)
    optimizer = optax.adam(optax.cosine_decay_schedule(PROTONETS_RATE, steps))
    outer = mj.outer_loop(training.task_loss, optimizer)
    sample = mj.data.meta_batch(mj.data.episodes(PROTONETS_WAYS, SHOTS, TRAINING_QUERIES), 1)
    return Method(learner, outer, sample, steps)


METHODS = {"maml": maml, "protonets": protonets}


def run(method):
    """The row of the report, after training, validation and test."""
    learner, outer, sample, steps = METHODS[method]()
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
        "validation": [[record["step"], 100 * record["evaluate/accuracy"]] for record in records],
    }


rows = []
for method in options.method:
    print(method)
    row = run(method)
    rows.append(row)
    accuracy = common.cell([row["accuracy"], row["interval"]], digits=2)
    print(f"{method}: {accuracy} % on {TEST_TASKS} test tasks, {row['seconds']:.0f} s")
report = {
    **common.header(),
    "split": split.name,
    "digest": split.digest,
    "test_tasks": TEST_TASKS,
    "rows": rows,
}
common.write_report(options.out / "omniglot.json", report)
