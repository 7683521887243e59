"""Regression on sinusoids: MAML, Meta-SGD and no adaptation, each trained from several seeds.

A whole training run is one pure function of a key, so that `vmap` makes it three runs. The script
reports and draws the squared error after 0, 1, 5 and 10 inner steps on 1 000 tasks, as in Finn et
al. 2017. `examples/start/sinusoid.py` draws how MAML adapts to one wave.

    python examples/research/sinusoid.py --out .
"""

import functools
import pathlib
import sys
import time
from typing import NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import metajax as mj

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # the folder of common.py
import common


class Config(NamedTuple):
    """The settings of a run."""

    shots: int = 5
    tasks: int = 25  # in an outer step
    test_tasks: int = 1000
    seeds: int = 3
    outer_rate: float = 1e-3
    inner_rate: float = 0.01
    inner_steps: tuple = (0, 1, 5, 10)  # of the test; training takes one
    hidden: tuple = (40, 40)  # units of the hidden layers
    steps: int = 20_000  # outer steps


TINY = Config(steps=2, test_tasks=4, seeds=2, inner_steps=(1,), hidden=(4,))


def main(config, out):
    """Trains every method from every seed, tests it, and draws the errors."""
    sample = mj.data.meta_batch(mj.data.sinusoids(config.shots, queries=10), config.tasks)
    test = mj.data.meta_batch(mj.data.sinusoids(config.shots, queries=100), config.test_tasks)(
        (), jax.random.key(1)
    )

    def make_net(key):
        return mj.nets.MLP(1, config.hidden, 1, rngs=nnx.Rngs(key))

    def maml(net, steps):
        return mj.algorithms.maml(
            net, loss=mj.losses.squared_error, inner_rate=config.inner_rate, inner_steps=steps
        )

    def meta_sgd(net, steps):
        return mj.algorithms.meta_sgd(
            net, loss=mj.losses.squared_error, initial_rate=config.inner_rate, inner_steps=steps
        )

    def no_adaptation(net, steps):
        return maml(net, steps=0)

    def train(method, key):
        """A whole run: from fresh weights to params that were learned for one inner step."""
        net_key, _, run_key = jax.random.split(key, 3)
        learner = method(make_net(net_key), 1)
        outer = mj.outer_loop(learner.task_loss, optax.adam(config.outer_rate))
        state = outer.init(learner.params)
        state, _ = mj.training.scan(outer, state, sample, (), run_key, steps=config.steps)
        return state.params

    def errors(method, params, steps):
        """The squared error on the test tasks, for each seed."""
        task_loss = method(make_net(0), steps).task_loss

        def error(params):
            return mj.evaluate(task_loss, params, test, jax.random.key(2))["loss"].mean

        return np.asarray(jax.jit(jax.vmap(error))(params))

    print(
        f"Squared error on {config.test_tasks} tasks after inner steps, "
        f"mean of {config.seeds} seeds (the seeds)"
    )
    rows = []
    learned = {}
    keys = jax.random.split(jax.random.key(0), config.seeds)
    methods = {"no adaptation": no_adaptation, "MAML": maml, "Meta-SGD": meta_sgd}
    for name, method in methods.items():
        started = time.perf_counter()
        learned[name] = jax.jit(jax.vmap(functools.partial(train, method)))(keys)
        for steps in config.inner_steps:
            measured = errors(method, learned[name], steps)
            # Step sizes that were learned for one step may diverge over more.
            seeds = measured.tolist() if np.isfinite(measured).all() else None
            rows.append({"method": name, "inner_steps": steps, "seeds": seeds})
            each = ", ".join(f"{error:.3f}" for error in measured)
            print(f"  {name:<14} {steps:2} steps: {measured.mean():.3f} ({each})")
        print(f"  in {time.perf_counter() - started:.0f} s")
    report = {**common.header(), "outer_steps": config.steps, "rows": rows}
    common.finish(out, "sinusoid", report, plot)


def plot(report, path):
    """The error after so many inner steps: a line through the means, and a dot for each seed."""
    figure, axes = plt.subplots(figsize=(6.5, 3.8))
    no_adaptation = [np.mean(row["seeds"]) for row in report["rows"] if row["inner_steps"] == 0]
    most = 2 * max(no_adaptation, default=5.0)
    for number, method in enumerate(dict.fromkeys(row["method"] for row in report["rows"])):
        mine = [row for row in report["rows"] if row["method"] == method]
        rows = [row for row in mine if row["seeds"] and max(row["seeds"]) < most]
        steps = [row["inner_steps"] for row in rows]
        color = f"C{number}"
        axes.plot(steps, [np.mean(row["seeds"]) for row in rows], color=color, label=method)
        for row in rows:
            places = [row["inner_steps"]] * len(row["seeds"])
            axes.plot(places, row["seeds"], "o", color=color, markersize=4)
    axes.set(xlabel="inner steps on five points", ylabel="squared error on 100 other points")
    axes.set(ylim=(0, None), title="Sinusoids, trained for one inner step")
    axes.grid()
    axes.legend()
    common.save(figure, path, "a dot for each seed of training; left out where a seed diverges")


if __name__ == "__main__":
    common.run(main, Config(), TINY, "steps", description=__doc__)
