"""CAVIA and MAML on sinusoids, in the protocol of CAVIA's paper: 10 shots, one inner step.

50 000 outer steps of 25 tasks, a net with two hidden layers of 40 units, 5 context numbers, and the
squared error after one inner step on 1 000 other tasks. MAML is trained with two inner step sizes.
The control does not adapt. All seeds of a method are one compiled run. Writes
benchmarks/results/cavia.json.

python benchmarks/cavia.py
python benchmarks/cavia.py --tiny --out /tmp/results    # only to see that it runs
"""

import argparse
import functools
import pathlib
import time

import harness
import jax
import numpy as np
import optax
from flax import nnx

import metajax as mj
from metajax import algorithms

SHOTS, TASKS, CONTEXT, HIDDEN = 10, 25, 5, (40, 40)
PUBLISHED = {"MAML": 0.33, "CAVIA": 0.19}  # Zintgraf et al. 2019, table 1

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--steps", type=int, default=50_000)
parser.add_argument("--tests", type=int, default=1_000)
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


def maml(inner_rate, key, inner_steps=1):
    """MAML, with a net of one input."""
    net = mj.nets.MLP(1, HIDDEN, 1, rngs=nnx.Rngs(key))
    return algorithms.maml(
        net, loss=mj.losses.squared_error, inner_rate=inner_rate, inner_steps=inner_steps
    )


METHODS = {
    "no adaptation": lambda key: maml(0.01, key, inner_steps=0),
    "MAML, inner step size 0.01": functools.partial(maml, 0.01),
    "MAML, inner step size 0.1": functools.partial(maml, 0.1),
    "CAVIA": lambda key: algorithms.cavia(
        mj.nets.MLP(1 + CONTEXT, HIDDEN, 1, rngs=nnx.Rngs(key)), context=CONTEXT
    ),
}
"""{name: key -> Learner}."""


def learn(make, steps, key):
    """A whole run: from fresh weights to the params that were learned."""
    net_key, run_key = jax.random.split(key)
    learner = make(net_key)
    schedule = optax.exponential_decay(1e-3, 5_000, 0.9, staircase=True)
    outer = mj.outer_loop(learner.task_loss, optax.adam(schedule))
    sample = mj.data.meta_batch(mj.data.sinusoids(SHOTS, queries=SHOTS), TASKS)
    state, _ = mj.training.scan(outer, outer.init(learner.params), sample, (), run_key, steps=steps)
    return state.params


def main(options):
    if options.tiny:
        options.steps, options.tests, options.seeds = 2, 4, 2
    draw = mj.data.meta_batch(mj.data.sinusoids(SHOTS, queries=100), options.tests)
    tests = jax.jit(draw)((), jax.random.key(1))
    keys = jax.random.split(jax.random.key(0), options.seeds)
    rows = []
    for name, make in METHODS.items():
        started = time.perf_counter()
        params = jax.jit(jax.vmap(functools.partial(learn, make, options.steps)))(keys)
        task_loss = make(jax.random.key(0)).task_loss
        error = lambda params, task_loss=task_loss: (
            mj.evaluate(task_loss, params, tests, jax.random.key(2))["loss"].mean
        )
        errors = np.asarray(jax.jit(jax.vmap(error))(params))
        row = {
            "method": name,
            "seeds": errors.tolist(),
            "published": PUBLISHED.get(name.split(",")[0]),
            "seconds": time.perf_counter() - started,
        }
        rows.append(row)
        print(row, flush=True)
    report = harness.brief_header() | {"steps": options.steps, "tests": options.tests, "rows": rows}
    harness.save(options.out, "cavia", report)


if __name__ == "__main__":
    main(parser.parse_args())
