"""Trains the weights of `nets.TableTransformer` that the package ships, on tables from a prior.

The net learns from tables of `data.structural_tables` alone: no real table is read. Each step draws
eight tables of one of a few shapes. After 200 steps the learning rate is 1e-3, and falls to 0 as a
cosine. The weights are written as bfloat16. One training per kind of target, each on one core:

taskset -c 0 python benchmarks/train_tables.py classes    # metajax/nets/weights/table_classes.npz
taskset -c 1 python benchmarks/train_tables.py numbers    # metajax/nets/weights/table_numbers.npz
python benchmarks/train_tables.py classes --steps 4 --out /tmp/results    # that it runs
"""

import argparse
import pathlib
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import metajax as mj
from metajax import algorithms

WEIGHTS = pathlib.Path(__file__).parents[1] / "metajax" / "nets" / "weights"
TABLES = 8  # of a step
LEARNING_RATE, WARMUP = 1e-3, 200
REPORT_EVERY = 100  # steps

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("target", choices=["classes", "numbers"])
parser.add_argument("--steps", type=int, default=None, help="4000 for classes, 5000 for numbers")
parser.add_argument("--out", type=pathlib.Path, default=WEIGHTS)


class Shape(NamedTuple):
    """Of the tables of a step: labelled rows, queries, most columns, most classes."""

    rows: int
    queries: int
    columns: int
    classes: int


SHAPES = [Shape(48, 64, 6, 4), Shape(128, 64, 10, 2), Shape(256, 64, 8, 2), Shape(96, 48, 20, 3)]


def main(args: argparse.Namespace) -> None:
    regresses = args.target == "numbers"
    steps = args.steps or (5_000 if regresses else 4_000)
    rate = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, min(WARMUP, steps // 2), steps)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.98, weight_decay=1e-4)
    )
    programs = [make_step(shape, regresses, optimizer) for shape in SHAPES]
    state, _ = programs[0]
    keys = jax.random.split(jax.random.key(1), steps)
    args.out.mkdir(parents=True, exist_ok=True)
    start, losses = time.perf_counter(), []
    for step, key in enumerate(keys):
        state, loss = programs[step % len(programs)][1](state, key)
        losses.append(loss)
        if (step + 1) % REPORT_EVERY == 0 or step + 1 == steps:
            mean = [np.mean(losses[first :: len(SHAPES)]) for first in range(len(SHAPES))]
            print(
                f"step {step + 1}, {time.perf_counter() - start:.0f} s, losses by shape:",
                np.round(mean, 3).tolist(),
                flush=True,
            )
            losses = []
            save(args.out / f"table_{args.target}.npz", state.params)


def make_step(shape: Shape, regresses: bool, optimizer):
    """The first state, and (state, key) -> (state, loss) on tables of one shape."""
    classes = None if regresses else shape.classes
    net = mj.nets.TableTransformer(classes, rngs=nnx.Rngs(0))
    loss = mj.losses.gaussian_log_loss if regresses else mj.losses.cross_entropy
    learner = algorithms.in_context(net, loss=loss)
    outer = mj.outer_loop(learner.task_loss, optimizer)
    table = mj.data.structural_tables(
        shape.rows, shape.queries, columns=shape.columns, classes=classes
    )
    draw = jax.jit(mj.data.meta_batch(table, tasks=TABLES))

    learn = jax.jit(outer.step, donate_argnums=0)

    def step(state, key):
        task_key, loss_key = jax.random.split(key)
        state, report = learn(state, draw((), task_key), loss_key)
        return state, report.loss

    return outer.init(learner.params), step


def save(path: pathlib.Path, params: mj.Params) -> None:
    """Writes the weights as bfloat16, whose bits NumPy keeps as uint16."""
    halves = {
        jax.tree_util.keystr(place, simple=True, separator="/"): np.asarray(leaf, jnp.bfloat16)
        for place, leaf in jax.tree_util.tree_leaves_with_path(mj.nets.join_params(params))
    }
    np.savez(path, **{name: half.view(np.uint16) for name, half in halves.items()})


if __name__ == "__main__":
    main(parser.parse_args())
