"""What each way to differentiate an inner loop costs: memory, time and bias. Writes differentiate.json and .png.

- transformer: workload W3. 6 layers, width 128, sequence 256, batch 4, 8 inner Adam steps; meta-parameters are weights
  of the examples. "Block remat" computes each layer again in its backward pass (`jax.checkpoint` in the net).
- digits: 5-way 5-shot tasks from scikit-learn's digits, an MLP of 40 hidden units, 100 steps of SGD with momentum and
  proximity 1; meta-parameters are the start and a learned decay. Here biased strategies show their bias.
- steps: temporary memory of the latter against the number of inner steps, 1 to 1 000.

    python benchmarks/differentiate.py
    python benchmarks/differentiate.py --tiny --repeats 1 --out /tmp/results    # a minute, to see that it runs
"""

import argparse
import json
import math
import os
import pathlib
import platform
import subprocess

import jax
import jax.numpy as jnp
import matplotlib
import optax
from flax import nnx

import metajax as mj

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

ROOT = pathlib.Path(__file__).parents[1]
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benchmarks" / "results")
options = parser.parse_args()

LAYERS, WIDTH, LENGTH, BATCH, HEADS, TOKENS = (2, 16, 16, 4, 2, 8) if options.tiny else (6, 128, 256, 4, 4, 64)
KEY = jax.random.key(0)


def transformer_block(w, x_BxTxD):
    q, k, v = (
        part.reshape(BATCH, LENGTH, HEADS, -1).swapaxes(1, 2)
        for part in jnp.split(jax.nn.standardize(x_BxTxD) @ w["qkv"], 3, axis=-1)
    )
    scores_BxHxTxT = q @ k.swapaxes(2, 3) / math.sqrt(WIDTH // HEADS)
    causal = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))
    mixed = jax.nn.softmax(jnp.where(causal, scores_BxHxTxT, -1e9)) @ v
    x_BxTxD += mixed.swapaxes(1, 2).reshape(x_BxTxD.shape) @ w["out"]
    return x_BxTxD + jax.nn.gelu(jax.nn.standardize(x_BxTxD) @ w["up"]) @ w["down"]


