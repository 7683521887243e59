"""All 2^M subsets of M = 6 modalities in one compiled call, against a loop in Python.

A net of six encoders (MLPs), which run once, and a fusion classifies examples of random features.
What is computed is the probability of the right class with each of the 64 subsets, from which the
Shapley values of the modalities follow. The loop calls one compiled function for each subset, or
compiles nothing. Runs are interleaved; medians. Writes benchmarks/results/subsets.json.

python benchmarks/subsets.py
"""

import argparse
import functools
import json
import pathlib
import time

import harness
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import metajax as mj
from metajax import modalities

NAMES = ("audio", "depth", "image", "pose", "table", "text")
WAYS, INPUTS = 10, 64
SIZES = ((100, 32), (1000, 64))  # examples, and width of encoders and fusion
FIRST = "one compiled call"
EXACT = "loop, not compiled"

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--rounds", type=int, default=5, help="runs of each")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


def make_examples(rows):
    """Random examples; each modality has some information about the class."""
    rng = np.random.default_rng(0)
    y = rng.integers(WAYS, size=rows)
    value = {}
    for name in NAMES:
        centres = rng.normal(size=(WAYS, INPUTS)) / 2
        noise = rng.normal(size=(rows, INPUTS))
        value[name] = jnp.asarray(centres[y] + noise, jnp.float32)
    return mj.Batch(mj.data.as_modalities(value), jnp.asarray(y))


def make(width, rows):
    """The mean probability of the right class as a function of features, and features."""
    rngs = nnx.Rngs(0)
    encoders = {name: mj.nets.MLP(INPUTS, (width,), width, rngs=rngs) for name in NAMES}
    fusion = mj.nets.fusion.Gated(NAMES, width, rngs=rngs)
    net = mj.nets.Multimodal(encoders, fusion, width, WAYS, rngs=rngs)
    apply, params = mj.nets.functional(net)
    embed = functools.partial(apply, method="embed")
    encode = jax.jit(functools.partial(apply, method="encode"))
    batch = make_examples(rows)
    params = mj.prototypes(embed, WAYS).adapt(params, batch, jax.random.key(0))
    features = mj.data.as_modalities(encode(params, batch.x))
    right_NxW = jax.nn.one_hot(batch.y, WAYS)

    def probability(features):
        p_NxW = jax.nn.softmax(apply(params, features, method="decide"))
        return (p_NxW * right_NxW).sum(axis=1).mean()

    return probability, features


def measure(rows, width, rounds):
    """A row for each implementation."""
    probability, features = make(width, rows)
    restricted = []
    for mask in np.asarray(modalities.subsets(NAMES)):
        kept = [name for name, keep in zip(NAMES, mask, strict=True) if keep]
        restricted.append(modalities.restrict(features, kept))
    restricted = jax.block_until_ready(restricted)
    compiled = jax.jit(probability)
    together = jax.jit(functools.partial(modalities.all_subsets, probability))
    runs = {
        FIRST: lambda: together(features),
        "loop, one compiled function": lambda: jnp.stack([compiled(one) for one in restricted]),
        EXACT: lambda: jnp.stack([probability(one) for one in restricted]),
    }
    times, values = take_turns(runs, rounds)
    medians = {name: float(np.median(taken)) for name, taken in times.items()}
    result = []
    for name in runs:
        shapley = modalities.shapley(jnp.asarray(values[name])).tolist()
        result.append(
            {
                "implementation": name,
                "examples": rows,
                "width": width,
                "seconds": medians[name],
                "times_slower": medians[name] / medians[FIRST],
                "difference": float(np.abs(values[name] - values[EXACT]).max()),
                "shapley": dict(zip(NAMES, shapley, strict=True)),
            }
        )
    return result


def take_turns(runs, rounds):
    """({name: seconds of each round}, {name: its result}), after one round to warm up."""
    times = {name: [] for name in runs}
    values = {}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            values[name] = np.asarray(run())
            if turn:
                times[name].append(time.perf_counter() - started)
    return times, values


def main(options):
    rows = []
    for examples, width in SIZES:
        rows += measure(examples, width, options.rounds)
    report = harness.brief_header() | {"rounds": options.rounds, "rows": rows}
    print(json.dumps(report, indent=1))
    harness.save(options.out, "subsets", report)


if __name__ == "__main__":
    main(parser.parse_args())
