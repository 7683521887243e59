"""A layer of fast weights: seconds and temporary memory, beside causal attention.

One training step (the gradient of all weights of the layer) is timed

- against the chunk, from 1 to 1 024 tokens, for each rule by its dual form; token by token beside;
- against the length of the sequence, up to 8 192 tokens, with and without `remat`;
- inside an inner loop of two steps, with three strategies: what mixed mode saves.

Writes benchmarks/results/fast_weights.json.

python benchmarks/fast_weights.py
python benchmarks/fast_weights.py --tiny --out /tmp/results    # to see that it runs
"""

import argparse
import functools
import pathlib

import harness
import jax
import optax
from flax import nnx

import metajax as mj
from metajax import nets

WIDTH, HEADS, SEQUENCES = 64, 2, 4
KEY = jax.random.key(0)
RULES = {
    "descent": nets.descent,
    "descent, momentum": functools.partial(nets.descent, momentum=True),
    "orthogonal": nets.orthogonal_descent,
    "delta rule": nets.delta_rule,
    "ridge": nets.ridge_rule,
}
STRATEGIES = {
    "unroll()": mj.unroll(),
    "unroll(remat=1)": mj.unroll(remat=1),
    "mixed_mode()": mj.mixed_mode(),
}
parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


def fast_layer(rule="descent", **options):
    return nets.FastWeights(WIDTH, HEADS, RULES[rule](), decay=None, rngs=nnx.Rngs(0), **options)


class CausalAttention(nnx.Module):
    """A layer of attention that has the arguments of a layer of fast weights."""

    def __init__(self):
        self.attention = nets.Attention(WIDTH, HEADS, causal=True, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.attention(x, x)


def training_step(layer, length):
    """(gradient, its arguments): of the squared error to the input."""
    apply, params = nets.functional(layer)
    x = jax.random.normal(KEY, (SEQUENCES, length, WIDTH))
    loss = mj.losses.squared_error(apply)
    return jax.grad(lambda params, x: loss(params, mj.Batch(x, x), KEY)[0]), (params, x)


def meta_gradient(layer, length, strategy):
    """(gradient, its arguments): through an inner loop of two steps over all weights."""
    apply, params = nets.functional(layer)
    x = jax.random.normal(KEY, (SEQUENCES, length, WIDTH))
    loss = mj.losses.squared_error(apply)
    step = mj.inner_loop(loss, optax.sgd(0.1), steps=2, differentiate=strategy)
    task_loss = mj.query_loss(step, loss)
    batch = mj.Batch(x, x)
    return jax.grad(lambda params, x: task_loss(params, mj.Task(batch, batch), KEY)[0]), (params, x)


def measure(cases, repeats):
    """Rows for {(what, ...): (function, arguments)}, timed in turn."""
    programs, rows = {}, {}
    for case, (function, arguments) in cases.items():
        program, cost = harness.compile_timed(function, *arguments)
        programs[case] = functools.partial(program, *arguments)
        rows[case] = {"compile_seconds": cost["compile_seconds"]}
        rows[case]["temporary_bytes"] = cost["temporary_bytes"]
    for case, times in harness.in_turn(programs, repeats).items():
        rows[case] |= harness.median(times)
        print(case, rows[case], flush=True)
    return rows


def as_rows(found, *columns):
    return [dict(zip(columns, case, strict=True)) | row for case, row in found.items()]


def main(options):
    sizes, length, lengths = (1, 4, 16, 64, 256, 1024), 1024, (256, 1024, 4096, 8192)
    if options.tiny:
        sizes, length, lengths = (4,), 8, (8,)
    by_chunk = {}
    for rule in ("delta rule",) if options.tiny else RULES:
        for chunk in sizes:
            by_chunk[rule, "dual form", chunk] = training_step(
                fast_layer(rule, chunk=chunk), length
            )
        chunk = min(16, length)
        layer = fast_layer(rule, chunk=chunk, dual=False)
        by_chunk[rule, "token by token", chunk] = training_step(layer, length)
    by_chunk["causal attention", "", length] = training_step(CausalAttention(), length)
    by_length = {}
    for tokens in lengths:
        by_length["causal attention", tokens] = training_step(CausalAttention(), tokens)
        for rule in ("descent", "delta rule"):
            of_rule = lambda remat, rule=rule: fast_layer(rule, chunk=min(64, length), remat=remat)
            by_length[rule, tokens] = training_step(of_rule(False), tokens)
            by_length[f"{rule}, remat", tokens] = training_step(of_rule(True), tokens)
    by_strategy = {
        (rule, name): meta_gradient(fast_layer(rule, chunk=min(64, length)), length, strategy)
        for rule in ("descent", "delta rule")
        for name, strategy in STRATEGIES.items()
    }
    report = harness.header(
        seed=0,
        sequences=SEQUENCES,
        width=WIDTH,
        heads=HEADS,
        tokens=length,
        chunks=as_rows(measure(by_chunk, options.repeats), "layer", "form", "chunk"),
        lengths=as_rows(measure(by_length, options.repeats), "layer", "tokens"),
        strategies=as_rows(measure(by_strategy, options.repeats), "layer", "strategy"),
    )
    harness.save(options.out, "fast_weights", report)


if __name__ == "__main__":
    main(parser.parse_args())
