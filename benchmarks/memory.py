"""Workload W3: memory and time of one meta-gradient through Adam on a transformer, by strategy.

6 layers, width 128, sequence 256, batch 4, 8 inner Adam steps; the meta-parameters are weights of
the examples. "Block remat" computes each layer again in its backward pass (`jax.checkpoint` in the
net). Gradients are compared before anything is timed, and the runs are interleaved. Writes
benchmarks/results/memory.json and .png. With --long: the same at sequence 1 024, with all scores of
attention at once and in chunks (`chunked_attention`); programs that need more than 8 GB, and with
--repeats 0 all, are compiled and not run. Writes benchmarks/results/memory_long.json.

python benchmarks/memory.py
python benchmarks/memory.py --long --repeats 0
python benchmarks/memory.py --tiny --repeats 1 --out /tmp/results    # to see that it runs
"""

import argparse
import functools
import itertools
import math
import pathlib
import statistics
from typing import NamedTuple

import harness
import jax
import jax.numpy as jnp
import optax

import metajax as mj

KEY = jax.random.key(0)


class Sizes(NamedTuple):
    layers: int = 6
    width: int = 128
    length: int = 256
    batch: int = 4
    heads: int = 4
    tokens: int = 64
    steps: int = 8
    chunked: bool = False


TINY = Sizes(layers=2, width=16, length=16, heads=2, tokens=8, steps=3)
STRATEGIES = {
    "`unroll()`": (mj.unroll(), False),
    "`unroll(remat=1)`": (mj.unroll(remat=1), False),
    "`unroll(remat=1)`, block remat": (mj.unroll(remat=1), True),
    "`mixed_mode()`": (mj.mixed_mode(), False),
    "`mixed_mode(save_gradients=False)`, block remat": (mj.mixed_mode(save_gradients=False), True),
    "`mixed_mode()`, block remat": (mj.mixed_mode(), True),
}
"""{name: (strategy, whether the layers are computed again in the backward pass)}."""

MOST_BYTES = 8e9
LONG = (
    "`unroll()`",
    "`unroll(remat=1)`, block remat",
    "`mixed_mode()`",
    "`mixed_mode()`, block remat",
)
TINY_STRATEGIES = (
    "`unroll()`",
    "`unroll(remat=1)`, block remat",
    "`mixed_mode()`",
    "`mixed_mode(save_gradients=False)`, block remat",
)

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--long", action="store_true", help="at sequence 1 024")
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


def normal(number, *shape):
    """Random weights of variance 1 / inputs."""
    return jax.random.normal(jax.random.fold_in(KEY, number), shape) / math.sqrt(shape[-2])


def start(sizes):
    """Weights of the transformer, those of the layers stacked."""
    width = sizes.width
    shapes = {
        "qkv": (width, 3 * width),
        "out": (width, width),
        "up": (width, 4 * width),
        "down": (4 * width, width),
    }
    blocks = {}
    for number, (name, shape) in enumerate(shapes.items()):
        blocks[name] = normal(number, sizes.layers, *shape)
    return {"embed": normal(9, sizes.tokens, width), "blocks": blocks}


def block(weights, x_BxTxD, heads, chunked):
    """One layer: causal attention and two linear layers, each added to its input."""
    attend = attention_in_chunks if chunked else attention
    x_BxTxD += attend(weights, jax.nn.standardize(x_BxTxD), heads)
    hidden = jax.nn.gelu(jax.nn.standardize(x_BxTxD) @ weights["up"])
    return x_BxTxD + hidden @ weights["down"]


