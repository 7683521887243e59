"""Regression on sinusoids: MAML, Meta-SGD and no adaptation, each trained from several seeds at once.

A whole training run is one pure function of a key, so `vmap` makes it three runs. Reports the squared error after 0, 1,
5 and 10 inner steps on 1 000 tasks, as in Finn et al. 2017, and draws what adapting to five points looks like.

    python examples/sinusoid.py --out .
"""

import argparse
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import metajax as mj

SHOTS, SEEDS, TEST_TASKS, INNER_STEPS = 5, 3, 1000, (0, 1, 5, 10)

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--steps", type=int, default=20_000, help="outer steps of 25 tasks")
parser.add_argument(
    "--out", type=pathlib.Path, default=pathlib.Path(), help="folder of sinusoid.json and .png"
)
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)

sample = mj.data.meta_batch(mj.data.sinusoids(SHOTS, queries=10), tasks=25)
test = mj.data.meta_batch(mj.data.sinusoids(SHOTS, queries=100), TEST_TASKS)((), jax.random.key(1))
apply, _ = mj.nets.functional(mj.nets.MLP(1, (40, 40), 1, rngs=nnx.Rngs(0)))
loss = mj.losses.squared_error(apply)


def adaptations(steps):
    return {
        "no adaptation": mj.identity(),
        "MAML": mj.inner_loop(loss, optax.sgd(0.01), steps=steps),
        "Meta-SGD": mj.inner_loop(loss, mj.learned_rates(0.01), steps=steps),
    }


def train(adaptation, key):
    """A whole run: from fresh weights to params that were learned."""
    net_key, rule_key, run_key = jax.random.split(key, 3)
    _, params = mj.nets.functional(mj.nets.MLP(1, (40, 40), 1, rngs=nnx.Rngs(net_key)))
    outer = mj.outer_loop(mj.query_loss(adaptation, loss), optax.adam(1e-3))

    def step(state, number):
        sample_key, step_key = jax.random.split(jax.random.fold_in(run_key, number))
        state, info = outer.step(state, sample((), sample_key), step_key)
        return state, info.loss

    state = outer.init(adaptation.init(params, rule_key))
    return jax.lax.scan(step, state, jnp.arange(options.steps))[0].params


rows, learned = [], {}
print(
    f"Squared error on {TEST_TASKS} tasks, mean of {SEEDS} seeds (and the seeds), after inner steps"
)
for name, adaptation in adaptations(1).items():
    started = time.perf_counter()
    learned[name] = jax.jit(jax.vmap(lambda key: train(adaptation, key)))(
        jax.random.split(jax.random.key(0), SEEDS)
    )  # noqa: B023
    for steps in INNER_STEPS:
        task_loss = mj.query_loss(adaptations(steps)[name], loss)
        judge = jax.jit(
            jax.vmap(lambda params: mj.evaluate(task_loss, params, test, jax.random.key(2)))
        )  # noqa: B023
        errors = np.asarray(judge(learned[name])["loss"].mean)
        finite = bool(
            np.isfinite(errors).all()
        )  # step sizes learned for one step may diverge over more
        rows.append(
            {"method": name, "inner_steps": steps, "seeds": errors.tolist() if finite else None}
        )
        print(
            f"  {name:<14} {steps:2} steps: {errors.mean():.3f} ({', '.join(f'{e:.3f}' for e in errors)})"
        )
    print(f"  trained in {time.perf_counter() - started:.0f} s")
report = {
    "jax": jax.__version__,
    "device": jax.devices()[0].device_kind,
    "outer_steps": options.steps,
    "rows": rows,
}
(options.out / "sinusoid.json").write_text(json.dumps(report, indent=1) + "\n")

figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained", sharey=True)
x = jnp.linspace(-5, 5, 200)[:, None]
for number, axis in enumerate(axes):
    task = jax.tree.map(lambda leaf: leaf[number], test)  # noqa: B023
    order = jnp.argsort(task.query.x[:, 0])
    axis.plot(task.query.x[order], task.query.y[order], color="0.6", linewidth=3, label="truth")
    for steps, style in ((0, ":"), (1, "--"), (10, "-")):
        params = jax.tree.map(lambda leaf: leaf[0], learned["MAML"])
        curve = mj.predict(
            adaptations(steps)["MAML"], apply, params, task.support, x, jax.random.key(3)
        )
        axis.plot(x, curve, style, color="C3", label=f"MAML, {steps} steps")
    axis.plot(task.support.x, task.support.y, "ko", label="support")
    axis.set(title=f"task {number + 1}", xlabel="x")
axes[0].legend(frameon=False, fontsize=8)
figure.savefig(options.out / "sinusoid.png", dpi=100)
