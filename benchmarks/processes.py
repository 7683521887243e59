"""Neural processes on draws of a Gaussian process, beside the exact process that made them.

Each net is trained on fresh draws and tested on others: the mean log-likelihood of a query, the
squared error, and how many queries are in the predicted 90 % interval. No prediction can have a
higher expected log-likelihood than the exact process, which knows the kernel. The control knows the
mean and the variance of y only. Writes benchmarks/results/processes.json.

python benchmarks/processes.py
python benchmarks/processes.py --tiny --out /tmp/results    # to see that it runs
"""

import argparse
import pathlib
import time

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import metajax as mj
from metajax import algorithms, inner

LENGTH, SCALE, NOISE = 0.4, 1.0, 0.1  # of the process
QUERIES = 20
LEAST = 0.01  # lower bound of the predicted deviation, which is never below NOISE
INTERVAL = 1.6449  # deviations on either side of the mean that hold 90 % of a normal distribution

NETS = {
    "CNP": lambda rngs: mj.nets.ConditionalProcess(1, 1, least_deviation=LEAST, rngs=rngs),
    "ANP": lambda rngs: mj.nets.AttentiveProcess(1, 1, least_deviation=LEAST, rngs=rngs),
    "TNP-D": lambda rngs: mj.nets.TransformerProcess(1, 1, least_deviation=LEAST, rngs=rngs),
    "ConvCNP": lambda rngs: mj.nets.ConvolutionalProcess(
        1, low=-3, high=3, points=97, least_deviation=LEAST, rngs=rngs
    ),
}
"""{name: rngs -> the net}. The inputs are in [-2, 2]."""

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--steps", type=int, default=5_000)
parser.add_argument("--shots", type=int, nargs="+", default=[10])
parser.add_argument("--tests", type=int, default=1_000)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


def draws(shots, tasks):
    """A sampler of tasks with so many examples."""
    sample = mj.data.gaussian_processes(
        shots, QUERIES, length=(LENGTH, LENGTH), scale=(SCALE, SCALE), noise=NOISE
    )
    return mj.data.meta_batch(sample, tasks=tasks)


def exact_process():
    """The process that made the tasks, as a learner that has nothing to learn."""
    embed = mj.nets.identity_encoder
    rule = {
        "log_scale": jnp.log(SCALE**2),
        "log_length": jnp.log(LENGTH),
        "log_noise": jnp.log(NOISE**2 - 1e-4),  # gaussian_process adds 1e-4
    }
    process = inner.gaussian_process(embed)
    loss = mj.losses.gaussian_log_loss(process.apply)
    task_loss = mj.query_loss(process.adaptation, loss)
    return mj.Learner(process.apply, mj.Params({}, {}, rule), process.adaptation, task_loss)


def constant():
    """The control: mean 0 and the variance of y, whatever the examples are."""

    def apply(params, x, key=None, *, reference=None):
        return mj.Gaussian(jnp.zeros_like(x), jnp.full_like(x, SCALE**2 + NOISE**2))

    task_loss = mj.query_loss(mj.identity(), mj.losses.gaussian_log_loss(apply))
    return mj.Learner(apply, mj.Params({}, {}), mj.identity(), task_loss)


def learn(learner, shots, steps):
    """The params after training on fresh tasks, 16 in a step."""
    schedule = optax.cosine_decay_schedule(1e-3, steps)
    outer = mj.outer_loop(learner.task_loss, optax.adam(schedule))
    state, _ = mj.training.fit(
        outer,
        outer.init(learner.params),
        draws(shots, 16),
        (),
        jax.random.key(0),
        steps=steps,
        every=max(steps // 10, 1),
    )
    return state.params


def measure(learner, params, tasks):
    """Log-likelihood, squared error and coverage, each as (mean, half of the 95 % interval)."""
    key = jax.random.key(1)
    scores = mj.evaluate(learner.task_loss, params, tasks, key)

    def covered(task):
        found = mj.predict(
            learner.adaptation, learner.apply, params, task.support, task.query.x, key
        )
        return (jnp.abs(task.query.y - found.mean) < INTERVAL * jnp.sqrt(found.variance)).mean()

    inside = np.asarray(jax.jit(jax.vmap(covered))(tasks))
    half = 1.96 * inside.std(ddof=1) / len(inside) ** 0.5
    loss, square = scores["loss"], scores["squared_error"]
    return {
        "log-likelihood": (-float(loss.mean), float(loss.interval)),
        "squared error": (float(square.mean), float(square.interval)),
        "coverage": (100 * float(inside.mean()), 100 * float(half)),
    }


def main(options):
    steps, tests, shots_of_all = options.steps, options.tests, options.shots
    if options.tiny:
        steps, tests, shots_of_all = 3, 50, [3]
    rows = []
    for shots in shots_of_all:
        tasks = jax.jit(draws(shots, tests))((), jax.random.key(7))
        for name, learner in {"exact": exact_process(), "constant": constant()}.items():
            row = {"net": name, "shots": shots, "parameters": 0, "seconds": 0.0}
            rows.append(row | measure(learner, learner.params, tasks))
        for name, make in NETS.items():
            learner = algorithms.neural_process(make(nnx.Rngs(0)))
            started = time.perf_counter()
            params = learn(learner, shots, steps)
            row = {
                "net": name,
                "shots": shots,
                "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
                "seconds": time.perf_counter() - started,
            }
            rows.append(row | measure(learner, params, tasks))
            print(rows[-1], flush=True)
    report = harness.brief_header() | {
        "seed": 0,
        "steps": steps,
        "tests": tests,
        "process": {"length": LENGTH, "scale": SCALE, "noise": NOISE},
        "rows": rows,
    }
    harness.save(options.out, "processes", report)


if __name__ == "__main__":
    main(parser.parse_args())
