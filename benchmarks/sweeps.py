"""Seeds times rates of MAML on sinusoids: `training.sweep` in one call, halved, and a loop.

The loop compiles one run as a function of its settings, and calls it for one after the other. Every
method runs in a process of its own, which has the machine to itself and reports its peak memory.
The runs are scored by the error on the same validation tasks. Writes
benchmarks/results/sweeps.json.

python benchmarks/sweeps.py
python benchmarks/sweeps.py --tiny --out /tmp/results    # to see that it runs
"""

import argparse
import multiprocessing
import pathlib
import resource
import time
from typing import NamedTuple

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import metajax as mj

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


class Sizes(NamedTuple):
    seeds: int = 16
    rates: tuple = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
    steps: int = 2000
    halve_at: tuple = (125, 250, 500, 1000)
    tasks: int = 8
    validation: int = 200
    width: int = 40


TINY = Sizes(seeds=2, rates=(1e-3, 1e-2), steps=8, halve_at=(2, 4), validation=4, width=4)


class Problem(NamedTuple):
    """What a sweep is given.

    Attributes:
        make: the settings of a run -> (outer, state, key).
        settings: leaves [runs].
        sample: draws the tasks of a step.
        score: (params, key) -> minus the error on validation tasks.
    """

    make: object
    settings: dict
    sample: object
    score: object


def make_problem(sizes):
    """MAML with one inner step."""
    waves = mj.data.sinusoids(shots=10, queries=10)
    sample = mj.data.meta_batch(waves, sizes.tasks)
    validation = mj.data.meta_batch(waves, sizes.validation)((), jax.random.key(1))

    def start(key):
        net = mj.nets.MLP(1, (sizes.width, sizes.width), 1, rngs=nnx.Rngs(key))
        return mj.nets.functional(net)

    apply, _ = start(jax.random.key(0))
    loss = mj.losses.squared_error(apply)
    task_loss = mj.query_loss(mj.inner_loop(loss, optax.sgd(0.01), steps=1), loss)

    def make(setting):
        key = jax.random.key(setting["seed"])
        outer = mj.outer_loop(task_loss, optax.adam(setting["rate"]), tasks_at_once=sizes.tasks)
        return outer, outer.init(start(key)[1]), key

    def score(params, key):
        return -mj.evaluate(task_loss, params, validation, key)["loss"].mean

    settings = mj.training.grid(seed=range(sizes.seeds), rate=sizes.rates)
    return Problem(make, settings, sample, score)


def in_one_call(problem, sizes, halve_at=()):
    """(scores of the runs, the best run, steps of all runs)."""
    found = mj.training.sweep(
        problem.make,
        problem.settings,
        problem.sample,
        (),
        steps=sizes.steps,
        halve_at=halve_at,
        score=problem.score,
    )
    return found.scores, int(found.order[0]), int(found.steps.sum())


def halved(problem, sizes):
    return in_one_call(problem, sizes, sizes.halve_at)


def in_a_loop(problem, sizes):
    """The same one by one, by a function that is compiled once."""

    @jax.jit
    def run(setting):
        outer, state, key = problem.make(setting)
        state, _ = mj.training.scan(outer, state, problem.sample, (), key, steps=sizes.steps)
        return problem.score(state.params, jax.random.key(0))

    scores = np.array(
        [
            run({"seed": seed, "rate": rate})
            for seed, rate in zip(*problem.settings.values(), strict=True)
        ]
    )
    return scores, int(np.nanargmax(scores)), len(scores) * sizes.steps


METHODS = {
    "`sweep`": in_one_call,
    "`sweep(halve_at=...)`": halved,
    "a loop over one compiled run": in_a_loop,
}


def measure(connection, method, sizes):
    """Runs a method, and sends a row."""
    problem = make_problem(sizes)
    jax.block_until_ready(problem.settings)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    scores, best, steps = METHODS[method](problem, sizes)
    took = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    connection.send(
        {
            "method": method,
            "seconds": took,
            "megabytes": (peak - before) / 1024,
            "steps": steps,
            "best": {
                name: jnp.asarray(leaf)[best].item() for name, leaf in problem.settings.items()
            },
            "best run": best,
            "error": -float(scores[best]),
            "errors": [None if not np.isfinite(one) else -float(one) for one in scores],
        }
    )


def in_process(method, sizes):
    """The row of a method, measured in a process of its own."""
    mine, other = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=measure, args=(other, method, sizes)
    )
    process.start()
    other.close()
    row = mine.recv()
    process.join()
    return row


def main(options):
    sizes = TINY if options.tiny else Sizes()
    rows = []
    for method in METHODS:
        row = in_process(method, sizes)
        print({name: value for name, value in row.items() if name != "errors"}, flush=True)
        rows.append(row)
    of_loop = rows[-1]["errors"]
    for row in rows:
        row["its error in the loop"] = of_loop[row["best run"]]
    harness.save(options.out, "sweeps", harness.header(seed=0, sizes=sizes._asdict(), rows=rows))


if __name__ == "__main__":
    main(parser.parse_args())
