"""Regression on five families of functions at once: MAML, and MMAML, which reads the shots before it descends.

A task is a sinusoid, line, quadratic, tanh or absolute value, seen through five noisy points. MAML has one start for
all of them; MMAML (Vuorio et al. 2019) lets a net that reads the points scale and shift the layers first. Beside them:
MAML with as many weights as MMAML, and, told the family, one MAML for each. All take as many outer steps on as many
tasks, and five inner steps whose size is chosen on validation tasks.

    python examples/task_modes.py --out .
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

SHOTS, NOISE, TASKS, JUDGED, INNER_STEPS = 5, 0.3, 25, 2000, 5
RATES, HIDDEN, WIDER, READER = (0.002, 0.006, 0.02), (32, 32), (78, 78), 24

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--steps", type=int, default=2_500, help="outer steps of 25 tasks")
parser.add_argument(
    "--out", type=pathlib.Path, default=pathlib.Path(), help="folder of task_modes.json and .png"
)
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)
started = time.perf_counter()

families = mj.data.regressions(SHOTS, 10, noise=NOISE)
sample = mj.data.task_modes(families)
KEY = jax.random.key(0)


def draw(noise, seed):
    sampler = mj.data.task_modes(mj.data.regressions(SHOTS, 50, noise=noise))
    return jax.jit(mj.data.meta_batch(sampler, JUDGED))((), jax.random.key(seed))


validation, test = draw(NOISE, 1), draw(NOISE, 2)


def descent(rate, transform=lambda optimizer: optimizer):
    """Plain descent whose step size stands in `params.rule` and is not learned, so that a `vmap` runs over several."""
    return mj.Rule(
        init=lambda params, key: jnp.asarray(rate, jnp.float32),
        optimizer=lambda rate: transform(optax.sgd(jax.lax.stop_gradient(rate))),
    )


def hold_modulation(optimizer):
    label = lambda fast: {name: "hold" if name == "modulation" else "move" for name in fast}
    return optax.multi_transform({"move": optimizer, "hold": optax.set_to_zero()}, label)


def maml(hidden):
    """(key -> start, (rate, inner steps) -> adaptation, apply)."""
    make = lambda key: mj.nets.functional(mj.nets.MLP(1, hidden, 1, rngs=nnx.Rngs(key)))
    apply, _ = make(0)
    loss = mj.losses.squared_error(apply)
    return (
        lambda key: make(key)[1],
        lambda rate, steps: mj.inner_loop(loss, descent(rate), steps=steps),
        apply,
    )


def mmaml(hidden):
    """The same net, its hidden layers modulated by what DeepSets reads in the points; descent then holds that."""
    plain_start, _, plain = maml(hidden)
    read, reader = mj.nets.functional(
        mj.nets.DeepSets(2, 2 * sum(hidden), width=READER, rngs=nnx.Rngs(0))
    )
    apply = mj.modulated(plain)
    loss = mj.losses.squared_error(apply)

    def start(key):
        net = plain_start(key)
        return net._replace(
            fast={**net.fast, "modulation": mj.film({"layers": net.fast["layers"]})}
        )

    def adaptation(rate, steps):
        return mj.chain(
            mj.modulate(read, reader),
            mj.inner_loop(loss, descent(rate, hold_modulation), steps=steps),
        )

    return start, adaptation, apply


def train(method, rate, source=(), *, sample=sample, tasks=TASKS, key=KEY):
    """A whole run: from fresh weights to params that were learned."""
    start, adaptation, apply = method
    net_key, rule_key, run_key = jax.random.split(key, 3)
    learner, draw = adaptation(rate, INNER_STEPS), mj.data.meta_batch(sample, tasks)
    rates = optax.cosine_decay_schedule(2e-3, options.steps)
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(rates))
    outer = mj.outer_loop(mj.query_loss(learner, mj.losses.squared_error(apply)), optimizer)

    def step(state, number):
        sample_key, step_key = jax.random.split(jax.random.fold_in(run_key, number))
        return outer.step(state, draw(source, sample_key), step_key)[0], None

    state = outer.init(learner.init(start(net_key), rule_key))
    return jax.lax.scan(step, state, jnp.arange(options.steps))[0].params


def errors(method, params, tasks):
    """Squared errors before and after descent, [2, tasks]."""
    _, adaptation, apply = method
    loss = mj.losses.squared_error(apply)
    judged = [
        mj.evaluate(mj.query_loss(adaptation(0.0, steps), loss), params, tasks, KEY)
        for steps in (0, INNER_STEPS)
    ]
    return jnp.stack([one["loss"].per_task for one in judged])


modes, names = np.asarray(test.context), list(families)
methods = {"MAML": maml(HIDDEN), "MMAML": mmaml(HIDDEN), "MAML, wider": maml(WIDER)}
table, learned, rows = {}, {}, []
for name, method in methods.items():
    params = jax.jit(jax.vmap(lambda rate: train(method, rate)))(jnp.asarray(RATES))  # noqa: B023
    judge = jax.jit(jax.vmap(lambda params, tasks: errors(method, params, tasks), (0, None)))  # noqa: B023
    best = int(np.nan_to_num(judge(params, validation)[:, 1].mean(axis=1), nan=np.inf).argmin())
    learned[name] = jax.tree.map(lambda leaf: leaf[best], params)  # noqa: B023
    numbers = sum(leaf.size for leaf in jax.tree.leaves(learned[name]))
    table[name] = np.asarray(judge(params, test)[best]), RATES[best], numbers
    if name == "MAML":
        judge_maml = judge
    print(
        f"{name}: {table[name][0][1].mean():.2f}, {time.perf_counter() - started:.0f} s so far",
        flush=True,
    )

# One MAML for each family, which sees a fifth of the tasks: those of its own.
own = lambda number, key: jax.lax.switch(number, list(families.values()), (), key)
one = lambda rate, number: train(
    methods["MAML"], rate, number, sample=own, tasks=TASKS // len(names)
)
every = jax.jit(jax.vmap(jax.vmap(one, (0, None)), (None, 0)))(
    jnp.asarray(RATES), jnp.arange(len(names))
)
told, chosen = np.zeros((2, JUDGED)), []
for number in range(len(names)):
    params = jax.tree.map(lambda leaf: leaf[number], every)  # noqa: B023
    mine = np.asarray(judge_maml(params, validation))[
        :, 1, np.asarray(validation.context) == number
    ].mean(axis=1)
    best = int(np.nan_to_num(mine, nan=np.inf).argmin())
    told[:, modes == number] = np.asarray(judge_maml(params, test))[best][:, modes == number]
    chosen.append(RATES[best])
table["MAML told the family"] = told, chosen, len(names) * table["MAML"][2]


def summary(values):
    """Mean and half the width of its 95 % interval over tasks."""
    return [float(number) for number in mj.summarize(jnp.asarray(values))[:2]]


print(
    f"Squared error on {JUDGED} tasks after {INNER_STEPS} steps, with {SHOTS} shots; noise alone makes {NOISE**2:.2f}"
)
for name, (error, rate, numbers) in table.items():
    row = {
        "method": name,
        "inner rate": rate,
        "numbers learned": numbers,
        "before": summary(error[0]),
    }
    row |= {"after": summary(error[1]), "minus MAML": summary(error[1] - table["MAML"][0][1])}
    row |= {family: summary(error[1][modes == number]) for number, family in enumerate(names)}
    rows.append(row)
    shown = " ".join(f"{family} {row[family][0]:.2f}" for family in names)
    after, paired = (
        "{:.2f} ± {:.2f}".format(*row["after"]),
        "{:+.2f} ± {:.2f}".format(*row["minus MAML"]),
    )
    print(
        f"{name:<21} {after} ({paired} against MAML; before {row['before'][0]:.2f}); {shown}; rate {rate}"
    )
took = time.perf_counter() - started
report = {
    "jax": jax.__version__,
    "device": jax.devices()[0].device_kind,
    "seconds": took,
    "outer_steps": options.steps,
}
report |= {"tasks": JUDGED, "shots": SHOTS, "noise": NOISE, "rows": rows}
(options.out / "task_modes.json").write_text(json.dumps(report, indent=1) + "\n")

# A function of each family: the points, the truth, and what each method makes of them before and after descent.
shown = jnp.asarray([int(np.flatnonzero(modes == number)[1]) for number in range(len(names))])
tasks, truth = (jax.tree.map(lambda leaf: leaf[shown], some) for some in (test, draw(0.0, 2)))
x = jnp.linspace(-5, 5, 200)[:, None]
figure, axes = plt.subplots(
    2, len(names), figsize=(15, 5.6), layout="constrained", sharey="col", sharex=True
)
for line, (method, colour) in zip(axes, (("MAML", "C3"), ("MMAML", "C0")), strict=True):
    _, adaptation, apply = methods[method]
    fit = lambda steps: jax.jit(
        jax.vmap(
            lambda support: mj.predict(
                adaptation(0.0, steps), apply, learned[method], support, x, KEY
            )
        )  # noqa: B023
    )(tasks.support)
    before, after = fit(0), fit(INNER_STEPS)
    for number, axis in enumerate(line):
        order = jnp.argsort(truth.query.x[number, :, 0])
        axis.plot(
            truth.query.x[number, order],
            truth.query.y[number, order],
            color="0.75",
            linewidth=4,
            label="truth",
        )
        axis.plot(x, before[number], ":", color=colour, label=f"{method}, before descent")
        axis.plot(x, after[number], color=colour, label=f"{method}, after {INNER_STEPS} steps")
        axis.plot(
            tasks.support.x[number], tasks.support.y[number], "ko", markersize=5, label="shots"
        )
        axis.set(
            title=names[number] if method == "MAML" else "", xlabel="x" if method == "MMAML" else ""
        )
        axis.spines[["top", "right"]].set_visible(False)
    line[0].legend(frameon=False, fontsize=8)
figure.savefig(options.out / "task_modes.png", dpi=100)
print(f"{took:.0f} s; see {options.out / 'task_modes.png'} and task_modes.json.")
