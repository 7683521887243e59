"""The convolution of metajax against `vmap` of `lax.conv`, inside a second-order MAML step (workload W2).

Conv4-64 with max-pool and batch statistics on 28x28 images, 5-way 1-shot, 15 queries a class, 8 tasks, 5 SGD steps.
Both nets have the same weights and see the same tasks; gradients are compared before anything is timed, and the runs
are interleaved. Writes benchmarks/results/conv.json.

    python benchmarks/conv.py --repeats 20 --native-repeats 3
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import time

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax_maml import NativeConv

import metajax as mj

ROOT = pathlib.Path(__file__).parents[1]
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--tasks", type=int, default=8)
parser.add_argument("--width", type=int, default=64)
parser.add_argument("--repeats", type=int, default=20)
parser.add_argument("--native-repeats", type=int, default=3, help="fewer, for a step of lax.conv takes long")
parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benchmarks" / "results")
options = parser.parse_args()


def make_step(native, tasks_at_once):
    net = mj.nets.Conv4(5, width=options.width, pool=True, rngs=nnx.Rngs(0))
    if native:
        net.convolutions = nnx.List([NativeConv(layer.kernel[...]) for layer in net.convolutions])
    apply, params = mj.nets.functional(net)
    loss = mj.losses.cross_entropy(apply)
    task_loss = mj.episode(mj.inner_loop(loss, optax.sgd(0.4), steps=5), loss)
    outer = mj.outer_loop(task_loss, optax.sgd(1.0), tasks_at_once=tasks_at_once)
    return jax.jit(outer.step), outer.init(params)


def make_batch(rows, key):
    labels = jnp.tile(jnp.repeat(jnp.arange(5), rows), (options.tasks, 1))
    return mj.Batch(jax.random.uniform(key, (options.tasks, 5 * rows, 28, 28, 1)), labels)


key = jax.random.key(0)
tasks = mj.Task(make_batch(1, jax.random.key(1)), make_batch(15, jax.random.key(2)))
variants = {
    "`vmap` of `lax.conv`": (True, None, options.native_repeats),
    "metajax": (False, None, options.repeats),
    "metajax, `tasks_at_once=1`": (False, 1, options.repeats),
}
rows, runs, moved = [], {}, {}
for name, (native, tasks_at_once, repeats) in variants.items():
    step, state = make_step(native, tasks_at_once)
    start = time.perf_counter()
    lowered = step.lower(state, tasks, key)
    traced = time.perf_counter() - start
    compiled = lowered.compile()
    compile_seconds = time.perf_counter() - start - traced
    after, _ = jax.block_until_ready(compiled(state, tasks, key))
    # SGD with rate 1 outside: what the weights moved by is the meta-gradient.
    moved[name] = jax.tree.map(jnp.subtract, after.params, state.params)
    runs[name] = (compiled, state, repeats)
    rows.append(
        {
            "implementation": name,
            "trace_seconds": traced,
            "compile_seconds": compile_seconds,
            "temporary_megabytes": compiled.memory_analysis().temp_size_in_bytes / 1e6,
        }
    )
    print(rows[-1], flush=True)

reference = moved["`vmap` of `lax.conv`"]
times = {name: [] for name in runs}
for repeat in range(options.repeats):
    for name, (compiled, state, repeats) in runs.items():
        if repeat < repeats:
            start = time.perf_counter()
            jax.block_until_ready(compiled(state, tasks, key))
            times[name].append(time.perf_counter() - start)
for row in rows:
    name = row["implementation"]
    error = optax.tree.norm(jax.tree.map(jnp.subtract, moved[name], reference)) / optax.tree.norm(reference)
    row |= {"seconds": statistics.median(times[name]), "repeats": len(times[name]), "gradient_error": error.item()}
    row["speedup"] = rows[0]["seconds"] / row["seconds"]
    print(row)
commit = subprocess.run(
    ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
).stdout.strip()
header = {
    "workload": f"W2, {options.tasks} tasks, width {options.width}",
    "commit": commit,
    "jax": jax.__version__,
    "device": f"{jax.devices()[0].device_kind}, {platform.machine()}",
    "threads": os.cpu_count(),
}
options.out.mkdir(parents=True, exist_ok=True)
(options.out / "conv.json").write_text(json.dumps({**header, "rows": rows}, indent=1) + "\n")