def transformer_start():
    def normal(number, *shape):
        return jax.random.normal(jax.random.fold_in(KEY, number), shape) / math.sqrt(shape[-2])

    shapes = {"qkv": (WIDTH, 3 * WIDTH), "out": (WIDTH, WIDTH), "up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH)}
    blocks = {name: normal(number, LAYERS, *shape) for number, (name, shape) in enumerate(shapes.items())}
    return {"embed": normal(9, TOKENS, WIDTH), "blocks": blocks}


def next_token_loss(block_remat, weighted):
    block = jax.checkpoint(transformer_block, prevent_cse=False) if block_remat else transformer_block

    def loss(params, batch, key):
        embed = params.fast["embed"]
        x = jax.lax.scan(lambda x, w: (block(w, x), None), embed[batch.x], params.fast["blocks"])[0]
        per_token = optax.softmax_cross_entropy_with_integer_labels(x @ embed.T, batch.y)
        per_example = per_token.mean(axis=1)
        return (per_example * jax.nn.sigmoid(params.slow) if weighted else per_example).mean(), {}

    return loss


def transformer():
    start = transformer_start()
    text = jax.random.randint(KEY, (1, 2, BATCH, LENGTH + 1), 0, TOKENS)
    tasks = mj.Task(*(mj.Batch(text[:, n, :, :-1], text[:, n, :, 1:]) for n in (0, 1)))

    def make(choice):
        strategy, block_remat = choice
        optimizer = optax.adam(1e-3, eps_root=1e-8)
        inner_loss = next_token_loss(block_remat, weighted=True)
        adaptation = mj.inner_loop(inner_loss, optimizer, steps=8, differentiate=strategy)
        task_loss = mj.episode(adaptation, next_token_loss(block_remat, weighted=False))
        return lambda slow, task, key: task_loss(mj.Params(start, slow), task, key)

    choices = {
        "`unroll()`": (mj.unroll(), False),
        "`unroll(remat=1)`": (mj.unroll(remat=1), False),
        "`unroll(remat=1)`, block remat": (mj.unroll(remat=1), True),
        "`mixed_mode()`": (mj.mixed_mode(), False),
        "`mixed_mode(save_gradients=False)`, block remat": (mj.mixed_mode(save_gradients=False), True),
        "`mixed_mode()`, block remat": (mj.mixed_mode(), True),
    }
    return mj.estimate_cost(make, choices, jnp.zeros(BATCH), tasks, repeats=options.repeats)


def digits_problem(steps, number):
    digits = load_digits()
    dataset = mj.data.dataset((digits.data / 16).astype("float32"), digits.target)
    tasks = mj.data.meta_batch(mj.data.episodes(ways=5, shots=5, queries=10), tasks=number)(dataset, KEY)
    apply, params = mj.nets.functional(mj.nets.MLP(64, (40,), 5, rngs=nnx.Rngs(0)))
    params = params._replace(slow={"decay": jnp.array(-3.0)})
    query_loss = mj.losses.cross_entropy(lambda params, *xs, **named: apply(params._replace(slow={}), *xs, **named))

    def inner_loss(params, batch, key):
        value, metrics = query_loss(params, batch, key)
        return value + 0.5 * jnp.exp(params.slow["decay"]) * optax.tree.norm(params.fast, squared=True), metrics

    def make(strategy):
        optimizer = optax.sgd(0.02, momentum=0.9)
        adaptation = mj.inner_loop(inner_loss, optimizer, steps=steps, proximity=1.0, differentiate=strategy)
        return mj.episode(adaptation, query_loss)

    return make, params, tasks


def digits():
    strategies = {
        "`unroll()`": mj.unroll(),
        "`unroll(remat=1)`": mj.unroll(remat=1),
        "`unroll(remat=2)`": mj.unroll(remat=2),
        "`mixed_mode()`": mj.mixed_mode(),
        "`implicit()`": mj.implicit(),
        "`implicit(neumann(terms=20, rate=0.2), tolerance=math.inf)`": mj.implicit(
            mj.neumann(terms=20, rate=0.2), tolerance=math.inf
        ),
        "`truncated(20)`": mj.truncated(20),
        "`truncated(5)`": mj.truncated(5),
        "`one_step()`": mj.one_step(),
        "`one_step(difference=0.01)`": mj.one_step(difference=0.01),
        "`first_order()`": mj.first_order(),
    }
    make, params, tasks = digits_problem(steps=100, number=2 if options.tiny else 8)
    return mj.estimate_cost(make, strategies, params, tasks, repeats=4 * options.repeats)


def steps():
    """Temporary bytes against the number of steps, one task."""
    strategies = {
        "unroll()": mj.unroll(),
        "unroll(remat=1)": mj.unroll(remat=1),
        "unroll(remat=2)": mj.unroll(remat=2),
        "unroll(remat=3)": mj.unroll(remat=3),
        "mixed_mode()": mj.mixed_mode(),
        "mixed_mode(remat=2)": mj.mixed_mode(remat=2),
        "truncated(5)": mj.truncated(5),
        "implicit()": mj.implicit(),
        "first_order()": mj.first_order(),
    }
    numbers = (1, 10) if options.tiny else (1, 3, 10, 30, 100, 300, 1000)
    rows = []
    for number in numbers:
        make, params, tasks = digits_problem(number, number=1)
        possible = {name: s for name, s in strategies.items() if number >= 5 or name != "truncated(5)"}
        for name, cost in mj.estimate_cost(make, possible, params, tasks).items():
            rows.append({"steps": number, "implementation": name, "temporary_bytes": cost.temporary_bytes})
    return rows


def draw(report, path):
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name in dict.fromkeys(row["implementation"] for row in report["steps"]):
        points = [(r["steps"], r["temporary_bytes"] / 1e6) for r in report["steps"] if r["implementation"] == name]
        style = "--" if name.startswith("mixed") else "-"  # some of these lie on an unroll
        left.loglog(*zip(*points, strict=True), style, marker="o", markersize=3, label=name)
    left.set(
        xlabel="inner steps", ylabel="temporaries, MB", title="MLP, 5-way 5-shot digits: memory of a meta-gradient"
    )
    left.legend(fontsize=8)
    for row in report["transformer"]:
        label = row["implementation"].replace("`", "")
        right.scatter(row["temporary_bytes"] / 1e6, row["run_seconds"], s=50, label=label)
    right.set(xlabel="temporaries, MB", ylabel="seconds", title="Transformer, 8 Adam steps (W3): the same gradient")
    right.set(
        xscale="log", ylim=(0, None), xticks=[200, 500, 1000, 2000, 5000], xticklabels=[200, 500, 1000, 2000, 5000]
    )
    right.minorticks_off()
    right.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def rows(costs):
    return [{"implementation": name, **cost._asdict()} for name, cost in costs.items()]


command = ["git", "rev-parse", "--short", "HEAD"]
report = {
    "commit": subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip(),
    "jax": jax.__version__,
    "device": f"{jax.devices()[0].device_kind}, {platform.machine()}",
    "threads": os.cpu_count(),
    "seed": 0,
}
for part in (transformer, digits):
    costs = part()
    print(mj.cost_table(costs), flush=True)
    report[part.__name__] = rows(costs)
report["steps"] = steps()
options.out.mkdir(parents=True, exist_ok=True)
(options.out / "differentiate.json").write_text(json.dumps(report, indent=1) + "\n")
draw(report, options.out / "differentiate.png")
