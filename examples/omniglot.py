"""5-way 1-shot Omniglot: MAML and prototypical networks on characters never seen.

Reads `omniglot.npz` from the folder that METAJAX_DATA names. 1100 characters to train, 100 to validate, 423 to test,
drawn at random (seed 0); rotations by quarter turns are classes of their own, as in the papers. MAML is transductive:
the query set is normalised by its own statistics. 600 test tasks with 15 queries a class.

    METAJAX_DATA=... python examples/omniglot.py --method maml protonets
"""

import argparse
import functools
import json
import pathlib
import time

import jax
import optax
from flax import nnx

import metajax as mj

WAYS, SHOTS, QUERIES, TEST_TASKS = 5, 1, 15, 600

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument(
    "--method", nargs="+", default=["maml", "protonets"], choices=["maml", "protonets"]
)
parser.add_argument(
    "--steps", type=int, help="outer steps, by default those of the published result file"
)
parser.add_argument(
    "--out", type=pathlib.Path, default=pathlib.Path(), help="folder of omniglot.json"
)
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)
key = jax.random.key(0)

characters = mj.data.omniglot()
split = mj.data.draw_split(
    characters.names, {"train": 1100, "validation": 100, "test": 423}, seed=0
)
train, validation, test = (mj.data.select_part(characters, split, part) for part in split.parts)
draw = jax.jit(
    mj.data.meta_batch(mj.data.episodes(WAYS, SHOTS, QUERIES, rotations=True), TEST_TASKS)
)
validation, test = draw(validation, jax.random.key(1)), draw(test, jax.random.key(2))


def maml():
    """One step of descent, which starts where the outer loop learned to start."""
    steps = options.steps or 2150
    apply, params = mj.nets.functional(mj.nets.Conv4(WAYS, rngs=nnx.Rngs(0)))
    loss = mj.losses.cross_entropy(apply)
    task_loss = mj.query_loss(mj.inner_loop(loss, optax.sgd(1.0), steps=1), loss)
    outer = mj.outer_loop(
        task_loss, optax.adam(optax.cosine_decay_schedule(6e-3, steps)), tasks_at_once=2
    )
    sample = mj.data.meta_batch(mj.data.episodes(WAYS, SHOTS, 5, rotations=True), tasks=16)
    return outer, params, sample, task_loss, steps


def protonets():
    """Nearest class mean in a space of features learned on tasks of 60 ways."""
    steps = options.steps or 2500
    apply, params = mj.nets.functional(
        mj.nets.Conv4(WAYS, rngs=nnx.Rngs(0)), fast=nnx.PathContains("head")
    )
    embed, loss = functools.partial(apply, method="embed"), mj.losses.cross_entropy(apply)
    task_loss = {ways: mj.query_loss(mj.prototypes(embed, ways), loss) for ways in (WAYS, 60)}
    outer = mj.outer_loop(task_loss[60], optax.adam(optax.cosine_decay_schedule(3e-3, steps)))
    sample = mj.data.meta_batch(mj.data.episodes(60, SHOTS, 5, rotations=True), tasks=1)
    return outer, params, sample, task_loss[WAYS], steps


rows = []
for method in options.method:
    outer, params, sample, task_loss, steps = {"maml": maml, "protonets": protonets}[method]()
    judge = jax.jit(functools.partial(mj.evaluate, task_loss, tasks_at_once=4))
    print(method)
    started = time.perf_counter()
    state, records = mj.training.fit(
        outer, outer.init(params), sample, train, key,
        steps=steps, fuse=10, every=steps, evaluate=lambda params, key: judge(params, validation, key),  # noqa: B023
    )  # fmt: skip
    accuracy = judge(state.params, test, key)["accuracy"]
    row = {
        "method": method,
        "steps": int(state.step),
        "seconds": time.perf_counter() - started,
        "accuracy": 100 * accuracy.mean.item(),
        "interval": 100 * accuracy.interval.item(),
        "validation": [[record["step"], 100 * record["evaluate/accuracy"]] for record in records],
    }
    rows.append(row)
    print(
        "{method}: {accuracy:.2f} ± {interval:.2f} % on {0} test tasks, {seconds:.0f} s".format(
            TEST_TASKS, **row
        )
    )
header = {
    "jax": jax.__version__,
    "device": jax.devices()[0].device_kind,
    "split": split.name,
    "digest": split.digest,
}
report = {**header, "test_tasks": TEST_TASKS, "rows": rows}
(options.out / "omniglot.json").write_text(json.dumps(report, indent=1) + "\n")
