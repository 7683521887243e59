"""Rare kinds of tasks, with risk-aware batches and with a loss of the worst tasks.

A task is to tell five printed letters of one script, with one shot. In training 90 % of the tasks
are Latin, and 4, 3, 2 and 1 % Cyrillic, Greek, Armenian and Georgian; in the test all scripts are
equally frequent, and their letters are new. The ways to train a net of class means:

- as drawn: the control;
- risk-aware batches: of 16 drawn tasks, four are kept by the predicted loss of their script
  (`risky_batch`), which is measured 20 times on tasks of the letters of the training;
- loss of the worst fifth (`tail_loss`);
- scripts in equal parts: what one would do who knows the kinds of tasks;
- 20 tasks a step in place of four, as drawn and with the loss of the worst fifth, which is then of
  four tasks.

Reports the mean and the worst tenth of 1 000 test tasks, and the accuracy by script; intervals are
over seeds, differences are paired by seed. Writes benchmarks/results/rare_tasks.json.

METAJAX_DATA=folder python benchmarks/rare_tasks.py
METAJAX_DATA=folder python benchmarks/rare_tasks.py --tiny --out /tmp/results    # that it runs
"""

import argparse
import functools
import pathlib

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from single_tasks import cell

import metajax as mj
from metajax import nets

SHARES = {"Latin": 0.90, "Cyrillic": 0.04, "Greek": 0.03, "Armenian": 0.02, "Georgian": 0.01}
WAYS, SHOTS, QUERIES, TASKS, DRAWN, ROUNDS = 5, 1, 5, 4, 16, 20
CONTROL, RISKY = "as drawn", "risk-aware batches"
WORST, EQUAL = "loss of the worst fifth", "scripts in equal parts"
MANY, WORST_OF_MANY = "20 tasks a step", "loss of the worst fifth of 20 tasks"
ARMS = (CONTROL, RISKY, WORST, EQUAL, MANY, WORST_OF_MANY)

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--seeds", type=int, default=5)
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--tests", type=int, default=1000)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


def parts_of():
    """({part: a data set for each script}, digest): half of the letters for each."""
    source = mj.data.glyphs()
    names = [name for name in source.names if mj.data.group_of(name) in SHARES]
    source = mj.data.select(source, lambda name: name in names)
    rng = np.random.default_rng(0)
    is_train = dict(zip(names, rng.permutation(len(names)) % 2 == 0, strict=True))
    predicates = {"train": lambda name: is_train[name], "test": lambda name: not is_train[name]}
    split = mj.data.class_split("letters", predicates, names)
    parts = {}
    for part in predicates:
        kept = mj.data.select_part(source, split, part)
        parts[part] = [
            mj.data.select(kept, lambda name, script=script: mj.data.group_of(name) == script)
            for script in SHARES
        ]
    return parts, split.digest


def scripts_sampler(shares):
    """Sampler of tasks of one script; the number of the script is the context of the task."""
    one = mj.data.episodes(WAYS, SHOTS, QUERIES)

    def sample(sources, key):
        script_key, task_key = jax.random.split(key)
        script = jax.random.categorical(script_key, jnp.log(jnp.array(shares)))
        draw = lambda source: lambda key: one(source, key)
        task = jax.lax.switch(script, [draw(source) for source in sources], task_key)
        return task._replace(context=script)

    return sample


def net():
    """(the task loss of a test, seed -> params)."""
    make = lambda seed: nets.functional(nets.Conv4(WAYS, width=32, rngs=nnx.Rngs(seed)))
    embed = functools.partial(make(0)[0], method="embed")
    loss = mj.query_loss(mj.prototypes(embed, WAYS), mj.losses.cross_entropy(mj.linear_head(embed)))
    # The number of the script is for the batches, not for the net.
    without_script = lambda params, task, key: loss(params, task._replace(context=()), key)
    return without_script, lambda seed: make(seed)[1]


