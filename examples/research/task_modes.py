"""Regression on five families of functions at once: MAML, and MMAML, which reads the shots first.

A task is a sinusoid, line, quadratic, tanh or absolute value, seen through five noisy points. MAML
has one start for all of them. In MMAML (Vuorio et al. 2019) a net reads the points, and scales and
shifts the hidden layers before descent. Beside them are MAML with as many weights as MMAML, and one
MAML for each family, which is told the family. All take the same number of outer steps on the same
number of tasks, and five inner steps whose size is chosen on validation tasks.

    python examples/research/task_modes.py --out .
"""

import functools
import pathlib
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
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
    queries: int = 10  # in training
    test_queries: int = 50
    noise: float = 0.3  # standard deviation
    tasks: int = 25  # in an outer step
    test_tasks: int = 2000  # and as many validation tasks
    inner_steps: int = 5
    outer_rate: float = 2e-3
    rates: tuple = (0.002, 0.006, 0.02)  # of the inner steps; one is chosen
    hidden: tuple = (32, 32)  # units of the hidden layers
    wider: tuple = (78, 78)  # the same for as many weights as MMAML has
    reader: int = 24  # width of the net that reads the points
    steps: int = 2_500  # outer steps


TINY = Config(
    steps=2,
    tasks=5,
    test_tasks=40,
    inner_steps=1,
    rates=(0.002,),
    hidden=(4,),
    wider=(5,),
    reader=4,
)


def unlearned_rate(rate, transform=lambda optimizer: optimizer):
    """Descent whose rate is in `params.rule` but is not learned, so that `vmap` runs over rates."""
    return mj.learned(
        lambda rate: transform(optax.sgd(jax.lax.stop_gradient(rate))),
        jnp.asarray(rate, jnp.float32),
    )


def freeze_modulation(optimizer):
    """The same optimizer, for all fast weights but "modulation"."""

    def label(fast):
        return {name: "frozen" if name == "modulation" else "moving" for name in fast}

    return optax.multi_transform({"moving": optimizer, "frozen": optax.set_to_zero()}, label)


class Method(NamedTuple):
    """What differs between MAML and MMAML.

    Attributes:
        start: key -> params with fresh weights.
        adaptation: (rate, inner steps) -> how the weights are adapted to the shots.
        apply: the net as a function of params.
    """

    start: Callable
    adaptation: Callable
    apply: Callable


def best_rate(errors_after):
    """The index of the rate with the least mean error, of errors [rates, tasks]."""
    return int(np.nan_to_num(errors_after.mean(axis=1), nan=np.inf).argmin())


