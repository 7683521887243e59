"""Attention over long sequences: all scores at once, or a chunk of them at a time.

One layer of attention is adapted by two inner steps. For each length of the sequence: temporary
memory of the compiled program, and seconds where that memory is at most 4 GB, of the value, of its
gradient, and of the meta-gradient under each strategy; and how far chunks are from all scores.
Writes benchmarks/results/attention.json.

python benchmarks/attention.py
python benchmarks/attention.py --tiny --out /tmp/results    # to see that it runs
"""

import argparse
import pathlib
import statistics
import time

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import metajax as mj

WIDTH, HEADS = 64, 4
MOST_BYTES = 4e9
KEY = jax.random.key(0)
STRATEGIES = {
    "unroll()": mj.unroll(),
    "unroll(remat=1)": mj.unroll(remat=1),
    "mixed_mode()": mj.mixed_mode(),
}
parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--repeats", type=int, default=3)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


def all_at_once(queries, keys, values):
    """softmax(Q Kᵀ / √d) V of each head, [n, t, heads, d]."""
    scores = jnp.einsum("nqhd,nthd->nhqt", queries, keys) / queries.shape[-1] ** 0.5
    return jnp.einsum("nhqt,nthd->nqhd", jax.nn.softmax(scores), values)


WAYS = {"all at once": all_at_once, "in chunks": mj.nets.chunked_attention}


class Layer(nnx.Module):
    """One layer of attention, and a linear head."""

    def __init__(self, attend, rngs):
        self.project = nnx.Linear(WIDTH, 3 * WIDTH, use_bias=False, rngs=rngs)
        self.head = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.attend = attend

    def __call__(self, x):
        """[n, t, WIDTH] -> [n, t, WIDTH]."""
        parts = self.project(x).reshape(*x.shape[:2], 3, HEADS, -1)
        read = self.attend(parts[:, :, 0], parts[:, :, 1], parts[:, :, 2])
        return self.head(read.reshape(x.shape))


def programs(attend, x):
    """{what: function of the params}."""
    apply, params = mj.nets.functional(Layer(attend, nnx.Rngs(0)))
    batch = mj.Batch(x, jnp.roll(x, -1, axis=1))
    loss = mj.losses.squared_error(apply)
    value = lambda params: loss(params, batch, KEY)[0]
    found = {"value": value, "gradient": jax.grad(value)}
    for name, strategy in STRATEGIES.items():
        adaptation = mj.inner_loop(loss, optax.sgd(0.1), steps=2, differentiate=strategy)
        task_loss = mj.query_loss(adaptation, loss)
        found[f"meta-gradient, {name}"] = jax.grad(
            lambda params, task_loss=task_loss: task_loss(params, mj.Task(batch, batch), KEY)[0]
        )
    return found, params


def measure(length, repeats):
    """A row for each way and each program, of one length."""
    x = jax.random.normal(KEY, (1, length, WIDTH))
    rows, results = [], {}
    for way, attend in WAYS.items():
        functions, params = programs(attend, x)
        for what, function in functions.items():
            program, cost = harness.compile_timed(function, params)
            row = {"tokens": length, "way": way, "what": what}
            row["temporary_bytes"] = cost["temporary_bytes"]
            if cost["temporary_bytes"] <= MOST_BYTES:
                result = jax.block_until_ready(program(params))
                taken = []
                for _ in range(repeats):
                    started = time.perf_counter()
                    jax.block_until_ready(program(params))
                    taken.append(time.perf_counter() - started)
                row["seconds"] = statistics.median(taken)
                row["difference"] = difference(result, results.setdefault(what, result))
            rows.append(row)
            print(row, flush=True)
    return rows


def difference(found, expected):
    """Relative difference of two trees."""
    one, other = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (found, expected)
    )
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


def main(options):
    lengths = (64,) if options.tiny else (512, 1024, 2048, 4096, 8192)
    rows = [row for length in lengths for row in measure(length, options.repeats)]
    harness.save(
        options.out, "attention", harness.header(seed=0, repeats=options.repeats, rows=rows)
    )


if __name__ == "__main__":
    main(parser.parse_args())