def trainer(arm, test_loss, sources, steps, rounds):
    """(params, seed) -> params after training in one of the ways."""
    equal = [1 / len(SHARES)] * len(SHARES)
    sample = scripts_sampler(equal if arm == EQUAL else list(SHARES.values()))
    draw = lambda source, key: sample(source[0], key)
    batch = mj.data.meta_batch(draw, 5 * TASKS if arm in (MANY, WORST_OF_MANY) else TASKS)
    if arm == RISKY:
        risk = lambda source, task: source[1][task.context]
        batch = mj.data.risky_batch(draw, risk, tasks=TASKS, drawn=DRAWN, temperature=0.2)
    is_of_worst = arm in (WORST, WORST_OF_MANY)
    task_loss = mj.outer.tail_loss(test_loss, 0.2) if is_of_worst else test_loss
    # The threshold of the worst tasks has far to go: a learning rate of its own.
    rates = {"net": 2e-3, "threshold": 5e-2}
    adam = lambda rate: optax.adam(optax.cosine_decay_schedule(rate, steps))
    kinds = lambda params: jax.tree_util.tree_map_with_path(
        lambda path, _: "threshold" if "tail_threshold" in str(path) else "net", params
    )
    optimizer = optax.multi_transform({kind: adam(rate) for kind, rate in rates.items()}, kinds)
    loop = mj.outer_loop(task_loss, optimizer)
    of_scripts = mj.data.meta_batch(scripts_sampler(equal), 16 * len(SHARES))

    @jax.jit
    def train_on(state, losses, key):
        return mj.training.scan(
            loop, state, batch, (sources, losses), key, steps=max(steps // rounds, 1)
        )[0]

    @jax.jit
    def losses_of_scripts(params, key):
        draw_key, loss_key = jax.random.split(key)
        tasks = of_scripts(sources, draw_key)
        run = lambda task: test_loss(params, task, loss_key)[0]
        found = jax.lax.map(run, tasks)
        total = jax.ops.segment_sum(found, tasks.context, len(SHARES))
        return total / jnp.maximum(jnp.bincount(tasks.context, length=len(SHARES)), 1)

    def train(params, seed):
        if is_of_worst:
            slow = {**params.slow, "tail_threshold": jnp.array(1.0)}
            params = params._replace(slow=slow)
        state, losses = loop.init(params), jnp.zeros(len(SHARES))
        for number in range(rounds):
            train_key, test_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), number))
            state = train_on(state, losses, train_key)
            if arm == RISKY:
                losses = losses_of_scripts(state.params, test_key)
        return state.params

    return train


def main(options):
    seeds, steps, tests, rounds = options.seeds, options.steps, options.tests, ROUNDS
    if options.tiny:
        seeds, steps, tests, rounds = 2, 2, 20, 2
    parts, digest = parts_of()
    sample = jax.jit(mj.data.meta_batch(scripts_sampler([1 / len(SHARES)] * len(SHARES)), tests))
    test_loss, start = net()
    found = {}
    for arm in ARMS:
        train = trainer(arm, test_loss, parts["train"], steps, rounds)
        found[arm] = []
        for seed in range(seeds):
            tasks = sample(parts["test"], jax.random.key(1000 + seed))
            params = train(start(seed), seed)
            summary = mj.evaluate(test_loss, params, tasks, jax.random.key(0), tasks_at_once=20)[
                "accuracy"
            ]
            values = {"mean": float(summary.mean), "worst tenth": float(summary.lowest.mean)}
            for number, script in enumerate(SHARES):
                values[script] = float(summary.per_task[tasks.context == number].mean())
            found[arm].append(values)
            print(arm, seed, values, flush=True)
    rows = {}
    for arm in ARMS:
        of = lambda name, arm=arm: np.array([values[name] for values in found[arm]])
        rows[arm] = {
            name: {"accuracy": cell(of(name)), "minus control": cell(of(name) - of(name, CONTROL))}
            for name in found[arm][0]
        }
    report = harness.header(
        seed=0, seeds=seeds, steps=steps, tests=tests, digest=digest, shares=SHARES, rows=rows
    )
    harness.save(options.out, "rare_tasks", report)


if __name__ == "__main__":
    main(parser.parse_args())