def entry(tree, index):
    """One of several params that are stacked along a leading axis."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def summary(values):
    """Mean and half the width of its 95 % interval over tasks."""
    found = mj.summarize(jnp.asarray(values))
    return [float(found.mean), float(found.interval)]


def main(config, out):
    """Trains every method at every rate, and tests the rate that is best in validation."""
    key = jax.random.key(0)
    started = time.perf_counter()

    # Data. `context` of a task is the index of its family.
    families = mj.data.regressions(config.shots, config.queries, noise=config.noise)
    of_all_families = mj.data.task_modes(families)

    def draw(noise, seed):
        """Tasks of all families, stacked along a leading axis."""
        sample = mj.data.task_modes(
            mj.data.regressions(config.shots, config.test_queries, noise=noise)
        )
        return jax.jit(mj.data.meta_batch(sample, config.test_tasks))((), jax.random.key(seed))

    validation = draw(config.noise, 1)
    test = draw(config.noise, 2)

    def maml(hidden):
        """Descent from a start that the outer loop learns."""

        def net(key):
            return mj.nets.functional(mj.nets.MLP(1, hidden, 1, rngs=nnx.Rngs(key)))

        def start(key):
            _, params = net(key)
            return params

        def adaptation(rate, steps):
            return mj.inner_loop(loss, unlearned_rate(rate), steps=steps)

        apply, _ = net(0)
        loss = mj.losses.squared_error(apply)
        return Method(start, adaptation, apply)

    def mmaml(hidden):
        """The same net. First DeepSets reads the shots and modulates the hidden layers."""
        plain = maml(hidden)
        read, reader = mj.nets.functional(
            mj.nets.DeepSets(2, 2 * sum(hidden), width=config.reader, rngs=nnx.Rngs(0))
        )
        apply = mj.modulated(plain.apply)
        loss = mj.losses.squared_error(apply)

        def start(key):
            params = plain.start(key)
            modulation = mj.film({"layers": params.fast["layers"]})
            return params._replace(fast={**params.fast, "modulation": modulation})

        def adaptation(rate, steps):
            descent = mj.inner_loop(loss, unlearned_rate(rate, freeze_modulation), steps=steps)
            return mj.chain(modulate=mj.modulate(read, reader), descent=descent)

        return Method(start, adaptation, apply)

    def train(method, rate, source=(), *, sample=of_all_families, tasks=config.tasks):
        """A whole run: from fresh weights to params that were learned."""
        net_key, rule_key, run_key = jax.random.split(key, 3)
        adaptation = method.adaptation(rate, config.inner_steps)
        task_loss = mj.query_loss(adaptation, mj.losses.squared_error(method.apply))
        rates = optax.cosine_decay_schedule(config.outer_rate, config.steps)
        outer = mj.outer_loop(
            task_loss, optax.chain(optax.clip_by_global_norm(10.0), optax.adam(rates))
        )
        state = outer.init(adaptation.init(method.start(net_key), rule_key))
        sample = mj.data.meta_batch(sample, tasks)
        state, _ = mj.training.scan(outer, state, sample, source, run_key, steps=config.steps)
        return state.params

    @functools.partial(jax.jit, static_argnums=0)
    def errors(method, params, tasks):
        """Squared errors [rates, 2, tasks], before and after descent, of params over rates."""
        loss = mj.losses.squared_error(method.apply)

        def of_one_rate(params):
            found = []
            for steps in (0, config.inner_steps):
                # The rate that `adaptation` is given here is not read: that in `params.rule` is.
                task_loss = mj.query_loss(method.adaptation(0.0, steps), loss)
                found.append(mj.evaluate(task_loss, params, tasks, key)["loss"].per_task)
            return jnp.stack(found)

        return jax.vmap(of_one_rate)(params)

    names = list(families)
    mode = np.asarray(test.context)
    methods = {
        "MAML": maml(config.hidden),
        "MMAML": mmaml(config.hidden),
        "MAML, wider": maml(config.wider),
    }
    table = {}  # {method: (errors before and after, rate, numbers learned)}
    learned = {}
    for name, method in methods.items():
        every_rate = jax.jit(jax.vmap(functools.partial(train, method)))(jnp.asarray(config.rates))
        best = best_rate(errors(method, every_rate, validation)[:, 1])
        learned[name] = entry(every_rate, best)
        numbers = sum(leaf.size for leaf in jax.tree.leaves(learned[name]))
        test_errors = np.asarray(errors(method, every_rate, test)[best])
        table[name] = test_errors, config.rates[best], numbers
        seconds = time.perf_counter() - started
        print(f"{name}: {test_errors[1].mean():.2f}, {seconds:.0f} s so far", flush=True)

    # One MAML for each family, which sees a fifth of the tasks: those of its own.
    def of_one_family(family, key):
        return jax.lax.switch(family, list(families.values()), (), key)

    def train_on_family(family, rate):
        tasks = config.tasks // len(names)
        return train(methods["MAML"], rate, family, sample=of_one_family, tasks=tasks)

    over_rates = jax.vmap(train_on_family, (None, 0))
    over_both = jax.jit(jax.vmap(over_rates, (0, None)))
    every_family = over_both(jnp.arange(len(names)), jnp.asarray(config.rates))
    told_errors = np.zeros((2, config.test_tasks))
    told_rates = []
    for family in range(len(names)):
        params = entry(every_family, family)
        mine = np.asarray(validation.context) == family
        best = best_rate(np.asarray(errors(methods["MAML"], params, validation))[:, 1, mine])
        test_errors = np.asarray(errors(methods["MAML"], params, test)[best])
        told_errors[:, mode == family] = test_errors[:, mode == family]
        told_rates.append(config.rates[best])
    numbers = len(names) * table["MAML"][2]
    table["MAML told the family"] = told_errors, told_rates, numbers

    print(
        f"Squared error on {config.test_tasks} tasks after {config.inner_steps} steps, "
        f"with {config.shots} shots."
    )
    print(f"Noise alone makes {config.noise**2:.2f}.")
    rows = []
    for name, ((before, after), rate, numbers) in table.items():
        row = {
            "method": name,
            "inner rate": rate,
            "numbers learned": numbers,
            "before": summary(before),
            "after": summary(after),
            "minus MAML": summary(after - table["MAML"][0][1]),
        }
        by_family = {family: summary(after[mode == number]) for number, family in enumerate(names)}
        rows.append(row | by_family)
        print(f"{name:<21} {common.cell(row['after'], 2)}", end="")
        print(f" ({common.difference(row['minus MAML'], 2)} against MAML;", end="")
        print(f" before descent {row['before'][0]:.2f}); ", end="")
        print(
            *(f"{family} {mean:.2f}" for family, (mean, _) in by_family.items()), f"; rate {rate}"
        )
    took = time.perf_counter() - started
    report = {
        **common.header(),
        "seconds": took,
        "outer_steps": config.steps,
        "tasks": config.test_tasks,
        "shots": config.shots,
        "noise": config.noise,
        "rows": rows,
    }
    common.finish(out, "task_modes", report, plot)


def plot(report, path):
    """A task of each family, and the error of each method in each family."""
    figure = plt.figure(figsize=(11, 4.6))
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.5))
    families = mj.data.regressions(report["shots"], 50, noise=report["noise"])
    panels = left.subplots(len(families), 1, sharex=True)
    for axes, (name, sample) in zip(panels, families.items(), strict=True):
        task = sample((), jax.random.key(4))
        axes.plot(task.query.x, task.query.y, ".", color="0.75", markersize=3)
        axes.plot(task.support.x, task.support.y, "ko", markersize=4)
        axes.set_title(name, fontsize=9)
    panels[-1].set_xlabel("x; black: the shots, with noise")
    measured = {}
    for row in report["rows"]:
        of_families = {name: row[name] for name in families}
        measured[row["method"]] = {"all five families": row["after"], **of_families}
    axes = right.subplots()
    mj.plots.dot_plot(
        axes,
        measured,
        xlabel="squared error (grey line: the noise alone)",
        reference=report["noise"] ** 2,
        title=f"After descent on {report['shots']} shots",
    )
    axes.set_xlim(0, None)
    common.save(figure, path, common.OF_ONE_NET)


if __name__ == "__main__":
    common.run(main, Config(), TINY, "steps", description=__doc__)
