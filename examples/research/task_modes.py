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

SHOTS = 5
QUERIES = 10  # in training
TEST_QUERIES = 50
NOISE = 0.3  # standard deviation
TASKS = 25  # in an outer step
TEST_TASKS = 2000  # and as many validation tasks
INNER_STEPS = 5
OUTER_RATE = 2e-3
RATES = (0.002, 0.006, 0.02)  # of the inner steps; one is chosen
HIDDEN = (32, 32)  # units of the hidden layers
WIDER = (78, 78)  # the same for as many weights as MMAML has
READER = 24  # width of the net that reads the points

parser = common.parser(__doc__, "task_modes.json and task_modes.png")
parser.add_argument("--steps", type=int, default=2_500, help=f"outer steps of {TASKS} tasks")
options = common.parse(parser)
if options.tiny:
    options.steps = 2
    TASKS = 5
    TEST_TASKS = 40
    INNER_STEPS = 2
    RATES = RATES[:1]
    HIDDEN = (4,)
    WIDER = (5,)
    READER = 4

key = jax.random.key(0)
started = time.perf_counter()

# Data. `context` of a task is the index of its family.
families = mj.data.regressions(SHOTS, QUERIES, noise=NOISE)
of_all_families = mj.data.task_modes(families)


def draw(noise, seed):
    """Tasks of all families, stacked along a leading axis."""
    sample = mj.data.task_modes(mj.data.regressions(SHOTS, TEST_QUERIES, noise=noise))
    return jax.jit(mj.data.meta_batch(sample, TEST_TASKS))((), jax.random.key(seed))


validation = draw(NOISE, 1)
test = draw(NOISE, 2)


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
        mj.nets.DeepSets(2, 2 * sum(hidden), width=READER, rngs=nnx.Rngs(0))
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


def train(method, rate, source=(), *, sample=of_all_families, tasks=TASKS):
    """A whole run: from fresh weights to params that were learned."""
    net_key, rule_key, run_key = jax.random.split(key, 3)
    adaptation = method.adaptation(rate, INNER_STEPS)
    task_loss = mj.query_loss(adaptation, mj.losses.squared_error(method.apply))
    rates = optax.cosine_decay_schedule(OUTER_RATE, options.steps)
    outer = mj.outer_loop(
        task_loss, optax.chain(optax.clip_by_global_norm(10.0), optax.adam(rates))
    )
    state = outer.init(adaptation.init(method.start(net_key), rule_key))
    sample = mj.data.meta_batch(sample, tasks)
    state, _ = mj.training.scan(outer, state, sample, source, run_key, steps=options.steps)
    return state.params


@functools.partial(jax.jit, static_argnums=0)
def errors(method, params, tasks):
    """Squared errors before and after descent, [rates, 2, tasks], of params stacked over rates."""
    loss = mj.losses.squared_error(method.apply)

    def of_one_rate(params):
        found = []
        for steps in (0, INNER_STEPS):
            # The rate that `adaptation` is given here is not read: that in `params.rule` is.
            task_loss = mj.query_loss(method.adaptation(0.0, steps), loss)
            found.append(mj.evaluate(task_loss, params, tasks, key)["loss"].per_task)
        return jnp.stack(found)

    return jax.vmap(of_one_rate)(params)


def best_rate(errors_after):
    """The index of the rate with the least mean error, of errors [rates, tasks]."""
    return int(np.nan_to_num(errors_after.mean(axis=1), nan=np.inf).argmin())


