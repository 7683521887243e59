"""Intervals of predicted values: how many values are inside, and how wide they are.

Learners are trained on functions of a Gaussian process, with 20 examples of each, and tested on new
ones, and on functions that are rougher than all in training. Of each:

- own: the interval of the predicted normal distribution, mean ± 1.64 deviations; ridge regression
  predicts none;
- validation: mean ± as many deviations as hold nine of ten values of validation tasks; ridge
  regression has the deviation 1;
- held out: `conformal_intervals` from the support set.

Reports coverage and width over tasks. Writes benchmarks/results/value_intervals.json.

python benchmarks/value_intervals.py
python benchmarks/value_intervals.py --tiny --out /tmp/results    # that it runs
"""

import argparse
import pathlib

import harness
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from single_tasks import cell

import metajax as mj
from metajax import diagnostics, nets

SHOTS, QUERIES, COVERAGE, DEVIATIONS = 20, 20, 0.9, 1.6449
TRAINED, ROUGHER = (0.3, 0.8), (0.1, 0.25)
"""Lengths of the functions, in units of x."""

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--steps", type=int, default=4000)
parser.add_argument("--tests", type=int, default=600)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


class Net(nnx.Module):
    """Features of a number, and a head."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.body = nets.MLP(1, (64, 64), 64, rngs=rngs)
        self.head = nnx.Linear(64, 1, rngs=rngs)

    def embed(self, x):
        """[n, 1] -> features."""
        return self.body(x)

    def __call__(self, x):
        """[n, 1] -> values."""
        return self.head(self.embed(x))


LEARNERS = {
    "ridge": lambda: mj.algorithms.r2d2(Net(), None, loss=mj.losses.squared_error),
    "Gaussian process": lambda: mj.algorithms.dkt(Net()),
    "neural process": lambda: mj.algorithms.neural_process(
        nets.AttentiveProcess(1, 1, width=64, heads=4, rngs=nnx.Rngs(0))
    ),
}


def sampler(length):
    return mj.data.gaussian_processes(SHOTS, QUERIES, length=length, noise=0.05)


def trained(learner, steps):
    """What the outer loop learned."""
    loop = mj.outer_loop(learner.task_loss, optax.adam(optax.cosine_decay_schedule(1e-3, steps)))
    state, _ = mj.training.fit(
        loop,
        loop.init(learner.params),
        mj.data.meta_batch(sampler(TRAINED), 16),
        (),
        jax.random.key(0),
        steps=steps,
        every=steps,
        fuse=min(steps, 50),
        progress=False,
    )
    return state.params


def measure(learner, params, length, key, tests, factor=None):
    """({interval: [tests] coverage and width}, |y - mean| / deviation of every query)."""

    def one(key):
        task_key, learn_key = jax.random.split(key)
        task = sampler(length)((), task_key)
        held_out = diagnostics.cross_predict(
            learner.adaptation, learner.apply, params, task.support, learn_key, queries=task.query.x
        )
        found, y = held_out.answers, task.query.y
        is_gaussian = isinstance(found, mj.Gaussian)
        mean = found.mean if is_gaussian else found
        deviation = jnp.sqrt(found.variance) if is_gaussian else jnp.ones_like(found)
        ends = {"held out": diagnostics.conformal_intervals(held_out, coverage=COVERAGE)}
        if is_gaussian:
            ends["own"] = mean - DEVIATIONS * deviation, mean + DEVIATIONS * deviation
        if factor is not None:
            ends["validation"] = mean - factor * deviation, mean + factor * deviation
        rows = {
            name: {"covered": ((low <= y) & (y <= high)).mean(), "width": (high - low).mean()}
            for name, (low, high) in ends.items()
        }
        return rows, jnp.abs(mean - y) / deviation

    return jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(key, tests))


def main(options):
    steps, tests = (4, 4) if options.tiny else (options.steps, options.tests)
    report = harness.header(seed=0, steps=steps, tests=tests, coverage=COVERAGE, rows={})
    for name, make in LEARNERS.items():
        learner = make()
        params = trained(learner, steps)
        _, gaps = measure(learner, params, TRAINED, jax.random.key(1), tests)
        factor = jnp.quantile(gaps, COVERAGE)
        report["rows"][name] = {}
        for test, length in {"as in training": TRAINED, "rougher": ROUGHER}.items():
            found, _ = measure(learner, params, length, jax.random.key(2), tests, factor)
            report["rows"][name][test] = {
                kind: {key: cell(values) for key, values in of.items()}
                for kind, of in found.items()
            }
            print(name, test, report["rows"][name][test], flush=True)
    harness.save(options.out, "value_intervals", report)


if __name__ == "__main__":
    main(parser.parse_args())
