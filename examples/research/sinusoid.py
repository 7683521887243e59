"""Regression on sinusoids: MAML, Meta-SGD and no adaptation, each trained from several seeds.

A whole training run is one pure function of a key, so that `vmap` makes it three runs. The script
reports the squared error after 0, 1, 5 and 10 inner steps on 1 000 tasks, as in Finn et al. 2017,
and draws how MAML adapts to five points.

    python examples/research/sinusoid.py --out .
"""

import functools
import pathlib
import sys
import time

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
TASKS = 25  # in an outer step
TEST_TASKS = 1000
SEEDS = 3
OUTER_RATE = 1e-3
INNER_RATE = 0.01
INNER_STEPS = (0, 1, 5, 10)  # of the test; training takes one
HIDDEN = (40, 40)  # units of the hidden layers

parser = common.parser(__doc__, "sinusoid.json and sinusoid.png")
parser.add_argument("--steps", type=int, default=20_000, help=f"outer steps of {TASKS} tasks")
options = common.parse(parser)
if options.tiny:
    options.steps = 2
    TEST_TASKS = 4
    SEEDS = 2
    INNER_STEPS = (1,)
    HIDDEN = (4,)

sample = mj.data.meta_batch(mj.data.sinusoids(SHOTS, queries=10), TASKS)
test = mj.data.meta_batch(mj.data.sinusoids(SHOTS, queries=100), TEST_TASKS)((), jax.random.key(1))


def make_net(key):
    return mj.nets.MLP(1, HIDDEN, 1, rngs=nnx.Rngs(key))


def maml(net, steps):
    return mj.algorithms.maml(
        net, loss=mj.losses.squared_error, inner_rate=INNER_RATE, inner_steps=steps
    )


def meta_sgd(net, steps):
    return mj.algorithms.meta_sgd(
        net, loss=mj.losses.squared_error, initial_rate=INNER_RATE, inner_steps=steps
    )


def no_adaptation(net, steps):
    return maml(net, steps=0)


def train(method, key):
    """A whole run: from fresh weights to params that were learned for one inner step."""
    net_key, _, run_key = jax.random.split(key, 3)
    learner = method(make_net(net_key), 1)
    outer = mj.outer_loop(learner.task_loss, optax.adam(OUTER_RATE))
    state = outer.init(learner.params)
    state, _ = mj.training.scan(outer, state, sample, (), run_key, steps=options.steps)
    return state.params


def errors(method, params, steps):
    """The squared error on the test tasks, for each seed."""
    task_loss = method(make_net(0), steps).task_loss

    def error(params):
        return mj.evaluate(task_loss, params, test, jax.random.key(2))["loss"].mean

    return np.asarray(jax.jit(jax.vmap(error))(params))


print(f"Squared error on {TEST_TASKS} tasks after inner steps, mean of {SEEDS} seeds (the seeds)")
rows = []
learned = {}
keys = jax.random.split(jax.random.key(0), SEEDS)
methods = {"no adaptation": no_adaptation, "MAML": maml, "Meta-SGD": meta_sgd}
for name, method in methods.items():
    started = time.perf_counter()
    learned[name] = jax.jit(jax.vmap(functools.partial(train, method)))(keys)
    for steps in INNER_STEPS:
        measured = errors(method, learned[name], steps)
        # Step sizes that were learned for one step may diverge over more.
        seeds = measured.tolist() if np.isfinite(measured).all() else None
        rows.append({"method": name, "inner_steps": steps, "seeds": seeds})
        each = ", ".join(f"{error:.3f}" for error in measured)
        print(f"  {name:<14} {steps:2} steps: {measured.mean():.3f} ({each})")
    print(f"  in {time.perf_counter() - started:.0f} s")
report = {**common.header(), "outer_steps": options.steps, "rows": rows}
common.write_report(options.out / "sinusoid.json", report)

# The picture: three tasks, and the function that MAML fits after 0, 1 and 10 steps.
figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained", sharey=True)
params = jax.tree.map(lambda leaf: leaf[0], learned["MAML"])
tasks = jax.tree.map(lambda leaf: leaf[:3], test)
x = jnp.linspace(-5, 5, 200)[:, None]


@functools.partial(jax.jit, static_argnums=1)
def fit(support, steps):
    """Predictions at x after so many inner steps."""
    learner = maml(make_net(0), steps)
    return mj.predict(learner.adaptation, learner.apply, params, support, x, jax.random.key(3))


fits = {steps: jax.vmap(functools.partial(fit, steps=steps))(tasks.support) for steps in (0, 1, 10)}
for number, axis in enumerate(axes):
    support, query = (jax.tree.map(lambda leaf: leaf[number], batch) for batch in tasks[:2])  # noqa: B023
    order = jnp.argsort(query.x[:, 0])
    axis.plot(query.x[order], query.y[order], color="0.6", linewidth=3, label="truth")
    for (steps, curves), style in zip(fits.items(), (":", "--", "-"), strict=True):
        axis.plot(x, curves[number], style, color="C3", label=f"MAML, {steps} steps")
    axis.plot(support.x, support.y, "ko", label="support")
    axis.set(title=f"task {number + 1}", xlabel="x")
axes[0].legend(frameon=False, fontsize=8)
figure.savefig(options.out / "sinusoid.png", dpi=100)
print(f"See sinusoid.png and sinusoid.json in {options.out}.")
