"""All 2^M subsets of M = 6 modalities in one compiled call, against a loop in Python over the subsets.

A net of six encoders (MLPs), which run once, and a fusion classifies examples of random features; what is measured is
the probability of the right class with each of the 64 subsets, from which the Shapley values of the modalities follow.
The loop calls one compiled function for each subset, or compiles nothing. Runs are interleaved; medians.

    python benchmarks/subsets.py --out benchmarks/results
"""

import argparse
import functools
import json
import os
import pathlib
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import metajax as mj
from metajax import modalities

NAMES, WAYS, INPUTS = ("audio", "depth", "image", "pose", "table", "text"), 10, 64
SIZES = ((100, 32), (1000, 64))  # examples, and width of encoders and fusion

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--rounds", type=int, default=5, help="runs of each")
parser.add_argument(
    "--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "results", help="folder"
)


def make(width, rows):
    """(judge, examples): each modality knows a little; judge: Modalities -> mean probability of the right class."""
    rngs, rng = nnx.Rngs(0), np.random.default_rng(0)
    encoders = {name: mj.nets.MLP(INPUTS, (width,), width, rngs=rngs) for name in NAMES}
    fusion = mj.nets.fusion.Gated(NAMES, width, rngs=rngs)
    apply, params = mj.nets.functional(mj.nets.Multimodal(encoders, fusion, width, WAYS, rngs=rngs))
    y = jnp.asarray(rng.integers(WAYS, size=rows))
    x = {
        name: rng.normal(size=(WAYS, INPUTS))[y] / 2 + rng.normal(size=(rows, INPUTS))
        for name in NAMES
    }
    x = mj.data.as_modalities({name: jnp.asarray(value, jnp.float32) for name, value in x.items()})
    embed = functools.partial(apply, method="embed")
    params = mj.prototypes(embed, WAYS).adapt(params, mj.Batch(x, y), jax.random.key(0))
    right = jax.nn.one_hot(y, WAYS)
    features = mj.data.as_modalities(jax.jit(functools.partial(apply, method="encode"))(params, x))
    answer = functools.partial(apply, params, method="decide")
    return lambda x: (jax.nn.softmax(answer(x)) * right).sum(axis=1).mean(), features


def measure(rows, width, rounds):
    """A row for each implementation."""
    judge, x = make(width, rows)
    masks = np.asarray(modalities.subsets(NAMES))
    chosen = [[name for name, kept in zip(NAMES, mask, strict=True) if kept] for mask in masks]
    restricted = jax.block_until_ready([modalities.restrict(x, names) for names in chosen])
    compiled, together = jax.jit(judge), jax.jit(functools.partial(modalities.all_subsets, judge))
    runs = {
        "one compiled call": lambda: together(x),
        "loop, one compiled function": lambda: jnp.stack([compiled(one) for one in restricted]),
        "loop, not compiled": lambda: jnp.stack([judge(one) for one in restricted]),
    }
    seconds, values = {name: [] for name in runs}, {}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            values[name] = np.asarray(run())
            if turn:  # the first one compiles
                seconds[name].append(time.perf_counter() - started)
    median = {name: float(np.median(taken)) for name, taken in seconds.items()}
    return [
        {
            "implementation": name,
            "examples": rows,
            "width": width,
            "seconds": median[name],
            "times_slower": median[name] / median["one compiled call"],
            "difference": float(np.abs(values[name] - values["loop, not compiled"]).max()),
            "shapley": dict(
                zip(NAMES, modalities.shapley(jnp.asarray(values[name])).tolist(), strict=True)
            ),
        }
        for name in runs
    ]


def main(options):
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    header = {
        "commit": commit,
        "jax": jax.__version__,
        "threads": os.cpu_count(),
        "rounds": options.rounds,
    }
    report = {**header, "rows": [row for size in SIZES for row in measure(*size, options.rounds)]}
    print(json.dumps(report, indent=1))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "subsets.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(parser.parse_args())