def attention(weights, x_BxTxD, heads):
    batch, length, width = x_BxTxD.shape

    def split_heads(part_BxTxD):
        return part_BxTxD.reshape(batch, length, heads, -1).swapaxes(1, 2)

    q, k, v = map(split_heads, jnp.split(x_BxTxD @ weights["qkv"], 3, axis=-1))
    scores_BxHxTxT = q @ k.swapaxes(2, 3) / math.sqrt(width // heads)
    causal_TxT = jnp.tril(jnp.ones((length, length), bool))
    mixed = jax.nn.softmax(jnp.where(causal_TxT, scores_BxHxTxT, -1e9)) @ v
    return mixed.swapaxes(1, 2).reshape(x_BxTxD.shape) @ weights["out"]


def attention_in_chunks(weights, x_BxTxD, heads):
    """The same as `attention`, with one chunk of the scores at a time."""
    parts = (x_BxTxD @ weights["qkv"]).reshape(*x_BxTxD.shape[:2], 3, heads, -1)
    q, k, v = jnp.moveaxis(parts, 2, 0)
    mixed = mj.nets.chunked_attention(q, k, v, causal=True)
    return mixed.reshape(x_BxTxD.shape) @ weights["out"]


def next_token_loss(sizes, block_remat, weighted):
    """The cross-entropy of the next token, of examples that may be weighted by `params.slow`."""

    def layer(x, weights):
        return block(weights, x, sizes.heads, sizes.chunked), None

    if block_remat:
        layer = jax.checkpoint(layer, prevent_cse=False)

    def loss(params, batch, key):
        embed = params.fast["embed"]
        x, _ = jax.lax.scan(layer, embed[batch.x], params.fast["blocks"])
        per_token = optax.softmax_cross_entropy_with_integer_labels(x @ embed.T, batch.y)
        per_example = per_token.mean(axis=1)
        if weighted:
            per_example = per_example * jax.nn.sigmoid(params.slow)
        return per_example.mean(), {}

    return loss


def meta_gradient(sizes, strategy, block_remat):
    """(function, its argument): the gradient with respect to the weights of the examples."""
    fast = start(sizes)
    text = jax.random.randint(KEY, (2, sizes.batch, sizes.length + 1), 0, sizes.tokens)
    support, query = (mj.Batch(rows[:, :-1], rows[:, 1:]) for rows in text)
    inner_loss = next_token_loss(sizes, block_remat, weighted=True)
    optimizer = optax.adam(1e-3, eps_root=1e-8)
    adaptation = mj.inner_loop(inner_loss, optimizer, steps=sizes.steps, differentiate=strategy)
    outer_loss = next_token_loss(sizes, block_remat, weighted=False)
    task_loss = mj.query_loss(adaptation, outer_loss)

    def value(slow):
        return task_loss(mj.Params(fast, slow), mj.Task(support, query), KEY)[0]

    return jax.grad(value), jnp.zeros(sizes.batch)


def measure(sizes, repeats, strategies=STRATEGIES):
    """A row for each strategy; ratios are to the first."""
    runs = {}
    costs = {}
    for name, (strategy, block_remat) in strategies.items():
        gradient, weights = meta_gradient(sizes, strategy, block_remat)
        program, costs[name] = harness.compile_timed(gradient, weights)
        runs[name] = lambda program=program, weights=weights: program(weights)
        print(f"{name}: {costs[name]['temporary_bytes'] / 1e6:.4g} MB", flush=True)
    gradients = {name: run() for name, run in runs.items()}
    reference = next(iter(gradients.values()))
    rows = []
    for name, times in harness.in_turn(runs, repeats).items():
        row = {"workload": "W3", "implementation": name}
        row |= harness.median(times)
        row |= costs[name]
        row["gradient_error"] = harness.difference(gradients[name], reference)
        first = rows[0] if rows else row
        row["ratio"] = first["seconds"] / row["seconds"]
        speed = f"{row['ratio']:.2f} times the speed of the first"
        print(f"{name}: {row['seconds']:.4g} s, {speed}", flush=True)
        rows.append(row)
    return rows


def measure_long(sizes, repeats, strategies):
    """A row for each strategy and way of attention, run where it needs little enough."""
    rows, reference = [], None
    for (name, (strategy, block_remat)), chunked in itertools.product(
        strategies.items(), (True, False)
    ):
        arguments = (sizes._replace(chunked=chunked), strategy, block_remat)
        gradient, weights = meta_gradient(*arguments)
        program, cost = harness.compile_timed(gradient, weights)
        row = {"implementation": name, "in chunks": chunked} | cost
        if repeats and cost["temporary_bytes"] <= MOST_BYTES:
            found = program(weights)
            reference = found if reference is None else reference
            row["gradient_error"] = harness.difference(found, reference)
            run = functools.partial(program, weights)
            row["seconds"] = statistics.median(harness.seconds(run) for _ in range(repeats))
        rows.append(row)
        print(row, flush=True)
    return rows


def draw(rows, path):
    """Memory and seconds of every strategy."""
    import matplotlib
    from matplotlib.figure import Figure

    memory = {}
    seconds = {}
    for row in rows:
        name = row["implementation"].replace("`", "")
        low, high = row["interval"]
        memory[name] = row["temporary_bytes"] / 1e6, 0.0
        seconds[name] = row["seconds"], (high - low) / 2
    with matplotlib.rc_context(dict(mj.plots.STYLE)):
        figure = Figure(figsize=(10, 3.2))
        left, right = figure.subplots(1, 2, sharey=True)
        title = "Transformer, 8 Adam steps: one gradient"
        mj.plots.dot_plot(left, {"": memory}, xlabel="memory of temporaries, MB", title=title)
        ticks = [200, 500, 1000, 2000, 5000]
        left.set(xscale="log", xticks=ticks, xticklabels=ticks)
        left.minorticks_off()
        xlabel = "seconds, median with 95 % interval"
        mj.plots.dot_plot(right, {"": seconds}, xlabel=xlabel, title="The same, in time")
        right.set_xlim(0, None)
        figure.savefig(path)


def main(options):
    few = {name: STRATEGIES[name] for name in TINY_STRATEGIES}
    if options.long:
        sizes = TINY if options.tiny else Sizes(length=1024)
        some = few if options.tiny else {name: STRATEGIES[name] for name in LONG}
        rows = measure_long(sizes, options.repeats, some)
        harness.save(options.out, "memory_long", harness.header(seed=0, rows=rows))
        return
    if options.tiny:
        rows = measure(TINY, options.repeats, few)
    else:
        rows = measure(Sizes(), options.repeats)
    harness.save(options.out, "memory", harness.header(seed=0, rows=rows))
    draw(rows, options.out / "memory.png")


if __name__ == "__main__":
    main(parser.parse_args())