def entry(tree, index):
    """One of several params that are stacked along a leading axis."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


names = list(families)
mode = np.asarray(test.context)
methods = {"MAML": maml(HIDDEN), "MMAML": mmaml(HIDDEN), "MAML, wider": maml(WIDER)}
table = {}  # {method: (errors before and after, rate, numbers learned)}
learned = {}
for name, method in methods.items():
    every_rate = jax.jit(jax.vmap(functools.partial(train, method)))(jnp.asarray(RATES))
    best = best_rate(errors(method, every_rate, validation)[:, 1])
    learned[name] = entry(every_rate, best)
    numbers = sum(leaf.size for leaf in jax.tree.leaves(learned[name]))
    test_errors = np.asarray(errors(method, every_rate, test)[best])
    table[name] = test_errors, RATES[best], numbers
    seconds = time.perf_counter() - started
    print(f"{name}: {test_errors[1].mean():.2f}, {seconds:.0f} s so far", flush=True)


# One MAML for each family, which sees a fifth of the tasks: those of its own.
def of_one_family(family, key):
    return jax.lax.switch(family, list(families.values()), (), key)


def train_on_family(family, rate):
    tasks = TASKS // len(names)
    return train(methods["MAML"], rate, family, sample=of_one_family, tasks=tasks)


over_rates = jax.vmap(train_on_family, (None, 0))
over_both = jax.jit(jax.vmap(over_rates, (0, None)))
every_family = over_both(jnp.arange(len(names)), jnp.asarray(RATES))
told_errors = np.zeros((2, TEST_TASKS))
told_rates = []
for family in range(len(names)):
    params = entry(every_family, family)
    mine = np.asarray(validation.context) == family
    best = best_rate(np.asarray(errors(methods["MAML"], params, validation))[:, 1, mine])
    test_errors = np.asarray(errors(methods["MAML"], params, test)[best])
    told_errors[:, mode == family] = test_errors[:, mode == family]
    told_rates.append(RATES[best])
numbers = len(names) * table["MAML"][2]
table["MAML told the family"] = told_errors, told_rates, numbers


def summary(values):
    """Mean and half the width of its 95 % interval over tasks."""
    found = mj.summarize(jnp.asarray(values))
    return [float(found.mean), float(found.interval)]


print(f"Squared error on {TEST_TASKS} tasks after {INNER_STEPS} steps, with {SHOTS} shots.")
print(f"Noise alone makes {NOISE**2:.2f}.")
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
    print(*(f"{family} {mean:.2f}" for family, (mean, _) in by_family.items()), f"; rate {rate}")
took = time.perf_counter() - started
report = {
    **common.header(),
    "seconds": took,
    "outer_steps": options.steps,
    "tasks": TEST_TASKS,
    "shots": SHOTS,
    "noise": NOISE,
    "rows": rows,
}
common.write_report(options.out / "task_modes.json", report)

# The picture: a function of each family with its shots, and the fits before and after descent.
shown = jnp.asarray([int(np.flatnonzero(mode == family)[1]) for family in range(len(names))])
tasks = entry(test, shown)
truth = entry(draw(0.0, 2), shown)
x = jnp.linspace(-5, 5, 200)[:, None]


def fit(name, steps):
    """Predictions at x for each of the tasks shown, after so many inner steps."""
    method = methods[name]
    adaptation = method.adaptation(0.0, steps)

    def predict(support):
        return mj.predict(adaptation, method.apply, learned[name], support, x, key)

    return jax.jit(jax.vmap(predict))(tasks.support)


figure, axes = plt.subplots(
    2, len(names), figsize=(15, 5.6), layout="constrained", sharey="col", sharex=True
)
for line, (name, colour) in zip(axes, (("MAML", "C3"), ("MMAML", "C0")), strict=True):
    before = fit(name, 0)
    after = fit(name, INNER_STEPS)
    for number, axis in enumerate(line):
        order = jnp.argsort(truth.query.x[number, :, 0])
        true_x = truth.query.x[number, order]
        true_y = truth.query.y[number, order]
        axis.plot(true_x, true_y, color="0.75", linewidth=4, label="truth")
        axis.plot(x, before[number], ":", color=colour, label=f"{name}, before descent")
        axis.plot(x, after[number], color=colour, label=f"{name}, after {INNER_STEPS} steps")
        points = tasks.support
        axis.plot(points.x[number], points.y[number], "ko", markersize=5, label="shots")
        axis.spines[["top", "right"]].set_visible(False)
    line[0].legend(frameon=False, fontsize=8)
for axis, family in zip(axes[0], names, strict=True):
    axis.set_title(family)
for axis in axes[1]:
    axis.set_xlabel("x")
figure.savefig(options.out / "task_modes.png", dpi=100)
print(f"{took:.0f} s; see task_modes.png and task_modes.json in {options.out}.")
